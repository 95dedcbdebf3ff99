"""Tokens: the part of a tracking URL that only we can write or read.  Format 1, for ever.

A click is `https://<trace domain>/<R>/<L>`, a pixel `https://<trace domain>/<R>`.

`R`, the recipient token, is sealed once per copy of a message.  Its plaintext::

    minted     4 octets, big endian: seconds since 1970-01-01T00:00:00Z
    sender     1 octet of length, then the sender domain
    message    1 octet of length, then the message label
    recipient  the rest; may be empty: the copy is counted and nobody is named

`L`, the link token, is sealed once per message.  Its plaintext::

    head       a varint (LEB128) of 4 * number + start;  number counts the wrapped
               links of the message from 0
    url        the destination after what `start` stands for:
               0 nothing, 1 "https://", 2 "http://", 3 "https://www."

All texts are UTF-8.  Either plaintext is sealed by AES-SIV (RFC 5297) under a key of
512 bits with one string of associated data: for `R` the trace domain and "R"; for `L`
the trace domain, "L", the sender domain and the message label, each parted from the
next by a NUL, which none of them holds.  So a token is good for one trace domain only,
the two kinds cannot be exchanged, and an `L` opens only beside an `R` of the same
message.  The trace domain is in lower case, without a port.  AES-SIV is deterministic:
the same inputs give the same token.

The sealed token is one octet in clear and what AES-SIV gives (16 octets of synthetic
initialisation vector, then the ciphertext)::

    octet      0x40 + (key id mod 64):  the two high bits are the format, 01

and is written in base64 (RFC 4648 §4) without padding, `+` as `_` and `/` as `~`.
Where the number of octets would be a multiple of three, one NUL is appended to the
plaintext (it belongs to no text, and is dropped when opened).  The last character
therefore carries unused zero bits and is always a letter or a digit, so that a URL at
the end of a sentence is not cut; and since neither `-` nor a quote nor `>` is in the
alphabet, a token may stand in an unquoted attribute and in a conditional comment.

A text that is not the canonical writing of its octets is refused like any forgery.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from sestrack.errors import BadInput, ForgedToken

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY_OCTETS = 64
MAX_TOKEN = 4096
"""Longest token text that is looked at, in characters; longer ones are not ours."""

MAX_TEXT = 255
"""Longest sender domain, message label or recipient, in octets of UTF-8."""

_FORMAT_1 = 0x40
_SLOTS = 64
_MAX_MINTED = 2**32 - 1
_TO_URL = bytes.maketrans(b"+/", b"_~")
_FROM_URL = bytes.maketrans(b"_~+/", b"+/!!")  # "!" is in no base64: `+` and `/` are not ours
_STARTS = (b"", b"https://", b"http://", b"https://www.")
_MORE = 0x80


class Key(NamedTuple):
    """One sealing key.  `id` counts from 1 and is never used again."""

    id: int
    mark: bytes
    """The octet in clear."""
    cipher: AESSIV

    @classmethod
    def from_secret(cls, key_id: int, secret: bytes) -> Key:
        """Make the cipher for a secret of 64 octets."""
        return cls(key_id, bytes((_FORMAT_1 + key_id % _SLOTS,)), AESSIV(secret))


class Copy(NamedTuple):
    """What an `R` says: one copy of a message, made for one recipient."""

    sender: str
    message: str
    recipient: str
    minted: int


class Link(NamedTuple):
    """What an `L` says: one link of a message."""

    number: int
    url: str


def seal_copy(key: Key, trace_domain: str, copy: Copy) -> bytes:
    """Seal `R`.

    Raises `BadInput` for a text that is too long or has control characters, or a time
    before 1970 or after 2106-02-07.
    """
    plain = _copy_head(copy) + check_text("recipient", copy.recipient)
    return _seal(key, plain, _copy_data(trace_domain))


def _copy_head(copy: Copy) -> bytes:
    if not 0 <= copy.minted <= _MAX_MINTED:
        msg = f"the minting time {copy.minted} is not between 1970 and 2106"
        raise BadInput(msg, "--at takes a time like 2026-06-01T08:00:00Z")
    sender = check_text("sender domain", copy.sender)
    message = check_text("message label", copy.message)
    if not message:
        msg = "the message label is empty"
        raise BadInput(msg, _OPTIONS["message label"])
    minted = copy.minted.to_bytes(4, "big")
    return b"".join((minted, bytes((len(sender),)), sender, bytes((len(message),)), message))


class CopySealer(NamedTuple):
    """Seals the `R` of many copies of one message, made in the same second."""

    key: Key
    associated: list[bytes]
    head: bytes
    """What comes before the recipient."""

    @classmethod
    def of(cls, key: Key, trace_domain: str, sender: str, message: str, minted: int) -> CopySealer:
        """Take what all copies share.  Raises `BadInput` as `seal_copy` does."""
        head = _copy_head(Copy(sender, message, "", minted))
        return cls(key, _copy_data(trace_domain), head)

    def seal(self, recipient: bytes) -> bytes:
        """Seal `R` for a recipient that `check_text` has passed."""
        return _seal(self.key, self.head + recipient, self.associated)


def longest_copy(sender: str, message: str) -> int:
    """Return how many characters an `R` of this message has, at most."""
    octets = 1 + 16 + 4 + 2 + len(sender.encode()) + len(message.encode()) + MAX_TEXT + 1
    return -(-octets * 4 // 3)


def open_copy(keys: Iterable[Key], trace_domain: str, token: bytes) -> Copy:
    """Open `R`.  Raises `ForgedToken` if no key sealed it for this trace domain."""
    head, recipient, minted = CopyOpener(keys, trace_domain).open(token)
    return Copy(*senders_part(head), recipient, minted)


class CopyOpener:
    """Opens the `R` of one trace domain, many of them, leaving the names in bytes."""

    __slots__ = ("_associated", "_decrypt", "_keys")

    def __init__(self, keys: Iterable[Key], trace_domain: str) -> None:
        """Take all keys that may have sealed, the one that seals first."""
        self._keys = tuple(keys)
        self._associated = _copy_data(trace_domain)
        # of two keys with the same octet in clear, the one that comes first is tried first
        self._decrypt = {key.mark[0]: key.cipher.decrypt for key in reversed(self._keys)}

    def open(self, token: bytes) -> tuple[bytes, str, int]:
        """Return the part that `senders_part` reads, the recipient, and the minting time.

        The first is the same for all copies of a message.  Raises `ForgedToken`.
        """
        length = len(token)
        if token[-1:] in _LAST[length & 3] and length <= MAX_TOKEN:
            # what `_open` does, without its calls: this is run for every open and every click
            try:
                octets = a2b_base64(
                    token.translate(_FROM_URL) + _PADDING[length & 3], strict_mode=True
                )
                plain = self._decrypt[octets[0]](octets[1:], self._associated)
            except (Base64Error, KeyError, InvalidTag):
                plain, _ = _open(self._keys, token, self._associated)
        else:
            raise ForgedToken(_FORGED)
        sender_end = 5 + plain[4]
        message_end = sender_end + 1 + plain[sender_end]
        recipient = plain[message_end:]
        if recipient[-1:] == b"\0":
            recipient = recipient[:-1]
        return plain[4:message_end], recipient.decode(), int.from_bytes(plain[:4], "big")


def senders_part(head: bytes) -> tuple[str, str]:
    """Read the sender domain and the message label."""
    sender_end = 1 + head[0]
    return head[1:sender_end].decode(), head[sender_end + 1 :].decode()


class LinkSealer(NamedTuple):
    """Seals the links of one message under one trace domain."""

    key: Key
    associated: list[bytes]
    """The one string of associated data, as AES-SIV takes it."""

    @classmethod
    def of(cls, key: Key, trace_domain: str, sender: str, message: str) -> LinkSealer:
        """Bind to a message: its `L` will open beside no other message's `R`."""
        return cls(key, _link_data(trace_domain, sender, message))

    def seal(self, number: int, url: str) -> bytes:
        """Seal `L` for the wrapped link `number` of the message, from 0."""
        octets = url.encode("utf-8", "surrogatepass")
        start = 0
        if octets.startswith(b"https://"):
            start = 3 if octets.startswith(b"https://www.") else 1
        elif octets.startswith(b"http://"):
            start = 2
        head = 4 * number + start
        plain = bytes((head,)) if head < _MORE else _varint(head)
        return _seal(self.key, plain + octets[len(_STARTS[start]) :], self.associated)


