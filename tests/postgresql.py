"""Real PostgreSQL servers from the distribution's packages: one, or some that replicate."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import psycopg

HOST = "127.0.0.1"
RULES = f"""\
host all secured {HOST}/32 scram-sha-256
host all all {HOST}/32 trust
host replication all {HOST}/32 trust
"""
"""Who may come in: the role `secured` with its password, everybody else without."""

EVERYWHERE = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    # in files that go with the folder: in /dev/shm they would outlast a killed server
    "dynamic_shared_memory_type": "mmap",
    "max_connections": 200,
}
QUICK = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
REPLICATED = {
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "replica",
    "hot_standby": "on",
    "wal_log_hints": "on",  # pg_rewind asks for it
    "wal_keep_size": "1GB",  # what a server that comes back has missed, in place of slots
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",
}


@functools.cache
def binaries() -> Path | None:
    """Return the folder of the newest server that is installed."""
    found = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


def free_port() -> int:
    """Return a port that nobody listens on and that no outgoing connection is given.

    A client that asks again and again for a dead server on a port from the kernel's own range
    is one day connected with itself, and then the server cannot come back.
    """
    while True:
        port = 12000 + secrets.randbelow(20000)
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port


def until(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Wait for something; return whether it came."""
    end = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return True
        now = time.monotonic()
        if now > end:
            return False
        time.sleep(max(0.01, now - began))  # what is waited for has to have its turns, too


class Reachable:
    """What has an address: a server, or several of which one answers."""

    ports: list[int]

    def address(
        self, database: str = "sestrack", user: str = "postgres", password: str = "", **query: str
    ) -> str:
        """Return the URL of a database; `target_session_attrs` chooses among several servers."""
        who = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        hosts = ",".join(f"{HOST}:{port}" for port in self.ports)
        url = f"postgresql://{who}@{hosts}/{quote(database, safe='')}"
        return f"{url}?{urlencode(query, quote_via=quote)}" if query else url


