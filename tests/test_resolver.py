"""DNS facts and their judgement, over real UDP and TCP."""

from __future__ import annotations

import asyncio
import socket

import pytest
from nameserver import NameServer

from sestrack.domains.judgement import State, judge_cname, judge_txt
from sestrack.domains.resolver import Resolver
from sestrack.errors import UsageError

ZONE = """
edge.example.net.        60 IN A 192.0.2.1
six.example.net.         60 IN AAAA 2001:db8::1
right.example.com.       60 IN CNAME edge.example.net.
upper.example.com.       60 IN CNAME Edge.Example.NET.
middle.example.com.      60 IN CNAME edge.example.net.
chain.example.com.       60 IN CNAME middle.example.com.
wrong.example.com.       60 IN CNAME other.example.org.
other.example.org.       60 IN A 192.0.2.9
near.example.com.        60 IN CNAME edge.example.net.attacker.test.
address.example.com.     60 IN A 192.0.2.7
address6.example.com.    60 IN AAAA 2001:db8::7
text.example.com.        60 IN TXT "hello"
loop1.example.com.       60 IN CNAME loop2.example.com.
loop2.example.com.       60 IN CNAME loop1.example.com.
self.example.com.        60 IN CNAME self.example.com.
gone.example.com.        60 IN CNAME missing.example.net.
fails.example.com.       60 IN CNAME edge.example.net.
long.example.com.        60 IN CNAME edge.example.net.
_sestrack.a.example.com. 60 IN TXT "sestrack-" "verify=1"
_sestrack.b.example.com. 60 IN TXT "v=spf1 -all"
"""
EDGE = "edge.example.net"


@pytest.mark.parametrize(
    ("name", "edge", "state", "found"),
    [
        ("right", EDGE, State.OK, EDGE),
        ("upper", EDGE, State.OK, EDGE),
        ("chain", EDGE, State.OK_CHAIN, "middle.example.com"),
        ("wrong", EDGE, State.WRONG_TARGET, "other.example.org"),
        ("near", EDGE, State.WRONG_TARGET, "attacker.test"),
        ("address", EDGE, State.ADDRESS, "192.0.2.7"),
        ("address6", EDGE, State.ADDRESS, "2001:db8::7"),
        ("absent", EDGE, State.NO_SUCH_NAME, "does not exist"),
        ("text", EDGE, State.NO_CNAME, "no CNAME"),
        ("loop1", EDGE, State.LOOP, "loop2.example.com"),
        ("self", EDGE, State.LOOP, "self.example.com"),
        ("gone", "missing.example.net", State.TARGET_MISSING, "no address"),
        ("fails", EDGE, State.SERVFAIL, "SERVFAIL"),
        ("refuses", EDGE, State.SERVFAIL, "REFUSED"),
        ("long", EDGE, State.OK, EDGE),
    ],
)
def test_every_state_of_a_cname(name: str, edge: str, state: State, found: str) -> None:
    """Each state is reached by a real answer, and says what was found and what to do."""
    faults = {
        "fails.example.com": "servfail",
        "refuses.example.com": "refused",
        "long.example.com": "truncate",
    }
    with NameServer({".": ZONE}, faults) as server:
        facts = asyncio.run(Resolver.of(server.address).cname(f"{name}.example.com"))
    finding = judge_cname(facts, edge)
    assert finding.state is state
    assert found in finding.found
    assert finding.expected == f"CNAME {edge}"
    assert bool(finding.advice) != finding.usable


def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    """An answer that does not fit UDP is fetched over TCP (RFC 7766 §5)."""
    with NameServer({".": ZONE}, {"long.example.com": "truncate"}) as server:
        asyncio.run(Resolver.of(server.address).cname("long.example.com"))
        assert ("long.example.com.", "A", "tcp") in server.asked


def test_silence_is_not_absence() -> None:
    """A server that drops the question makes it a time-out (postal#3330)."""
    with NameServer({".": ZONE}, {"right.example.com": "drop"}) as server:
        facts = asyncio.run(Resolver.of(server.address).cname("right.example.com"))
    finding = judge_cname(facts, EDGE)
    assert finding.state is State.TIMEOUT
    assert finding.transient


def test_no_server_at_all() -> None:
    """A port where nobody listens is silence too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    facts = asyncio.run(Resolver.of(f"127.0.0.1:{port}").cname("right.example.com"))
    assert judge_cname(facts, EDGE).transient


@pytest.mark.parametrize("target", ["edge", "gone"])
def test_a_server_that_knows_the_cname_alone(target: str) -> None:
    """The end of the chain is asked for; what is not known of it is not held against it."""
    with NameServer({".": ZONE}, {EDGE: "refused"}, chase=False) as server:
        name = {"edge": "right", "gone": "gone"}[target]
        facts = asyncio.run(Resolver.of(server.address).cname(f"{name}.example.com"))
    wanted = {"edge": (EDGE, State.OK), "gone": ("missing.example.net", State.TARGET_MISSING)}
    edge, state = wanted[target]
    assert judge_cname(facts, edge).state is state


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("a", State.OK),
        ("b", State.WRONG_TEXT),
        ("c", State.NO_SUCH_NAME),
        ("d", State.NO_TXT),
        ("e", State.SERVFAIL),
        ("f", State.TIMEOUT),
    ],
)
def test_every_state_of_a_proof(name: str, state: State) -> None:
    """The TXT record of a sender domain is found, wrong, absent, or cannot be told."""
    faults = {"_sestrack.e.example.com": "servfail", "_sestrack.f.example.com": "drop"}
    with NameServer({".": ZONE}, faults) as server:
        server.add("_sestrack.d.example.com. 60 IN A 192.0.2.3")
        facts = asyncio.run(Resolver.of(server.address).txt(f"_sestrack.{name}.example.com"))
    finding = judge_txt(facts, "sestrack-verify=1")
    assert finding.state is state
    assert bool(finding.advice) != finding.usable
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
