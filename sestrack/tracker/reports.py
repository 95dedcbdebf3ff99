"""Reports: what `sestrack stats` shows.

A report reads the tallies up to the watermark, and counts the events behind it for itself,
in memory (`Look`), so that it is always what a full recount would say.  It writes nothing
to the store.
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from sestrack.tracker.events import Kind
from sestrack.tracker.figures import DAY_MS, FIRST, HOUR_MS, MEASURES, Dimension, Tallying, Urls
from sestrack.tracker.judge import Judge, Visit
from sestrack.tracker.names import key_of
from sestrack.tracker.visitors import Visitor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sestrack.engines.interface import Connection
    from sestrack.tracker.places import Places

BY = {
    "message": ("origin.message", Dimension.ALL),
    "sender": ("origin.sender", Dimension.ALL),
    "domain": ("origin.trace_domain", Dimension.ALL),
    "day": ("tally.day", Dimension.ALL),
    "hour": ("tally.value", Dimension.HOUR),
    "link": ("tally.value", Dimension.LINK),
    "country": ("tally.value", Dimension.COUNTRY),
    "device": ("tally.value", Dimension.DEVICE),
    "client": ("tally.value", Dimension.CLIENT),
    "recipient": ("event.recipient", None),
}
"""What a report may be by: the column, and the dimension of `tally` it stands in."""

_PIECE = 2_000
"""Visits counted at once."""
_IN_TIME = {"day", "hour"}
_WHOLE = {"message", "sender", "domain", "recipient"}
"""A first open and a first click may come on two days, from two devices or countries."""


class Count(NamedTuple):
    """A number, by people, image proxies and machines apart."""

    people: int = 0
    proxies: int = 0
    machines: int = 0


class Line(NamedTuple):
    """One line of a report."""

    name: str
    opens: Count
    openers: Count
    readers: int
    clicks: Count
    clickers: Count
    copies: int | None
    """How many were made, if that was counted."""
    whole: bool = True
    """Whether whoever clicked here is also counted as a reader here, and not elsewhere."""

    @property
    def click_to_open(self) -> float | None:
        """Of those who read, the part that clicked; None where the two may stand apart."""
        return self.clickers.people / self.readers if self.readers and self.whole else None

    @property
    def open_rate(self) -> float | None:
        """Of the copies made, the part that was read."""
        return self.readers / self.copies if self.copies else None

    @property
    def click_rate(self) -> float | None:
        """Of the copies made, the part whose reader clicked."""
        return self.clickers.people / self.copies if self.copies else None


class Question(NamedTuple):
    """What a report is asked."""

    by: str = "message"
    since_day: int = 0
    until_day: int = 2**31
    """The first day after, since 1970, UTC."""
    message: str = ""
    sender: str = ""
    limit: int = 0
    """0 for all."""


class Look:
    """One state of the store, with what is behind the watermark counted in memory."""

    def __init__(self, connection: Connection, places: Places) -> None:
        """Look at the store as it is now, from now on."""
        self.connection = connection
        connection.snapshot()
        tallying = Tallying(key_of(connection), Urls(connection))
        marks = {writer: judged for writer, judged, _ in connection.writers()}
        self.young: list[Visit] = []
        judged = Judge(connection, places, marks).judge(None)
        while visits := list(islice(judged, _PIECE)):
            tallying.count(visits)
            self.young += [visit for visit in visits if visit.recipient]
        wanted = {row[:3] for row in tallying.wanted()}
        tallying.settle(wanted - connection.those_there("first", FIRST[:3], sorted(wanted)))
        self.counts = tallying.counts


def report(look: Look, question: Question) -> list[Line]:
    """Answer a question.  By time it is in order, else the most read comes first."""
    connection = look.connection
    origins = _origins(connection, question)
    rows: Iterable[tuple[str | int, int, Iterable[int]]]
    if question.by == "recipient":
        rows = _by_recipient(look, question, origins)
    else:
        rows = _by_tally(look, question, origins)
    sums: dict[str | int, list[int]] = {}
    for name, visitor, numbers in rows:
        known = sums.get(name)
        if known is None:
            known = sums[name] = [0] * (3 * len(MEASURES))
        for index, number in enumerate(numbers):
            known[3 * index + visitor] += number
    in_time = question.since_day > 0 or question.until_day < 2**31
    whole = question.by in _WHOLE and not in_time
    copies = _copies(connection, question)
    if whole:
        for message in copies:  # nobody has read it yet: that is a figure too
            sums.setdefault(message, [0] * (3 * len(MEASURES)))
    chosen: list[tuple[str | int, list[int]]]
    if question.by in _IN_TIME:
        chosen = sorted(sums.items())[-question.limit :]
    elif question.limit:
        chosen = heapq.nsmallest(question.limit, sums.items(), _most_read_first)
    else:
        chosen = sorted(sums.items(), key=_most_read_first)
    return [
        Line(
            _name(question.by, name), Count(*n[0:3]), Count(*n[3:6]), sum(n[6:9]), Count(*n[9:12]),
            Count(*n[12:15]), copies.get(str(name)), whole,
        )
        for name, n in chosen
    ]  # fmt: skip


def _most_read_first(item: tuple[str | int, list[int]]) -> tuple[int, int, int, str]:
    """Order lines by their readers, then by people who clicked, then by opens, then by name."""
    name, numbers = item
    return -sum(numbers[6:9]), -numbers[12], -sum(numbers[0:3]), str(name)


def _where(question: Question, values: list[str | int], table: str = "origin") -> str:
    where = ""
    for column in ("message", "sender"):
        if wanted := getattr(question, column):
            where += f" AND {table}.{column} = ?"
            values.append(wanted)
    return where


def _origins(connection: Connection, question: Question) -> dict[int, dict[str, str]]:
    """Return the origins that the question is about."""
    values: list[str | int] = []
    where = _where(question, values)
    sql = f"SELECT id, message, sender, trace_domain FROM origin WHERE id > 0{where}"
    return {
        number: {"message": message, "sender": sender, "domain": domain}
        for number, message, sender, domain in connection.execute(sql, values)
    }


def _by_tally(
    look: Look, question: Question, origins: dict[int, dict[str, str]]
) -> Iterator[tuple[str | int, int, Iterable[int]]]:
    """Take the tallies, and those of the look, each under the name it has in the report."""
    column, dimension = BY[question.by]
    assert dimension is not None
    by_origin = column.startswith("origin.")
    urls = _urls(look.connection, question) if dimension is Dimension.LINK else {}

    def name(origin: int, key: str | int) -> str | int:
        if by_origin:
            return origins[origin][question.by]
        return urls[int(key)] if dimension is Dimension.LINK else key

    values: list[str | int] = [int(dimension), question.since_day, question.until_day]
    sums = ", ".join(f"sum(tally.{measure})" for measure in MEASURES)
    group, chosen = ("origin.id", "origin.id, 0") if by_origin else (column, f"0, {column}")
    rows = look.connection.execute(
        f"SELECT {chosen}, visitor, {sums} "
        "FROM tally JOIN origin ON origin.id = tally.origin "
        f"WHERE dimension = ? AND day >= ? AND day < ?{_where(question, values)} "
        f"GROUP BY {group}, visitor",
        values,
    )
    for origin, key, visitor, *numbers in rows:
        yield name(origin, key), visitor, numbers
    in_day = column == "tally.day"
    for (of, day, origin, value, visitor), numbers in look.counts.items():
        if of == dimension and question.since_day <= day < question.until_day and origin in origins:
            yield name(origin, day if in_day else value), visitor, numbers


def _urls(connection: Connection, question: Question) -> dict[int, str]:
    """Return what the links of the messages in question lead to."""
    values: list[str | int] = []
    sql = (
        "SELECT link.id, url FROM link JOIN origin ON origin.id = link.origin "
        f"WHERE link.id > 0{_where(question, values)}"
    )
    return dict(connection.execute(sql, values).fetchall())


_BY_RECIPIENT = """
SELECT recipient, event.origin, visitor, sum(CASE WHEN kind = 1 THEN 1 ELSE 0 END),
    sum(CASE WHEN kind = 2 THEN 1 ELSE 0 END)
