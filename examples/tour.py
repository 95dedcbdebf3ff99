"""The main job from nothing to a tracked newsletter, typed as an administrator types it.

Runs the real `sestrack` in a temporary folder against a small name server on loopback,
prints each command and what it answers, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sestrack.demo.nameserver import NameServer

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
sestrack domain verify trace.example.com --no-http --resolver $DNS 2>&1 | cut -f 2-5
sestrack settings enable --dimension account --domain trace.example.com --click --open
sestrack settings show --sender news.example.com
sestrack rewrite --sender news.example.com --recipient ada@example.org --message june \
--at 2026-06-01T08:00:00Z < letter.html > tracked.html
sestrack inspect "$(grep -o 'https://trace[^"]*' tracked.html | head -n 1)"
sestrack serve --bind $SERVER > serve.log 2>&1 &
python -m sestrack.demo.visit tracked.html --server $SERVER
python -m sestrack.demo.visit tracked.html --server $SERVER --scanner
sestrack stats | cut -f 1,2,6,8,9,11,12
sestrack settings disable
python -m sestrack.demo.visit tracked.html --server $SERVER
sestrack events tail | cut -f 2-4,6,10
"""
SHELL = ("bash", "-o", "pipefail", "-c")
"""A step has failed too if what is left of a `|` did."""


def run(folder: Path) -> str:
    """Take the tour in `folder`; return its transcript."""
    (folder / "letter.html").write_text(LETTER, encoding="utf-8")
    transcript = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(NameServer({".": "edge.example.net. 3600 IN A 192.0.2.1"}))
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SESTRACK_STORE": "store.db",
            "DNS": server.address,
            "SERVER": f"127.0.0.1:{_free_port()}",
        }
        for line in STEPS.splitlines():
            if line.endswith(" &"):
                served = subprocess.Popen(  # noqa: S603 - as below
                    [*SHELL, f"exec {line.removesuffix(' &')}"], cwd=folder, env=environment
                )
                stack.callback(served.wait)
                stack.callback(served.terminate)
                transcript.append(f"$ {line}\n")
                _wait_for(environment["SERVER"])
                continue
            done = subprocess.run(  # noqa: S603 - these lines are what the tour shows
                [*SHELL, line], cwd=folder, env=environment, check=True, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            transcript.append(f"$ {line}\n{done.stdout}")
            if "settings disable" in line:
                time.sleep(1.5)  # a running server looks at the settings twice a second
            # what an administrator does by hand: the zone lines go into the zone
            for zone in folder.glob("*.zone"):
                server.add(zone.read_text(encoding="utf-8"))
    return "".join(transcript)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for(server: str) -> None:
    host, _, port = server.partition(":")
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
            return
        time.sleep(0.05)


def main() -> None:
    """Take the tour in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        print(run(Path(folder)), end="")


if __name__ == "__main__":
    main()
