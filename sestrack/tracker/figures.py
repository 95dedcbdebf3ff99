"""The figures: counted as visits come, so that a report reads few rows.

`tally` has a row per day, message (an `origin`) and visitor, as a whole and by one thing more;
`first` says what a recipient did already, so that uniques are counted once.  Both are kept up
to an event of each writer (`writer.judged`), in one transaction with the visits.

What the numbers mean:

    opens, clicks   how often
    openers         recipients with an open of the message, at the time of their first one;
                    a person's click counts as their having opened: their pixel did not load
    readers         recipients who opened, themselves or through an image proxy, or clicked
    clickers        recipients with a click of the message; by link, of that URL: where it stands
                    twice in a mail, whoever clicked both is one

A unique stands where its first event does: by day it is the day of the first, by country the
country of the first.  So days add up to messages, and messages to the whole.  An open or click
of a copy made for nobody in particular is counted, but is nobody's first.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import TYPE_CHECKING

from sestrack.engines.url_numbers import FIRST_URL, url_number
from sestrack.tracker.events import Kind
from sestrack.tracker.interning import intern
from sestrack.tracker.names import key_of
from sestrack.tracker.visitors import Visitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sestrack.engines.interface import Connection
    from sestrack.tracker.judge import Visit

_CACHED = 65_536
_LOOK_UP = 500
"""Links asked for at once."""
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
Key = tuple[int, int, int, str, int]
"""Dimension, day, origin, value and visitor."""
_TALLY = ("dimension", "day", "origin", "value", "visitor")

Counts = dict[Key, list[int]]
"""A number for each of `MEASURES`."""

MEASURES = ("opens", "openers", "readers", "clicks", "clickers")
_OPENS, _OPENERS, _READERS, _CLICKS, _CLICKERS = range(5)

FirstKey = tuple[int, int, int]
"""Origin, who, and what they did."""
_KEY = ("origin", "who", "act")
FIRST = (*_KEY, "day")
"""The columns of `first`."""

Cells = tuple[list[list[int]], int]
"""Counts, and the index of the measure that one is added to in each."""


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
# read at all, from `FIRST_URL` on a click of a URL.
_CLICKED = 3
_READ = 6


def who(key: bytes, recipient: str) -> int:
    """Return what stands for a recipient: a keyed hash, so that no figure holds a name."""
    digest = hashlib.blake2b(recipient.encode(), key=key, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class Urls(dict[int, int]):
    """The number of the URL that a link leads to, for those links that were looked up."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection of a store."""
        super().__init__({0: 0})  # an open has none
        self._connection = connection

    def look_up(self, visits: Sequence[Visit]) -> None:
        """Have the numbers for all of these."""
        if len(self) > _CACHED:
            self.clear()
            self[0] = 0
        new = list({visit.link for visit in visits} - self.keys())
        for start in range(0, len(new), _LOOK_UP):
            some = new[start : start + _LOOK_UP]
            rows = self._connection.execute(
                f"SELECT id, url FROM link WHERE id IN ({', '.join('?' * len(some))})", some
            )
            self.update((link, url_number(url)) for link, url in rows)


class Figures:
    """Counts visits into the tables."""

    def __init__(self, connection: Connection) -> None:
        """Take a connection; the caller begins and ends transactions."""
        self._connection = connection
        self._key = key_of(connection)
        self._interned: dict[tuple[str, ...], int] = {}
        self.urls = Urls(connection)

    def absorb(self, visits: Sequence[Visit]) -> None:
        """Write visits and count them."""
        rows = [
            (
                visit.event, visit.at, visit.visitor, self.place(visit), self.program(visit),
                visit.reasons, visit.rules,
            )
            for visit in visits
        ]  # fmt: skip
        tallying = Tallying(self._key, self.urls)
        tallying.count(visits)
        self._connection.insert(
            "visit", ("event", "at", "visitor", "place", "program", "reasons", "rules"), rows
        )
        tallying.settle(self._connection.insert_new("first", FIRST, tallying.wanted(), len(_KEY)))
        self.add(tallying.counts)

    def add(self, counts: Counts) -> None:
        """Add to the tallies."""
        sums = ", ".join(f"{name} = tally.{name} + excluded.{name}" for name in MEASURES)
        self._connection.insert(
            "tally", (*_TALLY, *MEASURES), [(*key, *values) for key, values in counts.items()],
            f"ON CONFLICT ({', '.join(_TALLY)}) DO UPDATE SET {sums}",
        )  # fmt: skip

    def drop_empty(self, keys: Iterable[Key]) -> None:
        """Drop those rows in which nothing is left."""
        nothing = " AND ".join(f"{name} = 0" for name in MEASURES)
        self._connection.executemany(
            f"DELETE FROM tally WHERE {' AND '.join(f'{name} = ?' for name in _TALLY)} "
            f"AND {nothing}",
            keys,
        )

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
        if known is None:
            if len(self._interned) >= _CACHED:
                self._interned.clear()
            known = intern(self._connection, table, columns, values)
            self._interned[table, *values] = known
        return known


