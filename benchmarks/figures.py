"""How fast events are judged and counted, and how long reports take over many of them.

200 messages with 20 links each, 60 days, 2 million recipients, 5,000 user agents.

    python benchmarks/figures.py [EVENTS] [sqlite] [postgresql]
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from postgresql import quick_server

from sestrack.store import Store, initialise, kind_of, open_for_recording
from sestrack.tracker import keeper
from sestrack.tracker.events import first_id
from sestrack.tracker.places import Places
from sestrack.tracker.reports import BY, Look, Question, report
from sestrack.tracker.upkeep import PIECE, Upkeep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sestrack.engines.interface import Connection

MESSAGES, LINKS, DAYS, RECIPIENTS, AGENTS = 200, 20, 60, 2_000_000, 5_000
START = 1_772_323_200_000
DAY = 86_400_000
AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/{}.0.0.0 Safari/537.36"
)
COLUMNS = (
    "id", "at", "kind", "origin", "link", "recipient", "minted", "ip", "agent", "traits",
)  # fmt: skip
CHUNK = 100_000


def fill(connection: Connection, events: int) -> None:
    """Write the events."""
    dice = random.Random(1)  # noqa: S311
    origins = [
        (n, "news.example.com", f"message-{n}", "trace.example.com") for n in range(1, MESSAGES + 1)
    ]
    links = [
        (o * LINKS + n, o, n, f"https://example.com/{o}/{n}")
        for o in range(1, MESSAGES + 1)
        for n in range(LINKS)
    ]
    agents = [(n, AGENT.format(n)) for n in range(1, AGENTS + 1)]
    connection.insert("origin", ("id", "sender", "message", "trace_domain"), origins)
    connection.insert("link", ("id", "origin", "number", "url"), links)
    connection.insert("agent", ("id", "text"), agents)
    writers = connection.writers()
    start = 0 if writers else first_id(1)

    def rows() -> Iterator[tuple[object, ...]]:
        for number in range(1, events + 1):
            at = START + number * (DAYS * DAY) // events
            # a message is read in the days after it was sent
            newest = 1 + (at - START) * (MESSAGES - 1) // (DAYS * DAY)
            origin = max(1, newest - int(dice.expovariate(0.5)))
            click = dice.random() < 0.2
            yield (
                start + number, at, 2 if click else 1, origin, origin * LINKS + dice.randrange(LINKS) if click else None,
                f"reader-{dice.randrange(RECIPIENTS)}@example.org", START // 1000 - 3600,
                f"{dice.randrange(1, 224)}.{dice.randrange(256)}.{dice.randrange(256)}.7",
                min(AGENTS, 1 + int(dice.expovariate(0.01))), 0,
            )  # fmt: skip

    left = rows()
    while chunk := list(islice(left, CHUNK)):
        connection.insert("event", COLUMNS, chunk)
    if start:
        connection.insert(
            "writer", ("id", "judged", "stored", "owner"), [(1, start, start + events, "")]
        )


@contextmanager
def store(engine: str, folder: str) -> Iterator[str]:
    """Give the address of an empty store; PostgreSQL syncs as it does by default."""
    if engine == "sqlite":
        yield str(Path(folder) / "store.db")
        return
    with quick_server(fsync="on", full_page_writes="on", shared_buffers="1GB") as server:
        yield server.fresh_database()


def measure(path: str, events: int) -> None:
    """Fill a store, count its events, ask for every report; print how long it took."""
    initialise(path, "edge.example.net", 1)
    piece = {"sqlite": PIECE, "postgresql": keeper.PIECE}[kind_of(path)]
    with closing(open_for_recording(path)) as connection:
        fill(connection, events)
        upkeep = Upkeep(connection, Places(), piece=piece)
        began = time.perf_counter()
        while upkeep.settle(None):
            pass
        spent = time.perf_counter() - began
        print(f"{kind_of(path)}: {events:,} events judged and counted: {events / spent:,.0f}/s")
        connection.wipe()
        if kind_of(path) == "postgresql":
            connection.execute("VACUUM ANALYZE")
            ((size,),) = connection.execute("SELECT pg_database_size(current_database())")
        else:
            size = Path(path).stat().st_size
    print(f"store: {size / events:.0f} octets an event")
    for by in BY:
        times = []
        for _ in range(1 if by == "recipient" else 7):
            with Store(path) as opened:
                began = time.perf_counter()
                look = Look(opened.connection, Places())
                lines = report(look, Question(by=by, limit=20))
                times.append(time.perf_counter() - began)
        print(
            f"  by {by:<10}{statistics.median(times) * 1e3:>10,.1f} ms  ({len(lines)} lines shown)"
        )
    with Store(path) as opened:
        began = time.perf_counter()
        look = Look(opened.connection, Places())
        report(look, Question(by="day", message="message-100"))
        print(f"  by day of one message{(time.perf_counter() - began) * 1e3:>9,.1f} ms")


def main() -> None:
    """Run the benchmark."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    engines = sys.argv[2:] or ["sqlite"]
    for engine in engines:
        with (
            tempfile.TemporaryDirectory(dir=".", prefix="bench-") as folder,
            store(engine, folder) as path,
        ):
            measure(path, events)


if __name__ == "__main__":
    main()
