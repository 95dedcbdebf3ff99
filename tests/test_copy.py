"""Copying a store to a new one, between the engines and back."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils
from conftest import ENGINES, Program, Server
from postgresql import QuickServer, until
from test_figures import fill

from sestrack.copying import copy
from sestrack.engines import engine_of, tables
from sestrack.engines.interface import Connection
from sestrack.engines.tables import TABLES
from sestrack.errors import InputOutputError, TryAgain
from sestrack.store import Store, initialise, open_for_recording, served_at
from sestrack.tracker.events import writer_of
from sestrack.tracker.ledger import events
from sestrack.tracker.places import Places
from sestrack.tracker.reports import BY, Look, Question, report
from sestrack.tracker.upkeep import Upkeep

Progress = Callable[[str, int, int], Any]


@pytest.fixture
def place(tmp_path: Path, quick: QuickServer) -> Iterator[Callable[[str], str]]:
    """Give what makes addresses of new stores, by the engine's name."""
    databases: list[str] = []

    def make(engine: str) -> str:
        if engine == "sqlite":
            return str(tmp_path / f"copy-{time.time_ns()}.db")
        databases.append(quick.fresh_database())
        return databases[-1]

    yield make
    for database in databases:
        quick.drop(database)


@pytest.fixture
def other(engine: str, place: Callable[[str], str]) -> str:
    """Give the address of a new store on the other engine."""
    return place(ENGINES[1 - ENGINES.index(engine)])


@pytest.fixture
def full(ready: Program) -> Program:
    """Give a store with something in every table; a part of the events is in the figures."""
    with closing(open_for_recording(ready.address)) as connection:
        fill(connection, 900, 1, writers=3)
        upkeep = Upkeep(connection, Places(), 200)
        for _ in range(3):
            upkeep.settle(None)
        fill(connection, 300, 2, writers=3)
        connection.execute("UPDATE config SET dimension = NULL, enabled = 1, text = '# é ∞'")
        connection.execute("INSERT INTO entry VALUES ('', 'trace.example.com', 1, 0, 1)")
        connection.execute("INSERT INTO entry VALUES ('news.example.com', NULL, 1, 0, 1)")
        connection.execute("INSERT INTO copies VALUES ('news.example.com', 'june', 80)")
        connection.execute("INSERT INTO campaign VALUES ('Zoë', 80, 1), ('abc', 2, 2)")
        connection.execute("INSERT INTO forgotten VALUES ('recipient-c0ffee', 9)")
        connection.execute(
            "INSERT INTO trace_check (trace_domain, state, found, since, until, times) "
            "VALUES ('trace.example.com', 'ok', 'a\nb\\', 1, 2, 3)"
        )
        connection.execute("UPDATE progress SET lost = 5, lost_at = 6, purged_day = 7")
    ready.ok("keys", "rotate")
    return ready


@contextmanager
def opened(address: str) -> Iterator[Connection]:
    """Give a connection that writes."""
    with closing(engine_of(address).connect(address, writing=True, wait=5)) as connection:
        yield connection


def quiet(*_: object) -> Any:
    """Show no progress."""
    return nullcontext(lambda _: None)


def when(title: str, action: Callable[[], None]) -> Progress:
    """Do something when a work begins, in place of showing it."""

    def progress(shown: str, *_: object) -> Any:
        if shown == title:
            action()
        return quiet()

    return progress


def rows_of(address: str) -> dict[str, list[str]]:
    """Read all that a store has, without the help of what copies it."""
    with opened(address) as connection:
        found = {
            table.name: sorted(
                map(
                    repr, connection.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}")
                )
            )
            for table in TABLES
        }
        # the one who writes into SQLite need not have written
        found["writer"] = [repr(mark) for mark in connection.writers() if mark[1:] != (0, 0)]
    return found


def told_by(address: str) -> tuple[object, ...]:
    """Return what `events export` and `stats` print, each `--by`."""
    with Store(address) as store:
        look = Look(store.connection, Places())
        reports = [list(report(look, Question(by=by))) for by in BY]
        return list(events(store.connection, Places(), {})), reports


def test_there_and_back(
    full: Program, engine: str, other: str, place: Callable[[str], str]
) -> None:
    """All rows, reports and exports are the same, and so are the settings and keys."""
    back = place(engine)
    first = full.ok("copy", full.address, other)
    assert full.ok("copy", other, back) == first
    rows = rows_of(full.address)
    assert all(rows.values())
    assert rows_of(other) == rows
    assert rows_of(back) == rows
    assert told_by(other) == told_by(full.address) == told_by(back)
    for command in ("keys list", "settings export", "events export", "stats --by recipient"):
        shown = [full.ok("--store", each, *command.split()) for each in (full.address, other, back)]
        assert shown[0] == shown[1] == shown[2] != ""


