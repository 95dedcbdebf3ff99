"""Shipping: from numbered events to rows in PostgreSQL, each once.

A transaction first moves the writer's mark (`writer.stored`) from where it should stand to
the last event it brings, then copies the rows in.  If the mark does not stand there, an
earlier attempt had arrived after all: what is behind the mark is left out.  So a repeat is
known without asking for each row, and COPY can be used, three times as fast as inserts that
ask.  The mark is written even where no row is new: a transaction that writes nothing would
be acknowledged without waiting for the standbys, and the first attempt may be on one disk only.

The mark's row is also the fence: whoever holds the writer's number now stands in it.
"""

from __future__ import annotations

import hashlib
import os
import queue
import re
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from sestrack.errors import BadInput, SestrackError, TryAgain
from sestrack.store import errors_of, open_for_recording, shown
from sestrack.tracker.events import MAX_AGENT, first_id
from sestrack.tracker.figures import DAY_MS
from sestrack.tracker.interning import intern

if TYPE_CHECKING:
    from collections.abc import Callable

    from sestrack.engines.interface import SharedConnection
    from sestrack.tracker.collector import TargetRow
    from sestrack.tracker.spool import Parcel, Spool

_CACHED = 65_536
_COLUMNS = "id, at, kind, origin, link, recipient, minted, ip, agent, traits"
_ESCAPED = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


