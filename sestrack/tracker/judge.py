"""From events to visits: judges what was recorded, in order, off the way of the responses.

Whether a click was one of several at once is known only when the seconds after it are over.
So the judge reads ahead of what it judges, and waits until an event is `SETTLE_MS` old
before it is judged for good.  Reports judge the few that are younger for themselves, with
what is known by then.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict, deque
from typing import TYPE_CHECKING, NamedTuple

from sestrack.tracker.events import Kind, first_id, writer_of
from sestrack.tracker.streams import Streams
from sestrack.tracker.visitors import BURST_MS, RULES, Agent, is_burst, judge, read_agent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sestrack.engines.interface import Connection
    from sestrack.tracker.places import Places
    from sestrack.tracker.streams import Marks

SETTLE_MS = 10_000
LOOK_BACK = 2_000
"""Events before the first to be judged that are read again, to see bursts begun before it."""
READ_AT_ONCE = 500
AHEAD = 50_000
"""Most events read ahead, some 25 MB: in a storm of them bursts are seen less far."""
_CLICK = int(Kind.CLICK)
_AHEAD_MS = BURST_MS + 1_000
"""A burst, and some play for events that came out of order."""
_AGENTS = 65_536
_NO_CLICKS: dict[int, list[int]] = {}


class Visit(NamedTuple):
    """An event with what is made of it."""

    event: int
    at: int
    kind: int
    origin: int
    link: int
    """0 for an open."""
    recipient: str
    visitor: int
    reasons: int
    country: str
    region: str
    device: str
    client: str
    system: str
    rules: int = RULES


_SELECT = "SELECT id, at, kind, origin, link, recipient, minted, ip, agent, traits FROM event"


_Copy = tuple[int, str, int]
"""Origin, recipient, minting time."""


class _Row(NamedTuple):
    id: int
    at: int
    kind: int
    origin: int
    link: int | None
    recipient: str
    minted: int
    ip: str
    agent: int
    traits: int


class Judge:
    """Judges the events of a store from some of them on."""

    def __init__(
        self, connection: Connection, places: Places, after: Marks, at_once: int = READ_AT_ONCE
    ) -> None:
        """Begin behind the events `after`, one for each writer; read so many at once."""
        self._connection = connection
        self._places = places
        self._after = after
        backs = {w: max(first_id(w), mark - LOOK_BACK) for w, mark in after.items()}
        self._streams = Streams(connection, _SELECT, backs, at_once)
        self._latest = 0
        """The youngest time read."""
        self._queue: deque[tuple[int, _Row]] = deque()
        """Times and events.  The times are those of the stream (`Streams.read_timed`)."""
        self._clicks: defaultdict[_Copy, defaultdict[int, list[int]]] = defaultdict(
            lambda: defaultdict(list)
        )
        """Times of clicks, in order, by copy and link."""
        self._order: deque[tuple[int, _Copy, int, int]] = deque()
        """The same clicks as they were read: moment, copy, link, time."""
        self._agents: dict[int, Agent] = {}
        self.more = True

    def judge(self, now_ms: int | None, reads: int = 2**31) -> Iterator[Visit]:
        """Judge, in order, all that is settled at `now_ms`; all there is without it.

        Reads ahead at most `reads` times; `more` says afterwards whether that was too few.
        May be left before its end, and called again: what was not taken comes next time.
        """
        self.more = True
        while True:
            while self._queue and self._is_settled(self._queue[0][0], now_ms):
                yield self._judge(*self._queue.popleft())
            if self._queue and now_ms is not None and self._queue[0][0] >= now_ms - SETTLE_MS:
                break
            if not reads:
                return
            reads -= 1
            if not self._read():
                break
        # the seconds after the last ones are over, even if nothing came in them
        while self._queue and (now_ms is None or self._queue[0][0] < now_ms - SETTLE_MS):
            yield self._judge(*self._queue.popleft())
        self.more = False

    def _is_settled(self, moment: int, now_ms: int | None) -> bool:
        """Has everything that may bear on it been read, or as much as there is room for?"""
        if self._latest <= moment + _AHEAD_MS and len(self._queue) <= AHEAD:
            return False
        return now_ms is None or moment < now_ms - SETTLE_MS

    def _read(self) -> bool:
        rows = self._streams.read_timed()
        after = self._after
        for moment, values in rows:
            row = _Row._make(values)
            if row.kind == _CLICK and row.recipient:
                copy = (row.origin, row.recipient, row.minted)
                link = row.link or 0
                insort(self._clicks[copy][link], row.at)
                self._order.append((moment, copy, link, row.at))
            if row.id > after.get(writer_of(row.id), 0):
                self._queue.append((moment, row))
            self._latest = max(self._latest, moment)
        return bool(rows)

    def _judge(self, moment: int, row: _Row) -> Visit:
        while self._order and self._order[0][0] < moment - 2 * BURST_MS:
            _, copy, link, at = self._order.popleft()
            links = self._clicks[copy]
            del links[link][bisect_left(links[link], at)]
            if not links[link]:
                del links[link]
            if not links:
                del self._clicks[copy]
        agent = self._agents.get(row.agent) or self._agent(row.agent)
        clicks = self._clicks.get((row.origin, row.recipient, row.minted), _NO_CLICKS)
        visitor, reasons = judge(
            row.kind, agent.signs, row.traits, row.ip, row.at - row.minted * 1000,
            burst=is_burst(row.at, row.link or 0, clicks),
        )  # fmt: skip
        country, region = self._places.find(row.ip)
        return Visit(
            row.id, row.at, row.kind, row.origin, row.link or 0, row.recipient, visitor,
            reasons, country, region, agent.device, agent.client, agent.system,
        )  # fmt: skip

    def _agent(self, number: int) -> Agent:
        row = self._connection.execute("SELECT text FROM agent WHERE id = ?", (number,)).fetchone()
        if len(self._agents) > _AGENTS:
            self._agents.clear()
        self._agents[number] = agent = read_agent(row[0] if row else "")
        return agent
