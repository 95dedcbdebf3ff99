"""`domain verify`, `domain accelerate`, `serve --ask` and `doctor`, as they are typed."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from certificates import Authority
from conftest import Program, Server
from postgresql import free_port, until
from sqlite_utils import Database
from web import Web, says

from sestrack.demo.nameserver import NameServer
from sestrack.engines.sqlite import APPLICATION_ID
from sestrack.engines.sqlite_schema import migrations
from sestrack.model import Conclusion
from sestrack.rules import after_check
from sestrack.store import Store, serving
from sestrack.tracker import metrics
from sestrack.tracker.counts import Tally

NAME = "trace.example.com"
EDGE = "edge.example.net. 60 IN A 127.0.0.1"
RIGHT = f"{NAME}. 60 IN CNAME edge.example.net."
WRONG = f"{NAME}. 60 IN CNAME other.example.org.\nother.example.org. 60 IN A 127.0.0.1"
HTML = b'<p><a href="https://example.com/">x</a></p></body>'


class Site:
    """A trace domain over https, with its server and its DNS."""

    def __init__(
        self, program: Program, server: Server, dns: NameServer, certificate: tuple[Path, Path]
    ) -> None:
        self.program, self.server, self.dns = program, server, dns
        self.certificate = certificate

    def verify(self, *options: str) -> int:
        """Verify; return the exit code."""
        return self.program(
            "domain", "verify", NAME, "--resolver", self.dns.address, *options
        ).returncode

    def later(self, seconds: int) -> None:
        """Let time pass: what was found so far is so long ago."""
        with self.program.connection() as store:
            store.execute(
                "UPDATE trace_domain SET failing_since = failing_since - ?, "
                "checked_at = checked_at - ?",
                [seconds, seconds],
            )

    def status(self) -> str:
        """Return the status of the trace domain."""
        return str(json.loads(self.program.ok("domain", "show", NAME, "--json"))["status"])


@pytest.fixture
def site(program: Program, tmp_path: Path) -> Iterator[Site]:
    """Give a site that answers over TLS itself, with a certificate of a trusted authority."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    authority = Authority(folder, "Root")
    program.environment["SSL_CERT_FILE"] = str(authority.file)
    chain, key = authority.issue(NAME)
    program.ok("init", "--edge", "edge.example.net")
    program.ok("sender", "add", "news.example.com", "--assume-verified")
    server = Server(program, "--tls-cert", str(chain), "--tls-key", str(key))
    program.ok("domain", "create", "trace", "--port", str(server.port))
    with NameServer({".": f"{EDGE}\n{RIGHT}"}) as dns:
        yield Site(program, server, dns, (chain, key))
    if server.process.poll() is None:
        server.stop()


def test_verified_in_whole(site: Site) -> None:
    """DNS, certificate and our answer: one line a check on a pipe, the same as JSON."""
    text = site.program.ok("domain", "verify", "--resolver", site.dns.address)
    heading, *lines = [line.split("\t") for line in text.splitlines()]
    assert heading == ["trace domain", "status", "check", "state", "found", "expected", "fix"]
    assert [line[2:4] for line in lines] == [
        ["edge", "ok"], ["cname", "ok"], ["wildcard", "ok"], ["caa", "ok"], ["https", "ok"],
    ]  # fmt: skip
    found = json.loads(
        site.program.ok("domain", "verify", "trace", "--resolver", site.dns.address, "--json")
    )
    assert (found["usable"], found["status"], found["dns_only"]) == (True, "verified", False)
    assert [
        [found["name"], found["status"], *(check[k] for k in ("check", "state", "found", "expected", "fix"))]
        for check in found["checks"]
    ] == lines  # fmt: skip
    assert found["checks"][-1]["certificate_ends"]


def test_dns_alone_is_shown_as_such(site: Site) -> None:
    """Without HTTPS the domain is usable, and says what that rests on."""
    assert site.verify("--no-http") == 0
    assert "verified (DNS only)" in site.program.ok("domain", "list")
    assert site.verify() == 0
    assert "DNS only" not in site.program.ok("domain", "list")