class Shipper:
    """Stores parcels, in a thread, one lot at a time."""

    def __init__(self, address: str, spool: Spool, done: Callable[[], None]) -> None:
        """Take the store's address; `done` is called from the thread when a lot has ended."""
        self._address = address
        self._spool = spool
        self._done = done
        self._owner = os.urandom(8).hex()
        self._lots: queue.SimpleQueue[list[Parcel] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[SestrackError | None] = queue.SimpleQueue()
        self._connection: SharedConnection | None = None
        self._stored = 0
        """The sequence number that the mark should stand at."""
        self._targets: dict[TargetRow, tuple[int, int, str]] = {}
        self._agents: dict[bytes, int] = {}
        threading.Thread(target=self._run, name="shipper", daemon=True).start()

    def send(self, parcels: list[Parcel]) -> None:
        """Have parcels stored; the last lot must have ended."""
        self._lots.put(parcels)

    def end(self) -> tuple[bool, SestrackError | None]:
        """Return whether the lot has ended, and the trouble it ended in."""
        try:
            return True, self._ended.get_nowait()
        except queue.Empty:
            return False, None

    def hang_up(self) -> None:
        """End a connection that hangs; whether the lot was stored shows next time."""
        connection = self._connection
        if connection is not None:
            connection.sever()

    def close(self) -> None:
        """Let the thread end when it has nothing to do."""
        self._lots.put(None)

    def _run(self) -> None:
        while (parcels := self._lots.get()) is not None:
            trouble: SestrackError | None = None
            try:
                with errors_of(self._address):
                    self._ship(parcels)
            except SestrackError as error:
                trouble = error
            except Exception as error:  # noqa: BLE001 - whatever it is, the events are kept
                trouble = TryAgain(f"{type(error).__name__}: {error}")
            if trouble is not None:
                self._disconnect()
            self._ended.put(trouble)
            self._done()
        self._disconnect()

    # -- the connection -------------------------------------------------------------------

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def _connect(self) -> SharedConnection:
        if self._connection is None:
            # numbers of texts were not waited for: after a failover they may be gone
            self._targets.clear()
            self._agents.clear()
            connection = cast("SharedConnection", open_for_recording(self._address))
            try:
                self._register(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _register(self, connection: SharedConnection) -> None:
        """Take the spool's number of a writer, or a new one."""
        ((key,),) = connection.execute("SELECT who FROM progress").fetchall()
        store = hashlib.blake2b(key, digest_size=8).hexdigest()
        spool = self._spool
        if spool.store not in {"", store}:
            msg = f"the events in {spool.path} are another store's, not {shown(self._address)}'s"
            raise BadInput(msg, "sestrack serve --spool FOLDER, one for each store")
        if spool.writer:
            row = connection.execute(
                "UPDATE writer SET owner = ? WHERE id = ? RETURNING stored",
                (self._owner, spool.writer),
            ).fetchone()
            if row is not None:
                self._stored = row[0] - first_id(spool.writer)
                return
        while True:  # until nobody else takes the same number
            ((last,),) = connection.execute("SELECT coalesce(max(id), 0) FROM writer").fetchall()
            start = first_id(last + 1)
            made = connection.execute(
                "INSERT INTO writer (id, judged, stored, owner) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                (last + 1, start, start, self._owner),
            )
            if made.rowcount == 1:
                break
        # before any event has the number: else they would come again under another one
        spool.note_writer(store, last + 1)
        self._stored = 0

    # -- a lot ----------------------------------------------------------------------------

    def _ship(self, parcels: list[Parcel]) -> None:
        connection = self._connect()
        rows = [
            (parcel.first + place, parcel.targets, row)
            for parcel in parcels
            for place, row in enumerate(parcel.rows)
        ]
        connection.ensure_days({row[0] // DAY_MS for _, _, row in rows})
        self._know(connection, rows)
        last = parcels[-1].last
        with connection.transaction():
            stored = self._move_mark(connection, last)
            connection.copy(f"COPY event ({_COLUMNS}) FROM STDIN", self._lines(rows, stored))
            lost = sum(parcel.lost for parcel in parcels if parcel.last > stored)
            if lost:
                connection.execute(
                    "UPDATE progress SET lost = lost + ?, lost_at = ?", (lost, int(time.time()))
                )
        self._stored = max(stored, last)

    def _move_mark(self, connection: SharedConnection, last: int) -> int:
        """Move the writer's mark; return where it stood."""
        writer = self._spool.writer
        base = first_id(writer)
        move = "UPDATE writer SET stored = ? WHERE id = ? AND owner = ? AND stored = ?"
        mark = max(last, self._stored)
        moved = connection.execute(move, (base + mark, writer, self._owner, base + self._stored))
        if moved.rowcount == 1:
            return self._stored
        row = connection.execute(
            "SELECT stored FROM writer WHERE id = ? AND owner = ? FOR UPDATE",
            (writer, self._owner),
        ).fetchone()
        if row is None:
            msg = f"another server stores as writer {writer}: was {self._spool.path} copied?"
            raise TryAgain(msg, "sestrack serve --spool FOLDER, one for each server")
        stored = int(row[0]) - base
        connection.execute(
            "UPDATE writer SET stored = ? WHERE id = ?", (base + max(last, stored), writer)
        )
        return stored

    def _know(self, connection: SharedConnection, rows: list[tuple[int, Any, Any]]) -> None:
        """Learn the numbers of all texts that the rows name."""
        targets, agents = self._targets, self._agents
        if len(targets) + len(agents) > _CACHED:
            targets.clear()
            agents.clear()
        for _, known, row in rows:
            if known[row[1]] not in targets:
                target = known[row[1]]
                targets[target] = _target(connection, target)
            if row[5] not in agents:
                text = row[5][:MAX_AGENT].decode("latin-1").replace("\0", "\ufffd")
                with connection.derived():
                    agents[row[5]] = intern(connection, "agent", ("text",), (text,))

    def _lines(self, rows: list[tuple[int, Any, Any]], stored: int) -> bytes:
        """Write rows as COPY's text format has them, those behind the mark left out."""
        base = first_id(self._spool.writer)
        targets, agents = self._targets, self._agents
        lines = []
        for number, known, (at, index, recipient, minted, ip, agent, traits) in rows:
            if number <= stored:
                continue
            kind, origin, link = targets[known[index]]
            if not recipient.isalnum():
                recipient = _escaped(recipient)  # noqa: PLW2901
            lines.append(
                f"{base + number}\t{at}\t{kind}\t{origin}\t{link}\t{recipient}\t{minted}\t{ip}\t"
                f"{agents[agent]}\t{traits}\n"
            )
        return "".join(lines).encode("utf-8", "replace")


def _target(connection: SharedConnection, target: TargetRow) -> tuple[int, int, str]:
    """Return the kind, and the numbers of the origin and the link as COPY has them."""
    kind, origin, number, url = target
    with connection.derived():
        columns = ("sender", "message", "trace_domain")
        origin_id = intern(connection, "origin", columns, tuple(map(connection.kept, origin)))
        if number < 0:
            return kind, origin_id, r"\N"
        values = (origin_id, number, connection.kept(url))
        link = intern(connection, "link", ("origin", "number", "url"), values)
    return kind, origin_id, str(link)


def _escaped(text: str) -> str:
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return _ESCAPED.sub(lambda match: _ESCAPES[match[0]], text)
