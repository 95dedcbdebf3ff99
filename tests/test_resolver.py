"""DNS facts and their judgement, over real UDP and TCP: every state by a real answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import dns.message
import dns.rcode
import pytest
from test_rules import a_domain

from sestrack.demo.nameserver import NameServer
from sestrack.domains.dns_judgement import judge_txt
from sestrack.domains.findings import Check, Finding, Level, State
from sestrack.domains.judgement import Report
from sestrack.domains.resolver import Resolver
from sestrack.domains.survey import SurveyOptions, survey
from sestrack.errors import UsageError
from sestrack.model import Conclusion, DomainStatus

ZONE = """
edge.example.net.        60 IN A 192.0.2.1
edge.example.net.        60 IN AAAA 2001:db8::1
cdn.example.net.         60 IN A 192.0.2.50
dangling.example.net.    60 IN CNAME nowhere.example.net.
empty.example.net.       60 IN TXT "no address"
right.example.com.       60 IN CNAME edge.example.net.
upper.example.com.       60 IN CNAME Edge.Example.NET.
middle.example.com.      60 IN CNAME edge.example.net.
chain.example.com.       60 IN CNAME middle.example.com.
wrong.example.com.       60 IN CNAME other.example.org.
other.example.org.       60 IN A 192.0.2.9
near.example.com.        60 IN CNAME edge.example.net.attacker.test.
edge.example.net.attacker.test. 60 IN A 192.0.2.66
flat.example.com.        60 IN A 192.0.2.1
flat6.example.com.       60 IN AAAA 2001:db8::1
proxied.example.com.     60 IN A 192.0.2.7
text.example.com.        60 IN TXT "hello"
loop1.example.com.       60 IN CNAME loop2.example.com.
loop2.example.com.       60 IN CNAME loop1.example.com.
self.example.com.        60 IN CNAME self.example.com.
gone.example.com.        60 IN CNAME missing.example.org.
fails.example.com.       60 IN CNAME edge.example.net.
long.example.com.        60 IN CNAME edge.example.net.
cdn.example.com.         60 IN CNAME cdn.example.net.
doubled.example.com.example.com. 60 IN CNAME edge.example.net.
_sestrack.a.example.com. 60 IN TXT "sestrack-" "verify=1"
_sestrack.b.example.com. 60 IN TXT "v=spf1 -all"
"""
EDGE = "edge.example.net"


def look(
    server: NameServer, name: str, target: str = EDGE, former: str = "", **how: object
) -> Report:
    """Look at a trace domain over DNS alone."""
    domain = a_domain(name, DomainStatus.PENDING)._replace(target=target, former_target=former)
    (report,) = asyncio.run(survey([domain], SurveyOptions(server.address, **how), None, 0))  # type: ignore[arg-type]
    return report


def of(report: Report, check: Check) -> Finding:
    """Take the finding of one check."""
    return next(finding for finding in report.findings if finding.check is check)


@pytest.mark.parametrize(
    ("name", "state", "found", "conclusion"),
    [
        ("right", State.OK, EDGE, Conclusion.YES),
        ("upper", State.OK, EDGE, Conclusion.YES),
        ("chain", State.OK_CHAIN, "middle.example.com", Conclusion.YES),
        ("flat", State.OK_FLATTENED, "192.0.2.1", Conclusion.YES),
        ("flat6", State.OK_FLATTENED, "2001:db8::1", Conclusion.YES),
        ("long", State.OK, EDGE, Conclusion.YES),
        ("proxied", State.PROXIED, "192.0.2.7", Conclusion.LATER),
        ("wrong", State.WRONG_TARGET, "other.example.org", Conclusion.NO),
        ("near", State.WRONG_TARGET, "attacker.test", Conclusion.NO),
        ("absent", State.NO_SUCH_NAME, "does not exist", Conclusion.NO),
        ("text", State.NO_CNAME, "no CNAME", Conclusion.NO),
        ("loop1", State.LOOP, "loop2.example.com", Conclusion.NO),
        ("self", State.LOOP, "self.example.com", Conclusion.NO),
        ("gone", State.TARGET_MISSING, "missing.example.org", Conclusion.NO),
        ("doubled", State.DOUBLED_NAME, "doubled.example.com.example.com", Conclusion.NO),
        ("bogus", State.DNSSEC_BOGUS, "signatures", Conclusion.NO),
        ("fails", State.SERVFAIL, "SERVFAIL", Conclusion.LATER),
        ("refuses", State.REFUSED, "REFUSED", Conclusion.LATER),
        ("silent", State.TIMEOUT, "no answer", Conclusion.LATER),
    ],
)
def test_every_state_of_a_cname(
    name: str, state: State, found: str, conclusion: Conclusion
) -> None:
    """Each state is reached by a real answer, and says what was found and what to do."""
    faults = {
        "fails.example.com": "servfail",
        "refuses.example.com": "refused",
        "bogus.example.com": "bogus",
        "long.example.com": "truncate",
        "silent.example.com": "drop",
    }
    with NameServer({".": ZONE}, faults) as server:
        report = look(server, f"{name}.example.com")
    finding = of(report, Check.CNAME)
    assert finding.state is state
    assert found in finding.found
    assert finding.expected == f"CNAME {EDGE}"
    assert bool(finding.advice) == (finding.level is not Level.OK)
    assert report.conclusion is report.dns is conclusion
    assert report.state is state
    assert report.dns_only


@pytest.mark.parametrize(
    ("target", "state", "conclusion"),
    [
        (EDGE, State.OK, Conclusion.YES),
        ("dangling.example.net", State.TARGET_MISSING, Conclusion.NO),
        ("absent.example.net", State.NO_SUCH_NAME, Conclusion.NO),
        ("empty.example.net", State.NO_ADDRESS, Conclusion.NO),
        ("fails.example.net", State.SERVFAIL, Conclusion.LATER),
        ("self.example.com", State.LOOP, Conclusion.NO),
    ],
)
def test_every_state_of_the_edge(target: str, state: State, conclusion: Conclusion) -> None:
    """Where the edge itself leads nowhere, it is not the record's fault (postal#1099)."""
    with NameServer({".": ZONE}, {"fails.example.net": "servfail"}) as server:
        server.add(f"mine.example.org. 60 IN CNAME {target}.")
        report = look(server, "mine.example.org", target)
    finding = of(report, Check.EDGE)
    assert finding.state is state
    assert target in finding.expected
    assert report.conclusion is conclusion
    if state not in {State.SERVFAIL, State.LOOP}:
        assert of(report, Check.CNAME).level is Level.OK


