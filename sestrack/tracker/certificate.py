"""The certificate of a server that does TLS itself: read, and read again when it was renewed."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from contextlib import contextmanager, suppress
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from sestrack import files, output
from sestrack.errors import BadInput, SestrackError

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[bytes, bytes]
"""A certificate, with its chain, and its private key: PEM (RFC 7468)."""

RENEW_SECONDS = 2.0
_NONE = "none"
"""The passphrase that is tried: a key that has one cannot be used."""
_IN_MEMORY = os.path.isdir("/proc/self/fd")
_CERTIFICATE, _KEY = b"CERTIFICATE-----", b"PRIVATE KEY-----"


def tls_context(cert: str, key: str) -> ssl.SSLContext | None:
    """Load the certificate; None where there is none.  Raises as `read_pair`."""
    return context_of(read_pair(cert, key)) if cert else None


def context_of(pair: Pair) -> ssl.SSLContext:
    """Make a context of a certificate and its key that fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, pair)
    return context


def read_pair(cert: str, key: str) -> Pair:
    """Read a certificate and its key, and see that they can be used.

    Raises `BadInput`, and what `files.read` does of either file.
    """
    chain, secret = files.read(cert), files.read(key)
    if _KEY in chain and _CERTIFICATE in secret and _CERTIFICATE not in chain:
        msg = f"{cert} is a private key, and {key} a certificate: the two are swapped"
        raise BadInput(msg, f"--tls-cert {files.typed(key)} --tls-key {files.typed(cert)}")
    if _CERTIFICATE not in chain:
        msg = f"{cert} holds no certificate in PEM, the form that begins -----BEGIN CERTIFICATE"
        raise BadInput(msg, f"head -n 1 {files.typed(cert)}")
    if _KEY not in secret:
        msg = f"{key} holds no private key in PEM, the form that begins -----BEGIN PRIVATE KEY"
        raise BadInput(msg, f"head -n 1 {files.typed(key)}")
    if b"BEGIN ENCRYPTED" in secret or b"4,ENCRYPTED" in secret:
        msg = f"the private key {key} is locked by a passphrase, which nobody is there to type"
        raise BadInput(msg, f"openssl pkey -in {files.typed(key)} -out unlocked.pem")
    try:
        context_of((chain, secret))
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            msg = f"the private key {key} is not that of the certificate {cert}"
            hint = f"openssl x509 -in {files.typed(cert)} -noout -pubkey"
            raise BadInput(msg, f"{hint} && openssl pkey -in {files.typed(key)} -pubout") from None
        msg = f"the certificate {cert} with the key {key} cannot be used: {error}"
        look = f"openssl x509 -in {files.typed(cert)} -noout -text"
        raise BadInput(msg, look) from None
    return chain, secret


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    """Put a certificate and its key into a context.  Raises `OSError`, as `ssl` does."""
    # the module takes files alone; these have been read, and stay as they are
    with _file_of(pair[0]) as cert, _file_of(pair[1]) as key:
        # with a passphrase, or OpenSSL would wait for somebody to type that of a locked key
        context.load_cert_chain(cert, key, password=_NONE)


@contextmanager
def _file_of(pem: bytes) -> Iterator[str]:
    """Name a file with this text, for a moment: in memory on Linux, else its owner's alone."""
    with open(os.memfd_create("certificate"), "wb") if _IN_MEMORY else NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}" if _IN_MEMORY else str(file.name)


class LastPair:
    """The last certificate and key that fitted: for a worker that begins while they do not."""

    def __init__(self, cert: str, key: str) -> None:
        """Take their names."""
        self._names = cert, key
        self._times: list[int] = []
        self._look_at = 0.0
        self.pair: Pair | None = None

    def look(self) -> None:
        """Read them if they were written since; now and then."""
        now = time.monotonic()
        if not self._names[0] or now < self._look_at:
            return
        self._look_at = now + RENEW_SECONDS
        times = times_of(*self._names)
        if times != self._times:
            with suppress(SestrackError):  # while it is written, that of before is good
                self.pair, self._times = read_pair(*self._names), times


async def renew(cert: str, key: str, tls: ssl.SSLContext, known: list[int]) -> None:
    """Take a certificate that was renewed, for the connections that come after.

    One that cannot be read is tried again: it may be written yet, or given to our user later.
    `known` is when the two were written that are in use (`times_of`, before they were read).
    """
    said = ""
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        times = times_of(cert, key)
        if times == known:
            continue
        try:
            # as a whole, for OpenSSL drops the private key as soon as the chain is another's, and
            # a key that is not written yet would leave it with none
            _load(tls, read_pair(cert, key))
        except SestrackError as error:
            if said != error.message:
                said = error.message
                output.warn(f"the certificate stays as it was: {said}")
            continue
        output.note(f"the certificate {cert} was read again")
        known, said = times, ""


def times_of(*names: str) -> list[int]:
    """Return when the certificate and its key were written; 0 for what is not there."""
    times = []
    for name in names:
        try:
            times.append(os.stat(name).st_mtime_ns)
        except OSError:
            times.append(0)
    return times