def test_what_a_user_reads(full: Program, other: str) -> None:
    """Tabs on a pipe, JSON; the same digests in both; again is refused, and says why."""
    done = full("copy", full.address, other, "--json")
    assert (done.returncode, b"read again and compared" in done.stderr) == (0, True)
    shown = {table["table"]: table for table in json.loads(done.stdout)}
    assert shown["event"]["rows"] == 1200
    assert len(shown["event"]["digest"]) == 32
    done = full("copy", full.address, other)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"is a copy of" in done.stderr
    again = full("copy", other, str(full.folder / "again.db"))
    lines = [line.split("\t") for line in again.stdout.decode().splitlines()]
    assert lines[0] == ["table", "rows", "digest"]
    assert {name: digest for name, _, digest in lines[1:]} == {
        name: table["digest"] for name, table in shown.items()
    }


def test_the_tables_are_those_of_both_engines(place: Callable[[str], str]) -> None:
    """Nothing is forgotten but what only servers that run have."""
    copied = {(table.name, column.strip('"')) for table in TABLES for column in table.columns}
    file, database = place("sqlite"), place("postgresql")
    for address in (file, database):
        initialise(address, "edge.example.net", 1)
    known = sqlite_utils.Database(file)
    here = {(table.name, column.name) for table in known.tables for column in table.columns}
    known.close()
    own = {"_sqlite_migrations", "sqlite_sequence", "writer"}
    assert {pair for pair in here if pair[0] not in own} == copied
    with opened(database) as connection:
        there = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name NOT IN ('sestrack', 'server', 'writer')"
        ).fetchall()
    assert set(there) - copied == {("progress", "keeper"), ("progress", "kept_until")}
    assert copied <= set(there)


# -- interruptions --------------------------------------------------------------------------

KILLED = """
import os, sys
from sestrack import copying
from sestrack.cli import main
from sestrack.engines import postgresql, sqlite, tables

what, count = sys.argv.pop(1), int(sys.argv.pop(1))
tables.PIECE = 100

def deadly(function):
    def called(*arguments):
        global count
        result = function(*arguments)
        count -= 1
        if not count:
            os.kill(os.getpid(), 9)
        return result
    return called

if what == "insert":  # within the transaction
    for engine in (sqlite, postgresql):
        engine.Connection.insert = deadly(engine.Connection.insert)
elif what != "never":
    setattr(copying, what, deadly(getattr(copying, what)))
main()
"""
MOMENTS = [
    ("_make", 1), ("insert", 1), ("_begin", 1), ("insert", 4), ("_put", 1), ("_put", 7),
    ("insert", 12), ("_put", 6), ("insert", 7), ("_copy_tables", 1), ("digest", 9), ("_verify", 1),
]  # fmt: skip


def start(program: Program, what: str, count: int, *arguments: str) -> subprocess.Popen[bytes]:
    """Start the real program with small pieces, and have it kill itself at a moment."""
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, what, str(count), "copy", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=program.folder,
        env=program.environment,
    )  # fmt: skip


def test_killed_at_chosen_moments(full: Program, other: str) -> None:
    """Half a copy is no store for anybody; each time it goes on; in the end it is the same."""
    for moment in MOMENTS:
        with start(full, *moment, full.address, other) as process:
            assert process.wait(60) == -signal.SIGKILL, (moment, process.communicate()[1])
    for command in ("stats", "init", "keys rotate", "serve", f"copy {other} x.db"):
        done = full("--store", other, *command.split())
        assert (done.returncode, b"half a copy" in done.stderr) == (78, True), command
    done = full("--store", other, "doctor", "--offline")
    assert (done.returncode, b"half a copy" in done.stderr) == (1, True)
    done = full("copy", full.address, other)
    assert done.returncode == 0, done.stderr
    assert b"rows were there from before" in done.stderr
    assert rows_of(other) == rows_of(full.address)
    assert told_by(other) == told_by(full.address)
    full.ok("--store", other, "keys", "rotate")


def test_killed_at_any_moment(full: Program, other: str) -> None:
    """From outside, whatever it is doing then."""
    dice = random.Random(1)  # noqa: S311
    for _ in range(8):
        process = start(full, "never", 0, full.address, other)
        time.sleep(dice.uniform(0.15, 0.6))
        process.kill()
        process.communicate()
    done = full("copy", full.address, other)
    assert done.returncode == 0 or b"is a copy of" in done.stderr, done.stderr
    assert rows_of(other) == rows_of(full.address)


def test_two_at_once(full: Program, other: str) -> None:
    """The second waits for the first, or says that it is busy; nothing comes twice."""
    processes = [start(full, "never", 0, full.address, other) for _ in range(2)]
    codes = sorted(process.wait(60) for process in processes)
    for process in processes:
        process.communicate()
    assert codes in ([0, 1], [0, 75])
    assert rows_of(other) == rows_of(full.address)


