"""What the tests share: the real program, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


class Program:
    """The installed `sestrack` with a store of its own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store.db"
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in {"VISUAL", "EDITOR"}},
            "SESTRACK_STORE": str(self.store),
            "PYTHONWARNINGS": "error",
        }

    def __call__(
        self, *arguments: str, stdin: bytes = b"", **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it; stdin is a pipe."""
        return subprocess.run(
            [sys.executable, "-m", "sestrack", *arguments],
            input=stdin, capture_output=True, check=False, cwd=self.folder,
            env=self.environment | environment, timeout=120,
        )  # fmt: skip

    def ok(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run it, expect success, return stdout."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Give a program whose store does not exist yet."""
    return Program(tmp_path)


@pytest.fixture
def ready(program: Program) -> Program:
    """Give a program with a trusted sender domain and a trace domain not verified yet."""
    program.ok("init", "--edge", "edge.example.net")
    program.ok("sender", "add", "news.example.com", "--assume-verified")
    program.ok("domain", "create", "trace")
    return program


@pytest.fixture
def tracking(ready: Program) -> Program:
    """Give a program that tracks clicks and opens of news.example.com."""
    from nameserver import NameServer

    with NameServer({}) as server:
        server.add("edge.example.net. 60 IN A 192.0.2.1")
        server.add("trace.example.com. 60 IN CNAME edge.example.net.")
        ready.ok("domain", "verify", "trace.example.com", "--resolver", server.address)
    ready.ok(
        "settings", "enable", "--dimension", "account", "--domain", "trace.example.com",
        "--click", "--open",
    )  # fmt: skip
    return ready
