"""The recorder: a worker's side of the way to the disk.

Events that come in one turn of the event loop go to the writer together
(`sestrack.tracker.writer`, another process), and their answers go out when it says that
they are on disk.  While it has as many batches as it may, the next one gathers: the slower
the disk, the larger the batches.

A disk that stalls, or is full, holds up nobody: answers that have waited `PATIENCE`
seconds go out, while their events stay here and are written when they can be; when it has stood
still for `STANDSTILL` seconds, answers wait for it no more.  Past `ROOM` of them, events are lost,
and counted.

A batch is a length (4 octets, big endian) and a marshalled list: whether the targets
introduced before are to be forgotten, how many events were lost, the targets introduced now,
and the events.  The writer answers one octet a batch.  A marshalled tuple is a report of what
was counted here (`sestrack.tracker.counts`), and not answered.
"""

from __future__ import annotations

import asyncio
import marshal
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from sestrack.tracker.counts import Delays

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sestrack.tracker.events import Event, Target

PATIENCE = 0.2
"""Seconds an answer waits for the disk; looked at every `_LOOK`, so 250 ms at most."""
_LOOK = 0.025
STANDSTILL = 1.0
"""Seconds without a word from the disk after which nobody waits for it."""
ROOM = 200_000
"""Events that may wait in memory, some 100 MB."""


IN_FLIGHT = 8
"""Batches that the writer may have, so that neither side waits for the other."""


class _Batch(NamedTuple):
    events: int
    answers: list[tuple[Channel, bytes]]
    since: float


class Channel(Protocol):
    """Where an answer goes."""

    def send(self, response: bytes) -> None:
        """Send it.  Never raises."""


class Recorder(asyncio.Protocol):
    """Hands events to the writer, in the order they come, and sends their answers after."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        gone: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        """Begin; `gone` is called when the writer has gone away."""
        self._loop = loop
        self._gone = gone
        self._warn = warn
        self._link: asyncio.WriteTransport | None = None
        self._events: list[Event] = []
        self._answers: list[tuple[Channel, bytes]] = []
        self._since = 0.0
        """When the first of the answers came."""
        self._sent: deque[_Batch] = deque()
        """What the writer has and has not written yet."""
        self._scheduled = False
        self._stands_still = False
        self.introduced = 0
        """How many targets the writer keeps in mind for us."""
        self._over = False
        self._new: list[tuple[int, tuple[str, ...], int, str]] = []
        """Targets that the writer was not told of yet."""
        self.lost = 0
        """Events lost that the writer was not told of yet."""
        self._lost_before = 0
        self._delays = Delays()
        self._watch()

    # -- what a connection calls ----------------------------------------------------------

    def introduce(self, target: Target) -> int:
        """Give a target the index that events name it by."""
        target.index = self.introduced
        self.introduced += 1
        self._new.append((int(target.kind), tuple(target.origin), target.number, target.url))
        return target.index

    def start_over(self) -> None:
        """Have the writer forget all targets; those introduced so far must not come again."""
        if self._events or self._new:
            self._hand_over(wait=False)
        self.introduced = 0
        self._over = True

    def record(self, event: Event, channel: Channel, response: bytes) -> None:
        """Have the event written, then send the response."""
        if len(self._events) < ROOM:
            self._events.append(event)
        else:
            self.lost += 1
            if self.lost & (self.lost - 1) == 0:
                lost = "1 event is" if self.lost == 1 else f"{self.lost} events are"
                self._warn(f"{lost} lost: the disk stands still, memory is full")
        if not self._answers:
            self._begin()
        self._answers.append((channel, response))

    def answer(self, channel: Channel, response: bytes) -> None:
        """Send a response behind those that wait already."""
        if not self._answers:
            self._begin()
        self._answers.append((channel, response))

    def _begin(self) -> None:
        """Begin a batch, to be handed over at the end of this turn of the loop."""
        self._since = monotonic()  # the loop's own clock stands still within a turn
        if not self._scheduled and len(self._sent) < IN_FLIGHT:
            self._scheduled = True
            self._loop.call_soon(self._hand_over)

    @property
    def waiting(self) -> int:
        """How many events are not known to be on disk."""
        return len(self._events) + sum(batch.events for batch in self._sent)

    # -- the writer -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to hand over."""
        self._link = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Send the answers of the batches that are on disk."""
        done = [self._sent.popleft() for _ in data]
        if self._events:
            self._hand_over()  # the writer works while the answers are sent
        now = monotonic()
        self._stands_still = False
        for batch in done:
            self._release(batch.answers, now - batch.since)
        if self._answers:
            self._hand_over()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Stop: without a writer nothing can be kept."""
        if self._link is not None:
            self._link = None
            self._gone()

    def close(self) -> None:
        """Hang up; nothing may be waiting."""
        if self._link is not None:
            link, self._link = self._link, None
            link.close()

    def _hand_over(self, *, wait: bool = True) -> None:
        self._scheduled = False
        if wait and len(self._sent) >= IN_FLIGHT:
            return
        events, answers = self._events, self._answers
        self._events, self._answers = [], []
        if not self._sent and not events and not self.lost:
            _send(answers)
            return
        self._sent.append(_Batch(len(events), answers, self._since))
        if self._stands_still:
            self._release(answers, monotonic() - self._since)
        lost, self.lost = self.lost, 0
        self._lost_before += lost
        new, self._new = self._new, []
        over, self._over = self._over, False
        self._write([over, lost, new, events])

    def _write(self, content: list[Any] | tuple[Any, ...]) -> None:
        frame = marshal.dumps(content)
        if self._link is not None:
            self._link.write(len(frame).to_bytes(4, "big") + frame)

    def report(self, replies: Mapping[bytes, int], connections: int, refused: int) -> None:
        """Tell the writer what was counted here so far."""
        delays, lost, waiting = self._delays, self._lost_before + self.lost, self.waiting
        counted = (delays.classes, delays.total, replies, lost, waiting, connections, refused)
        self._write(counted)

    def _watch(self) -> None:
        """Let nobody wait for the disk longer than `PATIENCE`."""
        now = monotonic()
        self._stands_still = bool(self._sent) and self._sent[0].since < now - STANDSTILL
        before = now if self._stands_still else now - PATIENCE
        for batch in self._sent:
            if batch.since < before:
                self._release(batch.answers, now - batch.since)
        if self._since < before:
            self._release(self._answers, now - self._since)
        self._loop.call_later(_LOOK, self._watch)

    def _release(self, answers: list[tuple[Channel, bytes]], waited: float) -> None:
        """Send answers, the first of which waited so many seconds."""
        self._delays.add(len(answers), waited)
        _send(answers)
        answers.clear()


def _send(answers: list[tuple[Channel, bytes]]) -> None:
    for channel, response in answers:
        channel.send(response)