# -- what is refused ------------------------------------------------------------------------


def test_a_place_that_is_taken(full: Program, other: str, place: Callable[[str], str]) -> None:
    """A store, half a copy of another one, another program's file: none is touched."""
    initialise(other, "edge.example.net", 1)
    before = rows_of(other)
    done = full("copy", full.address, other)
    assert (done.returncode, b"is set up already" in done.stderr) == (1, True)
    assert rows_of(other) == before
    half = place("sqlite")
    with start(full, "_put", 5, other, half) as process:
        assert process.wait(60) == -signal.SIGKILL
    done = full("copy", full.address, half)
    assert (done.returncode, b"but not of" in done.stderr) == (1, True)
    full.ok("copy", other, half)
    foreign = full.folder / "foreign.db"
    file = sqlite_utils.Database(foreign)
    file.table("key").insert({"id": 1})
    file.close()
    content = foreign.read_bytes()
    assert full("copy", full.address, str(foreign)).returncode == 65
    assert foreign.read_bytes() == content


def test_wrong_addresses(full: Program, other: str, quick: QuickServer) -> None:
    """Each has its exit code; nothing is on stdout, and a password nowhere."""
    nobody = quick.address("nosuch").replace("postgres@", "postgres:geheim@")
    silent = "postgresql://u:geheim@127.0.0.1:9/x"
    for source, target, code in (
        ("missing.db", other, 66),
        (full.address, full.address, 2),
        (full.address, "mysql://u:geheim@h/x", 2),
        ("mysql://u:geheim@h/x", other, 2),
        (full.address, silent, 75),
        (silent, other, 75),
        (full.address, nobody, 78),
        (nobody, other, 78),
        (full.address, "/proc/nowhere/store.db", 73),
        (full.address, str(full.folder), 73),
    ):
        done = full("copy", source, target)
        assert (done.returncode, done.stdout) == (code, b""), (source, target, done.stderr)
        assert b"geheim" not in done.stderr
        assert b"error: " in done.stderr
    full.ok("copy", full.address, other)


def test_a_server_that_comes_meanwhile(full: Program, other: str) -> None:
    """It is noticed in the end; then the same command has the rest to do."""
    engine = engine_of(full.address)
    with opened(full.address) as connection:

        def come() -> None:
            if engine.KIND == "sqlite":
                holding.__enter__()("http://127.0.0.1:8025/")
            else:
                connection.announce("x", "http://127.0.0.1:8025/")  # type: ignore[attr-defined]

        holding = engine.serving(full.address)
        with pytest.raises(TryAgain, match="being served at http"):
            copy(full.address, other, when("verifying", come))
        with pytest.raises(TryAgain, match="being served"):
            copy(full.address, other, quiet)
        if engine.KIND == "sqlite":
            holding.__exit__(None, None, None)
        else:
            connection.withdraw("x")  # type: ignore[attr-defined]
    assert copy(full.address, other, quiet).resumed > 2000


def test_nobody_else_writes_meanwhile(full: Program, other: str) -> None:
    """Who would change something is told to wait; who reads, as `rewrite` does, is not."""
    engine = engine_of(full.address)
    seen = []

    def look() -> None:
        with Store(full.address) as store:
            seen.append(len(store.keys()))
        for statement in (
            "DELETE FROM event",
            "UPDATE config SET revision = 9",
            "DELETE FROM writer",
        ):
            with (
                pytest.raises(TryAgain),
                engine.errors(full.address),
                closing(engine.connect(full.address, writing=True, wait=0.1)) as connection,
                connection.transaction(),
            ):
                connection.execute(statement)
            seen.append(statement)

    copy(full.address, other, when("copying", look))
    assert len(seen) == 4


# -- verification ---------------------------------------------------------------------------


HARM = [
    ("agent", "UPDATE agent SET text = text || ' ' WHERE id = 1"),
    ("event", "UPDATE event SET ip = '' WHERE ip = '8.8.8.8'"),
    ("event", "DELETE FROM event WHERE at = (SELECT max(at) FROM event)"),
    ("visit", "DELETE FROM visit"),
    ("key", "DELETE FROM key WHERE id = 2"),
    ("first", "INSERT INTO first VALUES (77, 1, 1, 1)"),
    ("entry", "UPDATE entry SET open = 1 WHERE sender = ''"),
    ("trace_domain", "UPDATE trace_domain SET port = 81"),
    ("writer", "UPDATE writer SET judged = judged - 1 WHERE judged > 0"),
]  # fmt: skip


