"""Stores that earlier versions made (`tests/stores`), brought up to date by this one."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Program, Server
from postgresql import QuickServer
from sqlite_utils import Database

from sestrack.engines import postgresql_schema, sqlite
from sestrack.engines.sqlite_schema import migrations
from sestrack.engines.url_numbers import url_number
from sestrack.store import Store

STORES = Path(__file__).parent / "stores"
SCHEMAS = tuple(range(1, sqlite.SCHEMA_VERSION))
OF_POSTGRESQL = tuple(range(1, postgresql_schema.SCHEMA_VERSION))
pytestmark = pytest.mark.sqlite


def unpacked(name: str) -> bytes:
    """Read a store."""
    return gzip.decompress((STORES / f"{name}.gz").read_bytes())


class Old(Program):
    """The program of today, with a store of an earlier schema."""

    def __init__(self, folder: Path, schema: int) -> None:
        super().__init__(folder)
        self.schema = schema
        self.store.write_bytes(unpacked(f"schema-{schema}.db"))
        self.store.chmod(0o600)
        self.known: dict[str, Any] = json.loads((STORES / f"schema-{schema}.json").read_bytes())

    def dump(self) -> list[str]:
        """Return all that is in the store."""
        with closing(sqlite3.connect(self.store)) as store:
            return [*store.iterdump(), str(store.execute("PRAGMA user_version").fetchone())]


@pytest.fixture(params=SCHEMAS, ids=lambda schema: f"schema {schema}")
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Old:
    """Give a store of each earlier schema."""
    return Old(tmp_path, request.param)


ENDS = pytest.mark.parametrize("old", [2, SCHEMAS[-1]], indirect=True)
"""Only a store of the first schema that could be served, and one of the last."""


def has_all(found: Any, wanted: Any) -> bool:
    """See whether all that was said is said still; columns may have come."""
    if isinstance(wanted, dict):
        return all(key in found and has_all(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(has_all, found, wanted))
    return bool(found == wanted)


def test_every_earlier_schema_has_its_store() -> None:
    """A migration comes with a store that the version before it made."""
    for schema in SCHEMAS:
        assert (STORES / f"schema-{schema}.db.gz").exists()
    for schema in OF_POSTGRESQL:
        assert (STORES / f"postgresql-{schema}.sql.gz").exists()
    with closing(sqlite3.connect(":memory:")) as nothing:
        assert len(migrations.pending(Database(nothing))) == sqlite.SCHEMA_VERSION


@ENDS
def test_before_init_it_is_said_what_to_do(old: Old) -> None:
    """Every command says that `init` is wanted, changes nothing, and mail goes out as it came."""
    before = old.store.read_bytes()
    mail = b'<body><a href="https://example.com/">x</a></body>'
    for command in (("sender", "list"), ("keys", "rotate"), ("stats",), ("serve",)):
        done = old(*command)
        assert done.returncode == 78, command
        assert f"has schema {old.schema}, and {sqlite.SCHEMA_VERSION} is wanted" in str(done.stderr)
        assert b"hint: sestrack init\n" in done.stderr
    done = old(
        "rewrite", "--sender", "news.example.com", "--recipient", "a", "--message", "m", stdin=mail
    )
    assert (done.returncode, done.stdout) == (78, mail)
    assert old.store.read_bytes() == before


def test_all_of_it_survives(old: Old, start: Callable[[Program], Server]) -> None:
    """Keys, domains, settings, events, figures and links are what the old program said.

    It is the schema of a new store; links of mail that the old one rewrote lead on, and are counted.
    """
    before = old.dump()
    said = old("init")
    assert said.returncode == 0, said.stderr
    now = f"it had schema {old.schema}, and has {sqlite.SCHEMA_VERSION} now\n"
    assert now.encode() in said.stderr
    assert old.dump() != before
    survives(old, old.known)
    with closing(sqlite3.connect(old.store)) as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert store.execute("PRAGMA foreign_key_check").fetchall() == []
    before = old.dump()
    assert b"nothing changed" in old("init").stderr
    assert old.dump() == before
    new = Program(old.folder)
    new.lives_at(str(old.folder / "new.db"))
    new.ok("init")
    assert shape(old.store) == shape(old.folder / "new.db")
    links_lead_on(old, old.known, start)


@pytest.mark.parametrize("schema", OF_POSTGRESQL)
def test_all_of_it_survives_in_postgresql(
    schema: int, quick: QuickServer, tmp_path: Path, start: Callable[[Program], Server]
) -> None:
    """The same, and it is the schema of a new store; links lead on and are counted."""
    address, new = quick.fresh_database(), quick.fresh_database()
    try:
        with psycopg.connect(address) as connection:
            connection.execute(unpacked(f"postgresql-{schema}.sql"))
        known = json.loads((STORES / f"postgresql-{schema}.json").read_bytes())
        program = Program(tmp_path, address)
        assert f"has schema {schema}, and" in program("stats").stderr.decode()
        program.ok("init")
        survives(program, known)
        assert b"nothing changed" in program("init").stderr
        Program(tmp_path, new).ok("init")
        assert columns(address) == columns(new)
        links_lead_on(program, known, start)
    finally:
        quick.drop(address)
        quick.drop(new)


def columns(address: str) -> list[tuple[Any, ...]]:
    """Read what the tables of a store in PostgreSQL look like, but for the days' partitions."""
    with psycopg.connect(address) as connection:
        return connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable, column_default "
            "FROM information_schema.columns WHERE table_schema = 'public' "
            "AND table_name NOT SIMILAR TO '%_d[0-9]+' ORDER BY table_name, column_name"
        ).fetchall()


