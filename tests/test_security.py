"""Attacks on the real program, each of which docs/security.md says what holds off."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
import threading
import time
from base64 import b64encode
from pathlib import Path

import awake
import pytest
from conftest import Program
from postgresql import free_port
from test_server import LETTER, Serve, memory, talk
from web import Web

from sestrack.demo.nameserver import NameServer
from sestrack.domains import challenge
from sestrack.errors import CannotCreate
from sestrack.files import write
from sestrack.store import Store

ROOT = Path(__file__).resolve().parents[1]
HOST = b"Host: trace.example.com\r\n"
ESCAPES = ("\x1b]", "\x1b[31m", "\x07", "\x85", "\x9b", "\u202e", "\u2028")
"""What a terminal may obey: titles, colours, C1, and what turns the direction of writing."""


def statuses(answer: bytes) -> list[bytes]:
    """Return the status codes of all answers."""
    return [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]


def in_turn(port: int, *pieces: bytes) -> list[bytes]:
    """Send pieces over one connection, each on its own; return the status codes."""
    with socket.create_connection(("127.0.0.1", port), timeout=0.4) as connection:
        answer = b""
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.1)
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except (TimeoutError, ConnectionResetError):
            pass
    return statuses(answer)


# -- forging and redirecting -----------------------------------------------------------------


@pytest.mark.sqlite
def test_every_changed_character_is_refused(tracking: Program, serve: Serve) -> None:
    """No character of a tracking URL can be another one, on the running server."""
    server = serve()
    link = tracking.paths(LETTER)[0]
    one = "GET {} HTTP/1.1\r\nHost: trace.example.com\r\n\r\n"
    changed = [
        link[:place] + ("B" if link[place] != "B" else "C") + link[place + 1 :]
        for place in range(1, len(link))
    ]
    asked = "".join(map(one.format, changed)) + one.format("/").replace(
        "\r\n\r\n", "\r\nConnection: close\r\n\r\n"
    )
    answer = talk(server, asked.encode(), wait=20)
    assert statuses(answer) == [b"404"] * (len(changed) + 1)
    assert b"Location" not in answer
    server.stop()
    assert tracking.events() == []


@pytest.mark.sqlite
def test_a_link_leads_where_it_was_sealed_to_or_nowhere(tracking: Program, serve: Serve) -> None:
    """Host, absolute form, userinfo, slashes of either kind, CRLF: none moves a redirect."""
    server = serve()
    link = tracking.paths(LETTER)[0].encode()
    targets = (
        b"//evil.example/", b"/\\evil.example", b"/%5cevil.example", b"/%2F%2Fevil.example/",
        b"http://evil.example/", b"http://evil.example" + link, b"*", link + b"@evil.example",
        b"http://evil.example@trace.example.com" + link, b"/https://evil.example/",
        b"http://trace.example.com@evil.example" + link, b"javascript:alert(1)",
        link + b"/../https://evil.example", link + b"%0d%0aLocation:%20https://evil.example",
        link + b"?url=https://evil.example", link + b"#https://evil.example",
        b"/evil.example/%2e%2e" + link,
    )  # fmt: skip
    hosts = (
        b"evil.example", b"trace.example.com@evil.example", b"trace.example.com/evil.example",
        b"trace.example.com\xe3\x80\x82evil.example", b"[trace.example.com]", b"trace.example.com ",
        b"trace.example.com:80", b"TRACE.EXAMPLE.COM.",
    )  # fmt: skip
    asked = [b"GET " + target + b" HTTP/1.1\r\n" + HOST for target in targets]
    asked += [b"GET " + link + b" HTTP/1.1\r\nHost: " + host + b"\r\n" for host in hosts]
    led = 0
    for request in asked:
        answer = talk(server, request + b"Connection: close\r\n\r\n", wait=3)
        (status,) = statuses(answer)
        places = re.findall(rb"\r\nLocation: ([^\r]*)", answer)
        assert status in {b"302", b"404", b"400"}, request
        assert places == [b"https://www.example.com/a?x=1&y=2#part"] * (status == b"302"), request
        led += status == b"302"
    assert led >= 3  # what is the same URL by the standards
    assert "Traceback" not in server.log.read_text()


@pytest.mark.sqlite
def test_no_header_comes_out_of_a_destination(tracking: Program, serve: Serve) -> None:
    """What a template's author writes into a link stays in one Location header."""
    server = serve()
    for evil in ("&#13;&#10;Set-Cookie: a=b", "%0d%0aSet-Cookie: a=b", "\x0bSet-Cookie: a=b"):
        html = f'<a href="https://www.example.com/some/long/enough/path?x={evil}">x</a>'
        answer = server.ask(tracking.paths(html)[0])
        assert answer.status == 302
        assert answer.headers["Location"].startswith("https://www.example.com/some/long/")
        assert "Set-Cookie" not in answer.headers


