"""Judging again all that was judged, by the rules of now, and making the figures follow.

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

from sestrack.tracker.events import Trait, first_id, writer_of
from sestrack.tracker.figures import FIRST, Cells, Counts, Figures, FirstKey, Urls, count, who
from sestrack.tracker.judge import Judge, Visit
from sestrack.tracker.streams import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sestrack.engines.interface import Connection
    from sestrack.tracker.places import Places
    from sestrack.tracker.streams import Marks

PIECE = 200
"""Visits, or recipients of a message, a transaction."""

_KEPT = """
SELECT event.id, event.at, kind, event.origin, coalesce(event.link, 0), event.recipient, visitor,
    reasons, country, region, device, client, system, rules
FROM event JOIN visit ON visit.event = event.id AND visit.at = event.at
JOIN place ON place.id = visit.place JOIN program ON program.id = visit.program
"""
_TEMPORARY = (
    # what counts differently now
    (
        "CREATE TEMP TABLE again (event BIGINT PRIMARY KEY, at BIGINT, kind BIGINT, origin BIGINT, "
        "link BIGINT, recipient TEXT, visitor BIGINT, reasons BIGINT, country TEXT, region TEXT, "
        "device TEXT, client TEXT, system TEXT, rules BIGINT)"
    ),
    # whose it is
    "CREATE TEMP TABLE pair (origin BIGINT, recipient TEXT, PRIMARY KEY (origin, recipient))",
    # all that they did
    "CREATE TEMP TABLE mine (event BIGINT PRIMARY KEY, at BIGINT, origin BIGINT, recipient TEXT)",
    "CREATE INDEX mine_pair ON mine (origin, recipient)",
    # up to which events it was judged when we began
    "CREATE TEMP TABLE mark (start BIGINT, judged BIGINT)",
)
_SINCE = (
    "NOT EXISTS (SELECT 1 FROM mark WHERE event.id > mark.start AND event.id <= mark.judged) "
    "AND event.id > (SELECT min(judged) FROM mark)"
)
_Pair = tuple[int, str]
"""An origin and a recipient."""


def reclassify(connection: Connection, places: Places, step: Callable[[], None]) -> tuple[int, int]:
    """Judge all events again; return how many there were and how many count differently now."""
    for statement in _TEMPORARY:
        connection.execute(statement)
    marks = {writer: judged for writer, judged, _ in connection.writers()}
    connection.insert(
        "mark", ("start", "judged"), [(first_id(writer), last) for writer, last in marks.items()]
    )
    seen, changed = _judge_again(connection, places, marks, step)
    _recount(connection)
    for table in ("again", "pair", "mine", "mark"):
        connection.execute(f"DROP TABLE {table}")
    return seen, changed


def _judge_again(
    connection: Connection, places: Places, marks: Marks, step: Callable[[], None]
) -> tuple[int, int]:
    """Note in `again` what counts differently; keep new reasons of what does not."""
    seen = changed = 0
    figures = Figures(connection)
    judged = Judge(connection, places, {}).judge(None)
    while news := list(islice(judged, PIECE)):
        own = [new for new in news if new.event <= marks.get(writer_of(new.event), 0)]
        olds: dict[int, Visit] = {}
        for writer in {writer_of(new.event) for new in own}:
            ids = [new.event for new in own if writer_of(new.event) == writer]
            olds |= {
                visit.event: visit
                for visit in _kept(
                    connection, "event.id BETWEEN ? AND ? AND traits & ? = 0",
                    min(ids), max(ids), int(Trait.FORGOTTEN),
                )
            }  # fmt: skip
        same, other = [], []
        for new in own:
            old = olds.get(new.event)
            if old is None:
                continue  # forgotten, or purged meanwhile
            seen += 1
            step()
            if _counts_as(old) == _counts_as(new):
                same.append(new)
            else:
                changed += 1
                other.append(new)
        with connection.transaction():
            _keep(connection, figures, same)
            connection.insert("again", Visit._fields, other)
    return seen, changed


def _recount(connection: Connection) -> None:
    """Take out what was counted and put in what is now, for the recipients of what changed."""
    connection.execute("INSERT INTO pair SELECT DISTINCT origin, recipient FROM again")
    connection.execute(
        "INSERT INTO mine SELECT event.id, event.at, event.origin, event.recipient FROM event "
        "JOIN pair ON pair.origin = event.origin AND pair.recipient = event.recipient "
        "JOIN mark ON event.id > mark.start AND event.id <= mark.judged "
        "WHERE event.recipient <> ''"
    )
    # nobody's events are nobody's first: only those that changed are counted again
    connection.execute(
        "INSERT INTO mine SELECT event, at, origin, recipient FROM again WHERE recipient = ''"
    )
    pairs = connection.execute("SELECT origin, recipient FROM pair").fetchall()
    figures = Figures(connection)
    for start in range(0, len(pairs), PIECE):
        with connection.transaction():
            _recount_some(connection, figures, set(pairs[start : start + PIECE]))


def _recount_some(connection: Connection, figures: Figures, pairs: set[_Pair]) -> None:
    ((key, purged_day),) = connection.execute("SELECT who, purged_day FROM progress").fetchall()
    # what was judged since we began, by the new rules already
    since = [
        visit
        for visit in _kept(connection, _SINCE)
        if visit.recipient and (visit.origin, visit.recipient) in pairs
    ]
    counts: Counts = {}
    for origin, recipient in pairs:
        before = list(
            _kept(
                connection,
                "(event.id, event.at) IN "
                "(SELECT event, at FROM mine WHERE origin = ? AND recipient = ?)",
                origin, recipient,
            )
        )  # fmt: skip
        own = [visit for visit in since if (visit.origin, visit.recipient) == (origin, recipient)]
        news = {
            row[0]: Visit._make(row)
            for row in connection.execute(
                "SELECT * FROM again WHERE origin = ? AND recipient = ?", (origin, recipient)
            )
        }
        someone = who(key, recipient) if recipient else None
        standing = {
            act
            for (act,) in connection.execute(
                "SELECT act FROM first WHERE origin = ? AND who = ? AND day < ?",
                (origin, someone, purged_day),
            )
        }
        after = [news.get(visit.event, visit) for visit in before]
        counted, _ = _replay(before + own, figures.urls, someone, standing)
        _add(counts, counted, -1)
        counted, firsts = _replay(after + own, figures.urls, someone, standing)
        _add(counts, counted, 1)
        if someone is not None:
            connection.execute(
                "DELETE FROM first WHERE origin = ? AND who = ? AND day >= ?",
                (origin, someone, purged_day),
            )
            connection.insert("first", FIRST, [(origin, someone, act, day) for act, day in firsts])
        there = {visit.event for visit in before}  # some may have been purged meanwhile
        _keep(connection, figures, [visit for event, visit in news.items() if event in there])
    figures.add({key: values for key, values in counts.items() if any(values)})
    figures.drop_empty(counts)


def _replay(
    visits: list[Visit], urls: Urls, someone: int | None, standing: set[int]
) -> tuple[Counts, list[tuple[int, int]]]:
    """Count visits as they came; return what they count for, and the firsts and their days."""
    known = set(standing)
    firsts: list[tuple[int, int]] = []

    def note(first: FirstKey, day: int, cells: Cells) -> None:
        act = first[2]
        if act not in known:
            known.add(act)
            firsts.append((act, day))
            values, index = cells
            for value in values:
                value[index] += 1

    counted: Counts = {}
    urls.look_up(visits)
    for visit in visits:
        count(counted, visit, urls[visit.link], someone, note)
    return counted, firsts


def _add(counts: Counts, counted: Counts, sign: int) -> None:
    for key, values in counted.items():
        total = counts.setdefault(key, [0] * len(values))
        for index, value in enumerate(values):
            total[index] += sign * value


def _keep(connection: Connection, figures: Figures, visits: list[Visit]) -> None:
    """Write what was judged anew."""
    connection.executemany(
        "UPDATE visit SET visitor = ?, place = ?, program = ?, reasons = ?, rules = ? "
        "WHERE event = ? AND at = ?",
        [
            (v.visitor, figures.place(v), figures.program(v), v.reasons, v.rules, v.event, v.at)
            for v in visits
        ],
    )


def _kept(connection: Connection, where: str, *values: int | str) -> Iterator[Visit]:
    """Read visits as they were judged, in the order they were counted in."""
    rows = connection.execute(f"{_KEPT} WHERE {where} ORDER BY event.id", values)
    return map(Visit._make, in_order(rows))


def _counts_as(visit: Visit) -> tuple[int | str, ...]:
    return visit.visitor, visit.country, visit.region, visit.device, visit.client, visit.system