def survives(old: Program, known: dict[str, Any]) -> None:
    """Compare what is said with what the old program said."""
    assert has_all(json.loads(old.ok("keys", "list", "--json")), known["keys"])
    secrets = re.findall(r"\S{40,}", known["key file"])
    assert len(secrets) == 2
    assert re.findall(r"\S{40,}", old.ok("keys", "export", "-")) == secrets
    assert has_all(json.loads(old.ok("sender", "list", "--json")), known["senders"])
    for domain in json.loads(old.ok("domain", "list", "--json")):
        (before,) = [one for one in known["domains"] if one["name"] == domain["name"]]
        assert domain["status"] == before["status"]
        assert domain["created_at"] == before["created_at"]
        assert domain["certificate_ends"] is None
    assert old.ok("settings", "export") == known["settings"]
    assert has_all(old.events(), known.get("events", []))
    last = known["schema"] in {SCHEMAS[-1], OF_POSTGRESQL[-1]}
    for by, rows in known.get("stats", {}).items():
        if not last and by not in {"message", "link", "recipient"}:
            continue  # one table has them all
        assert has_all(json.loads(old.ok("stats", "--by", by, "--json")), rows), by
    for name, urls in known["letters"].items():
        found = old.ok("inspect", "-", "--json", stdin="\n".join(urls).encode()).splitlines()
        recipients = [json.loads(line)["recipient"] for line in found]
        assert recipients == [f"{name}@example.org"] * len(urls)


