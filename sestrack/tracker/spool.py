"""The spool: where events wait on this machine's disk while PostgreSQL is away.

A file of SQLite, synced with every batch.  It also says which writer this server is (its
number in the store) and up to where sequence numbers are given out: so an event has its id
before it is sent, and one that may have arrived already is known when it is sent again.

One server has one spool; several on a machine take one each.  A spool that waits full while
nobody attends it is taken up by the next server that starts.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from contextlib import ExitStack, closing, suppress
from glob import escape, glob
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from sestrack.engines import sqlite
from sestrack.errors import CannotCreate, SestrackError, TryAgain

if TYPE_CHECKING:
    from sestrack.tracker.collector import EventRow, TargetRow

LIMIT = 1 << 30
"""Octets that may wait: some five million events."""
RESERVED = 1_000_000
"""Sequence numbers given out at once; a server that dies leaves a gap of at most so many."""
_SLOTS = 64
_OCTETS = 512
_COMPANIONS = ("-wal", "-shm")

_TABLES = """
CREATE TABLE IF NOT EXISTS state (
    id INTEGER PRIMARY KEY CHECK (id = 1), store TEXT NOT NULL DEFAULT '',
    writer INTEGER NOT NULL DEFAULT 0, reserved INTEGER NOT NULL DEFAULT 0
);
INSERT OR IGNORE INTO state (id) VALUES (1);
CREATE TABLE IF NOT EXISTS parcel (
    last INTEGER PRIMARY KEY, events INTEGER NOT NULL, content BLOB NOT NULL
);
"""


class Parcel(NamedTuple):
    """Some events, numbered one after another."""

    first: int
    """The sequence number of the first."""
    rows: list[EventRow]
    targets: list[TargetRow]
    """What the rows name by its index."""
    lost: int
    """Events that were lost before."""

    @property
    def last(self) -> int:
        """The sequence number of the last; one is used even where there are only losses."""
        return self.first + max(len(self.rows), 1) - 1


class Spool:
    """An open spool, held by this process alone."""

    def __init__(self, path: str, limit: int = LIMIT) -> None:
        """Open it, or make it.  Raises `TryAgain` while another server has it, `CannotCreate`."""
        self.path = path
        self.limit = limit
        self._lock = self._take_lock()
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._place = os.stat(path)
            self._connection = self._open()
            with ExitStack() as undo:
                undo.callback(self._connection.close)
                self._connection.executescript(_TABLES)
                (self.store, self.writer, self._reserved, self.waiting, self.octets) = (
                    self._connection.execute(
                        "SELECT store, writer, reserved, (SELECT count(*) FROM parcel), "
                        "coalesce((SELECT sum(length(content)) FROM parcel), 0) FROM state"
                    ).fetchone()
                )
                undo.pop_all()
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            msg = f"the spool {path} cannot be used: {error}"
            raise CannotCreate(msg, "sestrack serve --spool FOLDER") from None
        self.was_empty = not self.waiting
        """Nothing waited when it was opened: whatever waits now is this server's own."""
        self.start: int = self._reserved
        """The last sequence number that a process before this one may have used."""
        self._next = self.start + 1
        self._losses: Parcel | None = None
        """The losses noted last, while more can be added to them: nobody has taken them yet."""
        self._dropped = 0
        self._is_dirty = False

    def _take_lock(self) -> int:
        path = self.path
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
            lock = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            msg = f"cannot make the spool {path}: {error.strerror}"
            raise CannotCreate(msg, "sestrack serve --spool FOLDER") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            msg = f"another sestrack serve has the spool {path}"
            raise TryAgain(msg, "sestrack serve --spool FOLDER, one for each server") from None
        if os.fstat(lock).st_size < _OCTETS:
            with suppress(OSError):  # a full disk, on which the spool itself cannot be opened
                _write(lock, 0)
        return lock

    @property
    def owed(self) -> int:
        """How many events were lost that nothing else knows of."""
        noted = os.pread(self._lock, _OCTETS, 0).strip()
        return int(noted) if noted.isdigit() else 0

    def note_owed(self, number: int) -> None:
        """Note them where there is room on a full disk, too: what stands there has one size."""
        with suppress(OSError):
            _write(self._lock, number)

    def keep_name(self) -> None:
        """Make the file anew, with all it has, if somebody has removed or renamed it.

        Raises `sqlite3.Error`: what is to be put there waits in memory.
        """
        with suppress(OSError):
            if os.path.samestat(os.stat(self.path), self._place):
                return
        lock = self._lock
        with ExitStack() as undo:
            try:
                if not self._has_lock():
                    lock = self._take_lock()
                    undo.callback(os.close, lock)
                self._put_log_aside()
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
                place = os.stat(self.path)
                new = self._open()
                undo.callback(new.close)
                self._copy_into(new)
            except (OSError, sqlite3.Error, SestrackError) as error:
                msg = f"{self.path} is gone, and cannot be made again: {error}"
                raise sqlite3.OperationalError(msg) from None
            undo.pop_all()
        for companion in _COMPANIONS:
            with suppress(OSError):
                os.unlink(f"{self.path}.gone{companion}")
        with suppress(sqlite3.Error):  # under another name somebody would send it once more
            self._connection.execute("DELETE FROM parcel")
        self._connection.close()
        self._connection, self._place = new, place
        if lock != self._lock:
            owed = self.owed
            os.close(self._lock)
            self._lock = lock
            self.note_owed(owed)

    def _put_log_aside(self) -> None:
        """Take its name from our log: a new file would share it with us.

        It has one until all is in the new file, for should we be killed, it may be the only place.
        """
        for companion in _COMPANIONS:
            name, aside = self.path + companion, f"{self.path}.gone{companion}"
            with suppress(FileNotFoundError):
                if os.path.exists(aside):
                    os.unlink(name)  # of a new file that was not finished
                else:
                    os.rename(name, aside)

    def _has_lock(self) -> bool:
        """Is the file that we have locked still there?"""
        with suppress(OSError):
            return os.path.samestat(os.stat(f"{self.path}-lock"), os.fstat(self._lock))
        return False

    def _copy_into(self, new: sqlite3.Connection) -> None:
        state = (self.store, self.writer, self._reserved)
        rows = self._connection.execute("SELECT last, events, content FROM parcel").fetchall()
        new.executescript(_TABLES)
        new.execute("BEGIN IMMEDIATE")
        new.execute("UPDATE state SET store = ?, writer = ?, reserved = ?", state)
        new.executemany("INSERT OR IGNORE INTO parcel VALUES (?, ?, ?)", rows)
        new.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=5)
        with ExitStack() as undo:
            undo.callback(connection.close)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            undo.pop_all()
        return connection

    def close(self) -> None:
        """Let another one have it."""
        self._connection.close()
        os.close(self._lock)

    def number(self, count: int) -> int:
        """Give out sequence numbers; return the first of them."""
        first: int = self._next
        if first + count > self._reserved:
            reserved = first + count + RESERVED
            self._connection.execute("UPDATE state SET reserved = ?", (reserved,))
            self._reserved = reserved
        self._next += count
        return first

    def note_writer(self, store: str, writer: int) -> None:
        """Note which writer of which store this is.  May be called from any thread."""
        # that file alone: one that is not there is not made
        name = sqlite.uri_of(self.path, "rw")
        with closing(
            sqlite3.connect(name, uri=True, isolation_level=None, timeout=5)
        ) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("UPDATE state SET store = ?, writer = ?", (store, writer))
        self.store, self.writer = store, writer

    # -- what waits -----------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Is all that ever was here elsewhere?  Then another one can be had instead."""
        return bool(self.store) and not (self.waiting or self._is_dirty or self.owed)

    @property
    def events(self) -> int:
        """How many events wait."""
        ask = "SELECT coalesce(sum(events), 0) FROM parcel"
        return int(self._connection.execute(ask).fetchone()[0])

    def put(self, parcels: list[Parcel]) -> list[Parcel]:
        """Keep parcels; all of it is on disk then.  Returns those that had no room.

        That their events are lost is kept too, to be counted in the store.
        """
        self.keep_name()
        rows = []
        octets, lost, last = self.octets, 0, 0
        refused = []
        for parcel in parcels:
            content = _written(parcel)
            if octets + len(content) > self.limit:
                lost += len(parcel.rows) + parcel.lost
                last = parcel.last
                refused.append(parcel)
                continue
            octets += len(content)
            rows.append((parcel.last, len(parcel.rows), content))
        before = self._losses if lost else None
        if lost:
            losses = Parcel(last, [], [], lost + (before.lost if before else 0))
            rows.append((last, 0, _written(losses)))
            octets += len(rows[-1][2]) - (len(_written(before)) if before else 0)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if before is not None:
                self._connection.execute("DELETE FROM parcel WHERE last = ?", (before.last,))
            self._connection.executemany("INSERT INTO parcel VALUES (?, ?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self.octets = octets
        if lost:
            self._losses = losses
        self.waiting += len(rows) - (before is not None)
        return refused

    def take(self, events: int) -> list[Parcel]:
        """Return the parcels that wait longest, some so many events.  They stay until `drop`."""
        parcels: list[Parcel] = []
        rows = self._connection.execute(
            "SELECT content FROM parcel WHERE last > ? ORDER BY last", (self._dropped,)
        )
        for (content,) in rows:
            parcels.append(_read(content))
            events -= len(parcels[-1].rows)
            if events <= 0:
                break
        self._losses = None
        return parcels

    def drop(self, last: int) -> None:
        """Forget what is kept elsewhere now, up to a sequence number."""
        count, octets = self._connection.execute(
            "SELECT count(*), coalesce(sum(length(content)), 0) FROM parcel "
            "WHERE last > ? AND last <= ?",
            (self._dropped, last),
        ).fetchone()
        self.waiting -= count
        self.octets -= octets
        self._dropped, self._losses = last, None
        self._is_dirty = True
        self.tidy()

    def tidy(self) -> None:
        """Have the names of readers stay nowhere: delete what was dropped, in the log too.

        What cannot be done on a full disk, or while somebody reads, is done the next time.
        """
        if not self._is_dirty:
            return
        delete = "DELETE FROM parcel WHERE last <= ?", (self._dropped,)
        with suppress(sqlite3.Error), sqlite.patience(self._connection, 0):
            try:
                self._connection.execute(*delete)
            except sqlite3.Error:  # the log may have room when it is in the file
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._connection.execute(*delete)
            busy = 0
            if not self.waiting:
                ask = "PRAGMA wal_checkpoint(TRUNCATE)"
                ((busy, _, _),) = self._connection.execute(ask).fetchall()
            self._is_dirty = bool(busy)


def _write(lock: int, number: int) -> None:
    os.pwrite(lock, str(number).encode().ljust(_OCTETS), 0)
    os.fsync(lock)


def mark_of(key: bytes) -> str:
    """Return what tells a store from others, made of its key for names."""
    return blake2b(key, digest_size=8).hexdigest()


def open_spool(folder: str, limit: int = LIMIT, store: str = "", *, shared: bool = False) -> Spool:
    """Open the first free spool of a folder, one in which events wait before all others.

    But none in which those of another store wait; while the mark of this one is not known, in a
    folder that may be `shared` with other stores, none with a mark.
    """
    free: list[Spool] = []
    for slot in range(1, _SLOTS + 1):
        path = f"{folder}/spool-{slot}.db"
        if free and not os.path.exists(path):
            break
        try:
            spool = Spool(path, limit)
        except TryAgain:
            continue
        is_told = bool(store) or shared
        if is_told and spool.waiting and spool.store not in {"", store}:
            spool.close()
        else:
            free.append(spool)
    if not free:
        msg = f"all {_SLOTS} spools in {folder} are in use"
        raise TryAgain(msg, "sestrack serve --spool FOLDER")
    chosen = max(free, key=lambda spool: spool.waiting)
    for spool in free:
        if spool is not chosen:
            spool.close()
    if not chosen.waiting and chosen.store != store:
        # its first event may wait before PostgreSQL answers, and must not under another's mark
        with suppress(sqlite3.Error):
            chosen.note_writer(store, 0)
    return chosen


def own_left(folder: str, store: str, limit: int) -> Spool | None:
    """Open a spool in which events of a store wait while no server has it."""
    for path in sorted(glob(f"{escape(folder)}/spool-*.db")):
        with suppress(SestrackError):  # a server has it
            spool = Spool(path, limit)
            if spool.waiting and spool.store == store:
                spool.limit += spool.octets  # what was left takes no room from what comes
                return spool
            spool.close()
    return None


class Wait(NamedTuple):
    """Events that wait in a spool."""

    path: str
    events: int
    is_had: bool
    """Whether a server has it, and is to store them."""
    since: int
    """The time (ms) of the first of them; 0 if it is not known."""


def waiting_in(pattern: str) -> list[Wait]:
    """Return the spools in which events wait, be they a server's or left behind by one."""
    found = []
    for path in sorted(glob(pattern)):
        is_had = False
        try:
            Spool(path).close()
        except TryAgain:
            is_had = True
        except SestrackError:
            continue  # it is another user's
        name = sqlite.uri_of(path, "ro")
        with suppress(sqlite3.Error), closing(sqlite3.connect(name, uri=True)) as spool:
            ((events,),) = spool.execute("SELECT sum(events) FROM parcel").fetchall()
            for (content,) in spool.execute("SELECT content FROM parcel ORDER BY last LIMIT 1"):
                rows = _read(content).rows
                found.append(Wait(path, events, is_had, rows[0][0] if rows else 0))
    return found


def _written(parcel: Parcel) -> bytes:
    """Write a parcel as JSON, with those targets alone that its rows name."""
    used = sorted({row[1] for row in parcel.rows})
    place = {index: number for number, index in enumerate(used)}
    rows = [
        (at, place[index], recipient, minted, ip, agent.decode("latin-1"), traits)
        for at, index, recipient, minted, ip, agent, traits in parcel.rows
    ]
    targets = [parcel.targets[index] for index in used]
    return json.dumps([parcel.first, rows, targets, parcel.lost]).encode()


def _read(content: bytes) -> Parcel:
    first, rows, targets, lost = json.loads(content)
    return Parcel(
        first,
        [(*row[:5], row[5].encode("latin-1"), row[6]) for row in rows],
        [(kind, tuple(origin), number, url) for kind, origin, number, url in targets],
        lost,
    )
