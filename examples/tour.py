"""The main job from nothing to a tracked newsletter, typed as an administrator types it.

Runs the real `sestrack` in a temporary folder against a small name server on loopback,
prints each command and what it answers, and leaves nothing behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from nameserver import NameServer

LETTER = """\
<html><body>
<p>Dear Ada, <a href="https://www.example.com/sale?from=june&amp;to=july">our summer sale</a>
begins. <a href="https://example.com/unsubscribe">No more of this</a></p>
</body></html>
"""

STEPS = """\
sestrack init --edge edge.example.net
sestrack sender add news.example.com > sender.zone
sestrack sender verify news.example.com --resolver $DNS
sestrack domain create trace --primary example.com > trace.zone
sestrack domain verify trace.example.com --resolver $DNS
sestrack settings enable --dimension account --domain trace.example.com --click --open
sestrack settings show --sender news.example.com
sestrack rewrite --sender news.example.com --recipient ada@example.org --message june \
< letter.html > tracked.html
sestrack inspect "$(grep -o 'https://trace[^"]*' tracked.html | head -n 1)"
"""


def run(folder: Path) -> str:
    """Take the tour in `folder`; return its transcript."""
    (folder / "letter.html").write_text(LETTER, encoding="utf-8")
    transcript = []
    with NameServer({".": "edge.example.net. 3600 IN A 192.0.2.1"}) as server:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SESTRACK_STORE": "store.db",
            "DNS": server.address,
        }
        for line in STEPS.splitlines():
            done = subprocess.run(  # noqa: S602 - these lines are what the tour shows
                line, shell=True, cwd=folder, env=environment, check=True, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            transcript.append(f"$ {line}\n{done.stdout}")
            # what an administrator does by hand: the zone lines go into the zone
            for zone in folder.glob("*.zone"):
                server.add(zone.read_text(encoding="utf-8"))
    return "".join(transcript)


def main() -> None:
    """Take the tour in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        print(run(Path(folder)), end="")


if __name__ == "__main__":
    main()
