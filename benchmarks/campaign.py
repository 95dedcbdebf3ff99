"""A campaign as a whole process: messages a second beside pytracking, in one run.

One template of 15 kB with 14 links, a copy for each recipient, JSON Lines through a pipe to
another process, as a mailing tool reads them.  The outcome is checked in the warm-up.
pytracking gets fewer recipients, for it is slower.

    python benchmarks/campaign.py [RECIPIENTS] [ROUNDS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipe import ROW, set_up

PYTRACKING = """
import csv, json, sys, pytracking, pytracking.html
configuration = pytracking.Configuration(
    base_open_tracking_url="https://t.example.com/o/",
    base_click_tracking_url="https://t.example.com/c/",
    encryption_bytestring_key=b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
)
html = open(sys.argv[1]).read()
for row in csv.DictReader(open(sys.argv[2])):
    copy = pytracking.html.adapt_html(html, {"r": row["recipient"]}, configuration=configuration)
    sys.stdout.write(json.dumps({"recipient": row["recipient"], "html": copy}) + "\\n")
"""


# to /dev/null the making alone is told; through a pipe the kernel's copying, and `cat`, too
SINKS = ("null", "pipe")


def check(path: Path, count: int) -> None:
    """See that every copy is there, tracked, and another."""
    seen = set()
    with path.open() as out:
        for line in out:
            html = json.loads(line)["html"]
            assert html.count("https://t") >= 15
            seen.add(hash(html))
    assert len(seen) == count


def main() -> None:
    """Measure and print."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    page = "".join(ROW.format(n) + "<p>" + "lorem ipsum " * 75 + "</p>" for n in range(14))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = set_up(folder)
        (folder / "letter.html").write_text(f"<html><body>{page}</body></html>")
        few = max(number // 100, 100)
        for file, count in (("many.csv", number), ("few.csv", few)):
            rows = "".join(f"reader{n}@example.org\n" for n in range(count))
            (folder / file).write_text("recipient\n" + rows)
        send = [
            program,
            "rewrite",
            "letter.html",
            "--sender",
            "news.example.com",
            "--message",
            "june",
            "--recipients",
            "many.csv",
        ]
        contestants = {
            "1 process": (send, number),
            f"{os.cpu_count()} processes": ([*send, "--jobs", str(os.cpu_count())], number),
            "pytracking": (
                [sys.executable, "-c", PYTRACKING, "letter.html", "few.csv"],
                few,
            ),
        }
        rates: dict[tuple[str, str], list[float]] = {}
        for turn in range(rounds + 1):  # the first is the warm-up
            for label, (command, count) in contestants.items():
                for sink in SINKS if turn else SINKS[1:]:
                    reader = subprocess.Popen(
                        ["sh", "-c", f"cat > {'/dev/null' if turn else 'out.jsonl'}"],
                        cwd=folder,
                        stdin=subprocess.PIPE,
                    )
                    target = subprocess.DEVNULL if sink == "null" else reader.stdin
                    begun = time.perf_counter()
                    with subprocess.Popen(
                        command, cwd=folder, stdout=target, stderr=subprocess.DEVNULL
                    ) as child:
                        reader.stdin.close()
                        _, status, _ = os.wait4(child.pid, 0)
                        child.returncode = os.waitstatus_to_exitcode(status)
                    reader.wait()
                    took = time.perf_counter() - begun
                    assert child.returncode == 0
                    if turn:
                        rates.setdefault((label, sink), []).append(count / took)
                    else:
                        check(folder / "out.jsonl", count)
    print(f"{number} recipients ({few} for pytracking), {rounds} rounds, whole processes")
    for (label, sink), values in rates.items():
        rate = statistics.median(values)
        ratio = rate / statistics.median(rates["pytracking", sink])
        print(f"{label:14}{sink:6}{rate:10.0f} copies/s{ratio:8.1f} x pytracking")


if __name__ == "__main__":
    main()
