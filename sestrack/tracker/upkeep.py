"""What is done to events after they are on disk: judged, counted, purged, forgotten.

The writer calls `Upkeep.work` while no batch waits, or the keeper where there are several
servers; commands call the functions here from their own process.  All of it goes in pieces:
each a short transaction, so that neither keeps the other waiting.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from sestrack import output
from sestrack.errors import TryAgain
from sestrack.tracker.events import Trait, first_id, writer_of
from sestrack.tracker.figures import DAY_MS, Figures, who
from sestrack.tracker.judge import READ_AT_ONCE, Judge
from sestrack.tracker.names import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sestrack.engines.interface import Connection
    from sestrack.tracker.places import Places
    from sestrack.tracker.streams import Marks

PIECE = 200
"""Visits a transaction."""
_READS = 2
"""How often the judge may read ahead for a piece."""
PURGE_PIECE = 500
_LOOKED_THROUGH = 20_000
"""Of the first events of a writer so many may be younger than those behind them."""
_STRETCH = 100_000
_LAST = 1_000
"""Of so many events of a writer the last ones, the youngest is looked for."""
_PURGE_EVERY = 600.0
_SURE = 3600.0
"""How long a server runs before it purges all there was."""
_REST = 0.5
"""Seconds without work before the next look, when there was less than a piece to do."""


class Upkeep:
    """Judges, counts and purges, a piece at a time."""

    def __init__(
        self, connection: Connection, places: Places, keep_days: int = 0, piece: int = PIECE
    ) -> None:
        """Begin where it was left; with `keep_days`, purge what is older.

        `piece` is how many visits a transaction has.
        """
        self._connection = connection
        self._places = places
        self._keep_days = keep_days
        self._piece = piece
        self._judge: Judge | None = None
        self._judged: dict[int, int] = {}
        self._figures = Figures(connection)
        self._rest_until = 0.0
        self._purge_at = 0.0
        self._purged = 0
        """Events purged since that was said."""
        self._begun_at = time.monotonic()
        self._last_before = _last_day(connection) if keep_days else 0
        """The day of the last event that was an hour old at the start; 0 if there was none."""
        self.judged_at = 0
        """The time (ms) of the last event that was judged here."""

    def work(self) -> bool:
        """Do a piece; return whether there is more."""
        now = time.monotonic()
        if now < self._rest_until:
            return False
        self.settle(int(time.time() * 1000), _READS)
        if self._judge is not None and self._judge.more:
            return True
        if self._keep_days and now >= self._purge_at and self._purge(now):
            return True
        self._rest_until = now + _REST
        return False

    def _purge(self, now: float) -> bool:
        """Delete some of what is too old; return whether there is more."""
        before = int(time.time() * 1000) // DAY_MS - self._keep_days
        if self._last_before and self._last_before < before and now < self._begun_at + _SURE:
            # the one thing that cannot be undone: a clock may be wrong until it is set by others
            output.warn(
                f"by this machine's clock all events are older than --keep {self._keep_days}d: "
                f"they are purged when the server has run for {_SURE // 60:.0f} minutes"
            )
            self._purge_at = self._begun_at + _SURE
            return False
        if purged := purge_piece(self._connection, before):
            self._purged += purged
            return True
        if self._purged:
            count = "1 event" if self._purged == 1 else f"{self._purged:,} events"
            output.note(f"{count} purged, older than --keep {self._keep_days}d", event="purged")
            self._purged = 0
        self._purge_at = now + _PURGE_EVERY
        return False

    def settle(self, now_ms: int | None, reads: int = 2**31) -> int:
        """Judge and count a piece of what is settled; return how many it were."""
        if self._judge is None:
            self._judged = {writer: judged for writer, judged, _ in self._connection.writers()}
            at_once = max(READ_AT_ONCE, self._piece)
            self._judge = Judge(self._connection, self._places, self._judged.copy(), at_once)
        visits = []
        for visit in self._judge.judge(now_ms, reads):
            visits.append(visit)
            if len(visits) == self._piece:
                break
        if not visits:
            return 0
        try:
            with self._connection.derived():
                self._figures.absorb(visits)
                # last, for a mark's row is the one that its writer moves with every batch
                self._move_marks({writer_of(visit.event): visit.event for visit in visits})
        except BaseException:
            self._judge = None  # what it took from its queue is judged again
            self._figures = Figures(self._connection)
            raise
        self.judged_at = visits[-1].at
        return len(visits)

    def settle_all(self) -> None:
        """Judge and count all there is, where nothing follows that would bear on it."""
        while self.settle(None):
            pass

    def _move_marks(self, marks: Marks) -> None:
        """Note that the events up to these are in the figures, unless another one has."""
        for writer, event in sorted(marks.items()):
            moved = self._connection.execute(
                "UPDATE writer SET judged = ? WHERE id = ? AND judged = ?",
                (event, writer, self._judged.get(writer, first_id(writer))),
            )
            if moved.rowcount != 1:
                msg = "another server keeps the figures"
                raise TryAgain(msg, "sestrack doctor")
            self._judged[writer] = event


def _last_day(connection: Connection) -> int:
    """Return the day (since 1970, UTC) of the last event before `_SURE`; 0 if there is none.

    Younger ones may be of the same wrong clock, from a server that was started once more.
    """
    before = int((time.time() - _SURE) * 1000)
    latest = 0
    for writer, _, stored in connection.writers():  # ids follow time, but for what waited
        ((at,),) = connection.execute(
            "SELECT max(at) FROM (SELECT at FROM event WHERE id > ? AND id <= ? AND at < ? "
            "ORDER BY id DESC LIMIT ?) AS last",
            (first_id(writer), stored, before, _LAST),
        ).fetchall()
        latest = max(latest, at or 0)
    return latest // DAY_MS


def behind(connection: Connection) -> tuple[int, int | None]:
    """Return how many events are not in the figures, and the time (ms) of the first of them."""
    count, oldest = 0, None
    for _, judged, stored in connection.writers():
        if judged < stored:
            ((number, at),) = connection.execute(
                "SELECT count(*), min(at) FROM event WHERE id > ? AND id <= ?", (judged, stored)
            ).fetchall()
            count += int(number)
            oldest = at if oldest is None else min(oldest, at or oldest)
    return count, oldest


def purge_piece(connection: Connection, before_day: int) -> int:
    """Delete some events older than a day (days since 1970, UTC); return how many.

    Only what is counted goes; the figures of those days stay.
    """
    count = connection.drop_days(before_day, lambda: _note_purged(connection, before_day))
    if count:
        return count
    before = before_day * DAY_MS
    for writer, judged, _ in connection.writers():
        with connection.transaction():
            # ids follow time, but for what waited, or came while a clock was wrong
            rows = connection.execute(
                "SELECT id FROM (SELECT id, at FROM event WHERE id > ? AND id <= ? ORDER BY id "
                "LIMIT ?) AS oldest WHERE at < ? LIMIT ?",
                (first_id(writer), judged, _LOOKED_THROUGH, before, PURGE_PIECE),
            ).fetchall()
            if rows:
                ids = [event for (event,) in rows]
                for table, column in (("visit", "event"), ("event", "id")):
                    connection.execute(
                        f"DELETE FROM {table} WHERE {column} >= ? AND {column} <= ? AND at < ?",
                        (min(ids), max(ids), before),
                    )
                _note_purged(connection, before_day)
                return len(ids)
    return 0


def _note_purged(connection: Connection, before_day: int) -> None:
    connection.execute(
        "UPDATE progress SET purged_day = ? WHERE purged_day < ?", (before_day, before_day)
    )


def forget(connection: Connection, names: list[str], wait: Callable[[Marks], None]) -> int:
    """Make a recipient nobody in particular, everywhere; return how many events they had.

    `names` are what they may be kept as.  In their place stands a random text, so that the
    figures stay as they are; addresses and user agents go.  `wait` is given the last events
    changed, and returns when a running server has judged them: until then it has the name in
    mind.  What was overwritten leaves the files with `Connection.wipe`.
    """
    key = key_of(connection)
    count = 0
    for name in names:
        stranger = f"forgotten-{os.urandom(8).hex()}"
        last: dict[int, int] = {}
        for found in _events_of(connection, name):
            with connection.transaction():
                connection.insert("agent", ["text"], [("forgotten",)], "ON CONFLICT DO NOTHING")
                connection.executemany(
                    "UPDATE event SET recipient = ?, ip = '', traits = traits | ?, "
                    "agent = (SELECT id FROM agent WHERE text = 'forgotten') "
                    "WHERE id = ? AND at = ?",
                    [(stranger, int(Trait.FORGOTTEN), *event) for event in found],
                )
            count += len(found)
            last |= {writer_of(number): number for number, _ in found}
        if last:
            wait(last)
        with connection.transaction():
            connection.execute(
                "UPDATE first SET who = ? WHERE who = ? AND origin IN (SELECT id FROM origin)",
                (who(key, stranger), who(key, name)),
            )
    return count


def _events_of(connection: Connection, name: str) -> Iterator[list[tuple[int, int]]]:
    """Find ids and times of a recipient's events, a stretch of ids at a time.

    Nobody is locked out meanwhile.
    """
    for writer, _, stored in connection.writers():
        ((first,),) = connection.execute(
            "SELECT min(id) FROM event WHERE id > ? AND id <= ?", (first_id(writer), stored)
        ).fetchall()
        for start in range(first or stored + 1, stored + 1, _STRETCH):
            found = connection.execute(
                "SELECT id, at FROM event WHERE id >= ? AND id < ? AND id <= ? AND recipient = ?",
                (start, start + _STRETCH, stored, name),
            ).fetchall()
            if found:
                yield found
