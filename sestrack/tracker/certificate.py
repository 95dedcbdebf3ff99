"""The certificate of a server that does TLS itself: read, and read again when it was renewed."""

from __future__ import annotations

import asyncio
import os
import ssl

from sestrack import output
from sestrack.errors import BadInput

RENEW_SECONDS = 2.0


def tls_context(cert: str, key: str) -> ssl.SSLContext | None:
    """Load the certificate; None where there is none.  Raises `BadInput`."""
    if not cert:
        return None
    try:
        return _context(cert, key)
    except OSError as error:
        msg = f"the certificate {cert} cannot be used: {error}"
        raise BadInput(msg, "--tls-cert FULLCHAIN.pem --tls-key KEY.pem") from None


def _context(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)  # raises OSError; ssl.SSLError is one
    return context


async def renew(cert: str, key: str, tls: ssl.SSLContext) -> None:
    """Take a certificate that was renewed, for the connections that come after."""
    known = _times_of(cert, key)
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        times = _times_of(cert, key)
        if times == known:
            continue
        try:
            # first into another one: OpenSSL drops the private key as soon as the chain is
            # another's, and a key that is not written yet would leave it with none
            _context(cert, key)
            tls.load_cert_chain(cert, key)
        except OSError as error:
            output.warn(f"the certificate stays as it was: {cert}: {error}")
        else:
            output.note(f"the certificate {cert} was read again")
        known = times


def _times_of(*names: str) -> list[float]:
    """Return when the certificate and its key were written; 0 for what is not there."""
    times = []
    for name in names:
        try:
            times.append(os.stat(name).st_mtime)
        except OSError:
            times.append(0.0)
    return times
