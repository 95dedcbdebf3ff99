"""Real shells on a terminal of their own, driven by keys."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

TAB, HOME = "\t", "\x01"

START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
PREPARE = {
    "bash": (
        "source <(sestrack completion bash)",
        "said() { printf '%s\\n' \"$@\" > said.part; mv said.part said; }",
    ),
    "zsh": (
        "autoload -Uz compinit; compinit -u -D",
        "source <(sestrack completion zsh)",
        "said() { printf '%s\\n' \"$@\" > said.part; mv said.part said; }",
    ),
    "fish": (
        "sestrack completion fish | source",
        "function said; printf '%s\\n' $argv > said.part; mv said.part said; end",
    ),
}


# a terminal has to be the controlling one for job control, which fish insists on
_OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


class Shell:
    """An interactive shell in a folder, with completion switched on."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        # the program's own folder first: what is tested is what is installed beside Python
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.terminal, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN_TERMINAL, *START[name]], stdin=other, stdout=other, stderr=other, cwd=folder, close_fds=True,
            start_new_session=True,
            env=environment | {
                "PATH": path, "TERM": "vt100", "HOME": str(folder), "LC_ALL": "C.UTF-8", "PS1": "$ ",
                "COLUMNS": "200",
            },
        )  # fmt: skip
        os.close(other)
        self.seen = b""
        for line in PREPARE[name]:
            self.type(f"{line}\n")
        self.type("touch ready\n")
        self._wait_for(folder / "ready")

    def completed(self, line: str) -> list[str]:
        """Type a line and Tab; return the arguments that the line then has."""
        said = self.folder / "said"
        said.unlink(missing_ok=True)
        self.type(line + TAB)
        # what is typed ahead is read when the shell has completed
        self.type(f"{HOME}said \n")
        self._wait_for(said)
        return said.read_text().splitlines()

    def type(self, keys: str) -> None:
        """Press keys."""
        self._read(0.05)
        os.write(self.terminal, keys.encode())

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)

    def _read(self, seconds: float) -> None:
        while select.select([self.terminal], [], [], seconds)[0]:
            try:
                self.seen += os.read(self.terminal, 65536)
            except OSError:
                return

    def _wait_for(self, file: Path) -> None:
        end = time.monotonic() + 20
        while not file.exists():
            assert time.monotonic() < end, self.seen.decode(errors="replace")
            self._read(0.05)
