"""The tracking server, as a program of its own, asked over real HTTP."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import awake
import pytest
from conftest import Program, Server, as_nobody
from postgresql import free_port, until

from sestrack.domains import challenge
from sestrack.engines.sqlite import connect, for_recording, left, served_at, serving
from sestrack.errors import NoPermission, TryAgain
from sestrack.store import Store
from sestrack.tracker.answers import GIF, Found
from sestrack.tracker.certificate import tls_context
from sestrack.tracker.clients import Clients
from sestrack.tracker.names import Names, pseudonym
from sestrack.tracker.protocol import Connection, Site
from sestrack.tracker.server import count_lost
from sestrack.tracker.upkeep import purge_piece
from sestrack.tracker.waiting import REOPEN_SECONDS

LETTER = (
    '<body><a href="https://www.example.com/a?x=1&amp;y=2#part">a</a>'
    '<a href="https://exämple.com/ü?q=ö#ß">b</a></body>'
)
Serve = Callable[..., Server]


def test_click_and_open(tracking: Program, serve: Serve) -> None:
    """A click leads exactly there, an open gets a pixel, both with headers that keep them apart."""
    server = serve()
    first, _, pixel = tracking.paths(LETTER)
    second = tracking.paths(LETTER, "bob@example.org")[1]
    click = server.ask(first)
    assert click.status == 302
    assert click.headers["Location"] == "https://www.example.com/a?x=1&y=2#part"
    assert server.ask(second).headers["Location"] == (
        "https://xn--exmple-cua.com/%C3%BC?q=%C3%B6#%C3%9F"
    )
    opened = server.ask(pixel)
    assert (opened.status, opened.body, len(opened.body)) == (200, GIF, 43)
    assert opened.headers["Content-Type"] == "image/gif"
    for answer in (click, opened):
        assert answer.headers["Cache-Control"] == "no-store, no-cache, must-revalidate, private"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Robots-Tag"] == "noindex"
        assert "Date" in answer.headers
    assert server.stop() == 0
    kinds = [(event["kind"], event["link"], event["visitor"]) for event in tracking.events()]
    assert kinds == [("click", 0, "person"), ("click", 1, "person"), ("open", None, "person")]
    event = tracking.events()[0]
    assert event["recipient"] == "ada@example.org"
    assert event["url"] == "https://www.example.com/a?x=1&y=2#part"
    assert (event["device"], event["client"], event["system"]) == ("desktop", "Chrome", "Windows")
    assert (event["ip"], event["minted_at"]) == ("127.0.0.1", "2026-06-01T08:00:00Z")


@pytest.mark.sqlite
def test_head_is_a_machines(tracking: Program, serve: Serve) -> None:
    """HEAD is answered the same but for the body, and counted as a machine's."""
    server = serve()
    link, _, pixel = tracking.paths(LETTER)
    assert server.ask(link, method="HEAD").headers["Location"].startswith("https://www.example")
    assert server.ask(pixel, method="HEAD").headers["Content-Length"] == "43"
    assert server.ask(pixel, method="POST").status == 405
    server.stop()
    assert [(e["visitor"], e["reasons"]) for e in tracking.events()] == [("machine", ["head"])] * 2


def test_what_is_not_ours(tracking: Program, serve: Serve) -> None:
    """Forged, foreign, truncated and oversized tokens: 404, no redirect, nothing recorded."""
    server = serve()
    link, other, pixel = tracking.paths(LETTER)
    recipient, token = link[1:].split("/")
    flipped = ("B" if token[9] != "B" else "C").join((token[:9], token[10:]))
    for path in (
        f"/{recipient}/{flipped}", f"/{recipient}/{token[:-4]}", f"/{token}/{recipient}",
        f"/{recipient}/{'Q' * 9000}", "/a/b", f"/{recipient}/https://evil.example/", "//evil.example/",
        f"/{recipient}/{token}/x", "/../../etc/passwd", f"/{recipient}/%00",
    ):  # fmt: skip
        answer = server.ask(path)
        assert (answer.status, "Location" in answer.headers) == (404, False), path
    for path in (f"{pixel}x", "/", "/nothing", pixel[:-3], "/" + "Q" * 5000):
        answer = server.ask(path)
        assert (answer.status, answer.body) == (404, GIF), path
    assert server.ask(link, host="trace.example.org").status == 404
    assert server.ask(other).status == 302
    server.stop()
    assert len(tracking.events()) == 1


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda path: f"{path}?utm_source=gateway&x=1", id="a query was added"),
        pytest.param(
            lambda path: path.replace("~", "%7E").replace("_", "%5f"), id="percent-encoded"
        ),
        pytest.param(lambda path: f"{path}#top", id="a fragment, which is not to be sent"),
        pytest.param(lambda path: f"{path}#a?b", id="a fragment with a question mark"),
        pytest.param(lambda path: f"{path}.", id="the end of a sentence"),
        pytest.param(lambda path: f"{path}_`|~~", id="the end of an emphasis"),
        pytest.param(lambda path: f"{path}/", id="a slash"),
        pytest.param(
            lambda path: path.replace("~", "%E2%80%BE"), id="overlines of JIS X 0201 for tildes"
        ),
        pytest.param(lambda path: f"{path}%22%3E", id="a quote and a bracket"),
        pytest.param(lambda path: f"http://Trace.Example.com:80{path}", id="absolute form"),
    ],
)
@pytest.mark.sqlite
def test_what_gateways_do_is_undone(
    tracking: Program, serve: Serve, changed: Callable[[str], str]
) -> None:
    """A link survives what is done to URLs on their way."""
    server = serve()
    for path in tracking.paths(LETTER)[:2]:
        assert server.ask(changed(path)).status == 302


@pytest.mark.sqlite
def test_host_is_matched_as_hosts_are(tracking: Program, serve: Serve) -> None:
    """Case, port and the root's dot of a host do not matter."""
    server = serve()
    pixel = tracking.paths(LETTER)[-1]
    for host in ("TRACE.example.com", "trace.example.com:8443", "trace.example.com."):
        assert server.ask(pixel, host=host).status == 200


def test_health_and_proof(tracking: Program, serve: Serve) -> None:
    """The server says that it lives, and proves that it has our keys."""
    server = serve()
    assert server.ask("/healthz").body == b"ok\n"
    nonce = "N" * 32
    answer = server.ask(f"/.well-known/sestrack/{nonce}", host="Trace.example.com:80")
    with Store(tracking.address) as store:
        secret = store.keys()[0].secret
    said = challenge.read(answer.body, "trace.example.com", nonce, [b"another", secret])
    assert said == (challenge.Answered.OURS, "trace.example.com")
    assert answer.headers["Cache-Control"].startswith("no-store")
    assert server.ask("/.well-known/sestrack/short").status == 404


def test_links_outlive_everything(tracking: Program, serve: Serve) -> None:
    """Disabled, rotated, retired, purged: every link leads on; disabled ones are not recorded."""
    server = serve()
    link, _, pixel = tracking.paths(LETTER)
    tracking.ok("keys", "rotate")
    tracking.ok("settings", "disable")
    time.sleep(1.2)
    assert (server.ask(link).status, server.ask(pixel).status) == (302, 200)
    assert tracking.events() == []
    tracking.ok("settings", "enable", "--no-open")
    time.sleep(1.2)
    assert (server.ask(link).status, server.ask(pixel).status) == (302, 200)
    assert [event["kind"] for event in tracking.events()] == ["click"]
    tracking.ok("settings", "apply", "-", stdin=b"enabled = false\n")
    tracking.ok("domain", "delete", "trace.example.com")
    with tracking.connection() as connection:  # the command refuses to take what came today
        while purge_piece(connection, 2**20):
            pass
    time.sleep(1.2)
    assert server.ask(link).status == 302
    server.stop()
    server = serve()
    assert server.ask(link).status == 302
    # made with a key that the server has not seen yet
    tracking.ok("keys", "rotate")


