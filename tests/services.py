"""Real servers from the distribution's packages, started by the tests that need them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

PACKAGES = {
    "nginx": "nginx-light", "haproxy": "haproxy", "caddy": "caddy", "pebble": "pebble",
    "knotd": "knot", "keymgr": "knot", "unbound": "unbound", "postgres": "postgresql",
    "bash": "bash", "zsh": "zsh", "fish": "fish",
}  # fmt: skip
"""Which Debian package a program comes from."""


def program(name: str) -> str:
    """Return the path of a program; without it the test is left out, but not in the gate."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        missing(name, PACKAGES[name])
    return path


def missing(name: str, package: str) -> NoReturn:
    """Leave the test out; fail it in the gate, which has installed all servers."""
    message = f"{name} is not installed: apt-get install {package}"
    if os.environ.get("SESTRACK_SERVICES") == "required":
        pytest.fail(message)
    pytest.skip(message)


def _takes_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def running(
    command: list[str], port: int, folder: Path, environment: Mapping[str, str] | None = None,
    *others: int,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Run a server until the test ends; it is ready when `port`, and others, take connections."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=folder,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    try:
        for _ in range(400):
            if all(map(_takes_connections, (port, *others))):
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        else:
            raise AssertionError(log.read_text())
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)