def test_two_targets_while_one_follows_the_other() -> None:
    """Both are accepted until the new one is seen; the old one comes with advice."""
    with NameServer({".": ZONE}) as server:
        old = look(server, "right.example.com", "cdn.example.net", EDGE)
        new = look(server, "cdn.example.com", "cdn.example.net", EDGE)
        strict = look(server, "right.example.com", "cdn.example.net")
    assert (old.conclusion, old.target_seen) == (Conclusion.YES, False)
    assert "cdn.example.net" in of(old, Check.CNAME).advice
    assert (new.conclusion, new.target_seen) == (Conclusion.YES, True)
    assert strict.conclusion is Conclusion.NO


def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    """An answer that does not fit UDP is fetched over TCP (RFC 7766 §5)."""
    with NameServer({".": ZONE}, {"long.example.com": "truncate"}) as server:
        look(server, "long.example.com")
        assert ("long.example.com.", "A", "tcp") in server.asked


def test_no_server_at_all() -> None:
    """A port where nobody listens is silence, which is not absence (postal#3330)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    domain = a_domain("right.example.com", DomainStatus.PENDING)._replace(target=EDGE)
    (report,) = asyncio.run(survey([domain], SurveyOptions(f"127.0.0.1:{port}"), None, 0))
    assert report.conclusion is Conclusion.LATER


def test_a_server_that_knows_nothing() -> None:
    """The small name server says of every name, the root's too, that it does not exist."""
    with NameServer({}) as server:
        assert of(look(server, "right.example.com"), Check.CNAME).state is State.NO_SUCH_NAME
        answer = server.answer(dns.message.make_query(".", "A").to_wire(), "udp")
    assert dns.message.from_wire(answer or b"").rcode() is dns.rcode.NXDOMAIN


