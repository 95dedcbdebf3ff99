"""A store in PostgreSQL that several servers share, and what becomes of it when something dies."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import awake
import psycopg
import pytest
from conftest import PERSON, Program, Server, make_tracking
from postgresql import Cluster, QuickServer, binaries, cluster, free_port, until
from services import missing
from test_figures import all_reports, check, fill, writing
from test_operations import scrape
from test_server import LETTER, server_checks

from sestrack.errors import TryAgain
from sestrack.store import Store, open_for_recording
from sestrack.tracker.answers import GIF
from sestrack.tracker.figures import DAY_MS
from sestrack.tracker.names import key_of, pseudonym
from sestrack.tracker.places import Places
from sestrack.tracker.recorder import PATIENCE
from sestrack.tracker.shipper import Shipper
from sestrack.tracker.spool import Parcel, Spool, mark_of, open_spool, own_left
from sestrack.tracker.upkeep import Upkeep
from sestrack.tracking import Tracking

Start = Callable[..., Server]
BOUND = 2.0
"""Seconds that nobody may wait for an answer: eight times as many as a machine at rest takes."""
MINTED = 1_780_300_800
OPEN = (1, ("news.example.com", "june", "trace.example.com"), -1, "")
"""The pixel of a message, as spools have it."""
EVENT = (
    "id", "at", "kind", "origin", "link", "recipient", "minted", "ip", "agent", "traits",
)  # fmt: skip


# -- stores and servers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(quick: QuickServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give a store for all tests to begin with a copy of."""
    address = quick.fresh_database()
    make_tracking(Program(tmp_path_factory.mktemp("made"), address))
    yield address
    quick.drop(address)


@pytest.fixture
def address(quick: QuickServer, made: str) -> Iterator[str]:
    """Give a store that tracks, in a PostgreSQL by itself."""
    name = quick.fresh_database(made)
    yield name
    quick.drop(name)


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a store that tracks, on a primary and two standbys."""
    if binaries() is None:
        missing("postgres", "postgresql")
    with cluster(3) as servers:
        make_tracking(Program(tmp_path_factory.mktemp("trio"), servers.address()))
        yield servers


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Give what starts servers, each in a folder of its own, as if that were a machine."""
    servers: list[Server] = []

    def start(address: str, machine: str, *options: str, home: str = "", **how: str) -> Server:
        folder = tmp_path / machine
        folder.mkdir(exist_ok=True)
        program = Program(folder, address)
        if home:
            program.environment["XDG_DATA_HOME"] = home
        servers.append(Server(program, *options, **how))
        assert servers[-1].ask("/healthz").status == 200  # its worker is loaded
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


@contextmanager
def away(database: QuickServer) -> Iterator[None]:
    """Have a PostgreSQL stopped."""
    database.stop()
    try:
        yield
    finally:
        database.start()


def paths(address: str, recipient: str) -> list[str]:
    """Return the paths of a copy: two links, and the pixel."""
    letter = Tracking.of(address, "news.example.com").compile(LETTER.encode(), message="june")
    copy = letter.render(recipient, MINTED).decode()
    return re.findall(r"https://trace\.example\.com(/[^\"]+)\"", copy)


def rows(address: str, sql: str) -> list[tuple[Any, ...]]:
    """Ask the store itself."""
    with Store(address) as store:
        return store.connection.execute(sql).fetchall()


def stored(address: str) -> dict[str, int]:
    """Return how many events each recipient has; no two of them may have one id."""
    ((count, ids),) = rows(address, "SELECT count(*), count(DISTINCT id) FROM event")
    assert count == ids
    return dict(rows(address, "SELECT recipient, count(*) FROM event GROUP BY recipient"))


def judged(address: str) -> int:
    """Return how many events are in the figures."""
    ((count,),) = rows(address, "SELECT count(*) FROM visit")
    return int(count)


def all_judged(address: str) -> bool:
    """Tell whether every event is in the figures."""
    return not rows(address, "SELECT 1 FROM writer WHERE judged <> stored")


def waiting(folder: Path) -> int:
    """Return how many events wait in the spools of a folder."""
    count = 0
    for spool in folder.rglob("spool-*.db"):
        with closing(sqlite3.connect(spool)) as connection:
            ask = "SELECT coalesce(sum(events), 0) FROM parcel"
            count += connection.execute(ask).fetchone()[0]
    return count


