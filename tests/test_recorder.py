"""The way to the disk: recorder and writer, over a real socket and into a real store."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from postgresql import until

from sestrack import output
from sestrack.store import initialise, open_for_recording
from sestrack.tracker import checkpoint
from sestrack.tracker.collector import Worker
from sestrack.tracker.events import Kind, Origin, Target
from sestrack.tracker.recorder import Recorder
from sestrack.tracker.writer import Writer


class Channel:
    """Notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, response: bytes) -> None:
        """Note it."""
        self.sent.append(response)


def test_targets_are_forgotten_in_order(tmp_path: Path) -> None:
    """After starting over an index means another target, and events before keep theirs."""
    path = str(tmp_path / "store.db")
    initialise(path, "edge.example.net", 1)
    ours, theirs = socket.socketpair()
    channel = Channel()

    def write() -> None:
        with closing(open_for_recording(path)) as connection:
            writer = Writer(connection, lambda: False, output.note)
            writer.add(Worker(ours))
            writer.run(lambda: bool(writer.workers))

    async def record() -> None:
        loop = asyncio.get_running_loop()
        _, recorder = await loop.create_connection(
            lambda: Recorder(loop, lambda: None, print), sock=theirs
        )
        for number in range(40):
            if number % 7 == 0:
                recorder.start_over()
            target = Target(Kind.OPEN, Origin("news.example.com", f"m{number}", "t.example.com"))
            index = recorder.introduce(target)
            event = (number, index, f"r{number}", 1, "", b"agent", 0)
            recorder.record(event, channel, b"%d" % number)
            recorder.answer(channel, b"and then")
            if number % 3 == 0:
                await asyncio.sleep(0.001)
        while recorder.waiting:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.01)
        recorder.close()

    thread = threading.Thread(target=write)
    thread.start()
    asyncio.run(record())
    thread.join()
    with closing(open_for_recording(path)) as connection:
        rows = connection.execute(
            "SELECT message, recipient FROM event JOIN origin ON origin.id = event.origin "
            "ORDER BY event.id"
        ).fetchall()
    assert rows == [(f"m{number}", f"r{number}") for number in range(40)]
    assert channel.sent == [x for number in range(40) for x in (b"%d" % number, b"and then")]


class Failing(sqlite3.Connection):
    """Cannot begin its log again."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Run it, or fail."""
        if "RESTART" in sql:
            raise sqlite3.OperationalError
        return super().execute(sql, *values)


def test_a_checkpoint_that_fails_leaves_the_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer waits for others as long as before."""
    monkeypatch.setattr(checkpoint, "TOO_LONG", 0)
    path = tmp_path / "store.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None, factory=Failing)) as writer,
        closing(sqlite3.connect(path, isolation_level=None)) as reader,
    ):
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA busy_timeout = 5000")
        writer.execute("CREATE TABLE t (x)")
        checkpointer = checkpoint.Checkpointer(writer, 0)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()  # the log cannot be moved beyond this
        writer.execute("INSERT INTO t VALUES (1)")
        checkpointer.written(checkpoint.ROWS, 1)
        with pytest.raises(sqlite3.OperationalError):
            until(lambda: checkpointer.written(0, 2))
        assert writer.execute("PRAGMA busy_timeout").fetchone() == (5000,)
