"""The events of all writers as one stream, in the order of time.

Each writer numbers its events in the order it stores them (`tracker.events`), so a mark per
writer says exactly how far one has read: nothing can come in before it.  That is what a
mark on the time, or on one number for all, could not promise where several write at once.
Here the writers' events are merged by time, as far as all of them were read; within a
writer ids rule, and the odd event that is older than one before it comes where it stands.
"""

from __future__ import annotations

from collections import deque
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
        self._select = (
            f"{select} WHERE event.id > ? AND event.id <= ? ORDER BY event.id LIMIT {at_once}"
        )
        self._read_to = dict(marks)
        self._buffers: dict[int, deque[_Timed]] = {}
        self._latest: dict[int, int] = {}

    def read(self) -> list[tuple[Any, ...]]:
        """Return the rows that come next, none when there are no more now."""
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
        return [row for _, _, row in (merge(*due) if len(due) > 1 else chain(*due))]

    def _fill(self, writer: int, buffer: deque[_Timed], read_to: int, stored: int) -> int:
        rows = self._connection.execute(self._select, (read_to, stored)).fetchall()
        latest = self._latest.get(writer, 0)
        for row in rows:
            latest = max(latest, row[1])
            buffer.append((latest, row[0], row))
        self._latest[writer] = latest
        # where nothing is left before `stored`, it was purged
        self._read_to[writer] = read_to = rows[-1][0] if rows else stored
        return int(read_to)


def in_order(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Put rows that come by id, each of one or the other writer, in the order of a stream."""
    latest: dict[int, int] = {}
    timed = []
    for row in rows:
        writer = writer_of(row[0])
        latest[writer] = max(latest.get(writer, 0), row[1])
        timed.append((latest[writer], row[0], row))
    return [row for _, _, row in sorted(timed)]


def _until(buffer: deque[_Timed], horizon: int) -> list[_Timed]:
    taken = []
    while buffer and buffer[0][0] <= horizon:
        taken.append(buffer.popleft())
    return taken
