"""`sestrack domain verify`: is a trace domain usable, and if not, what is to be done?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sestrack import output, store
from sestrack.errors import EXIT_NO, NotFound, Refused, TryAgain, UsageError
from sestrack.model import Conclusion, DomainStatus, TraceDomain
from sestrack.rules import named_domain
from sestrack.terminal import mistyped, offers
from sestrack.terminal.next_step import of_trace_domain
from sestrack.times import duration, utc

if TYPE_CHECKING:
    from sestrack.domains.findings import Finding
    from sestrack.domains.judgement import Report
    from sestrack.domains.survey import SurveyOptions

Checked = tuple[TraceDomain, "Report"]

MAX_COMPLAINTS = 20
"""Trace domains of which it is said on stderr what is wrong; stdout has all."""
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds between the looks of `--wait`, which double: resolvers remember what is not there."""


def verify(  # noqa: PLR0913 - one for each choice
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            help="By name, or prefix alone.",
            autocompletion=offers.trace_domains,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every one that is not retired.")] = False,
    wait: Annotated[
        str, typer.Option(metavar="TIME", help="Look again until all are usable, like 10m.")
    ] = "",
    resolver: Annotated[
        str | None, typer.Option(metavar="IP[:PORT]", help="Ask this name server.")
    ] = None,
    authoritative: Annotated[
        bool, typer.Option("--authoritative", help="Ask each name server of the zone, too.")
    ] = False,
    no_http: Annotated[
        bool, typer.Option("--no-http", help="Look at DNS alone; shown as such.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Check trace domains: their records, certificates, and whether we answer there.

    Exit status: 0 usable, 1 a definite no, 75 could not tell or not there yet.

    Example: sestrack domain verify trace.example.com --wait 10m
    """
    from sestrack.domains.survey import SurveyOptions, note

    how = SurveyOptions(resolver, authoritative=authoritative, http=not no_http)
    deadline = time.monotonic() + duration(wait, "--wait") if wait else 0.0
    with store.Store(ctx.obj) as opened:
        checked = _look(opened, _wanted(opened, names or [], every=every), how, deadline)
        note(opened, checked)
        settings, senders = opened.settings(), opened.senders()
    if json:
        rows = [as_json(domain, report) for domain, report in checked]
        if every or len(rows) > 1:
            output.json_array(rows)
        else:
            output.json_object(rows[0])
    else:
        _tell(checked)
    _complain([one for one in checked if not _usable(*one)])
    worst = _worst(checked)
    if checked and not worst:
        steps = [of_trace_domain(domain, settings, senders) for domain, _ in checked]
        if all(steps):
            output.note(f"next: {steps[0]}")
    return worst


def _usable(domain: TraceDomain, report: Report) -> bool:
    """Is it usable?  One that fails over HTTPS is not by a yes of DNS alone."""
    return report.conclusion is Conclusion.YES and domain.status is not DomainStatus.FAILING


def _complain(wanting: list[Checked]) -> None:
    """Say what is wrong, and what to do; of very many domains that of the first."""
    for domain, report in wanting[:MAX_COMPLAINTS]:
        finding = report.decisive
        if report.conclusion is Conclusion.YES:
            output.error(
                f"{domain.name} was verified over HTTPS and fails since: DNS alone cannot tell "
                "whether it is well again", f"sestrack domain verify {domain.name}",
            )  # fmt: skip
        else:
            output.error(f"{domain.name}: {finding.check}: {finding.found}", finding.advice)
    if len(wanting) > MAX_COMPLAINTS:
        output.error(
            f"{len(wanting) - MAX_COMPLAINTS} more trace domains are not usable",
            f"sestrack domain verify {wanting[MAX_COMPLAINTS][0].name}",
        )


def _look(
    opened: store.Store, domains: list[TraceDomain], how: SurveyOptions, deadline: float
) -> list[Checked]:
    """Look at the domains, with a deadline again and again at those that are not usable.

    Only the last look counts for the state of a domain.
    """
    from sestrack.domains.survey import check

    pause = FIRST_PAUSE
    found: dict[str, Checked] = {}
    wanting = domains
    while True:
        with output.progress("checking", len(wanting)) as step:
            for domain, report in check(opened, wanting, how, store.now(), step):
                found[domain.name] = domain, report
        wanting = [d for d in domains if found[d.name][1].conclusion is not Conclusion.YES]
        left = deadline - time.monotonic()
        if not wanting or left <= 0:
            return [found[domain.name] for domain in domains]
        pause = min(pause, left)
        finding = found[wanting[0].name][1].decisive
        output.note(
            f"{wanting[0].name}: {finding.check}: {finding.found}; "
            f"{len(wanting)} not usable yet, again in {pause:.0f} s"
        )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _wanted(opened: store.Store, names: list[str], *, every: bool) -> list[TraceDomain]:
    domains = opened.trace_domains()
    alive = [d for d in domains if d.status is not DomainStatus.RETIRED]
    if names and every:
        msg = f"--all and {names[0]} contradict each other"
        raise UsageError(msg, "sestrack domain verify --all")
    if names:
        wanted = []
        for name in dict.fromkeys(names):
            with mistyped.trace_domain(name, alive):
                wanted.append(opened.trace_domain(named_domain(name, alive)))
        for domain in wanted:
            if domain.status is DomainStatus.RETIRED:
                msg = f"the trace domain {domain.name} is retired"
                raise Refused(
                    msg, f"sestrack domain create {domain.prefix} --primary {domain.primary}"
                )
        return wanted
    if every or len(alive) == 1:
        return alive
    if alive:
        msg = "which trace domain? there are several"
        raise UsageError(msg, "sestrack domain verify --all")
    msg = "there is no trace domain"
    raise NotFound(msg, "sestrack domain create trace")


def _worst(checked: list[Checked]) -> int:
    """Return the exit code of the worst of them: a definite no, then what may come yet."""
    worst = 0
    for domain, report in checked:
        if _usable(domain, report):
            continue
        pending = domain.status is DomainStatus.PENDING
        coming = all(f.absent for f in report.findings if f.level == "no") and pending
        if report.conclusion is Conclusion.NO and not coming:
            return EXIT_NO
        worst = TryAgain.code
    return worst


# -- telling -----------------------------------------------------------------------------


def _tell(checked: list[Checked]) -> None:
    """Print a line for each check; on a terminal and for many domains, a line for each of them."""
    if output.is_terminal() and len(checked) > 1:
        output.table(
            ("trace domain", "status", "check", "found"),
            [
                (domain.name, domain.standing, report.state, report.decisive.found)
                for domain, report in checked
            ],
            marks=[1],
        )
    elif output.is_terminal():
        for domain, report in checked:
            output.product(f"{domain.name} is {domain.standing}\n")
            output.checks([_as_line(finding) for finding in report.findings])
    else:
        output.table(
            ("trace domain", "status", "check", "state", "found", "expected", "fix"),
            [
                (domain.name, domain.standing, f.check, f.state, f.found, f.expected, f.advice)
                for domain, report in checked
                for f in report.findings
            ],
        )


def _as_line(finding: Finding) -> tuple[str, str, list[str]]:
    words = [finding.found]
    if finding.level != "ok":
        words.append(f"expected: {finding.expected}")
    if finding.advice:
        words.append(f"fix: {finding.advice}")
    return finding.level, finding.check, words


def as_json(domain: TraceDomain, report: Report) -> dict[str, Any]:
    """Return a checked domain and its findings."""
    return {
        "name": domain.name,
        "status": domain.status,
        "dns_only": domain.dns_only,
        "usable": _usable(domain, report),
        "conclusion": report.conclusion,
        "state": report.state,
        "found": report.decisive.found,
        "advice": report.decisive.advice,
        "checks": [
            {
                "check": finding.check,
                "level": finding.level,
                "state": finding.state,
                "found": finding.found,
                "expected": finding.expected,
                "fix": finding.advice,
                "certificate_ends": utc(finding.certificate_ends) or None,
            }
            for finding in report.findings
        ],
    }
