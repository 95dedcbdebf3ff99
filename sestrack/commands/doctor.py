"""`sestrack doctor`: is everything well?  One line a check, for cron and monitoring."""

from __future__ import annotations

import os
from contextlib import closing
from shlex import quote
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from sestrack import output, store
from sestrack.domains.https_judgement import EXPIRING_DAYS
from sestrack.errors import EXIT_NO, BadInput, NoPermission, SestrackError, TryAgain, UsageError
from sestrack.model import Conclusion, DomainStatus, TraceDomain
from sestrack.rules import REFUSALS_SECONDS
from sestrack.times import utc

if TYPE_CHECKING:
    from sestrack.domains.judgement import Report
    from sestrack.engines.interface import Left

app = typer.Typer(add_completion=False, rich_markup_mode=None)

RECENT = 7 * 86_400
"""Seconds for which a loss is called a problem."""
LOW_SPACE = 200 << 20
LATE_SECONDS = 600


class Check(NamedTuple):
    """What was looked at, and what was found."""

    name: str
    well: bool
    found: str
    hint: str = ""
    """What to do; "" where nothing is to be done."""


@app.command()
def doctor(
    ctx: typer.Context,
    resolver: Annotated[
        str | None, typer.Option(metavar="IP[:PORT]", help="Ask this name server.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask nobody: trace domains as they were found last.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Check the store, its keys, server and domains, and what was lost; 1 for a problem.

    Trace domains are verified anew, and what is found counts: run it from cron every 15 minutes.
    One that was verified on DNS alone is asked of DNS alone.

    Example: sestrack doctor
    """
    output.report()
    checks = _checks(ctx.obj, resolver, offline=offline)
    if json:
        output.json_array([check._asdict() for check in checks])
    elif output.is_terminal():
        output.checks(("ok" if check.well else "no", check.name, [check.found]) for check in checks)
    else:
        output.table(
            ("check", "state", "found"),
            [(check.name, "ok" if check.well else "PROBLEM", check.found) for check in checks],
        )
    for check in checks:
        if not check.well:
            output.error(f"{check.name}: {check.found}", check.hint)
    return 0 if all(check.well for check in checks) else EXIT_NO


def _checks(path: str, resolver: str | None, *, offline: bool) -> list[Check]:
    try:
        with store.Store(path) as opened, store.errors_of(path):
            serving, left = _serving(path, offline=offline)
            return [
                _readiness(opened, store.shown(path)),
                *_space(opened),
                _keys(opened),
                *serving,
                *(_domains_as_known(opened) if offline else _domains(opened, resolver)),
                *_recording(opened, left),
                *_spools(),
            ]
    except UsageError:
        raise
    except SestrackError as error:
        return [Check("store", False, error.message, error.hint), *_spools()]  # noqa: FBT003


def _readiness(opened: store.Store, name: str) -> Check:
    """Say whether events can be stored, and read again."""
    trouble, hint = opened.trouble()
    return Check("store", not trouble, f"{name}: {trouble}" if trouble else name, hint)


def _space(opened: store.Store) -> list[Check]:
    free = opened.free_space()
    if free is None:
        return []
    well = free > LOW_SPACE
    folder = quote(os.path.dirname(os.path.abspath(opened.address)))
    hint = "" if well else f"du -ah {folder} | sort -h | tail"
    return [Check("disk", well, f"{free >> 20:,} MiB free", hint)]


def _keys(opened: store.Store) -> Check:
    keys = opened.keys()
    return Check("keys", bool(keys), f"{len(keys)}", "" if keys else "sestrack init")


def _domains_as_known(opened: store.Store) -> list[Check]:
    checks = []
    for domain in opened.trace_domains():
        if domain.status is DomainStatus.RETIRED:
            continue  # what is found of it is told, but not kept
        words = [domain.standing, domain.last_state or "never checked"]
        ends = domain.certificate_ends
        expiring = domain.status is DomainStatus.VERIFIED and 0 < ends < _soon()
        words += [_days_left(ends)] * bool(ends)
        in_trouble = domain.status is not DomainStatus.PENDING and domain.failures > 0
        well = domain.status is not DomainStatus.FAILING and not in_trouble and not expiring
        done = well and domain.status is not DomainStatus.PENDING
        hint = "" if done else f"sestrack domain verify {domain.name}"
        checks.append(Check(f"trace domain {domain.name}", well, ", ".join(words), hint))
    return checks


def _soon() -> int:
    return store.now() + EXPIRING_DAYS * 86_400


def _days_left(ends: int) -> str:
    return f"certificate {(ends - store.now()) // 86_400} days"


def _domains(opened: store.Store, resolver: str | None) -> list[Check]:
    from sestrack.domains.survey import SurveyOptions, check, note

    # links in sent mail lead to those that are retired, too
    domains = [
        domain
        for domain in opened.trace_domains()
        if domain.status is not DomainStatus.RETIRED or domain.verified_at
    ]
    try:
        checked = [
            one
            for dns_only in (False, True)
            for one in check(
                opened,
                [d for d in domains if d.dns_only is dns_only],
                SurveyOptions(resolver, http=not dns_only),
                store.now(),
            )
        ]
    except BadInput as error:  # there are no root certificates
        return [Check("trace domains", False, error.message, error.hint)]  # noqa: FBT003
    try:
        note(opened, checked)
    except SestrackError as error:
        # a full disk, or a user who may only read, must not hide what was found
        output.warn(f"what was found is not kept: {error.message}")
    before = {domain.name: domain.status for domain in domains}
    return [
        _judged(domain, report, before[domain.name])
        for domain, report in sorted(checked, key=lambda one: one[0])
    ]


def _judged(domain: TraceDomain, report: Report, before: DomainStatus) -> Check:
    """Say in a line how a domain is; one that is pending is nobody's problem yet.

    One that is retired may be taken out of DNS.  But while its name leads somewhere, so do the
    links in sent mail, and whoever has that place shows their readers what he likes.
    """
    finding = next((f for f in report.findings if f.state == "cert-expiring"), report.decisive)
    usable = report.conclusion is Conclusion.YES
    changed = "" if domain.status is before else f", {before} until now"
    words = [f"{domain.standing}{changed}", str(finding.state)]
    if report.certificate_ends:
        words.append(_days_left(report.certificate_ends))
    if not usable or finding.state == "cert-expiring":
        words.append(finding.found)
    if domain.status is DomainStatus.VERIFIED and domain.refusals:
        minutes = REFUSALS_SECONDS // 60
        words.append(f"once more when this has lasted {minutes} minutes, and it is failing")
    well = usable and finding.state != "cert-expiring"
    advice = finding.advice or ("" if usable else f"sestrack domain verify {domain.name}")
    if domain.status is DomainStatus.RETIRED:
        well = well or finding.absent
        keep = (
            f"take {domain.name} out of DNS; or, for the links in sent mail, keep it well: "
            f"{domain.name}. 3600 IN CNAME {domain.target}."
        )
        passes = report.conclusion is Conclusion.LATER and finding.advice
        advice = "" if well else passes or keep
    return Check(
        f"trace domain {domain.name}", well or domain.status is DomainStatus.PENDING,
        ", ".join(words), advice,
    )  # fmt: skip


def _serving(path: str, *, offline: bool) -> tuple[list[Check], Left | None]:
    """Ask the servers that record here for an answer; return what others left, if it can be told.

    A store that nobody serves may be one that is served elsewhere: no problem by itself, for
    the trace domains show whether anyone answers.
    """
    try:
        store.check_name(path)
        urls = store.served_at(path)
    except (NoPermission, TryAgain) as error:
        return [Check("server", False, error.message, error.hint)], None  # noqa: FBT003
    left = store.left(path)
    hint = "systemctl start sestrack"
    checks = [
        Check("server", False, f"the server at {url} ended without saying so", hint)  # noqa: FBT003
        for url in left.killed
    ]
    if left.trouble:
        checks.append(Check("server", False, left.trouble, "df -h; journalctl -u sestrack -n 50"))  # noqa: FBT003
    if not urls:
        none = Check("server", True, "no server records into this store now")  # noqa: FBT003
        return checks or [none], left
    hint = "journalctl -u sestrack -n 50"
    for url in urls:
        if offline or not url:
            checks.append(Check("server", True, f"running {url}".strip()))  # noqa: FBT003
        else:
            trouble = _trouble_at(url)
            words = trouble or f"answers on {url}"
            checks.append(Check("server", not trouble, words, hint if trouble else ""))
    return checks, left


def _trouble_at(url: str) -> str:
    """Return what is wrong with the server at a URL of this machine, "" for nothing."""
    import http.client
    import ssl
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    # what listens on every address has none of its own
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname or "", parts.hostname or "")  # noqa: S104
    if parts.scheme == "https":
        # whether its certificate holds is seen at the trace domains: here it has no name
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host,
            parts.port,
            timeout=5,
            context=ssl._create_unverified_context(),  # noqa: S323, SLF001
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=5)
    try:
        with closing(connection):
            connection.request("GET", "/healthz")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer on {url}: {error}"
    return "" if status == http.client.OK else f"answers {status} on {url}healthz"


def _spools() -> list[Check]:
    """Look for events on this machine's disk that a server left there, or cannot store."""
    from sestrack.tracker.spool import waiting_in

    checks = []
    for wait in waiting_in(store.spool_files()):
        words, hint = "no server sends them", f"sestrack serve --spool {os.path.dirname(wait.path)}"
        if wait.is_had:
            if store.now() - wait.since // 1000 < LATE_SECONDS:
                continue
            words, hint = "PostgreSQL does not take them", "journalctl -u sestrack -n 50"
        found = f"{wait.events:,} events wait in {wait.path}, and {words}"
        checks.append(Check("spool", False, found, hint))  # noqa: FBT003
    return checks


def _recording(opened: store.Store, left: Left | None) -> list[Check]:
    from sestrack.tracker.upkeep import behind

    ((lost, lost_at),) = opened.connection.execute("SELECT lost, lost_at FROM progress").fetchall()
    if left is not None:
        lost, lost_at = lost + left.lost, max(lost_at, left.lost_at if left.lost else 0)
    count, oldest = behind(opened.connection)
    late = oldest is not None and store.now() - oldest // 1000 > LATE_SECONDS
    recent = store.now() - lost_at <= RECENT
    return [
        Check(
            "events lost", not recent,
            f"{lost:,}, the last at {utc(lost_at)}" if lost else "none",
            "df -h; journalctl -u sestrack -n 50" if recent else "",
        ),
        Check(
            "figures", not late, f"{count} event{'s' * (count != 1)} not counted yet",
            "sestrack serve" if late else "",
        ),
    ]  # fmt: skip
