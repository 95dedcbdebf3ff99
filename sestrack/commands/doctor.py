"""`sestrack doctor`: is everything well?  One line a check, for cron and monitoring."""

from __future__ import annotations

import os
from typing import Annotated, NamedTuple

import typer

from sestrack import output, store
from sestrack.errors import EXIT_NO, SestrackError
from sestrack.model import DomainStatus
from sestrack.times import utc

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


@app.command()
def doctor(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Check the store, its keys and domains, and what was lost.  Exits with 1 for a problem.

    Example: sestrack doctor
    """
    checks = _checks(ctx.obj or store.default_path())
    if json:
        output.json_array([check._asdict() for check in checks])
    else:
        output.table(
            ("check", "", "found"),
            [(check.name, "ok" if check.well else "PROBLEM", check.found) for check in checks],
        )
    for check in checks:
        if not check.well:
            output.error(f"{check.name}: {check.found}", check.hint)
    return 0 if all(check.well for check in checks) else EXIT_NO


def _checks(path: str) -> list[Check]:
    try:
        with store.Store(path) as opened, store.sqlite_errors(path):
            return [
                Check("store", True, path),  # noqa: FBT003
                _space(path),
                _keys(opened),
                *_domains(opened),
                _serving(path),
                *_recording(opened),
            ]
    except SestrackError as error:
        return [Check("store", False, error.message, error.hint)]  # noqa: FBT003


def _space(path: str) -> Check:
    status = os.statvfs(os.path.dirname(os.path.abspath(path)))
    free = status.f_bavail * status.f_frsize
    return Check(
        "disk", free > LOW_SPACE, f"{free >> 20:,} MiB free", "sestrack events purge --before 400d"
    )


def _keys(opened: store.Store) -> Check:
    keys = opened.keys()
    return Check("keys", bool(keys), f"{len(keys)}", "sestrack init")


def _domains(opened: store.Store) -> list[Check]:
    return [
        Check(
            f"trace domain {domain.name}", domain.status is not DomainStatus.FAILING,
            f"{domain.status}, {domain.last_state or 'never checked'}",
            f"sestrack domain verify {domain.name}",
        )
        for domain in opened.trace_domains()
        if domain.status is not DomainStatus.RETIRED
    ]  # fmt: skip


def _serving(path: str) -> Check:
    """A store that nobody serves may be one that is served elsewhere: no problem by itself."""
    running = "running" if store.is_served(path) else "no server records into this store now"
    return Check("server", True, running)  # noqa: FBT003


def _recording(opened: store.Store) -> list[Check]:
    ((lost, lost_at, behind, oldest),) = opened.connection.execute(
        "SELECT lost, lost_at, ifnull((SELECT max(id) FROM event), judged) - judged, "
        "(SELECT at FROM event WHERE id > judged ORDER BY id LIMIT 1) FROM progress"
    ).fetchall()
    late = oldest is not None and store.now() - oldest // 1000 > LATE_SECONDS
    return [
        Check(
            "events lost", store.now() - lost_at > RECENT,
            f"{lost:,}, the last at {utc(lost_at)}" if lost else "none",
            "the disk was full or stood still; df -h, and the log of sestrack serve",
        ),
        Check(
            "figures", not late, f"{behind} events not counted yet",
            "reports count them for themselves; sestrack serve counts them for good",
        ),
    ]  # fmt: skip
