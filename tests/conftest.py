"""What the tests share: the real program, run as a user runs it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from forks import Forks
from postgresql import QuickServer, binaries, quick_server
from services import missing

from sestrack.engines import engine_of
from sestrack.engines.interface import Connection


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what touches a store on both engines, but for what is marked: one is enough for it."""
    if "engine" in metafunc.fixturenames:
        only_file = metafunc.definition.get_closest_marker("sqlite") is not None
        metafunc.parametrize("engine", ENGINES[:1] if only_file else ENGINES)


def pytest_xdist_auto_num_workers() -> int:
    """Use a process for each core, and two that work while others wait."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return (len(affinity(0)) if affinity else os.cpu_count() or 1) + 2


_NOT_OURS = {"VISUAL", "EDITOR", "COLUMNS", "LINES"}
"""What a person, or a runner of tests, may have set, and a test must not see."""
ENGINES = ("sqlite", "postgresql")


_forks: list[Forks] = []


def pytest_unconfigure() -> None:
    """End what commands are forked from."""
    while _forks:
        _forks.pop().close()


class Program:
    """The installed `sestrack` with a store of its own, in a folder of its own."""

    def __init__(self, folder: Path, address: str = "") -> None:
        self.folder = folder
        self.store = folder / "store.db"
        """The file, where it is one."""
        self.server: QuickServer | None = None
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in _NOT_OURS},
            "XDG_DATA_HOME": str(folder / "data"),
            "PYTHONWARNINGS": "error",
        }
        self.lives_at(address or str(self.store))

    def lives_at(self, address: str) -> None:
        """Take another store."""
        self.address = self.environment["SESTRACK_STORE"] = address

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Give a connection to the store, whatever it lives on."""
        connection = engine_of(self.address).connect(self.address, writing=True, wait=5)
        with closing(connection):
            yield connection

    @contextmanager
    def blocked(self) -> Iterator[Connection]:
        """Let nobody else write to the store."""
        with self.connection() as connection:
            connection.execute(_BLOCK[engine_of(self.address).KIND])
            yield connection
            connection.execute("ROLLBACK")

    def __call__(
        self, *arguments: str, stdin: bytes = b"", **more: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it; stdin is a pipe."""
        environment = self.environment | more
        if not _forks:
            _forks.append(Forks(self.environment))
        done = _forks[0].run(arguments, stdin, self.folder, environment)
        return done or subprocess.run(
            [sys.executable, "-m", "sestrack", *arguments],
            input=stdin, capture_output=True, check=False, cwd=self.folder,
            env=environment, timeout=120,
        )  # fmt: skip

    def paths(
        self, html: str, recipient: str = "ada@example.org", at: str = "2026-06-01T08:00:00Z",
        message: str = "june",
    ) -> list[str]:  # fmt: skip
        """Rewrite some HTML; return the paths of its tracking URLs, the pixel's last."""
        text = self.ok(
            "rewrite", "--sender", "news.example.com", "--recipient", recipient, "--message",
            message, "--at", at, stdin=html.encode(),
        )  # fmt: skip
        return re.findall(r"https://trace\.example\.com(/[^\"]+)\"", text)

    def events(self) -> list[dict[str, Any]]:
        """Return what is recorded."""
        return [json.loads(line) for line in self.ok("events", "export").splitlines()]

    def ok(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run it, expect success, return stdout."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


_BLOCK = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "BEGIN; LOCK TABLE sestrack, event, copies IN SHARE ROW EXCLUSIVE MODE",
}


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes


class Server:
    """`sestrack serve`, as a program of its own, on a port that was free."""

    def __init__(self, program: Program, *options: str, limits: str = "", before: str = "") -> None:
        """Start it with `limits` of bash's ulimit, and with what Python is to do `before`."""
        self.log = program.folder / "serve.log"
        main = ["-c", f"{before}; from sestrack.cli import main; main()"]
        command = [
            sys.executable, *(main if before else ["-m", "sestrack"]), "serve",
            "--bind", "127.0.0.1:0", *options,
        ]  # fmt: skip
        if limits:
            command = ["bash", "-c", f"{limits}; exec {shlex.join(command)}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stderr=log, cwd=program.folder, env=program.environment
            )
        self.port = int(self._wait_for(r"serving on https?://[^ ]*:(\d+)/"))

    def _wait_for(self, pattern: str) -> str:
        for _ in range(300):
            if found := re.search(pattern, self.log.read_text()):
                # the workers begin to answer a moment later; the kernel keeps who comes before
                return found[1] if found.groups() else found[0]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def ask(
        self, path: str, *, method: str = "GET", host: str = "trace.example.com", **headers: str
    ) -> Answer:
        """Ask with a real HTTP client."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host)
        for name, value in ({"User-Agent": PERSON} | headers).items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
        connection.close()
        return answer

    def children(self) -> list[int]:
        """Name the workers."""
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [
            int(child)
            for child in tasks.read_text().split()
            if b"tracker.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user whom permissions hold off."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


PERSON = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36"
)


@pytest.fixture
def serve(tracking: Program) -> Iterator[Callable[..., Server]]:
    """Give what starts servers on a tracking store; all are stopped in the end."""
    servers: list[Server] = []

    def start(*options: str, **how: str) -> Server:
        servers.append(Server(tracking, *options, **how))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="session")
def quick() -> Iterator[QuickServer]:
    """Give a PostgreSQL that syncs nothing."""
    if binaries() is None:
        missing("postgres", "postgresql")
    with quick_server() as server:
        yield server


class Shelf:
    """Stores prepared once by the commands themselves, and copied for each test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[tuple[str, str], str] = {}

    def give(self, program: Program, name: str, prepare: Callable[[Program], None]) -> None:
        """Give a program the store of this name; prepare it if it is the first to ask."""
        engine = engine_of(program.address).KIND
        keep, take = {
            "sqlite": (self._keep_file, self._take_file),
            "postgresql": (self._keep_database, self._take_database),
        }[engine]
        if (engine, name) not in self.known:
            prepare(program)
            self.known[engine, name] = keep(program, name)
        else:
            take(program, self.known[engine, name])

    def _keep_file(self, program: Program, name: str) -> str:
        return shutil.copy(program.store, self.folder / name)

    def _take_file(self, program: Program, kept: str) -> None:
        shutil.copy(kept, program.store)

    def _keep_database(self, program: Program, name: str) -> str:  # noqa: ARG002
        assert program.server is not None
        return program.server.fresh_database(program.address)

    def _take_database(self, program: Program, kept: str) -> None:
        assert program.server is not None
        program.server.drop(program.address)
        program.lives_at(program.server.fresh_database(kept))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Give the stores that were prepared before."""
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def program(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Program]:
    """Give a program whose store does not exist yet."""
    if engine == "sqlite":
        yield Program(tmp_path)
        return
    server = request.getfixturevalue("quick")
    program = Program(tmp_path, server.fresh_database())
    program.server = server
    yield program
    server.drop(program.address)


@pytest.fixture
def address(program: Program) -> str:
    """Give the address of a store that does not exist yet."""
    return program.address


def make_ready(program: Program) -> None:
    """Make a store with a trusted sender domain and a trace domain not verified yet."""
    program.ok("init", "--edge", "edge.example.net")
    program.ok("sender", "add", "news.example.com", "--assume-verified")
    program.ok("domain", "create", "trace")


def make_tracking(program: Program) -> None:
    """Make a store that tracks clicks and opens of news.example.com."""
    from sestrack.demo.nameserver import NameServer

    make_ready(program)
    with NameServer({}) as server:
        server.add("edge.example.net. 60 IN A 192.0.2.1")
        server.add("trace.example.com. 60 IN CNAME edge.example.net.")
        program.ok(
            "domain", "verify", "trace.example.com", "--no-http", "--resolver", server.address
        )
    program.ok(
        "settings", "enable", "--dimension", "account", "--domain", "trace.example.com",
        "--click", "--open",
    )  # fmt: skip


@pytest.fixture
def ready(program: Program, shelf: Shelf) -> Program:
    """Give a program with a trusted sender domain and a trace domain not verified yet."""
    shelf.give(program, "ready", make_ready)
    return program


@pytest.fixture
def tracking(program: Program, shelf: Shelf) -> Program:
    """Give a program that tracks clicks and opens of news.example.com."""
    shelf.give(program, "tracking", make_tracking)
    return program
