"""Reads a tracked mail as a reader's program does: fetches its pixel, follows its links.

    python visit.py tracked.html --server 127.0.0.1:8025 [--scanner]

The names in the URLs are not looked up: all requests go to the server that is named.
"""

from __future__ import annotations

import argparse
import http.client
import re
from html import unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36"
)
SCANNER = "Barracuda Sentinel (EE)"


class Visited(NamedTuple):
    """What a URL answered."""

    status: int
    location: str
    """Where it leads; "" for a pixel."""


def visit(url: str, server: str, agent: str = BROWSER, method: str = "GET") -> Visited:
    """Ask for a URL, of a server that may not be the one its name stands for."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(server, timeout=20)
    connection.request(method, parts.path, headers={"Host": parts.netloc, "User-Agent": agent})
    response = connection.getresponse()
    response.read()
    connection.close()
    return Visited(response.status, response.headers.get("Location", ""))


def tracking_urls(html: str, host: str = "trace.example.com") -> list[str]:
    """Find the tracking URLs of a mail, in their order."""
    return [unescape(url) for url in re.findall(rf"https?://{re.escape(host)}[^\"'<> ]*", html)]


def main() -> None:
    """Visit everything in a mail."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mail", type=Path)
    parser.add_argument("--server", required=True)
    parser.add_argument("--scanner", action="store_true")
    given = parser.parse_args()
    for url in tracking_urls(given.mail.read_text(encoding="utf-8")):
        found = visit(url, given.server, SCANNER if given.scanner else BROWSER)
        print(found.status, found.location or "a pixel")


if __name__ == "__main__":
    main()
