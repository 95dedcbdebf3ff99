"""`sestrack events`: the single opens and clicks."""

from __future__ import annotations

import os
import re
import time
from contextlib import closing, contextmanager
from enum import StrEnum
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sestrack import output, store
from sestrack.errors import InputOutputError, TryAgain, UsageError
from sestrack.terminal import mistyped, offers
from sestrack.times import milliseconds_of, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sestrack.engines.interface import Connection
    from sestrack.tracker.streams import Marks

_MOST = 2**62
"""What a number in SQL can be, within."""
_PATIENCE = 150
"""Looks, 0.2 seconds apart, that a server may get no further."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Mmdb = Annotated[
    str,
    typer.Option(
        metavar="FILE", help="The MMDB that `serve` was given.", click_type=offers.FileName()
    ),
]
_SHOWN = (
    "time", "kind", "visitor", "recipient", "message", "url", "country", "device", "client",
    "reasons",
)  # fmt: skip
_CUT = (3, 4, 5, 8, 9)
"""Columns that a terminal may cut, and below those that it may do without."""
_SPARE = (9, 8, 7, 6, 2, 5, 4)
_SAMPLE = ("2026-06-01T08:00:00Z", "click", "machine", "", "", "", "", "desktop", "", "")


class Format(StrEnum):
    """What an export is written as."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@app.command()
def tail(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on, until Ctrl-C.")] = False,
    number: Annotated[int, typer.Option("-n", metavar="N", min=0, help="Begin so many back.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON Lines.")] = False,
    mmdb: Mmdb = "",
) -> None:
    """Show the latest opens and clicks.

    A terminal shows what fits of each; a pipe, and --json, all of it.

    Example: sestrack events tail -f
    """
    from sestrack.tracker.events import writer_of
    from sestrack.tracker.ledger import events, marks_back
    from sestrack.tracker.places import Places

    output.report()
    places = Places(mmdb)
    number = min(number, _MOST)
    path = ctx.obj
    with store.Store(path) as opened, store.errors_of(path):
        after = marks_back(opened.connection, number)
        rows = list(events(opened.connection, places, after))
        line = None if json else output.listing(_SHOWN, map(_shown, rows), _CUT, _SPARE, _SAMPLE)
        if number and not (rows or json or follow):
            output.note("no opens or clicks")
        fresh = rows if json else []
        while True:
            for row in fresh:
                if line is None:
                    output.json_line(row)
                else:
                    line(_shown(row))
            for row in rows:
                after[writer_of(row["id"])] = row["id"]
            if not follow:
                return
            time.sleep(0.3)
            fresh = rows = list(events(opened.connection, places, after))


_NOT_OURS = {"xlsx", "xls", "ods", "db", "gz", "zip"}
"""Ends of names that somebody might wait for, and that are none of ours."""


@app.command()
def export(  # noqa: PLR0913 - one for each choice
    ctx: typer.Context,
    to: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Else stdout.", click_type=offers.FileName()
        ),
    ] = "",
    format_: Annotated[
        Format | None, typer.Option("--format", help="Else what FILE ends in, or jsonl.")
    ] = None,
    since: Annotated[str, typer.Option(metavar="TIME", help="A time, or 7d: so long ago.")] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Before this time.")] = "",
    mmdb: Mmdb = "",
) -> None:
    """Write all opens and clicks as JSON Lines, CSV or Parquet.

    Example: sestrack events export --since 2026-06-01 -o june.csv
    """
    from sestrack.tracker.exports import WRITERS
    from sestrack.tracker.ledger import events
    from sestrack.tracker.places import Places

    now = store.now()
    since_ms = milliseconds_of(since, "--since", now) if since else 0
    until_ms = milliseconds_of(until, "--until", now) if until else 2**62
    if until_ms <= since_ms:
        msg = f"--since {since} is not before --until {until}"
        raise UsageError(msg, "sestrack events export --since 7d")
    if os.path.isdir(to):
        msg = f"{to} is a folder, and a file is wanted"
        raise UsageError(msg, f"--output {quote(os.path.join(to, 'events.csv'))}")
    ends = to.rpartition(".")[2].lower()
    if format_ is None:
        format_ = Format(ends) if ends in set(Format) else Format.JSONL
        if ends in _NOT_OURS:
            msg = f"{to} would not be what its name says: {', '.join(Format)} can be written"
            raise UsageError(msg, f"--output {quote(to.rpartition('.')[0])}.csv")
    if format_ is Format.PARQUET and to in {"", "-"}:
        msg = "Parquet is written to a file"
        raise UsageError(msg, "sestrack events export --format parquet -o events.parquet")
    if to in {"", "-"}:
        output.report()
    path = ctx.obj
    with store.Store(path) as opened, store.errors_of(path):
        rows = events(opened.connection, Places(mmdb), {}, since_ms, until_ms)
        count = WRITERS[format_](rows, to)
    output.note(_events(count))