# -- requests ----------------------------------------------------------------------------------


UNCLEAR = {
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n",
    "a length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n",
    "chunks that are not last": b"Transfer-Encoding: chunked, identity\r\n",
    "a sign": b"Content-Length: +5\r\n",
    "a length past 64 bits": b"Content-Length: 99999999999999999999999\r\n",
    "obs-fold": b"X: a\r\n b\r\n",
    "a space before the colon": b"X : a\r\n",
    "a bare CR": b"X: a\rb\r\n",
    "NUL": b"X: a\0b\r\n",
    "an escape sequence": b"User-Agent: \x1b]0;pwned\x07\r\n",
    "two hosts": b"Host: evil.example\r\n",
}


@pytest.mark.sqlite
def test_unclear_framing_is_refused(tracking: Program, serve: Serve) -> None:
    """What two parsers could read differently is answered 400, recorded never, and closed."""
    server = serve()
    good = b"GET " + tracking.paths(LETTER)[-1].encode() + b" HTTP/1.1\r\n" + HOST
    for name, lines in UNCLEAR.items():
        answer = talk(server, good + lines + b"\r\n0\r\n\r\n" + good + b"\r\n")
        assert statuses(answer) == [b"400"], name
    server.stop()
    assert tracking.events() == []


@pytest.mark.sqlite
def test_no_request_hides_in_another(tracking: Program, serve: Serve) -> None:
    """Each request is answered once, and no body is taken for one, whatever came before."""
    server = serve()
    pixel = tracking.paths(LETTER)[-1].encode()
    rest = b" HTTP/1.1\r\n" + HOST + b"User-Agent: x\r\n\r\n"
    good = b"GET " + pixel + rest
    for _ in range(2):  # the second time its headers are known
        assert in_turn(server.port, good + b"GET /none/x" + rest) == [b"200", b"404"]
        assert in_turn(server.port, good + b"HEAD " + pixel + rest) == [b"200", b"200"]
    posted = good + b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 500\r\n\r\n"
    assert in_turn(server.port, posted) == [b"200"]
    assert in_turn(server.port, posted, posted, good) == [b"200"]  # 500 octets have not come yet
    assert in_turn(server.port, b"GET " + pixel + b"?\r\n" + rest) == [b"400"]
    # the parser is through with a connection after these: it ends, and its client knows
    upgrade = good.replace(b"User-Agent: x", b"Upgrade: h2c\r\nConnection: Upgrade")
    for ending, status in (
        (upgrade, b"200"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", b"405"),
    ):
        answer = talk(server, ending + good)
        assert statuses(answer) == [status]
        assert b"\r\nConnection: close\r\n" in answer
    assert statuses(talk(server, b"GET " + pixel + b"\r\n\r\n" + good)) == [b"400"]  # HTTP/0.9
    assert "Traceback" not in server.log.read_text()


@pytest.mark.sqlite
def test_what_strangers_write_fills_no_memory(tracking: Program, serve: Serve) -> None:
    """Hosts and user agents are as long as they are of use; what is encoded is undone a few times."""
    server = serve()
    (worker,) = server.children()
    pixel = tracking.paths(LETTER)[-1]
    server.ask(pixel)
    before = memory(worker), memory(server.process.pid)
    for number in range(300):
        assert server.ask(pixel, host=f"trace.example.com:{number}{'9' * 30_000}").status == 404
        assert server.ask(pixel, **{"User-Agent": f"{number}{'z' * 30_000}"}).status == 200
    assert memory(worker) - before[0] < 8_000
    assert memory(server.process.pid) - before[1] < 8_000
    begun = awake.seconds()
    for _ in range(50):
        assert server.ask("/%" + "25" * 4000).status == 404
    assert awake.seconds() - begun < 1
    assert "Traceback" not in server.log.read_text()
    server.stop()
    assert {len(event["agent"]) for event in tracking.events()[1:]} == {512}


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        pytest.param({"X_Forwarded_For": "192.0.2.7"}, "192.0.2.7", id="what the proxy wrote"),
        pytest.param({"X_Forwarded_For": "192.0.2.7", "Forwarded": "for=6.6.6.6"}, "127.0.0.1", id="passed on beside it"),
        pytest.param({"X_Forwarded_For": "6.6.6.6, 192.0.2.7"}, "192.0.2.7", id="appended to"),
        pytest.param({"X_Forwarded_For": f"fe80::1%{'x' * 20_000}"}, "127.0.0.1", id="a giant"),
    ],
)  # fmt: skip
def test_no_address_is_put_on_by_a_client(
    tracking: Program, serve: Serve, headers: dict[str, str], kept: str
) -> None:
    """Of two headers a front end writes one; the other is the client's, and nobody is named by it."""
    server = serve("--trust-proxy", "127.0.0.1")
    assert server.ask(tracking.paths(LETTER)[-1], **headers).status == 200
    server.stop()
    assert [event["ip"] for event in tracking.events()] == [kept]


