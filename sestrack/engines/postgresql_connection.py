"""A connection to PostgreSQL, with psycopg.

Each statement is a transaction of its own unless `transaction` is around it.  Statements
are written for both engines, with `?` for their values; many rows at once go as one array a
column, which PostgreSQL unnests.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.adapt import Loader
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.types.numeric import IntDumper

from sestrack.engines import partitions
from sestrack.engines.interface import WriterMark
from sestrack.engines.postgresql_schema import NUMBERED, PARTITIONED
from sestrack.errors import TryAgain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from psycopg.pq.abc import PGresult

    from sestrack.engines.interface import Row, Rows

LEASE_SECONDS = 10
SILENT_SECONDS = 3 * LEASE_SECONDS
"""How long a server must have been silent to be missed: what it is at may take it a while."""
MISSED_SECONDS = 7 * 86_400
"""How long a server is missed that ended without saying so."""
_DIVIDED_BY_ZERO = "22012"
CHANNEL = "sestrack"
"""Where a change of settings or keys is told (NOTIFY)."""
NOW = "CAST(EXTRACT(EPOCH FROM CURRENT_TIMESTAMP) AS bigint)"


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
        if not values:  # then psycopg looks for no marks
            return self.raw.execute(sql)  # type: ignore[return-value]
        return self.raw.execute(_marks(sql), values)  # type: ignore[return-value]

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
        self._refuse_warnings()

    def _refuse_warnings(self) -> None:
        """Take no COMMIT with a warning for one.

        A wait that was cancelled is one, with a warning without a code of its own, in whatever
        language (syncrep.c); no other warning belongs there either.
        """
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

    def drop_days(self, before_day: int, first: Callable[[], None]) -> int:
        """Drop the events of whole days at once; return how many went."""
        self._days.clear()
        return partitions.drop(self, before_day, self.writers(), first)

    def number_on(self) -> None:
        """Have new ids come behind those that were copied in with their rows."""
        for table in NUMBERED:
            self.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), "
                f"(SELECT coalesce(max(id), 0) + 1 FROM {table}), false)"
            )

    def wipe(self) -> bool:
        """Have the rows that were changed or deleted taken out of the tables (VACUUM).

        What the write-ahead log and backups hold of them leaves with those.
        """
        for table in (*PARTITIONED, "first"):
            self.execute(f"VACUUM {table}")
        return True

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

    def store(self, move: str, copy: str, lines: bytes) -> bool:
        """Move a mark and copy lines in, as `moving` and `copy` would, in two round trips.

        All statements go in one message of the simple protocol (PostgreSQL's manual, 55.2.2),
        and COMMIT runs behind the last line.  False if `move` changed no row: then nothing was
        done.  On two busy cores each round trip saved is half a millisecond.
        """
        pgconn = self.raw.pgconn
        begun = pgconn.exec_(
            f"BEGIN; SET LOCAL lock_timeout = {self._wait_ms}; "
            f"WITH moved AS ({move} RETURNING 1) SELECT 1 / count(*) FROM moved; "
            f"{copy}; COMMIT".encode()
        )
        if begun.status != ExecStatus.COPY_IN:
            failure = self._undone(begun)
            if failure.sqlstate == _DIVIDED_BY_ZERO:
                return False
            raise failure
        pgconn.put_copy_data(lines)
        self.warnings.clear()
        pgconn.put_copy_end()
        for result in self._results():
            if result.status != ExecStatus.COMMAND_OK:
                raise self._undone(result)
        self._refuse_warnings()
        return True

    def _results(self) -> list[PGresult]:
        """Wait for all results; the other threads of the process go on meanwhile."""
        pgconn = self.raw.pgconn
        results: list[PGresult] = []
        while True:
            while pgconn.is_busy():
                select.select([pgconn.socket], [], [])
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                return results
            results.append(result)

    def _undone(self, result: PGresult) -> psycopg.Error:
        """Undo the transaction; return what went wrong in it."""
        if self.raw.pgconn.status != ConnStatus.OK:
            return psycopg.OperationalError(result.get_error_message())
        with suppress(psycopg.Error):
            self.raw.execute("ROLLBACK")
        return error_from_result(result)

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
            f"UPDATE progress SET keeper = ?, kept_until = {NOW} + {LEASE_SECONDS} "
            f"WHERE keeper = ? OR kept_until < {NOW}"
        )
        return self.execute(sql, (name, name)).rowcount == 1

    def release(self, name: str) -> None:
        """Give the lease back."""
        self.execute("UPDATE progress SET kept_until = 0 WHERE keeper = ?", (name,))

    def announce(self, name: str, url: str) -> None:
        """Say that a server records into the store now."""
        self.execute(
            f"INSERT INTO server (name, url, seen_at) VALUES (?, ?, {NOW}) "
            f"ON CONFLICT (name) DO UPDATE SET url = excluded.url, seen_at = {NOW}",
            (name, url),
        )

    def replace(self, name: str, url: str) -> None:
        """Miss those no longer in whose place a server begins: those of its machine and URL.

        One of the same URL on another machine is not missed either, once it is silent: the
        name of a machine in a cloud does not come again.
        """
        self.execute(
            f"DELETE FROM server WHERE name <> ? AND url = ? AND (seen_at <= {NOW} - "
            f"{LEASE_SECONDS} OR split_part(name, ':', 1) = split_part(?, ':', 1))",
            (name, url, name),
        )

    def withdraw(self, name: str) -> None:
        """Say that it does no longer; forget those that were missed long enough."""
        self.execute(
            f"DELETE FROM server WHERE name = ? OR seen_at < {NOW} - {MISSED_SECONDS}", (name,)
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
