"""Where the demo plays: a folder of its own, and the real program run in it.

Each command is printed as one would type it, and run as a process of its own whose output
goes where ours goes: a terminal gets tables, a pipe tabs.  Sentences stand as comments of
the shell between them, so that the whole can be pasted into one.

Whatever ends the demo (its end, an error, Ctrl-C, SIGTERM, a closed window), the processes
it started are ended, and the folder is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from typing import TYPE_CHECKING, Any, Self

from sestrack import output
from sestrack.errors import CannotCreate, InputOutputError, SestrackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WIDTH = 80
"""Columns at most for sentences; a command may be longer."""
START_SECONDS = 20.0
END_SECONDS = 10.0
_PROGRAMS = {"sestrack": [sys.executable, "-m", "sestrack"], "python": [sys.executable]}
"""What is meant by a name, wherever PATH leads."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PROMPT, _COMMAND, _SENTENCE, _PLAIN = "\33[1;32m", "\33[1m", "\33[36m", "\33[0m"


class Interruption:
    """Turns signals into exceptions, but not while something is done that must be whole."""

    def __init__(self) -> None:
        """Take the signals."""
        self._holding = False
        self._pending = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Begin."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self._holding:
            self._pending = number
        else:
            self._raise(number)

    def _raise(self, number: int) -> None:
        self._holding = True  # a second one comes in the middle of the end
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back for a moment."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending:
            self._raise(self._pending)

    def hold(self) -> None:
        """Hold them back from here on."""
        self._holding = True


class Stage:
    """The folder and what runs in it."""

    def __init__(self, folder: str, interruption: Interruption) -> None:
        """Take a folder that is there."""
        self.folder = folder
        self._interruption = interruption
        self._environment = {**os.environ, "SESTRACK_STORE": self.path("store.db")}
        self._environment.pop("COLUMNS", None)  # rich would believe it on a pipe, too
        self._servers: dict[subprocess.Popen[bytes], str] = {}
        self._width = max(min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns), 30)
        self._colour = (
            output.is_terminal()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM", "dumb") != "dumb"
        )

    def path(self, name: str) -> str:
        """Return the path of a file in the folder."""
        return os.path.join(self.folder, name)

    def say(self, words: str) -> None:
        """Explain: a blank line, then a comment of the shell."""
        lines = textwrap.wrap(words, self._width - 2, break_on_hyphens=False)
        self._print("\n" + "".join(self._in(_SENTENCE, f"# {line}") + "\n" for line in lines))

    def type(self, line: str) -> None:
        """Print a command; a long one goes on in the next line, as the shell reads it."""
        first, *options = re.split(" (?=--)", line)
        parts = [first]
        for piece in options:
            if len(parts[-1]) + len(piece) < self._width - 4:
                parts[-1] += f" {piece}"
            else:
                parts.append(piece)
        parts[1:] = [f"    {part}" for part in parts[1:]]
        typed = " \\\n".join(self._in(_COMMAND, part) for part in parts)
        self._print(f"{self._in(_PROMPT, '$')} {typed}\n")

    def run(self, line: str) -> None:
        """Type a command and run it.  Raises `SestrackError` if it fails."""
        self.type(line)
        command, _, cut = line.partition(" | ")
        streams = {"stdout": subprocess.PIPE} if cut else {"stderr": subprocess.STDOUT}
        with self._running(command, **streams) as process:
            if cut:
                assert process.stdout is not None
                with process.stdout, self._running(cut, stdin=process.stdout) as last:
                    last.wait()
            code = process.wait()
        self._expect(line, code)

    def take(self, line: str) -> str:
        """Type a command, run it, print what it says; return its stdout."""
        self.type(line)
        with self._running(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            product, talk = process.communicate()
            output.write_bytes(product + talk)
        self._expect(line, process.returncode)
        return product.decode()

    def start(self, line: str, is_ready: Callable[[str], str]) -> str:
        """Type a command that stays; return what `is_ready` finds in its words, once it does."""
        log = self.path("serve.log")
        self.type(f"{line} 2> serve.log &")
        with self._interruption.held(), open(log, "wb") as words:
            process = self._popen(line, stderr=words)
            self._servers[process] = line
        deadline = time.monotonic() + START_SECONDS
        while True:
            with open(log, encoding="utf-8", errors="replace") as file:
                said = file.read()
            if found := is_ready(said):
                return found
            self.expect_servers()
            if time.monotonic() > deadline:
                raise self._failed(line, f"says nothing: {said.strip()}")
            time.sleep(0.02)

    def expect_servers(self) -> None:
        """Raise `SestrackError` if a server has ended."""
        for process, line in self._servers.items():
            if process.poll() is not None:
                with open(self.path("serve.log"), encoding="utf-8", errors="replace") as file:
                    raise self._failed(line, f"ended: {file.read().strip()}")

    def end(self) -> None:
        """End what was started, and remove the folder."""
        for process in self._servers:
            process.terminate()
        for process in self._servers:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its workers, too
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _popen(self, line: str, **streams: Any) -> subprocess.Popen[bytes]:
        program, *arguments = shlex.split(line)
        start = _PROGRAMS.get(program, [program])
        return subprocess.Popen(  # noqa: S603 - the lines are our own
            [*start, *arguments], cwd=self.folder, env=self._environment,
            start_new_session=True,  # so that Ctrl-C is ours alone
            **{"stdin": subprocess.DEVNULL, **streams},
        )  # fmt: skip

    @contextlib.contextmanager
    def _running(self, line: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command; it does not outlive us."""
        process = None
        try:
            with self._interruption.held():
                process = self._popen(line, **streams)
            yield process
        finally:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def _expect(self, line: str, code: int) -> None:
        if code == InputOutputError.code and _nobody_reads():  # else the disk is full
            msg = "nobody reads the demo any more"
            raise InputOutputError(msg)
        if code:
            raise self._failed(line, f"ended with {code}")

    @staticmethod
    def _failed(line: str, how: str) -> SestrackError:
        return SestrackError(f"in the demo, `{line}` {how}", "what it said stands above")

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colour else text

    @staticmethod
    def _print(text: str) -> None:
        output.write_bytes(text.encode())


def _nobody_reads() -> bool:
    """Has the other end of our stdout, a pipe or a terminal, been closed?"""
    poll = select.poll()
    poll.register(1, 0)  # these two are told unasked
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Set the stage in a new folder that only we can read; leave nothing of it behind."""
    with Interruption() as interruption:
        folder = os.path.join(tempfile.gettempdir(), f"sestrack-demo-{secrets.token_hex(4)}")
        given = Stage(folder, interruption)
        try:
            try:
                _make(folder)
                yield given
            finally:
                interruption.hold()
        finally:  # even if a signal came just before
            given.end()


def _make(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except OSError as error:
        msg = f"cannot create {folder}: {error.strerror}"
        raise CannotCreate(msg, "TMPDIR=/var/tmp sestrack demo") from None