def test_what_differs_is_found(full: Program, other: str) -> None:
    """It is named, and the same command makes it good."""

    def harm(change: str) -> None:
        with opened(other) as connection:
            assert connection.execute(change).rowcount > 0

    for table, change in HARM:
        with pytest.raises(
            InputOutputError, match=rf"has: {table}( .\d+ rows, \d+ there.)?$"
        ) as caught:
            copy(full.address, other, when("verifying", partial(harm, change)))
        assert "same command" in caught.value.hint
    assert full("--store", other, "stats").returncode == 78
    full.ok("copy", full.address, other)
    assert rows_of(other) == rows_of(full.address)


def test_an_old_store_that_changed_between(full: Program, other: str) -> None:
    """What was copied before a change is found, and copied anew."""
    with pytest.raises(ZeroDivisionError):
        copy(full.address, other, when("verifying", lambda: 1 // 0))
    full.ok("keys", "rotate")
    full.ok("sender", "add", "shop.example.com")
    done = full("copy", full.address, other)
    assert (done.returncode, done.stdout) == (74, b"")
    assert b"key (2 rows" not in done.stderr
    assert b"key (3 rows, 2 there), sender (2 rows, 1 there)" in done.stderr
    full.ok("copy", full.address, other)
    assert rows_of(other) == rows_of(full.address)


@pytest.mark.sqlite
def test_texts_that_postgresql_cannot_keep(full: Program, other: str) -> None:
    """NUL is U+FFFD there, which is counted and no difference."""
    with opened(full.address) as connection:
        connection.execute("UPDATE event SET recipient = 'a' || char(0) || 'b\\' WHERE id < 3")
    done = full("copy", full.address, other)
    assert done.returncode == 0, done.stderr
    assert b"2 rows had NUL" in done.stderr
    with opened(other) as connection:
        ask = "SELECT recipient FROM event WHERE id < 3"
        assert connection.execute(ask).fetchall() == [("a\ufffdb\\",)] * 2


# -- going on -------------------------------------------------------------------------------


def test_the_copy_goes_on(tracking: Program, other: str, engine: str) -> None:
    """Its server answers links of mails sent before, counts them; keys rotate; and back again."""
    mail = '<body><a href="https://example.com/">x</a></body>'
    paths = tracking.paths(mail)
    server = Server(tracking)
    try:
        assert server.ask(paths[0]).status == 302
        assert server.ask(paths[1]).status == 200
        assert len(tracking.events()) == 2
        assert until(lambda: served_at(tracking.address))  # a keeper tells of it, once it runs
        done = tracking("copy", tracking.address, other)
        assert (done.returncode, b"being served at http://127.0.0.1" in done.stderr) == (75, True)
    finally:
        server.stop()
    tracking.ok("copy", tracking.address, other)
    moved = Program(tracking.folder / "moved", other)
    moved.folder.mkdir()
    assert json.loads(moved.ok("keys", "list", "--json"))[0]["id"] == 1
    moved.ok("keys", "rotate")
    assert json.loads(moved.ok("keys", "list", "--json"))[0]["id"] == 2
    assert hit(moved, [*paths, *moved.paths(mail, "bob@example.org", message="july")]) == 6
    back = Program(tracking.folder / "back", str(tracking.folder / "back" / "store.db"))
    back.folder.mkdir()
    back.ok("copy", other, back.address)
    assert back.ok("events", "export") == moved.ok("events", "export")
    assert hit(back, moved.paths(mail)) == 8
    ids = [event["id"] for event in back.events()]
    assert sorted(map(writer_of, ids)) == [0] * (6 if engine == "postgresql" else 4) + [1] * (
        2 if engine == "postgresql" else 4
    )
    stats = json.loads(back.ok("stats", "--json"))
    assert {line["message"] for line in stats} == {"june", "july"}


def hit(program: Program, paths: list[str]) -> int:
    """Have a server answer these; return how many events there are then."""
    server = Server(program)
    try:
        for path in paths:
            assert server.ask(path).status in {200, 302}
    finally:
        server.stop()
    assert len({event["id"] for event in program.events()}) == len(program.events())
    return len(program.events())


@pytest.mark.sqlite
def test_pieces_are_read_in_the_order_of_keys(
    full: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row once, whatever the size of the pieces."""
    monkeypatch.setattr(tables, "PIECE", 7)
    with opened(full.address) as connection:
        for table in TABLES:
            rows = [row for piece in table.pieces(connection) for row in piece]
            ((count,),) = connection.execute(f"SELECT count(*) FROM {table.name}").fetchall()
            assert len(set(rows)) == len(rows) == count, table.name


@pytest.mark.sqlite
def test_a_file_to_a_file(full: Program) -> None:
    """Any way works; the file is its owner's alone."""
    target = full.folder / "other" / "store.db"
    done = copy(full.address, str(target), quiet)
    assert (done.resumed, done.altered, len(done.tables)) == (0, 0, len(TABLES))
    assert os.stat(target).st_mode & 0o777 == 0o600
    assert rows_of(str(target)) == rows_of(full.address)
