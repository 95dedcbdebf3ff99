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
import re
import socket
import time
from collections import deque
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from sestrack.engines import partitions
from sestrack.engines.interface import WriterMark
from sestrack.engines.postgresql_schema import NUMBERED, PARTITIONED, SCHEMA_VERSION, apply
from sestrack.errors import (
    BadInput,
    InputOutputError,
    NoPermission,
    NotSetUp,
    SestrackError,
    TryAgain,
    UsageError,
)

try:
    import psycopg
    from psycopg.adapt import Loader
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.types.numeric import IntDumper
except ImportError:
    MISSING = "a store in PostgreSQL needs psycopg, which is not installed"
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
        """What the server warned of; `transaction` clears it."""
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
    def transaction(self, more: str = "") -> Iterator[None]:
        """All of what is done in it, or nothing; a lock is waited for as long as told.

        Raises `TryAgain` if the wait for the standbys was cut short: then it is kept here,
        but nobody knows whether elsewhere too.
        """
        self.raw.execute(f"BEGIN; SET LOCAL lock_timeout = {self._wait_ms}; {more}")
        self.warnings.clear()
        try:
            yield
        except BaseException:
            with suppress(psycopg.Error):
                self.raw.execute("ROLLBACK")
            raise
        self.raw.execute("COMMIT")
        # a cancelled wait is a COMMIT with a warning that has no code of its own (syncrep.c)
        for warning in self.warnings:
            if "synchronous replication" in warning:
                msg = f"PostgreSQL did not wait for a standby: {warning}"
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
        values = list(zip(*rows, strict=True))
        if not values:
            return None
        if table in PARTITIONED:
            self.ensure_days({at // partitions.DAY_MS for at in values[list(columns).index("at")]})
        arrays, lists = self._arrays(table, columns, values)
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
    ) -> tuple[str, list[list[Any]]]:
        """Return what makes rows of one array a column, and the arrays."""
        types = self._types_of(table)
        kinds = [types[column.strip('"')] for column in columns]
        return f"unnest({', '.join(f'?::{kind}[]' for kind in kinds)})", [
            [kept(text) for text in column] if kind == "text" else list(column)
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
        """Nothing to do: vacuuming is PostgreSQL's own affair, and so are its backups."""

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

    @staticmethod
    def kept(text: str) -> str:
        """Return a text as PostgreSQL can keep it."""
        return kept(text) or ""

    # -- what many servers need -----------------------------------------------------------

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


def kept(text: str | None) -> str | None:
    """Write a text as PostgreSQL can keep it: NUL and lone surrogates it cannot."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


# -- addresses ------------------------------------------------------------------------------

_SECRETS = {"password", "sslpassword", "passfile", "sslkey"}


def shown(address: str) -> str:
    """Return the address without what is secret, or is nobody's business, in it."""
    parts = urlsplit(address)
    user, at, hosts = parts.netloc.rpartition("@")
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _SECRETS]
    text = f"{parts.scheme}://{user.partition(':')[0]}{at}{hosts}{parts.path}"
    return f"{text}?{urlencode(query)}" if query else text


def has_password(address: str) -> bool:
    """Does a password stand in the address?"""
    parts = urlsplit(address)
    return ":" in parts.netloc.rpartition("@")[0] or "password=" in parts.query


def _conninfo(address: str, **more: str | int) -> str:
    """Read the address; raise `UsageError` without quoting what may be a password."""
    try:
        known = conninfo_to_dict(address)
        usual: dict[str, str | int] = {
            "application_name": "sestrack", "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": SILENCE_MS, "keepalives_idle": 10, "keepalives_interval": 3,
            "keepalives_count": 3,
        }  # fmt: skip
        return make_conninfo(address, **{k: v for k, v in (usual | more).items() if k not in known})
    except (psycopg.Error, ValueError):
        msg = f"{_safe(address)} is not an address of PostgreSQL"
        raise UsageError(msg, "--store postgresql://USER@HOST:5432/DATABASE") from None


def _safe(address: str) -> str:
    """Show of a broken address what cannot be a password: what stands behind the last @."""
    try:
        return shown(address)
    except ValueError:
        return f"postgresql://…@{address.rpartition('@')[2]}" if "@" in address else address


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
    with errors(address):
        connection = connect(address, writing=True)
        encoding = connection.raw.info.parameter_status("server_encoding")
        connection.close()
    if encoding != "UTF8":
        name = connection_name(address)
        msg = f"the database of {shown(address)} has the encoding {encoding}, and UTF8 is wanted"
        raise NotSetUp(msg, f"createdb --encoding UTF8 --template template0 {name}")


def connection_name(address: str) -> str:
    """Return the name of the database."""
    known = conninfo_to_dict(_conninfo(address))
    return str(known.get("dbname") or known.get("user") or "sestrack")


def check_schema(connection: Connection, address: str) -> None:
    """See whether the database is a store of this version."""
    ((there,),) = connection.execute("SELECT to_regclass('sestrack') IS NOT NULL").fetchall()
    if not there:
        msg = f"the store {shown(address)} is not set up"
        raise NotSetUp(msg, "sestrack init --edge HOST")
    ((version,),) = connection.execute("SELECT max(version) FROM sestrack").fetchall()
    if (version or 0) > SCHEMA_VERSION:
        msg = f"the store {shown(address)} was made by a newer sestrack (schema {version})"
        raise NotSetUp(msg, "pip install --upgrade sestrack")
    if (version or 0) < SCHEMA_VERSION:
        msg = f"the store {shown(address)} has schema {version}, and {SCHEMA_VERSION} is wanted"
        raise NotSetUp(msg, "sestrack init brings it up to date")


def migrate(connection: Connection) -> bool:
    """Run the migrations that are pending."""
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

_BUSY = {"55P03", "40P01", "40001", "57014"}
_GONE = re.compile(r"^(08|57P0)")


@contextmanager
def errors(address: str) -> Iterator[None]:
    """Turn PostgreSQL's errors into ours.  None of them shows a password."""
    try:
        yield
    except psycopg.Error as error:
        raise _ours(error, shown(address), address) from None


def _ours(error: psycopg.Error, name: str, address: str) -> Exception:
    state = error.sqlstate or ""
    words = _words(error, address)
    found = _by_state(state, name, words, address) or _by_words(words, name)
    if found is not None:
        return found
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return TryAgain(
            f"the store {name} cannot be reached: {words}",
            "is it running, and the address right?  Then the same command again",
        )
    return error


def _by_state(state: str, name: str, words: str, address: str) -> SestrackError | None:
    """Judge by the code (PostgreSQL's manual, appendix A)."""
    database = connection_name(address)
    if state in _BUSY:
        msg = f"the store {name} is busy: {words}"
        return TryAgain(msg, "another sestrack is writing; the same command again")
    if state == "53300":
        msg = f"the store {name} has no connection left: {words}"
        return TryAgain(msg, "max_connections, or a pool in between; then the same command again")
    if state.startswith("53"):
        msg = f"the store {name} cannot be written: {words}"
        return InputOutputError(msg, "df -h on its machine shows the space left")
    if state == "25006":
        msg = f"the store {name} is a read-only standby"
        hint = "name the primary, or all of them: postgresql://USER@HOST1,HOST2/DATABASE"
        return NoPermission(msg, hint)
    if state.startswith("28"):
        msg = f"the store {name} does not let us in: {words}"
        return NoPermission(msg, "the user's password belongs into ~/.pgpass (mode 0600)")
    if state == "42501":
        hint = f'psql -c "GRANT ALL ON SCHEMA public TO …" {database}, or the owner of the database'
        return NoPermission(f"no right in the store {name}: {words}", hint)
    if state == "3D000":
        msg = f"there is no database for the store {name}: {words}"
        return NotSetUp(msg, f"createdb --encoding UTF8 --template template0 {database}")
    if state in {"42P01", "42703"}:
        msg = f"{name} is a database, but not a store of sestrack: {words}"
        return BadInput(msg, "sestrack init --edge HOST")
    return None


def _by_words(words: str, name: str) -> SestrackError | None:
    """Judge what libpq says of a connection that never was: it gives no code for it."""
    if "certificate" in words or "SSL" in words:
        msg = f"the certificate of the store {name} does not hold: {words}"
        return NotSetUp(
            msg, "sslmode=verify-full&sslrootcert=FILE in the address, or PGSSLROOTCERT"
        )
    for part, state in _STATES_BY_WORDS.items():
        if part in words:
            return _by_state(state, name, words, f"postgresql:///{name.rpartition('/')[2]}")
    if "read-only" in words or "hot standby" in words:
        msg = f"none of the hosts of the store {name} can be written to now: {words}"
        return TryAgain(msg, "a standby is being promoted, perhaps; then the same command again")
    return None


_STATES_BY_WORDS = {
    "too many clients": "53300",
    "remaining connection slots": "53300",
    "no more connections allowed": "53300",
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    "no pg_hba.conf entry": "28000",
    "authentication failed": "28000",
}


def _words(error: psycopg.Error, address: str) -> str:
    """Put what PostgreSQL says on one line, and take out a password should it stand there."""
    primary = error.diag.message_primary
    words = " ".join((primary or str(error) or type(error).__name__).split())
    for secret in _passwords(address):
        words = words.replace(secret, "***")
    return words


def _passwords(address: str) -> list[str]:
    parts = urlsplit(address)
    found = [value for name, value in parse_qsl(parts.query) if name in _SECRETS]
    user = parts.netloc.rpartition("@")[0]
    if ":" in user:
        found.append(user.partition(":")[2])
    found += [unquote(secret) for secret in found] + [quote(secret) for secret in found]
    return [secret for secret in found if secret]
