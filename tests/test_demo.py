"""`sestrack demo`: it runs, says what it does, and leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sestrack.demo.stage import stage
from sestrack.demo.visit import tracking_urls, visit
from sestrack.errors import SestrackError

COMMAND = [sys.executable, "-m", "sestrack", "demo"]
TYPED = (
    "sestrack init", "sestrack sender add", "sestrack sender verify", "sestrack domain create",
    "sestrack domain verify", "sestrack settings enable", "sestrack serve", "sestrack check",
    "sestrack rewrite", "sestrack inspect", "python -m sestrack.demo.visit", "sestrack stats",
    "sestrack events tail", "sestrack settings disable",
)  # fmt: skip
"""What an administrator sees typed."""


def heed_signals() -> None:
    """Do what a shell does for a program in the foreground: whoever runs the tests may ignore them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Demo:
    """A demo with a temporary folder of its own, so that what is left can be seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "error"}
        for name in ("COLUMNS", "LINES"):  # a runner of tests may have set them
            self.environment.pop(name, None)
        self.process: subprocess.Popen[str] | None = None
        self.said = ""

    def start(self, *options: str) -> None:
        """Start it on a pipe."""
        self.process = subprocess.Popen(
            [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self.environment, start_new_session=True, preexec_fn=heed_signals,  # noqa: PLW1509 - no threads here
        )  # fmt: skip

    def read_until(self, words: str) -> str:
        """Read what it says until some words have come."""
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if words in line:
                return self.said
        raise AssertionError(self.said)

    def end(self, number: int) -> int:
        """Send a signal to it and its group, as a terminal does; wait for its end."""
        assert self.process is not None
        os.killpg(self.process.pid, number)
        self.said += self.process.communicate(timeout=60)[0]
        return self.process.returncode

    def left(self) -> list[str]:
        """Name what is left: files, and processes that were started in the folder."""
        files = [str(path) for path in self.folder.rglob("sestrack-demo-*")]
        return files + [process for process in _processes() if str(self.folder) in process]


def _processes() -> Iterator[str]:
    """Say of each process where it is, and which store it was told."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            environment = folder.joinpath("environ").read_bytes().decode(errors="replace")
            yield f"{folder.name} {os.readlink(folder / 'cwd')} {environment}"
        except OSError:
            continue


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Give a demo that has not begun; end it."""
    given = Demo(tmp_path)
    yield given
    if given.process is not None and given.process.poll() is None:
        given.end(signal.SIGTERM)


def test_shows_the_main_job(demo: Demo) -> None:
    """It ends well, prints every command and what came of it; nothing is left."""
    demo.start()
    assert demo.process is not None
    demo.read_until("$ sestrack serve")
    (folder,) = demo.folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    demo.said += demo.process.communicate(timeout=120)[0]
    assert demo.process.returncode == 0, demo.said
    for typed in TYPED:
        assert f"\n$ {typed}" in demo.said
    assert "news.quill.localhost is verified" in demo.said
    assert "\thttp\tok\t127.0.0.1: answers as us\t" in demo.said
    assert "click\tperson\tada@example.org\t\n" in demo.said
    assert "click\tmachine\tben@example.org\tscanner,burst\n" in demo.said
    assert len(re.findall(r"302 https://quill\.localhost/summer", demo.said)) == 4
    assert "eve@example.org" not in demo.said.partition("settings disable")[2]
    assert "\33" not in demo.said
    assert demo.left() == []


@pytest.mark.parametrize(
    ("words", "number", "code"),
    [
        pytest.param("# The main job", signal.SIGINT, 130, id="Ctrl-C at once"),
        pytest.param("$ sestrack serve", signal.SIGINT, 130, id="Ctrl-C while the server starts"),
        pytest.param("$ sestrack rewrite", signal.SIGINT, 130, id="Ctrl-C in a command"),
        pytest.param("$ sestrack domain verify", signal.SIGTERM, 143, id="SIGTERM"),
        pytest.param("$ sestrack events tail", signal.SIGHUP, 129, id="the window is closed"),
    ],
)
def test_leaves_nothing_when_it_is_ended(demo: Demo, words: str, number: int, code: int) -> None:
    """Whenever it is ended, servers and folder are gone."""
    demo.start()
    demo.read_until(words)
    assert demo.end(number) == code, demo.said
    assert "Traceback" not in demo.said
    assert "a bug of ours" not in demo.said
    assert demo.left() == []


def test_leaves_nothing_when_nobody_reads(demo: Demo) -> None:
    """A pipe that closes ends it."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{' '.join(COMMAND)} | head -n 12"],
        env=demo.environment, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode not in {0, 70}, done.stderr
    assert b"ended with" not in done.stderr
    assert demo.left() == []


