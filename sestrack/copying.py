"""Copying a store into another one, whatever the two live on.

Table by table in the order of their keys, a piece at a time.  A piece and how far the table is
(the table `copying` of the new store) are one transaction there, so `kill -9` loses nothing,
and the same command goes on where it was.  Memory stays flat.

Nobody else writes to the old store meanwhile; it can be read, so mail is rewritten as ever.
The new one is no store before all is there: its version is negative until then, and every
other command refuses it.  First both are read again and compared, by the sum of a digest of
each row, which is the same in whatever order rows come (texts sort differently in the two
engines).  A table that differs is emptied, to be copied anew by the same command.

What stays behind is what only servers that run have: who they are, who keeps the figures.
"""

from __future__ import annotations

import json
import os
from contextlib import closing, contextmanager, suppress
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from sestrack.engines import engine_of, sqlite, tables
from sestrack.engines.tables import TABLES, digest
from sestrack.errors import BadInput, InputOutputError, NotSetUp, Refused, TryAgain, UsageError
from sestrack.files import is_same, not_there
from sestrack.tracker.names import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from sestrack.engines.interface import Connection, Engine, Row
    from sestrack.engines.tables import Table

    Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]
    """Shows how far a work is: its title, how many steps it has, and how many are done."""

_REFERRING = {"trace_domain": "entry"}
"""Which table has a foreign key to another one, and so is emptied with it."""
_WHO = ""
"""The row of `copying` that names the old store: by the key of its recipients' hashes."""


class CopiedTable(NamedTuple):
    """A table that is the same in both stores."""

    table: str
    rows: int
    digest: str
    """The sum of its rows' digests (BLAKE2b, 128 bits), in hexadecimal."""


class CopiedStore(NamedTuple):
    """What was done."""

    tables: list[CopiedTable]
    resumed: int
    """How many rows an interrupted copy had left there."""
    altered: int
    """How many rows have texts that the new store cannot keep as they are: NUL is U+FFFD there."""


class _Mark(NamedTuple):
    """How far a table is."""

    last: str
    """The key of the last row, as JSON; "" before the first."""
    copied: int
    done: int


class _Side(NamedTuple):
    """One of the two stores."""

    address: str
    engine: Engine
    connection: Connection

    @property
    def name(self) -> str:
        return self.engine.shown(self.address)

    def errors(self) -> AbstractContextManager[None]:
        return self.engine.errors(self.address)


def copy(source: str, target: str, progress: Progress, *, live: bool = False) -> CopiedStore:
    """Copy the store at one address to another one, or go on with it.

    With `live` the source may be served: what is there at one moment is copied, for a backup.

    Raises `Refused` where there is a store already, or half of another one; `TryAgain` while
    the source is served; `InputOutputError` if what was written is not what was read.
    """
    if source == target or _is_same_file(source, target):
        msg = f"both stores are {engine_of(source).shown(source)}"
        raise UsageError(msg, "sestrack copy /var/lib/sestrack/store.db postgresql://HOST/DATABASE")
    if os.path.isdir(source):
        msg = f"{source} is a folder, and a store is a file"
        file = quote(os.path.join(source, "store.db"))
        raise BadInput(msg, f"sestrack copy {file} {quote(engine_of(target).shown(target))}")
    if engine_of(source).KIND == sqlite.KIND and not os.path.exists(source):
        raise not_there(source)
    with _opened(source) as old:
        with old.errors():
            old.engine.check_schema(old.connection, source)
        if live:
            with old.errors():
                old.connection.snapshot()
        else:
            _check_not_served(old)
            with old.errors():
                old.connection.freeze([*(table.name for table in TABLES), "writer"])
        try:
            _check_place(target)
        except BadInput as error:
            raise BadInput(error.message, _elsewhere(old)) from None
        with _opened(target) as new:
            marks = _begin(old, new)
            rows = _count(old)
            there = sum(mark.copied for mark in marks.values())
            with progress("copying", rows, there) as step:
                _copy_tables(old, new, marks, step)
            with progress("verifying", 2 * rows, 0) as step:
                copied, altered = _verify(old, new, step)
            if not live:
                _check_not_served(old)
            _finish(new)
    return CopiedStore(copied, there, altered)


@contextmanager
def _opened(address: str, *, writing: bool = True) -> Iterator[_Side]:
    engine = engine_of(address)
    with engine.errors(address):
        connection = engine.connect(address, writing=writing, wait=5)
    with closing(connection):
        yield _Side(address, engine, connection)


def _check_not_served(old: _Side) -> None:
    urls = old.engine.served_at(old.address)
    if urls:
        where = ", ".join(filter(None, urls))
        msg = f"the store {old.name} is being served{where and f' at {where}'}"
        raise TryAgain(msg, "systemctl stop sestrack  # then the same command again")


def _check_place(target: str) -> None:
    """See that it is no other program's, before anything is written there."""
    engine_of(target).create(target)
    with _opened(target, writing=False) as new, new.errors():
        if new.engine.version(new.connection) == 0:
            with suppress(NotSetUp):  # which is what it should be
                new.engine.check_schema(new.connection, target)


def _is_same_file(source: str, target: str) -> bool:
    return "://" not in source + target and is_same(source, target)


