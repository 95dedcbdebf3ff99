"""Make the stores of earlier schemas with the real programs of those versions.

    python tests/stores/make.py SCHEMA PROGRAM FOLDER
    python tests/stores/make.py postgresql-1 PROGRAM FOLDER

PROGRAM is the `sestrack` of that version, in a venv of its own; see the readme.  What it says of
its store goes into a JSON file beside it, and the tests hold the present program to that.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from postgresql import quick_server

from sestrack.demo.nameserver import NameServer

LETTER = (
    '<body><a href="https://www.example.com/a?x=1&amp;y=2">a</a>'
    '<a href="https://example.net/ü">b</a></body>'
)
AGENTS = {
    "person": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36",
    "phone": "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Mobile/15E148",
    "proxy": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com "
    "GoogleImageProxy)",
    "scanner": "Barracuda Sentinel (EE)",
}
REPORTS = ("message", "sender", "domain", "link", "day", "hour", "recipient", "country", "device")
SETTINGS = """\
# kept by hand
enabled = true
dimension = "account+domain"

[account]
domain = "trace.example.com"
click = true
open = true

[sender."shop.example.com"]
domain = "mail.example.com"
click = true
open = false   # they asked for it
"""


class Old:
    """An earlier program with a store in a folder."""

    def __init__(self, schema: int, program: str, folder: Path, address: str = "") -> None:
        self.schema = schema
        self.program = program
        self.folder = folder
        self.store = folder / "store.db"
        self.environment = {
            "SESTRACK_STORE": address or str(self.store), "PATH": os.environ["PATH"],
            "XDG_DATA_HOME": str(folder),
        }  # fmt: skip

    def __call__(self, *arguments: str, text: str = "") -> str:
        """Run it."""
        done = subprocess.run(
            [self.program, *arguments], input=text, capture_output=True, text=True, check=False,
            cwd=self.folder, env=self.environment,
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    def set_up(self) -> None:
        """Make keys, domains and settings."""
        self("init", "--edge", "edge.example.net")
        with NameServer({}) as server:
            server.add("edge.example.net. 60 IN A 192.0.2.1")
            zone = self("sender", "add", "news.example.com")
            server.add(zone)
            self("sender", "verify", "news.example.com", "--resolver", server.address)
            self("sender", "add", "shop.example.com", "--assume-verified")
            self("sender", "add", "later.example.org")
            for prefix in ("trace", "mail", "old"):
                server.add(self("domain", "create", prefix, "--primary", "example.com"))
                self(
                    "domain", "verify", f"{prefix}.example.com", "--resolver", server.address,
                    *(["--no-http"] if self.schema > 2 else []),
                )  # fmt: skip
        self("settings", "apply", "-", text=SETTINGS)
        self("domain", "delete", "old.example.com")

    def letters(self) -> dict[str, list[str]]:
        """Rewrite for some recipients, with the first key and with a second one."""
        letters = {}
        for number, name in enumerate(("ada", "bob", "cyd")):
            if number == 2:
                self("keys", "rotate")
            letters[name] = re.findall(
                r'"(https://[^"]+)"',
                self(
                    "rewrite", "--sender", "news.example.com", "--recipient",
                    f"{name}@example.org", "--message", "june" if number else "may", "--at",
                    "2026-06-01T08:00:00Z", *(["--count"] if self.schema > 3 else []), text=LETTER,
                ),
            )  # fmt: skip
        return letters

    def record(self, visits: list[tuple[str, str]], *, judged: bool) -> None:
        """Ask a server for URLs; have it count what came of it, or kill it before it does."""
        with (self.folder / "log").open("w+") as log:
            server = subprocess.Popen(
                [self.program, "serve", "--bind", "127.0.0.1:0"], stderr=log,
                cwd=self.folder, env=self.environment,
            )  # fmt: skip
            port = None
            while port is None:
                time.sleep(0.1)
                port = re.search(r"serving on http://127.0.0.1:(\d+)/", Path(log.name).read_text())
            for agent, url in visits:
                host, path = re.fullmatch(r"https://([^/]+)(/.*)", url).groups()  # type: ignore[union-attr]
                with closing(http.client.HTTPConnection("127.0.0.1", int(port[1]))) as connection:
                    connection.request(
                        "GET", path, headers={"Host": host, "User-Agent": AGENTS[agent]}
                    )
                    assert connection.getresponse().read() is not None
            for _ in range(600):
                behind = self.behind()
                if not judged or not behind:
                    break
                time.sleep(0.1)
            assert bool(behind) is not judged
            server.send_signal(signal.SIGTERM if judged else signal.SIGKILL)
            server.wait()

    def behind(self) -> int:
        """Return how many events are not in the figures."""
        if self.schema < 5:
            with closing(sqlite3.connect(self.store)) as store:
                ask = "SELECT (SELECT max(id) FROM event) - judged FROM progress"
                ((behind,),) = store.execute(ask)
        else:
            checks = json.loads(self("doctor", "--offline", "--json"))
            (found,) = [check["found"] for check in checks if check["name"] == "figures"]
            behind = int(found.split()[0])
        return int(behind)

    def says(self) -> dict[str, Any]:
        """Ask the program for all that it knows."""
        known: dict[str, Any] = {
            "keys": json.loads(self("keys", "list", "--json")),
            "key file": self("keys", "export", "-"),
            "senders": json.loads(self("sender", "list", "--json")),
            "domains": json.loads(self("domain", "list", "--json")),
            "settings": self("settings", "export"),
        }
        if self.schema > 1:
            known["events"] = [json.loads(line) for line in self("events", "export").splitlines()]
            known["stats"] = {by: json.loads(self("stats", "--by", by, "--json")) for by in REPORTS}
        return known


def fill(old: Old, *, killed: bool) -> dict[str, Any]:
    """Put something of everything into it; return what the program says of it."""
    old.set_up()
    letters = old.letters()
    if old.schema > 1:
        old.record(
            [
                ("person", letters["ada"][0]), ("person", letters["ada"][2]),
                ("proxy", letters["bob"][2]), ("scanner", letters["bob"][1]),
                ("phone", letters["cyd"][1]), ("phone", letters["cyd"][2]),
                ("person", letters["ada"][2]),
            ],
            judged=True,
        )  # fmt: skip
    if killed:
        old.record([("phone", letters["bob"][0]), ("person", letters["cyd"][0])], judged=False)
    if old.schema > 3:
        (old.folder / "letter.html").write_text(LETTER)
        (old.folder / "list.csv").write_text("recipient\ndot@example.org\neve@example.org\n")
        old(
            "rewrite", "letter.html", "--sender", "news.example.com", "--message", "july",
            "--recipients", "list.csv", "--output", "copies.jsonl",
        )  # fmt: skip
    return {"schema": old.schema, "letters": letters} | old.says()


def write(target: Path, name: str, data: bytes, known: dict[str, Any]) -> None:
    """Write a store, and what is known of it."""
    (target / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))
    text = json.dumps(known, indent=1, ensure_ascii=False)
    (target / f"{name.partition('.')[0]}.json").write_text(text + "\n")


def in_sqlite(schema: int, program: str, folder: Path, target: Path) -> None:
    """Make a file."""
    old = Old(schema, program, folder)
    known = fill(old, killed=schema > 1)
    with closing(sqlite3.connect(old.store)) as store:
        store.execute("PRAGMA journal_mode = DELETE")
        store.execute("VACUUM")
    write(target, f"schema-{schema}.db", old.store.read_bytes(), known)


def in_postgresql(schema: int, program: str, folder: Path, target: Path) -> None:
    """Make a dump in plain SQL: what is psql's or of one version of it is left out."""
    with quick_server() as server:
        address = server.fresh_database()
        # the first schema there had all that the fifth has in a file
        known = fill(Old(schema + 4, program, folder, address), killed=False)
        dumped = subprocess.run(
            [str(server.binaries / "pg_dump"), "--inserts", "--no-owner", "--no-acl", address],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    lines = [
        line
        for line in dumped.splitlines()
        if not line.startswith(("\\", "--", "SET ", "SELECT pg_catalog.set_config"))
    ]
    write(target, f"postgresql-{schema}.sql", "\n".join(lines).encode(), known)


def main() -> None:
    """Make one."""
    schema, program, target = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        make = in_postgresql if schema.startswith("postgresql-") else in_sqlite
        make(int(schema.rpartition("-")[2]), program, Path(folder), target)


if __name__ == "__main__":
    main()