class Tallying:
    """Counts visits; who was first is asked for all of them at once.

    First all visits are counted (`count`).  Of what recipients did in them, `wanted` are the
    firsts as far as these visits tell; those that no earlier visit had are then counted too
    (`settle`).
    """

    def __init__(self, key: bytes, urls: Urls) -> None:
        """Take the key of recipients' hashes."""
        self._key = key
        self._urls = urls
        self._wanted: dict[FirstKey, tuple[int, Cells]] = {}
        self.counts: Counts = {}

    def count(self, visits: Sequence[Visit]) -> None:
        """Count visits."""
        self._urls.look_up(visits)
        for visit in visits:
            someone = who(self._key, visit.recipient) if visit.recipient else None
            count(self.counts, visit, self._urls[visit.link], someone, self._note)

    def _note(self, first: FirstKey, day: int, cells: Cells) -> None:
        if first not in self._wanted:
            self._wanted[first] = day, cells

    def wanted(self) -> list[tuple[int, int, int, int]]:
        """Return rows of `FIRST`."""
        return [(*first, day) for first, (day, _) in self._wanted.items()]

    def settle(self, new: Iterable[FirstKey]) -> None:
        """Count those that are firsts indeed."""
        for first in new:
            _, (values, index) = self._wanted[first]
            for value in values:
                value[index] += 1


def count(
    counts: Counts,
    visit: Visit,
    url: int,
    someone: int | None,
    note: Callable[[FirstKey, int, Cells], None],
) -> None:
    """Count a visit.

    `url` is the number of the URL that was clicked, `someone` stands for the recipient.  What
    may be a first is noted: its key, its day, and where one is to be added if it is.
    """
    day, visitor, origin = visit.at // DAY_MS, visit.visitor, visit.origin
    values = [
        _values(counts, (_BY_ALL, day, origin, "", visitor)),
        _values(counts, (_BY_HOUR, day, origin, str(visit.at // HOUR_MS), visitor)),
        _values(counts, (_BY_COUNTRY, day, origin, visit.country, visitor)),
        _values(counts, (_BY_DEVICE, day, origin, visit.device, visitor)),
        _values(counts, (_BY_CLIENT, day, origin, visit.client, visitor)),
    ]
    is_open = visit.kind == _OPEN
    how_often = _OPENS if is_open else _CLICKS
    for value in values:
        value[how_often] += 1
    if not is_open:
        of_link = _values(counts, (_BY_LINK, day, origin, str(visit.link), visitor))
        of_link[_CLICKS] += 1
    if someone is None:
        return
    if not is_open:
        note((origin, someone, _CLICKED + visitor), day, (values, _CLICKERS))
        note((origin, someone, FIRST_URL + 4 * url + visitor), day, ([of_link], _CLICKERS))
    if is_open or visitor == _PERSON:
        note((origin, someone, visitor), day, (values, _OPENERS))
    if visitor == _PERSON or (is_open and visitor != _MACHINE):
        note((origin, someone, _READ), day, (values, _READERS))


def _values(counts: Counts, key: Key) -> list[int]:
    known = counts.get(key)
    if known is None:
        known = counts[key] = [0, 0, 0, 0, 0]
    return known
