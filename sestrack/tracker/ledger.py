"""Events with what is made of them, one by one: for `events tail` and `events export`.

Read in stretches, each a transaction of its own: one that lasts would keep SQLite from
starting its write-ahead log again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sestrack.times import utc
from sestrack.tracker.events import Kind, first_id, writer_of
from sestrack.tracker.judge import Judge
from sestrack.tracker.streams import Streams
from sestrack.tracker.visitors import Reason, Visitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sestrack.engines.interface import Connection
    from sestrack.tracker.judge import Visit
    from sestrack.tracker.places import Places
    from sestrack.tracker.streams import Marks

STRETCH = 5_000

_SELECT = """
SELECT event.id, event.at, kind, recipient, message, sender, trace_domain, link.number, url, ip,
    agent.text, minted, country, region, device, client, system, visitor, reasons,
    visit.rules
FROM event
JOIN origin ON origin.id = event.origin
JOIN agent ON agent.id = event.agent
LEFT JOIN link ON link.id = event.link
LEFT JOIN visit ON visit.event = event.id AND visit.at = event.at
LEFT JOIN place ON place.id = visit.place
LEFT JOIN program ON program.id = visit.program
"""

FIELDS = (
    "id", "time", "kind", "visitor", "reasons", "recipient", "message", "sender", "trace_domain",
    "link", "url", "ip", "agent", "minted_at", "age", "country", "region", "device", "client",
    "system", "rules",
)  # fmt: skip
"""What an event is told as, in this order.  `age` is in seconds since minting."""


def marks_back(connection: Connection, back: int = 0) -> dict[int, int]:
    """Return the events, one of each writer, that the last so many of all come after."""
    marks = {writer: stored for writer, _, stored in connection.writers()}
    last = sorted(
        (at, number)
        for writer, stored in marks.items()
        for number, at in connection.execute(
            "SELECT id, at FROM event WHERE id > ? AND id <= ? ORDER BY id DESC LIMIT ?",
            (first_id(writer), stored, back),
        )
    )
    for _, number in last[-back:] if back else ():
        writer = writer_of(number)
        marks[writer] = min(marks[writer], number - 1)
    return marks


def events(
    connection: Connection, places: Places, after: Marks, since_ms: int = 0,
    until_ms: int = 2**62,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Tell the events behind `after`, in order; those not judged yet are judged for the telling."""
    if since_ms:
        after = _before(connection, since_ms)
    judged = {writer: mark for writer, mark, _ in connection.writers()}
    young: dict[int, Visit] = {}
    judging = Judge(connection, places, judged).judge(None)
    streams = Streams(connection, _SELECT, after, STRETCH)
    while rows := streams.read():
        for row in rows:
            visit = None
            if row[-1] is None:
                visit = _find(young, judging, row[0])
                if visit is None:
                    continue  # purged meanwhile
            if since_ms <= row[1] < until_ms:
                yield _told(row, visit)


def _find(young: dict[int, Visit], judging: Iterator[Visit], event: int) -> Visit | None:
    """Return what is made of an event; the judge comes by it in about the same order."""
    while event not in young:
        visit = next(judging, None)
        if visit is None:
            return None
        young[visit.event] = visit
    return young.pop(event)


def _before(connection: Connection, since_ms: int) -> dict[int, int]:
    """Return the events before the first ones that are as young as this.

    Each is looked at: a clock that was behind for a while gave ids that do not follow time.
    """
    marks = {}
    for writer, _, stored in connection.writers():
        row = connection.execute(
            "SELECT id FROM event WHERE id > ? AND id <= ? AND at >= ? ORDER BY id LIMIT 1",
            (first_id(writer), stored, since_ms),
        ).fetchone()
        marks[writer] = row[0] - 1 if row else stored
    return marks


def _told(row: tuple[Any, ...], visit: Visit | None) -> dict[str, Any]:
    (
        number, at, kind, recipient, message, sender, trace_domain, link, url, ip, agent, minted,
        country, region, device, client, system, visitor, reasons, rules,
    ) = row  # fmt: skip
    if visit is not None:
        visitor, reasons, rules = visit.visitor, visit.reasons, visit.rules
        country, region = visit.country, visit.region
        device, client, system = visit.device, visit.client, visit.system
    values = (
        number, f"{_second(at // 1000)[:-1]}.{at % 1000:03d}Z", _KINDS[kind], _VISITORS[visitor],
        _codes(reasons), recipient, message, sender, trace_domain, link, url, ip, agent,
        _second(minted), at // 1000 - minted, country, region, device, client, system, rules,
    )  # fmt: skip
    return dict(zip(FIELDS, values, strict=True))


_KINDS = {int(kind): kind.name.lower() for kind in Kind}
_VISITORS = {int(visitor): visitor.name.lower() for visitor in Visitor}
_second = lru_cache(4096)(utc)


@lru_cache(4096)
def _codes(reasons: int) -> list[str]:
    return Reason(reasons).codes