def test_dns_alone_changes_nothing_that_https_showed(site: Site) -> None:
    """--no-http makes no less of a verified domain, and nothing of one that fails over HTTPS."""
    assert site.verify() == 0
    assert site.verify("--no-http") == 0
    assert "DNS only" not in site.program.ok("domain", "list")
    site.server.stop()
    with Web(says(200, b"?"), site.certificate, port=site.server.port):
        assert site.verify() == 1
        site.later(300)
        assert site.verify() == 1
    assert site.status() == "failing"
    done = site.program(
        "domain", "verify", NAME, "--no-http", "--resolver", site.dns.address, "--json"
    )
    assert done.returncode == 75
    found = json.loads(done.stdout)
    assert (found["status"], found["usable"], found["conclusion"]) == ("failing", False, "usable")
    assert b"DNS alone cannot tell" in done.stderr
    assert site.program.ok("domain", "list").split()[-1] != "ok"
    assert b"next: " not in done.stderr


def test_what_is_next_until_it_is_done(site: Site) -> None:
    """A trace domain that is tracked with is nothing to enable."""
    verify = ("domain", "verify", NAME, "--no-http", "--resolver", site.dns.address)
    enable = ("settings", "enable", "--dimension", "account", "--domain", NAME, "--click", "--open")
    said = f"next: sestrack {' '.join(enable)}\n"
    assert site.program(*verify).stderr.decode() == said
    site.program.ok(*enable)
    assert site.program(*verify).stderr == b""
    site.program.ok("settings", "disable")
    assert site.program(*verify).stderr == b"next: sestrack settings show\n"


def test_what_is_next_takes_nothing_from_others(site: Site) -> None:
    """A second domain is put to use for its own sender; all others stay as they are."""
    program = site.program
    at = ("--resolver", site.dns.address)
    assert site.verify() == 0
    program.ok("settings", "enable", "--dimension", "account", "--domain", NAME, "--click")
    program.ok("sender", "add", "shop.example.org", "--assume-verified")
    program.ok("domain", "create", "trace", "--primary", "example.org")
    other = "trace.example.org"
    site.dns.add(f"{other}. 60 IN CNAME edge.example.net.")
    verify = ("domain", "verify", other, "--no-http", *at)
    assert program(*verify).stderr == b"next: sestrack settings edit\n"
    program.ok("settings", "enable", "--dimension", "account+domain")
    step = program(*verify).stderr.decode().removeprefix("next: sestrack ").split()
    assert step == ["settings", "enable", "--sender", "shop.example.org", "--domain", other]
    proof = json.loads(program.ok("sender", "show", "shop.example.org", "--json"))["record"]
    site.dns.add(
        proof.replace("_sestrack.shop.example.org.", "_sestrack.shop.example.org.example.org.")
    )
    doubled = program("sender", "verify", "shop.example.org", *at)
    assert doubled.returncode == 1
    assert b"its zone was appended twice" in doubled.stderr
    site.dns.add(proof)
    said = program("sender", "verify", "shop.example.org", *at).stderr.decode()
    assert said.endswith(f"is verified; next: sestrack {' '.join(step)}\n")
    program.ok(*step)
    shown = json.loads(program.ok("settings", "show", "--json"))
    assert [each["trace_domain"] for each in shown["senders"]] == [NAME, other]
    assert program(*verify).stderr == b""


