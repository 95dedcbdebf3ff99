"""Judging again what was judged by older rules, and making the figures follow.

First every event is judged anew, and those that count differently now are noted, in a
temporary table.  Then, for some of their recipients at a time, what all their events of the
message had been counted as is taken out of the tallies, and what they are now is put in, in
one transaction with their visits.  So the figures are right at any moment, the server goes
on, and memory stays flat.

What was purged stays counted as it was: the firsts of purged days still stand.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from sestrack.store import transaction
from sestrack.tracker.events import Trait
from sestrack.tracker.figures import Counts, Figures, count, who
from sestrack.tracker.judge import Judge, Visit

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from sestrack.tracker.places import Places

PIECE = 200
"""Visits, or recipients of a message, a transaction."""

_KEPT = """
SELECT event.id, at, kind, event.origin, ifnull(event.link, 0), event.recipient, visitor, reasons,
    country, region, device, client, system, rules
FROM event JOIN visit ON visit.event = event.id JOIN place ON place.id = visit.place
JOIN program ON program.id = visit.program
"""
_Pair = tuple[int, str]
"""An origin and a recipient."""


def reclassify(
    connection: sqlite3.Connection, places: Places, step: Callable[[], None]
) -> tuple[int, int]:
    """Judge all events again; return how many there were and how many count differently now."""
    connection.execute("PRAGMA temp_store = FILE")
    connection.execute(
        "CREATE TEMP TABLE again (event INTEGER PRIMARY KEY, at, kind, origin, link, recipient, "
        "visitor, reasons, country, region, device, client, system, rules)"
    )
    connection.execute(
        "CREATE TEMP TABLE pair (origin, recipient, PRIMARY KEY (origin, recipient))"
    )
    connection.execute("CREATE TEMP TABLE mine (event INTEGER PRIMARY KEY, origin, recipient)")
    ((last,),) = connection.execute("SELECT judged FROM progress").fetchall()
    seen, changed = _judge_again(connection, places, last, step)
    _recount(connection, last)
    for table in ("again", "pair", "mine"):
        connection.execute(f"DROP TABLE temp.{table}")
    return seen, changed


def _judge_again(
    connection: sqlite3.Connection, places: Places, last: int, step: Callable[[], None]
) -> tuple[int, int]:
    """Note in `again` what counts differently; keep new reasons of what does not."""
    seen = changed = 0
    figures = Figures(connection)
    judged = Judge(connection, places, 0).judge(None)
    while news := list(islice(judged, PIECE)):
        olds = {
            visit.event: visit
            for visit in _kept(
                connection, "event.id BETWEEN ? AND ? AND traits & ? = 0",
                news[0].event, min(news[-1].event, last), int(Trait.FORGOTTEN),
            )
        }  # fmt: skip
        same = []
        for new in news:
            old = olds.get(new.event)
            if old is None:
                continue  # forgotten, purged meanwhile, or judged after we began
            seen += 1
            step()
            if _counts_as(old) == _counts_as(new):
                same.append(new)
            else:
                changed += 1
                connection.execute(f"INSERT INTO temp.again VALUES ({_MARKS})", new)
        with transaction(connection):
            _keep(connection, figures, same)
        if news[-1].event >= last:
            break
    return seen, changed


def _recount(connection: sqlite3.Connection, last: int) -> None:
    """Take out what was counted and put in what is now, for the recipients of what changed."""
    connection.execute("INSERT INTO temp.pair SELECT DISTINCT origin, recipient FROM temp.again")
    connection.execute(
        "INSERT INTO temp.mine SELECT id, origin, recipient FROM event "
        "JOIN temp.pair USING (origin, recipient) WHERE id <= ? AND recipient <> ''",
        (last,),
    )
    # nobody's events are nobody's first: only those that changed are counted again
    connection.execute(
        "INSERT INTO temp.mine SELECT event, origin, recipient FROM temp.again WHERE recipient = ''"
    )
    connection.execute("CREATE INDEX temp.mine_pair ON mine (origin, recipient)")
    pairs = connection.execute("SELECT origin, recipient FROM temp.pair").fetchall()
    figures = Figures(connection)
    for start in range(0, len(pairs), PIECE):
        with transaction(connection):
            _recount_some(connection, figures, set(pairs[start : start + PIECE]), last)


def _recount_some(
    connection: sqlite3.Connection, figures: Figures, pairs: set[_Pair], last: int
) -> None:
    ((key, purged_day),) = connection.execute("SELECT who, purged_day FROM progress").fetchall()
    # what was judged since we began, by the new rules already
    since = [
        visit
        for visit in _kept(connection, "event.id > ?", last)
        if visit.recipient and (visit.origin, visit.recipient) in pairs
    ]
    counts: Counts = {}
    for origin, recipient in pairs:
        before = list(
            _kept(
                connection,
                "event.id IN (SELECT event FROM temp.mine WHERE origin = ? AND recipient = ?)",
                origin, recipient,
            )
        )  # fmt: skip
        own = [visit for visit in since if (visit.origin, visit.recipient) == (origin, recipient)]
        news = {
            row[0]: Visit._make(row)
            for row in connection.execute(
                "SELECT * FROM temp.again WHERE origin = ? AND recipient = ?", (origin, recipient)
            )
        }
        someone = who(key, recipient) if recipient else None
        standing = {
            what
            for (what,) in connection.execute(
                "SELECT what FROM first WHERE origin = ? AND who = ? AND day < ?",
                (origin, someone, purged_day),
            )
        }
        after = [news.get(visit.event, visit) for visit in before]
        _replay(counts, before + own, someone, standing, sign=-1)
        firsts = _replay(counts, after + own, someone, standing, sign=1)
        if someone is not None:
            connection.execute(
                "DELETE FROM first WHERE origin = ? AND who = ? AND day >= ?",
                (origin, someone, purged_day),
            )
            connection.executemany(
                "INSERT INTO first (origin, who, what, day) VALUES (?, ?, ?, ?)",
                [(origin, someone, what, day) for what, day in firsts],
            )
        there = {visit.event for visit in before}  # some may have been purged meanwhile
        _keep(connection, figures, [visit for event, visit in news.items() if event in there])
    figures.add({key: values for key, values in counts.items() if any(values)})
    figures.drop_empty(counts)


def _replay(
    counts: Counts, visits: list[Visit], someone: int | None, standing: set[int], *, sign: int
) -> list[tuple[int, int]]:
    """Count visits as they came, or take them out again; return the firsts and their days."""
    known = set(standing)
    firsts: list[tuple[int, int]] = []

    def first(_origin: int, _someone: int, what: int, day: int) -> int:
        if what in known:
            return 0
        known.add(what)
        firsts.append((what, day))
        return 1

    counted: Counts = {}
    for visit in visits:
        count(counted, visit, someone, first)
    for key, values in counted.items():
        total = counts.setdefault(key, [0] * len(values))
        for index, value in enumerate(values):
            total[index] += sign * value
    return firsts


def _keep(connection: sqlite3.Connection, figures: Figures, visits: list[Visit]) -> None:
    """Write what was judged anew."""
    connection.executemany(
        "UPDATE visit SET visitor = ?, place = ?, program = ?, reasons = ?, rules = ? "
        "WHERE event = ?",
        [
            (v.visitor, figures.place(v), figures.program(v), v.reasons, v.rules, v.event)
            for v in visits
        ],
    )


def _kept(connection: sqlite3.Connection, where: str, *values: int | str) -> Iterator[Visit]:
    """Read visits as they were judged, in the order of their events."""
    rows = connection.execute(f"{_KEPT} WHERE {where} ORDER BY event.id", values)
    return map(Visit._make, rows)


def _counts_as(visit: Visit) -> tuple[int | str, ...]:
    return visit.visitor, visit.country, visit.region, visit.device, visit.client, visit.system


_MARKS = ", ".join("?" for _ in Visit._fields)
