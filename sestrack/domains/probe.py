"""What the addresses of a trace domain answer over HTTPS: facts, never whether they are good.

Each address is asked by itself, with the name of the trace domain in SNI and Host.  Redirects
are not followed, at most 64 kB are read, TLS is 1.2 or newer, and the roots are those of the
system (or of `SSL_CERT_FILE`).  A certificate that does not hold is fetched once more without
being verified, to say what is wrong with it; nothing is asked over that connection.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools

from sestrack import files
from sestrack.domains import challenge
from sestrack.domains.facts import CertificateFacts, HttpFacts, HttpOutcome
from sestrack.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_OCTETS = 65_536
MAX_WORDS = 200
"""Characters of what another server says that are told on."""
CONNECT_SECONDS = 5.0
WHOLE_SECONDS = 20.0
"""A front end that gets its certificate now takes some seconds for the handshake."""
_NO_NETWORK = {errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


def _with_roots() -> ssl.SSLContext:
    """Read the system's root certificates, or those that were named in place of them.

    Raises `BadInput` for what OpenSSL would pass over: every domain would seem to fail.
    """
    context = ssl.create_default_context()
    if name := os.environ.get("SSL_CERT_FILE"):
        try:
            context.load_verify_locations(name)
        except OSError as error:
            why = "none in PEM is in it" if isinstance(error, ssl.SSLError) else error.strerror
            msg = f"no certificate can be read from SSL_CERT_FILE={name}: {why}"
            raise BadInput(msg, files.look(name)) from None
    return context


class Prober:
    """Asks addresses whether they are ours: the proof is under one of `keys`."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Take the sealing keys; read the root certificates.  Raises as `_with_roots`."""
        self._keys = keys
        self._trusting = _with_roots()
        # newer Pythons refuse roots that browsers accept
        self._trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._seeing = ssl.create_default_context()
        self._seeing.check_hostname = False
        self._seeing.verify_mode = ssl.CERT_NONE
        for context in (self._trusting, self._seeing):
            context.minimum_version = ssl.TLSVersion.TLSv1_2

    async def ask(self, name: str, address: str, *, plain: bool, port: int) -> HttpFacts:
        """Ask one address; `port` 0 is the scheme's own."""
        port = port or (80 if plain else 443)
        outcome, detail = HttpOutcome.TIMEOUT, ""
        try:
            async with asyncio.timeout(WHOLE_SECONDS):
                return await self._ask(name, address, port, plain=plain)
        except ssl.SSLCertVerificationError as error:
            certificate = await self._see(name, address, port)
            return HttpFacts(
                address, HttpOutcome.CERTIFICATE, plain, error.verify_message,
                error.verify_code, certificate,
            )  # fmt: skip
        except ssl.SSLError as error:
            outcome, detail = HttpOutcome.TLS, _alert(error)
        except TimeoutError:
            pass
        except ConnectionRefusedError:
            outcome = HttpOutcome.REFUSED
        except (ConnectionResetError, BrokenPipeError) as error:
            outcome, detail = HttpOutcome.RESET, str(error)
        except OSError as error:
            outcome, detail = HttpOutcome.UNREACHABLE, error.strerror or ""
            if error.errno in _NO_NETWORK:
                outcome = HttpOutcome.NO_ROUTE
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            outcome, detail = HttpOutcome.NOT_HTTP, str(error)
        return HttpFacts(address, outcome, plain, detail)

    async def _ask(self, name: str, address: str, port: int, *, plain: bool) -> HttpFacts:
        reader, writer = await self._connect(name, address, port, None if plain else self._trusting)
        try:
            nonce = challenge.new_nonce()
            host = name if port in {80, 443} else f"{name}:{port}"
            writer.write(
                f"GET {challenge.PATH}{nonce} HTTP/1.1\r\nHost: {host}\r\n"
                "User-Agent: sestrack domain verify\r\nAccept: text/plain\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            response = await _read(reader)
            tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
            certificate = _certificate(tls.getpeercert(binary_form=True), 0) if tls else None
        finally:
            # asyncio's own close waits for the peer's goodbye
            writer.transport.abort()
        answered, asked_host = challenge.read(response.body, name, nonce, self._keys)
        return HttpFacts(
            address, HttpOutcome.ANSWER, plain, certificate=certificate, status=response.status,
            location=response.headers.get("location", ""),
            server=response.headers.get("server", ""), age=response.headers.get("age", ""),
            answered=answered, asked_host=asked_host,
        )  # fmt: skip

    @staticmethod
    async def _connect(
        name: str, address: str, port: int, context: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, and agree on TLS if there is to be; the two have their own time."""
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(address, port)
        if context is not None:
            try:
                await writer.start_tls(context, server_hostname=name)
            except BaseException:
                writer.transport.abort()
                raise
        return reader, writer

    async def _see(self, name: str, address: str, port: int) -> CertificateFacts | None:
        """Fetch a certificate that does not hold."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, writer = await self._connect(name, address, port, self._seeing)
        except (OSError, TimeoutError):
            return None
        tls = writer.get_extra_info("ssl_object")
        try:
            return _certificate(tls.getpeercert(binary_form=True), len(_chain(tls)))
        finally:
            writer.transport.abort()


class _Response:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.complete = False
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")[:MAX_WORDS]

    def on_headers_complete(self) -> None:
        """Keep the status."""
        self.status = self.parser.get_status_code()

    def on_body(self, octets: bytes) -> None:
        """Keep a piece of the body."""
        self.body += octets

    def on_message_complete(self) -> None:
        """Note the end; what is 1xx, like 103 Early Hints, comes before it (RFC 9110 §15.2)."""
        if self.status < HTTPStatus.OK:
            self._begin()
        else:
            self.complete = True


async def _read(reader: asyncio.StreamReader) -> _Response:
    """Read a response (RFC 9112), its end or what comes before 64 kB."""
    response = _Response()
    octets = 0
    while not response.complete and octets < MAX_OCTETS:
        data = await reader.read(MAX_OCTETS)
        if not data:
            break
        octets += len(data)
        response.parser.feed_data(data)
    if not response.status:
        msg = "it ends before a response"
        raise ConnectionResetError(msg)
    return response


def _certificate(der: bytes | None, sent: int) -> CertificateFacts | None:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    if not der:
        return None
    try:
        certificate = x509.load_der_x509_certificate(der)
        try:
            names = certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            ).value.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            names = []
        organisation = [
            str(attribute.value)
            for kind in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
            for attribute in certificate.issuer.get_attributes_for_oid(kind)
        ]
    except ValueError:  # what some appliances make is no certificate to anyone else
        return None
    return CertificateFacts(
        tuple(name[:MAX_WORDS] for name in names),
        (", ".join(organisation) or certificate.issuer.rfc4514_string())[:MAX_WORDS],
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()), sent,
    )  # fmt: skip


def _chain(tls: Any) -> list[Any]:
    """Return the certificates as they were sent; public since Python 3.13."""
    ask = getattr(tls, "get_unverified_chain", None) or tls._sslobj.get_unverified_chain  # noqa: SLF001
    return list(ask() or [])


def _alert(error: ssl.SSLError) -> str:
    """Name the alert of TLS in words: `TLSV1_ALERT_INTERNAL_ERROR` is "internal error"."""
    reason = (error.reason or str(error)).lower()
    for prefix in ("tlsv1_alert_", "sslv3_alert_", "tlsv13_alert_", "tlsv1_", "sslv3_"):
        reason = reason.removeprefix(prefix)
    return reason.replace("_", " ")
