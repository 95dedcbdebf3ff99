"""The events of all writers as one stream, in the order of time.

Each writer numbers its events in the order it stores them (`tracker.events`), so a mark per
writer says exactly how far one has read: nothing can come in before it.  That is what a
mark on the time, or on one number for all, could not promise where several write at once.
Here the writers' events are merged by time, as far as all of them were read; within a
writer ids rule, and the odd event that is older than one before it comes where it stands.

So does one of a time to come, from a clock that is wrong: it must not hold up those behind it,
and has the time of the next one, or of now while there is none.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from heapq import merge
from itertools import chain
from typing import TYPE_CHECKING, Any

from sestrack.tracker.events import first_id, writer_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sestrack.engines.interface import Connection

    Marks = Mapping[int, int]
    """Writers, and an event of each."""
    _Timed = tuple[int, int, tuple[Any, ...]]


class Streams:
    """Reads the events behind the marks."""

    def __init__(self, connection: Connection, select: str, marks: Marks, at_once: int) -> None:
        """Take a SELECT whose first columns are `event.id` and `at`, without its WHERE.

        Writers without a mark are read from their first event; `at_once` rows of each at a time.
        """
        self._connection = connection
        within = f"{select} WHERE event.id > ? AND event.id <= ?"
        self._select = f"{within} ORDER BY event.id LIMIT {at_once}"
        self._select_past = f"{within} AND event.at <= ? ORDER BY event.id LIMIT 1"
        self._read_to = dict(marks)
        self._buffers: dict[int, deque[_Timed]] = {}
        self._latest: dict[int, int] = {}
        self._following: dict[int, tuple[int, int | None]] = {}
        """Of each writer, an event that is not to come, and its time: the first behind those read.
        Or the last one looked at, and None."""

    def read(self) -> list[tuple[Any, ...]]:
        """Return the rows that come next, none when there are no more now."""
        return [row for _, row in self.read_timed()]

    def read_timed(self) -> list[tuple[int, tuple[Any, ...]]]:
        """Return them with the time (ms) that each has its place by, which is never to come."""
        horizon = None
        for writer, _, stored in self._connection.writers():
            buffer = self._buffers.setdefault(writer, deque())
            read_to = self._read_to.get(writer, first_id(writer))
            if not buffer and read_to < stored:
                read_to = self._fill(writer, buffer, read_to, stored)
            if buffer and read_to < stored:
                # what this writer has behind its buffer may be older than others' rows
                horizon = buffer[-1][0] if horizon is None else min(horizon, buffer[-1][0])
        full = [buffer for buffer in self._buffers.values() if buffer]
        if horizon is not None:
            due = [_until(buffer, horizon) for buffer in full]
        else:
            due = [list(buffer) for buffer in full]
            for buffer in full:
                buffer.clear()
        in_turn = merge(*due) if len(due) > 1 else chain(*due)
        return [(moment, row) for moment, _, row in in_turn]

    def _fill(self, writer: int, buffer: deque[_Timed], read_to: int, stored: int) -> int:
        rows = self._connection.execute(self._select, (read_to, stored)).fetchall()
        now = int(time.time() * 1000)
        behind = now
        if rows and rows[-1][1] > now:
            behind = self._time_behind(writer, rows[-1][0], stored, now)
        latest = self._latest.get(writer, 0)
        for moment, row in zip(_moments(rows, now, behind), rows, strict=True):
            latest = max(latest, moment)
            buffer.append((latest, row[0], row))
        self._latest[writer] = latest
        # where nothing is left before `stored`, it was purged
        self._read_to[writer] = read_to = rows[-1][0] if rows else stored
        return int(read_to)

    def _time_behind(self, writer: int, read_to: int, stored: int, now: int) -> int:
        """Return the time of a writer's next event that is not to come, or now.

        It may be far behind: each event is looked at once, however many reads lead there.
        """
        number, moment = self._following.get(writer, (read_to, None))
        if number <= read_to or moment is None:
            ahead = (max(number, read_to), stored, now)
            past = self._connection.execute(self._select_past, ahead).fetchall()
            number, moment = past[0][:2] if past else (stored, None)
            self._following[writer] = number, moment
        return now if moment is None else min(moment, now)


def in_order(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Put rows that come by id, each of one or the other writer, in the order of a stream."""
    now = int(time.time() * 1000)
    of_writer: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        of_writer[writer_of(row[0])].append(row)
    timed = []
    for own in of_writer.values():
        latest = 0
        for moment, row in zip(_moments(own, now, now), own, strict=True):
            latest = max(latest, moment)
            timed.append((latest, row[0], row))
    return [row for _, _, row in sorted(timed)]


def _moments(rows: list[tuple[Any, ...]], now: int, behind: int) -> list[int]:
    """Return the times that a writer's events have their places by: none is to come.

    `behind` is the time of what follows the last of them.
    """
    moments = []
    moment = behind
    for row in reversed(rows):
        if row[1] <= now:
            moment = row[1]
        moments.append(moment)
    return moments[::-1]


def _until(buffer: deque[_Timed], horizon: int) -> list[_Timed]:
    taken = []
    while buffer and buffer[0][0] <= horizon:
        taken.append(buffer.popleft())
    return taken