def test_a_server_that_knows_the_cname_alone() -> None:
    """What is not known of the end of the chain is not held against it."""
    with NameServer({".": ZONE}, {EDGE: "refused"}, chase=False) as server:
        report = look(server, "right.example.com")
    assert of(report, Check.CNAME).state is State.OK
    assert of(report, Check.EDGE).state is State.REFUSED


# -- each authoritative server -----------------------------------------------------------

NAME_SERVERS = """
example.com.     60 IN NS ns1.example.com.
example.com.     60 IN NS ns2.example.com.
example.com.     60 IN NS ns3.example.com.
ns1.example.com. 60 IN A 127.0.0.11
ns2.example.com. 60 IN A 127.0.0.12
ns3.example.com. 60 IN A 127.0.0.13
edge.example.net. 60 IN A 192.0.2.1
"""
RIGHT = "trace.example.com. 60 IN CNAME edge.example.net."
WRONG = "trace.example.com. 60 IN CNAME old.example.org."


def ask_each(recursive: str, records: Mapping[str, str], *, authoritative: bool = False) -> Report:
    """Look at trace.example.com where each of its name servers says something of its own."""
    with NameServer({".": NAME_SERVERS + recursive}) as resolver:
        servers = [
            NameServer(
                {".": "example.com. 60 IN NS ns1.example.com.\n" + record},
                chase=False, host=f"127.0.0.{last}", port=resolver.port,
            ).__enter__()
            for last, record in records.items()
        ]  # fmt: skip
        try:
            return look(
                resolver, "trace.example.com", authoritative=authoritative,
                authority_port=resolver.port,
            )  # fmt: skip
        finally:
            for server in servers:
                server.__exit__()


@pytest.mark.parametrize(
    ("recursive", "records", "state", "found", "conclusion"),
    [
        pytest.param("", {"11": RIGHT, "12": RIGHT, "13": ""}, State.PROPAGATING, "2 of 3", Conclusion.LATER, id="two of three have it"),
        pytest.param("", {"11": RIGHT, "12": RIGHT, "13": RIGHT}, State.PROPAGATING, "3 of 3", Conclusion.LATER, id="all have it, resolvers not yet"),
        pytest.param(WRONG, {"11": RIGHT, "12": WRONG, "13": WRONG}, State.PROPAGATING, "old.example.org", Conclusion.LATER, id="a change on its way"),
        pytest.param("", {"11": "", "12": "", "13": ""}, State.ALL_WITHOUT, "0 of 3", Conclusion.NO, id="nobody has it"),
        pytest.param("", {}, State.NOT_CHECKED, "no name server answers: ns1.example.com", Conclusion.NO, id="nobody answers"),
        pytest.param(RIGHT, {"11": RIGHT, "12": RIGHT, "13": RIGHT}, State.OK, "3 of 3", Conclusion.YES, id="all agree"),
        pytest.param(RIGHT, {"11": RIGHT, "12": WRONG, "13": RIGHT}, State.SOME_WITHOUT, "ns2.example.com (old.example.org)", Conclusion.YES, id="answers flip"),
    ],
)  # fmt: skip
def test_each_authoritative_server(
    recursive: str, records: Mapping[str, str], state: State, found: str, conclusion: Conclusion
) -> None:
    """Where the resolver's answer is bad, or on request, each name server is asked directly."""
    report = ask_each(recursive, records, authoritative=recursive == RIGHT)
    finding = of(report, Check.SERVERS)
    assert finding.state is state
    assert found in finding.found
    assert report.conclusion is conclusion


def test_a_good_answer_needs_no_authority() -> None:
    """Nobody else is asked where the resolver's answer is good."""
    with NameServer({".": NAME_SERVERS + RIGHT}) as server:
        report = look(server, "trace.example.com")
        assert not [asked for asked in server.asked if asked[1] == "NS"]
    assert Check.SERVERS not in {finding.check for finding in report.findings}


# -- wildcards and authorities for certificates ------------------------------------------


