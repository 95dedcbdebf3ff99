"""The figures: counted as visits come, so that a report reads few rows.

`tally` has a row per day, message (an `origin`) and visitor, as a whole and by one thing more;
`first` says what a recipient did already, so that uniques are counted once.  Both are kept up
to an event, the watermark (`progress.judged`), in one transaction with the visits.

What the numbers mean:

    opens, clicks   how often
    openers         recipients with an open of the message, at the time of their first one;
                    a person's click counts as their having opened: their pixel did not load
    readers         recipients who opened, themselves or through an image proxy, or clicked
    clickers        recipients with a click of the message; by link, of that link

A unique stands where its first event does: by day it is the day of the first, by country the
country of the first.  So days add up to messages, and messages to the whole.  An open or click
of a copy made for nobody in particular is counted, but is nobody's first.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import TYPE_CHECKING

from sestrack.tracker.events import Kind
from sestrack.tracker.interning import intern
from sestrack.tracker.visitors import Visitor

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable

    from sestrack.tracker.judge import Visit

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
Key = tuple[int, int, int, int | str, int]
"""Dimension, day, origin, value and visitor."""

Counts = dict[Key, list[int]]
"""A number for each of `MEASURES`."""

MEASURES = ("opens", "openers", "readers", "clicks", "clickers")
_OPENS, _OPENERS, _READERS, _CLICKS, _CLICKERS = range(5)


class Dimension(IntEnum):
    """What a row of `tally` is about besides day and message."""

    ALL = 0
    HOUR = 1
    COUNTRY = 2
    DEVICE = 3
    CLIENT = 4
    LINK = 5


# members of an enum are slow to get at in Python 3.11, and these are asked for with every visit
_BY_ALL, _BY_HOUR, _BY_COUNTRY, _BY_DEVICE, _BY_CLIENT, _BY_LINK = map(int, Dimension)
_OPEN, _PERSON, _MACHINE = int(Kind.OPEN), int(Visitor.PERSON), int(Visitor.MACHINE)

# What may be a recipient's first: 0 to 2 an open by each visitor, 3 to 5 a click, 6 having
# read at all, from 16 on a click of a link (16 + 4 * link + visitor).
_CLICKED = 3
_READ = 6
_LINKS = 16


def who(key: bytes, recipient: str) -> int:
    """Return what stands for a recipient: a keyed hash, so that no figure holds a name."""
    digest = hashlib.blake2b(recipient.encode(), key=key, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class Figures:
    """Counts visits into the tables of a schema of a connection: `main`, or `temp` for a look."""

    def __init__(self, connection: sqlite3.Connection, schema: str = "main") -> None:
        """Take a connection; the caller begins and ends transactions."""
        self._connection = connection
        self._schema = schema
        ((self._key,),) = connection.execute("SELECT who FROM main.progress").fetchall()
        self._interned: dict[tuple[str, ...], int] = {}

    def absorb(self, visits: Iterable[Visit]) -> int:
        """Write visits and count them; return the last one's event, 0 for none."""
        rows, last = [], 0
        counts: Counts = {}
        for visit in visits:
            last = visit.event
            someone = who(self._key, visit.recipient) if visit.recipient else None
            count(counts, visit, someone, self._first)
            rows.append((
                visit.event, visit.visitor, self.place(visit), self.program(visit), visit.reasons,
                visit.rules,
            ))  # fmt: skip
        self._connection.executemany(
            f"INSERT INTO {self._schema}.visit (event, visitor, place, program, reasons, rules) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
        self.add(counts)
        return last

    def add(self, counts: Counts) -> None:
        """Add to the tallies."""
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in MEASURES)
        self._connection.executemany(
            f"INSERT INTO {self._schema}.tally (dimension, day, origin, value, visitor, "
            f"{', '.join(MEASURES)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            f"ON CONFLICT DO UPDATE SET {sums}",
            [(*key, *values) for key, values in counts.items()],
        )

    def drop_empty(self, keys: Iterable[Key]) -> None:
        """Drop those rows in which nothing is left."""
        nothing = " AND ".join(f"{name} = 0" for name in MEASURES)
        self._connection.executemany(
            f"DELETE FROM {self._schema}.tally WHERE dimension = ? AND day = ? AND origin = ? "
            f"AND value = ? AND visitor = ? AND {nothing}",
            keys,
        )

    def _first(self, origin: int, someone: int, what: int, day: int) -> int:
        """Note that somebody did something; return 1 if it is the first time, else 0."""
        if (
            self._schema != "main"
            and self._connection.execute(
                "SELECT 1 FROM main.first WHERE origin = ? AND who = ? AND what = ?",
                (origin, someone, what),
            ).fetchone()
        ):
            return 0
        return self._connection.execute(
            f"INSERT OR IGNORE INTO {self._schema}.first (origin, who, what, day) "
            "VALUES (?, ?, ?, ?)",
            (origin, someone, what, day),
        ).rowcount

    def place(self, visit: Visit) -> int:
        """Return the number of where a visit came from."""
        return self._intern("place", ("country", "region"), (visit.country, visit.region))

    def program(self, visit: Visit) -> int:
        """Return the number of what it was made with."""
        return self._intern(
            "program", ("device", "client", "system"), (visit.device, visit.client, visit.system)
        )

    def _intern(self, table: str, columns: tuple[str, ...], values: tuple[str, ...]) -> int:
        known = self._interned.get((table, *values))
        if known is not None:
            return known
        # for a look: a number below zero is in no other table
        number = None if self._schema == "main" else -1 - len(self._interned)
        known = intern(self._connection, table, columns, values, schema=self._schema, number=number)
        self._interned[table, *values] = known
        return known


def count(
    counts: Counts, visit: Visit, someone: int | None, first: Callable[[int, int, int, int], int]
) -> None:
    """Count a visit.

    `someone` stands for the recipient; `first` is asked with origin, someone, what and day,
    and answers 1 if that is the first time, else 0.
    """
    day, visitor, origin = visit.at // DAY_MS, visit.visitor, visit.origin
    added = [0, 0, 0, 0, 0]
    if visit.kind == _OPEN:
        added[_OPENS] = 1
        if someone is not None:
            added[_OPENERS] = first(origin, someone, visitor, day)
            if visitor != _MACHINE:
                added[_READERS] = first(origin, someone, _READ, day)
    else:
        added[_CLICKS] = 1
        of_link = [0, 0, 0, 1, 0]
        if someone is not None:
            added[_CLICKERS] = first(origin, someone, _CLICKED + visitor, day)
            of_link[_CLICKERS] = first(origin, someone, _LINKS + 4 * visit.link + visitor, day)
            if visitor == _PERSON:
                added[_OPENERS] = first(origin, someone, visitor, day)
                added[_READERS] = first(origin, someone, _READ, day)
        _add(counts, (_BY_LINK, day, origin, visit.link, visitor), of_link)
    _add(counts, (_BY_ALL, day, origin, 0, visitor), added)
    _add(counts, (_BY_HOUR, day, origin, visit.at // HOUR_MS, visitor), added)
    _add(counts, (_BY_COUNTRY, day, origin, visit.country, visitor), added)
    _add(counts, (_BY_DEVICE, day, origin, visit.device, visitor), added)
    _add(counts, (_BY_CLIENT, day, origin, visit.client, visitor), added)


def _add(counts: Counts, key: Key, added: list[int]) -> None:
    known = counts.get(key)
    if known is None:
        counts[key] = added.copy()
        return
    for index, number in enumerate(added):
        if number:
            known[index] += number