@pytest.mark.sqlite
def test_a_check_that_ends_after_a_newer_one(tracking: Program) -> None:
    """What it saw is older: it undoes nothing."""
    with Store(tracking.address) as opened:
        (before,) = opened.trace_domains()
        at = int(time.time())
        old = after_check(before, Conclusion.NO, Conclusion.NO, at - 1, dns_only=False)
        new = after_check(before, Conclusion.YES, Conclusion.YES, at, dns_only=False)
        opened.note_checks([(new, "ok")])
        opened.note_checks([(old, "no")])
        (now,) = opened.trace_domains()
        assert (now.refusals, now.checked_at) == (0, at)
        # by a clock that was ahead: it is not taken for a newer one
        opened.note_checks([(new._replace(checked_at=at + 9000), "ok")])
        opened.note_checks([(old, "no")])
        assert opened.trace_domains()[0].refusals == 1


def test_a_failing_domain_stops_new_mail_and_no_old_link(site: Site) -> None:
    """A definite no counts from the second; mail goes out as it was; sent links lead on."""
    program = site.program
    assert site.verify() == 0
    program.ok(
        "settings", "enable", "--dimension", "account", "--domain", NAME, "--click", "--open"
    )
    arguments = ("rewrite", "--sender", "news.example.com", "--message", "june")
    tracked = program(*arguments, stdin=HTML).stdout
    assert tracked != HTML
    site.dns.add(WRONG)
    assert site.verify() == 1
    assert site.verify() == 1
    assert site.status() == "verified"
    site.later(300)
    assert site.verify() == 1
    assert site.status() == "failing"
    done = program(*arguments, stdin=HTML)
    assert (done.returncode, done.stdout) == (0, HTML)
    assert b"failing (wrong-target)" in done.stderr
    context = ssl.create_default_context(cafile=program.environment["SSL_CERT_FILE"])
    context.check_hostname = False  # asked by its address
    connection = http.client.HTTPSConnection("127.0.0.1", site.server.port, context=context)
    with closing(connection):
        link = tracked.decode().partition(f"{NAME}:{site.server.port}")[2].partition('"')[0]
        connection.request("GET", link, headers={"Host": NAME})
        assert connection.getresponse().getheader("Location") == "https://example.com/"
    history = json.loads(program.ok("domain", "show", NAME, "--json"))["history"]
    assert [(line["state"], line["times"]) for line in history] == [("wrong-target", 3), ("ok", 1)]
    site.dns.add(RIGHT)
    assert site.verify() == 0
    assert site.status() == "verified"
    assert program(*arguments, stdin=HTML).stdout != HTML


def test_passing_trouble_does_not_demote(site: Site) -> None:
    """A resolver that fails, or a server that is down for a moment, is exit 75 and no more."""
    assert site.verify() == 0
    site.server.stop()
    for _ in range(4):
        assert site.verify() == 75
    assert site.status() == "verified"
    site.later(3600)
    assert site.verify() == 75
    assert site.status() == "failing"


def test_wait_until_the_record_is_there(site: Site) -> None:
    """--wait looks again; what was found on the way counts as one look."""
    site.dns.records = {k: v for k, v in site.dns.records.items() if "trace" not in str(k[0])}
    timer = threading.Timer(4.0, lambda: site.dns.add(RIGHT))
    timer.start()
    done = site.program("domain", "verify", NAME, "--resolver", site.dns.address, "--wait", "30s")
    timer.join()
    assert done.returncode == 0, done.stderr
    assert b"does not exist; 1 not usable yet, again in 2 s" in done.stderr
    assert len(json.loads(site.program.ok("domain", "show", NAME, "--json"))["history"]) == 1


def test_wait_ends_at_its_deadline(site: Site) -> None:
    """A deadline that passes is the exit code of the last look."""
    site.dns.add(WRONG)
    assert site.verify("--wait", "1s") == 1
    assert site.verify("--wait", "soon") == 2