def test_ask_with_nonsense(serve: Serve) -> None:
    """Whatever a front end is made to ask about, it is a no, and no traceback in the log."""
    port = free_port()
    server = serve("--ask", f"127.0.0.1:{port}")
    for target, status in (
        (b"/ask?domain=trace.example.com", b"200"), (b"/ask?domain=%00", b"403"),
        (b"/ask?domain=trace.example.com%00", b"403"), (b"/ask?domain=%ed%a0%80", b"403"),
        (b"/ask?domain=a'%20OR%20'1'='1", b"403"), (b"//[/ask?domain=trace.example.com", b"400"),
        (b"/ask?domain=trace.example.com&domain=evil.example", b"400"),
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET " + target + b" HTTP/1.1\r\n\r\n")
            assert connection.recv(4096)[9:12] == status, target
    assert "Traceback" not in server.log.read_text()


# -- figures -----------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_a_link_followed_often_is_one_reader(tracking: Program, serve: Serve) -> None:
    """Who has somebody's mail can add clicks to its figures, and never a reader."""
    server = serve()
    link = tracking.paths(LETTER)[0]
    for _ in range(5):
        server.ask(link)
    server.stop()
    (row,) = json.loads(tracking.ok("stats", "--json"))
    assert row["clicks"]["people"] == 5
    assert row["clickers"]["people"] == row["readers"] == 1


def test_names_are_never_sql(tracking: Program, serve: Serve) -> None:
    """Recipients, labels, user agents and search words with quotes are texts and nothing else."""
    server = serve()
    evil = "x'; DROP TABLE event; --\" \\ ?% $1 :a"
    for path in tracking.paths(LETTER, evil, message=evil):
        server.ask(path, **{"User-Agent": evil})
    server.stop()
    events = tracking.events()
    assert {(e["recipient"], e["message"], e["agent"]) for e in events} == {(evil, evil, evil)}
    assert tracking.ok("stats", "--message", evil).count(evil) == 1
    assert tracking("stats", "--message", "' OR '1'='1").returncode == 66
    tracking.ok("events", "forget", "--recipient", evil)
    assert {event["message"] for event in tracking.events()} == {evil}
    assert evil not in {event["recipient"] for event in tracking.events()}


# -- secrets, files, processes -------------------------------------------------------------------


@pytest.mark.sqlite
def test_workers_take_no_module_from_where_they_are_started(
    tracking: Program, serve: Serve
) -> None:
    """A file called like a module, in a folder where all may write, is not run with our keys."""
    for name in ("uvloop", "asyncio", "pickle", "httptools"):
        trap = f"open({str(tracking.folder / 'trapped')!r}, 'w'); raise SystemExit(1)\n"
        (tracking.folder / f"{name}.py").write_text(trap)
    tracking.environment["PYTHONSAFEPATH"] = "1"  # for `python -m` of the tests; a script has it
    server = serve()
    for worker in server.children():
        assert b"\0-P\0" in Path(f"/proc/{worker}/cmdline").read_bytes()
    del tracking.environment["PYTHONSAFEPATH"]
    server.stop()
    program = [f"{Path(sys.executable).parent}/sestrack", "serve", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(
        program, cwd=tracking.folder, env=tracking.environment, stderr=subprocess.PIPE
    ) as process:
        time.sleep(2)
        process.terminate()
        assert process.stderr is not None
        assert b"serving on" in process.stderr.read()
    assert not (tracking.folder / "trapped").exists()


@pytest.mark.sqlite
def test_keys_are_seen_nowhere(tracking: Program, serve: Serve) -> None:
    """No secret stands in a command line, an environment, a log, or what commands print."""
    tracking.ok("keys", "export", "sestrack.keys")
    with Store(tracking.address) as store:
        secret = store.keys()[0].secret
    server = serve("--keys", "sestrack.keys")
    server.ask(tracking.paths(LETTER)[0])
    seen = [server.log.read_bytes()]
    for process in (server.process.pid, *server.children()):
        seen += [Path(f"/proc/{process}/{name}").read_bytes() for name in ("cmdline", "environ")]
    for command in (("keys", "list", "--json"), ("doctor", "--offline"), ("events", "export"), ("settings", "show"), ("settings", "export")):  # fmt: skip
        done = tracking(*command, SESTRACK_TRACEBACK="1")
        seen += [done.stdout, done.stderr]
    tracking.store.with_name("broken.keys").write_text('{"sestrack-keys": 1, "keys": [{"id": 1, "secret": "' + b64encode(secret).decode() + '!"}]}')  # fmt: skip
    seen.append(tracking("serve", "--keys", "broken.keys", SESTRACK_TRACEBACK="1").stderr)
    server.stop()
    for form in (
        secret,
        b64encode(secret)[:40],
        secret.hex().encode(),
        repr(secret)[2:40].encode(),
    ):
        assert not any(form in text for text in seen)


def test_what_is_made_is_for_its_owner(tracking: Program, serve: Serve) -> None:
    """With a umask that forbids nothing, nobody else reads what has names, addresses or keys."""
    folder = tracking.folder
    (folder / "list.csv").write_text("recipient\nada@example.org\n")
    (folder / "letter.html").write_text(LETTER)
    given = {path.name for path in folder.iterdir()} | {"serve.log"}
    before = os.umask(0)
    try:
        server = serve("--spool", str(folder / "spool"))
        server.ask(tracking.paths(LETTER)[0])
        campaign = ("rewrite", "letter.html", "--sender", "news.example.com", "--message", "m", "--recipients", "list.csv", "--output")  # fmt: skip
        for command in (
            ("keys", "export", "sestrack.keys"), ("backup", "backup.db"),
            ("events", "export", "-o", "events.jsonl"),
            ("events", "export", "--format", "csv", "-o", "events.csv"),
            (*campaign, "copies.jsonl"), (*campaign, "copies/"),
        ):  # fmt: skip
            tracking.ok(*command)
        if tracking.server is None:
            Program(folder, str(folder / "new" / "store.db")).ok("init")
        made = [path for path in folder.iterdir() if path.name not in given]
        server.stop()
    finally:
        os.umask(before)
    assert {path.name for path in made} >= {"sestrack.keys", "backup.db", "copies"}
    assert [p.name for p in made if p.exists() and p.stat().st_mode & 0o077] == []
    for path in folder.glob("store.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_of_another_user_is_not_followed(tmp_path: Path) -> None:
    """In a folder like /tmp, a link that somebody else put where we write leads nowhere."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a link that is another user's")
    shared, ours = tmp_path / "shared", tmp_path / "ours"
    shared.mkdir()
    shared.chmod(0o1777)
    ours.write_text("as it was")
    link = shared / "events.jsonl"
    link.symlink_to(ours)
    os.chown(shared, 12345, 12345)
    os.lchown(link, 54321, 54321)
    with pytest.raises(CannotCreate, match="link of another user"):
        write(str(link), b"pwned")
    assert ours.read_text() == "as it was"
    os.lchown(link, os.geteuid(), -1)
    write(str(link), b"our own link")
    assert ours.read_text() == "our own link"


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "journal", ["[]", "{}", "null", '{"key": 1e999}', '{"key": "x"}', "[" * 100_000, "\xff"]
)
def test_a_journal_that_is_none(tracking: Program, journal: str) -> None:
    """What somebody else left as the journal of a campaign is said to be none."""
    (tracking.folder / "letter.html").write_text(LETTER)
    (tracking.folder / "list.csv").write_text("recipient\nada@example.org\n")
    (tracking.folder / "copies.partial.json").write_text(journal, encoding="latin-1")
    done = tracking("rewrite", "letter.html", "--sender", "news.example.com", "--recipients", "list.csv", "--output", "copies", "--resume")  # fmt: skip
    assert done.returncode == 65, done.stderr


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("command", "text"),
    [
        pytest.param(("settings", "apply", "-"), "a = " + "[" * 100_000, id="nested TOML"),
        pytest.param(("settings", "apply", "-"), "a = " + "9" * 100_000, id="a huge number in TOML"),
        pytest.param(("serve", "--keys", "/dev/stdin"), "[" * 200_000, id="nested keys"),
        pytest.param(("serve", "--keys", "/dev/stdin"), '{"sestrack-keys": 1, "keys": [{"id": 1e999, "secret": ""}]}', id="an infinite key"),
        pytest.param(("rewrite", "--jsonl", "--sender", "news.example.com"), '{"html": "", "x": ' + "[" * 99_999, id="nested JSON"),
        pytest.param(("rewrite", "--jsonl", "--sender", "news.example.com"), '{"html": "", "x": ' + "9" * 99_999 + "}", id="a huge number in JSON"),
        pytest.param(("recipients", "-", "--sender", "news.example.com", "--message", "m"), "recipient\n" + "x" * 200_000, id="a huge cell"),
        pytest.param(("inspect", "-"), "https://trace.example.com/" + "Q" * 100_000, id="a huge URL"),
    ],
)  # fmt: skip
def test_hostile_files(tracking: Program, command: tuple[str, ...], text: str) -> None:
    """Deep, huge and infinite input is bad input: quickly, and without a bug of ours."""
    begun = awake.seconds()
    done = tracking(*command, stdin=text.encode())
    assert done.returncode == 65, done.stderr
    assert awake.seconds() - begun < 5


# -- terminals and tables ------------------------------------------------------------------------


def on_a_terminal(program: Program, *arguments: str) -> str:
    """Run a command on a terminal; return what the terminal gets."""
    command = shlex.join([sys.executable, "-m", "sestrack", *arguments])
    environment = {**program.environment, "TERM": "xterm", "LC_ALL": "C.UTF-8", "COLUMNS": "300"}
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], capture_output=True, check=False,
        env=environment, cwd=program.folder, timeout=60,
    )  # fmt: skip
    return done.stdout.decode("utf-8", "replace")


@pytest.mark.sqlite
def test_a_terminal_obeys_nobody(tracking: Program, serve: Serve) -> None:
    """What recipients, labels, readers, mails and name servers say is shown, and does nothing."""
    evil = "\x85\x9b31m\u202e\u2028pwned"
    words = "words " * 60  # so that it is not binary
    (tracking.folder / "mail.html").write_text(
        f'<p>{words}<a href="https://e.example/\x1b]0;pwned\x07">\x1b[31mpwned{evil}</a></p>'
    )
    server = serve()
    for path in tracking.paths(LETTER, f"r{evil}", message=f"m{evil}"):
        server.ask(path, **{"User-Agent": "pwned\x9b31m/1.0 CFNetwork/1.0 Darwin/9"})
    server.stop()
    tracking.ok("sender", "add", "shop.example.com")
    with NameServer({}) as dns:
        # \DDD is decimal in a zone (RFC 1035 §5.1)
        dns.add(r'shop.example.com. 60 IN TXT "sestrack-verify=\027]0;pwned\007"')
        shown = on_a_terminal(
            tracking, "sender", "verify", "shop.example.com", "--resolver", dns.address
        )
    commands = (
        ("events", "tail"), ("events", "export"), ("events", "export", "--format", "csv"),
        ("stats",), ("stats", "--by", "recipient"), ("stats", "--by", "client"),
        ("stats", "--message", f"m{evil}", "--json"), ("stats", "--message", f"no pwned{evil}"),
        ("check", "mail.html"), ("rewrite", "mail.html", "--sender", "news.example.com", "--diff"),
        ("sender", "show", f"pwned{evil}"), (f"pwned{evil}",),
    )  # fmt: skip
    shows = [shown, *(on_a_terminal(tracking, *command) for command in commands)]
    for number, text in enumerate(shows):
        assert not [sequence for sequence in ESCAPES if sequence in text], number
    assert sum("pwned" in text for text in shows) >= 10


@pytest.mark.sqlite
def test_no_formula_of_a_stranger(tracking: Program, serve: Serve) -> None:
    """A user agent is no formula in a CSV file, nor is a program's name; JSON has it exactly."""
    server = serve()
    link = tracking.paths(LETTER)[0]
    agents = ['=HYPERLINK("https://evil.example")', "@x", "-1+1", "+x CFNetwork/1 Darwin/9.0"]
    for agent in (*agents, "=App/1.0 CFNetwork/808.3 Darwin/16.3.0"):
        server.ask(link, **{"User-Agent": agent})
    server.stop()
    assert [event["agent"] for event in tracking.events()][:4] == agents
    for command in (("events", "export", "--format", "csv"), ("stats", "--by", "client", "--csv")):
        text = tracking.ok(*command)
        assert not re.search(r'(?:^|,)"?[=+@-]', text, re.MULTILINE), text


# -- other servers -------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_the_probe_is_led_nowhere(ready: Program) -> None:
    """An address that DNS names, be it an internal one, learns a name; a redirect is not followed."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as internal, NameServer({}) as dns:

        def listen() -> None:
            for _ in range(2):
                connection, _ = internal.accept()
                heard.append(connection.recv(65536))
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        there = internal.getsockname()[1]
        dns.add("edge.example.net. 60 IN A 127.0.0.1")
        for name in ("inner", "moved"):
            dns.add(f"{name}.example.com. 60 IN CNAME edge.example.net.")
        ready.ok("domain", "create", "inner", "--port", str(there))

        def moved(handler) -> None:  # noqa: ANN001 - as in `web`
            handler.send_response(302)
            handler.send_header("Location", f"http://127.0.0.1:{there}/latest/meta-data/")
            handler.end_headers()

        with Web(moved) as web:
            ready.ok("domain", "create", "moved", "--plain-http", "--port", str(web.port))
            for name in ("inner", "moved"):
                done = ready("domain", "verify", name, "--resolver", dns.address)
                assert done.returncode in {1, 75}, done.stderr
        with socket.create_connection(("127.0.0.1", there)) as last:
            last.sendall(b"last")
            thread.join(10)
    assert heard[-1] == b"last"
    assert heard[0].startswith(b"\x16\x03")  # a TLS ClientHello, and never a request
    assert b"GET" not in heard[0]
    assert len(heard) == 2


@pytest.mark.sqlite
def test_a_proof_is_good_once(tracking: Program, serve: Serve) -> None:
    """What our server proved to one nonce and host proves nothing to another."""
    server = serve()
    nonce = challenge.new_nonce()
    body = server.ask(f"{challenge.PATH}{nonce}").body
    with Store(tracking.address) as store:
        keys = [key.secret for key in store.keys()]  # noqa: SIM118
    judged = [
        challenge.read(body, "trace.example.com", nonce, keys)[0],
        challenge.read(body, "trace.example.com", challenge.new_nonce(), keys)[0],
        challenge.read(body, "other.example.com", nonce, keys)[0],
        challenge.read(body, "trace.example.com", nonce, [b"x" * 64])[0],
    ]
    assert [str(one) for one in judged] == ["ours", "other-nonce", "other-host", "other-keys"]


# -- the document --------------------------------------------------------------------------------


def test_every_test_named_in_the_document_is_there() -> None:
    """docs/security.md names real tests, and all of these."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)\.py::(test_\w+)`", text))
    for file, name in named:
        source = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE), f"{file}::{name}"
    here = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE))
    there = {name for file, name in named if file == "test_security"}
    assert here - there == {"test_every_test_named_in_the_document_is_there"}
