"""DNS facts, gathered with dnspython: what is there, never whether it is good.

Asked over UDP with EDNS (RFC 6891; without it there are no extended errors, RFC 8914), over
TCP when an answer is truncated.  A question has one second a try and four in all.  What
several domains need alike (their target, the name servers of their zone, CAA records on the
way up) is asked once: a resolver remembers as long as it lives.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdatatype
import dns.resolver

from sestrack.domains.facts import CaaFacts, NameFacts, Outcome, ServerFacts, TxtFacts
from sestrack.errors import NotSetUp, UsageError

_T = TypeVar("_T")

MAX_HOPS = 12
_TRY, _LIFETIME, _LIMIT = 1.0, 4.0, 5.0  # seconds; dnspython overshoots its lifetime
_EDNS_SIZE = 1232  # the DNS flag day's: no fragments
_DNS_PORT = 53
_BOGUS = {6, 7, 8, 9, 10, 11, 12, 27}
"""Extended errors that say that signatures do not hold (RFC 8914 §4.7 to §4.13, RFC 9276 §3.2)."""


class Resolver:
    """Asks one name server, or those of the system."""

    def __init__(
        self, resolver: dns.asyncresolver.Resolver, authority_port: int = _DNS_PORT
    ) -> None:
        """Take a configured resolver of dnspython, and where authoritative servers listen."""
        resolver.timeout = _TRY
        resolver.lifetime = _LIFETIME
        resolver.search = []
        resolver.use_edns(0, 0, _EDNS_SIZE)
        resolver.flags = dns.flags.RD | dns.flags.AD
        self._resolver = resolver
        self._authority_port = authority_port
        self._known: dict[object, asyncio.Task[Any]] = {}

    @classmethod
    def of(cls, address: str | None, authority_port: int = _DNS_PORT) -> Resolver:
        """Make one for `IP`, `IP:PORT` or `[IP]:PORT`; None is the system's.

        Raises `UsageError` for another address, `NotSetUp` if the system has none.
        """
        if address is None:
            try:
                return cls(dns.asyncresolver.Resolver(), authority_port)
            except dns.resolver.NoResolverConfiguration:
                msg = "the system has no name server"
                raise NotSetUp(msg, "--resolver IP[:PORT]") from None
        host, port = _address(address)
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port)]
        return cls(resolver, authority_port)

    def once(self, key: object, ask: Callable[[], Awaitable[_T]]) -> Awaitable[_T]:
        """Ask what several domains need alike; whoever asks again waits for the same answer."""
        task = self._known.get(key)
        if task is None:
            self._known[key] = task = asyncio.ensure_future(ask())
        return task

    async def target(self, name: str) -> NameFacts:
        """Follow a name that many domains lead to, in both families of addresses."""
        return await self.once(("target", name), lambda: self.name(name, both=True))

    async def name(self, name: str, *, both: bool) -> NameFacts:
        """Follow the CNAMEs of a name to its addresses.

        With `both`, those of IPv4 and of IPv6; without, those of IPv6 only if there are none
        of IPv4.
        """
        outcome, detail, chain, addresses = await self._addresses(name, both=both)
        if outcome is Outcome.SERVER_FAILURE:
            # loops look like this to a resolver (RFC 1034 §3.6.2)
            followed, loop = await self._follow(name)
            return NameFacts(name, Outcome.LOOP if loop else outcome, followed, detail=detail)
        if outcome is Outcome.NO_SUCH_NAME and chain:
            return NameFacts(name, Outcome.ANSWER, chain, target_missing=True)
        missing = False
        if outcome is Outcome.ANSWER and chain and not addresses:
            # an authoritative server need not know where the CNAME leads: ask for that alone
            end, _, _, addresses = await self._addresses(chain[-1], both=both)
            known = end in {Outcome.ANSWER, Outcome.NO_SUCH_NAME}
            missing = known and not addresses
        return NameFacts(name, outcome, chain, addresses, missing, detail)

    async def txt(self, name: str) -> TxtFacts:
        """Read the TXT records of a name; the strings of one record are joined (RFC 7208 §3.3)."""
        outcome, detail, response = await self._ask(name, "TXT")
        texts = []
        if response is not None:
            for rrset in response.answer:
                if rrset.rdtype == dns.rdatatype.TXT:
                    texts += [
                        b"".join(r.strings).decode("utf-8", "backslashreplace") for r in rrset
                    ]
        return TxtFacts(name, outcome, tuple(texts), detail)

    async def wildcard(self, zone: str) -> NameFacts:
        """Ask for a name under `zone` that nobody has made; the facts bear the zone's name."""

        async def ask() -> NameFacts:
            outcome, detail, response = await self._ask(f"sestrack-{secrets.token_hex(6)}.{zone}")
            return NameFacts(zone, outcome, *_read(response, _asked(response)), detail=detail)

        return await self.once(("wildcard", zone), ask)

    async def caa(self, name: str) -> CaaFacts:
        """Find the CAA records that count for a name, as an authority does (RFC 8659 §3).

        The climb goes on from the name itself, whatever CNAME is followed on a step of it.
        """
        labels = name.split(".")
        for start in range(len(labels)):
            climbed = ".".join(labels[start:])
            outcome, detail, response = await self.once(
                ("CAA", climbed), partial(self._ask, climbed, "CAA")
            )
            if outcome not in {Outcome.ANSWER, Outcome.NO_SUCH_NAME}:
                return CaaFacts(outcome, climbed, detail=detail)
            for rrset in response.answer if response else ():
                if rrset.rdtype == dns.rdatatype.CAA:
                    values = [
                        record.value.decode("ascii", "replace").partition(";")[0].strip()
                        for record in rrset
                        if record.tag.lower() == b"issue"
                    ]
                    issuers = tuple(sorted(filter(None, values)))
                    return CaaFacts(Outcome.ANSWER, _text(rrset.name), issuers, bool(values))
        return CaaFacts(Outcome.ANSWER)

    async def servers(self, name: str, zone: str) -> tuple[ServerFacts, ...]:
        """Ask each authoritative name server of `zone` for `name`, directly."""
        found = await self.once(("NS", zone), lambda: self._name_servers(zone))
        return tuple(await asyncio.gather(*(self._directly(name, *server) for server in found)))

    async def _name_servers(self, zone: str) -> list[tuple[str, str]]:
        """Return the name servers of a zone, each with one address, IPv4 if it has one."""
        _, _, response = await self._ask(zone, "NS")
        names = sorted(
            _text(record.target)
            for rrset in (response.answer if response else ())
            if rrset.rdtype == dns.rdatatype.NS
            for record in rrset
        )
        found = await asyncio.gather(*(self._addresses(name, both=False) for name in names))
        return [
            (name, addresses[0] if addresses else "")
            for name, (_, _, _, addresses) in zip(names, found, strict=True)
        ]

    async def _directly(self, name: str, server: str, address: str) -> ServerFacts:
        if not address:
            return ServerFacts(server, Outcome.SILENCE, detail="it has no address")
        query = dns.message.make_query(f"{name}.", "A", use_edns=0, payload=_EDNS_SIZE)
        query.flags &= ~dns.flags.RD
        for _ in range(2):
            try:
                async with asyncio.timeout(_TRY + 0.5):
                    response, _ = await dns.asyncquery.udp_with_fallback(
                        query, address, _TRY, self._authority_port
                    )
            except (TimeoutError, dns.exception.Timeout):
                continue
            except (dns.exception.DNSException, OSError) as error:
                return ServerFacts(server, Outcome.SILENCE, detail=type(error).__name__)
            code = response.rcode()
            chain, addresses = _read(response, name)
            if code == dns.rcode.NXDOMAIN:
                # of the name itself, or of where its CNAME leads (RFC 6604 §2.1)
                outcome = Outcome.ANSWER if chain else Outcome.NO_SUCH_NAME
            elif code == dns.rcode.NOERROR:
                outcome = Outcome.ANSWER
            else:
                outcome = _failure_of(response)
            detail = "" if code == dns.rcode.NOERROR else dns.rcode.to_text(code)
            return ServerFacts(server, outcome, chain, addresses, detail)
        return ServerFacts(server, Outcome.SILENCE, detail="timed out")

    async def _addresses(
        self, name: str, *, both: bool
    ) -> tuple[Outcome, str, tuple[str, ...], tuple[str, ...]]:
        """Ask for addresses; read the chain of CNAMEs on the way."""
        asked = [self._ask(name, "A")]
        if both:
            asked.append(self._ask(name, "AAAA"))
        (outcome, detail, response), *more = await asyncio.gather(*asked)
        chain, addresses = _read(response, name)
        if outcome is Outcome.ANSWER and not both and not addresses:
            more = [await self._ask(name, "AAAA")]
        for second, _, answer in more:
            if second is Outcome.ANSWER:
                others, six = _read(answer, name)
                chain, addresses = chain or others, addresses + six
        return outcome, detail, chain, addresses

    async def _follow(self, name: str) -> tuple[tuple[str, ...], bool]:
        """Follow CNAMEs one by one; return the targets, and whether they loop."""
        chain: list[str] = []
        current = name
        while len(chain) < MAX_HOPS:
            outcome, _, response = await self._ask(current, "CNAME")
            target = _target(response, current)
            if outcome is not Outcome.ANSWER or target is None:
                return tuple(chain), False
            chain.append(target)
            if target == name or target in chain[:-1]:
                return tuple(chain), True
            current = target
        return tuple(chain), True

    async def _ask(
        self, name: str, kind: str = "A"
    ) -> tuple[Outcome, str, dns.message.Message | None]:
        try:
            async with asyncio.timeout(_LIMIT):
                answer = await self._resolver.resolve(name + ".", kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as error:
            return Outcome.NO_SUCH_NAME, "", _first_response(error)
        except dns.resolver.NoNameservers as error:
            return _failure(error)
        except (TimeoutError, dns.exception.Timeout):
            return Outcome.SILENCE, "timed out", None
        except (dns.exception.DNSException, OSError) as error:
            return Outcome.SERVER_FAILURE, type(error).__name__, None
        return Outcome.ANSWER, "", answer.response


def _first_response(error: dns.resolver.NXDOMAIN) -> dns.message.Message | None:
    return next(iter(error.kwargs["responses"].values()), None)


def _failure(error: dns.resolver.NoNameservers) -> tuple[Outcome, str, None]:
    """Tell what kind of failure it was: dnspython keeps what each server said."""
    responses = [item[4] for item in error.kwargs["errors"] if item[4] is not None]
    if not responses:
        return Outcome.SILENCE, "the server cannot be reached", None
    response = responses[-1]
    errors = response.extended_errors()
    words = [dns.rcode.to_text(response.rcode()), *(ede.text or ede.code.name for ede in errors)]
    return _failure_of(response), "; ".join(words), None


def _failure_of(response: dns.message.Message) -> Outcome:
    if any(ede.code in _BOGUS for ede in response.extended_errors()):
        return Outcome.BOGUS
    refused = response.rcode() == dns.rcode.REFUSED
    return Outcome.REFUSED if refused else Outcome.SERVER_FAILURE


def _asked(response: dns.message.Message | None) -> str:
    return _text(response.question[0].name) if response else ""


def _read(
    response: dns.message.Message | None, name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the chain of CNAMEs from `name`, and the addresses at its end."""
    chain: list[str] = []
    current = name
    while len(chain) < MAX_HOPS and (target := _target(response, current)) is not None:
        chain.append(target)
        current = target
    addresses = [
        record.address
        for rrset in (response.answer if response else ())
        if rrset.rdtype in {dns.rdatatype.A, dns.rdatatype.AAAA} and _text(rrset.name) == current
        for record in rrset
    ]
    return tuple(chain), tuple(addresses)


def _target(response: dns.message.Message | None, name: str) -> str | None:
    for rrset in response.answer if response else ():
        if rrset.rdtype == dns.rdatatype.CNAME and _text(rrset.name) == name:
            return _text(rrset[0].target)
    return None


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _address(address: str) -> tuple[str, int]:
    host, separator, port = address, "", ""
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        separator, port = rest[:1], rest[1:]
    elif address.count(":") == 1:
        host, separator, port = address.partition(":")
    try:
        number = int(port) if separator == ":" else _DNS_PORT
        if not 0 < number < 2**16 or separator not in {"", ":"}:
            raise ValueError
        return str(ip_address(host)), number
    except ValueError:
        msg = f"--resolver {address!r} is not an IP address, with or without a port (1 to 65535)"
        raise UsageError(msg, "--resolver 192.0.2.53, or [2001:db8::53]:5353") from None