def test_new_keys_are_read_at_once(tracking: Program, serve: Serve) -> None:
    """Mail made with a key rotated in while the server runs is answered."""
    server = serve()
    tracking.ok("keys", "rotate")
    link = tracking.paths(LETTER)[0]
    time.sleep(1.2)
    assert server.ask(link).status == 302


@pytest.mark.sqlite
def test_changes_are_seen_after_any_error(tracking: Program, serve: Serve) -> None:
    """What goes wrong while settings are read is said, and they are read again."""
    server = serve()
    with tracking.connection() as store:
        store.execute("ALTER TABLE config RENAME TO elsewhere")
        assert until(lambda: "no such table" in server.log.read_text(), 20)
        store.execute("ALTER TABLE elsewhere RENAME TO config")
    tracking.ok("keys", "rotate")
    link = tracking.paths(LETTER)[0]
    assert until(lambda: server.ask(link).status == 302, 20)


@pytest.mark.sqlite
def test_key_file_outlives_the_store(tracking: Program, serve: Serve) -> None:
    """With the store gone, a key file still redirects; what is lost at the end is said."""
    link, _, pixel = tracking.paths(LETTER)
    tracking.ok("keys", "export", "sestrack.keys")
    for name in tracking.folder.glob("store.db*"):
        name.unlink()
    server = serve("--keys", "sestrack.keys")
    assert (server.ask(link).status, server.ask(pixel).status) == (302, 200)
    assert "nothing is recorded" in server.log.read_text()
    assert server.stop() == 74
    assert "2 events could not be written and are lost" in server.log.read_text()
    assert tracking("serve").returncode == 78


@pytest.mark.sqlite
def test_workers_without_a_writer_end_with_the_server(tracking: Program, serve: Serve) -> None:
    """Else they would take readers from the next server for ever."""
    tracking.ok("keys", "export", "sestrack.keys")
    for name in tracking.folder.glob("store.db*"):
        name.unlink()
    server = serve("--keys", "sestrack.keys")
    (worker,) = server.children()
    server.process.kill()
    server.process.wait()

    def is_over() -> bool:
        line = Path(f"/proc/{worker}/cmdline")  # that of a zombie, which nobody reaps, is empty
        return not (line.exists() and line.read_bytes())

    assert until(is_over, 20)


@pytest.mark.sqlite
@pytest.mark.parametrize("how", ["init", "restore"])
def test_a_store_for_a_server_that_waits_for_one(tracking: Program, serve: Serve, how: str) -> None:
    """On a new machine, with the keys alone: nobody is kept from making the store."""
    link = tracking.paths(LETTER)[0]
    tracking.ok("keys", "export", "sestrack.keys")
    tracking.ok("backup", "one.db")
    for name in tracking.folder.glob("store.db*"):
        name.unlink()
    server = serve("--keys", "sestrack.keys")
    assert server.ask(link).status == 302
    assert not list(tracking.folder.glob("store.db*"))
    if how == "init":
        tracking.ok("init")
    else:
        tracking.ok("restore", "one.db")
    assert until(lambda: "events are recorded from now on" in server.log.read_text(), 20)
    if how == "restore":  # else nothing is enabled in it
        assert until(lambda: server.ask(link).status == 302 and len(tracking.events()) > 0, 20)
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "headers", "expected"),
    [
        pytest.param((), {"X_Forwarded_For": "192.0.2.7"}, "127.0.0.1", id="believed by nobody"),
        pytest.param(("--trust-proxy", "127.0.0.0/8"), {"X_Forwarded_For": "192.0.2.7"}, "192.0.2.7", id="believed"),
        pytest.param(("--trust-proxy", "127.0.0.1"), {"X_Forwarded_For": "6.6.6.6, 192.0.2.7, 127.0.0.2"}, "127.0.0.2", id="one hop only"),
        pytest.param(("--trust-proxy", "127.0.0.0/8"), {"X_Forwarded_For": "6.6.6.6, 192.0.2.7, 127.0.0.2"}, "192.0.2.7", id="from the right"),
        pytest.param(("--trust-proxy", "127.0.0.0/8"), {"Forwarded": 'for="[2001:db8::7]:123";proto=https'}, "2001:db8::7", id="RFC 7239"),
        pytest.param(("--trust-proxy", "127.0.0.0/8", "--anonymize-ip"), {"X_Forwarded_For": "192.0.2.7"}, "192.0.2.0", id="cut to /24"),
        pytest.param(("--trust-proxy", "127.0.0.0/8", "--anonymize-ip"), {"X_Forwarded_For": "2001:db8:1:2::7"}, "2001:db8:1::", id="cut to /48"),
    ],
)  # fmt: skip
@pytest.mark.sqlite
def test_client_address(
    tracking: Program,
    serve: Serve,
    options: tuple[str, ...],
    headers: dict[str, str],
    expected: str,
) -> None:
    """Only proxies that were named are believed, from the right."""
    server = serve(*options)
    server.ask(tracking.paths(LETTER)[-1], **headers)
    server.stop()
    assert [event["ip"] for event in tracking.events()] == [expected]


def test_no_recipient(tracking: Program, serve: Serve) -> None:
    """With --no-recipient the store has no name, but still tells recipients apart."""
    server = serve("--no-recipient")
    for recipient in ("ada@example.org", "bob@example.org", "ada@example.org"):
        server.ask(tracking.paths(LETTER, recipient)[-1])
    server.stop()
    names = [event["recipient"] for event in tracking.events()]
    assert names[0] == names[2] != names[1]
    assert all(name.startswith("recipient-") for name in names)
    assert b"ada@example.org" not in b"".join(
        p.read_bytes() for p in tracking.folder.glob("store.db*")
    )
    tracking.ok("events", "forget", "--recipient", "ada@example.org")


def test_a_forgotten_recipient(tracking: Program, serve: Serve) -> None:
    """Links in mail sent to them lead on, and name nobody; mail sent later names them anew."""
    ada, bob = "ada@example.org", "bob@example.org"
    link, *_ = tracking.paths(LETTER, ada)
    server = serve()
    assert server.ask(link).status == 302
    tracking.ok("events", "forget", "--recipient", ada)
    for path in (link, tracking.paths(LETTER, bob)[0]):
        assert server.ask(path).status == 302
    server.stop()
    assert b"there were no events" in tracking("events", "forget", "--recipient", "carl").stderr
    server = serve()
    paths = (
        tracking.paths(LETTER, "carl")[0],
        tracking.paths(LETTER, ada, at="2099-01-01T00:00:00Z")[0],
    )
    for path in (link, *paths):
        assert server.ask(path).status == 302
    server.stop()
    events = tracking.events()
    assert events[0]["recipient"].startswith("forgotten-")
    assert [event["recipient"] for event in events[1:]] == ["", bob, "", "", ada]
    assert [event["ip"] for event in events] == ["", "", "127.0.0.1", "", "", "127.0.0.1"]
    assert events[1]["agent"] == events[2]["agent"] != ""


@pytest.mark.sqlite
@pytest.mark.parametrize("log", ["text", "json"])
def test_a_log_that_nobody_reads(tracking: Program, log: str) -> None:
    """Its pipe is full: all is answered, recorded and ended; how many lines lack is said later."""
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writes, b"." * 4095 + b"\n")
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "sestrack",
        "serve",
        "--bind",
        f"127.0.0.1:{port}",
        "--log",
        log,
    ]
    process = subprocess.Popen(
        command, stderr=writes, cwd=tracking.folder, env=tracking.environment
    )
    os.close(writes)

    def ask(path: str) -> int:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", path, headers={"Host": "trace.example.com"})
            return connection.getresponse().status

    def is_open() -> bool:
        with suppress(OSError):
            return ask("/healthz") == 200
        return False

    assert until(is_open)
    link = tracking.paths(LETTER)[0]
    with tracking.blocked():
        assert ask(link) == 302
        time.sleep(7)  # SQLite has given up waiting, and that is a line of the log
        assert ask(link) == 302
    assert until(lambda: len(tracking.events()) == 2, 20)
    assert os.read(reads, 4096) == b"." * 4095 + b"\n"
    with tracking.blocked():
        assert ask(link) == 302
        time.sleep(7)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    said = b""
    while piece := os.read(reads, 4096):
        said += piece
    os.close(reads)
    assert re.search(rb"lines of the log that nobody took, and that are left out: [1-9]", said)


