"""Who a visit was: the program and the machine it ran on, a person or a machine, and why.

Pure: the same facts give the same judgement.  `RULES` is the version of these rules; it is
kept with every judgement, and told with it.  `sestrack events reclassify` judges all again.

A visitor is a *person*, a *proxy* (a mail service fetched the images: mostly because somebody
opened the mail, or, with Apple, whether or not) or a *machine*.  Nothing is dropped: machines
and proxies are counted apart.  A sign that says nothing on a pixel may say much on a click:
whole companies open their mail from Microsoft's network, but hardly anybody clicks from it,
while its link scanner does.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from enum import IntEnum, IntFlag
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from sestrack.tracker.events import Kind, Trait

if TYPE_CHECKING:
    from collections.abc import Mapping

RULES = 1

SOON_SECONDS = 5
"""A click this soon after the copy was made is a scanner's: nobody has the mail yet."""
BURST_MS = 5_000
BURST_LINKS = 3
"""So many different links of one copy within `BURST_MS` are followed by a machine."""
PAIR_MS = 1_000
"""And two within this."""


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula (OWASP, CSV Injection)."""


class Visitor(IntEnum):
    """Who it was."""

    PERSON = 0
    PROXY = 1
    MACHINE = 2


class Reason(IntFlag):
    """Why it is not, or not surely, a person."""

    HEAD = 1
    PREFETCH = 2
    NO_AGENT = 4
    ROBOT = 8
    SCANNER = 16
    GOOGLE_PROXY = 32
    YAHOO_PROXY = 64
    OUTLOOK_PROXY = 128
    OTHER_PROXY = 256
    APPLE_PRIVACY = 512
    GMAIL_PREFETCH = 1024
    MICROSOFT_NETWORK = 2048
    BURST = 4096
    SOON = 8192

    @property
    def codes(self) -> list[str]:
        """The codes, as they are printed: `google-proxy`."""
        return [(reason.name or "").lower().replace("_", "-") for reason in self]


REASON_WORDS = {
    Reason.HEAD: "asked with HEAD, as no reader's program does",
    Reason.PREFETCH: "says that nobody asked for it yet",
    Reason.NO_AGENT: "does not say what program it is",
    Reason.ROBOT: "calls itself a robot, a library or a command",
    Reason.SCANNER: "calls itself a known mail scanner",
    Reason.GOOGLE_PROXY: "Gmail's image proxy: somebody opened the mail",
    Reason.YAHOO_PROXY: "Yahoo's image proxy",
    Reason.OUTLOOK_PROXY: "Outlook's image proxy",
    Reason.OTHER_PROXY: "another image proxy",
    Reason.APPLE_PRIVACY: "Apple's privacy protection: fetched whether or not anybody reads",
    Reason.GMAIL_PREFETCH: "Gmail fetched it before anybody opened the mail",
    Reason.MICROSOFT_NETWORK: "a click from Microsoft's network, where Safe Links follows links",
    Reason.BURST: "followed several links of one copy at once",
    Reason.SOON: f"clicked within {SOON_SECONDS} seconds of the copy being made",
}

_MACHINE = (
    Reason.HEAD | Reason.PREFETCH | Reason.NO_AGENT | Reason.ROBOT | Reason.SCANNER
    | Reason.GMAIL_PREFETCH | Reason.MICROSOFT_NETWORK | Reason.BURST | Reason.SOON
)  # fmt: skip
_PROXY = (
    Reason.GOOGLE_PROXY | Reason.YAHOO_PROXY | Reason.OUTLOOK_PROXY | Reason.OTHER_PROXY
    | Reason.APPLE_PRIVACY
)  # fmt: skip


class Agent(NamedTuple):
    """What a user agent says."""

    device: str
    """desktop, mobile, tablet or other."""
    client: str
    system: str
    signs: int
    """A `Reason`."""


_SIGNS = (
    (Reason.GOOGLE_PROXY, re.compile(r"GoogleImageProxy|ggpht\.com", re.IGNORECASE)),
    (Reason.YAHOO_PROXY, re.compile(r"YahooMailProxy", re.IGNORECASE)),
    (Reason.OUTLOOK_PROXY, re.compile(r"Outlook\S*Proxy|OWA\S*Proxy", re.IGNORECASE)),
    (Reason.OTHER_PROXY, re.compile(r"image[-_ ]?proxy|mail[-_ ]?proxy|camo[ /]", re.IGNORECASE)),
    (
        Reason.SCANNER,
        re.compile(
            r"barracuda|mimecast|proofpoint|symantec|messagelabs|trend ?micro|fireeye|trellix"
            r"|sophos|cloudmark|ironport|zscaler|forcepoint|cyren|vade ?secure|avanan|spamexpert"
            r"|mailguard|safelinks|url ?scan|virustotal|phish",
            re.IGNORECASE,
        ),
    ),
    (
        Reason.ROBOT,
        re.compile(
            r"(?<!cu)bot\b|bot[/;_-]|crawl|spider|slurp|^curl|wget|python|^java/|okhttp|go-http"
            r"|libwww|http-?client|headless|phantomjs|selenium|puppeteer|playwright|axios"
            r"|node-fetch|undici|guzzle|ruby|perl/|facebookexternalhit|whatsapp|slack|telegram"
            r"|discord|link ?preview|monitor|uptime|scrapy|feedfetcher|wrk|apachebench",
            re.IGNORECASE,
        ),
    ),
)
_GMAIL_PREFETCH = re.compile(r"Chrome/42\.0\.2311\.135 Safari/537\.36 Edge/12\.246")
_DESKTOPS = {
    "Windows", "Mac OS X", "Linux", "Ubuntu", "Fedora", "Debian", "Chrome OS", "FreeBSD", "OpenBSD",
    "Red Hat", "Mac OS", "NetBSD",
}  # fmt: skip


def read_agent(text: str) -> Agent:
    """Say what a user agent is.  Takes some 10 µs; it is asked once for each distinct text."""
    signs = 0
    if not text.strip():
        return Agent("other", "", "", int(Reason.NO_AGENT))
    if text.strip() == "Mozilla/5.0":
        return Agent("other", "Apple Mail", "", int(Reason.APPLE_PRIVACY))
    for sign, pattern in _SIGNS:
        if pattern.search(text):
            signs |= int(sign)
            break
    if _GMAIL_PREFETCH.search(text):
        signs |= _GMAIL
    from ua_parser import parse  # loads for a tenth of a second: only who judges pays

    found = parse(text)
    # some are named as they name themselves, and names go into tables that spreadsheets open
    client = (found.user_agent.family if found.user_agent else "").lstrip("".join(FORMULA))
    system = (found.os.family if found.os else "").lstrip("".join(FORMULA))
    model = f"{found.device.family} {found.device.model}" if found.device else ""
    if signs & _PROXY_SIGNS:
        # what it says of system and device is the proxy's, not the reader's
        return Agent(
            "other", client.removesuffix("ImageProxy").removesuffix("MailProxy"), "", signs
        )
    return Agent(_device(text, system, model), client, system, signs)


def _device(text: str, system: str, model: str) -> str:
    if "iPad" in model or "Tablet" in model or "Kindle" in model:
        return "tablet"
    if system == "Android":
        # Android's browsers say `Mobile` on telephones only
        return "mobile" if "Mobile" in text or "Dalvik" in text else "tablet"
    if system in {"iOS", "Windows Phone", "KaiOS", "BlackBerry OS", "Symbian OS"}:
        return "mobile"
    return "desktop" if system in _DESKTOPS else "other"


# members of an enum are slow to get at and to combine in Python 3.11, and every event is judged
_PERSON, _BY_PROXY, _BY_MACHINE = map(int, Visitor)
_MACHINE_SIGNS, _PROXY_SIGNS, _GMAIL = int(_MACHINE), int(_PROXY), int(Reason.GMAIL_PREFETCH)
_HEAD, _PREFETCH, _BURST = int(Reason.HEAD), int(Reason.PREFETCH), int(Reason.BURST)
_SOON, _MICROSOFT = int(Reason.SOON), int(Reason.MICROSOFT_NETWORK)
_BY_HEAD, _PREFETCHED, _CLICK = int(Trait.HEAD), int(Trait.PREFETCH), int(Kind.CLICK)


def judge(  # noqa: PLR0913 - one for each fact
    kind: int, signs: int, traits: int, ip: str, age_ms: int, *, burst: bool
) -> tuple[int, int]:
    """Say who it was (a `Visitor`), and why (a `Reason`).

    `age_ms` is counted from the second the copy was made in.
    """
    reasons = signs
    if signs & _GMAIL and network_of(ip) != "google":
        reasons &= ~_GMAIL
    if traits:
        if traits & _BY_HEAD:
            reasons |= _HEAD
        if traits & _PREFETCHED:
            reasons |= _PREFETCH
    if burst:
        reasons |= _BURST
    if kind == _CLICK:
        if 0 <= age_ms < SOON_SECONDS * 1000:
            reasons |= _SOON
        if network_of(ip) == "microsoft":
            reasons |= _MICROSOFT
        # nobody clicks through an image proxy
        return (_BY_MACHINE if reasons else _PERSON), reasons
    if reasons & _MACHINE_SIGNS:
        return _BY_MACHINE, reasons
    return (_BY_PROXY if reasons & _PROXY_SIGNS else _PERSON), reasons


def is_burst(at: int, link: int, clicks: Mapping[int, list[int]]) -> bool:
    """Was this click one of several at once?  `clicks` are those of the same copy, by link.

    Their times are in order, so that whoever follows a link thousands of times a second keeps
    nobody busy.  For an open `link` is 0: it goes with the burst it stands in.
    """
    near = int(link > 0)
    for other, times in clicks.items():
        if other == link or not _has_near(times, at, BURST_MS):
            continue
        near += 1
        if near >= BURST_LINKS or (link and _has_near(times, at, PAIR_MS)):
            return True
    return False


def _has_near(times: list[int], at: int, within: int) -> bool:
    place = bisect_left(times, at - within)
    return place < len(times) and times[place] <= at + within


# Allocations of the regional registries to the two whose network says something.
_NETWORKS = {
    "microsoft": (
        "13.64.0.0/11 13.96.0.0/13 13.104.0.0/14 20.33.0.0/16 20.34.0.0/15 20.36.0.0/14 "
        "20.40.0.0/13 20.48.0.0/12 20.64.0.0/10 20.128.0.0/16 20.160.0.0/12 20.176.0.0/14 "
        "20.184.0.0/13 20.192.0.0/10 23.96.0.0/13 40.64.0.0/10 51.104.0.0/15 51.116.0.0/16 "
        "51.120.0.0/16 51.124.0.0/16 51.132.0.0/16 51.136.0.0/15 51.138.0.0/16 51.140.0.0/14 "
        "51.144.0.0/15 52.96.0.0/12 52.112.0.0/14 52.120.0.0/14 52.132.0.0/14 52.136.0.0/13 "
        "52.146.0.0/15 52.148.0.0/14 52.152.0.0/13 52.160.0.0/11 52.224.0.0/11 65.52.0.0/14 "
        "70.37.0.0/17 94.245.64.0/18 104.40.0.0/13 104.146.0.0/15 104.208.0.0/13 "
        "134.170.0.0/16 137.116.0.0/15 137.135.0.0/16 138.91.0.0/16 157.54.0.0/15 "
        "157.56.0.0/14 168.61.0.0/16 168.62.0.0/15 191.232.0.0/13 207.46.0.0/16 "
        "2603:1000::/24 2620:1ec::/36 2a01:111::/32"
    ),
    "google": (
        "64.233.160.0/19 66.102.0.0/20 66.249.64.0/19 72.14.192.0/18 74.125.0.0/16 "
        "108.177.0.0/17 142.250.0.0/15 172.217.0.0/16 172.253.0.0/16 173.194.0.0/16 "
        "192.178.0.0/15 209.85.128.0/17 216.58.192.0/19 216.239.32.0/19 2001:4860::/32 "
        "2404:6800::/32 2607:f8b0::/32 2800:3f0::/32 2a00:1450::/32 2c0f:fb50::/32"
    ),
}
_BY_VERSION = {
    version: [
        (int(network.network_address), int(network.broadcast_address), name)
        for name, texts in _NETWORKS.items()
        for network in map(ip_network, texts.split())
        if network.version == version
    ]
    for version in (4, 6)
}


@lru_cache(65_536)
def network_of(ip: str) -> str:
    """Return `microsoft`, `google` or ""."""
    try:
        address = ip_address(ip)
    except ValueError:
        return ""
    number = int(address)
    for first, last, name in _BY_VERSION[address.version]:
        if first <= number <= last:
            return name
    return ""
