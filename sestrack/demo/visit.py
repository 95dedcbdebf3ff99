"""Reads a tracked mail as a reader's program does: fetches its pixel, follows its links.

    python -m sestrack.demo.visit tracked.html [--click 1] [--scanner] [--server HOST:PORT]

Without `--click` every link is followed.  Names under .localhost are this machine (RFC 6761
§6.3), and no name is looked up: with `--server` all requests go there, whatever the URLs say.
"""

from __future__ import annotations

import argparse
import http.client
import re
from html import unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from sestrack import output

BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36"
)
SCANNER = "Barracuda Sentinel (EE)"
_TRACKING_URL = re.compile(r"https?://trace\.[^\"'<> ]*")


class Visited(NamedTuple):
    """What a URL answered."""

    status: int
    location: str
    """Where it leads; "" for a pixel."""


def visit(url: str, server: str = "", agent: str = BROWSER) -> Visited:
    """Ask for a URL; of `server`, if that is not the one its name stands for."""
    parts = urlsplit(url)
    if not server and (parts.hostname or "").endswith(".localhost"):
        server = f"127.0.0.1:{parts.port or 80}"
    connection = http.client.HTTPConnection(server or parts.netloc, timeout=20)
    connection.request("GET", parts.path, headers={"Host": parts.netloc, "User-Agent": agent})
    response = connection.getresponse()
    response.read()
    connection.close()
    return Visited(response.status, response.headers.get("Location", ""))


def tracking_urls(html: str) -> list[str]:
    """Find the tracking URLs of a mail, each once, in their order; the pixel comes last."""
    return list(dict.fromkeys(unescape(url) for url in _TRACKING_URL.findall(html)))


def main() -> None:
    """Visit what is in a mail."""
    parser = argparse.ArgumentParser(prog="python -m sestrack.demo.visit")
    parser.add_argument("mail", type=Path)
    parser.add_argument("--server", default="", help="host:port to ask, whatever the URLs say")
    parser.add_argument("--click", type=int, help="follow this link only, counted from 1")
    parser.add_argument("--scanner", action="store_true", help="be a known mail scanner")
    given = parser.parse_args()
    found = tracking_urls(given.mail.read_text(encoding="utf-8"))
    if not found:
        parser.error(f"{given.mail} has no tracking URL; was it rewritten?")
    *links, pixel = found
    urls = [*links, pixel] if given.click is None else [pixel, links[given.click - 1]]
    for url in urls:
        seen = visit(url, given.server, SCANNER if given.scanner else BROWSER)
        output.product(f"{seen.status} {seen.location or 'a pixel'}\n")


if __name__ == "__main__":
    main()