def test_a_terminal_shows_no_escape_of_others(site: Site, tmp_path: Path) -> None:
    """What a certificate says is shown, and does nothing to the terminal."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    hostile = Authority(folder, "\x1b]0;pwned\x07 CA")
    site.server.stop()
    with Web(says(200), hostile.issue(NAME), port=site.server.port):
        command = f"{sys.executable} -m sestrack domain verify {NAME} --resolver {site.dns.address}"
        done = subprocess.run(
            ["script", "-qec", command, "/dev/null"], capture_output=True, check=False,
            env=site.program.environment, timeout=60,
        )  # fmt: skip
    assert b"pwned" in done.stdout
    assert b"\x1b]0;" not in done.stdout
    assert b"\x07" not in done.stdout


def test_all_gives_the_worst(site: Site) -> None:
    """Every domain that is not retired; the exit code is that of the worst."""
    program = site.program
    program.ok("sender", "add", "shop.example.org", "--assume-verified")
    for prefix in ("absent", "astray", "gone"):
        program.ok("domain", "create", prefix, "--primary", "example.org")
    program.ok("domain", "delete", "gone.example.org")
    site.dns.add(
        "astray.example.org. 60 IN CNAME other.example.org.\nother.example.org. 60 IN A 192.0.2.9"
    )
    done = program(
        "domain", "verify", "--all", "--no-http", "--resolver", site.dns.address, "--json"
    )
    assert done.returncode == 1
    found = {one["name"]: one["state"] for one in json.loads(done.stdout)}
    assert found == {
        NAME: "ok", "absent.example.org": "no-such-name", "astray.example.org": "wrong-target",
    }  # fmt: skip
    program.ok("domain", "delete", "astray.example.org")
    done = program("domain", "verify", "--all", "--no-http", "--resolver", site.dns.address)
    assert done.returncode == 75  # of a pending one: it may come yet


# -- in front ----------------------------------------------------------------------------


def test_a_cdn_in_front_and_back(site: Site) -> None:
    """Both targets are accepted until the new one is seen; --off goes back the same way."""
    program = site.program
    done = program("domain", "accelerate", NAME, "--via", "D1.cloudfront.net")
    assert b"; sestrack: trace.example.com behind Amazon CloudFront" in done.stdout
    assert done.stdout.endswith(b"trace.example.com. 3600 IN CNAME d1.cloudfront.net.\n")
    assert b"edge.example.net is accepted until then" in done.stderr
    site.dns.add("d1.cloudfront.net. 60 IN A 127.0.0.1")
    assert site.verify() == 0
    site.dns.add(f"{NAME}. 60 IN CNAME d1.cloudfront.net.")
    assert site.verify() == 0
    site.dns.add(RIGHT)
    assert site.verify() == 1
    program.ok("domain", "accelerate", NAME, "--off")
    assert site.verify() == 0
    site.dns.add(f"{NAME}. 60 IN CNAME d1.cloudfront.net.")
    assert site.verify() == 1
    assert b"already" in program("domain", "accelerate", NAME, "--off").stderr


def test_a_cdn_that_is_not_there_yet(site: Site) -> None:
    """Or is mistyped: readers still take the edge, and the domain stays verified."""
    site.program.ok("domain", "accelerate", NAME, "--via", "typo.example.org")
    done = site.program("domain", "verify", NAME, "--no-http", "--resolver", site.dns.address)
    assert (done.returncode, b"typo.example.org does not exist" in done.stdout) == (0, True)
    assert b"--via HOST, or --off to stay" in done.stdout
    site.dns.add(f"{NAME}. 60 IN CNAME typo.example.org.")
    assert site.verify() == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param((), 2, id="neither"),
        pytest.param(("--for", "nginx", "--upstream", "10.0.0.1"), 2, id="no port"),
        pytest.param(("--for", "nginx", "--upstream", ":8025"), 2, id="no host to connect to"),
        pytest.param(("--for", "nginx", "--upstream", "a;b:80"), 2, id="more than an address"),
        pytest.param(("--for", "caddy", "--ask", "a}:80"), 2, id="more than an address for Caddy"),
        pytest.param(("--for", "nginx", "--ask", "127.0.0.1:8026"), 2, id="Caddy's for nginx"),
        pytest.param(("--off", "--upstream", "127.0.0.1:8025"), 2, id="an address for nothing"),
        pytest.param(("--for", "apache"), 2, id="a program without a configuration"),
        pytest.param(("--for", "nginx", "--off"), 2, id="two at once"),
        pytest.param(("--via", "edge.example.net"), 1, id="the edge as CDN"),
        pytest.param(("--via", NAME), 1, id="itself as CDN"),
        pytest.param(("--via", "192.0.2.1"), 65, id="an address as CDN"),
    ],
)
@pytest.mark.sqlite
def test_accelerate_refuses(ready: Program, arguments: tuple[str, ...], code: int) -> None:
    """A wrong choice is said, and nothing changes."""
    done = ready("domain", "accelerate", NAME, *arguments)
    assert done.returncode == code
    assert b"hint: " in done.stderr
    assert not done.stdout
    with Store(ready.address) as store:
        assert store.trace_domain(NAME).target == "edge.example.net"


@pytest.mark.parametrize(
    ("host", "title"),
    [
        ("trace.example.com.cdn.cloudflare.net", "Cloudflare"),
        ("d1.cloudfront.net", "Amazon CloudFront"),
        ("trace.example.com.eo.dnse1.com", "Tencent EdgeOne"),
        ("cdn.example.org", "a CDN"),
    ],
)
@pytest.mark.sqlite
def test_what_to_set_at_a_cdn(ready: Program, host: str, title: str) -> None:
    """Origin, host, cache and TLS, as comments over the zone line."""
    text = ready.ok("domain", "accelerate", NAME, "--via", host)
    assert f"behind {title};" in text
    for word in ("origin", "host", "cache", "TLS", "client"):
        assert f";   {word} " in text
    assert all(line.startswith((";", f"{NAME}. ")) for line in text.splitlines())


def test_addresses_behind_a_cdn(ready: Program) -> None:
    """Behind a CDN the addresses that it tells are kept, and the front end's is added."""
    direct = ready.ok("domain", "accelerate", NAME, "--for", "nginx")
    ready.ok("domain", "accelerate", NAME, "--via", "d1.cloudfront.net")
    behind = ready.ok("domain", "accelerate", NAME, "--for", "nginx")
    assert "X-Forwarded-For $remote_addr;" in direct
    assert "X-Forwarded-For $proxy_add_x_forwarded_for;" in behind
    command = "sestrack serve --bind 127.0.0.1:8025 --trust-proxy 127.0.0.1"
    assert f"{command}\n" in direct
    assert f"{command} --trust-proxy CIDR\n# (one --trust-proxy CIDR for each network" in behind
    ready.ok("domain", "accelerate", NAME, "--off")
    assert ready.ok("domain", "accelerate", NAME, "--for", "nginx") == direct


