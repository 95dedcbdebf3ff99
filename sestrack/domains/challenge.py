"""The challenge that tells whether an HTTPS server is ours: what is asked, what is answered.

`GET /.well-known/sestrack/<nonce>` (RFC 8615) is answered with one line of text,
`sestrack proof <host> <nonce> <HMAC-SHA256 over both, in hex>`.  The nonce is fresh, so an
answer from a cache shows; the host is as it arrived, so a front end that rewrites the Host
header shows; the HMAC is under a sealing key, so nobody else can make it.
"""

from __future__ import annotations

import hmac
import re
import secrets
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PATH = "/.well-known/sestrack/"
NOT_OURS = "This link is not one of ours."
"""What our server says of any URL that it did not make."""

_NONCE_OCTETS = 24
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
_HOST = re.compile(r"[a-z0-9._-]{1,253}")
_ANSWER = re.compile(r"sestrack proof (\S+) (\S+) ([0-9a-f]{64})")


class Answered(StrEnum):
    """What an answer to the challenge shows."""

    OURS = "ours"
    OTHER_HOST = "other-host"
    OTHER_NONCE = "other-nonce"
    OTHER_KEYS = "other-keys"
    NOT_FOUND = "not-found"
    """Our server answers, but the request that reached it was another."""
    FOREIGN = "foreign"


def new_nonce() -> str:
    """Make a nonce of 24 random octets, in base64url."""
    return secrets.token_urlsafe(_NONCE_OCTETS)


def answer(secret: bytes, host: str, nonce: str) -> str | None:
    """Answer a nonce that was asked at a host; None for what no prober of ours asks."""
    if not _NONCE.fullmatch(nonce) or not _HOST.fullmatch(host):
        return None
    return f"sestrack proof {host} {nonce} {_proof(secret, host, nonce)}\n"


def read(body: bytes, host: str, nonce: str, keys: Iterable[bytes]) -> tuple[Answered, str]:
    """Read an answer; return what it shows, and the host that our server was asked for."""
    text = body.decode("latin-1").strip()
    found = _ANSWER.fullmatch(text)
    if found is None:
        return (Answered.NOT_FOUND if text == NOT_OURS else Answered.FOREIGN), ""
    said_host, said_nonce, proof = found.groups()
    if not any(hmac.compare_digest(proof, _proof(key, said_host, said_nonce)) for key in keys):
        return Answered.OTHER_KEYS, said_host
    if said_nonce != nonce:
        return Answered.OTHER_NONCE, said_host
    return (Answered.OURS if said_host == host else Answered.OTHER_HOST), said_host


def _proof(secret: bytes, host: str, nonce: str) -> str:
    return hmac.digest(secret, f"sestrack proof\0{host}\0{nonce}".encode(), "sha256").hex()
