"""DNS facts, gathered with dnspython: what is there, never whether it is good.

Asked over UDP with EDNS (RFC 6891; without it there are no extended errors, RFC 8914), over
TCP when an answer is truncated.  A question has one second a try and four in all.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdatatype
import dns.resolver

from sestrack.domains.judgement import CnameFacts, Outcome, TxtFacts
from sestrack.errors import NotSetUp, UsageError

MAX_HOPS = 12
_TRY, _LIFETIME, _LIMIT = 1.0, 4.0, 5.0  # seconds; dnspython overshoots its lifetime
_EDNS_SIZE = 1232  # the DNS flag day's: no fragments
_DNS_PORT = 53


class Resolver:
    """Asks one name server, or those of the system."""

    def __init__(self, resolver: dns.asyncresolver.Resolver) -> None:
        """Take a configured resolver of dnspython."""
        resolver.timeout = _TRY
        resolver.lifetime = _LIFETIME
        resolver.search = []
        resolver.use_edns(0, 0, _EDNS_SIZE)
        resolver.flags = dns.flags.RD | dns.flags.AD
        self._resolver = resolver

    @classmethod
    def of(cls, address: str | None) -> Resolver:
        """Make one for `IP`, `IP:PORT` or `[IP]:PORT`; None is the system's.

        Raises `UsageError` for another address, `NotSetUp` if the system has none.
        """
        if address is None:
            try:
                return cls(dns.asyncresolver.Resolver())
            except dns.resolver.NoResolverConfiguration:
                msg = "the system has no name server"
                raise NotSetUp(msg, "--resolver IP[:PORT]") from None
        host, port = _address(address)
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port)]
        return cls(resolver)

    async def cname(self, name: str) -> CnameFacts:
        """Follow the CNAME of a name to its addresses."""
        outcome, detail, chain, addresses = await self._ask_addresses(name)
        if outcome is Outcome.SERVER_FAILURE:
            # loops look like this to a resolver (RFC 1034 §3.6.2)
            followed, loop = await self._follow(name)
            if loop:
                return CnameFacts(name, Outcome.LOOP, followed)
            return CnameFacts(name, outcome, followed, detail=detail)
        if outcome is Outcome.NO_SUCH_NAME and chain:
            return CnameFacts(name, Outcome.ANSWER, chain, target_missing=True)
        missing = False
        if outcome is Outcome.ANSWER and chain and not addresses:
            # an authoritative server need not know where the CNAME leads: ask for that alone
            end, _, _, addresses = await self._ask_addresses(chain[-1])
            known = end in {Outcome.ANSWER, Outcome.NO_SUCH_NAME}
            missing = known and not addresses
        return CnameFacts(name, outcome, chain, addresses, missing, detail)

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

    async def _ask_addresses(
        self, name: str
    ) -> tuple[Outcome, str, tuple[str, ...], tuple[str, ...]]:
        """Ask for A, and for AAAA if there is none; read the chain of CNAMEs on the way."""
        outcome, detail, response = await self._ask(name, "A")
        chain, addresses = _read(response, name)
        if outcome is Outcome.ANSWER and not addresses:
            second, _, response = await self._ask(name, "AAAA")
            if second is Outcome.ANSWER:
                chain, addresses = _read(response, name)
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

    async def _ask(self, name: str, kind: str) -> tuple[Outcome, str, dns.message.Message | None]:
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
    return Outcome.SERVER_FAILURE, dns.rcode.to_text(responses[-1].rcode()), None


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
        msg = f"--resolver {address!r} is not an IP address, with or without a port"
        raise UsageError(msg, "--resolver 192.0.2.53, or [2001:db8::53]:5353") from None
