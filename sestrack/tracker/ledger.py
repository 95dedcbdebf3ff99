"""Events with what is made of them, one by one: for `events tail` and `events export`.

Read in stretches, each a transaction of its own: one that lasts would keep SQLite from
starting its write-ahead log again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sestrack.times import utc
from sestrack.tracker.events import Kind
from sestrack.tracker.judge import Judge
from sestrack.tracker.visitors import Reason, Visitor

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from sestrack.tracker.judge import Visit
    from sestrack.tracker.places import Places

STRETCH = 5_000
_PLAY_MS = 3_600_000
"""So late may an event be that waited for the disk."""

_SELECT = """
SELECT event.id, at, kind, recipient, message, sender, trace_domain, link.number, url, ip,
    agent.text, minted, country, region, device, client, system, visitor, reasons,
    visit.rules
FROM event
JOIN origin ON origin.id = event.origin
JOIN agent ON agent.id = event.agent
LEFT JOIN link ON link.id = event.link
LEFT JOIN main.visit ON visit.event = event.id
LEFT JOIN main.place ON place.id = visit.place
LEFT JOIN main.program ON program.id = visit.program
WHERE event.id > ? ORDER BY event.id LIMIT ?
"""

FIELDS = (
    "id", "time", "kind", "visitor", "reasons", "recipient", "message", "sender", "trace_domain",
    "link", "url", "ip", "agent", "minted_at", "age", "country", "region", "device", "client",
    "system", "rules",
)  # fmt: skip
"""What an event is told as, in this order.  `age` is in seconds since minting."""


def last_event(connection: sqlite3.Connection, back: int = 0) -> int:
    """Return the id of the last event, or of the one so many before it."""
    row = connection.execute(
        "SELECT id FROM event ORDER BY id DESC LIMIT 1 OFFSET ?", (back,)
    ).fetchone()
    return int(row[0]) if row else 0


def events(
    connection: sqlite3.Connection, places: Places, after: int, since_ms: int = 0,
    until_ms: int = 2**62,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Tell the events behind `after`, in order; those not judged yet are judged for the telling."""
    if since_ms:
        after = max(after, _before(connection, since_ms))
    while rows := connection.execute(_SELECT, (after, STRETCH)).fetchall():
        young: dict[int, Visit] = {}
        if rows[-1][-1] is None:
            first = next(row[0] for row in rows if row[-1] is None)
            for visit in Judge(connection, places, first - 1).judge(None):
                young[visit.event] = visit
                if visit.event >= rows[-1][0]:
                    break
        for row in rows:
            if since_ms <= row[1] < until_ms:
                yield _told(row, young.get(row[0]))
        after = rows[-1][0]


def _before(connection: sqlite3.Connection, since_ms: int) -> int:
    """Return an event before which none is as young as this: ids follow time, nearly."""
    ((low, high),) = connection.execute(
        "SELECT ifnull(min(id), 1) - 1, ifnull(max(id), 0) FROM event"
    ).fetchall()
    while high - low > 1:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT at FROM event WHERE id >= ? ORDER BY id LIMIT 1", (middle,)
        ).fetchone()
        if row and row[0] < since_ms - _PLAY_MS:
            low = middle
        else:
            high = middle
    return int(low)


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