def _begin(old: _Side, new: _Side) -> dict[str, _Mark]:
    """Make the new store, or see that it is half of a copy of the old one."""
    with old.errors():
        who = _who(old.connection)
    with new.errors(), new.connection.changing():
        version = new.engine.version(new.connection)
        if version > 0:
            words = "is set up already"
            if _who(new.connection) == who:
                words = f"is what {old.name} is, or was: one is a copy of the other"
            msg = f"the store {new.name} {words}"
            raise Refused(msg, _elsewhere(old))
        if version == 0:
            _make(new, who)
        elif version != -new.engine.SCHEMA_VERSION:
            msg = f"another version of sestrack began to copy into {new.name}"
            raise Refused(msg, _elsewhere(old))
        rows = new.connection.execute("SELECT name, last, copied, done FROM copying").fetchall()
    marks = {name: _Mark._make(mark) for name, *mark in rows}
    if marks.pop(_WHO).last != who:
        msg = f"{new.name} is the half of a copy, but not of {old.name}"
        raise Refused(msg, _elsewhere(old))
    return marks


def _elsewhere(old: _Side) -> str:
    return f"sestrack copy {quote(old.name)} FILE  # one that is not there, or an empty database"


def _who(connection: Connection) -> str:
    return key_of(connection).hex()


def _make(new: _Side, who: str) -> None:
    new.engine.migrate(new.connection)
    new.engine.set_version(new.connection, -new.engine.SCHEMA_VERSION)
    new.connection.execute(
        "CREATE TABLE copying (name text PRIMARY KEY, last text NOT NULL, "
        "copied bigint NOT NULL, done bigint NOT NULL)"
    )
    rows = [(_WHO, who, 0, 0), *((table.name, "", 0, 0) for table in TABLES)]
    new.connection.insert("copying", ("name", "last", "copied", "done"), rows)
    _clear(new.connection, {table.name for table in TABLES})  # of what `migrate` puts in


def _clear(connection: Connection, names: set[str]) -> None:
    names = names | {_REFERRING[name] for name in names if name in _REFERRING}
    for table in reversed(TABLES):
        if table.name in names:
            connection.execute(f"DELETE FROM {table.name}")
            connection.execute(
                "UPDATE copying SET last = '', copied = 0, done = 0 WHERE name = ?", (table.name,)
            )


def _count(old: _Side) -> int:
    with old.errors():
        return sum(
            old.connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
            for table in TABLES
        )


def _copy_tables(
    old: _Side, new: _Side, marks: dict[str, _Mark], step: Callable[[int], None]
) -> None:
    for table in TABLES:
        mark = marks[table.name]
        if mark.done:
            continue
        pieces = table.pieces(old.connection, tuple(json.loads(mark.last or "[]")))
        while not mark.done:
            with old.errors():
                rows = next(pieces)
            with new.errors():
                mark = _put(new.connection, table, rows, mark)
            step(len(rows))
    with old.errors():
        writers = old.connection.writers()
    with new.errors(), new.connection.transaction():
        new.connection.put_writers(writers)


def _put(connection: Connection, table: Table, rows: list[Row], mark: _Mark) -> _Mark:
    """Write a piece; return how far the table is then."""
    last = json.dumps(rows[-1][: len(table.key)]) if rows else mark.last
    moved = _Mark(last, mark.copied + len(rows), int(len(rows) < tables.PIECE))
    connection.make_room(table.name, table.columns, rows)
    with connection.transaction():
        # the fence, too: another copy, or the last words of one that was killed, moved it
        found = connection.execute(
            "UPDATE copying SET last = ?, copied = ?, done = ? "
            "WHERE name = ? AND last = ? AND done = 0",
            (*moved, table.name, mark.last),
        )
        if found.rowcount != 1:
            msg = f"another sestrack copy writes the table {table.name}"
            raise TryAgain(msg, "the same command again  # goes on where it is")
        connection.insert(table.name, table.columns, rows)
    return moved


def _verify(old: _Side, new: _Side, step: Callable[[int], None]) -> tuple[list[CopiedTable], int]:
    """Compare the two; have what differs copied anew the next time."""
    copied, altered, wrong, words = [], 0, set(), []
    for table in TABLES:
        with old.errors():
            wanted = digest(old.connection, table, new.connection.kept, step)
        with new.errors():
            found = digest(new.connection, table, None, step)
        if wanted[:2] != found[:2]:
            wrong.add(table.name)
            words.append(f"{table.name} ({wanted.rows} rows, {found.rows} there)")
        copied.append(CopiedTable(table.name, wanted.rows, f"{wanted.sum:032x}"))
        altered += wanted.altered
    with old.errors():
        marks = _judged(old.connection)
    with new.errors():
        if _judged(new.connection) != marks:
            words.append("writer")
        if wrong:
            with new.connection.transaction():
                _clear(new.connection, wrong)
    if words:
        msg = f"what {new.name} has is not what {old.name} has: {', '.join(words)}"
        raise InputOutputError(msg, "the same command again  # copies these tables anew")
    return copied, altered


def _judged(connection: Connection) -> set[tuple[int, int]]:
    """Return how far writers are in the figures; the one of SQLite need not have begun."""
    return {(writer, judged) for writer, judged, _ in connection.writers()} | {(0, 0)}


def _finish(new: _Side) -> None:
    with new.errors(), new.connection.changing():
        new.connection.number_on()
        new.connection.execute("DROP TABLE copying")
        new.engine.set_version(new.connection, new.engine.SCHEMA_VERSION)


__all__ = ["CopiedStore", "CopiedTable", "copy"]
