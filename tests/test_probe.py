"""What HTTPS answers at a trace domain: every state by a real handshake and a real answer."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from certificates import Authority
from test_resolver import of
from test_rules import a_domain
from web import Respond, Web, says

from sestrack.demo.nameserver import NameServer
from sestrack.domains import challenge
from sestrack.domains.dns_judgement import Target
from sestrack.domains.facts import DomainFacts, HttpFacts, HttpOutcome, NameFacts, Outcome
from sestrack.domains.findings import Check, Finding, Level, State
from sestrack.domains.judgement import Report, judge
from sestrack.domains.probe import Prober
from sestrack.domains.survey import SurveyOptions, survey
from sestrack.model import Conclusion, DomainStatus

NAME = "trace.example.com"
KEY, OLD_KEY = b"k" * 64, b"o" * 64
NOW = int(time.time())
ZONE = "edge.example.net. 60 IN A 127.0.0.1\ntrace.example.com. 60 IN CNAME edge.example.net."


def answers(host: str = NAME, key: bytes = KEY, nonce: str = "") -> Respond:
    """Answer the challenge, perhaps not quite."""

    def respond(handler) -> None:  # noqa: ANN001 - as in `web`
        asked = nonce or handler.path.rpartition("/")[2]
        says(200, (challenge.answer(key, host, asked) or "").encode(), Age="77")(handler)

    return respond


def look(
    port: int, zone: str = ZONE, *, plain: bool = False, faults: dict[str, str] | None = None
) -> Report:
    """Look at the trace domain in whole."""
    domain = a_domain(NAME, DomainStatus.PENDING)._replace(
        target="edge.example.net", port=port, plain_http=plain
    )
    with NameServer({".": zone}, faults) as dns:
        (report,) = asyncio.run(
            survey([domain], SurveyOptions(dns.address), Prober([KEY, OLD_KEY]), NOW)
        )
    return report


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Give an authority that is trusted, with one between it and its certificates."""
    (tmp_path / "root").mkdir()
    root = Authority(tmp_path / "root", "Trusted Root")
    monkeypatch.setenv("SSL_CERT_FILE", str(root.file))
    (tmp_path / "between").mkdir()
    return Authority(tmp_path / "between", "Between", root)


@pytest.mark.parametrize(
    ("respond", "state", "found"),
    [
        pytest.param(answers(), State.OK, "answers as us", id="ours"),
        pytest.param(answers(key=OLD_KEY), State.OK, "answers as us", id="with a key before"),
        pytest.param(answers(host="edge.example.net"), State.HOST_REWRITTEN, "edge.example.net", id="Host rewritten"),
        pytest.param(answers(nonce="N" * 32), State.STALE_CHALLENGE, "Age: 77", id="from a cache"),
        pytest.param(answers(key=b"x" * 64), State.NOT_OUR_SERVER, "other keys", id="another sestrack"),
        pytest.param(says(404, challenge.NOT_OURS.encode() + b"\n"), State.REACHED_BUT_404, "not with this URL", id="path changed"),
        pytest.param(says(301, Location="https://www.example.com/"), State.REDIRECTED, "https://www.example.com/", id="a redirect"),
        pytest.param(says(200, b"<h1>It works!</h1>"), State.NOT_OUR_SERVER, "200", id="another server"),
        pytest.param(says(500, b"x" * 1_000_000), State.NOT_OUR_SERVER, "500", id="a megabyte of something"),
        pytest.param(says(502), State.FRONT_END_ERROR, "502", id="a front end that does not reach us"),
        pytest.param(says(503), State.FRONT_END_ERROR, "503", id="a front end whose servers are down"),
        pytest.param(says(504), State.FRONT_END_ERROR, "504", id="a front end that waited for us"),
        pytest.param(says(522), State.FRONT_END_ERROR, "522", id="Cloudflare that waited for us"),
    ],
)  # fmt: skip
def test_every_answer(authority: Authority, respond: Respond, state: State, found: str) -> None:
    """The nonce tells our answer from all others, over TLS and over plain http."""
    with Web(respond, authority.issue(NAME)) as web:
        finding = of(look(web.port), Check.HTTPS)
    assert finding.state is state
    assert finding.expected == f"https://{NAME}:{web.port}/ answers as us"
    assert finding.found.startswith("127.0.0.1: ")
    assert found in finding.found
    with Web(respond) as web:
        plain = of(look(web.port, plain=True), Check.HTTP)
    assert plain.state is state
    assert plain.expected == f"http://{NAME}:{web.port}/ answers as us"
    if state is State.FRONT_END_ERROR:
        assert f"the front end answers {found} (BaseHTTP" in finding.found
        assert "sestrack serve" in finding.advice
        assert finding.level is Level.LATER
    if state is State.OK:
        assert "in 60 days" in finding.found
        assert "days" not in plain.found


