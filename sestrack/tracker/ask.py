"""What a front end may ask before it gets a certificate: is this one of our trace domains?

`GET /ask?domain=NAME` is answered 200 for exactly the trace domains whose DNS leads to us as
far as is known, 403 for all other names.  The store is read each time, so that a name is
known the moment it is verified; DNS is never asked, and whatever fails is a no.  That is
Caddy's `on_demand_tls` (`ask`, since 2.8 `permission http`).
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import parse_qs, urlsplit

from sestrack.errors import SestrackError
from sestrack.store import Store

ASK_SECONDS = 5.0
_NAME = re.compile(r"[a-z0-9._-]{1,253}")
_WORDS = {200: "OK", 400: "Bad Request", 403: "Forbidden"}


def may_have_certificate(path: str, name: str) -> bool:
    """Does the store know a trace domain of this name whose DNS is verified?  Retired ones too."""
    name = name.lower().removesuffix(".")
    if not _NAME.fullmatch(name):
        return False
    try:
        with Store(path) as store:
            domain = store.find_trace_domain(name)
    except SestrackError:
        return False
    return domain is not None and domain.dns_verified


class Ask:
    """Answers on a connection of its own, one question each."""

    def __init__(self, path: str) -> None:
        """Take the path of the store."""
        self._path = path

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question, and close."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                status = await self._judge(head.partition(b"\r\n")[0].decode("latin-1"))
                writer.write(
                    f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Length: 0\r\n"
                    "Connection: close\r\n\r\n".encode()
                )
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # whoever asks takes silence for a no
        finally:
            writer.close()

    async def _judge(self, line: str) -> int:
        method, _, rest = line.partition(" ")
        try:
            parts = urlsplit(rest.partition(" ")[0])
        except ValueError:  # `//[`
            return 400
        names = parse_qs(parts.query).get("domain", [])
        if method not in {"GET", "HEAD"} or parts.path != "/ask" or len(names) != 1:
            return 400
        return 200 if await asyncio.to_thread(may_have_certificate, self._path, names[0]) else 403
