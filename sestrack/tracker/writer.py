"""The writer into SQLite: has all events on disk before it says so.

It takes what batches the workers have handed over, writes them in one transaction (group
commit: in WAL mode with synchronous=FULL, SQLite syncs once), and answers.  A transaction
that fails leaves nothing behind and is tried again, with everything in it, until it is on
disk; so an event is there once.  The loop goes on meanwhile, for it also sees to it that there are
workers, which answer readers.  What else there is to do, judging and purging, is done in small
pieces while no batch waits.

The writer gives events their ids, so that an id is used once even when everything before
it was purged.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sestrack.engines import sqlite
from sestrack.tracker.checkpoint import Checkpointer
from sestrack.tracker.collector import Collector
from sestrack.tracker.events import MAX_AGENT
from sestrack.tracker.interning import intern
from sestrack.tracker.names import Late
from sestrack.tracker.rescue import Rescue

if TYPE_CHECKING:
    from collections.abc import Callable

    from sestrack.engines.interface import Connection
    from sestrack.tracker.collector import Batch, TargetRow, Worker

_CACHED = 65_536
_RETRY_SECONDS = 0.25
_BUSY_MS = 200
"""How long one try may wait for others that write, in place of the store's usual patience."""
_NAP_SECONDS = 0.1
"""How long to wait for a batch when nothing else is to be done."""
_PAUSE_SECONDS = 0.002
"""How long no batch must have come before other work is done."""
_UNDER_LOAD_SECONDS = 0.25
"""How often other work gets a turn when batches never cease."""
_ROWS_OF_WORK = 1_000
"""What a piece of other work writes, about."""
_REST_SECONDS = 30.0
"""How long no other work is done after it failed."""
_RECORD = "cannot record"
_FIGURES = "cannot keep the figures"
_LOOK_SECONDS = 0.5
"""How often the file is looked at."""
_RESCUE_SECONDS = 10.0
"""How long what waits is tried to be written into a file that has lost its name."""
_Value = TypeVar("_Value")