@pytest.mark.parametrize(
    ("record", "state"),
    [
        ("*.example.com. 60 IN CNAME edge.example.net.", State.WILDCARD),
        ("*.example.com. 60 IN A 192.0.2.99", State.WILDCARD),
        ("", State.OK),
    ],
)
def test_a_wildcard_is_a_warning(record: str, state: State) -> None:
    """A name that nobody made and that answers all the same."""
    with NameServer({".": ZONE + record}) as server:
        report = look(server, "right.example.com")
    assert of(report, Check.WILDCARD).state is state
    assert report.conclusion is Conclusion.YES


@pytest.mark.parametrize(
    ("records", "faults", "owner", "issuers", "restricts"),
    [
        pytest.param("", {}, "", (), False, id="no record anywhere"),
        pytest.param('example.com. 60 IN CAA 0 issue "letsencrypt.org"', {}, "example.com", ("letsencrypt.org",), True, id="found on the way up"),
        pytest.param('right.example.com. 60 IN CAA 0 issue "a.test; x=1"\nexample.com. 60 IN CAA 0 issue ";"', {}, "right.example.com", ("a.test",), True, id="the nearest counts"),
        pytest.param('edge.example.net. 60 IN CAA 0 issue ";"', {}, "edge.example.net", (), True, id="that of the CNAME's target (k8s.io#3795)"),
        pytest.param('example.net. 60 IN CAA 0 issue ";"', {}, "", (), False, id="but not what is above the target"),
        pytest.param('example.com. 60 IN CAA 0 iodef "mailto:a@example.com"', {}, "example.com", (), False, id="no restriction"),
        pytest.param("", {"example.com": "servfail"}, "example.com", (), False, id="a failing look-up"),
    ],
)  # fmt: skip
def test_who_may_issue(
    records: str, faults: Mapping[str, str], owner: str, issuers: tuple[str, ...], restricts: bool
) -> None:
    """The climb of RFC 8659 §3 goes on from the name itself."""
    records += "\nright.example.com. 60 IN CNAME edge.example.net." * ("right" not in records)
    with NameServer({".": f"edge.example.net. 60 IN A 192.0.2.1\n{records}"}, faults) as server:
        found = asyncio.run(_caa(server))
    assert (found.owner, found.issuers, found.restricts) == (owner, issuers, restricts)
    assert (found.outcome == "server-failure") == bool(faults)


async def _caa(server: NameServer):  # noqa: ANN202 - what it is, the test says
    return await Resolver.of(server.address).caa("right.example.com")


# -- the proof of a sender domain --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("a", State.OK),
        ("b", State.WRONG_TEXT),
        ("c", State.NO_SUCH_NAME),
        ("d", State.NO_TXT),
        ("e", State.SERVFAIL),
        ("f", State.TIMEOUT),
        ("g", State.DNSSEC_BOGUS),
    ],
)
def test_every_state_of_a_proof(name: str, state: State) -> None:
    """The TXT record of a sender domain is found, wrong, absent, or cannot be told."""
    faults = {
        "_sestrack.e.example.com": "servfail",
        "_sestrack.f.example.com": "drop",
        "_sestrack.g.example.com": "bogus",
    }
    with NameServer({".": ZONE}, faults) as server:
        server.add("_sestrack.d.example.com. 60 IN A 192.0.2.3")
        facts = asyncio.run(Resolver.of(server.address).txt(f"_sestrack.{name}.example.com"))
    finding = judge_txt(facts, "sestrack-verify=1")
    assert finding.state is state
    assert bool(finding.advice) == (finding.level is not Level.OK)
    assert finding.absent == (state in {State.NO_SUCH_NAME, State.NO_TXT})


@pytest.mark.parametrize("address", ["example.com", "127.0.0.1:0", "127.0.0.1:x", "[::1]5", ""])
def test_a_resolver_that_is_no_address(address: str) -> None:
    """A malformed --resolver is a wrong command line."""
    with pytest.raises(UsageError, match="resolver"):
        Resolver.of(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]:53", "::1", "127.0.0.1:5353", None])
def test_resolvers_that_are(address: str | None) -> None:
    """IPv4 and IPv6, with and without a port, and the system's."""
    Resolver.of(address)
