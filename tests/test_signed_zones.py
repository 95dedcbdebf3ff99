"""DNSSEC and delegation with real servers: knot signs and serves, unbound validates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack

import dns.message
import dns.query
import pytest
from postgresql import free_port
from services import program, running
from test_resolver import of
from test_rules import a_domain

from sestrack.domains.findings import Check, State
from sestrack.domains.judgement import Report
from sestrack.domains.survey import SurveyOptions, survey
from sestrack.model import Conclusion, DomainStatus

ZONE = """\
$ORIGIN {zone}.
$TTL 60
@ SOA ns1 admin 1 3600 600 86400 60
@ NS ns1
@ NS ns2
ns1 A 127.0.0.1
ns2 A 127.0.0.1
@ CAA 0 issue "letsencrypt.org"
edge A 192.0.2.1
trace CNAME edge
chain CNAME trace
wrong CNAME other
other A 192.0.2.9
flat A 192.0.2.1
text TXT "hello"
loop CNAME loop2
loop2 CNAME loop
gone CNAME nowhere
twice.{zone} CNAME edge
"""
ZONES = {"good.test": "signed", "bogus.test": "signed", "plain.test": ""}


class Servers:
    """Where knot and unbound listen."""

    def __init__(self, authority: int, resolver: int) -> None:
        self.authority, self.resolver = authority, resolver

    def look(self, name: str, zone: str, *, authoritative: bool = False) -> Report:
        """Look at a trace domain of a zone."""
        domain = a_domain(f"{name}.{zone}", DomainStatus.PENDING)._replace(target=f"edge.{zone}")
        how = SurveyOptions(
            f"127.0.0.1:{self.resolver}", authoritative=authoritative, authority_port=self.authority
        )
        (report,) = asyncio.run(survey([domain], how, None, 0))
        return report


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Run knot with its zones, and unbound, which trusts the right key and a wrong one."""
    folder = tmp_path_factory.mktemp("dns")
    found = Servers(free_port(), free_port())
    knot = (
        f"server:\n  listen: 127.0.0.1@{found.authority}\n  rundir: {folder}\n"
        f"database:\n  storage: {folder}\n"
        "policy:\n  - id: ours\n    algorithm: ecdsap256sha256\n    single-type-signing: on\n"
        f"template:\n  - id: default\n    storage: {folder}\n    zonefile-sync: -1\n    journal-content: none\n"
        "zone:\n"
    )
    for zone, signed in ZONES.items():
        (folder / f"{zone}.zone").write_text(ZONE.format(zone=zone))
        knot += f"  - domain: {zone}\n"
        knot += "    dnssec-signing: on\n    dnssec-policy: ours\n" * bool(signed)
    (folder / "knot.conf").write_text(knot)
    with ExitStack() as stack:
        command = [program("knotd"), "-c", str(folder / "knot.conf")]
        stack.enter_context(running(command, found.authority, folder))
        anchors = []
        for zone in ("good.test", "bogus.test"):
            key = _dnskey(zone, found.authority)
            # one letter of the key is another: its signatures cannot hold
            anchors.append(key if zone == "good.test" else key[:-20] + "AAAA" + key[-16:])
        (folder / "unbound.conf").write_text(
            f'server:\n  interface: 127.0.0.1\n  port: {found.resolver}\n  chroot: ""\n'
            f'  directory: {folder}\n  pidfile: ""\n  username: ""\n  use-syslog: no\n'
            '  do-not-query-localhost: no\n  ede: yes\n  module-config: "validator iterator"\n'
            '  local-zone: "test." nodefault\n'
            + "".join(f"  trust-anchor: '{anchor}'\n" for anchor in anchors)
            + "".join(
                f"stub-zone:\n  name: {zone}\n  stub-addr: 127.0.0.1@{port}\n"
                for zone, port in {
                    **dict.fromkeys(ZONES, found.authority), "dead.test": free_port(),
                }.items()
            )
        )  # fmt: skip
        command = [program("unbound"), "-d", "-c", str(folder / "unbound.conf")]
        stack.enter_context(running(command, found.resolver, folder))
        yield found


def _dnskey(zone: str, port: int) -> str:
    query = dns.message.make_query(zone, "DNSKEY")
    for _ in range(100):
        response = dns.query.tcp(query, "127.0.0.1", 2, port)
        if response.answer:
            return f"{zone}. DNSKEY {response.answer[0][0]}"
        time.sleep(0.1)
    return pytest.fail(f"{zone} is not signed")


@pytest.mark.parametrize("zone", ["good.test", "plain.test"])
@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("trace", State.OK),
        ("chain", State.OK_CHAIN),
        ("flat", State.OK_FLATTENED),
        ("wrong", State.WRONG_TARGET),
        ("other", State.PROXIED),
        ("text", State.NO_CNAME),
        ("absent", State.NO_SUCH_NAME),
        ("gone", State.TARGET_MISSING),
        ("loop", State.LOOP),
        ("twice", State.DOUBLED_NAME),
    ],
)
def test_states_from_real_servers(servers: Servers, zone: str, name: str, state: State) -> None:
    """What the test's own name server says, knot behind unbound says too, signed or not."""
    assert of(servers.look(name, zone), Check.CNAME).state is state


def test_bogus_is_told_from_a_failure(servers: Servers) -> None:
    """Extended errors (RFC 8914) tell signatures that do not hold from a server that is dead."""
    bogus = of(servers.look("trace", "bogus.test"), Check.CNAME)
    assert bogus.state is State.DNSSEC_BOGUS
    dead = servers.look("trace", "dead.test")
    assert of(dead, Check.CNAME).state in {State.SERVFAIL, State.TIMEOUT}
    assert dead.conclusion is Conclusion.LATER


def test_authoritative_servers_of_a_real_zone(servers: Servers) -> None:
    """The zone's NS are found through the resolver, and asked directly."""
    report = servers.look("trace", "good.test", authoritative=True)
    finding = of(report, Check.SERVERS)
    assert (finding.state, finding.found) == (State.OK, "2 of 2 name servers have the record")


def test_caa_of_a_real_zone(servers: Servers) -> None:
    """The climb ends at the zone that has the records."""
    from sestrack.domains.resolver import Resolver

    async def ask() -> object:
        return await Resolver.of(f"127.0.0.1:{servers.resolver}").caa("trace.good.test")

    facts = asyncio.run(ask())
    assert (facts.owner, facts.issuers) == ("good.test", ("letsencrypt.org",))  # type: ignore[attr-defined]