class Writer(Collector):
    """Writes what the workers hand over."""

    def __init__(
        self,
        connection: Connection,
        other_work: Callable[[], bool],
        log: Callable[..., None],
    ) -> None:
        """Take a connection that nothing else writes events with.

        `other_work` does a small piece of work and says whether there is more.
        """
        super().__init__(log)
        self._connection = cast("sqlite.Connection", connection)
        self._other_work = other_work
        self._checkpointer = Checkpointer(self._connection, time.monotonic())
        self._ids = _Ids(connection)
        self._late = Late()
        self._version = -1
        """SQLite's number for what other connections have written."""
        # whoever has the store for long must not keep this loop
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        self._held: list[tuple[Worker, Batch]] = []
        """What is not on disk yet."""
        self._retry_at = 0.0
        self._failing_since = 0.0
        """When the first of the tries failed that failed since; 0 for none."""
        self._more = True
        self._worked_at = 0.0
        self._no_work_until = 0.0
        self._rescue = Rescue(self._connection)
        self._look_at = 0.0

    def _patience(self) -> float:
        return _PAUSE_SECONDS if self._more and not self._held else _NAP_SECONDS

    def _turn(self, batches: list[tuple[Worker, Batch]]) -> None:
        """Write; do other work while there is nothing to write, and now and then under load."""
        self._held += batches
        if self._held and time.monotonic() >= self._retry_at:
            self._write()
            self._more = True
        now = time.monotonic()
        if not self._held and (not batches or now - self._worked_at > _UNDER_LOAD_SECONDS):
            self._more = self._work()
            self._worked_at = now
        self._look()

    # -- the file -------------------------------------------------------------------------

    def _look(self) -> None:
        """See, now and then, whether the file has its name still."""
        now = time.monotonic()
        if now < self._look_at or self.displaced:
            return
        self._look_at = now + _LOOK_SECONDS
        self.displaced, trouble = self._rescue.look()
        self._say("the store's file", trouble)
        if self.displaced:
            self.give_up_at = min(self.give_up_at, now + _RESCUE_SECONDS)

    def finish(self) -> None:
        """Write what can be; keep a store whose file has lost its name."""
        while self._held:
            self._look()
            self._write()
            if self._held:
                time.sleep(_RETRY_SECONDS)
        self._look_at = 0.0
        self._look()
        while self._rescue.lost and not self.displaced and time.monotonic() < self.give_up_at:
            time.sleep(_LOOK_SECONDS)  # somebody may make room for the copy
            self._look_at = 0.0
            self._look()
        what = self.displaced or self._rescue.lost
        if what:
            self.displaced = self._rescue.keep(what)
        self.displaced = self._rescue.close() or self.displaced

    def _work(self) -> bool:
        if time.monotonic() < self._no_work_until:
            return False
        try:
            more = self._other_work()
        except Exception as error:  # noqa: BLE001 - whatever it is, readers are answered
            if _is_busy(error):
                self._no_work_until = time.monotonic() + _RETRY_SECONDS
                return True
            self._say(_FIGURES, f"{type(error).__name__}: {error}")
            self._no_work_until = time.monotonic() + _REST_SECONDS
            return False
        self._say(_FIGURES, "")
        self._checkpoint(_ROWS_OF_WORK if more else 0)
        return more

    # -- the transaction ------------------------------------------------------------------

    def _write(self) -> None:
        batches = self._held
        if not self._commit(batches):
            if time.monotonic() > self.give_up_at:
                self._held = []
                self.give_up(batches)
            return
        self._held = []
        self._answer(batches)
        self._checkpoint(sum(len(batch.rows) for _, batch in batches))

    def _checkpoint(self, rows: int) -> None:
        try:
            self._checkpointer.written(rows, time.monotonic())
        except sqlite3.Error as error:
            self._say("the log cannot be moved into the store", str(error))

    def _commit(self, batches: list[tuple[Worker, Batch]]) -> bool:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            ((version,),) = self._connection.execute("PRAGMA data_version").fetchall()
            if version != self._version:
                self._late.look(cast("Connection", self._connection))
                self._ids.look()
                self._version = version
            count = self._insert(batches)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._ids.forget_unsettled()
            self._note_failure(error)
            return False
        self._ids.settle(count)
        self._failing_since = 0.0
        self._say(_RECORD, "")
        return True

    def _note_failure(self, error: sqlite3.Error) -> None:
        """Say it, unless somebody else writes for a moment; try again, but not at once."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if not _is_busy(error):
            self._retry_at = now + _RETRY_SECONDS
        elif now - self._failing_since < sqlite.BUSY_SECONDS:
            return
        self._say(_RECORD, f"{error}; events wait in memory")

    def _insert(self, batches: list[tuple[Worker, Batch]]) -> int:
        ids = self._ids
        first = number = ids.next_event
        agent_of, target_of = ids.agents.get, ids.targets.get
        lines = []
        lost_in_all = 0
        for _, (lost, rows, targets) in batches:
            lost_in_all += lost
            for at, index, recipient, minted, ip, agent, traits in self._late.cleared(rows):
                target = targets[index]
                kind, origin, link = target_of(target) or ids.target(target)
                agent_id = agent_of(agent) or ids.agent(agent)
                lines.append(
                    (number, at, kind, origin, link, recipient, minted, ip, agent_id, traits)
                )
                number += 1
        self._connection.executemany(
            "INSERT INTO event (id, at, kind, origin, link, recipient, minted, ip, agent, traits) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            lines,
        )
        if lost_in_all:
            self._connection.execute(
                "UPDATE progress SET lost = lost + ?, lost_at = ?", (lost_in_all, int(time.time()))
            )
        return int(number - first)


def _is_busy(error: Exception) -> bool:
    """Does somebody else write just now?"""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY  # the low octet: there are several kinds of each


class _Ids:
    """The small numbers that stand in an event's row for texts that come again and again.

    New ones are written in the transaction of the first event that needs them, and are
    known from then on only if it was committed.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.targets: dict[Any, tuple[int, int, int | None]] = {}
        self.agents: dict[bytes, int] = {}
        self._unsettled: list[tuple[dict[Any, Any], Any]] = []
        self.next_event = 0
        self.look()

    def look(self) -> None:
        """See which ids are taken: a server that does not know of us may write here, too."""
        # the other writers' events came with a copy
        stored = next(mark.stored for mark in self._connection.writers() if not mark.id)
        self.next_event = max(self.next_event, stored + 1)

    def target(self, target: TargetRow) -> tuple[int, int, int | None]:
        """Return the kind, and the numbers of the origin and the link."""
        kind, origin, number, url = target
        origin_id = intern(
            self._connection, "origin", ("sender", "message", "trace_domain"), origin
        )
        link = None
        if number >= 0:
            link = intern(
                self._connection, "link", ("origin", "number", "url"), (origin_id, number, url)
            )
        return self._keep(self.targets, target, (kind, origin_id, link))

    def agent(self, agent: bytes) -> int:
        """Return the number of a user agent."""
        text = agent[:MAX_AGENT].decode("latin-1")
        return self._keep(self.agents, agent, intern(self._connection, "agent", ("text",), (text,)))

    def _keep(self, known: dict[Any, _Value], key: Any, value: _Value) -> _Value:
        if len(known) >= _CACHED:
            known.clear()
        known[key] = value
        self._unsettled.append((known, key))
        return value

    def settle(self, count: int) -> None:
        """All is on disk, `count` events of it."""
        self.next_event += count
        self._unsettled.clear()

    def forget_unsettled(self) -> None:
        """None of it is."""
        for known, key in self._unsettled:
            known.pop(key, None)
        self._unsettled.clear()