# -- certificates on demand --------------------------------------------------------------


@pytest.mark.sqlite
def test_who_may_have_a_certificate(
    tracking: Program, serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Exactly the names whose DNS was verified, retired ones too; whatever fails is a no."""
    port = free_port()
    tracking.ok("domain", "create", "pending")
    serve("--ask", f"127.0.0.1:{port}", "--workers", "2")

    def ask(path: str, method: str = "GET") -> int:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request(method, path)
            return connection.getresponse().status

    assert ask(f"/ask?domain={NAME}") == 200
    assert ask(f"/ask?domain={NAME.upper()}.") == 200
    for other in ("pending.example.com", "example.com", "x" * 300, "", "%00", "a b"):
        assert ask(f"/ask?domain={other.replace(' ', '%20')}") in {400, 403}
    assert ask("/ask") == ask("/") == ask(f"/ask?domain={NAME}", "POST") == 400
    assert ask(f"/ask?domain={NAME}&domain=other.example") == 400
    tracking.ok("settings", "apply", "-", stdin=b"enabled = false\n")
    tracking.ok("domain", "delete", NAME)
    assert ask(f"/ask?domain={NAME}") == 200
    shutil.move(tracking.store, tmp_path / "away.db")
    assert ask(f"/ask?domain={NAME}") == 403
    shutil.move(tmp_path / "away.db", tracking.store)


def test_ask_where_nobody_can_listen(tracking: Program) -> None:
    """An address that is taken, or is none, is said before anything is served."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        done = tracking(
            "serve", "--bind", "127.0.0.1:0", "--ask", f"127.0.0.1:{taken.getsockname()[1]}"
        )
    assert done.returncode == 69
    assert tracking("serve", "--ask", "8026").returncode == 2