def test_forgetting_tells_of_those_who_may_be_meant(tracking: Program, serve: Serve) -> None:
    """Other capitals are another recipient to a token, and one person; a typo is nobody."""
    server = serve()
    for recipient in ("ada@example.org", "Ada@Example.org", "ad_a@example.org", "dad@example.org"):
        server.ask(tracking.paths(LETTER, recipient)[-1])
    server.stop()
    said = tracking("events", "forget", "--recipient", "ada@example.org").stderr.decode()
    assert "1 event of ada@example.org is nobody's now" in said
    assert "events of Ada@Example.org, too: sestrack events forget --recipient Ada@" in said
    assert "dad@" not in said
    tracking.ok("events", "forget", "--recipient", "Ada@Example.org")
    # again: that there is nothing left is known to be right, and who is near is somebody else
    assert (
        b"if that was meant"
        not in tracking("events", "forget", "--recipient", "ada@example.org").stderr
    )
    said = tracking("events", "forget", "--recipient", "dda@exmaple.org").stderr.decode()
    assert "if that was meant" not in said
    for typed, meant in (
        ("dad@exmaple.org", "dad@example.org"),
        ("ad_b@example.org", "ad_a@example.org"),
    ):
        said = tracking("events", "forget", "--recipient", typed).stderr.decode()
        assert f"events of {meant}, if that was meant" in said
        assert f"forget --recipient {meant}" not in said


def test_names_that_are_recorded() -> None:
    """By name or by hash; a copy minted up to the forgetting has none."""
    key = bytes(32)
    ada, bob = (pseudonym(key, name) for name in ("ada", "bob"))
    assert ada != pseudonym(b"x" * 32, "ada")
    for hashed, kept in ((False, "ada"), (True, ada)):
        recorded = Names(key, {ada: 100}, hashed=hashed).recorded
        assert [recorded("ada", minted) for minted in (99, 100, 101)] == [None, None, kept]
        assert recorded("bob", 0) == (bob if hashed else "bob")


def talk(server: Server, data: bytes, *, wait: float = 5) -> bytes:
    """Send octets, return all that comes back until the end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except TimeoutError:
            pass
        return answer


@pytest.mark.sqlite
def test_pipelined_requests_keep_their_order(tracking: Program, serve: Serve) -> None:
    """Answers come in the order of the requests, whether they wait for the disk or not."""
    server = serve()
    link, _, pixel = tracking.paths(LETTER)
    one = "GET {} HTTP/1.1\r\nHost: trace.example.com\r\nUser-Agent: x\r\n\r\n"
    paths = [pixel, "/healthz", link, "/none/x", pixel] * 40
    data = "".join(one.format(path) for path in paths) + one.format("/healthz").replace(
        "\r\n\r\n", "\r\nConnection: close\r\n\r\n"
    )
    answer = talk(server, data.encode(), wait=20)
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"302", b"404", b"200"] * 40 + [b"200"]
    server.stop()
    assert len(tracking.events()) == 120


@pytest.mark.sqlite
def test_headers_that_came_before(tracking: Program, serve: Serve) -> None:
    """Remembered headers change nothing but the time it takes."""
    server = serve()
    link, _, pixel = (path.encode() for path in tracking.paths(LETTER))
    block = b" HTTP/1.1\r\nHost: trace.example.com\r\nUser-Agent: x\r\nPurpose: prefetch\r\n\r\n"
    steps = [
        (b"GET " + pixel + block, b"200"),
        (b"GET " + link + block, b"302"),
        (b"HEAD " + link + block, b"302"),
        (b"POST " + link + block, b"405"),
        (b"GET " + link[:-1] + block, b"404"),
        (b"GET /healthz" + block, b"200"),
        (b"GET  " + pixel + block, b"200"),
        (b"GET " + pixel + b"\r\nA:" + block, b"400"),
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        for request, status in steps:
            connection.sendall(request)
            assert connection.recv(65536)[9:12] == status, request
    for behind in (b"?x", b"#x"):
        assert talk(server, b"GET " + pixel + behind + b"\r\nA:" + block)[9:12] == b"400"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        for index in range(1, len(pixel + block)):
            # a request in two pieces, the second of which may be a whole block
            connection.sendall((b"GET " + pixel + block)[:index])
            time.sleep(0.001)
            connection.sendall((b"GET " + pixel + block)[index:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        asked = index + 4
    server.stop()
    events = tracking.events()
    assert len(events) == asked
    assert {reason for event in events for reason in event["reasons"]} >= {"prefetch", "head"}
    assert {event["agent"] for event in events} == {"x"}


def test_a_client_that_sends_its_last(tracking: Program, serve: Serve) -> None:
    """One that closes its side behind the request is answered, then the connection ends."""
    server = serve()
    pixel = tracking.paths(LETTER)[-1]
    one = f"GET {pixel} HTTP/1.1\r\nHost: trace.example.com\r\n\r\n".encode()
    for asked in (one, one, one * 3, one + b"GET / HT"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(asked)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        assert answer.count(b"HTTP/1.1 200 OK") == asked.count(one)
    assert server.stop() == 0
    assert len(tracking.events()) == 6


def test_a_bug_of_ours_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    """It is no mistake of the client's, and it is in the log, though not each time."""

    class Answers:
        """Fails at every request."""

        def find(self, *_: object) -> Found:
            """Fail."""
            raise NotImplementedError

    async def ask() -> list[bytes]:
        site = Site(cast(Any, None), cast(Any, Answers()), Clients(()))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(site), "127.0.0.1", 0)
        answers = []
        for _ in range(3):
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /x HTTP/1.1\r\nHost: trace.example.com\r\n\r\n")
            answers.append(await reader.read())
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return answers

    for answer in asyncio.run(ask()):
        assert answer.startswith(b"HTTP/1.1 500 ")
    said = capfd.readouterr().err
    assert said.count("a bug of ours: NotImplementedError: ") == 2
    assert "1 requests could not be answered" in said


