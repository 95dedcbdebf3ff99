"""One mail through a pipe, as a whole process: sestrack beside a copy and beside pytracking.

The store, its settings and keys are read each time; the tokens are real.  Run it with a
sestrack that was installed as users install it (`pip install .`, not `-e`).

    python benchmarks/pipe.py [RUNS]
"""

from __future__ import annotations

import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COPY = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
PYTRACKING = """
import sys, pytracking, pytracking.html
configuration = pytracking.Configuration(
    base_open_tracking_url="https://t.example.com/o/",
    base_click_tracking_url="https://t.example.com/c/",
    encryption_bytestring_key=b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
)
html = sys.stdin.buffer.read()
out = pytracking.html.adapt_html(html, {"r": "ada@example.org"}, configuration=configuration)
sys.stdout.write(out)
"""
ROW = (
    '<table><tr><td style="padding:3px"><p>Offer {0}</p>'
    '<a href="https://www.example.com/p/{0}?utm=june" style="color:red">see it</a></td></tr></table>'
)


def set_up(folder: Path) -> str:
    """Make a store that tracks news.example.com; return the program."""
    program = str(Path(sys.executable).parent / "sestrack")
    os.environ["SESTRACK_STORE"] = f"{folder}/store.db"
    for words in (
        "init --edge edge.example.net",
        "sender add news.example.com --assume-verified",
        "domain create trace",
    ):
        subprocess.run([program, *words.split()], check=True, capture_output=True)
    # what `domain verify` writes, without a name server
    with sqlite3.connect(f"{folder}/store.db") as store:
        store.execute("UPDATE trace_domain SET status = 'verified'")
    words = "settings enable --dimension account --domain trace.example.com --click --open"
    subprocess.run([program, *words.split()], check=True, capture_output=True)
    return program


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    mail = "".join(ROW.format(n) + "<p>" + "lorem ipsum " * 75 + "</p>" for n in range(14))
    data = f"<html><body>{mail}</body></html>".encode()
    with tempfile.TemporaryDirectory() as folder:
        program = set_up(Path(folder))
        send = "rewrite --sender news.example.com --recipient ada@example.org --message june"
        contestants = {
            "copy": [sys.executable, "-c", COPY],
            "sestrack": [program, *send.split()],
            "pytracking": [sys.executable, "-c", PYTRACKING],
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(runs + 1):  # the first is the warm-up
            for name, command in contestants.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                out = subprocess.run(command, input=data, capture_output=True, check=True).stdout
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                if turn:
                    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                    times[name].append(spent)
                elif name == "sestrack":
                    assert out.count(b'href="https://trace.example.com/') == 14
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(f"{len(data)} bytes, 14 links, {runs} runs; CPU of the whole process")
    for name, value in middle.items():
        print(f"{name:12}{value * 1000:8.1f} ms{value / middle['copy']:8.2f} x a copy")


if __name__ == "__main__":
    main()