# -- doctor ------------------------------------------------------------------------------


def doctor(site: Site) -> dict[str, tuple[bool, str]]:
    """Run doctor; return what it found.  It says what to do where something is to be done."""
    done = site.program("doctor", "--resolver", site.dns.address, "--json")
    checks = json.loads(done.stdout)
    assert all(bool(one["hint"]) is not one["well"] for one in checks), checks
    found = {one["name"]: (one["well"], one["found"]) for one in checks}
    assert done.returncode == (0 if all(well for well, _ in found.values()) else 1)
    return found


def test_doctor_looks_at_everything(site: Site) -> None:
    """Server, trace domains and the days of their certificates; what it finds counts."""
    site.verify()
    answers = (True, f"answers on https://127.0.0.1:{site.server.port}/")
    assert until(lambda: doctor(site)["server"] == answers)  # its keeper says where it is
    found = doctor(site)
    assert found[f"trace domain {NAME}"] == (True, "verified, ok, certificate 60 days")
    site.dns.add(WRONG)
    for _ in range(2):
        well, found_then = doctor(site)[f"trace domain {NAME}"]
        assert (well, found_then[:22]) == (False, "verified, wrong-target")
        assert found_then.endswith("once more when this has lasted 5 minutes, and it is failing")
    site.later(300)
    well, found_then = doctor(site)[f"trace domain {NAME}"]
    assert (well, found_then[:41]) == (False, "failing, verified until now, wrong-target")
    assert site.status() == "failing"
    text = site.program("doctor", "--offline").stdout.decode()
    assert f"trace domain {NAME}\tPROBLEM\tfailing, wrong-target, certificate 60 days" in text


def test_when_the_certificate_ends_is_kept(site: Site) -> None:
    """It is shown and told to Prometheus, and not forgotten while nothing answers."""
    assert "certificate ends" not in site.program.ok("domain", "show", NAME)
    site.verify()
    ends = json.loads(site.program.ok("domain", "show", NAME, "--json"))["certificate_ends"]
    days = (datetime.fromisoformat(ends) - datetime.now(UTC)).days
    assert days in {59, 60}
    assert f"certificate ends\t{ends}" in site.program.ok("domain", "show", NAME)
    told = metrics.write(metrics.Source(site.program.address, Tally(), lambda: 0))
    family = "sestrack_trace_domain_certificate_not_after_timestamp_seconds"
    seconds = datetime.fromisoformat(ends).timestamp()
    assert f'{family}{{trace_domain="{NAME}"}} {seconds:.0f}\n' in told
    site.server.stop()
    assert site.verify() == 75
    again = json.loads(site.program.ok("domain", "show", NAME, "--json"))
    assert (again["certificate_ends"], again["last_state"]) == (ends, "connect-refused")
    text = site.program("doctor", "--offline").stdout.decode()
    assert f"trace domain {NAME}\tPROBLEM\tverified, connect-refused" in text


def test_doctor_says_what_rests_on_dns_alone(site: Site) -> None:
    """Nobody has seen that a server answers there."""
    site.program.ok("domain", "verify", NAME, "--no-http", "--resolver", site.dns.address)
    assert doctor(site)[f"trace domain {NAME}"] == (True, "verified (DNS only), ok")
    text = site.program("doctor", "--offline").stdout.decode()
    assert f"trace domain {NAME}\tok\tverified (DNS only), ok" in text