@pytest.mark.parametrize(
    ("how", "state", "found"),
    [
        ({"names": ["www.example.com", "example.com"]}, State.CERT_NAME_MISMATCH, "www.example.com, example.com"),
        ({"ends": -0.5}, State.CERT_EXPIRED, "ended 20"),
        ({"begins": 1}, State.CERT_NOT_YET_VALID, "begins 20"),
        ({"self_signed": True}, State.CERT_SELF_SIGNED, "self-signed"),
        ({"chain": False}, State.CERT_INCOMPLETE_CHAIN, "(Between)"),
        ({"of_client": True}, State.CERT_INVALID, "purpose"),
        ({"ends": 5.5}, State.CERT_EXPIRING, "in 5 days"),
    ],
)  # fmt: skip
def test_every_certificate(
    authority: Authority, how: dict[str, object], state: State, found: str
) -> None:
    """What is wrong with a certificate is said, with what is to be done."""
    names = how.pop("names", [NAME])
    with Web(answers(), authority.issue(*names, **how)) as web:  # type: ignore[misc, arg-type]
        report = look(web.port)
    finding = of(report, Check.HTTPS)
    assert finding.state is state
    assert found in finding.found
    assert finding.advice
    expiring = state is State.CERT_EXPIRING
    assert report.conclusion is (Conclusion.YES if expiring else Conclusion.NO)
    assert report.dns is Conclusion.YES


def test_an_authority_nobody_knows(authority: Authority, tmp_path: Path) -> None:
    """A root that is not trusted is told from a chain that is not complete."""
    assert authority
    (tmp_path / "other").mkdir()
    (tmp_path / "other2").mkdir()
    unknown = Authority(tmp_path / "other2", "Below", Authority(tmp_path / "other", "Unknown Root"))
    with Web(answers(), unknown.issue(NAME)) as web:
        assert of(look(web.port), Check.HTTPS).state is State.CERT_UNTRUSTED_ROOT


def test_no_certificate_yet(authority: Authority) -> None:
    """A front end that rejects the handshake has none for this name; who may issue is told."""
    zone = ZONE + '\nexample.com. 60 IN CAA 0 issue "other.example"'
    with Web(answers(), authority.issue("default.example"), refuse_names=True) as web:
        report = look(web.port, zone)
    assert of(report, Check.HTTPS).state is State.CERT_PENDING
    assert of(report, Check.CAA).state is State.CAA_LIMITED
    assert report.conclusion is Conclusion.LATER


@pytest.mark.parametrize(
    ("caa", "faults", "state", "found"),
    [
        ('example.com. 60 IN CAA 0 issue ";"', {}, State.CAA_FORBIDS, "nobody may issue"),
        ("", {"example.com": "servfail"}, State.CAA_UNKNOWN, "cannot be told"),
    ],
)
def test_who_may_issue_only_warns(
    authority: Authority, caa: str, faults: dict[str, str], state: State, found: str
) -> None:
    """What stands in the way of the next certificate is no fault of the one that holds."""
    with Web(answers(), authority.issue(NAME)) as web:
        report = look(web.port, f"{ZONE}\n{caa}", faults=faults)
    finding = of(report, Check.CAA)
    assert finding.state is state
    assert found in finding.found
    assert finding.advice
    assert report.conclusion is Conclusion.YES