def keepers_of(server: Server) -> list[int]:
    """Name the processes that keep the figures for a server: one, or none for a moment."""
    tasks = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [
        int(child)
        for child in tasks.read_text().split()
        if b"tracker.keeper" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def keeper_of(server: Server) -> int:
    """Name the process that keeps the figures for a server."""
    [keeper] = keepers_of(server)
    return keeper


# -- readers --------------------------------------------------------------------------------


class Reader(threading.Thread):
    """Asks for what is in a mail again and again, and notes what comes of it."""

    def __init__(self, address: str, name: str, ports: dict[str, int], servers: str) -> None:
        super().__init__(daemon=True)
        self.name = name
        self._paths = itertools.cycle(paths(address, name)[1:])
        self._ports = ports
        self._servers = itertools.cycle(servers)
        self.ends = threading.Event()
        self.asked = self.answered = self.late = self.errors = self.most_tries = 0
        self.longest = 0.0
        self.wrong: list[tuple[int, bytes]] = []

    def run(self) -> None:
        """Ask one server after the other, until there is an answer; then the next thing."""
        while not self.ends.is_set():
            path = next(self._paths)
            for tries in itertools.count(1):
                if self._try(path):
                    self.most_tries = max(self.most_tries, tries)
                    break
                if self.ends.is_set():
                    return
                time.sleep(0.005)
            time.sleep(0.01)

    def _try(self, path: str) -> bool:
        port = self._ports[next(self._servers)]
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            with closing(client) as connection:
                connection.connect()
                self.asked += 1
                began, awake_then = time.monotonic(), awake.seconds()
                connection.request(
                    "GET", path, headers={"Host": "trace.example.com", "User-Agent": PERSON}
                )
                answer = connection.getresponse()
                body = answer.read()
        except (OSError, http.client.HTTPException):
            self.errors += 1
            return False
        took = time.monotonic() - began
        self.longest = max(self.longest, awake.seconds() - awake_then)
        self.answered += 1
        self.late += took > PATIENCE
        if not (answer.status == 302 or body == GIF):
            self.wrong.append((answer.status, body))
        return True


class Crowd:
    """Readers at work, each with a copy of their own."""

    def __init__(self, address: str, ports: dict[str, int], each: Iterable[str]) -> None:
        """Take where servers listen by name, and for each reader the names of theirs."""
        self.readers = [
            Reader(address, f"r{number}@example.org", ports, servers)
            for number, servers in enumerate(each)
        ]

    def __enter__(self) -> Self:
        """Have them begin."""
        for reader in self.readers:
            reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Have them end."""
        for reader in self.readers:
            reader.ends.set()
        for reader in self.readers:
            reader.join()

    def total(self, what: str) -> int:
        """Add up what the readers noted."""
        return sum(getattr(reader, what) for reader in self.readers)

    def check(self, counts: dict[str, int]) -> None:
        """See that what was answered was recorded, once, and that nobody waited long.

        What a server answered late it may have had in memory alone: then it said so.
        """
        noted = {what: self.total(what) for what in ("asked", "answered", "late", "errors")}
        longest = max(reader.longest for reader in self.readers)
        print(noted, sum(counts.values()), "events, longest", longest)  # noqa: T201 - if it fails
        assert not any(reader.wrong for reader in self.readers)
        assert longest < BOUND
        for reader in self.readers:
            count = counts.get(reader.name, 0)
            assert reader.answered - reader.late <= count <= reader.asked, reader.name
            assert count - reader.answered <= reader.errors, reader.name


def pour(port: int, path: str, count: int) -> int:
    """Ask for a pixel so many times at once, with a long user agent; return how many came."""
    agent = "x" * 400
    one = f"GET {path} HTTP/1.1\r\nHost: trace.example.com\r\nUser-Agent: {agent}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        sending = threading.Thread(target=connection.sendall, args=(one.encode() * count,))
        sending.start()
        answers = b""
        while answers.count(GIF) < count and (data := connection.recv(1 << 20)):
            answers += data
        sending.join()
    return answers.count(GIF)


# -- a primary that dies --------------------------------------------------------------------


def test_failovers_lose_nothing_acknowledged(trio: Cluster, start: Start, tmp_path: Path) -> None:
    """Three primaries and a server are killed: all that was answered is there, once."""
    address = trio.address()
    (tmp_path / "a").mkdir()
    Program(tmp_path / "a", address).ok("keys", "export", "sestrack.keys")
    servers = {
        "a": start(address, "a", "--keys", "sestrack.keys"),
        "b": start(address, "b", "--workers", "2"),
    }
    ports = {name: server.port for name, server in servers.items()}

    def kill_and_start() -> None:
        time.sleep(0.3)
        servers["a"].stop(signal.SIGKILL)
        servers["a"] = start(address, "a", "--keys", "sestrack.keys")
        ports["a"] = servers["a"].port

    with Crowd(address, ports, "aaaabbbb") as crowd:
        for round_ in range(3):
            time.sleep(0.7)
            old = trio.primary
            other = threading.Thread(target=kill_and_start)
            if round_ == 1:
                other.start()
            trio.fail_over()
            trio.rejoin(old)
            if round_ == 1:
                other.join()
    assert until(lambda: not waiting(tmp_path), 30)
    assert until(lambda: all_judged(address), 30)
    crowd.check(stored(address))
    assert crowd.total("answered") > 500
    for server in servers.values():
        assert server.stop() == 0
    check(address)


def test_a_wait_cut_short_acknowledges_nothing(trio: Cluster, start: Start, tmp_path: Path) -> None:
    """A commit whose wait for a standby was cancelled is on one disk only: the event is kept.

    So is a server's number when it was cut short in taking it, and another server took the same.
    """
    address = trio.address()
    before = stored(address)
    names = ("known@example.org", "new@example.org", "next@example.org")
    known, new, following = (paths(address, name)[-1] for name in names)
    servers = [start(address, "a")]
    assert servers[0].ask(known).status == 200
    assert until(lambda: stored(address).get(names[0]) == 1)
    old = trio.primary
    standbys = [node for node in trio.running if node is not old]
    for node in standbys:
        node.stop()
    servers.append(start(address, "b"))
    for server, pixel in zip(servers, (known, new), strict=True):
        began = awake.seconds()
        assert server.ask(pixel).status == 200
        assert awake.seconds() - began < BOUND
    assert until(lambda: waiting(tmp_path) == 2)
    who = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'sestrack'"
    for how in ("cancel", "terminate", "cancel", "cancel"):
        assert until(lambda: len(old.query(f"SELECT 1 {who}")) > 1)
        old.query(f"SELECT pg_{how}_backend(pid) {who}")
        time.sleep(0.7)
        assert waiting(tmp_path) == 2
    for server in servers:
        assert "did not wait for a standby" in server.log.read_text()
    ask = f"SELECT count(*) FROM event WHERE recipient = '{names[0]}'"
    assert old.query(ask, database="sestrack") == [(2,)]
    servers[1].process.send_signal(signal.SIGSTOP)
    old.kill()  # and what was on its disk alone is gone for good
    for node in standbys:
        node.start()
    trio.fail_over()
    assert start(address, "c").ask(following).status == 200
    assert until(lambda: stored(address).get(names[2]) == 1)
    servers[1].process.send_signal(signal.SIGCONT)
    assert until(lambda: not waiting(tmp_path))
    assert stored(address) == before | dict(zip(names, (2, 1, 1), strict=True))


# -- while PostgreSQL is away ---------------------------------------------------------------


def test_readers_are_served_while_the_store_is_away(
    quick: QuickServer, address: str, start: Start, tmp_path: Path
) -> None:
    """Events wait on disk, a killed server's too; past the limit they are lost, and counted."""
    link, _, pixel = paths(address, "ada@example.org")
    port = free_port()
    options = (
        "--keys", str(tmp_path / "sestrack.keys"), "--spool-limit", "1",
        "--metrics", f"127.0.0.1:{port}",
    )  # fmt: skip
    program = Program(tmp_path, address)
    program.ok("keys", "export", options[1])
    server = start(address, "a", *options)
    assert server.ask(link).status == 302
    assert until(lambda: stored(address))
    longest = 0.0
    with away(quick):
        for rounds in (1, 2):
            for _ in range(20):
                began = awake.seconds()
                assert server.ask(link).status == 302
                longest = max(longest, awake.seconds() - began)
            assert waiting(tmp_path) == 20 * rounds
            server.stop(signal.SIGKILL)
            server = start(address, "a", *options)
        assert sum(pour(server.port, pixel, 500) for _ in range(16)) == 8000
        assert waiting(tmp_path) > 1000
        assert sum(file.stat().st_size for file in tmp_path.rglob("spool-*")) < 8 << 20
        assert until(lambda: "it is full" in server.log.read_text())
        assert server.log.read_text().count("\n") < 30
    assert until(lambda: not waiting(tmp_path))
    print(f"longest {longest:.3f}")  # noqa: T201 - if it fails
    assert longest < BOUND
    ((lost,),) = rows(address, "SELECT lost FROM progress")
    assert lost > 1000
    counted = scrape(port)
    assert counted["events_lost_total",] == lost
    assert counted["events_total", "open"] == 8000 - lost
    assert stored(address) == {"ada@example.org": 1 + 40 + 8000 - lost}
    assert "the spool: over" in server.log.read_text()
    (found,) = (
        check
        for check in json.loads(program("doctor", "--offline", "--json").stdout)
        if check["name"] == "events lost"
    )
    assert found["found"].startswith(f"{lost:,}, ")
    assert not found["well"]
    assert server.stop() == 0


def test_a_full_disk_while_the_store_is_away(
    quick: QuickServer, address: str, start: Start, tmp_path: Path
) -> None:
    """What the spool cannot take is kept in memory, and stored when PostgreSQL is back."""
    pixel = paths(address, "ada@example.org")[-1]
    server = start(address, "a", limits="ulimit -f 300")
    assert server.ask(pixel).status == 200
    with away(quick):
        assert sum(pour(server.port, pixel, 100) for _ in range(20)) == 2000
        assert "cannot write the spool" in server.log.read_text()
        assert server.ask(pixel).status == 200
    assert until(lambda: stored(address) == {"ada@example.org": 2002})
    assert until(lambda: not waiting(tmp_path))
    assert server.stop() == 0


@contextmanager
def with_full_log(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a spool whose log is long, and the reader that keeps it from starting anew."""
    Spool(str(path)).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM state").fetchall()
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            for _ in range(20):
                writer.execute("UPDATE state SET reserved = reserved + 1")
        yield reader


def test_a_disk_that_is_full_from_the_start(address: str, start: Start, tmp_path: Path) -> None:
    """Readers are served all the same, and their events stored when there is room."""
    pixel = paths(address, "ada@example.org")[-1]
    path = tmp_path / "spool" / "spool-1.db"
    with with_full_log(path) as reader:
        server = start(address, "a", "--spool", str(path.parent), limits="ulimit -f 40")
        for _ in range(3):
            assert server.ask(pixel).status == 200
        assert "cannot write the spool" in server.log.read_text()
        reader.execute("ROLLBACK")
        reader.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert until(lambda: stored(address) == {"ada@example.org": 3})
    assert server.stop() == 0


def test_a_connection_that_hangs_at_once(address: str, tmp_path: Path) -> None:
    """It can be ended while it takes the number of its writer, and the next one stores."""
    spool = Spool(str(tmp_path / "spool-1.db"))
    ended = threading.Event()
    shipper = Shipper(address, spool, ended.set)
    row = (MINTED * 1000, 0, "ada@example.org", MINTED, "", b"agent", 0)
    parcel = Parcel(spool.number(1), [row], [OPEN], 0)
    with psycopg.connect(address) as blocker:
        blocker.execute("LOCK TABLE progress IN ACCESS EXCLUSIVE MODE")
        shipper.send([parcel])
        assert until(shipper.hang_up, 20)
        assert ended.wait(20)
        assert shipper.end()[1] is not None
    ended.clear()
    shipper.send([parcel])
    assert ended.wait(20)
    assert shipper.end() == (True, None)
    shipper.close()
    spool.close()
    assert stored(address) == {"ada@example.org": 1}


def test_names_leave_the_spool_when_nobody_reads(tmp_path: Path) -> None:
    """Somebody who reads it keeps what was deleted in its log, and keeps nobody waiting."""
    spool = Spool(str(tmp_path / "spool-1.db"))
    row = (MINTED * 1000, 0, "ada@example.org", MINTED, "", b"agent", 0)
    parcel = Parcel(spool.number(1), [row], [OPEN], 0)

    def there() -> bool:
        return any(b"ada@example.org" in file.read_bytes() for file in tmp_path.iterdir())

    spool.put([parcel])
    with closing(sqlite3.connect(spool.path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT events FROM parcel").fetchall() == [(1,)]
        begun = awake.seconds()
        spool.drop(parcel.last)
        assert awake.seconds() - begun < BOUND
        assert there()
    spool.tidy()
    assert not there()
    spool.close()


@pytest.mark.parametrize("how", ["removed", "renamed", "file removed", "file renamed"])
def test_a_spool_that_loses_its_name(tmp_path: Path, how: str) -> None:
    """It is made anew, with what waits; for whoever looks for it afterwards knows one name."""
    folder = tmp_path / "spool"
    path = str(folder / "spool-1.db")
    row = (MINTED * 1000, 0, "ada@example.org", MINTED, "", b"agent", 0)
    spool = Spool(path)
    spool.note_writer("this", 3)
    for _ in range(2):
        spool.put([Parcel(spool.number(1), [row], [OPEN], 0)])
        if how == "removed":
            shutil.rmtree(folder)
        elif how == "file removed":
            os.unlink(path)
        elif how == "file renamed":
            os.rename(path, f"{path}-{spool.waiting}")
        else:
            folder.rename(tmp_path / f"old-{spool.waiting}")
    spool.put([Parcel(spool.number(1), [row], [OPEN], 0)])
    last = spool.number(1)
    with pytest.raises(TryAgain):
        Spool(path)
    spool.close()
    spool = Spool(path)
    assert (spool.store, spool.writer, spool.waiting, spool.events) == ("this", 3, 3, 3)
    assert spool.start >= last
    assert [len(parcel.rows) for parcel in spool.take(10)] == [1, 1, 1]
    spool.close()


def test_a_spool_that_is_removed_before_its_writer_is_known(tmp_path: Path) -> None:
    """Noting it makes no other file, without tables, and for everybody to read."""
    spool = Spool(str(tmp_path / "spool-1.db"))
    os.unlink(spool.path)
    with pytest.raises(sqlite3.Error):
        spool.note_writer("this", 3)
    assert not os.path.exists(spool.path)
    spool.keep_name()
    spool.note_writer("this", 3)
    assert stat.S_IMODE(os.stat(spool.path).st_mode) == 0o600
    spool.close()


def test_a_spool_that_is_somebody_s_perhaps(tmp_path: Path) -> None:
    """While PostgreSQL is away nobody knows whose events wait in a folder that several share."""
    row = (MINTED * 1000, 0, "ada@example.org", MINTED, "", b"agent", 0)
    spool = Spool(str(tmp_path / "spool-1.db"))
    spool.note_writer("other", 3)
    spool.put([Parcel(spool.number(1), [row], [OPEN], 0)])
    spool.close()
    for shared, name in ((True, "spool-2.db"), (False, "spool-1.db")):
        chosen = open_spool(str(tmp_path), shared=shared)
        assert os.path.basename(chosen.path) == name
        chosen.close()


def test_a_renamed_spool_is_emptied(tmp_path: Path) -> None:
    """What was in it is in the new one: from both it would be stored twice."""
    row = (MINTED * 1000, 0, "ada@example.org", MINTED, "", b"agent", 0)
    spool = Spool(str(tmp_path / "spool" / "spool-1.db"))
    spool.put([Parcel(spool.number(1), [row], [OPEN], 0)])
    (tmp_path / "spool").rename(tmp_path / "old")
    spool.keep_name()
    assert spool.events == 1
    with closing(Spool(str(tmp_path / "old" / "spool-1.db"))) as old:
        assert (old.waiting, old.events) == (0, 0)
    spool.close()


def test_a_spool_that_cannot_be_made_again_at_once(tmp_path: Path) -> None:
    """It stays what it was, and its lock too: the next try is made as the first."""
    folder = tmp_path / "spool"
    row = (MINTED * 1000, 0, "ada@example.org", MINTED, "", b"agent", 0)
    spool = Spool(str(folder / "spool-1.db"))
    spool.note_owed(5)
    spool.put([Parcel(spool.number(1), [row], [OPEN], 0)])
    shutil.rmtree(folder)
    folder.write_text("in the way")
    for _ in range(2):
        with pytest.raises(sqlite3.Error, match="is gone, and cannot be made again"):
            spool.keep_name()
    folder.unlink()
    spool.keep_name()
    assert (spool.waiting, spool.events, spool.owed) == (1, 1, 5)
    assert not [*folder.glob("*.gone*")]
    spool.close()


def test_the_log_of_a_spool_that_cannot_be_made_again(tmp_path: Path) -> None:
    """It may be all there is of the events, should the server be killed now."""
    row = (MINTED * 1000, 0, "ada@example.org", MINTED, "", b"agent", 0)
    spool = Spool(str(tmp_path / "spool-1.db"))
    spool.put([Parcel(spool.number(1), [row], [OPEN], 0)])
    os.rename(spool.path, tmp_path / "moved.db")
    os.mkdir(spool.path)
    for _ in range(2):
        with pytest.raises(sqlite3.Error, match="cannot be made again"):
            spool.keep_name()
    os.rename(f"{spool.path}.gone-wal", tmp_path / "moved.db-wal")
    with closing(sqlite3.connect(tmp_path / "moved.db")) as moved:
        assert moved.execute("SELECT sum(events) FROM parcel").fetchall() == [(1,)]
    spool.close()


def test_doctor_sees_what_a_server_cannot_store(address: str, tmp_path: Path) -> None:
    """Events that have waited for ten minutes while the server runs, and only those."""
    program = Program(tmp_path, address)
    program.environment["XDG_DATA_HOME"] = str(tmp_path / "home")
    path = str(tmp_path / "home/sestrack/spool-1/spool-1.db")
    spool = Spool(path)
    for at, number in ((int(time.time() * 1000), 1), (MINTED * 1000, 2)):
        row = (at, 0, "ada@example.org", MINTED, "", b"agent", 0)
        parcel = Parcel(spool.number(1), [row], [OPEN], 0)
        spool.put([parcel])
        found = json.loads(program("doctor", "--offline", "--json").stdout)
        told = [check["found"] for check in found if check["name"] == "spool"]
        wanted = [f"1 events wait in {path}, and PostgreSQL does not take them"]
        assert told == (wanted if number > 1 else [])
        spool.drop(parcel.last)
    spool.close()


def test_a_spool_that_is_removed_last(
    quick: QuickServer, address: str, start: Start, tmp_path: Path
) -> None:
    """No event comes after it: what waited is put back before the server ends."""
    pixel = paths(address, "ada@example.org")[-1]
    folder = tmp_path / "spool"
    server = start(address, "a", "--spool", str(folder))
    with away(quick):
        for _ in range(3):
            assert server.ask(pixel).status == 200
        shutil.rmtree(folder)
        assert server.stop() == 0
    assert "3 events wait in" in server.log.read_text()
    start(address, "a", "--spool", str(folder))
    assert until(lambda: stored(address) == {"ada@example.org": 3})


def test_what_an_ended_server_lost_is_counted(
    quick: QuickServer, address: str, start: Start, tmp_path: Path
) -> None:
    """Neither PostgreSQL nor a full disk takes it: the next server tells the store."""
    pixel = paths(address, "ada@example.org")[-1]
    path = tmp_path / "spool" / "spool-1.db"
    with with_full_log(path) as reader:
        server = start(
            address, "a", "--spool", str(path.parent), limits="ulimit -f 40",
            before="import sestrack.tracker.server as s; s.GIVE_UP_SECONDS = 1.0",
        )  # fmt: skip
        with away(quick):
            for _ in range(3):
                assert server.ask(pixel).status == 200
            assert server.stop() == 74
        assert "3 events could not be written and are lost" in server.log.read_text()
        reader.execute("ROLLBACK")
    start(address, "a", "--spool", str(path.parent))
    assert until(lambda: rows(address, "SELECT lost FROM progress") == [(3,)], 20)
    assert int(Path(f"{path}-lock").read_text()) == 0


def test_a_spool_that_was_another_store_s(address: str, tmp_path: Path) -> None:
    """An empty one is taken over; one in which events wait is left to the store they are of."""
    row = (MINTED * 1000, 0, "ada@example.org", MINTED, "", b"agent", 0)
    spool = Spool(str(tmp_path / "spool-1.db"))
    spool.note_writer("another", 3)
    parcel = Parcel(spool.number(1), [row], [OPEN], 0)
    ended = threading.Event()
    shipper = Shipper(address, spool, ended.set)
    shipper.send([parcel])
    assert ended.wait(20)
    assert shipper.end() == (True, None)
    shipper.close()
    assert stored(address) == {"ada@example.org": 1}
    own = spool.store
    spool.note_writer("another", 3)
    spool.put([Parcel(spool.number(1), [row], [OPEN], 0)])
    spool.close()
    chosen = open_spool(str(tmp_path), store=own)
    assert (chosen.path, chosen.waiting) == (str(tmp_path / "spool-2.db"), 0)
    chosen.close()
    chosen = open_spool(str(tmp_path), store="another")
    assert chosen.waiting == 1
    chosen.close()


def test_a_full_spool_that_was_left_takes_no_room(tmp_path: Path) -> None:
    """Whoever takes it up has all of its own for what comes."""
    row = (MINTED * 1000, 0, "ada@example.org", MINTED, "", b"agent", 0)
    parcel = Parcel(1, [row], [OPEN], 0)
    with closing(Spool(str(tmp_path / "spool-1.db"))) as spool:
        spool.note_writer("own", 3)
        spool.put([parcel])
        limit = spool.octets
    left = own_left(str(tmp_path), "own", limit)
    assert left is not None
    assert left.put([parcel._replace(first=2)]) == []
    assert left.put([parcel._replace(first=3)]) != []
    left.close()


@pytest.mark.parametrize("known", [True, False])
def test_an_empty_spool_is_marked_before_its_first_event(
    address: str, tmp_path: Path, known: bool
) -> None:
    """Else what waits before PostgreSQL answers would wait for ever, or for the other store."""
    row = (MINTED * 1000, 0, "ada@example.org", MINTED, "", b"agent", 0)
    with closing(Spool(str(tmp_path / "spool-1.db"))) as spool:
        spool.note_writer("another", 3)
    with closing(open_for_recording(address)) as connection:
        own = mark_of(key_of(connection))
    spool = open_spool(str(tmp_path), store=own if known else "", shared=True)
    assert (os.path.basename(spool.path), spool.store) == ("spool-1.db", own if known else "")
    spool.note_writer("another", 3)  # as if that could not be written
    parcel = Parcel(spool.number(1), [row], [OPEN], 0)
    spool.put([parcel])
    ended = threading.Event()
    shipper = Shipper(address, spool, ended.set)
    shipper.send([parcel])
    assert ended.wait(20)
    assert shipper.end() == (True, None)
    shipper.close()
    assert spool.store == own
    assert stored(address) == {"ada@example.org": 1}
    spool.close()


def test_a_server_ends_while_postgresql_stands_still(
    quick: QuickServer, address: str, start: Start, tmp_path: Path
) -> None:
    """Nothing waits for an answer that may never come; the next server stores what is here."""
    spool = str(tmp_path / "spool")
    server = start(address, "a", "--spool", spool)
    pixel = paths(address, "ada@example.org")[-1]
    assert server.ask(pixel).status == 200
    assert until(lambda: stored(address) == {"ada@example.org": 1})
    with quick.standing_still():
        assert server.ask(pixel).status == 200
        begun = awake.seconds()
        assert server.stop() == 0
        assert awake.seconds() - begun < 30
    assert waiting(tmp_path) == 1
    start(address, "a", "--spool", spool)
    assert until(lambda: stored(address) == {"ada@example.org": 2}, 20)


def test_spools_of_one_machine(
    quick: QuickServer, address: str, start: Start, tmp_path: Path
) -> None:
    """Two servers take one each; one left behind with events in it is the next server's."""
    pixel = paths(address, "ada@example.org")[-1]
    home = str(tmp_path / "home")
    one = start(address, "one", home=home)
    two = start(address, "two", home=home)
    names = sorted(spool.name for spool in (tmp_path / "home").rglob("spool-*.db"))
    assert names == ["spool-1.db", "spool-2.db"]
    for server in (one, two):
        assert server.ask(pixel).status == 200
    assert until(lambda: stored(address) == {"ada@example.org": 2})
    with away(quick):
        for _ in range(5):
            assert two.ask(pixel).status == 200
        assert one.stop() == 0
        two.stop(signal.SIGKILL)
        assert waiting(tmp_path) == 5
        program = Program(tmp_path, address)
        program.environment["XDG_DATA_HOME"] = home
        store, spool = json.loads(program("doctor", "--offline", "--json").stdout)
        assert (store["name"], store["well"]) == ("store", False)
        assert spool["found"].startswith("5 events wait in ")
    start(address, "three", home=home)
    assert until(lambda: not waiting(tmp_path))
    assert stored(address) == {"ada@example.org": 7}
    assert len(rows(address, "SELECT id FROM writer")) == 2


def test_a_spool_of_which_nobody_knew_whose_it_is(
    quick: QuickServer, address: str, start: Start, tmp_path: Path
) -> None:
    """A server that begins with keys from a file leaves it, and takes it up when it knows."""
    pixel = paths(address, "ada@example.org")[-1]
    spool, keys = str(tmp_path / "spool"), str(tmp_path / "all.keys")
    Program(tmp_path, address).ok("keys", "export", keys)
    server = start(address, "a", "--spool", spool)
    assert server.ask(pixel).status == 200
    assert until(lambda: stored(address) == {"ada@example.org": 1})
    with away(quick):
        assert server.ask(pixel).status == 200
        assert server.stop() == 0
        server = start(address, "a", "--spool", spool, "--keys", keys)
        assert server.ask(pixel).status == 200
        assert waiting(tmp_path) == 2
    assert until(lambda: stored(address) == {"ada@example.org": 3}, 20)
    assert until(lambda: not waiting(tmp_path))
    assert server.ask(pixel).status == 200
    assert until(lambda: stored(address) == {"ada@example.org": 4})
    assert server.stop() == 0
    assert "what was left in" in server.log.read_text()


# -- many servers ---------------------------------------------------------------------------


def test_all_servers_see_changes_at_once(
    quick: QuickServer, address: str, start: Start, tmp_path: Path
) -> None:
    """Within a second: told by PostgreSQL, and looked for where that cannot be had."""
    program = Program(tmp_path, address)
    servers = [start(address, "a"), start(address, "b")]
    listening = (
        "FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' "
        f"AND datname = '{address.rpartition('/')[2]}'"
    )
    assert until(lambda: len(quick.query(f"SELECT 1 {listening}")) == 2)
    ended = threading.Event()

    def deafen() -> None:
        while not ended.wait(0.02):
            quick.query(f"SELECT pg_terminate_backend(pid) {listening}")

    deafening = threading.Thread(target=deafen)
    took = []
    for key in range(2):
        if key:
            deafening.start()
        program.ok("keys", "rotate")
        began = awake.seconds()
        link = paths(address, f"{key}@example.org")[0]
        for server in servers:
            assert until(lambda ask=server.ask, link=link: ask(link).status == 302, 10)
        took.append(awake.seconds() - began)
    ended.set()
    deafening.join()
    print(f"seen after {took}")  # noqa: T201 - if it fails
    assert took[0] < 1
    assert took[1] < BOUND
    link = paths(address, "ada@example.org")[0]
    for command, recorded in (("disable", 0), ("enable", 2)):
        program.ok("settings", command)
        time.sleep(1)
        for server in servers:
            assert server.ask(link).status == 302
        time.sleep(0.3)
        assert stored(address).get("ada@example.org", 0) == recorded


def test_servers_are_restarted_one_after_the_other(
    address: str, start: Start, tmp_path: Path
) -> None:
    """Whoever asks the other one when one does not answer notices nothing; nothing is lost."""
    servers = {name: start(address, name) for name in "ab"}
    ports = {name: server.port for name, server in servers.items()}
    with Crowd(address, ports, ["ab", "ba"] * 3) as crowd:
        for name in "aba":
            time.sleep(0.5)
            assert servers[name].stop() == 0
            assert not waiting(tmp_path / name)
            servers[name] = start(address, name, "--bind", f"127.0.0.1:{ports[name]}")
        time.sleep(0.5)
    for server in servers.values():
        assert server.stop() == 0
    assert not waiting(tmp_path)
    crowd.check(stored(address))
    assert crowd.total("answered") > 200
    assert max(reader.most_tries for reader in crowd.readers) <= 3
    check(address)


def test_one_of_the_servers_keeps_the_figures(address: str, start: Start) -> None:
    """One at a time: another one goes on when it stands still, or is killed."""
    servers = [start(address, "a"), start(address, "b")]
    took = []

    def keeping() -> Server | None:
        ask = "SELECT keeper FROM progress WHERE kept_until > extract(epoch FROM now())"
        found = rows(address, ask)
        return next((s for s in servers if found and f":{s.process.pid}:" in found[0][0]), None)

    def ask(*asked: Server) -> None:
        for number in range(30):
            link, _, pixel = paths(address, f"r{number}@example.org")
            for server in asked:
                assert server.ask(link).status == 302
                assert server.ask(pixel).status == 200

    assert until(keeping)
    first = keeping()
    assert first is not None
    (second,) = (server for server in servers if server is not first)
    stopped = keeper_of(first)
    ask(*servers)
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    ask(*servers)
    time.sleep(6)
    ask(*servers)  # some will be judged by the second, and some by the first again
    assert until(lambda: keeping() is second, 30)
    took.append(time.monotonic() - began)
    assert until(lambda: judged(address) > 0)
    os.kill(stopped, signal.SIGCONT)
    time.sleep(1)
    assert keeping() is second
    second.stop(signal.SIGKILL)
    began = time.monotonic()
    assert until(lambda: keeping() is first, 30)
    took.append(time.monotonic() - began)
    print(f"others went on after {took}")  # noqa: T201 - if it fails
    assert max(took) < 25
    assert until(lambda: all_judged(address), 30)
    assert sum(stored(address).values()) == 360
    check(address)


def test_a_keeper_that_dies_again_and_again(address: str, start: Start) -> None:
    """It is started again, after twice the time each time, and readers are served meanwhile."""
    server = start(address, "a")
    pixel = paths(address, "ada@example.org")[-1]
    for pause in ("0.1", "0.2", "0.4"):
        os.kill(keeper_of(server), signal.SIGKILL)
        words = f"the keeper ended with -9; a new one starts in {pause} seconds"
        assert until(lambda words=words: words in server.log.read_text())
        assert server.ask(pixel).status == 200
        assert until(lambda: keepers_of(server))
    assert until(lambda: stored(address) == {"ada@example.org": 3})
    assert server.stop() == 0


def test_a_killed_server_is_missed(address: str, start: Start, tmp_path: Path) -> None:
    """Doctor says so, until another one begins in its place; one that ends well is not missed."""
    program = Program(tmp_path, address)
    none = [(True, "no server records into this store now")]
    server = start(address, "a")
    place = f"127.0.0.1:{server.port}"
    assert until(lambda: server_checks(program) == [(True, f"running http://{place}/")])
    keeper = keeper_of(server)
    server.stop(signal.SIGKILL)
    assert until(lambda: not Path(f"/proc/{keeper}").exists())
    with writing(address) as connection:
        connection.execute("UPDATE server SET seen_at = seen_at - 60")
    words = f"the server at http://{place}/ on {socket.gethostname()} ended without saying so"
    assert server_checks(program) == [(False, words)]
    server = start(address, "a", "--bind", place)
    assert until(lambda: server_checks(program) == [(True, f"running http://{place}/")])
    assert server.stop() == 0
    assert server_checks(program) == none


def test_the_same_request_to_two_servers(address: str, start: Start, tmp_path: Path) -> None:
    """A client that asks again is two clicks, and one who clicked."""
    link = paths(address, "ada@example.org")[0]
    for server in (start(address, "a"), start(address, "b")):
        assert server.ask(link).status == 302
    assert until(lambda: stored(address) == {"ada@example.org": 2})
    (line,) = json.loads(Program(tmp_path, address).ok("stats", "--json"))
    assert (line["clicks"]["people"], line["clickers"]["people"]) == (2, 1)


# -- days that leave ------------------------------------------------------------------------


def days(address: str) -> set[str]:
    """Name the tables of days, attached or not."""
    found = rows(address, "SELECT relname FROM pg_class WHERE relname ~ '_d[0-9]+$'")
    return {name for (name,) in found}


def cut_off_detaching(address: str, table: str, day: int) -> None:
    """Begin to detach a day, and be ended before it is done."""
    with closing(psycopg.connect(address)) as reader, writing(address) as connection:
        reader.execute(f"SELECT count(*) FROM {table}")
        detaching = psycopg.connect(address, autocommit=True)
        statement = f"ALTER TABLE {table} DETACH PARTITION {table}_d{day} CONCURRENTLY"

        def detach() -> None:
            with pytest.raises(psycopg.errors.QueryCanceled):
                detaching.execute(statement.encode())

        thread = threading.Thread(target=detach)
        thread.start()
        ask = "SELECT 1 FROM pg_inherits WHERE inhdetachpending"
        assert until(lambda: connection.execute(ask).fetchall())
        detaching.cancel()
        thread.join()
        detaching.close()
        assert connection.execute(ask).fetchall()


def test_old_days_leave_at_once(address: str, start: Start, tmp_path: Path) -> None:
    """With `--keep` their partitions are dropped, also those half gone; their figures stay."""
    program = Program(tmp_path, address)
    server = start(address, "a")
    pixel = paths(address, "ada@example.org")[-1]
    today = int(time.time() * 1000) // DAY_MS
    for _ in range(3):
        assert server.ask(pixel).status == 200
    assert until(lambda: stored(address) == {"ada@example.org": 3})
    assert server.stop() == 0
    with writing(address) as connection:
        # one that is not of the last hour: else the clock might be wrong
        earlier = int(time.time() * 1000) - 2 * 3_600_000
        connection.make_room("event", ["at"], [(earlier,)])
        one = "(SELECT min(id) FROM event)"
        connection.execute(f"UPDATE event SET at = ? WHERE id = {one}", (earlier,))
        fill(connection, 900, 3, writers=2)
        Upkeep(connection, Places()).settle_all()
    before = all_reports(address)
    old = sorted({d for n in days(address) if (d := int(n.partition("_d")[2])) < today - 30})
    assert len(old) >= 3
    with writing(address) as connection:
        connection.execute(f"ALTER TABLE visit DETACH PARTITION visit_d{old[0]}")
        connection.execute(f"DROP TABLE visit_d{old[0]}")
        connection.execute(f"ALTER TABLE event DETACH PARTITION event_d{old[0]}")
    cut_off_detaching(address, "visit", old[1])
    server = start(address, "a", "--keep", "30d")
    assert until(
        lambda: not any(name.endswith(f"_d{day}") for name in days(address) for day in old)
    )
    assert all_reports(address) == before
    assert "warning" not in server.log.read_text()
    assert server.ask(pixel).status == 200
    assert until(lambda: stored(address) == {"ada@example.org": 4})
    told = json.loads(program.ok("stats", "--by", "day", "--since", "1d", "--json"))
    assert sum(day["opens"]["people"] for day in told) == 4


@pytest.mark.parametrize(("table", "pending"), [("event", False), ("event", True), ("visit", True)])
def test_an_event_of_a_day_half_gone_holds_up_nothing(
    address: str, start: Start, tmp_path: Path, table: str, *, pending: bool
) -> None:
    """Its day comes back, whether or not anybody has ended what was cut off."""
    day = 20_000
    with writing(address) as connection:
        connection.insert("event", EVENT, [(1, day * DAY_MS, 1, 1, None, "", 0, "", 1, 0)])
        if not pending:
            connection.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_d{day}")
    if pending:
        cut_off_detaching(address, table, day)
    spool = Spool(str(tmp_path / "spool" / "spool-1.db"))
    late = (day * DAY_MS + 5, 0, "late@example.org", MINTED, "", b"x", 0)
    spool.put([Parcel(spool.number(1), [late], [OPEN], 0)])
    spool.close()
    start(address, "a", "--spool", str(tmp_path / "spool"))
    assert until(lambda: stored(address).get("late@example.org") == 1, 10)
    assert until(lambda: rows(address, "SELECT 1 FROM visit WHERE event > 1"), 10)


def test_who_was_forgotten_while_events_waited(address: str, start: Start, tmp_path: Path) -> None:
    """What comes out of the spool afterwards has neither their name nor their address."""
    with Store(address) as store:
        hashed = [pseudonym(store.who(), name) for name in ("ada", "bob")]
        for who in hashed:
            store.note_forgotten(who, MINTED + 1)
    spool = Spool(str(tmp_path / "spool" / "spool-1.db"))
    copies = [("ada", 0), (hashed[1], 1), ("ada", 2), ("carl", 0), ("", 0)]
    waiting = [
        (MINTED * 1000, 0, name, MINTED + age, f"192.0.2.{number}", b"x", 0)
        for number, (name, age) in enumerate(copies)
    ]
    spool.put([Parcel(spool.number(5), waiting, [OPEN], 0)])
    spool.close()
    start(address, "a", "--spool", str(tmp_path / "spool"))
    kept = "SELECT recipient, ip FROM event ORDER BY id"
    assert until(lambda: len(rows(address, kept)) == 5, 10)
    assert rows(address, kept) == [
        ("", ""), ("", ""), ("ada", "192.0.2.2"), ("carl", "192.0.2.3"), ("", "192.0.2.4"),
    ]  # fmt: skip
    folder = tmp_path / "spool"
    assert until(lambda: not any(b"ada" in file.read_bytes() for file in folder.iterdir()), 10)


def test_nobody_is_named_before_the_key_is_known(
    quick: QuickServer, address: str, start: Start, tmp_path: Path
) -> None:
    """With --no-recipient and the store away at the start, no name is kept, then or later."""
    _, _, pixel = paths(address, "ada@example.org")
    options = ("--keys", str(tmp_path / "sestrack.keys"), "--no-recipient")
    Program(tmp_path, address).ok("keys", "export", options[1])
    with away(quick):
        server = start(address, "a", *options)
        assert server.ask(pixel).status == 200
    assert until(lambda: sum(stored(address).values()) == 1)

    def named() -> bool:
        assert server.ask(pixel).status == 200
        return any(name.startswith("recipient-") for name in stored(address))

    assert until(named)
    assert server.stop() == 0
    names = set(stored(address))
    assert {name.partition("-")[0] for name in names} == {"", "recipient"}


def test_a_spool_that_was_copied(address: str, start: Start, tmp_path: Path) -> None:
    """Two servers that believe to be the same writer become two; none of their events is lost."""
    path = paths(address, "ada@example.org")[-1]
    server = start(address, "a")
    assert server.ask(path).status == 200
    assert server.stop() == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True)
    servers = [start(address, name) for name in ("a", "b")]
    for _ in range(10):
        for server in servers:
            assert server.ask(path).status == 200
    assert until(lambda: stored(address) == {"ada@example.org": 21})
    assert [server.stop() for server in servers] == [0, 0]
    assert stored(address) == {"ada@example.org": 21}


def test_doctor_sees_a_database_that_only_reads(address: str, tmp_path: Path) -> None:
    """No event would be stored, though all can be read."""
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(
            f'ALTER DATABASE "{connection.info.dbname}" SET default_transaction_read_only = on'
        )
    checks = json.loads(Program(tmp_path, address)("doctor", "--offline", "--json").stdout)
    (check,) = (check for check in checks if check["name"] == "store")
    assert (check["well"], check["found"].endswith(" it can only be read")) == (False, True)
