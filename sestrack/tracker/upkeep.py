"""What is done to events after they are on disk: judged, counted, purged, forgotten.

The writer calls `Upkeep.work` while no batch waits; commands call the functions here from
their own process.  All of it goes in pieces: each a short transaction, so that neither
keeps the other waiting.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

from sestrack.store import transaction
from sestrack.tracker.events import Trait
from sestrack.tracker.figures import DAY_MS, Figures, who
from sestrack.tracker.judge import Judge

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from sestrack.tracker.places import Places

PIECE = 200
"""Visits a transaction."""
_READS = 2
"""How often the judge may read ahead for a piece."""
PURGE_PIECE = 500
_STRETCH = 100_000
_PURGE_EVERY = 600.0
_REST = 0.5
"""Seconds without work before the next look, when there was less than a piece to do."""


class Upkeep:
    """Judges, counts and purges, a piece at a time."""

    def __init__(self, connection: sqlite3.Connection, places: Places, keep_days: int = 0) -> None:
        """Begin where it was left; with `keep_days`, purge what is older."""
        self._connection = connection
        self._places = places
        self._keep_days = keep_days
        self._judge: Judge | None = None
        self._figures = Figures(connection)
        self._rest_until = 0.0
        self._purge_at = 0.0

    def work(self) -> bool:
        """Do a piece; return whether there is more."""
        now = time.monotonic()
        if now < self._rest_until:
            return False
        self.settle(int(time.time() * 1000), _READS)
        if self._judge is not None and self._judge.more:
            return True
        if self._keep_days and now >= self._purge_at:
            before = int(time.time() * 1000) // DAY_MS - self._keep_days
            if purge_piece(self._connection, before):
                return True
            self._purge_at = now + _PURGE_EVERY
        self._rest_until = now + _REST
        return False

    def settle(self, now_ms: int | None, reads: int = 2**31) -> int:
        """Judge and count a piece of what is settled; return how many it were."""
        if self._judge is None:
            ((judged,),) = self._connection.execute("SELECT judged FROM progress").fetchall()
            self._judge = Judge(self._connection, self._places, judged)
        visits = []
        for visit in self._judge.judge(now_ms, reads):
            visits.append(visit)
            if len(visits) == PIECE:
                break
        if not visits:
            return 0
        try:
            with transaction(self._connection):
                last = self._figures.absorb(visits)
                self._connection.execute("UPDATE progress SET judged = ?", (last,))
        except BaseException:
            self._judge = None  # what it took from its queue is judged again
            self._figures = Figures(self._connection)
            raise
        return len(visits)


def purge_piece(connection: sqlite3.Connection, before_day: int) -> int:
    """Delete some events older than a day (days since 1970, UTC); return how many.

    Only what is counted goes; the figures of those days stay.
    """
    with transaction(connection):
        rows = connection.execute(
            "SELECT event.id, event.at FROM event JOIN progress "
            "WHERE event.id <= progress.judged ORDER BY event.id LIMIT ?",
            (PURGE_PIECE,),
        ).fetchall()
        # ids follow time but for what waited in memory: the odd one that is younger ends a run
        old = 0
        for _, at in rows:
            if at >= before_day * DAY_MS:
                break
            old += 1
        if not old:
            return 0
        last = rows[old - 1][0]
        connection.execute("DELETE FROM visit WHERE event <= ?", (last,))
        connection.execute("DELETE FROM event WHERE id <= ?", (last,))
        connection.execute(
            "UPDATE progress SET purged = max(purged, ?), purged_day = max(purged_day, ?)",
            (last, before_day),
        )
    return old


def forget(connection: sqlite3.Connection, names: list[str], wait: Callable[[int], None]) -> int:
    """Make a recipient nobody in particular, everywhere; return how many events they had.

    `names` are what they may be kept as.  In their place stands a random text, so that the
    figures stay as they are; addresses and user agents go.  `wait` is given the last event
    changed, and returns when a running server has judged it: until then it has the name in
    mind.
    """
    ((key,),) = connection.execute("SELECT who FROM progress").fetchall()
    count = 0
    for name in names:
        stranger = f"forgotten-{os.urandom(8).hex()}"
        last = 0
        for ids in _events_of(connection, name):
            with transaction(connection):
                connection.execute("INSERT OR IGNORE INTO agent (text) VALUES ('forgotten')")
                connection.executemany(
                    "UPDATE event SET recipient = ?, ip = '', traits = traits | ?, "
                    "agent = (SELECT id FROM agent WHERE text = 'forgotten') WHERE id = ?",
                    [(stranger, int(Trait.FORGOTTEN), number) for number in ids],
                )
            count += len(ids)
            last = ids[-1]
        if last:
            wait(last)
        with transaction(connection):
            connection.execute(
                "UPDATE first SET who = ? WHERE who = ? AND origin IN (SELECT id FROM origin)",
                (who(key, stranger), who(key, name)),
            )
    for _ in range(100):
        ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if not busy:
            break
        time.sleep(0.05)
    return count


def pseudonym(key: bytes, recipient: str) -> str:
    """Return what is kept in place of a recipient's name by `serve --no-recipient`."""
    return f"recipient-{hashlib.blake2b(recipient.encode(), key=key, digest_size=12).hexdigest()}"


def hashed_name(connection: sqlite3.Connection, recipient: str) -> str:
    """Return the pseudonym of a recipient in this store."""
    ((key,),) = connection.execute("SELECT who FROM progress").fetchall()
    return pseudonym(key, recipient)


def _events_of(connection: sqlite3.Connection, name: str) -> Iterator[list[int]]:
    """Find a recipient's events, a stretch of ids at a time; nobody is locked out meanwhile."""
    ((first, last),) = connection.execute("SELECT min(id), max(id) FROM event").fetchall()
    for start in range(first or 0, (last or -1) + 1, _STRETCH):
        ids = [
            number
            for (number,) in connection.execute(
                "SELECT id FROM event WHERE id >= ? AND id < ? AND recipient = ?",
                (start, start + _STRETCH, name),
            )
        ]
        if ids:
            yield ids
