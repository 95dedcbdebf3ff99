"""Whose address a request comes from, when proxies stand in between.

A header is believed only as far as the proxies that the administrator named reach: from
the right, each address that is such a proxy vouches for the one before it.  The first that
is not is the client.  What a client writes itself stands further left and is never looked at.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from sestrack.errors import UsageError

Network = IPv4Network | IPv6Network
_LONGEST = 64
"""An IPv6 address in full has 45 characters, an interface's name at most 15 (IFNAMSIZ)."""


def networks_of(texts: list[str]) -> tuple[Network, ...]:
    """Read networks in CIDR notation, or single addresses.  Raises `UsageError`."""
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            msg = f"--trust-proxy {text!r}: {error}"
            raise UsageError(msg, "--trust-proxy 10.0.0.0/8") from None
    return tuple(networks)


class Clients:
    """Knows the proxies that are trusted."""

    def __init__(self, trusted: tuple[Network, ...], *, anonymize: bool = False) -> None:
        """Take the networks; with `anonymize`, addresses are cut to /24 and /48."""
        self._trusted = trusted
        self._anonymize = anonymize
        self.is_trusted = lru_cache(8192)(self._is_trusted)
        self.kept = lru_cache(8192)(self._kept)

    def _is_trusted(self, address: str) -> bool:
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._trusted)

    def behind(self, peer: str, forwarded_for: str, forwarded: str) -> str:
        """Return the client's address: `peer` is a trusted proxy, the rest are its headers.

        `Forwarded` (RFC 7239) and X-Forwarded-For are both read from the right.  A proxy that
        writes one of them passes on what a client wrote into the other: so where both stand and
        do not say the same, neither is believed.
        """
        if not forwarded:
            return self._last(peer, forwarded_for.split(","))
        client = self._last(peer, _forwarded_hops(forwarded))
        if forwarded_for and self._last(peer, forwarded_for.split(",")) != client:
            return peer
        return client

    def _last(self, peer: str, hops: list[str]) -> str:
        """Return the first address from the right that is no trusted proxy."""
        client = peer
        for hop in reversed(hops):
            address = _bare(hop)
            if _parse(address) is None:
                break  # `unknown`, an obfuscated name, or nonsense: nothing further left counts
            client = address
            if not self.is_trusted(address):
                break
        return client

    def _kept(self, address: str) -> str:
        """Write an address as it is kept: IPv4 in IPv6 as IPv4, and cut if that is wanted."""
        parsed = _parse(address)
        if parsed is None:
            return ""
        if not self._anonymize:
            return str(parsed)
        bits = 24 if parsed.version == 4 else 48  # noqa: PLR2004
        return str(ip_network((parsed, bits), strict=False).network_address)


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    if len(address) > _LONGEST:  # a scope may be as long as one likes, and is remembered
        return None
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address):
        # a scope says which cable, and is of no use to anyone later
        return parsed.ipv4_mapped or ip_address(address.partition("%")[0])
    return parsed


def _bare(hop: str) -> str:
    """Take quotes, brackets and a port off an address (RFC 7239 §6)."""
    hop = hop.strip().strip('"')
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _forwarded_hops(forwarded: str) -> list[str]:
    """Take what `for=` says of each element of a Forwarded header; "" where it says nothing."""
    hops = []
    for element in forwarded.split(","):
        hop = ""
        for pair in element.split(";"):
            name, _, value = pair.strip().partition("=")
            if name.lower() == "for":
                hop = value
        hops.append(hop)
    return hops