def test_an_address_that_nobody_can_reach(authority: Authority) -> None:
    """An address of one machine's network alone (RFC 4007 §6) leads readers nowhere."""
    zone = ZONE.replace("A 127.0.0.1", "AAAA fe80::1")
    with Web(answers(), authority.issue(NAME)) as web:
        report = look(web.port, zone)
    if of(report, Check.HTTPS).state is State.NOT_CHECKED:
        pytest.skip("a machine without IPv6")
    assert of(report, Check.HTTPS).state is State.UNREACHABLE
    assert report.conclusion is Conclusion.LATER


@contextmanager
def raw(answer: bytes | None, *, listen: bool = True) -> Iterator[int]:
    """Serve octets that are no TLS; None resets the connection, no listening refuses it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        if not listen:
            server.close()
            yield port
            return

        def serve() -> None:
            for _ in range(2):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    if answer is None:
                        linger = b"\x01\0\0\0\0\0\0\0"
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    else:
                        connection.recv(4096)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield port
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    ("answer", "listen", "plain", "states"),
    [
        pytest.param(b"", False, False, {State.CONNECT_REFUSED}, id="nobody listens"),
        pytest.param(None, True, False, {State.CONNECTION_RESET}, id="cut"),
        pytest.param(b"HTTP/1.1 400 Bad\r\n\r\n", True, False, {State.TLS_FAILED}, id="http on 443"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", True, True, {State.NOT_OUR_SERVER}, id="another protocol"),
        pytest.param(b"220 mail ESMTP\r\n", True, True, {State.NOT_OUR_SERVER}, id="no http"),
        pytest.param(b"", True, True, {State.CONNECTION_RESET}, id="an end before the answer"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", True, True, {State.CONNECTION_RESET}, id="an end after hints"),
    ],
)  # fmt: skip
def test_every_failing_connection(
    authority: Authority, answer: bytes | None, listen: bool, plain: bool, states: set[State]
) -> None:
    """What fails before an answer is told apart."""
    assert authority
    with raw(answer, listen=listen) as port:
        report = look(port, plain=plain)
    assert report.decisive.state in states
    assert report.decisive.advice


@pytest.mark.parametrize("hint", ["100 Continue", "103 Early Hints"])
def test_what_comes_before_the_answer_is_skipped(authority: Authority, hint: str) -> None:
    """Neither status nor headers of a 1xx are the answer's (RFC 9110 §15.2)."""

    def respond(handler) -> None:  # noqa: ANN001 - as in `web`
        handler.wfile.write(f"HTTP/1.1 {hint}\r\nLocation: /x\r\n\r\n".encode() * 2)
        handler.wfile.flush()
        time.sleep(0.1)
        says(500)(handler)

    def ours(handler) -> None:  # noqa: ANN001 - as in `web`
        handler.wfile.write(f"HTTP/1.1 {hint}\r\nLink: </x>\r\n\r\n".encode())
        answers()(handler)

    certificate = authority.issue(NAME)
    with Web(ours, certificate) as web:
        assert of(look(web.port), Check.HTTPS).state is State.OK
    with Web(respond, certificate) as web:
        finding = of(look(web.port), Check.HTTPS)
    assert finding.state is State.NOT_OUR_SERVER
    assert "(500, says" in finding.found


