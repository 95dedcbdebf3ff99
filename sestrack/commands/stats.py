"""`sestrack stats`: the figures."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sestrack import output, store
from sestrack.errors import NotFound, UsageError
from sestrack.rules import sender_domain_of
from sestrack.terminal import mistyped, offers
from sestrack.times import seconds_of, utc

if TYPE_CHECKING:
    from collections.abc import Callable

    from sestrack.tracker.reports import Line

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_DAY = 86_400


class By(StrEnum):
    """What the lines of a report are."""

    MESSAGE = "message"
    SENDER = "sender"
    DOMAIN = "domain"
    LINK = "link"
    DAY = "day"
    HOUR = "hour"
    RECIPIENT = "recipient"
    COUNTRY = "country"
    DEVICE = "device"
    CLIENT = "client"


@app.command()
def stats(  # noqa: PLR0913 - one for each choice
    ctx: typer.Context,
    by: Annotated[
        By, typer.Option(metavar="WHAT", help=f"What each line is about: {', '.join(By)}.")
    ] = By.MESSAGE,
    since: Annotated[str, typer.Option(metavar="TIME", help="A day, or 7d: so long ago.")] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="The last day.")] = "",
    message: Annotated[
        str,
        typer.Option(metavar="LABEL", help="Of this message only.", autocompletion=offers.messages),
    ] = "",
    sender: Annotated[
        str,
        typer.Option(
            metavar="DOMAIN", help="Of this sender only.", autocompletion=offers.sender_domains
        ),
    ] = "",
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="At most so many lines; 0 for all.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    mmdb: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="The MMDB that `serve` was given.", click_type=offers.FileName()
        ),
    ] = "",
) -> None:
    """Show opens and clicks: by people, through image proxies, and by machines.

    Readers are recipients who opened, themselves or through an image proxy, or clicked: a
    click counts as having opened.  Uniques stand at the time of their first event.  Days are
    whole ones, UTC.

    Example: sestrack stats --by day --message june --since 7d
    """
    if json and csv:
        msg = "--json and --csv are two different things"
        raise UsageError(msg, "sestrack stats --json")
    output.report()
    from sestrack.tokens import check_text
    from sestrack.tracker.places import Places
    from sestrack.tracker.reports import Look, Question, report

    for name, value in (("message", message), ("sender domain", sender)):
        check_text(name, value)
    sender = sender_domain_of(sender) if sender else ""
    now = store.now()
    question = Question(
        by=str(by), message=message, sender=sender, limit=limit,
        since_day=seconds_of(since, "--since", now) // _DAY if since else 0,
        until_day=seconds_of(until, "--until", now) // _DAY + 1 if until else 2**31,
    )  # fmt: skip
    if question.since_day >= question.until_day:
        msg = f"--since {since} is after --until {until}"
        raise UsageError(msg, "sestrack stats --since 7d")
    path = ctx.obj
    with store.Store(path) as opened, store.errors_of(path):
        lines = report(Look(opened.connection, Places(mmdb)), question)
        if not lines and (message or sender):
            _known(opened, message, sender)
    _print(lines, str(by), json=json, csv=csv)
    if (since or until) and not json and not csv:
        last = f" to {utc(question.until_day * _DAY - 1)[:10]}" if until else ""
        output.note(f"from {utc(question.since_day * _DAY or 1)[:10]}{last}, whole days, UTC")


def _known(opened: store.Store, message: str, sender: str) -> None:
    """Raise `NotFound` for a message or sender domain that we never heard of."""
    for column, value in (("message", message), ("sender", sender)):
        if not value:
            continue
        sql = f"SELECT {column} FROM origin UNION SELECT {column} FROM copies"
        names = [name for (name,) in opened.connection.execute(sql).fetchall()]
        if column == "sender":
            names += [each.domain for each in opened.senders()]
        if value not in names:
            msg = f"there are no opens or clicks of the {column} {value!r}"
            failure = NotFound(msg, f"sestrack stats --by {column}")
            raise mistyped.guess(value, names, failure)


def _print(lines: list[Line], by: str, *, json: bool, csv: bool) -> None:
    if json:
        output.json_array([_as_json(line, by) for line in lines])
        return
    if csv or not sys.stdout.isatty():
        headings = [by, *_flat(lines[0] if lines else None)]
        rows = [[line.name, *map(_text, _flat(line).values())] for line in lines]
        if csv:
            output.product(output.csv_lines([headings, *rows]))
        else:
            output.table(headings, rows)
        return
    headings, cells = _columns(by, counted=any(line.copies for line in lines))
    most = max((line.readers or line.clickers.people for line in lines), default=0)
    rows = [cells(line, most) for line in lines]
    spare = () if by == By.LINK else (7, 6, 9, 2, 10, 8, 5)
    output.table(headings, rows, range(1, len(headings)), [n for n in spare if n < len(headings)])
    if not lines:
        output.note("no opens or clicks")
    elif by != By.LINK:
        output.note("readers opened, themselves or through an image proxy, or clicked")


def _columns(by: str, *, counted: bool) -> tuple[list[str], Callable[[Line, int], list[str]]]:
    """Return the headings for a terminal, and what makes the cells of a line."""
    if by == By.LINK:
        return [by, "clickers", "", "clicks by people", "clicks by machines"], lambda line, most: [
            line.name, f"{line.clickers.people:,}", output.bar(line.clickers.people, most),
            f"{line.clicks.people:,}", f"{line.clicks.machines:,}",
        ]  # fmt: skip
    headings = [
        by, "readers", "", "clickers", "click-to-open", "opens by people", "opens by proxies",
        "opens by machines", "clicks by people", "clicks by machines",
    ]  # fmt: skip
    if counted:
        headings += ["copies", "read", "clicked"]

    def cells(line: Line, most: int) -> list[str]:
        made = [
            line.name or "unknown", f"{line.readers:,}", output.bar(line.readers, most),
            f"{line.clickers.people:,}", _percent(line.click_to_open),
            *(f"{number:,}" for number in line.opens), f"{line.clicks.people:,}",
            f"{line.clicks.machines:,}",
        ]  # fmt: skip
        if counted:
            made += [
                f"{line.copies:,}" if line.copies else "", _percent(line.open_rate),
                _percent(line.click_rate),
            ]  # fmt: skip
        return made

    return headings, cells


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.1%}"


def _text(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)


_FLAT = (
    "readers", "openers_people", "openers_proxies", "openers_machines", "opens_people",
    "opens_proxies", "opens_machines", "clickers_people", "clickers_machines", "clicks_people",
    "clicks_machines", "click_to_open", "copies", "open_rate", "click_rate",
)  # fmt: skip


def _flat(line: Line | None) -> dict[str, Any]:
    if line is None:
        return dict.fromkeys(_FLAT)
    values = (
        line.readers, *line.openers, *line.opens, line.clickers.people, line.clickers.machines,
        line.clicks.people, line.clicks.machines, line.click_to_open, line.copies, line.open_rate,
        line.click_rate,
    )  # fmt: skip
    return dict(zip(_FLAT, values, strict=True))


def _as_json(line: Line, by: str) -> dict[str, Any]:
    two = ("people", "machines")
    return {
        by: line.name, "readers": line.readers, "openers": line.openers._asdict(),
        "opens": line.opens._asdict(),
        "clickers": {name: getattr(line.clickers, name) for name in two},
        "clicks": {name: getattr(line.clicks, name) for name in two},
        "click_to_open": line.click_to_open, "copies": line.copies, "open_rate": line.open_rate,
        "click_rate": line.click_rate,
    }  # fmt: skip