FROM event JOIN visit ON visit.event = event.id AND visit.at = event.at
JOIN origin ON origin.id = event.origin
WHERE event.at >= ? AND event.at < ? AND recipient <> ''
"""


def _by_recipient(
    look: Look, question: Question, origins: dict[int, dict[str, str]]
) -> Iterator[tuple[str | int, int, Iterable[int]]]:
    """Count by recipient, from the events themselves: no figure holds a name."""
    values: list[str | int] = [question.since_day * DAY_MS, question.until_day * DAY_MS]
    sql = f"{_BY_RECIPIENT}{_where(question, values)} GROUP BY recipient, event.origin, visitor"
    often: dict[tuple[str, int, int], list[int]] = {
        (recipient, origin, visitor): [opens, clicks]
        for recipient, origin, visitor, opens, clicks in look.connection.execute(sql, values)
    }
    for visit in look.young:
        if values[0] <= visit.at < values[1] and visit.origin in origins:  # type: ignore[operator]
            key = visit.recipient, visit.origin, visit.visitor
            often.setdefault(key, [0, 0])[0 if visit.kind == Kind.OPEN else 1] += 1
    # a person's and a proxy's reading of one message by one recipient is one reading
    read: set[tuple[str, int]] = set()
    for (recipient, origin, visitor), (opens, clicks) in often.items():
        is_person, is_machine = visitor == Visitor.PERSON, visitor == Visitor.MACHINE
        opened = opens > 0 or is_person
        reads = opened and not is_machine and (recipient, origin) not in read
        if reads:
            read.add((recipient, origin))
        yield recipient, visitor, (opens, opened, reads, clicks, clicks > 0)


def _copies(connection: Connection, question: Question) -> dict[str, int]:
    """Return how many copies of each message were made, where that was counted."""
    if question.by != "message":
        return {}
    values: list[str | int] = []
    where = _where(question, values, "copies")
    return dict(
        connection.execute(
            f"SELECT message, sum(number) FROM copies WHERE number >= 0{where} GROUP BY message",
            values,
        ).fetchall()
    )


def _name(by: str, name: str | int) -> str:
    from sestrack.times import utc

    if by == "day":
        return utc(int(name) * DAY_MS // 1000 or 1)[:10]
    if by == "hour":
        return utc(int(name) * HOUR_MS // 1000 or 1)[:13] + ":00Z"
    return str(name)