def test_silence(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and says nothing is given up."""
    monkeypatch.setattr("sestrack.domains.probe.WHOLE_SECONDS", 0.3)
    assert authority
    with socket.create_server(("127.0.0.1", 0)) as server:
        report = look(server.getsockname()[1])
    assert report.decisive.state is State.TIMEOUT
    assert report.conclusion is Conclusion.LATER


def test_each_address_is_asked(authority: Authority) -> None:
    """An address without a listener shows, though another answers; so does IPv6 beside IPv4."""
    zone = (
        "edge.example.net. 60 IN A 127.0.0.1\nedge.example.net. 60 IN A 127.0.0.2\n"
        "edge.example.net. 60 IN AAAA ::1\ntrace.example.com. 60 IN CNAME edge.example.net."
    )
    certificate = authority.issue(NAME)
    with ExitStack() as stack:
        web = stack.enter_context(Web(answers(), certificate))
        stack.enter_context(Web(says(200, b"?"), certificate, "127.0.0.2", web.port))
        report = look(web.port, zone)
    states = {
        finding.found.partition(": ")[0]: finding.state
        for finding in report.findings
        if finding.check is Check.HTTPS
    }
    assert states.pop("::1") in {State.CONNECT_REFUSED, State.NOT_CHECKED}
    assert states == {"127.0.0.1": State.OK, "127.0.0.2": State.NOT_OUR_SERVER}
    assert report.conclusion is Conclusion.NO


def test_a_proxy_is_good_when_https_is(authority: Authority) -> None:
    """Other addresses than the edge's are accepted where we answer (PostHog#50665)."""
    zone = "edge.example.net. 60 IN A 192.0.2.1\ntrace.example.com. 60 IN A 127.0.0.1"
    certificate = authority.issue(NAME)
    with Web(answers(), certificate) as web:
        good = look(web.port, zone)
    assert (good.state, good.conclusion) == (State.PROXIED, Conclusion.YES)
    with Web(says(200, b"?"), certificate) as web:
        bad = look(web.port, zone)
    assert (bad.state, bad.conclusion) == (State.NOT_OUR_SERVER, Conclusion.NO)


EDGE_FACTS = NameFacts("edge.example.net", Outcome.ANSWER, (), ("192.0.2.1",))
RIGHT = NameFacts(NAME, Outcome.ANSWER, ("edge.example.net",), ("192.0.2.1",))
FLAT = NameFacts(NAME, Outcome.ANSWER, (), ("192.0.2.1",))
PROXY = NameFacts(NAME, Outcome.ANSWER, (), ("2001:db8::7", "192.0.2.7"))
NO_ROUTE = HttpFacts("2001:db8::7", HttpOutcome.NO_ROUTE)
OURS = HttpFacts("192.0.2.7", HttpOutcome.ANSWER, answered=challenge.Answered.OURS)


@pytest.mark.parametrize(
    ("name", "https", "conclusion"),
    [
        pytest.param(RIGHT, (OURS,), Conclusion.YES, id="a CNAME, and we answer"),
        pytest.param(RIGHT, (NO_ROUTE,), Conclusion.LATER, id="a CNAME, and no address can be asked"),
        pytest.param(FLAT, (NO_ROUTE,), Conclusion.LATER, id="flattened, and no address can be asked"),
        pytest.param(PROXY, (NO_ROUTE, OURS), Conclusion.YES, id="proxied, and we answer at one address, the other cannot be asked"),
        pytest.param(PROXY, (NO_ROUTE,), Conclusion.LATER, id="proxied, and no address can be asked"),
        pytest.param(PROXY, None, Conclusion.LATER, id="proxied, and HTTPS is left out"),
    ],
)  # fmt: skip
def test_nobody_is_verified_whom_nobody_asked(
    name: NameFacts, https: tuple[HttpFacts, ...] | None, conclusion: Conclusion
) -> None:
    """An address of a network that this machine lacks says nothing: neither yes nor no."""
    facts = DomainFacts(name, EDGE_FACTS, https=https)
    report = judge(facts, Target("edge.example.net"), f"https://{NAME}/", NOW)
    assert report.conclusion is conclusion
    assert conclusion is Conclusion.YES or report.decisive.advice
    # DNS alone would not do for a proxy
    assert ("--no-http" in of(report, Check.HTTPS).advice) == (
        conclusion is Conclusion.LATER and name is not PROXY
    )


def test_every_advice_can_be_followed(authority: Authority) -> None:
    """A command that is advised names the domain at hand."""
    with Web(says(200, b"?"), authority.issue(NAME)) as web:
        finding: Finding = of(look(web.port), Check.HTTPS)
    assert re.search(rf"sestrack domain accelerate {re.escape(NAME)} --for nginx", finding.advice)
