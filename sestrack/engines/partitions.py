"""Partitions by day, in PostgreSQL.

A day's partition is made before its first event is written: as a table of its own that is
then attached, which keeps no writer out (`CREATE TABLE … PARTITION OF` would).  It leaves
with `--keep` as a whole: detached (CONCURRENTLY, so that neither writers nor long reports
hold each other up) and dropped.  That is two steps; one cut off between them is ended by
the next.

https://www.postgresql.org/docs/15/ddl-partitioning.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sestrack.engines.postgresql_schema import PARTITIONED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sestrack.engines.interface import WriterMark
    from sestrack.engines.postgresql_connection import Connection

DAY_MS = 86_400_000
_OURS = (
    "SELECT relname, relispartition, coalesce(inhdetachpending, false) FROM pg_class "
    "LEFT JOIN pg_inherits ON inhrelid = pg_class.oid "
    "WHERE relkind = 'r' AND relname ~ '^(event|visit)_d[0-9]+$' "
    "AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'event'::regclass)"
)
_THERE = {"42P07", "23505", "42710", "42809", "55000"}
"""What another server that makes the same partition gets for an answer."""


def ensure(connection: Connection, days: Iterable[int]) -> None:
    """Make the partitions of some days.  Not within a transaction."""
    missing = set(days)
    if not missing:
        return
    known = {name: (attached, pending) for name, attached, pending in connection.execute(_OURS)}
    for day in sorted(missing):
        for table in PARTITIONED:
            name = f"{table}_d{day}"
            if name not in known:
                _make(connection, table, day, f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
            elif known[name] != (True, False):  # it was about to leave: its day comes back
                if known[name][1]:
                    _try(connection, f"ALTER TABLE {table} DETACH PARTITION {name} FINALIZE")
                _make(connection, table, day)


def _make(connection: Connection, table: str, day: int, *before: str) -> None:
    _try(
        connection, *before,
        f"ALTER TABLE {table} ATTACH PARTITION {table}_d{day} "
        f"FOR VALUES FROM ({day * DAY_MS}) TO ({(day + 1) * DAY_MS})",
    )  # fmt: skip


def _try(connection: Connection, *statements: str) -> None:
    """Run statements in a transaction, unless another server has done the same."""
    try:
        with connection.transaction():
            for statement in statements:
                connection.execute(statement)
    except Exception as error:
        if getattr(error, "sqlstate", None) not in _THERE:
            raise


def drop(
    connection: Connection, before_day: int, writers: list[WriterMark], first: Callable[[], None]
) -> int:
    """Drop the days before one, as far as all of a day is in the figures.

    `first` is called before a day goes: whoever is killed in between must have said that it
    does.  Returns how many events went.
    """
    tables: dict[int, dict[str, tuple[bool, bool]]] = {}
    for name, attached, pending in connection.execute(_OURS).fetchall():
        table, _, day = name.partition("_d")
        tables.setdefault(int(day), {})[table] = attached, pending
    count = 0
    for day in sorted(day for day in tables if day < before_day):
        if any(_not_judged(connection, f"event_d{day}", mark) for mark in writers):
            continue
        first()
        for table, (attached, pending) in sorted(tables[day].items(), reverse=True):
            name = f"{table}_d{day}"
            if table == "event":
                count += connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            if attached:
                how = "FINALIZE" if pending else "CONCURRENTLY"
                connection.execute(f"ALTER TABLE {table} DETACH PARTITION {name} {how}")
            connection.execute(f"DROP TABLE {name}")
    return count


def _not_judged(connection: Connection, name: str, mark: WriterMark) -> Any:
    return connection.execute(
        f"SELECT 1 FROM {name} WHERE id > ? AND id <= ? LIMIT 1", (mark.judged, mark.stored)
    ).fetchone()
