"""How fast events are judged and counted, and how long reports take over many of them.

200 messages with 20 links each, 60 days, 2 million recipients, 5,000 user agents.

    python benchmarks/figures.py [EVENTS]
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sestrack.store import Store, initialise, open_for_recording
from sestrack.tracker.places import Places
from sestrack.tracker.reports import BY, Question, look, report
from sestrack.tracker.upkeep import Upkeep

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

MESSAGES, LINKS, DAYS, RECIPIENTS, AGENTS = 200, 20, 60, 2_000_000, 5_000
START = 1_772_323_200_000
DAY = 86_400_000


def fill(connection: sqlite3.Connection, events: int) -> None:
    """Write the events."""
    dice = random.Random(1)  # noqa: S311
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO origin VALUES (?, 'news.example.com', ?, 'trace.example.com')",
        [(n, f"message-{n}") for n in range(1, MESSAGES + 1)],
    )
    connection.executemany(
        "INSERT INTO link VALUES (?, ?, ?, ?)",
        [
            (o * LINKS + n, o, n, f"https://example.com/{o}/{n}")
            for o in range(1, MESSAGES + 1)
            for n in range(LINKS)
        ],
    )
    connection.executemany(
        "INSERT INTO agent VALUES (?, ?)",
        [
            (
                n,
                f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{n}.0.0.0 Safari/537.36",
            )
            for n in range(1, AGENTS + 1)
        ],
    )

    def rows() -> Iterator[tuple[object, ...]]:
        for number in range(1, events + 1):
            at = START + number * (DAYS * DAY) // events
            # a message is read in the days after it was sent
            newest = 1 + (at - START) * (MESSAGES - 1) // (DAYS * DAY)
            origin = max(1, newest - int(dice.expovariate(0.5)))
            click = dice.random() < 0.2
            yield (
                number, at, 2 if click else 1, origin, origin * LINKS + dice.randrange(LINKS) if click else None,
                f"reader-{dice.randrange(RECIPIENTS)}@example.org", START // 1000 - 3600,
                f"{dice.randrange(1, 224)}.{dice.randrange(256)}.{dice.randrange(256)}.7",
                min(AGENTS, 1 + int(dice.expovariate(0.01))), 0,
            )  # fmt: skip

    connection.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows())
    connection.execute("COMMIT")


def main() -> None:
    """Run the benchmark."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory(dir=".", prefix="bench-") as folder:
        path = str(Path(folder) / "store.db")
        initialise(path, "edge.example.net", 1)
        with closing(open_for_recording(path)) as connection:
            fill(connection, events)
            upkeep = Upkeep(connection, Places())
            began = time.perf_counter()
            while upkeep.settle(None):
                pass
            spent = time.perf_counter() - began
            print(f"{events:,} events judged and counted: {events / spent:,.0f}/s")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        print(f"store: {Path(path).stat().st_size / events:.0f} octets an event")
        for by in BY:
            times = []
            for _ in range(1 if by == "recipient" else 7):
                with Store(path) as store:
                    began = time.perf_counter()
                    look(store.connection, Places())
                    lines = report(store.connection, Question(by=by, limit=20))
                    times.append(time.perf_counter() - began)
            print(
                f"  by {by:<10}{statistics.median(times) * 1e3:>10,.1f} ms  ({len(lines)} lines shown)"
            )
        with Store(path) as store:
            began = time.perf_counter()
            look(store.connection, Places())
            report(store.connection, Question(by="day", message="message-100"))
            print(f"  by day of one message{(time.perf_counter() - began) * 1e3:>9,.1f} ms")


if __name__ == "__main__":
    main()
