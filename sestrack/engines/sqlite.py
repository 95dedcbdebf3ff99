"""SQLite: the store is one file on this machine.

The file is made with mode 0600 before SQLite sees it, which gives its companions (-wal,
-shm) the same mode.  WAL keeps readers and the writer out of each other's way; whoever
writes begins IMMEDIATE and has it on disk at the end (synchronous=FULL).

Reading uses the standard library alone, because `rewrite` reads once per mail.  The schema
uses sqlite-utils (`sqlite_schema`), imported when it is made.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sestrack.engines import versions
from sestrack.engines.default import SERVICE_STORE, command, own_store
from sestrack.errors import (
    BadInput,
    CannotCreate,
    InputOutputError,
    NoPermission,
    NotSetUp,
    Refused,
    TryAgain,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from sestrack.engines.interface import Left, Note, Row, WriterMark

KIND = "sqlite"
APPLICATION_ID = 0x73657374  # "sest": tells our files from other SQLite files
SCHEMA_VERSION = 8
"""`PRAGMA user_version`: the number of migrations that made the file."""
_WIPES, _WIPE_MS = 50, 20
"""How often the log is tried to be emptied, and how long each time, milliseconds."""

BUSY_SECONDS = 5.0
_EMPTY_FILE = 4096  # SQLite's first page, which setting WAL writes
_SEQUENCE_BITS = 40  # of an event's id; in front of them is its writer (`tracker.events`)


class Connection(sqlite3.Connection):
    """A connection as `interface.Connection` has it."""

    path = ""
    """The file, as it was named."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is done in it, or nothing."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.in_transaction:
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    changing = transaction  # nobody else writes meanwhile, and servers look twice a second
    derived = transaction

    def snapshot(self) -> None:
        """See from now on, until closed, what there is now."""
        self.execute("BEGIN")

    def freeze(self, tables: Sequence[str]) -> None:  # noqa: ARG002 - it is one file
        """Let nobody else write until closed."""
        self.execute("BEGIN IMMEDIATE")

    def insert(
        self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], conflict: str = ""
    ) -> None:
        """Insert rows."""
        self.executemany(f"{_insert(table, columns)} {conflict}", rows)

    def insert_new(
        self, table: str, columns: Sequence[str], rows: Sequence[Row], key: int
    ) -> set[Row]:
        """Insert those rows that are not there; return their keys."""
        sql = f"{_insert(table, columns)} ON CONFLICT DO NOTHING"
        return {row[:key] for row in rows if self.execute(sql, row).rowcount}

    def those_there(self, table: str, columns: Sequence[str], keys: Sequence[Row]) -> set[Row]:
        """Return those keys that have a row."""
        where = " AND ".join(f"{column} = ?" for column in columns)
        sql = f"SELECT 1 FROM {table} WHERE {where}"
        return {key for key in keys if self.execute(sql, key).fetchone()}

    def writers(self) -> list[WriterMark]:
        """Return how far the writer here, 0, is, and those of a store this is a copy of.

        The ids of their last events say it.
        """
        from sestrack.engines.interface import WriterMark

        rows = self.execute(
            "SELECT id, judged, max(judged, coalesce((SELECT max(event.id) FROM event "
            f"WHERE event.id >= writer.id << {_SEQUENCE_BITS} "
            f"AND event.id < (writer.id + 1) << {_SEQUENCE_BITS}), 0)) FROM writer ORDER BY id"
        )
        return [WriterMark._make(row) for row in rows]

    def put_writers(self, marks: Sequence[WriterMark]) -> None:
        """Have these writers, and the one that writes here."""
        self.execute("DELETE FROM writer")
        self.insert("writer", ("id", "judged"), [mark[:2] for mark in marks])
        self.execute("INSERT INTO writer (id, judged) VALUES (0, 0) ON CONFLICT DO NOTHING")

    def make_room(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Nothing to do: tables have no parts."""

    @staticmethod
    def kept(text: str) -> str:
        """Return the text: it is kept as it is."""
        return text

    def drop_days(self, before_day: int, first: Callable[[], None]) -> int:  # noqa: ARG002
        """Drop nothing: rows are deleted one by one."""
        return 0

    def number_on(self) -> None:
        """Nothing to do: SQLite takes the id behind the largest."""

    def wipe(self) -> bool:
        """Move the log into the file, and begin it again from nothing.

        Whoever reads for long, as an export does, keeps the log from that.  Waiting for them
        would keep the server from writing, so each try waits no longer than a moment.
        """
        with patience(self, _WIPE_MS):
            for _ in range(_WIPES):
                ((busy, _, _),) = self.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                if not busy:
                    return True
                time.sleep(0.1)
        return False


@contextmanager
def patience(connection: sqlite3.Connection, milliseconds: int) -> Iterator[None]:
    """Wait for others no longer than that, for a while."""
    ((before,),) = connection.execute("PRAGMA busy_timeout").fetchall()
    connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {before}")


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(path)


def _insert(table: str, columns: Sequence[str]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"


class Watch:
    """Waits: that a file was changed is seen by looking."""

    is_told = False

    def wait(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def close(self) -> None:
        """Nothing is open."""


def watch(path: str) -> Watch:  # noqa: ARG001
    """Look out for changes."""
    return Watch()


def shown(path: str) -> str:
    """Return the path: there is nothing secret in it."""
    return path


def create(path: str) -> None:
    """Make an empty file that only its owner can read, if there is none."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        msg = f"cannot make the store {path}: it is a device or a pipe"
        raise CannotCreate(msg, f"ls -ld {_quoted(path)}")
    try:
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except PermissionError as error:
        msg = f"no permission to make the store {path}: {error.strerror}"
        raise NoPermission(msg, f"ls -ld {_quoted(os.path.dirname(path) or '.')}") from None
    except OSError as error:
        msg = f"cannot make the store {path}: {error.strerror}"
        there = path if os.path.isdir(path) else os.path.dirname(path) or "."
        raise CannotCreate(msg, f"ls -ld {_quoted(there)}") from None


def check_new(path: str) -> None:
    """Refuse to make a store where one was served that is gone: links in sent mail need its keys.

    Raises `Refused`, or `TryAgain` while a server has it yet, under another name.
    """
    from sestrack.engines import sqlite_lock

    mark = sqlite_lock.name_of(path)
    if not os.path.exists(path) and os.path.exists(mark):
        if sqlite_lock.served_at(path):
            msg = f"a server has what was at {path} open yet, under another name or none"
            raise TryAgain(msg, "systemctl stop sestrack  # it says where all of it is")
        msg = f"there was a store at {path}, which was served: a new one cannot open its links"
        anew = f"  # a backup; or, to begin anew: rm {_quoted(mark)}"
        raise Refused(msg, command(path, "restore FILE") + anew)


def check_name(path: str) -> None:
    """Raise `TryAgain` if a server has the file open under another name: there its log is."""
    from sestrack.engines import sqlite_lock

    sqlite_lock.check_file(path)


def _check_way(path: str) -> None:
    """Raise `NoPermission` if a folder on the way may not be looked into: there may be a store."""
    try:
        os.stat(path)
    except PermissionError as error:
        msg = f"no permission to look for the store {path}: {error.strerror}"
        folder = os.path.dirname(path)
        while folder != os.path.dirname(folder) and not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        raise NoPermission(msg, f"ls -ld {_quoted(folder or '.')}") from None
    except OSError:
        pass


def uri_of(path: str, mode: str) -> str:
    """Return a file as SQLite takes it to open what is there, and make nothing."""
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file:{quoted}?mode={mode}"


def connect(path: str, *, writing: bool, wait: float = BUSY_SECONDS) -> Connection:
    """Open the file."""
    if not os.path.exists(path):
        _check_way(path)
        msg = f"there is no store at {path}"
        if path == own_store() and os.path.exists(SERVICE_STORE):
            raise NotSetUp(msg, f"export SESTRACK_STORE={SERVICE_STORE}  # that of the service")
        from sestrack.engines import sqlite_health

        if sqlite_health.was_there(path):
            anew = "# a backup; a new store would have other keys, and links in sent mail be dead"
            msg += " any more"
            raise NotSetUp(msg, f"{command(path, 'restore FILE')}  {anew}")
        raise NotSetUp(msg, command(path, "init"))
    if os.path.isdir(path):
        msg = f"{path} is a folder, and a store is a file"
        raise BadInput(msg, f"--store {_quoted(os.path.join(path, 'store.db'))}")
    if writing:
        check_name(path)  # two logs destroy a store
    elif os.path.exists(f"{path}-journal"):
        _roll_back(path)
    connection = sqlite3.connect(
        uri_of(path, "rw" if writing else "ro"), uri=True, timeout=wait,
        isolation_level=None, factory=Connection,
    )  # fmt: skip
    connection.path = path
    with ExitStack() as undo:
        undo.callback(connection.close)
        connection.execute("PRAGMA foreign_keys = ON")
        if writing:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        undo.pop_all()
    return connection


def _roll_back(path: str) -> None:
    """Undo what a process left half done that was killed: who opens it to read only cannot."""
    name = uri_of(path, "rw")
    with suppress(sqlite3.Error), closing(sqlite3.connect(name, uri=True)) as connection:
        connection.execute("PRAGMA schema_version").fetchall()


def for_recording(path: str) -> Connection:
    """Connect to write events; what is deleted is overwritten."""
    connection = connect(path, writing=True)
    if not os.access(path, os.W_OK, effective_ids=True):
        # SQLite has opened it for reading, without a word
        connection.close()
        msg = f"the store {path} may not be written"
        raise NoPermission(msg, f"ls -l {_quoted(path)}")
    with ExitStack() as undo:
        undo.callback(connection.close)
        connection.execute("PRAGMA secure_delete = ON")
        undo.pop_all()
    return connection


def check_schema(connection: Connection, path: str) -> None:
    """See whether the file is a store of this version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == 0 and version == 0 and os.path.getsize(path) <= _EMPTY_FILE:
        msg = f"the store {path} is not set up"
        raise NotSetUp(msg, command(path, "init"))
    if application != APPLICATION_ID:
        msg = f"{path} is a database, but not a store of sestrack"
        raise BadInput(msg, f"file {_quoted(path)}")
    versions.check(version, SCHEMA_VERSION, path)


def version(connection: Connection) -> int:
    """Return how many migrations made the store: 0 where none is, negative for half a copy."""
    ((number,),) = connection.execute("PRAGMA user_version").fetchall()
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    return number if application == APPLICATION_ID else 0


def set_version(connection: Connection, version: int) -> None:
    """Say how many migrations made it, and by a negative number that it is half a copy."""
    connection.execute(f"PRAGMA user_version = {version}")


def migrate(connection: Connection) -> bool:
    """Run the migrations that are pending.

    Raises `TryAgain` while a server runs, which would be of the earlier version: it would write
    on by a schema that is no more.
    """
    before = version(connection)
    versions.refuse_half(before)
    # imported here, for it imports this module, and sqlite-utils
    from sestrack.engines.sqlite_schema import apply

    if not 0 < before < SCHEMA_VERSION:
        return apply(connection)
    try:
        with serving(connection.path):
            return apply(connection)
    except TryAgain:
        msg = f"a server of schema {before} records into {connection.path}"
        raise TryAgain(
            msg, "systemctl stop sestrack; sestrack init; systemctl start sestrack"
        ) from None


def serving(path: str) -> AbstractContextManager[Note]:
    """Hold the lock of the one server that writes to a file; yield what notes its URL there."""
    from sestrack.engines import sqlite_lock

    return sqlite_lock.serving(path)


@contextmanager
def keeping(path: str) -> Iterator[None]:
    """Be the one that keeps the figures: the server is, wherever one runs."""
    with serving(path):
        yield


def served_at(path: str) -> list[str]:
    """Return the URL of the server, if one runs; "" where it is not told."""
    from sestrack.engines import sqlite_lock

    return sqlite_lock.served_at(path)


def left(path: str) -> Left:
    """Return what servers left behind."""
    from sestrack.engines import sqlite_lock

    return sqlite_lock.left(path)


def free_space(path: str) -> int:
    """Return the octets left on the disk of the file."""
    status = os.statvfs(os.path.dirname(os.path.abspath(path)))
    return status.f_bavail * status.f_frsize


def trouble(connection: Connection, path: str) -> tuple[str, str]:
    """Look for damage, and whether it can be written."""
    from sestrack.engines import sqlite_health

    return sqlite_health.trouble(connection, path)


def set_aside_with(path: str, recipients: Sequence[str]) -> list[str]:
    """Name the stores that `restore` kept beside this one, with events of these recipients."""
    from sestrack.engines import sqlite_health

    return sqlite_health.set_aside_with(path, recipients)


@contextmanager
def errors(path: str) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite's own words quote damaged names of tables
        if b"malformed" not in error.object:
            raise
        msg = f"the store {path} is damaged: a name in it is no text"
        raise BadInput(msg, command(path, "restore --force FILE")) from None
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            msg = f"the store {path} is busy"
            raise TryAgain(msg, "another sestrack is writing; the same command again") from None
        if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            msg = f"the store {path} cannot be written: {error}"
            raise InputOutputError(msg, f"df -h {_quoted(os.path.dirname(path) or '.')}") from None
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
            folder = os.path.dirname(path) or "."
            if os.path.isdir(folder) and os.statvfs(folder).f_flag & os.ST_RDONLY:
                msg = f"the store {path} cannot be opened: its file system can only be read"
                raise NoPermission(msg, f"findmnt --target {_quoted(folder)}") from None
            if os.access(path, os.W_OK) and not os.access(folder, os.W_OK):
                msg = f"the store {path} cannot be opened: nothing can be written in its folder"
                raise NoPermission(msg, f"ls -ld {_quoted(folder)}") from None
            msg = f"the store {path} cannot be opened: {error}"
            raise NoPermission(msg, f"ls -l {_quoted(path)}") from None
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_CORRUPT:
            msg = f"the store {path} is damaged: {error}"
            raise BadInput(msg, command(path, "restore --force FILE")) from None
        if code == sqlite3.SQLITE_NOTADB:
            msg = f"{path} is not a store of sestrack: {error}"
            raise BadInput(msg, f"file {_quoted(path)}") from None
        raise
