"""Commands as forks of a Python that has loaded everything.

To start Python and to load modules is most of what a short command takes, and the tests run
thousands.  A fork is a process of its own, too, with its arguments, environment, folder and
pipes.  What a command loads by itself is looked at where new ones are started.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, Timer

import sestrack

_TIMEOUT = 120
_FOR_PYTHON = ("LC_", "LANG", "PYTHON", "TZ", "LD_")
"""How variables begin that are read when Python starts."""


class Forks:
    """The Python that is forked; runs a command at a time."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it in an environment."""
        self._environment = environment
        self._busy = Lock()
        self._control, theirs = socket.socketpair()
        self._answers = self._control.makefile("rb")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

    def close(self) -> None:
        """End it."""
        self._answers.close()
        self._control.close()
        self._process.communicate()

    def run(
        self, arguments: Sequence[str], stdin: bytes, folder: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes] | None:
        """Run a command, as `subprocess.run` does; None if it is to be started by itself.

        That is one for which Python would start otherwise, or while another one runs.
        """
        if _for_python(environment) != _for_python(self._environment):
            return None
        if not self._busy.acquire(blocking=False):
            return None
        try:
            return self._run(arguments, stdin, folder, environment)
        finally:
            self._busy.release()

    def _run(
        self, arguments: Sequence[str], stdin: bytes, folder: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        (take, give), (out, says), (err, complains) = os.pipe(), os.pipe(), os.pipe()
        words = json.dumps([list(arguments), str(folder), dict(environment)]).encode()
        socket.send_fds(self._control, [len(words).to_bytes(4, "big")], [take, says, complains])
        self._control.sendall(words)
        for handle in (take, says, complains):
            os.close(handle)
        patience = Timer(_TIMEOUT, os.kill, (int(self._answers.readline()), signal.SIGKILL))
        patience.start()
        with open(out, "rb") as out_, open(err, "rb") as err_, ThreadPoolExecutor(2) as pool:
            pool.submit(_write, give, stdin)
            complaints = pool.submit(err_.read)
            product = out_.read()
            status = int(self._answers.readline())
            patience.cancel()
            return subprocess.CompletedProcess([*arguments], status, product, complaints.result())


def _for_python(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_FOR_PYTHON)}


def _write(handle: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(handle, "wb") as stream:
        stream.write(data)


def serve(control: socket.socket) -> None:
    """Fork for each command that is asked for, and tell how it ended; in a fork, run it."""
    for module in pkgutil.walk_packages(sestrack.__path__, "sestrack."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    gc.freeze()  # what is looked at would be copied
    while True:
        head, handles, *_ = socket.recv_fds(control, 4, 3)
        if not head:
            return
        words = control.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
        number = os.fork()
        if not number:
            control.close()
            become(*json.loads(words), handles)
            return
        for handle in handles:
            os.close(handle)
        control.sendall(f"{number}\n".encode())
        _, status = os.waitpid(number, 0)
        control.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def become(
    arguments: list[str], folder: str, environment: dict[str, str], pipes: list[int]
) -> None:
    """Be the command."""
    for number, handle in enumerate(pipes):
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["sestrack", *arguments]
    sys.path[0] = folder  # as `python -m` has it
    runpy.run_module("sestrack", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
