"""The same answers and the same durability behind granian's RSGI, for `server.py`.

Group commit as `sestrack.tracker.writer` does it, in the worker itself: what comes in one turn
of the event loop makes one transaction, and is answered after it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from sestrack import output
from sestrack.store import Store, open_for_recording
from sestrack.tracker.answers import Answers
from sestrack.tracker.collector import Batch, Worker
from sestrack.tracker.writer import Writer

if TYPE_CHECKING:
    import asyncio

    from sestrack.tracker.events import Event, Target


class Link:
    """Where the writer says that a batch is on disk: nobody needs to be told."""

    def send(self, _octets: bytes) -> None:
        """Take it."""


class App:
    """An RSGI application."""

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the store."""
        path = os.environ["STORE"]
        with Store(path) as store:
            self.answers = Answers([(k.id, k.secret) for k in store.keys()], store.settings())  # noqa: SIM118
        self.connection = open_for_recording(path)
        self.writer = Writer(self.connection, lambda: False, output.note)
        self.worker = Worker(Link())  # type: ignore[arg-type]
        self.loop = loop
        self.targets: list[tuple[int, tuple[str, str, str], int, str]] = []
        self.events: list[Event] = []
        self.waiting: list[asyncio.Future[None]] = []

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Close the store."""
        self.connection.close()

    def introduce(self, target: Target) -> int:
        """Give a target its index."""
        target.index = len(self.targets)
        self.targets.append((int(target.kind), tuple(target.origin), target.number, target.url))  # type: ignore[arg-type]
        return target.index

    def flush(self) -> None:
        """Write what came, and answer it."""
        events, self.events = self.events, []
        waiting, self.waiting = self.waiting, []
        self.writer._held.append((self.worker, Batch(0, events, self.targets)))  # noqa: SLF001
        self.writer._write()  # noqa: SLF001
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        headers = scope.headers
        answer, target, recipient, minted = self.answers.find(
            headers.get("host", "").encode(), scope.path.encode()
        )
        if target is not None:
            if target.index < 0:
                self.introduce(target)
            if not self.events:
                self.loop.call_soon(self.flush)
            self.events.append((
                time.time_ns() // 1_000_000, target.index, recipient, minted,
                scope.client.rpartition(":")[0], headers.get("user-agent", "").encode(), 0,
            ))  # fmt: skip
            future = self.loop.create_future()
            self.waiting.append(future)
            await future
        fields = [
            tuple(line.split(": ", 1))
            for line in answer.head.decode().split("\r\n")
            if line and not line.startswith("Content-Length")
        ]
        protocol.response_bytes(int(answer.status[9:12]), fields, answer.tail[len(answer.head) :])


app = App()
