"""Requests a second of the tracking server, beside nginx and granian, in one run.

nginx answers `empty_gif` and a constant redirect, writes its access log and never syncs it.
granian runs the same answers and the same group commit behind RSGI.  One worker each, 256
keep-alive connections of wrk, real headers, 20,000 different copies.  Every contestant is
warmed up, they take turns, each alone, and medians are printed; the rows in the store are counted against
the answers that wrk saw.

    apt install nginx-light wrk; pip install '.[bench]'
    python benchmarks/server.py [ROUNDS] [SECONDS]
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sestrack.store import Store, initialise
from sestrack.tokens import Copy, Key, LinkSealer, seal_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "trace.example.com"
SENDER = "news.example.com"
COPIES = 20_000
LINKS = 20
CONNECTIONS = 256
PORTS = {"nginx": 8101, "sestrack": 8102, "granian": 8103, "nginx tls": 8104, "sestrack tls": 8105}

WRK = """
local paths = {}
for line in io.lines(os.getenv("PATHS")) do paths[#paths + 1] = line end
local agents = {
  "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
  "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
  "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
}
local requests = {}
init = function()
  for i, path in ipairs(paths) do
    requests[i] = "GET " .. path .. " HTTP/1.1\\r\\nHost: trace.example.com\\r\\nUser-Agent: " ..
      agents[i % #agents + 1] .. "\\r\\nAccept: image/avif,image/webp,image/apng,*/*;q=0.8\\r\\n" ..
      "Accept-Encoding: gzip, deflate, br\\r\\nAccept-Language: en-GB,en;q=0.9\\r\\n\\r\\n"
  end
end
local next = 0
request = function() next = next % #requests + 1; return requests[next] end
done = function(summary, latency)
  io.write(string.format("RESULT %d %d %d %.3f %.3f\\n", summary.requests, summary.duration,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status +
    summary.errors.timeout, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log {folder}/access.log; keepalive_requests 1000000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{tls} ssl backlog=4096;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    location / {{ empty_gif; add_header Cache-Control "no-store, no-cache, must-revalidate, private"; }}
    location ~ ^/[^/]+/. {{ return 302 https://www.example.com/landing/page?utm=june; }}
  }}
}}
"""


class Round(NamedTuple):
    """What wrk saw in one go."""

    rate: float
    p50: float
    p99: float
    errors: int
    requests: int
    cpu: float
    """Microseconds of CPU a request, of all processes of the server."""


def urls(secret: bytes) -> tuple[list[str], list[str]]:
    """Make the paths of opens and of clicks."""
    key = Key.from_secret(1, secret)
    sealer = LinkSealer.of(key, HOST, SENDER, "june")
    links = [
        sealer.seal(n, f"https://www.example.com/landing/page-{n}?utm=june") for n in range(LINKS)
    ]
    opens, clicks = [], []
    for number in range(COPIES):
        copy = seal_copy(
            key, HOST, Copy(SENDER, "june", f"reader-{number}@example.org", 1_780_300_800)
        )
        opens.append(f"/{copy.decode()}")
        clicks.append(f"/{copy.decode()}/{links[number % LINKS].decode()}")
    return opens, clicks


@contextlib.contextmanager
def running(
    name: str, command: list[str], folder: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block."""
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=folder
        )
        try:
            scheme = "https" if name.endswith("tls") else "http"
            for _ in range(100):
                with contextlib.suppress(OSError):
                    if scheme == "https":
                        time.sleep(0.5)
                    else:
                        urllib.request.urlopen(
                            f"{scheme}://127.0.0.1:{PORTS[name]}/healthz", timeout=1
                        )
                    break
                time.sleep(0.05)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def family(pid: int) -> list[int]:
    """Name a process and its children."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children so far."""
    total = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def load(folder: Path, name: str, paths: Path, pid: int, seconds: float) -> Round:
    """Let wrk ask for a while."""
    scheme = "https" if name.endswith("tls") else "http"
    before = cpu_seconds(pid)
    done = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(folder / "wrk.lua"),
         f"{scheme}://127.0.0.1:{PORTS[name]}/"],
        env={**os.environ, "PATHS": str(paths)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    spent = cpu_seconds(pid) - before
    found = re.search(r"RESULT (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)", done.stdout)
    assert found, done.stdout
    requests, duration = int(found[1]), int(found[2]) / 1e6
    return Round(requests / duration, float(found[4]), float(found[5]), int(found[3]), requests,
                 spent / requests * 1e6)  # fmt: skip


def rows(store: Path) -> int:
    """Count the events in a store."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM event")
        return int(count)


def compete(
    names: list[str],
    start: Callable[[str], contextlib.AbstractContextManager[subprocess.Popen[bytes]]],
    folder: Path,
    kind: str,
    rounds: int,
    seconds: float,
    count: Callable[[str], int | None],
) -> None:
    """Let the contestants take turns, each alone on the machine, and print how they did.

    Ours goes on counting when nobody asks; running beside nginx it would slow nginx down.
    """
    results: dict[str, list[Round]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            with start(name) as process:
                load(folder, name, folder / kind, process.pid, 2)
                before = count(name)
                result = load(folder, name, folder / kind, process.pid, seconds)
            assert not result.errors, (name, result)
            after = count(name)
            if before is not None and after is not None:
                # wrk hangs up with up to one request of each connection under way
                assert 0 <= after - before - result.requests <= 2 * CONNECTIONS, (name, result)
            results[name].append(result)
    base = statistics.median(r.rate for r in results[names[0]])
    print(kind if "tls" not in names[0] else f"{kind} over TLS")
    for name in names:
        own = results[name]
        rate = statistics.median(r.rate for r in own)
        print(
            f"  {name:<14}{rate:>10,.0f}/s  {rate / base:5.2f} of nginx   "
            f"p50 {statistics.median(r.p50 for r in own):6.2f} ms  p99 {statistics.median(r.p99 for r in own):6.2f} ms  "
            f"{statistics.median(r.cpu for r in own):5.1f} µs CPU a request"
        )


def sync_milliseconds(folder: Path) -> float:
    """Measure what one fdatasync takes here."""
    times = []
    with open(folder / "sync", "wb") as file:
        for _ in range(200):
            file.write(b"x" * 16_384)
            file.flush()
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def main() -> None:
    """Run the benchmark."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 4
    with tempfile.TemporaryDirectory(dir=".", prefix="bench-") as place:
        folder = Path(place).resolve()
        (folder / "wrk.lua").write_text(WRK)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", f"/CN={HOST}"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
        (folder / "nginx.conf").write_text(
            NGINX.format(folder=folder, plain=PORTS["nginx"], tls=PORTS["nginx tls"])
        )
        stores = {
            name: folder / f"{name.replace(' ', '-')}.db" for name in PORTS if "nginx" not in name
        }
        for path in stores.values():
            initialise(str(path), "edge.example.net", 1_780_300_800)
            with Store(str(path)) as store, store.change() as db:
                db.execute("UPDATE key SET secret = ?", [bytes(range(64))])
                db.execute("UPDATE config SET enabled = 1, dimension = 'account'")
                db.execute("INSERT INTO entry (sender, click, open, enabled) VALUES ('', 1, 1, 1)")
        opens, clicks = urls(bytes(range(64)))
        # a storm: one link of one copy, again and again; each visit is judged by those around it
        for kind, lines in (("opens", opens), ("clicks", clicks), ("storm", clicks[:1])):
            (folder / kind).write_text("\n".join(lines) + "\n")
        here = Path(sys.executable).parent
        commands = {
            "nginx": ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")],
            "sestrack": [str(here / "sestrack"), "--store", str(stores["sestrack"]), "serve",
                         "--bind", f"127.0.0.1:{PORTS['sestrack']}"],
            "sestrack tls": [str(here / "sestrack"), "--store", str(stores["sestrack tls"]), "serve",
                             "--bind", f"127.0.0.1:{PORTS['sestrack tls']}",
                             "--tls-cert", "cert.pem", "--tls-key", "key.pem"],
            "granian": [str(here / "granian"), "--interface", "rsgi", "--workers", "1", "--port",
                        str(PORTS["granian"]), "--loop", "uvloop", "--no-access-log",
                        "--backpressure", "4096", "granian_app:app"],
        }  # fmt: skip
        commands["nginx tls"] = commands["nginx"]

        def start(name: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
            environment = {}
            if name == "granian":
                environment = {
                    "STORE": str(stores["granian"]),
                    "PYTHONPATH": str(Path(__file__).parent.resolve()),
                }
            return running(name, commands[name], folder, **environment)

        def count(name: str) -> int | None:
            return rows(stores[name]) if name in stores else None

        print(
            f"one sync takes {sync_milliseconds(folder):.2f} ms here; {CONNECTIONS} connections; medians of {rounds}"
        )
        for kind in ("opens", "clicks", "storm"):
            compete(["nginx", "sestrack", "granian"], start, folder, kind, rounds, seconds, count)
        compete(["nginx tls", "sestrack tls"], start, folder, "opens", rounds, seconds, count)


if __name__ == "__main__":
    main()