@app.command()
def purge(
    ctx: typer.Context,
    before: Annotated[str, typer.Option(metavar="TIME", help="A day, or 400d: so long ago.")],
) -> None:
    """Delete the events of the days before one.  The figures of those days stay.

    Example: sestrack events purge --before 400d
    """
    from sestrack.tracker.upkeep import purge_piece

    now = store.now()
    day = seconds_of(before, "--before", now) // 86_400
    if day > now // 86_400:
        msg = f"--before {before} is in the future: all events would go"
        raise UsageError(msg, "--before 400d")
    path = ctx.obj
    with _changing(path) as connection:
        _settle(path, connection)
        count = 0
        while piece := purge_piece(connection, day):
            count += piece
            time.sleep(0.005)  # the server's turn
        wiped = connection.wipe()
    output.note(f"{_events(count)} purged; the figures of their days stay")
    if not wiped:
        _warn_of_log(f"purge --before {quote(before)}")


@app.command()
def forget(
    ctx: typer.Context,
    recipient: Annotated[str, typer.Option(metavar="ID", help="As `rewrite` was told it.")],
) -> None:
    """Take a recipient's name, addresses and user agents out of all events.

    The figures stay, without the person.  Links in mail sent to them so far go on working, and
    are recorded without a name and an address from now on.

    Example: sestrack events forget --recipient ada@example.org
    """
    if not recipient.strip():  # as in all events of copies made for nobody
        msg = "--recipient is empty, and names nobody"
        raise UsageError(msg, "sestrack stats --by recipient  # shows who there is")
    from unicodedata import normalize

    from sestrack.tokens import check_text
    from sestrack.tracker.names import pseudonym
    from sestrack.tracker.upkeep import forget as forget_recipient
    from sestrack.tracker.worker import LOOK_SECONDS

    check_text("recipient", recipient)
    # two ways to write one letter are two recipients to a token, and one person
    names = sorted({recipient, *(normalize(form, recipient) for form in ("NFC", "NFD"))})
    path = ctx.obj
    with store.Store(path) as opened:
        hashed = [pseudonym(opened.who(), name) for name in names]
        again = not opened.forgotten().keys().isdisjoint(hashed)
        for name in hashed:
            opened.note_forgotten(name, store.now())
        kept = opened.set_aside_with([*names, *hashed])
    command = f"sestrack events forget --recipient {quote(recipient)}"
    try:
        if store.served_at(path):
            output.note("a server runs: its last event of them must be stored first, in 2 to 12 s")
            time.sleep(3 * LOOK_SECONDS)
        with _changing(path) as connection:
            # judged first: without its user agent and address a machine would pass for a person
            if not _settle(path, connection):
                _wait(path, connection, {writer: last for writer, _, last in connection.writers()})
            count = forget_recipient(
                connection, [*names, *hashed], lambda last: _wait(path, connection, last)
            )
            wiped = connection.wipe()
            alike = _others_like(connection, recipient, every=not (count or again))
    except KeyboardInterrupt:
        output.warn(f"interrupted: the events so far may still name {recipient}: {command}")
        raise
    if count:
        output.note(f"{_events(count)} of {recipient} {'is' if count == 1 else 'are'} nobody's now")
    else:
        output.note(f"there were no events of {recipient!r}; sestrack stats --by recipient")
    output.note("from now on links in mail sent to them so far name nobody")
    for other in alike:
        words = f"there are events of {other}"
        if other.lower() == recipient.lower():
            output.warn(f"{words}, too: sestrack events forget --recipient {quote(other)}")
        else:  # who is somebody else, perhaps, and cannot be had back
            output.warn(f"{words}, if that was meant: sestrack stats --by recipient")
    if kept:
        output.warn(f"what restore kept has their name yet: {' '.join(map(quote, kept))}")
    if not wiped:
        _warn_of_log(f"forget --recipient {quote(recipient)}")


