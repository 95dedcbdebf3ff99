"""The README is held to the program."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pytest
import tour
from postgresql import free_port

from sestrack import errors
from sestrack.cli import COMMANDS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def steady(transcript: str) -> str:
    """Put fixed texts for what differs from run to run."""
    transcript = re.sub(r"sestrack-verify=[0-9a-f]{32}", "sestrack-verify=…", transcript)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-06-01T08:00:00Z", transcript)


def test_the_tour_is_what_the_readme_shows(tmp_path: Path) -> None:
    """The transcript in the README is what the program prints."""
    shown = README.partition("```console\n")[2].partition("```\n")[0]
    assert steady(tour.run(tmp_path)) == shown


@pytest.mark.parametrize("step", ["false", "false | cat"])
def test_the_tour_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A step that fails, on either side of a pipe, ends it, and the server with it."""
    port = free_port()
    monkeypatch.setattr(tour, "_free_port", lambda: port)
    steps = [line for line in tour.STEPS.splitlines() if " init " in line or " serve " in line]
    monkeypatch.setattr(tour, "STEPS", "\n".join([*steps, step]))
    with pytest.raises(subprocess.CalledProcessError):
        tour.run(tmp_path)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_every_command_is_in_the_readme() -> None:
    """No command is forgotten."""
    for command in COMMANDS:
        assert f"| `{command}" in README


def test_every_exit_code_is_in_the_readme() -> None:
    """No exit code is forgotten."""
    table = README.partition("| exit |")[2].partition("\n\n")[0]
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, errors.SestrackError):
            assert re.search(rf"\b{error.code}\b", table), error
