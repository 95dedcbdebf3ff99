"""PostgreSQL, or what speaks its protocol: the store of many servers.

The address is a URL as libpq takes it (RFC 3986; PostgreSQL's manual, 34.1.1.2); it may name
several hosts, and who writes then asks for the one that may be written to.  A password had
better not stand in it: `~/.pgpass` and `PGPASSWORD` are read as ever, and where it does stand
in it, it is shown nowhere.

Each statement is a transaction of its own unless `transaction` is around it.  Statements
are written for both engines, with `?` for their values.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sestrack.engines import addresses, partitions
from sestrack.engines.interface import WriterMark
from sestrack.engines.postgresql_errors import Place, judge_code, judge_words, lost
from sestrack.engines.postgresql_schema import NUMBERED, PARTITIONED, SCHEMA_VERSION, apply
from sestrack.errors import NotSetUp, SestrackError, TryAgain

try:
    import psycopg
    from psycopg.adapt import Loader
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.types.numeric import IntDumper
except ImportError as missing:
    MISSING = f"a store in PostgreSQL needs psycopg: {str(missing).partition(chr(10))[0]}"
    raise NotSetUp(MISSING, "pip install 'sestrack[postgresql]'") from None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sestrack.engines.interface import Row, Rows

KIND = "postgresql"
CONNECT_SECONDS = 5
SILENCE_MS = 10_000
"""How long the network may be silent on what was sent before the connection is given up."""
LEASE_SECONDS = 10
CHANNEL = "sestrack"
"""Where a change of settings or keys is told (NOTIFY)."""
_NOW = "CAST(EXTRACT(EPOCH FROM CURRENT_TIMESTAMP) AS bigint)"


class _Flag(IntDumper):
    """Writes True and False as the numbers that both engines keep."""

    def dump(self, obj: Any) -> Any:
        return super().dump(int(obj))


class _Whole(Loader):
    """Reads what `sum` makes of bigints: a numeric without a fraction."""

    def load(self, data: Any) -> int:
        return int(bytes(data))


class Connection:
    """A connection as `interface.Connection` has it."""

    def __init__(self, raw: psycopg.Connection[Any], wait: float) -> None:
        """Take psycopg's connection, in autocommit mode."""
        self.raw = raw
        self._wait_ms = int(wait * 1000)
        self._days: set[int] = set()
        self._types: dict[str, dict[str, str]] = {}
        self.warnings: deque[str] = deque(maxlen=8)
        """What the server warned of since the last COMMIT began."""
        raw.adapters.register_dumper(bool, _Flag)
        raw.adapters.register_loader("numeric", _Whole)
        raw.add_notice_handler(self._notice)

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self.warnings.append(notice.message_primary or "")

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        """Run a statement."""
        return self.raw.execute(_marks(sql), values or None)  # type: ignore[return-value]

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement with each of the rows."""
        with self.raw.cursor() as cursor:
            cursor.executemany(_marks(sql), rows)

    def close(self) -> None:
        """Close it."""
        self.raw.close()

    @contextmanager
    def transaction(self, first: str = "") -> Iterator[int]:
        """All of what is done in it, or nothing; a lock is waited for as long as told.

        `first` is sent along with BEGIN; gives how many rows it changed.

        Raises `TryAgain` if the wait for the standbys was cut short: then it is kept here,
        but nobody knows whether elsewhere too.
        """
        try:
            begun = self.raw.execute(f"BEGIN; SET LOCAL lock_timeout = {self._wait_ms}; {first}")
            while begun.nextset():
                pass
            yield begun.rowcount
        except BaseException:
            with suppress(psycopg.Error):
                self.raw.execute("ROLLBACK")
            raise
        self.warnings.clear()
        self.raw.execute("COMMIT")
        # a wait that was cancelled is a COMMIT with a warning without a code of its own, in
        # whatever language (syncrep.c); no other warning belongs here either
        if self.warnings:
            msg = f"PostgreSQL did not wait for a standby: {self.warnings[0]}"
            raise TryAgain(msg, "the same again")

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Make a transaction that no other `changing` runs beside, and tell the servers after.

        A row lock, for advisory locks are not everywhere what they seem: CockroachDB takes
        them and holds nothing.
        """
        with self.transaction():
            ((there,),) = self.execute("SELECT to_regclass('sestrack') IS NOT NULL").fetchall()
            if there:
                self.execute("UPDATE sestrack SET version = version")
            yield
            self.execute(f"SELECT pg_notify('{CHANNEL}', '')")

    @contextmanager
    def derived(self) -> Iterator[None]:
        """Make a transaction of what can be made again: it waits for no disk and no standby."""
        with self.transaction("SET LOCAL synchronous_commit = off"):
            yield

    def snapshot(self) -> None:
        """See from now on, until closed, what there is now."""
        self.raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def freeze(self, tables: Sequence[str]) -> None:
        """Let nobody else write to these tables until closed; whoever changes settings waits."""
        self.raw.execute(f"BEGIN; SET LOCAL lock_timeout = {self._wait_ms}")
        self.execute(f"LOCK TABLE sestrack, {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE")

    def insert(
        self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], conflict: str = ""
    ) -> None:
        """Insert rows, all with one statement."""
        self._insert(table, columns, rows, conflict)

    def insert_new(
        self, table: str, columns: Sequence[str], rows: Sequence[Row], key: int
    ) -> set[Row]:
        """Insert those rows that are not there; return their keys."""
        conflict = f"ON CONFLICT DO NOTHING RETURNING {', '.join(columns[:key])}"
        done = self._insert(table, columns, rows, conflict)
        return set(done.fetchall()) if done else set()

    def _insert(
        self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], more: str
    ) -> Rows | None:
        rows = list(rows)
        if not rows:
            return None
        self.make_room(table, columns, rows)
        arrays, lists = self._arrays(table, columns, list(zip(*rows, strict=True)))
        sql = f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM {arrays} {more}"
        return self.execute(sql, lists)

    def those_there(self, table: str, columns: Sequence[str], keys: Sequence[Row]) -> set[Row]:
        """Return those keys that have a row."""
        if not keys:
            return set()
        names = ", ".join(columns)
        arrays, values = self._arrays(table, columns, list(zip(*keys, strict=True)))
        sql = f"SELECT {names} FROM {table} JOIN {arrays} AS asked ({names}) USING ({names})"
        return set(self.execute(sql, values).fetchall())

    def _arrays(
        self, table: str, columns: Sequence[str], values: Sequence[Sequence[Any]]
    ) -> tuple[str, list[str | list[Any]]]:
        """Return what makes rows of one array a column, and the arrays."""
        types = self._types_of(table)
        kinds = [types[column.strip('"')] for column in columns]
        return f"unnest({', '.join(f'?::{kind}[]' for kind in kinds)})", [
            _array([kept(text) for text in column] if kind == "text" else list(column))
            for kind, column in zip(kinds, values, strict=True)
        ]

    def _types_of(self, table: str) -> dict[str, str]:
        """Return the types of a table's columns, asked for once."""
        if table not in self._types:
            rows = self.execute(
                "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
                "WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped",
                (table,),
            )
            self._types[table] = dict(rows.fetchall())
        return self._types[table]

    def writers(self) -> list[WriterMark]:
        """Return how far all writers are."""
        rows = self.execute("SELECT id, judged, stored FROM writer ORDER BY id")
        return [WriterMark._make(row) for row in rows]

    def put_writers(self, marks: Sequence[WriterMark]) -> None:
        """Have these writers; who stores under a number says so when it begins to."""
        self.execute("DELETE FROM writer")
        columns = ("id", "judged", "stored", "owner")
        self.insert("writer", columns, [(*mark, "") for mark in marks])

    def make_room(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Have the partitions of such rows there."""
        if table in PARTITIONED:
            place = list(columns).index("at")
            self.ensure_days({row[place] // partitions.DAY_MS for row in rows})

    def ensure_days(self, days: set[int]) -> None:
        """Have the partitions of these days there."""
        if not days <= self._days:
            partitions.ensure(self, days - self._days)
            self._days |= days

    def drop_days(self, before_day: int) -> int:
        """Drop the events of whole days at once; return how many went."""
        self._days.clear()
        return partitions.drop(self, before_day, self.writers())

    def number_on(self) -> None:
        """Have new ids come behind those that were copied in with their rows."""
        for table in NUMBERED:
            self.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), "
                f"(SELECT coalesce(max(id), 0) + 1 FROM {table}), false)"
            )

    def wipe(self) -> None:
        """Have the rows that were changed or deleted taken out of the tables (VACUUM).

        What the write-ahead log and backups hold of them leaves with those.
        """
        for table in (*PARTITIONED, "first"):
            self.execute(f"VACUUM {table}")

    @staticmethod
    def kept(text: str) -> str:
        """Return a text as PostgreSQL can keep it."""
        return kept(text) or ""

    # -- what many servers need -----------------------------------------------------------

    moving = transaction

    def copy(self, sql: str, lines: bytes) -> None:
        """Copy lines in."""
        with self.raw.cursor() as cursor, cursor.copy(sql) as copy:
            copy.write(lines)

    def sever(self) -> None:
        """Shut the socket down: libpq may be used by one thread only."""
        with suppress(OSError, psycopg.Error):
            handle = socket.socket(fileno=os.dup(self.raw.fileno()))
            try:
                handle.shutdown(socket.SHUT_RDWR)
            finally:
                handle.close()

    def hold(self, name: str) -> bool:
        """Take or renew the lease to keep the figures; False while another one has it."""
        sql = (
            f"UPDATE progress SET keeper = ?, kept_until = {_NOW} + {LEASE_SECONDS} "
            f"WHERE keeper = ? OR kept_until < {_NOW}"
        )
        return self.execute(sql, (name, name)).rowcount == 1

    def release(self, name: str) -> None:
        """Give the lease back."""
        self.execute("UPDATE progress SET kept_until = 0 WHERE keeper = ?", (name,))

    def announce(self, name: str, url: str) -> None:
        """Say that a server records into the store now."""
        self.execute(
            f"INSERT INTO server (name, url, seen_at) VALUES (?, ?, {_NOW}) "
            f"ON CONFLICT (name) DO UPDATE SET url = excluded.url, seen_at = {_NOW}",
            (name, url),
        )

    def withdraw(self, name: str) -> None:
        """Say that it does no longer; forget those that ended without a word."""
        self.execute(
            f"DELETE FROM server WHERE name = ? OR seen_at < {_NOW} - {6 * LEASE_SECONDS}", (name,)
        )


@lru_cache(512)
def _marks(sql: str) -> str:
    """Write marks as psycopg has them; no statement of ours has `?` or `%` in a text."""
    return sql.replace("%", "%%").replace("?", "%s")


def _array(values: list[Any]) -> str | list[Any]:
    """Write an array as a literal where that is plain; psycopg does it a value at a time."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return "{" + ",".join(map(str, values)) + "}"
    if kinds == {str}:
        joined = '","'.join(values)
        if "\\" not in joined and joined.count('"') == 2 * (len(values) - 1):
            return '{"' + joined + '"}'
    return values


def kept(text: str | None) -> str | None:
    """Write a text as PostgreSQL can keep it: NUL and lone surrogates it cannot."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


# -- addresses ------------------------------------------------------------------------------


def shown(address: str) -> str:
    """Return the address without what is secret, or is nobody's business, in it."""
    return addresses.shown(address)


def _conninfo(address: str, **more: str | int) -> str:
    """Read the address; raise `UsageError` without quoting what may be a password."""
    if not addresses.is_plain(address):
        raise addresses.not_postgresql(address)
    try:
        known = conninfo_to_dict(address)
        usual: dict[str, str | int] = {
            "application_name": "sestrack", "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": SILENCE_MS, "keepalives_idle": 10, "keepalives_interval": 3,
            "keepalives_count": 3, "client_encoding": "UTF8",
        }  # fmt: skip
        return make_conninfo(address, **{k: v for k, v in (usual | more).items() if k not in known})
    except (psycopg.Error, ValueError) as error:
        raise addresses.not_postgresql(address, str(error)) from None


def _several(address: str) -> bool:
    return "," in str(conninfo_to_dict(address).get("host") or "")


def _open(conninfo: str, wait: float) -> Connection:
    raw = psycopg.connect(conninfo, autocommit=True)
    return Connection(raw, wait)


def connect(address: str, *, writing: bool, wait: float = 5.0) -> Connection:
    """Connect; of several hosts to the one that may be written to.

    Who reads takes a standby where there is no other: settings may be a moment old there,
    but a mail goes out.
    """
    if not _several(_conninfo(address)):
        return _open(_conninfo(address), wait)
    try:
        return _open(_conninfo(address, target_session_attrs="read-write"), wait)
    except psycopg.OperationalError:
        if writing:
            raise
        return _open(_conninfo(address, target_session_attrs="any"), wait)


def for_recording(address: str) -> Connection:
    """Connect to write events."""
    return connect(address, writing=True)


def create(address: str) -> None:
    """See that texts of all alphabets can be kept; the database itself is not ours to make."""
    with errors(address), closing(connect(address, writing=True)) as connection:
        encoding = connection.raw.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            msg = f"the database of {shown(address)} has the encoding {encoding}, not UTF8"
            raise NotSetUp(msg, f"one beside it: {_place(address).elsewhere}")
        if _is_there(connection):
            _refuse_newer(connection, address)


def _place(address: str) -> Place:
    """Take the address apart for messages."""
    known = {name: str(value) for name, value in conninfo_to_dict(_conninfo(address)).items()}
    user = known.get("user") or os.environ.get("PGUSER") or _own_name()
    database = known.get("dbname") or os.environ.get("PGDATABASE") or user
    return Place(shown(address), known.get("host", ""), known.get("port", ""), user, database)


def _own_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "postgres"


def check_schema(connection: Connection, address: str) -> None:
    """See whether the database is a store of this version."""
    if not _is_there(connection):
        msg = f"the store {shown(address)} is not set up"
        raise NotSetUp(msg, "sestrack init --edge HOST")
    known = _refuse_newer(connection, address)
    if known < 0:
        msg = f"the store {shown(address)} is half a copy of another one"
        raise NotSetUp(msg, f"sestrack copy FROM {shown(address)} goes on with it")
    if known < SCHEMA_VERSION:
        msg = f"the store {shown(address)} has schema {known}, and {SCHEMA_VERSION} is wanted"
        raise NotSetUp(msg, "sestrack init brings it up to date")


def _is_there(connection: Connection) -> bool:
    ((there,),) = connection.execute("SELECT to_regclass('sestrack') IS NOT NULL").fetchall()
    return bool(there)


def _refuse_newer(connection: Connection, address: str) -> int:
    """Return the version of the schema.  Raises `NotSetUp` if a newer sestrack made it."""
    ((version,),) = connection.execute("SELECT max(version) FROM sestrack").fetchall()
    if (version or 0) > SCHEMA_VERSION:
        msg = f"the store {shown(address)} was made by a newer sestrack (schema {version})"
        raise NotSetUp(msg, "pip install --upgrade sestrack")
    return int(version or 0)


def version(connection: Connection) -> int:
    """Return how many migrations made the store: 0 where none is, negative for half a copy."""
    if not _is_there(connection):
        return 0
    ((number,),) = connection.execute("SELECT max(version) FROM sestrack").fetchall()
    return int(number or 0)


def set_version(connection: Connection, version: int) -> None:
    """Say how many migrations made it, and by a negative number that it is half a copy."""
    connection.execute("UPDATE sestrack SET version = ?", (version,))


def migrate(connection: Connection) -> bool:
    """Run the migrations that are pending."""
    if version(connection) < 0:
        msg = "the store is half a copy of another one"
        raise NotSetUp(msg, "sestrack copy FROM TO goes on with it")
    return apply(connection)


# -- servers --------------------------------------------------------------------------------


@contextmanager
def serving(address: str) -> Iterator[Callable[[str], None]]:  # noqa: ARG001
    """Hold nothing: there may be many servers, and their keepers announce them."""
    yield lambda _: None


@contextmanager
def keeping(address: str) -> Iterator[None]:
    """Be the one that keeps the figures.  Raises `TryAgain` while another one is."""
    name = f"command-{time.time_ns()}"
    with errors(address):
        connection = connect(address, writing=True)
        try:
            if not connection.hold(name):
                msg = f"a server keeps the figures of {shown(address)}"
                raise TryAgain(msg, "sestrack doctor")
            yield
            connection.release(name)
        finally:
            connection.close()


def served_at(address: str) -> list[str]:
    """Return the URLs of the servers that have announced themselves of late."""
    with errors(address):
        connection = connect(address, writing=False)
        try:
            rows = connection.execute(
                f"SELECT url FROM server WHERE seen_at > {_NOW} - {LEASE_SECONDS} ORDER BY name"
            )
            return [url for (url,) in rows]
        finally:
            connection.close()


class Watch:
    """Is told of changes (LISTEN); where that cannot be had, it waits."""

    is_told = True

    def __init__(self, address: str) -> None:
        """Take the address; it connects when it first waits."""
        self._address = address
        self._raw: psycopg.Connection[Any] | None = None

    def wait(self, seconds: float) -> None:
        """Return when something was changed, or after so long."""
        end = time.monotonic() + seconds
        try:
            if self._raw is None:
                self._raw = connect(self._address, writing=True).raw
                self._raw.execute(f"LISTEN {CHANNEL}")
                return  # what was told before nobody heard
            for _ in self._raw.notifies(timeout=seconds, stop_after=1):
                return
        except (psycopg.Error, SestrackError):
            self.close()
            time.sleep(max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """Hang up."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None


def watch(address: str) -> Watch:
    """Look out for changes."""
    return Watch(address)


def free_space(address: str) -> None:
    """Tell nothing: the disk is another machine's."""


# -- errors ---------------------------------------------------------------------------------


@contextmanager
def errors(address: str) -> Iterator[None]:
    """Turn PostgreSQL's errors into ours.  None of them shows a password."""
    try:
        yield
    except psycopg.Error as error:
        raise _ours(error, address) from None


def _ours(error: psycopg.Error, address: str) -> Exception:
    place = _place(address)
    if error.sqlstate:
        words = " ".join((error.diag.message_primary or str(error)).split())
        if found := judge_code(error.sqlstate, words, place):
            return found
    elif isinstance(error, psycopg.OperationalError) or "connect_timeout" in str(error):
        return judge_words(str(error), place)
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return lost(str(error).partition("\n")[0], place.name)
    return error