FIRSTS = [
    # recipient 1 clicked a URL behind its button on day 4, and behind its picture on day 5; a
    # machine of theirs only behind its picture; recipient 2 both on one day
    (1, 902, 0, 4), (1, 901, 0, 5), (1, 901, 2, 4), (2, 901, 0, 5), (2, 902, 0, 5),
    (2, 903, 0, 5),
]  # fmt: skip
"""First clicks as they were kept before schema 8: who, link, visitor and day."""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_first_clicks_become_those_of_urls(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of two places of one URL the earlier click stays; what was there by itself stays, too."""
    if kind == "sqlite":
        program: Program = Old(tmp_path, 7)
        opened: Any = sqlite3.connect(program.store)
        mark = "?"
    else:
        quick = request.getfixturevalue("quick")
        address = quick.fresh_database()
        request.addfinalizer(lambda: quick.drop(address))
        program = Program(tmp_path, address)
        opened = psycopg.connect(address)
        opened.execute(unpacked("postgresql-3.sql"))
        opened.execute("SET search_path = public")
        mark = "%s"
    with closing(opened), opened:
        tell = opened.cursor()
        before = tell.execute("SELECT origin, who, what, day FROM first").fetchall()
        assert any(what >= 16 for _, _, what, _ in before)

        def insert(table: str, rows: list[tuple[Any, ...]]) -> None:
            marks = ", ".join([mark] * len(rows[0]))
            tell.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)

        urls = ("https://e.com/1", "https://e.com/1", "https://e.com/3")
        insert("link", [(901 + number, 9, number, url) for number, url in enumerate(urls)])
        insert("first", [(9, who, 16 + 4 * link + by, day) for who, link, by, day in FIRSTS])
        insert("first", [(9, 1, 3, 4)])
        tallies = {(link, by, day): 0 for _, link, by, day in FIRSTS}
        for _, link, by, day in FIRSTS:
            tallies[link, by, day] += 1
        insert(
            "tally (origin, dimension, day, value, visitor, clicks, clickers, opens, openers, "
            "readers)",
            [(9, 5, day, str(link), by, 7, n, 0, 0, 0) for (link, by, day), n in tallies.items()],
        )
    program.ok("init")
    with Store(program.environment["SESTRACK_STORE"]) as store:
        ask = store.connection.execute
        kept = ask("SELECT origin, who, act, day FROM first").fetchall()
        assert len(kept) == len(before) + 5
        assert {row for row in before if row[2] < 16} | {(9, 1, 3, 4)} == {
            row for row in kept if row[2] < 16
        }
        one, three = (16 + 4 * url_number(url) for url in urls[1:])
        assert {row[1:] for row in kept if row[0] == 9 and row[2] >= 16} == {
            (1, one, 4), (1, one + 2, 4), (2, one, 5), (2, three, 5),
        }  # fmt: skip
        by_link = "SELECT value, visitor, day, clickers FROM tally WHERE origin = 9"
        assert sorted(ask(by_link).fetchall()) == [
            ("901", 0, 5, 1), ("901", 2, 4, 1), ("902", 0, 4, 1), ("902", 0, 5, 0),
            ("903", 0, 5, 1),
        ]  # fmt: skip


def shape(path: Path) -> list[tuple[Any, ...]]:
    """Read what the tables and indexes of a store look like."""
    with closing(sqlite3.connect(path)) as store:
        return [
            (table, *column)
            for (table,) in store.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('table', 'index') ORDER BY name"
            ).fetchall()
            for column in store.execute(
                'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?)', (table,)
            ).fetchall()
        ]


def links_lead_on(old: Program, known: dict[str, Any], start: Callable[[Program], Server]) -> None:
    """Follow each link and load each pixel."""
    before = len(old.events())
    server = start(old)
    for urls in known["letters"].values():
        for url, status in zip(urls, (302, 302, 200), strict=True):
            assert server.ask(url.removeprefix("https://trace.example.com")).status == status
    server.stop()
    events = old.events()
    assert len(events) == before + 9
    assert len({event["id"] for event in events}) == len(events)
    assert all(event["visitor"] for event in events)


@pytest.fixture
def start() -> Iterator[Callable[[Program], Server]]:
    """Give what starts a server on a program's store."""
    servers = []

    def begin(program: Program) -> Server:
        servers.append(Server(program))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            server.stop()


KILLED = """
import os, signal
from sestrack.engines import sqlite_schema
from sestrack.store import initialise

real = sqlite_schema.Database.execute

def execute(self, sql, *values):
    execute.left -= 1
    if not execute.left:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, sql, *values)

execute.left = {after}
sqlite_schema.Database.execute = execute
initialise({store!r}, "", 0)
"""


@ENDS
@pytest.mark.parametrize("after", [1, 3, 8])
def test_an_interrupted_migration_leaves_the_old_state(old: Old, after: int) -> None:
    """`kill -9` after any statement of it: the old store, which `init` brings up to date then."""
    before = old.dump()
    code = KILLED.format(after=after, store=str(old.store))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    if done.returncode == 0:
        pytest.skip("it has fewer statements")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert old("sender", "list").returncode == 78
    assert old.dump() == before
    old.ok("init")
    assert old.ok("settings", "export") == old.known["settings"]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """The same from outside, at whatever moment it is met."""
    for step in range(6):
        folder = tmp_path / str(step)
        folder.mkdir()
        old = Old(folder, SCHEMAS[-1])
        before = old.dump()
        child = subprocess.Popen(
            [sys.executable, "-m", "sestrack", "init"], env=old.environment, cwd=folder,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.15 + step * 0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        if old("sender", "list").returncode == 78:
            assert old.dump() == before
            old.ok("init")
        assert old.ok("settings", "export") == old.known["settings"]


@contextmanager
def old_server(old: Old) -> Iterator[None]:
    """Hold what a server of an earlier version holds: the lock beside its store."""
    code = (
        "import fcntl, os, sys\n"
        f"handle = os.open({str(old.store) + '-serve'!r}, os.O_RDWR | os.O_CREAT, 0o600)\n"
        "fcntl.flock(handle, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.kill()


@ENDS
def test_init_waits_for_the_old_server_to_end(old: Old) -> None:
    """While a server of the old version runs, nothing is migrated under it."""
    before = old.dump()
    with old_server(old):
        done = old("init")
        assert done.returncode == 75
        assert b"systemctl stop sestrack" in done.stderr
        assert old.dump() == before
    old.ok("init")
    assert old("sender", "list").returncode == 0


def test_init_of_an_up_to_date_store_needs_no_stop(
    tmp_path: Path, start: Callable[[Program], Server]
) -> None:
    """There is nothing to migrate, and a server of today may run."""
    old = Old(tmp_path, SCHEMAS[-1])
    old.ok("init")
    start(old)
    assert b"nothing changed" in old("init").stderr
