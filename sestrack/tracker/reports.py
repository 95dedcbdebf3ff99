"""Reports: what `sestrack stats` shows.

A report reads the tallies up to the watermark, and counts the events behind it for itself
into temporary tables (`look`), so that it is always what a full recount would say.  It
writes nothing to the store.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from sestrack.tracker.figures import DAY_MS, HOUR_MS, MEASURES, Dimension, Figures
from sestrack.tracker.judge import Judge

if TYPE_CHECKING:
    import sqlite3

    from sestrack.tracker.places import Places

_TEMPORARY = (
    "CREATE TEMP TABLE visit AS SELECT * FROM main.visit WHERE 0",
    "CREATE UNIQUE INDEX temp.visit_event ON visit (event)",
    """
    CREATE TEMP TABLE tally (
        origin, dimension, day, value, visitor, opens, openers, readers, clicks, clickers,
        PRIMARY KEY (dimension, day, origin, value, visitor)
    ) WITHOUT ROWID
    """,
    """
    CREATE TEMP TABLE first (origin, who, what, day, PRIMARY KEY (origin, who, what)) WITHOUT ROWID
    """,
    "CREATE TEMP TABLE place (id INTEGER PRIMARY KEY, country, region)",
    "CREATE TEMP TABLE program (id INTEGER PRIMARY KEY, device, client, system)",
)

BY = {
    "message": ("origin.message", Dimension.ALL),
    "sender": ("origin.sender", Dimension.ALL),
    "domain": ("origin.trace_domain", Dimension.ALL),
    "day": ("tally.day", Dimension.ALL),
    "hour": ("tally.value", Dimension.HOUR),
    "link": ("link.url", Dimension.LINK),
    "country": ("tally.value", Dimension.COUNTRY),
    "device": ("tally.value", Dimension.DEVICE),
    "client": ("tally.value", Dimension.CLIENT),
    "recipient": ("event.recipient", None),
}
"""What a report may be by: the column, and the dimension of `tally` it stands in."""

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


def look(connection: sqlite3.Connection, places: Places) -> None:
    """Count what is behind the watermark into temporary tables.  Begins a read transaction."""
    connection.execute("PRAGMA temp_store = MEMORY")
    for statement in _TEMPORARY:
        connection.execute(statement)
    connection.execute("BEGIN")
    ((judged,),) = connection.execute("SELECT judged FROM progress").fetchall()
    Figures(connection, "temp").absorb(Judge(connection, places, judged).judge(None))


def report(connection: sqlite3.Connection, question: Question) -> list[Line]:
    """Answer a question, after `look`.  By time it is in order, else the most read comes first."""
    if question.by == "recipient":
        rows = _by_recipient(connection, question)
    else:
        rows = _by_tally(connection, question)
    sums: dict[str | int, list[int]] = {}
    for name, visitor, *numbers in rows:
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


def _where(question: Question, values: list[str | int]) -> str:
    where = ""
    for column in ("message", "sender"):
        if wanted := getattr(question, column):
            where += f" AND origin.{column} = ?"
            values.append(wanted)
    return where


def _by_tally(connection: sqlite3.Connection, question: Question) -> list[tuple[int, ...]]:
    column, dimension = BY[question.by]
    assert dimension is not None
    values: list[str | int] = []
    sums = ", ".join(f"sum(tally.{name})" for name in MEASURES)
    parts = []
    for schema in ("main", "temp"):
        values += [int(dimension), question.since_day, question.until_day]
        joins = f"FROM {schema}.tally AS tally JOIN main.origin ON origin.id = tally.origin"
        if question.by == "link":
            joins += " JOIN main.link ON link.id = tally.value"
        parts.append(
            f"SELECT {column} AS name, visitor, {sums} {joins} "
            f"WHERE dimension = ? AND day >= ? AND day < ?{_where(question, values)} "
            "GROUP BY name, visitor"
        )
    return connection.execute(" UNION ALL ".join(parts), values).fetchall()


def _by_recipient(connection: sqlite3.Connection, question: Question) -> list[tuple[int, ...]]:
    """Count by recipient, from the events themselves: no figure holds a name."""
    values: list[str | int] = [question.since_day * DAY_MS, question.until_day * DAY_MS]
    sql = (
        "SELECT recipient, event.origin, visitor, sum(kind = 1), max(kind = 1 OR visitor = 0), "
        "max(visitor < 2 AND (kind = 1 OR visitor = 0)), sum(kind = 2), max(kind = 2) "
        "FROM event JOIN (SELECT event, visitor FROM main.visit UNION ALL "
        "SELECT event, visitor FROM temp.visit) AS visit ON visit.event = event.id "
        "JOIN origin ON origin.id = event.origin "
        f"WHERE at >= ? AND at < ? AND recipient <> ''{_where(question, values)} "
        "GROUP BY recipient, event.origin, visitor"
    )
    # a person's and a proxy's reading of one message by one recipient is one reading
    read: set[tuple[str, int]] = set()
    rows = []
    for recipient, origin, *row in connection.execute(sql, values):
        if row[3] and (recipient, origin) in read:
            row[3] = 0
        if row[3]:
            read.add((recipient, origin))
        rows.append((recipient, *row))
    return rows


def _copies(connection: sqlite3.Connection, question: Question) -> dict[str, int]:
    """Return how many copies of each message were made, where that was counted."""
    if question.by != "message":
        return {}
    values: list[str | int] = []
    where = _where(question, values).replace("origin.", "copies.")
    return dict(
        connection.execute(
            f"SELECT message, sum(number) FROM copies WHERE 1{where} GROUP BY message", values
        ).fetchall()
    )


def _name(by: str, name: str | int) -> str:
    from sestrack.times import utc

    if by == "day":
        return utc(int(name) * DAY_MS // 1000 or 1)[:10]
    if by == "hour":
        return utc(int(name) * HOUR_MS // 1000 or 1)[:13] + ":00Z"
    return str(name)
