"""Many servers on PostgreSQL, beside one on SQLite, in one run.

PostgreSQL is three nodes on this machine; a commit waits until one of the two standbys has it
on disk too (`ANY 1`).  The load, the copies and the counting of rows are those of `server.py`.

    apt install postgresql wrk; pip install '.[bench,postgresql]'
    python benchmarks/shared.py ratio [ROUNDS] [SECONDS]       one server on each engine
    python benchmarks/shared.py chart [SECONDS] [FILE.svg]     1, 2, 4 servers; connections
    python benchmarks/shared.py minute [SECONDS] [A SECOND]    do the figures keep up?

`minute` asks at a fixed pace, 16,667 a second unless told: a million a minute.  Its copies are
400,000, so that most opens are their recipient's first, which costs the figures most.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import server as single
from postgresql import Cluster, cluster

from sestrack.engines import engine_of
from sestrack.store import Store, initialise
from sestrack.tracker.upkeep import behind

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 8120
SECRET = bytes(range(64))
PACED = """
local pause = tonumber(os.getenv("PAUSE"))
delay = function() return math.random(0, 2 * pause) end
"""


class Result(NamedTuple):
    """What all wrk together saw in one go."""

    rate: float
    p50: float
    p99: float
    requests: int
    errors: int


def prepare(address: str) -> None:
    """Make a store in which everything is tracked."""
    initialise(address, "edge.example.net", 1_780_300_800)
    with Store(address) as store, store.change() as db:
        db.execute("UPDATE key SET secret = ?", [SECRET])
        db.execute("UPDATE config SET enabled = 1, dimension = 'account'")
        db.execute("INSERT INTO entry (sender, click, open, enabled) VALUES ('', 1, 1, 1)")


@contextlib.contextmanager
def serving(address: str, folder: Path, count: int) -> Iterator[list[int]]:
    """Run some servers on a store; give their ports."""
    program = str(Path(sys.executable).parent / "sestrack")
    processes = []
    ports = [PORT + index for index in range(count)]
    try:
        for port in ports:
            with open(folder / f"serve-{port}.log", "ab") as log:
                command = [program, "--store", address, "serve", "--bind", f"127.0.0.1:{port}"]
                environment = {**os.environ, "XDG_DATA_HOME": str(folder)}
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        for port in ports:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1)
                    break
                time.sleep(0.05)
        yield ports
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(timeout=60)


def asking(
    folder: Path, ports: list[int], connections: int, seconds: float, pace: float = 0
) -> list[subprocess.Popen[str]]:
    """Start a wrk for each server; together they ask so often a second, or as often as they can."""
    script = folder / ("paced.lua" if pace else "wrk.lua")
    pause = 1000 * connections / pace if pace else 0
    environment = {**os.environ, "PATHS": str(folder / "opens"), "PAUSE": f"{pause:g}"}
    return [
        subprocess.Popen(
            ["wrk", "-t1", f"-c{max(1, connections // len(ports))}", f"-d{seconds:g}s", "-s",
             str(script), f"http://127.0.0.1:{port}/"],
            env=environment, stdout=subprocess.PIPE, text=True,
        )
        for port in ports
    ]  # fmt: skip


def load(
    folder: Path, ports: list[int], connections: int, seconds: float, pace: float = 0
) -> Result:
    """Let a wrk ask each server, and return what they saw."""
    found = []
    for process in asking(folder, ports, connections, seconds, pace):
        text = process.communicate()[0]
        match = re.search(r"RESULT (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)", text)
        assert match, text
        found.append([float(part) for part in match.groups()])
    return Result(
        sum(f[0] / (f[1] / 1e6) for f in found), max(f[3] for f in found), max(f[4] for f in found),
        int(sum(f[0] for f in found)), int(sum(f[2] for f in found)),
    )  # fmt: skip


def rows(address: str) -> int:
    """Count the events in a store."""
    with contextlib.closing(engine_of(address).connect(address, writing=True, wait=5)) as store:
        ((count,),) = store.execute("SELECT count(*) FROM event").fetchall()
        return int(count)


def one(address: str, folder: Path, servers: int, connections: int, seconds: float) -> Result:
    """Run servers alone on the machine under load; every answered request must be a row."""
    with serving(address, folder, servers) as ports:
        load(folder, ports, connections, 2)
        time.sleep(1)
        before = rows(address)
        result = load(folder, ports, connections, seconds)
    assert not result.errors, result
    after = rows(address)
    assert 0 <= after - before - result.requests <= 2 * connections, (after - before, result)
    return result


def ratio(stores: dict[str, str], folder: Path, rounds: int, seconds: float) -> None:
    """Compare one server on each engine, in turns."""
    results: dict[str, list[Result]] = {name: [] for name in stores}
    for _ in range(rounds):
        for name, address in stores.items():
            results[name].append(one(address, folder, 1, single.CONNECTIONS, seconds))
    base = statistics.median(result.rate for result in results["sqlite"])
    for name, own in results.items():
        rate = statistics.median(result.rate for result in own)
        print(
            f"  {name:<12}{rate:>9,.0f}/s  {rate / base:5.2f} of SQLite   "
            f"p50 {statistics.median(r.p50 for r in own):6.2f} ms  "
            f"p99 {statistics.median(r.p99 for r in own):6.2f} ms"
        )


def chart(address: str, folder: Path, seconds: float, picture: str) -> None:
    """Measure throughput against servers and connections."""
    lines: dict[int, list[tuple[int, float]]] = {}
    for servers in (1, 2, 4):
        for connections in (16, 64, 256, 1024):
            result = one(address, folder, servers, connections, seconds)
            lines.setdefault(servers, []).append((connections, result.rate))
            print(
                f"  {servers} servers {connections:>5} connections {result.rate:>9,.0f}/s  "
                f"p50 {result.p50:6.2f} ms  p99 {result.p99:6.2f} ms",
                flush=True,
            )
    if picture:
        Path(picture).write_text(drawn(lines))


def drawn(lines: dict[int, list[tuple[int, float]]]) -> str:
    """Draw the chart as SVG."""
    top = max(rate for points in lines.values() for _, rate in points) * 1.1
    counts = [connections for connections, _ in next(iter(lines.values()))]

    def place(connections: int, rate: float) -> tuple[float, float]:
        return 70 + counts.index(connections) * 480 / (len(counts) - 1), 300 - rate / top * 260

    parts = [
        (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 360" font-family="sans-serif" '
            'font-size="12"><rect width="640" height="360" fill="#fff"/>'
        )
    ]
    step = 5_000 if top < 40_000 else 10_000
    for rate in range(0, int(top), step):
        _, y = place(counts[0], rate)
        parts.append(f'<path d="M70 {y:.1f}H550" stroke="#ddd"/>')
        parts.append(f'<text x="62" y="{y + 4:.1f}" text-anchor="end">{rate:,}</text>')
    for connections in counts:
        x, _ = place(connections, 0)
        parts.append(f'<text x="{x:.1f}" y="318" text-anchor="middle">{connections}</text>')
    for (servers, points), colour in zip(
        lines.items(), ("#1b6ca8", "#c1440e", "#3a7d44"), strict=True
    ):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = place(*points[-1])
        words = f"{servers} server{'s' if servers > 1 else ''}"
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" fill="{colour}">{words}</text>')
    parts.append('<text x="310" y="342" text-anchor="middle">connections</text>')
    parts.append(
        '<text x="70" y="24">acknowledged events a second (two cores for everything)</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def minute(address: str, folder: Path, seconds: float, pace: float) -> None:
    """Ask at a fixed pace, and see how far behind the figures are."""
    with serving(address, folder, 1) as ports:
        load(folder, ports, single.CONNECTIONS, 2, pace)
        before = rows(address)
        began = time.perf_counter()
        (asker,) = asking(folder, ports, single.CONNECTIONS, seconds, pace)
        while asker.poll() is None:
            time.sleep(5)
            with Store(address) as store:
                count, oldest = behind(store.connection)
            late = time.time() - oldest / 1000 if oldest else 0.0
            print(
                f"  {time.perf_counter() - began:5.0f} s  {count:>9,} not counted yet, "
                f"the first of them {late:5.1f} s old",
                flush=True,
            )
        print(f"  {(rows(address) - before) / seconds:,.0f} events a second recorded")
        began = time.perf_counter()
        while True:
            with Store(address) as store:
                count, _ = behind(store.connection)
            if not count:
                break
            time.sleep(0.5)
        print(
            f"  all counted {time.perf_counter() - began:.1f} s after the last "
            "(the judge waits 10 s for what may bear on an event)"
        )


def write_load(folder: Path, copies: int) -> None:
    """Write the scripts of wrk and the paths that it asks for."""
    (folder / "wrk.lua").write_text(single.WRK)
    (folder / "paced.lua").write_text(single.WRK + PACED)
    single.COPIES = copies
    opens, clicks = single.urls(SECRET)
    paths = opens if copies == 20_000 else [*opens, *clicks[::8]]
    (folder / "opens").write_text("\n".join(paths) + "\n")


@contextlib.contextmanager
def tuned() -> Iterator[Cluster]:
    """Run three nodes; what is changed is what any PostgreSQL that writes much changes.

    One that has run for a while writes into used segments of its log, where a new one makes
    each of them first, with 16 MB of zeros: so they are used once before.
    """
    with cluster(shared_buffers="512MB", min_wal_size="1GB", max_wal_size="4GB") as nodes:
        for _ in range(60):
            nodes.primary.query("SELECT pg_logical_emit_message(false, '', repeat('x', 16000000))")
        nodes.wait_streaming(2)
        for node in nodes.nodes:
            node.query("CHECKPOINT")
        yield nodes


def main() -> None:
    """Run one of the benchmarks."""
    what, *more = sys.argv[1:] or ["ratio"]
    with tempfile.TemporaryDirectory(dir=".", prefix="bench-") as place, tuned() as nodes:
        folder = Path(place).resolve()
        write_load(folder, 400_000 if what == "minute" else 20_000)
        address = nodes.address()
        prepare(address)
        print(f"{what}: one sync takes {single.sync_milliseconds(folder):.2f} ms here")
        if what == "ratio":
            sqlite = str(folder / "store.db")
            prepare(sqlite)
            numbers = [float(text) for text in more] + [5, 4][len(more) :]
            stores = {"sqlite": sqlite, "postgresql": address}
            ratio(stores, folder, int(numbers[0]), numbers[1])
        elif what == "chart":
            chart(address, folder, float(more[0]) if more else 4, more[1] if more[1:] else "")
        else:
            numbers = [float(text) for text in more] + [60, 1_000_000 / 60][len(more) :]
            minute(address, folder, *numbers)


if __name__ == "__main__":
    main()
