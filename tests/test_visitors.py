"""Who a visit was: a table of facts and judgements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import as_nobody
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from sestrack.errors import NoPermission
from sestrack.tracker.clients import Clients, networks_of
from sestrack.tracker.events import Kind, Trait
from sestrack.tracker.places import Places
from sestrack.tracker.visitors import (
    REASON_WORDS,
    Reason,
    Visitor,
    is_burst,
    judge,
    network_of,
    read_agent,
)

CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
GOOGLE, MICROSOFT, ELSEWHERE = "66.249.84.1", "40.94.1.1", "192.0.2.1"


@pytest.mark.parametrize(
    ("text", "device", "client", "system"),
    [
        pytest.param(CHROME, "desktop", "Chrome", "Windows", id="Chrome"),
        pytest.param("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148", "mobile", "Mobile Safari UI/WKWebView", "iOS", id="iPhone"),
        pytest.param("Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148", "tablet", "Mobile Safari UI/WKWebView", "iOS", id="iPad"),
        pytest.param("Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36", "mobile", "Chrome Mobile", "Android", id="Android telephone"),
        pytest.param("Mozilla/5.0 (Linux; Android 13; SM-X700) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36", "tablet", "Chrome", "Android", id="Android tablet"),
        pytest.param("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)", "desktop", "Apple Mail", "Mac OS X", id="Apple Mail"),
        pytest.param("Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.12026; Pro)", "desktop", "Outlook", "Windows", id="Outlook"),
        pytest.param("Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Thunderbird/115.6.0", "desktop", "Thunderbird", "Linux", id="Thunderbird"),
        pytest.param("Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)", "other", "Gmail", "", id="Gmail's proxy hides the reader's"),
        pytest.param("", "other", "", "", id="none"),
    ],
)  # fmt: skip
def test_agents(text: str, device: str, client: str, system: str) -> None:
    """What a user agent says of device, program and system."""
    assert read_agent(text)[:3] == (device, client, system)


@pytest.mark.parametrize(
    ("kind", "text", "traits", "ip", "age", "visitor", "codes"),
    [
        pytest.param(Kind.OPEN, CHROME, 0, ELSEWHERE, 9e6, Visitor.PERSON, [], id="a person opens"),
        pytest.param(Kind.CLICK, CHROME, 0, ELSEWHERE, 9e6, Visitor.PERSON, [], id="a person clicks"),
        pytest.param(Kind.OPEN, CHROME, Trait.HEAD, ELSEWHERE, 9e6, Visitor.MACHINE, ["head"], id="HEAD"),
        pytest.param(Kind.OPEN, CHROME, Trait.PREFETCH, ELSEWHERE, 9e6, Visitor.MACHINE, ["prefetch"], id="prefetch"),
        pytest.param(Kind.OPEN, "", 0, ELSEWHERE, 9e6, Visitor.MACHINE, ["no-agent"], id="no user agent"),
        pytest.param(Kind.OPEN, "curl/8.5.0", 0, ELSEWHERE, 9e6, Visitor.MACHINE, ["robot"], id="a command"),
        pytest.param(Kind.OPEN, "Mozilla/5.0 (compatible; bingbot/2.0)", 0, ELSEWHERE, 9e6, Visitor.MACHINE, ["robot"], id="a robot"),
        pytest.param(Kind.OPEN, "Mozilla/5.0 (Linux; Android 9; CUBOT NOTE) Mobile", 0, ELSEWHERE, 9e6, Visitor.PERSON, [], id="a telephone of that name"),
        pytest.param(Kind.CLICK, "BarracudaCentral", 0, ELSEWHERE, 9e6, Visitor.MACHINE, ["scanner"], id="a scanner"),
        pytest.param(Kind.OPEN, "x (via ggpht.com GoogleImageProxy)", 0, GOOGLE, 9e6, Visitor.PROXY, ["google-proxy"], id="Gmail's proxy"),
        pytest.param(Kind.CLICK, "x (via ggpht.com GoogleImageProxy)", 0, GOOGLE, 9e6, Visitor.MACHINE, ["google-proxy"], id="nobody clicks through it"),
        pytest.param(Kind.OPEN, "YahooMailProxy; https://help.yahoo.com/", 0, ELSEWHERE, 9e6, Visitor.PROXY, ["yahoo-proxy"], id="Yahoo's proxy"),
        pytest.param(Kind.OPEN, "Mozilla/5.0", 0, ELSEWHERE, 9e6, Visitor.PROXY, ["apple-privacy"], id="Apple's privacy protection"),
        pytest.param(Kind.OPEN, "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0", 0, GOOGLE, 9e6, Visitor.MACHINE, ["gmail-prefetch"], id="Gmail before anybody opens"),
        pytest.param(Kind.OPEN, "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0", 0, ELSEWHERE, 9e6, Visitor.PERSON, [], id="an old Edge elsewhere"),
        pytest.param(Kind.OPEN, CHROME, 0, MICROSOFT, 9e6, Visitor.PERSON, [], id="Microsoft's network on a pixel"),
        pytest.param(Kind.CLICK, CHROME, 0, MICROSOFT, 9e6, Visitor.MACHINE, ["microsoft-network"], id="and on a click"),
        pytest.param(Kind.CLICK, CHROME, 0, ELSEWHERE, 4_999, Visitor.MACHINE, ["soon"], id="a click before delivery"),
        pytest.param(Kind.CLICK, CHROME, 0, ELSEWHERE, 5_000, Visitor.PERSON, [], id="and after"),
        pytest.param(Kind.OPEN, CHROME, 0, ELSEWHERE, 100, Visitor.PERSON, [], id="an open is not judged by that"),
        pytest.param(Kind.CLICK, CHROME, 0, ELSEWHERE, -9_000, Visitor.PERSON, [], id="a clock that is behind"),
    ],
)  # fmt: skip
def test_judgement(
    kind: Kind, text: str, traits: int, ip: str, age: float, visitor: Visitor, codes: list[str]
) -> None:
    """Who it was, and why."""
    signs = read_agent(text).signs
    found = judge(kind, signs, traits, ip, int(age), burst=False)
    assert (found[0], Reason(found[1]).codes) == (visitor, codes)


@pytest.mark.parametrize(
    ("link", "others", "expected"),
    [
        pytest.param(1, [(0, 1)], False, id="one click"),
        pytest.param(1, [(0, 1), (400, 1)], False, id="the same link twice"),
        pytest.param(1, [(0, 1), (1_000, 2)], True, id="two links within a second"),
        pytest.param(1, [(0, 1), (1_001, 2)], False, id="two links, not so fast"),
        pytest.param(1, [(0, 1), (2_000, 2), (5_000, 3)], True, id="three within five seconds"),
        pytest.param(1, [(0, 1), (2_000, 2), (5_001, 3)], False, id="three, not so fast"),
        pytest.param(0, [(0, 1), (100, 2)], False, id="an open beside two"),
        pytest.param(0, [(0, 1), (100, 2), (200, 3)], True, id="an open in a burst"),
    ],
)
def test_bursts(link: int, others: list[tuple[int, int]], expected: bool) -> None:
    """Several links of a copy at once."""
    clicks: dict[int, list[int]] = {}
    for at, other in others:
        clicks.setdefault(other, []).append(at)
    assert is_burst(0, link, clicks) is expected


class Looked(list[int]):
    """Times, and how often somebody looks at one."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        """Count."""
        Looked.looks += 1
        return super().__getitem__(place)


def test_a_storm_on_one_copy_keeps_nobody_busy() -> None:
    """Whoever has one mail can follow its links as often as they like: few are looked at."""
    clicks = {link: Looked(range(-10_000, 6_000)) for link in (1, 2)}
    assert is_burst(0, 0, clicks) is False
    assert is_burst(0, 1, clicks) is True
    assert 0 < Looked.looks < 200


def test_every_reason_has_words() -> None:
    """No code is unexplained."""
    assert set(REASON_WORDS) == set(Reason)


def test_networks_and_places() -> None:
    """Addresses that are none are from nowhere."""
    assert (network_of("2a01:111::1"), network_of("x"), network_of("")) == ("microsoft", "", "")
    places = Places()
    assert places.find("8.8.8.8") == ("US", "")
    assert places.find("193.0.6.139") == ("NL", "")
    assert [places.find(ip) for ip in ("", "127.0.0.1", "x")] == [("", "")] * 3


def test_a_database_of_ones_own(tmp_path: Path) -> None:
    """Country and region come from an MMDB, where it knows them."""
    writer = MMDBWriter(6, "GeoLite2-City", ipv4_compatible=True)
    city = {"country": {"iso_code": "DE"}, "subdivisions": [{"iso_code": "BY"}]}
    writer.insert_network(IPSet(["192.0.2.0/24"]), city)
    writer.insert_network(IPSet(["198.51.100.0/24"]), {"country": "FR", "region": "Bretagne"})
    file = str(tmp_path / "city.mmdb")
    writer.to_db_file(file)
    places = Places(file)
    assert places.find("192.0.2.1") == ("DE", "BY")
    assert places.find("198.51.100.1") == ("FR", "Bretagne")
    assert places.find("8.8.8.8") == ("US", "")


@pytest.mark.parametrize(
    ("forwarded_for", "forwarded", "expected"),
    [
        pytest.param("192.0.2.7", "", "192.0.2.7", id="one"),
        pytest.param("6.6.6.6, 192.0.2.7", "", "192.0.2.7", id="from the right"),
        pytest.param("6.6.6.6, 192.0.2.7, 10.1.1.1", "", "192.0.2.7", id="past trusted ones"),
        pytest.param("unknown", "", "10.0.0.9", id="unknown"),
        pytest.param("6.6.6.6, garbage, 10.1.1.1", "", "10.1.1.1", id="nothing behind nonsense"),
        pytest.param("192.0.2.7:4711", "", "192.0.2.7", id="with a port"),
        pytest.param("[2001:db8::1]:443", "", "2001:db8::1", id="IPv6 with a port"),
        pytest.param("2001:db8::1", "", "2001:db8::1", id="IPv6"),
        pytest.param("192.0.2.43", 'for="192.0.2.43:80"', "192.0.2.43", id="both say the same"),
        pytest.param("192.0.2.43", "for=6.6.6.6", "10.0.0.9", id="Forwarded is the client's own"),
        pytest.param("6.6.6.6", "for=192.0.2.43", "10.0.0.9", id="X-Forwarded-For is the client's own"),
        pytest.param("", 'for=6.6.6.6, For="[2001:db8::17]:80";proto=http;by=x', "2001:db8::17", id="Forwarded in full"),
        pytest.param("", "for=_hidden, for=10.1.1.1", "10.1.1.1", id="an obfuscated name"),
        pytest.param("", "proto=https", "10.0.0.9", id="Forwarded without a client"),
        pytest.param("", "", "10.0.0.9", id="none"),
        pytest.param("10.2.2.2, 10.1.1.1", "", "10.2.2.2", id="all trusted: the first"),
    ],
)  # fmt: skip
def test_clients_behind_proxies(forwarded_for: str, forwarded: str, expected: str) -> None:
    """The first address from the right that is no trusted proxy."""
    clients = Clients(networks_of(["10.0.0.0/8"]))
    assert clients.behind("10.0.0.9", forwarded_for, forwarded) == expected


def test_addresses_as_they_are_kept() -> None:
    """IPv4 in IPv6 is IPv4; cut to /24 and /48 if that is wanted."""
    whole, cut = Clients(()), Clients((), anonymize=True)
    addresses = ("::ffff:192.0.2.7", "192.0.2.7", "2001:db8:1:2::3", "fe80::1%eth0", "x")
    assert [whole.kept(a) for a in addresses] == [
        "192.0.2.7",
        "192.0.2.7",
        "2001:db8:1:2::3",
        "fe80::1",
        "",
    ]
    assert [cut.kept(a) for a in addresses] == [
        "192.0.2.0",
        "192.0.2.0",
        "2001:db8:1::",
        "fe80::",
        "",
    ]


def test_an_mmdb_that_may_not_be_read(tmp_path: Path) -> None:
    """It is not said to be something else."""
    file = tmp_path / "city.mmdb"
    file.touch(0)
    with as_nobody(), pytest.raises(NoPermission):
        Places(str(file))