@pytest.mark.sqlite
def test_broken_requests_harm_nobody(tracking: Program, serve: Serve) -> None:
    """Nonsense, giants and slow ones are turned away; others are served meanwhile."""
    server = serve()
    pixel = tracking.paths(LETTER)[-1]
    good = f"GET {pixel} HTTP/1.1\r\nHost: trace.example.com\r\nConnection: close\r\n\r\n".encode()
    assert talk(server, b"\x16\x03\x01\x02\x00\x01\x00").startswith(b"HTTP/1.1 400")
    assert talk(server, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert talk(server, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 400_000).startswith(
        b"HTTP/1.1 431"
    )
    assert talk(server, b"GET /" + b"y" * 400_000).startswith(b"HTTP/1.1 431")
    twice = good.replace(b"Connection: close", b"host: other.example")
    assert talk(server, twice).startswith(b"HTTP/1.1 400")
    assert talk(server, b"DELETE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 405"
    )
    body = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n" + b"z" * 300_000
    assert talk(server, body, wait=2).startswith((b"HTTP/1.1 431", b"HTTP/1.1 404"))
    assert talk(server, b"\r\n" * 200_000).startswith(b"HTTP/1.1 431")
    idle = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    for _ in range(2):  # empty lines before a request are none of it
        idle.sendall(b"\r\n" + good.replace(b"close", b"keep-alive") + b"\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
    hanging = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    for connection in hanging[:25]:
        connection.sendall(b"GET / HT")
    for connection in hanging[25:]:  # in the same octets as a request that is whole
        connection.sendall(good.replace(b"close", b"keep-alive") + b"GET / HT")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert talk(server, good).startswith(b"HTTP/1.1 200")
    for connection in hanging:
        connection.settimeout(25)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        connection.close()
    idle.sendall(good)
    assert idle.recv(65536).startswith(b"HTTP/1.1 200")
    idle.close()
    assert "Traceback" not in server.log.read_text()
    assert server.stop() == 0


def test_many_idle_connections(tracking: Program, serve: Serve) -> None:
    """A thousand idle connections cost little, and others are served."""
    server = serve()
    (worker,) = server.children()
    server.ask(tracking.paths(LETTER)[-1])  # only a worker that has answered is wholly loaded
    before = memory(worker)
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
    assert server.ask(tracking.paths(LETTER)[-1]).status == 200
    assert memory(worker) - before < 30_000
    for connection in idle:
        connection.close()
    # a flood of forged tokens leaves nothing behind
    for index in range(2000):
        talked = f"GET /Q{index:0100d}A HTTP/1.1\r\nHost: h{index}.example\r\n\r\n".encode()
        idle[0] = socket.create_connection(("127.0.0.1", server.port))
        idle[0].sendall(talked)
        idle[0].close()
    assert memory(worker) - before < 30_000


def memory(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_a_stalled_store_holds_up_nobody(tracking: Program, serve: Serve) -> None:
    """While the store cannot be written, readers are answered soon, and their events come later."""
    server = serve()
    pixel = tracking.paths(LETTER)[-1]
    server.ask(pixel)
    assert until(tracking.events)
    with tracking.blocked() as blocker:
        began = awake.seconds()
        assert server.ask(pixel).status == 200
        # generous for a busy machine: the bound itself is 250 ms
        assert awake.seconds() - began < 2
        assert blocker.execute("SELECT count(*) FROM event").fetchone() == (1,)
    server.stop()
    assert len(tracking.events()) == 2


def test_who_is_forgotten_while_the_writer_stands_still(tracking: Program, serve: Serve) -> None:
    """Events that waited for it name nobody, though their worker knew of nothing yet."""
    server = serve()
    link = tracking.paths(LETTER)[0]
    server.process.send_signal(signal.SIGSTOP)
    assert server.ask(link).status == 302
    tracking.ok("events", "forget", "--recipient", "ada@example.org")
    server.process.send_signal(signal.SIGCONT)
    server.stop()
    (event,) = tracking.events()
    assert (event["kind"], event["recipient"], event["ip"]) == ("click", "", "")


def test_one_person_in_two_ways_to_write_a_letter(tracking: Program, serve: Serve) -> None:
    """Whoever was sent mail as a list had it is forgotten however the request is typed."""
    server = serve()
    for name in ("jose\u0301@example.org", "jos\u00e9@example.org"):
        server.ask(tracking.paths(LETTER, name)[0])
    server.stop()
    done = tracking("events", "forget", "--recipient", "jos\u00e9@example.org")
    assert b"2 events of" in done.stderr
    assert all(event["recipient"].startswith("forgotten-") for event in tracking.events())


@pytest.mark.sqlite
def test_a_full_disk_loses_nothing_while_memory_lasts(tracking: Program, serve: Serve) -> None:
    """What cannot be written is answered, said, kept, and given up only at the end."""
    server = serve(limits="ulimit -f 300")
    pixel = tracking.paths(LETTER, recipient="a" * 200)[-1]
    headers = {"Host": "trace.example.com", "User-Agent": "x" * 300}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        for _ in range(3000):
            connection.request("GET", pixel, headers=headers)
            assert connection.getresponse().read() == GIF
            if "cannot record" in server.log.read_text():
                break
        assert "cannot record" in server.log.read_text()
        connection.request("GET", pixel, headers=headers)
        assert connection.getresponse().read() == GIF
    server.stop(signal.SIGKILL)
    with tracking.connection() as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def lose(store: Path, fate: str) -> str:
    """Have a store lose its file as people make it do; return what the server will call it."""
    match fate:
        case "replaced":
            os.replace(store.parent / "older.db", store)
        case "removed":
            for file in store.parent.glob("store.db*"):
                file.unlink()
        case "folder":
            shutil.rmtree(store.parent)
            return "removed"
        case "log":
            Path(f"{store}-wal").unlink()
            return "robbed of its log"
    return fate


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("fate", "linked"),
    [
        ("replaced", False), ("removed", False), ("folder", False), ("log", False),
        pytest.param("removed", True, id="removed behind a link"),
    ],
)  # fmt: skip
def test_a_store_that_loses_its_file(
    tracking: Program, serve: Serve, fate: str, *, linked: bool
) -> None:
    """`mv` or `rm` while it is served: all that was answered is kept, and the new file is whole."""
    link, other, _ = tracking.paths(LETTER)
    home = tracking.folder / "home"
    home.mkdir()
    store = home / "store.db"
    tracking.ok("backup", str(home / "older.db"))
    for file in tracking.folder.glob("store.db*"):
        file.unlink()
    shutil.copy(home / "older.db", store)
    tracking.store.symlink_to(store)
    tracking.environment["SESTRACK_STORE"] = str(tracking.store if linked else store)
    server = serve()
    for _ in range(200):
        server.ask(link)
    fate = lose(store, fate)
    answered = 200
    with suppress(OSError, http.client.HTTPException):  # it ends soon
        for _ in range(5_000):
            answered += server.ask(other).status == 302
    assert server.process.wait(10) == 74
    said = server.log.read_text()
    assert f"was {fate} while it was served; " in said
    assert said.endswith("hint: sestrack serve\n")
    kept = store
    if fate == "replaced":
        (kept,) = home.glob("store.db.replaced-*")
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert int(tracking.ok("--store", str(kept), "events", "export").count("\n")) >= answered
    server = serve()
    assert server.ask(link).status == 302
    server.stop()
    with closing(sqlite3.connect(store)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(tracking.events()) >= (1 if fate == "replaced" else answered + 1)
    assert not [*home.glob("*.sestrack*"), *home.glob("*-journal"), *home.glob("*.removed-*")]


@pytest.mark.sqlite
def test_a_store_that_is_moved_away(tracking: Program, serve: Serve) -> None:
    """Under its new name all is there at once: the log has the old name."""
    link = tracking.paths(LETTER)[0]
    server = serve()
    for _ in range(3):
        assert server.ask(link).status == 302
    moved = tracking.folder / "moved.db"
    tracking.store.rename(moved)
    assert until(lambda: f"moved away while it is served, to {moved}" in server.log.read_text(), 20)
    for _ in range(4):
        assert server.ask(link).status == 302
    count = "SELECT count(*) FROM event"

    def stored() -> int:
        with closing(sqlite3.connect(f"file:{moved}?mode=ro", uri=True)) as opened:
            return int(opened.execute(count).fetchone()[0])

    assert until(lambda: stored() == 7, 20)
    assert server.ask(link).status == 302
    assert server.stop() == 0
    assert stored() == 8


@pytest.mark.sqlite
def test_a_store_that_is_moved_while_it_is_read(tracking: Program, serve: Serve) -> None:
    """Its log cannot be emptied then: it goes with the file."""
    link = tracking.paths(LETTER)[0]
    server = serve()
    assert server.ask(link).status == 302
    moved = tracking.folder / "moved.db"
    with closing(sqlite3.connect(tracking.store, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM event").fetchall()
        tracking.store.rename(moved)
        for _ in range(5):
            assert server.ask(link).status == 302
        assert server.stop() == 0
        assert tracking.ok("--store", str(moved), "events", "export").count("\n") == 6
    assert not (tracking.folder / "store.db-wal").exists()


@pytest.mark.sqlite
@pytest.mark.parametrize("how", ["renamed", "linked"])
def test_a_served_store_under_another_name(tracking: Program, serve: Serve, how: str) -> None:
    """There its log would be another one, and two destroy it: nobody else writes."""
    link = tracking.paths(LETTER)[0]
    server = serve()
    other = tracking.folder / "other.db"
    if how == "renamed":
        tracking.store.rename(other)
    else:
        os.link(tracking.store, other)
    for words in (
        ("serve", "--bind", "127.0.0.1:0"),
        ("sender", "add", "late.example.com"),
        ("backup", "copy.db"),  # it would lack what is in the log
        ("keys", "export", "all.keys"),
    ):
        done = tracking("--store", str(other), *words)
        assert (done.returncode, b"open, under another name" in done.stderr) == (75, True)
        assert server.ask(link).status == 302
    done = tracking("--store", str(other), "doctor", "--offline")
    assert b"under another name" in done.stdout
    if how == "renamed":
        done = tracking("init", "--edge", "edge.example.net")
        assert (done.returncode, b"open yet, under another name" in done.stderr) == (75, True)
        assert b"rm " not in done.stderr
    assert server.stop() == 0
    tracking.environment["SESTRACK_STORE"] = str(other)
    assert len(tracking.events()) == 4
    tracking.ok("sender", "add", "late.example.com")
    server = serve()
    assert server.ask(link).status == 302
    assert server.stop() == 0
    with closing(sqlite3.connect(other)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.sqlite
def test_a_server_shows_itself_to_all_who_may_write(tracking: Program, serve: Serve) -> None:
    """Who has rights by the store's group must find the lock, or would be taken for a stranger."""
    tracking.store.chmod(0o660)
    server = serve()
    assert Path(f"{tracking.store}-serve").stat().st_mode & 0o777 == 0o660
    assert server.stop() == 0


@pytest.mark.sqlite
def test_a_file_system_without_locks(tracking: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps nobody from serving or from writing."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = str(tracking.store)
    with serving(path) as note:
        note("http://127.0.0.1:1/")
        assert served_at(path) == []
    with closing(connect(path, writing=True)):
        pass


@pytest.mark.sqlite
def test_a_store_put_in_the_place_of_one_that_is_served(tracking: Program, serve: Serve) -> None:
    """Nobody writes into it while the server's log lies beside."""
    tracking.ok("backup", "older.db")
    server = serve()
    server.process.send_signal(signal.SIGSTOP)
    os.replace(tracking.folder / "older.db", tracking.store)
    done = tracking("sender", "add", "late.example.com")
    assert (done.returncode, b"systemctl restart sestrack" in done.stderr) == (75, True)
    server.process.send_signal(signal.SIGCONT)
    assert server.process.wait(10) == 74
    tracking.ok("sender", "add", "late.example.com")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_kill_loses_nothing_acknowledged(tracking: Program, serve: Serve, workers: str) -> None:
    """SIGKILL under load, several times: every answered event is there, once."""
    paths = [tracking.paths(LETTER, recipient=f"r{n}@example.org")[-1] for n in range(8)]
    asked = [0] * 8
    answered = [0] * 8
    ends = threading.Event()
    port = 0

    def ask(index: int) -> None:
        while not ends.is_set():
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                with closing(client) as connection:
                    while not ends.is_set():
                        asked[index] += 1
                        connection.request(
                            "GET", paths[index], headers={"Host": "trace.example.com"}
                        )
                        if connection.getresponse().read() == GIF:
                            answered[index] += 1
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)

    threads = []
    for round_ in range(4):
        server = serve("--workers", workers)
        port = server.port
        if not threads:
            threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
            for thread in threads:
                thread.start()
        before = sum(answered)
        assert until(lambda before=before: sum(answered) > before + 50, 60)
        time.sleep(0.13 * round_)
        victims = [server.process.pid] if round_ % 2 else [*server.children(), server.process.pid]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        server.process.wait(timeout=10)
    ends.set()
    for thread in threads:
        thread.join()
    assert serve().stop() == 0  # what waited elsewhere is stored
    with tracking.connection() as store:
        counts = dict(
            store.execute("SELECT recipient, count(*) FROM event GROUP BY recipient").fetchall()
        )
    assert sum(answered) > 200
    for index in range(8):
        # one request may have been written and its answer lost, in each of the four rounds
        assert answered[index] <= counts[f"r{index}@example.org"] <= asked[index]
        assert counts[f"r{index}@example.org"] - answered[index] <= 4


def test_term_drains(tracking: Program, serve: Serve) -> None:
    """SIGTERM under load: what was answered is there, and what was asked is answered."""
    server = serve()
    pixel = tracking.paths(LETTER)[-1]
    answered = [0]

    def ask() -> None:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            with closing(client) as connection:
                while True:
                    connection.request("GET", pixel, headers={"Host": "trace.example.com"})
                    if connection.getresponse().read() == GIF:
                        answered[0] += 1
        except (OSError, http.client.HTTPException):
            return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert until(lambda: answered[0] > 50)
    assert server.stop() == 0
    for thread in threads:
        thread.join()
    assert len(tracking.events()) >= answered[0]


@pytest.mark.sqlite
def test_a_terminal_that_hangs_up(
    tracking: Program, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends as with SIGTERM, its workers do not end by themselves."""
    terminal, other = os.openpty()
    monkeypatch.setitem(tracking.environment, "TERMINAL", os.ttyname(other))
    own = "import os; os.setsid(); os.open(os.environ['TERMINAL'], os.O_RDWR)"
    server = serve(before=own)
    assert server.ask(tracking.paths(LETTER)[-1]).status == 200
    for worker in server.children():
        os.kill(worker, signal.SIGHUP)
    os.close(other)
    os.close(terminal)
    assert server.process.wait(60) == 0
    assert "ended with" not in server.log.read_text()
    assert len(tracking.events()) == 1


@pytest.mark.sqlite
def test_a_store_that_may_not_be_written(tracking: Program) -> None:
    """SQLite opens it for reading, and each event would be lost."""
    with tempfile.TemporaryDirectory() as place:  # where others may go, too
        Path(place).chmod(0o777)
        store = Path(shutil.copy(tracking.store, place))
        store.chmod(0o444)
        with as_nobody(), pytest.raises(NoPermission, match="may not be written"):
            for_recording(str(store))


@pytest.mark.sqlite
def test_a_daemon_goes_on_at_sighup(tracking: Program, serve: Serve) -> None:
    """As log rotation sends it: everything is read again by itself."""
    server = serve(before="import os; os.setsid()")
    family = [server.process.pid, *server.children()]
    for pid in family:
        os.kill(pid, signal.SIGHUP)
    assert server.ask(tracking.paths(LETTER)[-1]).status == 200
    assert [server.process.pid, *server.children()] == family


@pytest.mark.sqlite
def test_a_worker_that_dies_while_the_store_is_locked(tracking: Program, serve: Serve) -> None:
    """Another one starts: whoever comes is answered, and all is stored when the store is free."""
    server = serve()
    link = tracking.paths(LETTER)[0]
    with closing(sqlite3.connect(tracking.store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert server.ask(link).status == 302
        (worker,) = server.children()
        os.kill(worker, signal.SIGKILL)
        begun = awake.seconds()
        assert until(lambda: server.children() not in ([], [worker]), 20)
        for _ in range(3):
            assert server.ask(link).status == 302
        assert awake.seconds() - begun < 5
        other.execute("ROLLBACK")
    assert server.stop() == 0
    assert len(tracking.events()) == 4
    assert "cannot record" not in server.log.read_text()  # it was for a moment


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.sqlite
def test_a_store_that_comes_later(tracking: Program, serve: Serve, workers: str) -> None:
    """With a key file readers are answered without it; what they did is stored when it is there."""
    link = tracking.paths(LETTER)[0]
    tracking.ok("keys", "export", "all.keys")
    home = tracking.folder / "mounted"
    store = home / "store.db"
    tracking.environment["SESTRACK_STORE"] = str(store)
    server = serve("--keys", "all.keys", "--workers", workers)
    assert server.ask(link).status == 302
    assert "nothing is recorded" in server.log.read_text()
    home.mkdir()
    tracking.store.rename(store)
    assert until(lambda: "recorded from now on" in server.log.read_text(), 20)
    assert until(lambda: len(tracking.events()) == 1, 20)
    for _ in range(3):
        assert server.ask(link).status == 302
    assert tracking("serve", "--bind", "127.0.0.1:0").returncode == 75
    assert server.stop() == 0
    assert len(tracking.events()) == 4


@pytest.mark.sqlite
def test_what_was_lost_before_a_store_that_cannot_be_opened(
    tracking: Program, serve: Serve
) -> None:
    """It is counted on, and the store is told when it can be."""
    link = tracking.paths(LETTER)[0]
    tracking.ok("keys", "export", "all.keys")
    path = str(tracking.store)
    with serving(path) as note:
        note("http://127.0.0.1:1/", 7)
    good = tracking.store.read_bytes()
    tracking.store.write_bytes(b"no database at all" * 500)
    server = serve("--keys", "all.keys")
    assert server.ask(link).status == 302
    assert server.stop() == 74
    assert left(path).lost == 8
    tracking.store.write_bytes(good)
    server = serve()
    assert until(lambda: left(path).lost == 0)
    with Store(path) as store:
        assert store.connection.execute("SELECT lost FROM progress").fetchall() == [(8,)]
    assert server.stop() == 0


@pytest.mark.sqlite
def test_nobody_waits_for_a_store_that_is_silent(tracking: Program, serve: Serve) -> None:
    """Nor a worker that is started meanwhile; and the server ends in time."""
    link = tracking.paths(LETTER)[0]
    tracking.ok("keys", "export", "all.keys")
    with closing(sqlite3.connect(tracking.store, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        server = serve("--keys", "all.keys")
        for _ in range(2):
            begun = awake.seconds()
            assert server.ask(link).status == 302
            assert awake.seconds() - begun < 3  # Python starts in that time
            (worker,) = server.children()
            os.kill(worker, signal.SIGKILL)
            assert until(lambda old=worker: server.children() not in ([], [old]), 3)
        time.sleep(REOPEN_SECONDS)  # the store is looked at, which takes as long
        begun = awake.seconds()
        for _ in range(3):
            assert server.ask(link).status == 302
        assert awake.seconds() - begun < 3
        assert server.stop() == 74
        assert awake.seconds() - begun < 20
    assert left(str(tracking.store)).lost == 5


@pytest.mark.sqlite
def test_a_damaged_store_is_restored_while_readers_are_answered(
    tracking: Program, serve: Serve
) -> None:
    """Nobody has its lock: what they did meanwhile is stored in what was put in its place."""
    link = tracking.paths(LETTER)[0]
    tracking.ok("keys", "export", "all.keys")
    tracking.ok("backup", "good.db")
    tracking.store.write_bytes(b"no database at all" * 500)
    server = serve("--keys", "all.keys")
    assert server.ask(link).status == 302
    tracking.ok("restore", "--force", "good.db")
    assert until(lambda: "recorded from now on" in server.log.read_text(), 20)
    assert server.ask(link).status == 302
    assert server.stop() == 0
    assert len(tracking.events()) == 2


@pytest.mark.sqlite
def test_one_server_by_whatever_name(tracking: Program) -> None:
    """A link to a store is the same store; only one may write."""
    link = tracking.folder / "link.db"
    link.symlink_to(tracking.store)
    with serving(str(tracking.store)) as note:
        note("http://127.0.0.1:1/")
        with pytest.raises(TryAgain), serving(str(link)):
            pass
        assert served_at(str(link)) == ["http://127.0.0.1:1/"]
    assert not (tracking.folder / "link.db-serve").exists()


@pytest.mark.sqlite
def test_two_servers_whose_lock_was_removed(tracking: Program, serve: Serve) -> None:
    """The file itself is locked, too; without such locks no event gets an id that is given."""
    link = tracking.paths(LETTER)[0]
    first = serve()
    assert first.ask(link).status == 302
    Path(f"{tracking.store}-serve").unlink()
    assert tracking("serve", "--bind", "127.0.0.1:0").returncode == 75
    Path(f"{tracking.store}-serve").unlink()
    second = serve(
        before="import sestrack.engines.sqlite_lock as s; s._lock_file = lambda *_: None"
    )
    for server in (first, second, second, first, second):
        assert server.ask(link).status == 302
    assert (second.stop(), first.stop()) == (0, 0)
    assert len(tracking.events()) == 6


@pytest.mark.sqlite
def test_a_server_of_an_earlier_version_behind_a_link(tracking: Program) -> None:
    """It has its lock beside the link: no other one begins."""
    link = tracking.folder / "link.db"
    link.symlink_to(tracking.store)
    with Path(f"{link}-serve").open("w", encoding="utf-8") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        done = tracking("--store", str(link), "serve", "--bind", "127.0.0.1:0")
    assert (done.returncode, b"an earlier sestrack serve" in done.stderr) == (75, True)


@pytest.mark.sqlite
def test_who_comes_while_the_server_ends_is_refused(serve: Serve) -> None:
    """At once, to go elsewhere; and a request that never comes whole does not hold up the end."""
    server = serve()
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, timeout=30) as slow:
        slow.sendall(b"GET /x HTTP/1.1\r\nHost:")
        time.sleep(0.2)
        begun = awake.seconds()
        server.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                socket.create_connection(address, timeout=30).close()
            except ConnectionRefusedError:
                return True
            return False

        assert until(refused, 5)
        assert server.process.wait(30) == 0
        assert awake.seconds() - begun < 5  # it is given two


def test_a_worker_that_dies_is_replaced(tracking: Program, serve: Serve) -> None:
    """The server goes on with a new worker."""
    server = serve()
    (worker,) = server.children()
    os.kill(worker, signal.SIGKILL)
    time.sleep(1.5)
    assert server.ask(tracking.paths(LETTER)[-1]).status == 200
    assert "a new one starts" in server.log.read_text()
    assert server.stop() == 0


@pytest.mark.sqlite
def test_a_worker_that_cannot_be_started_for_a_while(tracking: Program, serve: Serve) -> None:
    """The others go on, and it is tried again."""
    server = serve("--workers", "2")
    link = tracking.paths(LETTER)[0]
    assert server.ask(link).status == 302
    assert until(lambda: len(server.children()) == 2)
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (4, limits[1]))
    os.kill(server.children()[0], signal.SIGKILL)
    assert until(lambda: "cannot be started" in server.log.read_text(), 20)
    assert server.process.poll() is None
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
    assert until(lambda: len(server.children()) == 2, 20)
    assert server.ask(link).status == 302
    assert server.stop() == 0


@pytest.mark.sqlite
def test_workers_that_die_again_and_again(tracking: Program, serve: Serve) -> None:
    """The server ends, and with everything written that they had handed over."""
    server = serve()
    pixel = tracking.paths(LETTER)[-1]
    for _ in range(4):
        (worker,) = server.children()
        os.kill(worker, signal.SIGKILL)
        assert until(lambda old=worker: server.children() not in ([], [old]))
    with tracking.blocked():
        for _ in range(3):
            assert server.ask(pixel).status == 200
        (worker,) = server.children()
        os.kill(worker, signal.SIGKILL)
    assert server.process.wait(timeout=60) == 70
    assert "5 workers ended within 10 seconds" in server.log.read_text()
    assert len(tracking.events()) == 3
    assert server_checks(tracking) == [(True, "no server records into this store now")]


@pytest.mark.sqlite
def test_a_worker_that_is_well_goes_on_alone(tracking: Program, serve: Serve) -> None:
    """One that dies again and again is started less often, and does not end the others."""
    seconds = 4.0
    server = serve(
        "--workers", "2",
        before=f"import sestrack.tracker.server as s; s.SPATE_SECONDS = {seconds}",
    )  # fmt: skip
    time.sleep(seconds + 0.5)
    well = server.children()[0]
    for _ in range(5):
        assert until(lambda: len(server.children()) == 2, 20)
        (other,) = {*server.children()} - {well}
        os.kill(other, signal.SIGKILL)
        assert until(lambda dead=other: dead not in server.children(), 20)
    time.sleep(1)
    assert server.children() == [well]
    link = tracking.paths(LETTER)[0]
    begun = awake.seconds()
    for _ in range(20):
        assert server.ask(link).status == 302
    assert awake.seconds() - begun < 2
    assert until(lambda: len(server.children()) == 2, 20)
    for _ in range(20):
        assert server.ask(link).status == 302
    assert server.stop() == 0
    assert len(tracking.events()) == 40


@pytest.mark.sqlite
def test_a_worker_replaced_while_the_store_is_away(tracking: Program, serve: Serve) -> None:
    """It has the keys and the settings that the server read when it began."""
    server = serve("--no-recipient")
    link = tracking.paths(LETTER)[0]
    assert server.ask(link).status == 302
    tracking.store.rename(tracking.folder / "away.db")
    (worker,) = server.children()
    os.kill(worker, signal.SIGKILL)
    assert until(lambda: server.children() not in ([], [worker]))
    assert server.ask(link).status == 302
    (tracking.folder / "away.db").rename(tracking.store)
    assert server.stop() == 0
    events = tracking.events()
    assert len(events) == 2
    assert len({event["recipient"] for event in events}) == 1


@pytest.mark.sqlite
def test_two_servers_on_one_store(tracking: Program, serve: Serve) -> None:
    """A second server on the same store is told to wait."""
    serve()
    done = tracking("serve", "--bind", "127.0.0.1:0")
    assert done.returncode == 75


def test_looking_for_a_server_makes_nothing(tmp_path: Path) -> None:
    """Whoever looks leaves no file that is theirs, and keeps no server from beginning."""
    path = tmp_path / "store.db"
    assert served_at(str(path)) == []
    assert not list(tmp_path.iterdir())
    with serving(str(path)) as note:
        note("http://127.0.0.1:1/")
        assert served_at(str(path)) == ["http://127.0.0.1:1/"]
        with pytest.raises(TryAgain), serving(str(path)):
            pass
    looking = os.open(f"{path}-serve", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.1, os.close, [looking]).start()
    with serving(str(path)):
        assert served_at(str(path)) == [""]


def test_a_lock_that_cannot_be_had(tmp_path: Path) -> None:
    """Nobody records without it, where a store could be written."""
    path = tmp_path / "store db"
    lock = tmp_path / "store db-serve"
    lock.touch(0o000)
    with as_nobody():
        with pytest.raises(NoPermission) as caught, serving(str(path)):
            pass
        with pytest.raises(NoPermission):
            served_at(str(path))
    assert caught.value.hint == f"ls -l '{lock}'"
    with serving(str(tmp_path / "none" / "store.db")) as note:
        note("http://127.0.0.1:1/")  # there is no folder, and nothing to be kept


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_the_lock_is_the_owners(tmp_path: Path) -> None:
    """What root makes beside a store the store's owner can open."""
    path = tmp_path / "store.db"
    path.touch()
    os.chown(path, 65534, 65534)
    with serving(str(path)):
        assert (tmp_path / "store.db-serve").stat().st_uid == 65534


def server_checks(program: Program) -> list[tuple[bool, str]]:
    """Return what doctor says of servers."""
    checks = json.loads(program("doctor", "--offline", "--json").stdout)
    return [(check["well"], check["found"]) for check in checks if check["name"] == "server"]


@pytest.mark.sqlite
def test_a_killed_server_is_missed(tracking: Program, serve: Serve) -> None:
    """Doctor says so until another one begins; one that ends well is not missed."""
    none = [(True, "no server records into this store now")]
    server = serve()
    assert server_checks(tracking) == [(True, f"running http://127.0.0.1:{server.port}/")]
    server.stop(signal.SIGKILL)
    url = f"http://127.0.0.1:{server.port}/"
    assert until(lambda: not served_at(tracking.address))
    assert server_checks(tracking) == [(False, f"the server at {url} ended without saying so")]
    tracking.ok("events", "reclassify")
    assert server_checks(tracking)[0][0] is False
    assert serve().stop() == 0
    assert server_checks(tracking) == none
    # what an earlier sestrack left at a clean end, too
    (tracking.folder / "store.db-serve").write_text(url)
    assert server_checks(tracking) == none


def lost_of(program: Program) -> str:
    """Return what doctor says of events lost."""
    checks = json.loads(program("doctor", "--offline", "--json").stdout)
    return next(str(check["found"]) for check in checks if check["name"] == "events lost")


@pytest.mark.sqlite
def test_what_a_store_was_not_told(tracking: Program, serve: Serve) -> None:
    """Losses are shown by doctor at once, and counted in the store when it can be written."""
    pixel = tracking.paths(LETTER)[-1]
    stuck = "cannot record: database is locked; events wait in memory"
    hurry = "import sestrack.tracker.server as server; server.GIVE_UP_SECONDS = 0.5"
    for lost, in_all in ((3, 3), (2, 5)):
        server = serve(before=hurry)
        with tracking.blocked():
            for _ in range(lost):
                assert server.ask(pixel).status == 200
            assert until(lambda: (False, stuck) in server_checks(tracking), 20)
            assert server.stop() == 74
        assert f"{lost} events could not be written" in server.log.read_text()
        assert lost_of(tracking).startswith(f"{in_all}, the last at ")
    server = serve()
    with tracking.blocked():
        assert server.ask(pixel).status == 200
        assert until(lambda: (False, stuck) in server_checks(tracking), 20)
    running = [(True, f"running http://127.0.0.1:{server.port}/")]
    assert until(lambda: server_checks(tracking) == running, 20)
    assert server.stop() == 0
    with tracking.connection() as store:
        assert store.execute("SELECT lost FROM progress").fetchone() == (5,)
    assert lost_of(tracking).startswith("5, ")


@pytest.mark.sqlite
def test_a_store_that_still_cannot_be_told(tracking: Program) -> None:
    """A server that begins on a disk that is still full hands the losses on to the next."""
    with serving(tracking.address) as note:
        note("http://127.0.0.1:1/", 3)
    with tracking.blocked(), tracking.connection() as connection:
        connection.execute("PRAGMA busy_timeout = 10")
        assert count_lost(connection, tracking.address) == 3
    with tracking.connection() as connection:
        assert count_lost(connection, tracking.address) == 0
        assert connection.execute("SELECT lost FROM progress").fetchone() == (3,)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        pytest.param(("--bind", "nonsense"), 2, id="no address"),
        pytest.param(("--bind", "192.0.2.1:80"), 69, id="not our address"),
        pytest.param(("--trust-proxy", "300.0.0.0/8"), 2, id="no network"),
        pytest.param(("--tls-cert", "x.pem"), 2, id="half of a pair"),
        pytest.param(("--tls-cert", "x.pem", "--tls-key", "y.pem"), 66, id="no certificate"),
        pytest.param(("--keys", "missing"), 66, id="no key file"),
        pytest.param(("--keys", "/dev/null"), 65, id="not a key file"),
        pytest.param(("--keep", "long"), 2, id="no number of days"),
        pytest.param(("--mmdb", "missing"), 66, id="no database"),
    ],
)
@pytest.mark.sqlite
def test_what_serve_refuses(tracking: Program, options: tuple[str, ...], code: int) -> None:
    """Each error has its exit code and its words."""
    done = tracking("serve", "--bind", "127.0.0.1:0", *options)
    assert done.returncode == code, done.stderr
    assert b"sestrack: error: " in done.stderr
    assert b"hint: " in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.sqlite
def test_an_address_that_cannot_be_had(tracking: Program) -> None:
    """It is named as it is typed, and the hint is what was typed with another one, which is free."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        place = f"[::1]:{taken.getsockname()[1]}"
        done = tracking("serve", "--bind", place, "--keep", "400d")
    assert done.returncode == 69
    message, hint = done.stderr.decode().splitlines()
    assert f"cannot listen on {place}: " in message
    other = re.fullmatch(r"hint: sestrack serve --bind '\[::1\]:(\d+)' --keep 400d", hint)
    assert other
    assert other[1] not in place
    done = tracking("serve", "--bind", "192.0.2.1:18051")  # RFC 5737: nobody has it
    assert b"hint: sestrack serve --bind 127.0.0.1:18051\n" in done.stderr


def make_certificate(folder: Path) -> None:
    """Make cert.pem and key.pem."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=trace.example.com",
         "-addext", "subjectAltName=DNS:trace.example.com"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


def test_a_certificate_where_there_is_no_proc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read from files that only we may read, and that are gone afterwards."""
    make_certificate(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sestrack.tracker.certificate._IN_MEMORY", False)
    context = tls_context(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    assert context is not None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cert.pem", "key.pem"]


def served_certificate(server: Server) -> bytes:
    """Return the certificate that a server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


@pytest.mark.sqlite
def test_a_certificate_is_renewed_in_two_steps(tracking: Program, serve: Serve) -> None:
    """While its key is not written yet, or neither is there, the old one is served."""
    make_certificate(tracking.folder)
    server = serve("--tls-cert", "cert.pem", "--tls-key", "key.pem")
    old = served_certificate(server)
    new = tracking.folder / "new"
    new.mkdir()
    make_certificate(new)
    (new / "cert.pem").replace(tracking.folder / "cert.pem")
    assert until(lambda: "stays as it was" in server.log.read_text(), 20)
    assert served_certificate(server) == old
    (worker,) = server.children()
    os.kill(worker, signal.SIGKILL)  # the next one begins with half of the new one there
    assert until(lambda: server.children() not in ([], [worker]), 20)
    assert until(lambda: served_certificate(server) == old, 20)
    (new / "key.pem").replace(tracking.folder / "key.pem")
    assert until(lambda: "was read again" in server.log.read_text(), 20)
    last = served_certificate(server)
    assert last not in {old, b""}
    time.sleep(2.5)  # the server, too, looks every two seconds
    (tracking.folder / "cert.pem").write_text("half of the next one")
    (worker,) = server.children()
    os.kill(worker, signal.SIGKILL)
    assert until(lambda: server.children() not in ([], [worker]), 20)
    assert until(lambda: served_certificate(server) == last, 20)


@pytest.mark.sqlite
def test_a_locked_key_takes_the_place_of_the_served_one(tracking: Program, serve: Serve) -> None:
    """Nobody is asked for its passphrase, neither a worker nor the server itself."""
    make_certificate(tracking.folder)
    server = serve("--tls-cert", "cert.pem", "--tls-key", "key.pem")
    old = served_certificate(server)
    subprocess.run(
        ["openssl", "pkey", "-in", "key.pem", "-aes128", "-passout", "pass:x", "-out", "locked.pem"],
        cwd=tracking.folder, check=True,
    )  # fmt: skip
    (tracking.folder / "locked.pem").rename(tracking.folder / "key.pem")
    assert until(lambda: "stays as it was" in server.log.read_text(), 20)
    time.sleep(2.5)  # the server looks, too
    assert served_certificate(server) == old
    assert server.stop() == 0


@pytest.mark.sqlite
def test_a_certificate_that_cannot_be_read_is_tried_again(tracking: Program, serve: Serve) -> None:
    """It is said once; and that it can be read then is seen, though its time does not change."""
    make_certificate(tracking.folder)
    server = serve("--tls-cert", "cert.pem", "--tls-key", "key.pem")
    old = served_certificate(server)
    new = tracking.folder / "new"
    new.mkdir()
    make_certificate(new)
    os.utime(new / "key.pem", (2_000_000_000, 2_000_000_000))
    damaged = tracking.folder / "damaged.pem"
    damaged.write_text("nothing")
    os.utime(damaged, (2_000_000_000, 2_000_000_000))
    damaged.rename(tracking.folder / "key.pem")
    (new / "cert.pem").rename(tracking.folder / "cert.pem")
    assert until(lambda: "stays as it was" in server.log.read_text(), 20)
    time.sleep(2.5)
    assert server.log.read_text().count("stays as it was") == 1
    assert served_certificate(server) == old
    (new / "key.pem").rename(tracking.folder / "key.pem")
    assert until(lambda: served_certificate(server) not in {old, b""}, 20)


@pytest.mark.sqlite
def test_tls_files_that_cannot_be_used(tracking: Program) -> None:
    """Words and hint name the one of the two files that is at fault."""
    make_certificate(tracking.folder)
    other = tracking.folder / "other"
    other.mkdir()
    make_certificate(other)
    (tracking.folder / "junk.pem").write_text("junk\n")
    (tracking.folder / "cut.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n")
    subprocess.run(
        ["openssl", "pkey", "-in", "key.pem", "-aes128", "-passout", "pass:x", "-out", "locked.pem"],
        cwd=tracking.folder, check=True,
    )  # fmt: skip
    for cert, key, code, words, hint in (
        ("missing.pem", "key.pem", 66, "missing.pem", "ls ."),
        ("cert.pem", "other/kee.pem", 66, "did you mean other/key.pem?",
         "sestrack serve --tls-cert cert.pem --tls-key other/key.pem"),
        ("junk.pem", "key.pem", 65, "junk.pem holds no certificate", "head -n 1 junk.pem"),
        ("cert.pem", "cert.pem", 65, "cert.pem holds no private key", "head -n 1 cert.pem"),
        ("cert.pem", "locked.pem", 65, "locked.pem is locked", "openssl pkey -in locked.pem -out"),
        ("cert.pem", "other/key.pem", 65, "other/key.pem is not that of the certificate cert.pem",
         "openssl x509 -in cert.pem -noout -pubkey && openssl pkey -in other/key.pem -pubout"),
        ("cut.pem", "key.pem", 65, "the certificate cut.pem", "openssl x509 -in cut.pem -noout"),
    ):  # fmt: skip
        done = tracking("serve", "--tls-cert", cert, "--tls-key", key)
        error, hinted = done.stderr.decode().splitlines()
        assert (done.returncode, words in error) == (code, True), error
        assert hinted.startswith(f"hint: {hint}"), hinted


@pytest.mark.sqlite
def test_tls(tracking: Program, serve: Serve) -> None:
    """The server speaks TLS by itself."""
    make_certificate(tracking.folder)
    server = serve("--tls-cert", "cert.pem", "--tls-key", "key.pem")
    link = tracking.paths(LETTER)[0]
    done = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "--cacert", "cert.pem",
         "--resolve", f"trace.example.com:{server.port}:127.0.0.1",
         f"https://trace.example.com:{server.port}{link}"],
        cwd=tracking.folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "302 https://www.example.com/a?x=1&y=2#part"


def test_doctor_tells_what_was_lost(tracking: Program) -> None:
    """Events lost are a problem that doctor shows."""
    assert tracking("doctor", "--offline").returncode == 0
    with tracking.connection() as store:
        store.execute("UPDATE progress SET lost = 7, lost_at = ?", (int(time.time()),))
    done = tracking("doctor", "--offline", "--json")
    assert done.returncode == 1
    (lost,) = [check for check in json.loads(done.stdout) if check["name"] == "events lost"]
    assert lost["found"].startswith("7, ")
