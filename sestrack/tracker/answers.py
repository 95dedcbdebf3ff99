"""What a request is answered, and what is recorded of it.  Pure but for its caches.

A URL that we made is answered whatever has become of settings, trace domains, messages and
records since: only a key must be left.  Any other URL is answered 404 and leads nowhere.
What mail gateways do to a URL on its way is undone before it is given up: a query added,
`~` and `_` percent-encoded (RFC 3986 §2.3 calls that the same URL), punctuation of the
sentence around it taken along.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

from sestrack.domains import challenge
from sestrack.errors import ForgedToken
from sestrack.rules import effective
from sestrack.tokens import MAX_TOKEN, Copy, CopyOpener, Key, open_link, senders_part
from sestrack.tracker.events import Kind, Origin, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sestrack.model import Settings

GIF = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00"
    b"!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
"""One transparent pixel, 43 octets."""

# `no-store` alone lets every open through the caches that were tried; the others are for
# those that were not.  A redirect must not tell the destination where the reader read.
_PRIVATE = (
    b"Cache-Control: no-store, no-cache, must-revalidate, private\r\n"
    b"Referrer-Policy: no-referrer\r\n"
    b"X-Robots-Tag: noindex\r\n"
)
_CACHED = 65_536
"""Messages and links that are kept opened."""
_MAX_HOST = 264
"""Longest host that is looked at: a name, its dot, a port.  Hosts are kept as they came."""
_ROUNDS = 4
"""How often a target may be undone: absolute form, query and twice percent-encoded."""

_PROOF_PATH = challenge.PATH.encode()
_OVERLINE = "\u203e".encode()
"""What programs read for `~` behind `ESC ( J` of ISO-2022-JP."""
_BEHIND = b"/.,;:!?)]}>'\"*\\_`|~"
"""What a sentence or its marks may have put behind a URL: no token ends in it."""


class Answer(NamedTuple):
    """A response but for its status line and date."""

    status: bytes
    """The status line, with its end."""
    tail: bytes
    """From the first header to the body."""
    head: bytes
    """The same without the body: for HEAD."""


Found = tuple[Answer, Target | None, str, int]
"""An answer, and what to record with it: the target (None: nothing), recipient, minting time."""


class _Message:
    """A message that was seen: its pixel, its links, and what of it is recorded now."""

    __slots__ = ("click", "links", "origin", "pixel")

    def __init__(self, origin: Origin, *, click: bool, opens: bool) -> None:
        self.origin = origin
        self.click = click
        self.pixel = Target(Kind.OPEN, origin) if opens else None
        self.links: dict[bytes, tuple[Answer, Target | None]] = {}


class _Host:
    """A trace domain that was seen, as clients write it."""

    __slots__ = ("messages", "name", "open")

    def __init__(self, host: bytes, keys: Sequence[Key]) -> None:
        if len(host) > _MAX_HOST:
            msg = "no host of ours is so long"
            raise ForgedToken(msg)
        self.name = _name(host.lower())
        self.open = CopyOpener(keys, self.name).open
        self.messages: dict[bytes, _Message] = {}


def _answer(status: bytes, body: bytes, kind: bytes, extra: bytes = b"") -> Answer:
    head = b"Content-Type: %s\r\nContent-Length: %d\r\n%s%s\r\n" % (
        kind, len(body), extra, _PRIVATE,
    )  # fmt: skip
    return Answer(_line(status), head + body, head)


def _line(status: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\n" % status


_FOUND = _line(b"302 Found")
_TEXT = b"text/plain; charset=utf-8"
PIXEL = _answer(b"200 OK", GIF, b"image/gif")
NO_PIXEL = _answer(b"404 Not Found", GIF, b"image/gif")
NO_LINK = _answer(b"404 Not Found", challenge.NOT_OURS.encode() + b"\n", _TEXT)
HEALTHY = _answer(b"200 OK", b"ok\n", _TEXT)
BAD_REQUEST = _answer(b"400 Bad Request", b"", _TEXT)
TOO_SLOW = _answer(b"408 Request Timeout", b"", _TEXT)
NOT_ALLOWED = _answer(b"405 Method Not Allowed", b"", _TEXT, b"Allow: GET, HEAD\r\n")
TOO_LARGE = _answer(b"431 Request Header Fields Too Large", b"", _TEXT)
BROKEN = _answer(b"500 Internal Server Error", b"", _TEXT)


class Answers:
    """What there is to answer with: the keys, and what the settings say to record."""

    def __init__(self, secrets: Sequence[tuple[int, bytes]], settings: Settings | None) -> None:
        """Take keys as id and secret, the one that seals first.

        Without settings, for they cannot be read, everything is recorded.
        """
        self._keys = [Key.from_secret(key, secret) for key, secret in secrets]
        self._secrets = secrets
        self._settings = settings
        self._hosts: dict[bytes, _Host] = {}
        self._cached = 0

    def anew(self) -> Answers:
        """Return the same with nothing in mind."""
        return Answers(self._secrets, self._settings)

    def find(self, host: bytes, target: bytes, rounds: int = _ROUNDS) -> Found:
        """Answer a request for `target` (RFC 9112 §3.2) at `host`, which may have a port."""
        token, slash, link = target[1:].partition(b"/")
        try:
            site = self._hosts.get(host) or _Host(host, self._keys)
            head, recipient, minted = site.open(token)
            message = site.messages.get(head) or self._get_to_know(host, site, head)
            if not slash:
                return PIXEL, message.pixel, recipient, minted
            answer, hit = message.links.get(link) or self._open_link(site, message, link)
        except ForgedToken:
            return self._find_again(host, target, rounds)
        return answer, hit, recipient, minted

    def _find_again(self, host: bytes, target: bytes, rounds: int) -> Found:
        path = target.partition(b"?")[0].partition(b"#")[0]
        if not path.startswith(b"/"):
            host, path = _absolute(target) or (host, b"/")
        if path == b"/healthz":
            return HEALTHY, None, "", 0
        if path.startswith(_PROOF_PATH):
            return self._prove(host, path.removeprefix(_PROOF_PATH)), None, "", 0
        if b"%" in path or path[-1:] in _BEHIND:
            path = unquote_to_bytes(path[: 2 * MAX_TOKEN]).rstrip(_BEHIND)
            path = path.replace(_OVERLINE, b"~")
        if path != target and rounds:  # `%25252525…` would go on for ever
            return self.find(host, path, rounds - 1)
        return NO_LINK if b"/" in path[1:] else NO_PIXEL, None, "", 0

    def _get_to_know(self, host: bytes, site: _Host, head: bytes) -> _Message:
        """Keep a message that was met for the first time; all of them are forgotten at times."""
        origin = Origin(*senders_part(head), site.name)
        click = opens = True
        if self._settings is not None:
            entry = effective(self._settings, origin.sender).entry
            click, opens = (entry.click, entry.open) if entry else (False, False)
        message = _Message(origin, click=click, opens=opens)
        self._make_room()
        self._hosts[host] = site
        site.messages[head] = message
        return message

    def _open_link(
        self, site: _Host, message: _Message, link: bytes
    ) -> tuple[Answer, Target | None]:
        origin = message.origin
        copy = Copy(origin.sender, origin.message, "", 0)
        number, url = open_link(self._keys, site.name, copy, link)
        text = url.encode("utf-8", "replace").decode()
        target = Target(Kind.CLICK, origin, number, text) if message.click else None
        self._make_room()
        message.links[link] = found = _redirect(url), target
        return found

    def _make_room(self) -> None:
        self._cached += 1
        if self._cached > _CACHED:
            self._cached = 0
            self._hosts.clear()

    def _prove(self, host: bytes, nonce: bytes) -> Answer:
        if not self._secrets:
            return NO_LINK
        name, asked = _name(host.lower()), nonce.decode("latin-1")
        said = challenge.answer(self._secrets[0][1], name, asked)
        return _answer(b"200 OK", said.encode(), _TEXT) if said else NO_LINK


def location_of(url: str) -> bytes:
    """Write a destination as a Location header takes it: ASCII, and on one line.

    What a browser would make of it is left to nobody: tabs and ends of lines are dropped,
    as the URL standard drops them, the host is written in its A-labels, the rest that is
    not printable ASCII is percent-encoded UTF-8 (RFC 3987 §3.1).
    """
    octets = url.translate(_DROPPED).encode("utf-8", "surrogatepass")
    if octets.isascii() and not _UNPRINTABLE.search(octets):
        return octets
    start, slashes, rest = octets.partition(b"//")
    end = re.search(rb"[/\\?#]|$", rest)
    authority = rest[: end.start()] if end else rest
    rest = rest[len(authority) :]
    user, at, host = authority.rpartition(b"@")
    if not host.isascii():
        host = _a_labels(host)
    octets = start + slashes + user + at + host + rest
    return _UNPRINTABLE.sub(lambda match: b"%%%02X" % match[0][0], octets)


_DROPPED = dict.fromkeys(map(ord, "\t\r\n"))
_UNPRINTABLE = re.compile(rb"[^\x21-\x7e]")


def _a_labels(host: bytes) -> bytes:
    import idna  # seldom needed, and its tables are large

    name, colon, port = host.partition(b":")
    try:
        return idna.encode(name.decode(), uts46=True) + colon + port
    except (idna.IDNAError, UnicodeDecodeError):
        return host


def _redirect(url: str) -> Answer:
    head = b"Location: %s\r\nContent-Length: 0\r\n%s\r\n" % (location_of(url), _PRIVATE)
    return Answer(_FOUND, head, head)


def _name(host: bytes) -> str:
    """Take the port off a Host header (RFC 9110 §7.2); brackets hold no name of ours."""
    return host.partition(b":")[0].removesuffix(b".").decode("latin-1")


def _absolute(target: bytes) -> tuple[bytes, bytes] | None:
    """Split a target in absolute form (RFC 9112 §3.2.2)."""
    scheme, _, rest = target.partition(b"://")
    if scheme.lower() not in {b"http", b"https"}:
        return None
    host, _, path = rest.partition(b"?")[0].partition(b"/")
    return host, b"/" + path
