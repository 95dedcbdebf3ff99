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

import os
import queue
import re
import threading
import time
from typing import TYPE_CHECKING, cast

from sestrack.errors import BadInput, SestrackError, TryAgain
from sestrack.store import errors_of, open_for_recording, shown
from sestrack.tracker.events import MAX_AGENT, first_id
from sestrack.tracker.figures import DAY_MS
from sestrack.tracker.interning import intern
from sestrack.tracker.names import Late, key_of
from sestrack.tracker.spool import mark_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sestrack.engines.interface import SharedConnection
    from sestrack.tracker.collector import TargetRow
    from sestrack.tracker.spool import Parcel, Spool

_CACHED = 65_536
_LISTS = 256
_TABS = 9
_COPY = "COPY event (id, at, kind, origin, link, recipient, minted, ip, agent, traits) FROM STDIN"
_LOOK_SECONDS = 0.5
_SMALL = 64 << 10
"""Octets that are sent at once, without another thread having to wait for it."""
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
        self._is_owner = False
        """Whether we have stood as the owner of our number."""
        self._lots: queue.SimpleQueue[list[Parcel] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[SestrackError | None] = queue.SimpleQueue()
        self._connection: SharedConnection | None = None
        self._stored = 0
        """The sequence number that the mark should stand at."""
        self._numbers = _Numbers()
        self._late = Late()
        self._look_at = 0.0
        """When to look again who is forgotten (`time.monotonic`)."""
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

    def hang_up(self) -> bool:
        """End a connection that hangs; return whether there is one.

        Whether the lot was stored shows next time.
        """
        connection = self._connection
        if connection is not None:
            connection.sever()
        return connection is not None

    def close(self) -> None:
        """Let the thread end when it has nothing to do."""
        self._lots.put(None)

    def _run(self) -> None:
        while (lot := self._lots.get()) is not None:
            trouble: SestrackError | None = None
            try:
                with errors_of(self._address):
                    self._ship(lot)
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
            self._numbers = _Numbers()
            self._connection = cast("SharedConnection", open_for_recording(self._address))
            # it can be ended from now on: to register is to wait for standbys, too
            self._register(self._connection)
        return self._connection

    def _register(self, connection: SharedConnection) -> None:
        """Take the spool's number of a writer, or a new one."""
        store = mark_of(key_of(connection))
        spool = self._spool
        if spool.store not in {"", store} and (spool.was_empty or not spool.waiting):
            spool.note_writer("", 0)  # it was another store's, and nothing of that is left
        if spool.store not in {"", store}:
            msg = f"the events in {spool.path} are another store's, not {shown(self._address)}'s"
            raise BadInput(msg, "sestrack serve --spool FOLDER, one for each store")
        if spool.writer and self._take(connection, spool.writer):
            return
        while True:  # until nobody else takes the same number
            ((last,),) = connection.execute("SELECT coalesce(max(id), 0) FROM writer").fetchall()
            start = first_id(last + 1)
            with connection.transaction():  # which tells if the wait for a standby was cut short
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
        self._is_owner = True

    def _take(self, connection: SharedConnection, writer: int) -> bool:
        """Take a writer's number, unless another server has stored under it since we did."""
        with connection.transaction():
            row = connection.execute(
                "SELECT stored, owner FROM writer WHERE id = ? FOR UPDATE", (writer,)
            ).fetchone()
            if row is None:
                return False
            self._stored = row[0] - first_id(writer)
            if row[1] != self._owner and (self._is_owner or self._stored > self._spool.start):
                return False
            connection.execute("UPDATE writer SET owner = ? WHERE id = ?", (self._owner, writer))
        self._is_owner = True
        return True

    # -- a lot ----------------------------------------------------------------------------

    def _ship(self, parcels: list[Parcel]) -> None:
        connection = self._connect()
        now = time.monotonic()
        if now >= self._look_at:
            self._late.look(connection)
            self._look_at = now + _LOOK_SECONDS
        parcels = [parcel._replace(rows=self._late.cleared(parcel.rows)) for parcel in parcels]
        writer, stored, last = self._spool.writer, self._stored, parcels[-1].last
        base = first_id(writer)
        connection.ensure_days({row[0] // DAY_MS for parcel in parcels for row in parcel.rows})
        self._numbers.learn(connection, parcels)
        # what an earlier attempt may have brought, and the mark tells of since
        lines = self._numbers.lines(parcels, base, behind=stored)
        move = (
            f"UPDATE writer SET stored = {base + max(last, stored)} WHERE id = {writer} "
            f"AND owner = '{self._owner}' AND stored = {base + stored}"
        )
        is_plain = len(lines) <= _SMALL and not any(parcel.lost for parcel in parcels)
        if not (is_plain and connection.store(move, _COPY, lines)):
            with connection.moving(move) as moved:
                if moved != 1:
                    stored = self._find_mark(connection, last)
                    lines = self._numbers.lines(parcels, base, behind=stored)
                connection.copy(_COPY, lines)
                lost = sum(parcel.lost for parcel in parcels if parcel.last > stored)
                if lost:
                    connection.execute(
                        "UPDATE progress SET lost = lost + ?, lost_at = ?", (lost, int(time.time()))
                    )
        self._stored = max(stored, last)

    def _find_mark(self, connection: SharedConnection, last: int) -> int:
        """Move the writer's mark from wherever it stands; return where it stood."""
        writer = self._spool.writer
        base = first_id(writer)
        row = connection.execute(
            "SELECT stored FROM writer WHERE id = ? AND owner = ? FOR UPDATE",
            (writer, self._owner),
        ).fetchone()
        if row is None:
            # taking it back would make each of the two leave out what the other has stored
            self._spool.note_writer(self._spool.store, 0)
            msg = (
                f"another server stores as writer {writer}, so this one takes another number: "
                f"was {self._spool.path} copied?"
            )
            raise TryAgain(msg, "sestrack serve --spool FOLDER, one for each server")
        stored = int(row[0]) - base
        connection.execute(
            "UPDATE writer SET stored = ? WHERE id = ?", (base + max(last, stored), writer)
        )
        return stored


class _Numbers:
    """The small numbers that stand in an event's row for texts that come again and again."""

    def __init__(self) -> None:
        self._targets: dict[TargetRow, str] = {}
        self._of_list: dict[int, tuple[list[TargetRow], list[str]]] = {}
        """What is known of the lists of targets that workers have: each only grows."""
        self._agents: dict[bytes, str] = {}

    def learn(self, connection: SharedConnection, parcels: list[Parcel]) -> None:
        """Have the numbers of all that parcels name; new ones are written."""
        agents = self._agents
        if len(self._targets) + len(agents) > _CACHED or len(self._of_list) > _LISTS:
            self._targets.clear()
            self._of_list.clear()
            agents.clear()
        for parcel in parcels:
            _, known = self._of_list.setdefault(id(parcel.targets), (parcel.targets, []))
            for target in parcel.targets[len(known) :]:
                if target not in self._targets:
                    self._targets[target] = _target(connection, target)
                known.append(self._targets[target])
        for agent in {row[5] for parcel in parcels for row in parcel.rows} - agents.keys():
            text = connection.kept(agent[:MAX_AGENT].decode("latin-1"))
            with connection.derived():
                agents[agent] = str(intern(connection, "agent", ("text",), (text,)))

    def lines(self, parcels: list[Parcel], base: int, behind: int) -> bytes:
        """Write rows as COPY's text format has them, those up to a sequence number left out."""
        text, count = self._written(parcels, base, behind)
        # what would have to be escaped is seldom there: it is looked for in all of it at once
        if (
            "\\" in text
            or "\0" in text
            or "\r" in text
            or text.count("\t") != count * _TABS
            or text.count("\n") != count
        ):
            text, _ = self._written(parcels, base, behind, escape=True)
        return text.encode("utf-8", "replace")

    def _written(
        self, parcels: list[Parcel], base: int, behind: int, *, escape: bool = False
    ) -> tuple[str, int]:
        agents = self._agents
        lines = []
        for parcel in parcels:
            _, targets = self._of_list[id(parcel.targets)]
            skip = max(0, behind - parcel.first + 1)
            number = base + parcel.first + skip - 1
            for at, index, recipient, minted, ip, agent, traits in (
                parcel.rows[skip:] if skip else parcel.rows
            ):
                number += 1
                name = _escaped(recipient) if escape else recipient
                lines.append(
                    f"{number}\t{at}\t{targets[index]}\t{name}\t{minted}\t{ip}\t"
                    f"{agents[agent]}\t{traits}\n"
                )
        return "".join(lines), len(lines)


def _target(connection: SharedConnection, target: TargetRow) -> str:
    """Return the kind, and the numbers of the origin and the link, as they stand in a line.

    The pixel has the link 0.
    """
    kind, origin, number, url = target
    link = 0
    with connection.derived():
        columns = ("sender", "message", "trace_domain")
        origin_id = intern(connection, "origin", columns, tuple(map(connection.kept, origin)))
        if number >= 0:
            values = (origin_id, number, connection.kept(url))
            link = intern(connection, "link", ("origin", "number", "url"), values)
    return f"{kind}\t{origin_id}\t{link}"


def _escaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: _ESCAPES[match[0]], text.replace("\0", "\ufffd"))