class Node(Reachable):
    """One server, in a folder and on a port of its own."""

    def __init__(self, name: str = "n1", **settings: object) -> None:
        folder = binaries()
        assert folder, "no PostgreSQL server is installed: apt-get install postgresql"
        self.binaries = folder
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"postgresql-{name}-"))
        self.data = self.folder / "data"
        self.port = free_port()
        self.ports = [self.port]
        self.settings: dict[str, object] = EVERYWHERE | {"port": self.port} | settings
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")

    def _command(self, tool: str, *arguments: str, mortal: bool = False) -> list[str]:
        """Return how to run a tool: none of them runs as root.

        What is mortal ends with us however we end.  The kernel takes the end of the thread
        that started it for that of the process, so only the main thread can ask for it.
        """
        options = ["--reuid=postgres", "--regid=postgres", "--init-groups"]
        options = options if os.geteuid() == 0 else []
        if mortal and threading.current_thread() is threading.main_thread():
            options.append("--pdeathsig=QUIT")
        return [*(["setpriv", *options] if options else []), str(self.binaries / tool), *arguments]

    def tool(self, tool: str, *arguments: str) -> bool:
        """Run a tool to its end, its output into the log; return whether it succeeded."""
        with (self.folder / "log").open("ab") as log:
            command = self._command(tool, *arguments)
            done = subprocess.run(command, stdout=log, stderr=log, check=False, cwd=self.folder)
        return done.returncode == 0

    def create(self) -> None:
        """Make the data, those of a server that has nothing yet."""
        assert self.tool(
            "initdb", "--pgdata", str(self.data), "--username=postgres", "--auth=trust",
            "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-sync",
        ), self.log  # fmt: skip
        (self.data / "pg_hba.conf").write_text(RULES)

    @property
    def log(self) -> str:
        """What the server and the tools said."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether the server has been started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def configure(self, **settings: object) -> None:
        """Change settings; a server that runs reads them a moment later, some on a restart."""
        self.settings |= settings
        quoted = {k: str(v).replace("'", "''") for k, v in self.settings.items()}
        # what ALTER SYSTEM writes, and what counts most; writing in place leaves its owner
        (self.data / "postgresql.auto.conf").write_text(
            "".join(f"{key} = '{value}'\n" for key, value in quoted.items())
        )
        if self.process and self.running:
            self.process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        """Start the server; return when it answers."""
        self.configure()  # pg_basebackup and pg_rewind bring another server's
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command("postgres", "-D", str(self.data), mortal=True),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        assert until(lambda: not self.running or self._answers()), self.log
        assert self.running, self.log

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            return bool(self.query("SELECT 1"))
        return False

    def stop(self) -> None:
        """Stop it in order, without waiting for its clients."""
        if self.process and self.running:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=30)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Have none of its processes do anything: to others it is silent, and not away."""
        assert self.process
        family = [self.process.pid]
        os.kill(family[0], signal.SIGSTOP)
        os.waitid(os.P_PID, family[0], os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        family += map(int, Path(f"/proc/{family[0]}/task/{family[0]}/children").read_text().split())
        try:
            for each in family[1:]:
                os.kill(each, signal.SIGSTOP)
            yield
        finally:
            for each in reversed(family):
                os.kill(each, signal.SIGCONT)

    def kill(self) -> None:
        """End all its processes at once, so that none writes or says anything more."""
        if not (self.process and self.running):
            return
        pid = self.process.pid
        self.process.send_signal(signal.SIGSTOP)  # it makes no more children, and buries none
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        family = [(each, os.pidfd_open(each)) for each in [pid, *map(int, children)]]
        for each, _ in family:
            os.kill(each, signal.SIGKILL)
        for _, descriptor in family:
            select.select([descriptor], [], [], 30)
            os.close(descriptor)
        self.process.wait(timeout=30)
        # the server's lock in System V memory; its number stands in the seventh line
        lines = (self.data / "postmaster.pid").read_text().splitlines()
        if len(lines) > 6:
            memory = lines[6].split()[-1]
            subprocess.run(["ipcrm", "-m", memory], check=False, capture_output=True)

    def close(self) -> None:
        """Leave nothing of it."""
        try:
            self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def query(self, statement: str, *parameters: object, database: str = "postgres") -> list[Any]:
        """Run a statement by itself; it waits for no other server."""
        with psycopg.connect(
            self.address(database), autocommit=True, connect_timeout=10,
            options="-c synchronous_commit=local",
        ) as connection:  # fmt: skip
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description is not None else []

    @property
    def is_primary(self) -> bool:
        """Whether it takes writes."""
        return not self.query("SELECT pg_is_in_recovery()")[0][0]

    def promote(self) -> None:
        """Make a primary of a standby; return when it takes writes."""
        self.query("SELECT pg_promote(wait => false)")
        assert until(lambda: self.is_primary), self.log

    def received_lsn(self) -> int:
        """Return how much of the log a standby has for sure.

        What it has received counts from its start, and from the beginning of a segment.
        """
        received = "greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
        return int(self.query(f"SELECT {received} - '0/0'")[0][0])

    def receives(self, primary: Node) -> bool:
        """Whether it is connected as that primary's standby, and up to date."""
        connected = self.query(
            "SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = %s",
            primary.port,
        )
        return bool(connected) and self.name in primary.streaming()

    def streaming(self) -> list[str]:
        """Name the standbys that are connected and up to date."""
        up_to_date = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
        return [name for (name,) in self.query(up_to_date)]

    def follow(self, primary: Node) -> None:
        """Say whose standby it is."""
        self.configure(primary_conninfo=f"{primary.connection} application_name={self.name}")

    @property
    def connection(self) -> str:
        """How the tools of PostgreSQL connect with it."""
        return f"host={HOST} port={self.port} user=postgres dbname=postgres"


class QuickServer(Node):
    """A server that is quick because it may lose everything when the machine fails."""

    def fresh_database(self, template: str = "template0") -> str:
        """Return the address of a new database, empty or as the template, a name or address."""
        name = f"fresh_{secrets.token_hex(6)}"
        self.query(f'CREATE DATABASE "{name}" TEMPLATE "{_name(template)}"')
        return self.address(name)

    def drop(self, database: str) -> None:
        """Remove a database, by name or address, whoever is connected with it."""
        self.query(f'DROP DATABASE "{_name(database)}" WITH (FORCE)')


def _name(database: str) -> str:
    return urlsplit(database).path.removeprefix("/")


@contextlib.contextmanager
def quick_server(**settings: object) -> Iterator[QuickServer]:
    """Run a server for tests that need no more than its SQL."""
    node = QuickServer("quick", **QUICK | settings)
    try:
        node.create()
        node.start()
        yield node
    finally:
        node.close()


class Cluster(Reachable):
    """A primary and its standbys; what is committed is on two of them."""

    def __init__(self, count: int = 3, **settings: object) -> None:
        names = [f"n{number}" for number in range(1, count + 1)]
        # each node has the whole list: its own name there does no harm
        together = {"synchronous_standby_names": f"ANY 1 ({', '.join(names)})"}
        self.nodes = [Node(name, **REPLICATED | together | settings) for name in names]
        self.ports = [node.port for node in self.nodes]

    def start(self) -> None:
        """Start all of them, with an empty database `sestrack`."""
        first, *others = self.nodes
        first.create()
        first.start()
        first.query("CREATE DATABASE sestrack")
        for node in others:
            assert self._copy(node), node.log
            node.follow(first)
            node.start()
        self.wait_streaming(len(others))

    def close(self) -> None:
        """Leave nothing of them."""
        with contextlib.ExitStack() as stack:
            for node in self.nodes:
                stack.callback(node.close)

    @property
    def running(self) -> list[Node]:
        """The nodes that run."""
        return [node for node in self.nodes if node.running]

    @property
    def primary(self) -> Node:
        """The node that takes writes."""
        [primary] = [node for node in self.running if node.is_primary]
        return primary

    def wait_streaming(self, count: int) -> None:
        """Wait until so many standbys are up to date."""
        primary = self.primary
        assert until(lambda: len(primary.streaming()) >= count), primary.log

    def fail_over(self) -> float:
        """Kill the primary, put a standby in its place; return how many seconds it took."""
        began = time.monotonic()
        for node in self.running:
            if node.is_primary:
                node.kill()
        standbys = self.running
        receiving = "SELECT 1 FROM pg_stat_wal_receiver"
        for node in standbys:  # what is still on its way could put another one ahead
            assert until(lambda node=node: not node.query(receiving)), node.log
        chosen = max(standbys, key=Node.received_lsn)
        chosen.promote()
        others = [node for node in standbys if node is not chosen]
        for node in others:
            node.follow(chosen)
        for node in others:
            assert until(lambda node=node: node.receives(chosen)), node.log
        return time.monotonic() - began

    def rejoin(self, node: Node) -> float:
        """Bring a node back as a standby of the primary; return how many seconds it took."""
        began = time.monotonic()
        primary = self.primary
        assert node is not primary
        for prepare in (self._rewind, self._copy):
            node.stop()
            if prepare(node):
                node.follow(primary)
                with contextlib.suppress(AssertionError):  # it may not even start
                    node.start()
                    if until(lambda: node.receives(primary), 20):
                        return time.monotonic() - began
        raise AssertionError(node.log)

    def _rewind(self, node: Node) -> bool:
        """Take back what only a former primary has; a standby goes on from where it was."""
        if (node.data / "standby.signal").exists():
            return True
        # before that the new primary's control file still tells of the old timeline
        self.primary.query("CHECKPOINT")
        return node.tool(
            "pg_rewind", "--target-pgdata", str(node.data), "--write-recovery-conf", "--no-sync",
            "--source-server", self.primary.connection,
        )  # fmt: skip

    def _copy(self, node: Node) -> bool:
        """Copy everything from the primary."""
        shutil.rmtree(node.data, ignore_errors=True)
        return node.tool(
            "pg_basebackup", "--pgdata", str(node.data), "--write-recovery-conf", "--no-sync",
            "--checkpoint=fast", "--dbname", self.primary.connection,
        )  # fmt: skip


@contextlib.contextmanager
def cluster(count: int = 3, **settings: object) -> Iterator[Cluster]:
    """Run a primary and its standbys."""
    servers = Cluster(count, **settings)
    try:
        servers.start()
        yield servers
    finally:
        servers.close()