def test_a_full_disk_is_no_closed_pipe() -> None:
    """74 is said of both: while our own stdout is read, the command has failed."""
    with pytest.raises(SestrackError) as caught, stage() as here:
        here.run("bash -c 'exit 74'")
    assert type(caught.value) is SestrackError
    assert "ended with 74" in caught.value.message


def test_keep_serves_a_page(demo: Demo) -> None:
    """The page shows copies and figures, a visit over HTTP is counted; Ctrl-C ends all."""
    demo.start("--keep")
    page = re.findall(r"http://localhost:\d+/", demo.read_until("in a browser"))[-1]
    page = page.replace("localhost", "127.0.0.1")

    def get(path: str) -> bytes:
        with urllib.request.urlopen(page + path, timeout=20) as response:  # noqa: S310
            body: bytes = response.read()
        return body

    def clicks(recipient: str) -> int:
        visits = json.loads(get("figures"))["visits"]
        return sum(
            (one["kind"], one["visitor"], one["recipient"]) == ("click", "person", recipient)
            for one in visits
        )

    assert b"<iframe" not in get("")
    letter = get("letter/2").decode()
    *_, link, pixel = tracking_urls(letter)
    assert clicks("eve@example.org") == 0
    deadline = time.monotonic() + 20
    while not clicks("eve@example.org") and time.monotonic() < deadline:
        found = visit(link)  # the server may not have seen yet that tracking is on again
        assert (found.status, found.location[:28]) == (
            302,
            "http://quill.localhost:" + found.location[23:28],
        )
        assert visit(pixel).status == 200
        time.sleep(0.5)
    assert clicks("eve@example.org") == 1
    assert visit(found.location).status == 200
    with pytest.raises(urllib.error.HTTPError):
        get("letter/3")
    assert demo.end(signal.SIGINT) == 0, demo.said
    assert demo.left() == []


def _on_a_terminal(demo: Demo, columns: int, command: list[str], **environment: str) -> str:
    """Run it on a terminal of so many columns; return what the terminal was told."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its,
        env=demo.environment | {"TERM": "xterm-256color"} | environment,
    )  # fmt: skip
    os.close(its)
    said = b""
    while True:
        try:
            said += os.read(ours, 65_536)
        except OSError as error:  # what Linux says when the other side is closed
            assert error.errno == errno.EIO  # noqa: PT017
            break
    os.close(ours)
    assert process.wait(timeout=60) == 0, said.decode()
    return said.decode().replace("\r\n", "\n")


def test_terminal_of_80_columns(demo: Demo) -> None:
    """Sentences are coloured, and no line of ours that can be broken is longer than that."""
    said = _on_a_terminal(demo, 80, COMMAND)
    ours = [line for line in said.splitlines() if re.search(r"\x1b\[[0-9;]*m[#$]", line)]
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in ours]
    assert len(plain) > 30
    assert (
        max(len(line) for line in plain if not line.startswith(("$ cd ", "$ sestrack inspect ")))
        <= 80
    )
    assert demo.left() == []


def test_poor_terminal(demo: Demo) -> None:
    """40 columns, no colour, the C locale, and a home that nobody can write to."""
    said = _on_a_terminal(
        demo, 40, COMMAND, NO_COLOR="1", LC_ALL="C", LANG="C", HOME="/dev/null/home"
    )
    assert "\33[36m" not in said
    assert "\33[1;32m" not in said
    sentences = [line for line in said.splitlines() if line.startswith("# ")]
    assert max(map(len, sentences)) <= 40
    assert "That was all." in said.replace("\n# ", " ")
    assert demo.left() == []