def open_link(keys: Iterable[Key], trace_domain: str, copy: Copy, token: bytes) -> Link:
    """Open `L` beside its opened `R`.

    Raises `ForgedToken` if no key sealed it for this trace domain and message.
    """
    plain, _ = _open(keys, token, _link_data(trace_domain, copy.sender, copy.message))
    head = shift = position = 0
    while True:
        octet = plain[position]
        head |= (octet & ~_MORE) << shift
        position += 1
        shift += 7
        if octet < _MORE:
            break
    url = _STARTS[head % 4] + plain[position:]
    return Link(head // 4, url.decode("utf-8", "surrogatepass"))


def check_text(name: str, text: str) -> bytes:
    """Encode a text for sealing.

    Raises `BadInput` if it is longer than 255 octets or holds control characters.
    """
    try:
        octets = text.encode()
    except UnicodeEncodeError:
        msg = f"the {name} {text!r} is not valid UTF-8"
        raise BadInput(msg, _OPTIONS.get(name, "")) from None
    if len(octets) > MAX_TEXT:
        msg = f"the {name} {text[:40]!r}… has {len(octets)} octets; at most {MAX_TEXT} fit a URL"
        raise BadInput(msg, _OPTIONS.get(name, ""))
    # the first test is quick, and passes almost all
    if not text.isprintable() and any(c < " " or c == "\x7f" for c in text):
        msg = f"the {name} {text!r} has a control character"
        raise BadInput(msg, _OPTIONS.get(name, ""))
    return octets


_OPTIONS = {"recipient": "--recipient ID", "message label": "--message june"}
"""How what is sealed is told."""


def _copy_data(trace_domain: str) -> list[bytes]:
    return [f"{trace_domain}\0R".encode()]


def _link_data(trace_domain: str, sender: str, message: str) -> list[bytes]:
    return [f"{trace_domain}\0L\0{sender}\0{message}".encode()]


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number >= _MORE:
        octets.append(number % _MORE | _MORE)
        number //= _MORE
    octets.append(number)
    return bytes(octets)


def _seal(key: Key, plain: bytes, associated: list[bytes]) -> bytes:
    # 1 octet in clear and 16 of SIV: 17 + n must not be a multiple of 3
    if len(plain) % 3 == 1:
        plain += b"\0"
    octets = key.mark + key.cipher.encrypt(plain, associated)
    return b2a_base64(octets, newline=False).translate(_TO_URL, b"=")


def _open(keys: Iterable[Key], token: bytes, associated: list[bytes]) -> tuple[bytes, Key]:
    octets = _octets(token)
    for key in keys:
        if not octets.startswith(key.mark):
            continue
        try:
            plain = key.cipher.decrypt(octets[1:], associated)
        except InvalidTag:
            continue
        return plain.removesuffix(b"\0"), key
    raise ForgedToken(_FORGED)


def _octets(token: bytes) -> bytes:
    """Read base64, its canonical writing only: no other text means the same octets."""
    length = len(token)
    if length > MAX_TOKEN or token[-1:] not in _LAST[length & 3]:
        raise ForgedToken(_FORGED)
    try:
        octets = a2b_base64(token.translate(_FROM_URL) + _PADDING[length & 3], strict_mode=True)
    except Base64Error:
        raise ForgedToken(_FORGED) from None
    if len(octets) <= 1 + 16:
        raise ForgedToken(_FORGED)
    return octets


# by the length of the token mod 4: what pads it, and the last characters whose unused bits are zero
_PADDING = (b"", b"", b"==", b"=")
_ALL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_~"
_LAST = (
    frozenset[bytes](),
    frozenset[bytes](),
    frozenset(_ALL[n : n + 1] for n in range(0, 64, 16)),
    frozenset(_ALL[n : n + 1] for n in range(0, 64, 4)),
)
_FORGED = "not a token that one of these keys sealed for this trace domain and message"