@app.command()
def reclassify(ctx: typer.Context, mmdb: Mmdb = "") -> None:
    """Judge all events again, by the rules of this version; the figures follow.

    Example: sestrack events reclassify
    """
    from sestrack.tracker.places import Places
    from sestrack.tracker.reclassify import reclassify as judge_again

    path = ctx.obj
    with _changing(path) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM visit").fetchall()
        with output.progress("judging", count) as step:
            seen, changed = judge_again(connection, Places(mmdb), step)
    output.note(f"{_events(seen)} judged again, {changed} differently")


def _others_like(connection: Connection, recipient: str, *, every: bool) -> list[str]:
    """Return recipients that differ in capitals alone; if none does and `every`, one near to it.

    One that is near has the same local part, or the same domain.
    """
    sql = "SELECT DISTINCT recipient FROM event WHERE recipient <> ? AND lower(recipient)"
    low = recipient.lower()
    same = connection.execute(f"{sql} = ? ORDER BY 1 LIMIT 20", (recipient, low)).fetchall()
    if same or not every:
        return [str(name) for (name,) in same]
    local, at, domain = (re.sub(r"[%_\\]", r"\\\g<0>", part) for part in low.rpartition("@"))
    if not at:
        return []
    near: set[str] = set()
    for like in (f"{local}@%", f"%@{domain}"):
        found = connection.execute(f"{sql} LIKE ? ESCAPE '\\' LIMIT 10000", (recipient, like))
        near.update(str(name) for (name,) in found.fetchall())
    meant = mistyped.nearest(recipient, near, mistyped.NEAR_NAME)
    return [meant] if meant else []


def _warn_of_log(command: str) -> None:
    output.warn(
        "somebody reads the store, so what was overwritten is in its log yet; when they have "
        f"ended: sestrack events {command}"
    )


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"


@contextmanager
def _changing(path: str) -> Iterator[Connection]:
    try:
        with store.errors_of(path), closing(store.open_for_recording(path)) as connection:
            yield connection
    except InputOutputError as error:
        error.message += "; what is done is done, and the same command goes on"
        raise


def _settle(path: str, connection: Connection) -> bool:
    """Judge and count all that is not yet; False if a running server does it."""
    from sestrack.tracker.places import Places
    from sestrack.tracker.upkeep import Upkeep

    try:
        with store.keeping(path):
            Upkeep(connection, Places()).settle_all()  # no server runs
    except TryAgain:
        return False
    return True


def _wait(path: str, connection: Connection, events: Marks) -> None:
    """Wait until a running server has judged these, or has got no further for a while."""
    before: Marks = {}
    patience = _PATIENCE
    while patience and store.served_at(path):
        judged = {writer: mark for writer, mark, _ in connection.writers()}
        if all(judged.get(writer, 0) >= event for writer, event in events.items()):
            return
        patience = patience - 1 if judged == before else _PATIENCE
        before = judged
        time.sleep(0.2)
    if not patience:
        output.warn("the server gets no further with the figures: sestrack doctor")


def _shown(row: dict[str, Any]) -> list[str]:
    cells = [",".join(row[name]) if name == "reasons" else str(row[name] or "") for name in _SHOWN]
    if output.is_terminal():
        cells[0] = f"{cells[0][:19]}Z"  # a thousandth of a second is for programs
    return cells
