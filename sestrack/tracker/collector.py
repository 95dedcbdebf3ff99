"""The collecting end of the way to the disk: takes what the workers of a server hand over.

One loop reads the workers' batches (`sestrack.tracker.recorder` has their form) and gives
them to `_turn`; whoever stores events says there how, and answers a batch with one octet
when its events are kept.
"""

from __future__ import annotations

import marshal
import selectors
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from sestrack.tracker.counts import NOTHING, Report, Tally

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

TargetRow = tuple[int, tuple[str, str, str], int, str]
"""Kind; sender, message and trace domain; number and URL of the link, -1 and "" for none."""


EventRow = tuple[int, int, str, int, str, bytes, int]
"""An `events.Event`, with the index of its target."""


class Batch(NamedTuple):
    """What a worker handed over at once."""

    lost: int
    """Events that it lost before."""
    rows: list[EventRow]
    targets: list[TargetRow]
    """What the rows name by its index."""


class Worker:
    """What the writer knows of a worker."""

    def __init__(self, link: socket.socket) -> None:
        """Take the writer's end of its link."""
        self.link = link
        self._targets: list[TargetRow] = []
        self._buffer = bytearray()
        self.report = NOTHING

    def read(self) -> tuple[list[Batch], bool]:
        """Return the batches that are here, and whether the worker still lives."""
        try:
            data = self.link.recv(1 << 20)
        except BlockingIOError:
            return [], True
        except OSError:
            data = b""
        self._buffer += data
        batches = []
        while len(self._buffer) >= 4:  # noqa: PLR2004 - the length
            end = 4 + int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < end:
                break
            content = marshal.loads(self._buffer[4:end])  # noqa: S302 - our own worker's
            del self._buffer[:end]
            if type(content) is tuple:
                self.report = Report._make(content)
                continue
            over, lost, new, rows = content
            if over:
                self._targets = []  # a new list: batches read before keep theirs
            self._targets += new
            batches.append(Batch(lost, rows, self._targets))
        return batches, bool(data)


class Collector:
    """Takes batches, and answers them."""

    def __init__(self, log: Callable[..., None]) -> None:
        """Begin without workers; `log` is as `output.note`."""
        self._log = log
        self._selector = selectors.DefaultSelector()
        self.workers: list[Worker] = []
        self._troubles: dict[str, str] = {}
        self.troubled: Callable[[], None] = lambda: None
        """Called when `trouble` has changed."""
        self.give_up_at = float("inf")
        """When to stop trying to write (`time.monotonic`)."""
        self.displaced = ""
        """What has become of the store's file, in words: nobody would find what is written now."""
        self.given_up = 0
        """Events that could not be written."""
        self.owed = 0
        """Events that an earlier server lost, and that the store could not be told of."""
        self.tally: Tally | None = None
        """What counts, where somebody wants to know."""
        self.spool_file = ""
        """Where events wait on disk, if they may."""

    def add(self, worker: Worker) -> None:
        """Take batches from a worker too."""
        worker.link.setblocking(False)  # noqa: FBT003
        self.workers.append(worker)
        self._selector.register(worker.link, selectors.EVENT_READ, worker)

    def take_over(self, other: Collector, batches: list[tuple[Worker, Batch]]) -> None:
        """Go on with another one's workers, and with these batches of theirs."""
        for worker in other.workers:
            other._selector.unregister(worker.link)
            self.add(worker)
        other.workers = []
        self.tally, self.give_up_at = other.tally, other.give_up_at
        self._turn(batches)

    def watch(self, wake: socket.socket) -> None:
        """Look up from waiting when there is something to read here."""
        self._selector.register(wake, selectors.EVENT_READ, None)

    def run(self, going_on: Callable[[], bool]) -> None:
        """Collect until `going_on` says no."""
        while going_on():
            batches = []
            for key, _ in self._selector.select(self._patience()):
                worker = key.data
                if worker is None:
                    key.fileobj.recv(64)  # type: ignore[union-attr]
                    continue
                handed_over, alive = worker.read()
                batches += [(worker, batch) for batch in handed_over]
                if not alive:
                    self._forget(worker)
            self._turn(batches)
        self.finish()

    def finish(self) -> None:
        """Do what is left to do when the workers have ended."""

    @property
    def trouble(self) -> str:
        """What cannot be done now, in words."""
        return "; ".join(
            f"{what}: {trouble}" for what, trouble in self._troubles.items() if trouble
        )

    def _patience(self) -> float:
        """Return how many seconds to wait for a batch."""
        raise NotImplementedError

    def _turn(self, batches: list[tuple[Worker, Batch]]) -> None:
        """Do with what has come, if anything has; answer what is kept."""
        raise NotImplementedError

    def _forget(self, worker: Worker) -> None:
        self._selector.unregister(worker.link)
        worker.link.close()
        self.workers.remove(worker)
        if self.tally is not None:
            self.tally.bury(worker.report)

    def give_up(self, batches: list[tuple[Worker, Batch]]) -> None:
        """Count batches that could not be written, and what their workers had lost."""
        self.given_up += sum(len(batch.rows) + batch.lost for _, batch in batches)
        self._answer(batches, kept=False)

    def _answer(self, batches: list[tuple[Worker, Batch]], *, kept: bool = True) -> None:
        """Say that these batches are kept; or are not, and nobody need wait for them."""
        for worker, _ in batches:
            # one that has gone is not told; what it handed over is kept
            with suppress(OSError):
                worker.link.send(b"\0")
        if self.tally is not None:
            count = self.tally.keep if kept else self.tally.lose
            for _, batch in batches:
                count(batch.rows, batch.targets)

    def _say(self, what: str, trouble: str) -> None:
        """Log trouble once, and its end."""
        if self._troubles.get(what, "") != trouble:
            self._troubles[what] = trouble
            self._log(f"{what}: {trouble or 'over'}", level="warning" if trouble else "info")
            self.troubled()
