"""Bytes a second of rewriting, in process: sestrack beside its peers, in one run.

Every contestant gets the same documents, decides on each link by the same rule, seals the
same real tokens (pytracking its own, encrypted), adds a pixel and gives bytes.  They take
turns document by document; each document's figure is the median of the rounds.

    python benchmarks/rewrite.py FOLDER [ROUNDS]
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lolhtml
import lxml.html
import pytracking
import pytracking.html
from cryptography.fernet import Fernet

from sestrack.links import Reason, Wrapping, reason_to_leave
from sestrack.rewrite import compile_html
from sestrack.tokens import Copy, Key, LinkSealer, seal_copy

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "trace.example.com"
BASE = f"https://{HOST}/"
COPY = Copy("news.example.com", "june", "ada@example.org", 1_780_300_800)
KEY = Key.from_secret(1, bytes(range(64)))
SEALER = LinkSealer.of(KEY, HOST, COPY.sender, COPY.message)
PIXEL = '<img src="{}" width="1" height="1" alt="">'
_CONSTANT_COPY, _CONSTANT_LINK = b"R" * 79, b"L" * 100


class Tokens:
    """Real tokens, or constant ones: what rewriting costs without the cryptography."""

    constant = False

    @classmethod
    def copy(cls) -> bytes:
        """Make `R`."""
        return _CONSTANT_COPY if cls.constant else seal_copy(KEY, HOST, COPY)

    @classmethod
    def link(cls, number: int, url: str) -> bytes:
        """Make `L`."""
        return _CONSTANT_LINK if cls.constant else SEALER.seal(number, url)


WRAPPING = Wrapping(BASE.encode(), Tokens.link, "bottom", 79, lambda _url: False)
PYTRACKING = pytracking.Configuration(
    base_open_tracking_url=BASE + "o/",
    base_click_tracking_url=BASE + "c/",
    encryption_bytestring_key=Fernet.generate_key(),
)


def wanted(url: str | None) -> bool:
    """Decide on a link, for the peers: the same rule as ours."""
    return (
        url is not None
        and reason_to_leave(url.strip()) is Reason.WRAPPED
        and "unsubscribe" not in url.lower()
    )


def with_sestrack(data: bytes) -> bytes:
    """Rewrite by splicing."""
    return compile_html(data, WRAPPING).render(Tokens.copy())


class _Links:
    def __init__(self, token: str) -> None:
        self.token, self.number = token, 0

    def element(self, element: lolhtml.Element) -> None:
        url = element.get_attribute("href")
        if url is not None and wanted(url):
            link = Tokens.link(self.number, url.strip()).decode()
            element.set_attribute("href", f"{BASE}{self.token}/{link}")
            self.number += 1


class _Body:
    def __init__(self, token: str) -> None:
        self.pixel = PIXEL.format(BASE + token)

    def element(self, element: lolhtml.Element) -> None:
        element.append(self.pixel, lolhtml.ContentType.HTML)


def with_lolhtml(data: bytes) -> bytes:
    """Rewrite with Rust's lol_html."""
    token = Tokens.copy().decode()
    out = bytearray()
    rewriter = lolhtml.HTMLRewriter(out.extend)
    rewriter.on("a[href], area[href]", _Links(token))
    rewriter.on("body", _Body(token))
    rewriter.write(data)
    rewriter.end()
    return bytes(out)


def with_lxml(data: bytes) -> bytes:
    """Parse, XPath, tostring."""
    token = Tokens.copy().decode()
    tree = lxml.html.document_fromstring(data)
    for number, element in enumerate(tree.xpath("//a[@href]|//area[@href]")):
        url = element.get("href")
        if wanted(url):
            link = Tokens.link(number, url.strip()).decode()
            element.set("href", f"{BASE}{token}/{link}")
    tree.body.append(lxml.html.fragment_fromstring(PIXEL.format(BASE + token)))
    return lxml.html.tostring(tree)


def with_pytracking(data: bytes) -> bytes:
    """Rewrite with the Python peer."""
    return pytracking.html.adapt_html(
        data, {"recipient": COPY.recipient}, configuration=PYTRACKING
    ).encode()


CONTESTANTS: dict[str, Callable[[bytes], bytes]] = {
    "sestrack": with_sestrack,
    "lolhtml": with_lolhtml,
    "lxml": with_lxml,
    "pytracking": with_pytracking,
}


def main() -> None:
    """Measure with real tokens, then with constant ones."""
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 9
    for Tokens.constant in (False, True):
        measure(rounds)


def measure(rounds: int) -> None:
    """Measure and print."""
    paths = sorted(p for p in Path(sys.argv[1]).rglob("*") if p.suffix in {".html", ".htm"})
    documents = [path.read_bytes() for path in paths]
    total = sum(map(len, documents))
    times = {name: [list[float]() for _ in documents] for name in CONTESTANTS}
    links = dict.fromkeys(CONTESTANTS, 0)
    raised = dict.fromkeys(CONTESTANTS, 0)
    for turn in range(rounds + 1):  # the first is the warm-up
        for number, document in enumerate(documents):
            for name, rewrite in CONTESTANTS.items():
                start = time.perf_counter()
                try:
                    out = rewrite(document)
                except Exception:  # noqa: BLE001 - peers raise what they like
                    out = b""
                    raised[name] += turn == 0
                spent = time.perf_counter() - start
                if turn:
                    times[name][number].append(spent)
                else:
                    links[name] += max(out.count(BASE.encode()) - 1, 0)
    speed = {name: total / sum(map(statistics.median, rows)) / 1e6 for name, rows in times.items()}
    kind = "constant" if Tokens.constant else "real"
    print(f"{len(documents)} documents, {total} bytes, {rounds} rounds, {kind} tokens")
    print(f"{'':12}{'MB/s':>8}{'sestrack is':>13}{'links':>8}{'raised':>8}")
    for name, value in speed.items():
        ratio = speed["sestrack"] / value
        print(f"{name:12}{value:8.1f}{ratio:12.2f}x{links[name]:8}{raised[name]:8}")


if __name__ == "__main__":
    main()