def test_doctor_looks_at_retired_domains(site: Site) -> None:
    """While its name leads somewhere, so do the links in sent mail; it may be taken out of DNS."""
    site.verify()
    site.program.ok("domain", "delete", NAME)
    line = f"trace domain {NAME}"
    assert doctor(site)[line] == (True, "retired, ok, certificate 60 days")
    site.dns.add(WRONG)
    well, found = doctor(site)[line]
    assert not well
    assert found.startswith("retired, wrong-target")
    said = site.program("doctor", "--resolver", site.dns.address).stderr.decode()
    assert f"hint: take {NAME} out of DNS; or, for the links in sent mail, keep it well: " in said
    for name, kind in [key for key in site.dns.records if str(key[0]) == f"{NAME}."]:
        del site.dns.records[name, kind]
    assert doctor(site)[line] == (True, "retired, no-such-name, the name does not exist")
    assert site.status() == "retired"
    # one that no mail was sent with is nobody's problem
    site.program.ok("domain", "create", "other")
    site.program.ok("domain", "delete", "other.example.com")
    assert "trace domain other.example.com" not in doctor(site)


@pytest.mark.sqlite
def test_doctor_sees_a_server_that_does_not_answer(ready: Program) -> None:
    """The server that records into the store is asked, where it said it listens."""
    with serving(str(ready.store)) as note_url:
        note_url(f"http://127.0.0.1:{free_port()}/")
        done = ready("doctor", "--resolver", "127.0.0.1:9", "--json")
    assert done.returncode == 1
    server = next(one for one in json.loads(done.stdout) if one["name"] == "server")
    assert "does not answer" in server["found"]
    assert server["hint"]


@pytest.mark.sqlite
def test_roots_that_cannot_be_read(ready: Program) -> None:
    """OpenSSL would trust nobody, and every domain would seem to fail."""
    (ready.folder / "empty.pem").write_text("")
    for name, why in (("rot.pem", b"No such file or directory"), ("empty.pem", b"none in PEM")):
        for command, code in ((["domain", "verify", "trace"], 65), (["doctor"], 1)):
            done = ready(*command, "--resolver", "127.0.0.1:9", SSL_CERT_FILE=name)
            assert done.returncode == code, command
            words = f"no certificate can be read from SSL_CERT_FILE={name}: ".encode()
            assert words + why in done.stderr
            assert f"hint: ls -ld {name}".encode() in done.stderr
        assert b"disk\tok" in done.stdout  # what else doctor looks at is told


def test_doctor_with_a_resolver_that_is_none(ready: Program) -> None:
    """A wrong option is a wrong command line, not a broken store."""
    assert ready("doctor", "--resolver", "x").returncode == 2


# -- stores made before ------------------------------------------------------------------


def test_a_store_of_schema_2_is_brought_up_to_date(tracking: Program, tmp_path: Path) -> None:
    """Domains keep their status; they lead to the edge; what was verified was so by DNS alone."""
    old = tmp_path / "old.db"
    with closing(sqlite3.connect(old)) as connection:
        db = Database(connection)
        migrations.apply(db, stop_before="m003_health")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 2")
        connection.execute("UPDATE config SET edge = 'edge.example.net'")
        connection.execute(
            'INSERT INTO trace_domain (name, prefix, "primary", status, created_at, last_ok_at, '
            "plain_http, port, verified_at, checked_at, last_state) VALUES "
            "('trace.example.com', 'trace', 'example.com', 'verified', 1, 9, 0, 0, 2, 9, 'ok')"
        )
        connection.commit()
    assert tracking("--store", str(old), "domain", "list").returncode == 78
    tracking.ok("--store", str(old), "init")
    shown = json.loads(tracking.ok("--store", str(old), "domain", "show", NAME, "--json"))
    assert (shown["status"], shown["target"], shown["dns_only"], shown["dns_verified"]) == (
        "verified", "edge.example.net", True, True,
    )  # fmt: skip
