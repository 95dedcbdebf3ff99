"""The whole circle: mail for a thousand recipients, their visits, and the figures."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from html import unescape

from conftest import PERSON, Program, Server

from sestrack.store import Store
from sestrack.tokens import Copy, Key, seal_copy
from sestrack.tracker.upkeep import purge_piece

RECIPIENTS = [f"reader-{number}@example.org" for number in range(1000)]
MINTED = 1_780_300_800
GMAIL = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
APPLE = "Mozilla/5.0"
SCANNER = "Mimecast/1.0 URL scanner"
LINKS = [
    "https://www.example.com/",
    "https://shop.example.com/summer?from=june&to=july&q=%C3%A4#offers",
    "https://exämple.com/größe?q=ü",
    "http://example.com/a;b=c,d/(e)?x[]=1&y='2'",
    "https://example.com/?redirect=https%3A%2F%2Fexample.org%2F%3Fa%3Db",
]
NEWSLETTER = f"""<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "">
<html xmlns="http://www.w3.org/1999/xhtml"><head><meta charset="utf-8"><title>June</title>
<style>a {{ color: #111 }}</style></head>
<body bgcolor=#ffffff><!--[if mso]><table width="600"><tr><td><![endif]-->
<table width=100%><tr><td><a href="{LINKS[0]}"><img src="https://example.com/logo.png" alt=""></a>
<p>Dear reader, <a href='{LINKS[1].replace("&", "&amp;")}'>our summer sale</a> begins.<br>
<a class="button" href="{LINKS[2]}">Gr&ouml;&szlig;e</a> <a href="{LINKS[3].replace("'", "&#39;")}">d</a>
<a href={LINKS[4]}>e</a></p>
<p><a href="https://example.com/unsubscribe?u=1">unsubscribe</a> <a href="mailto:a@example.com">write</a>
</td></tr></table><!--[if mso]></td></tr></table><![endif]--></body></html>
"""  # fmt: skip


def copies(tracking: Program) -> tuple[list[bytes], list[str]]:
    """Rewrite the newsletter once; return the token of each recipient, and the paths behind it."""
    html = tracking.ok(
        "rewrite", "--sender", "news.example.com", "--recipient-field", "{{sestrack}}",
        "--message", "june", stdin=NEWSLETTER.encode(),
    )  # fmt: skip
    with Store(tracking.address) as store:
        key = Key.from_secret(*store.keys()[0][:2])
    tokens = [
        seal_copy(key, "trace.example.com", Copy("news.example.com", "june", recipient, MINTED))
        for recipient in RECIPIENTS
    ]
    paths = re.findall(r"https://trace\.example\.com/\{\{sestrack\}\}([^\"' >]*)", html)
    return tokens, [unescape(path) for path in paths]


def visit_all(server: Server, visits: Iterable[tuple[str, str, str]]) -> list[tuple[int, str]]:
    """Make visits (path, agent, method) over eight connections; return status and location."""

    def some(part: list[tuple[str, str, str]]) -> list[tuple[int, str]]:
        found = []
        with closing(
            http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        ) as connection:
            for path, agent, method in part:
                headers = {"Host": "trace.example.com", "User-Agent": agent}
                connection.request(method, path, headers=headers)
                response = connection.getresponse()
                response.read()
                found.append((response.status, response.headers.get("Location", "")))
        return found

    visits = list(visits)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(some, [visits[index::8] for index in range(8)]))
    return [parts[index % 8][index // 8] for index in range(len(visits))]


def test_the_whole_circle(tracking: Program, serve: Callable[..., Server]) -> None:
    """What is done is what is shown; and whatever is changed afterwards, every link arrives."""
    tokens, paths = copies(tracking)
    assert len(paths) == len(LINKS) + 1
    *links, pixel = paths
    assert pixel == ""
    server = serve("--workers", "2")

    def of(numbers: Iterable[int], path: str, agent: str, method: str = "GET") -> None:
        visits.extend((f"/{tokens[number].decode()}{path}", agent, method) for number in numbers)

    visits: list[tuple[str, str, str]] = []
    of(range(600), pixel, PERSON)
    of(range(200), links[0], PERSON)
    of(range(600, 700), links[1], PERSON)  # their program shows no images
    of(range(700, 800), pixel, GMAIL)
    of(range(700, 730), links[2], PERSON)
    for link in (*links, pixel):
        of(range(800, 850), link, SCANNER)
    of(range(850, 900), pixel, PERSON, "HEAD")
    of(range(900, 950), pixel, APPLE)
    of(range(100), pixel, PERSON)  # again
    assert {status for status, _ in visit_all(server, visits)} == {200, 302}

    (line,) = json.loads(tracking.ok("stats", "--json"))
    assert line == {
        "message": "june",
        "readers": 600 + 100 + 100 + 50,
        "openers": {"people": 600 + 100 + 30, "proxies": 100 + 50, "machines": 50 + 50},
        "opens": {"people": 700, "proxies": 150, "machines": 100},
        "clickers": {"people": 200 + 100 + 30, "machines": 50},
        "clicks": {"people": 330, "machines": 250},
        "click_to_open": 330 / 850,
        "copies": None,
        "open_rate": None,
        "click_rate": None,
    }
    by_link = {
        row["link"]: (row["clickers"]["people"], row["clickers"]["machines"])
        for row in json.loads(tracking.ok("stats", "--by", "link", "--json"))
    }
    assert by_link == dict(
        zip(LINKS, [(200, 50), (100, 50), (30, 50), (0, 50), (0, 50)], strict=True)
    )

    # everything is taken away
    tracking.ok("keys", "rotate")
    tracking.ok("settings", "apply", "-", stdin=b"enabled = false\n")
    tracking.ok("domain", "delete", "trace.example.com")
    with tracking.connection() as connection:  # the command refuses to take what came today
        while purge_piece(connection, 2**20):
            pass
    time.sleep(1.5)
    expected = [
        "https://www.example.com/", LINKS[1], "https://xn--exmple-cua.com/gr%C3%B6%C3%9Fe?q=%C3%BC",
        LINKS[3], LINKS[4],
    ]  # fmt: skip
    every = [
        (f"/{token.decode()}{path}", PERSON, "GET") for token in tokens for path in (*links, pixel)
    ]
    answers = visit_all(server, every)
    for index, answer in enumerate(answers):
        place = index % len(paths)
        assert answer == ((302, expected[place]) if place < len(links) else (200, "")), every[index]
    (line,) = json.loads(tracking.ok("stats", "--json"))
    assert line["opens"] == {"people": 700, "proxies": 150, "machines": 100}
    assert server.stop() == 0
