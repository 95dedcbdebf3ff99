"""The figures: always what a full recount says."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import awake
import pytest
import sqlite_utils
from conftest import Program

from sestrack.engines.interface import Connection
from sestrack.engines.sqlite import APPLICATION_ID
from sestrack.engines.sqlite_schema import migrations
from sestrack.store import Store, initialise, open_for_recording
from sestrack.tracker import visitors
from sestrack.tracker.events import Kind, first_id
from sestrack.tracker.judge import READ_AT_ONCE
from sestrack.tracker.ledger import events
from sestrack.tracker.names import pseudonym
from sestrack.tracker.places import Places
from sestrack.tracker.reclassify import reclassify
from sestrack.tracker.reports import BY, Look, Question, report
from sestrack.tracker.streams import Streams
from sestrack.tracker.upkeep import Upkeep, forget, purge_piece

DAY = 86_400_000
START = 1_780_272_000_000  # 2026-06-01
AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "Mozilla/5.0",
    "curl/8.5.0",
    "",
)
ADDRESSES = ("8.8.8.8", "193.0.6.139", "40.94.1.1", "2001:4860:4860::8888", "", "127.0.0.1")


def fill(connection: Connection, count: int, seed: int, writers: int = 1) -> None:
    """Write events of three messages, forty recipients and three days, some of them in bursts.

    With several writers each event is one or the other's.
    """
    dice = random.Random(seed)  # noqa: S311
    ((before,),) = connection.execute("SELECT count(*) FROM event").fetchall()
    marks = {mark.id: mark.stored for mark in connection.writers()}
    if 0 not in marks:
        for writer in range(1, writers + 1):
            start = first_id(writer)
            marks.setdefault(writer, start)
            connection.insert(
                "writer", ("id", "judged", "stored", "owner"), [(writer, start, start, "")],
                "ON CONFLICT DO NOTHING",
            )  # fmt: skip
    origins, links = [], []
    for index, name in enumerate(("june", "july", "shop"), 1):
        sender = "shop.example.com" if name == "shop" else "news.example.com"
        origins.append((index, sender, name, "trace.example.com"))
        links += [
            (10 * index + number, index, number, f"https://example.com/{number % 3}")
            for number in range(4)
        ]
    again = "ON CONFLICT DO NOTHING"
    connection.insert("origin", ("id", "sender", "message", "trace_domain"), origins, again)
    connection.insert("link", ("id", "origin", "number", "url"), links, again)
    connection.insert("agent", ("id", "text"), list(enumerate(AGENTS, 1)), again)
    connection.number_on()
    at = START + before * 400
    rows = []
    for _ in range(count):
        at += dice.choice((5, 300, 1500, 12 * DAY // count))
        kind = int(dice.choice((Kind.OPEN, Kind.CLICK)))
        origin = dice.randint(1, 3)
        link = 10 * origin + dice.randrange(4) if kind == Kind.CLICK else None
        recipient = dice.choice(["", *(f"r{n}@example.org" for n in range(40))])
        minted = START // 1000 - 60 if dice.random() < 0.9 else at // 1000 - 2
        writer = dice.choice(sorted(marks))
        marks[writer] += 1
        rows.append(
            (marks[writer], at, kind, origin, link, recipient, minted, dice.choice(ADDRESSES),
             dice.randint(1, len(AGENTS)), dice.choice((0, 0, 0, 1, 2))),
        )  # fmt: skip
    connection.insert(
        "event",
        ("id", "at", "kind", "origin", "link", "recipient", "minted", "ip", "agent", "traits"),
        rows,
    )
    if 0 not in marks:
        connection.executemany(
            "UPDATE writer SET stored = ? WHERE id = ?",
            [(stored, writer) for writer, stored in marks.items()],
        )


def recount(connection: Connection, by: str) -> dict[str, tuple[object, ...]]:
    """Count all over from the single events, in another way than the program does."""
    opens: defaultdict[str, Counter[str]] = defaultdict(Counter)
    clicks: defaultdict[str, Counter[str]] = defaultdict(Counter)
    uniques: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seen: set[tuple[object, ...]] = set()
    field = {"domain": "trace_domain", "link": "url"}.get(by, by)

    def unique(name: str, what: str, *key: object) -> None:
        if (what, *key) not in seen:
            seen.add((what, *key))
            uniques[name][what] += 1

    for event in events(connection, Places(), {}):
        day, hour = event["time"][:10], event["time"][:13] + ":00Z"
        name = {"day": day, "hour": hour}.get(by) or event.get(field)
        who = event["visitor"]
        copy = (event["sender"], event["message"], event["trace_domain"], event["recipient"])
        if by == "link":
            if event["kind"] == "click":
                clicks[name][who] += 1
                if event["recipient"]:
                    unique(name, f"click {who}", name, *copy)
            continue
        (opens if event["kind"] == "open" else clicks)[name][who] += 1
        opens[name], clicks[name]
        if not event["recipient"]:
            continue
        if event["kind"] == "open":
            unique(name, f"open {who}", *copy)
        else:
            unique(name, f"click {who}", *copy)
            if who == "person":
                unique(name, "open person", *copy)
        if (event["kind"] == "open" and who != "machine") or who == "person":
            unique(name, "read", *copy)

    def three(counter: Counter[str], start: str = "") -> tuple[int, ...]:
        return tuple(counter[start + who] for who in ("person", "proxy", "machine"))

    return {
        name: (
            three(opens[name]), three(uniques[name], "open "), uniques[name]["read"],
            three(clicks[name]), three(uniques[name], "click "),
        )
        for name in {*opens, *clicks}
    }  # fmt: skip


def reported(look: Look, by: str) -> dict[str, tuple[object, ...]]:
    """Return what the program reports."""
    return {
        line.name: (
            tuple(line.opens),
            tuple(line.openers),
            line.readers,
            tuple(line.clicks),
            tuple(line.clickers),
        )
        for line in report(look, Question(by=by))
    }


def all_reports(path: str) -> dict[str, dict[str, tuple[object, ...]]]:
    """Return every report but that by recipient, which tells only of events that are there."""
    with Store(path) as store:
        look = Look(store.connection, Places())
        return {by: reported(look, by) for by in BY if by != "recipient"}


def check(path: str) -> None:
    """See that every report is what a recount says."""
    with Store(path) as store:
        look = Look(store.connection, Places())
        for by in BY:
            expected = recount(store.connection, by)
            if by == "recipient":
                expected.pop("", None)
            assert reported(look, by) == expected, by


@pytest.fixture
def path(address: str) -> str:
    """Give a store."""
    initialise(address, "edge.example.net", 1)
    return address


@contextmanager
def writing(path: str) -> Iterator[Connection]:
    """Give a connection that writes."""
    with closing(open_for_recording(path)) as connection:
        yield connection


@pytest.mark.parametrize(("seed", "writers"), [(0, 1), (1, 1), (2, 1), (3, 3)])
def test_reports_are_what_a_recount_says(path: str, seed: int, writers: int) -> None:
    """Before, between and after settling."""
    with writing(path) as connection:
        fill(connection, 900, seed, writers)
        check(path)
        upkeep = Upkeep(connection, Places())
        upkeep.settle(None)
        check(path)
        fill(connection, 700, seed + 100, writers)
        upkeep.settle(None)
        check(path)
        upkeep.settle_all()
        check(path)


def test_settling_stops_anywhere(path: str) -> None:
    """A new upkeep goes on where the last one was cut off."""
    with writing(path) as connection:
        fill(connection, 1500, 7)
        while Upkeep(connection, Places()).settle(None):
            pass
        check(path)
        assert connection.execute("SELECT count(*) FROM visit").fetchone() == (1500,)


def test_nothing_is_settled_before_its_time(path: str) -> None:
    """An event is judged for good when the seconds after it are over."""
    with writing(path) as connection:
        fill(connection, 100, 1)
        upkeep = Upkeep(connection, Places())
        assert upkeep.settle(START) == 0
        assert upkeep.settle(int(time.time() * 1000)) == 100


def misdate(connection: Connection, event: int) -> None:
    """Have an event from a clock that is a year ahead."""
    at = int(time.time() * 1000) + 365 * DAY
    connection.make_room("event", ["at"], [(at,)])
    connection.execute("UPDATE event SET at = ? WHERE id = ?", (at, event))


def ids_of(connection: Connection) -> list[int]:
    """Return the ids of all events."""
    return [event for (event,) in connection.execute("SELECT id FROM event ORDER BY id")]


@pytest.mark.parametrize("writers", [1, 3])
def test_a_wrong_clock_holds_up_nothing(path: str, writers: int) -> None:
    """An event of next year is counted, as are those behind it, in the order they came."""
    with writing(path) as connection:
        fill(connection, 49, 12, writers)
        misdate(connection, ids_of(connection)[24])
        now = int(time.time() * 1000)
        upkeep = Upkeep(connection, Places())
        while upkeep.settle(now):
            pass
        assert connection.execute("SELECT count(*) FROM visit").fetchone() == (49,)
        check(path)
        # the last one that there is: as if it came now
        fill(connection, 49, 13, writers)
        misdate(connection, ids_of(connection)[-1])
        while upkeep.settle(now):
            pass
        assert connection.execute("SELECT count(*) FROM visit").fetchone() == (97,)
        assert upkeep.settle(now + 60_000) == 1
        check(path)
        assert reclassify(connection, Places(), lambda: None) == (98, 0)
        check(path)


def test_a_clock_that_was_wrong_for_long_holds_up_nothing(path: str) -> None:
    """More events of next year than are read at once: those behind them are counted at once."""
    with writing(path) as connection:
        fill(connection, READ_AT_ONCE + 200, 14)
        for event in ids_of(connection)[: READ_AT_ONCE + 100]:
            misdate(connection, event)
        upkeep = Upkeep(connection, Places())
        while upkeep.settle(int(time.time() * 1000)):
            pass
        counted = connection.execute("SELECT count(*) FROM visit").fetchone()
        assert counted == (READ_AT_ONCE + 200,)
        check(path)


def test_events_of_a_time_to_come_are_looked_past_once(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many reads it takes to get past them: else each would look at all that are left."""
    looks: list[Sequence[Any]] = []
    with writing(path) as connection:
        fill(connection, 100, 14)
        ids = ids_of(connection)
        for event in ids[:90]:
            misdate(connection, event)
        execute = connection.execute

        def seen(sql: str, values: Sequence[Any] = ()) -> Any:
            if "event.at <=" in sql:
                looks.append(values)
            return execute(sql, values)

        monkeypatch.setattr(connection, "execute", seen)
        streams = Streams(connection, "SELECT event.id, event.at FROM event", {}, at_once=10)
        assert [event for rows in iter(streams.read, []) for event, _ in rows] == ids
    assert len(looks) == 1


def test_a_clock_that_is_wrong_purges_nothing_at_once(
    path: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All events too old, from one moment to the next: that may not be so, and cannot be undone."""
    with writing(path) as connection:
        fill(connection, 100, 3)
        # one that came while it was wrong already, before the server was started once more
        connection.make_room("event", ["at"], [(int(time.time() * 1000),)])
        connection.execute(
            "UPDATE event SET at = ? WHERE id = ?",
            (int(time.time() * 1000) - 1000, ids_of(connection)[-1]),
        )
        upkeep = Upkeep(connection, Places(), 30)
        while upkeep.work():
            pass
        assert len(ids_of(connection)) == 100
        assert "by this machine's clock all events are older" in capfd.readouterr().err
        monkeypatch.setattr("sestrack.tracker.upkeep._SURE", 0.0)
        upkeep = Upkeep(connection, Places(), 30)
        while upkeep.work():
            pass
        assert len(ids_of(connection)) == 1
        assert "99 events purged, older than --keep 30d" in capfd.readouterr().err


def test_figures_of_purged_days_stay(path: str) -> None:
    """Purging takes events and leaves every figure but those by recipient."""
    with writing(path) as connection:
        fill(connection, 1200, 3)
        upkeep = Upkeep(connection, Places())
        upkeep.settle_all()
        before = all_reports(path)
        day = START // DAY + 1
        while purge_piece(connection, day):
            pass
        assert 0 < connection.execute("SELECT count(*) FROM event").fetchone()[0] < 1200
        assert all_reports(path) == before
        # ids are never used again, even when all is gone
        while purge_piece(connection, 2**20):
            pass
        assert [m[2] - m[1] for m in connection.writers()] == [0]
        assert [m[2] - first_id(m[0]) for m in connection.writers()] == [1200]


def test_since_when_the_clock_was_behind(path: str) -> None:
    """Events with a time too early among them hide none of the others."""
    with writing(path) as connection:
        fill(connection, 1, 0)
        ((last, at),) = connection.execute("SELECT id, at FROM event").fetchall()
        times = [at, at, *[at - 400 * DAY] * 20, at]
        columns = "origin, link, recipient, minted, ip, agent, traits"
        for number, time in enumerate(times, last + 1):
            connection.make_room("event", ("id", "at"), [(number, time)])
            connection.execute(
                f"INSERT INTO event (id, at, kind, {columns}) "
                f"SELECT ?, ?, kind, {columns} FROM event WHERE id = ?",
                (number, time, last),
            )
        if len(connection.writers()) == 1 and connection.writers()[0].id:
            connection.execute("UPDATE writer SET stored = ?", (last + len(times),))
        assert len(list(events(connection, Places(), {}, at - DAY))) == 4
        assert len(list(events(connection, Places(), {}))) == 24


def test_what_is_remembered_is_bounded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs and places that readers' programs make up fill no memory."""
    monkeypatch.setattr("sestrack.tracker.figures._CACHED", 3)
    with writing(path) as connection:
        fill(connection, 300, 3)
        upkeep = Upkeep(connection, Places())
        upkeep.settle_all()
        remembered = vars(vars(upkeep)["_figures"])["_interned"]
        assert 0 < len(remembered) <= 3
        check(path)


@pytest.mark.sqlite
def test_a_storm_is_judged_as_fast_as_it_comes(tmp_path: Path) -> None:
    """Twice the clicks on a link of one copy, in the same seconds, take about twice the calls."""

    def calls(clicks: int) -> int:
        name = str(tmp_path / f"{clicks}.db")
        initialise(name, "", 0)
        count = 0

        def count_calls(*_: object) -> None:
            nonlocal count
            count += 1

        with writing(name) as connection:
            connection.insert(
                "origin",
                ("id", "sender", "message", "trace_domain"),
                [(1, "a.example", "june", "t")],
            )
            connection.insert(
                "link", ("id", "origin", "number", "url"), [(1, 1, 0, "https://e.example/")]
            )
            connection.insert("agent", ("id", "text"), [(1, AGENTS[0])])
            connection.insert(
                "event",
                (
                    "id",
                    "at",
                    "kind",
                    "origin",
                    "link",
                    "recipient",
                    "minted",
                    "ip",
                    "agent",
                    "traits",
                ),
                [
                    (
                        number,
                        START + number,
                        int(Kind.CLICK),
                        1,
                        1,
                        "ada",
                        START // 1000 - 60,
                        "",
                        1,
                        0,
                    )
                    for number in range(1, clicks + 1)
                ],
            )
            upkeep = Upkeep(connection, Places())
            sys.setprofile(count_calls)
            try:
                upkeep.settle_all()
            finally:
                sys.setprofile(None)
            assert connection.execute(
                "SELECT count(*) FROM visit WHERE visitor = 0"
            ).fetchone() == (clicks,)
        return count

    assert calls(2000) < 2.5 * calls(1000)


def test_a_wrong_clock_keeps_nothing_from_being_purged(path: str) -> None:
    """What is old goes from behind an event of next year, which stays."""
    with writing(path) as connection:
        fill(connection, 700, 3)
        for place in (0, 300):
            misdate(connection, ids_of(connection)[place])
        Upkeep(connection, Places()).settle_all()
        while purge_piece(connection, START // DAY + 30):
            pass
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM visit").fetchone() == (2,)


def test_what_was_purged_is_known(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while old events go, it is noted that they do: their firsts stand."""
    day = START // DAY + 30

    with writing(path) as connection:
        fill(connection, 100, 3)
        Upkeep(connection, Places()).settle_all()
        assert purge_piece(connection, 1) == 0
        assert connection.execute("SELECT purged_day FROM progress").fetchone() == (0,)
        execute = connection.execute

        def killed(sql: str, values: Sequence[Any] = ()) -> Any:
            if sql.startswith(("ALTER", "DROP", "DELETE FROM event")):
                raise KeyboardInterrupt
            return execute(sql, values)

        monkeypatch.setattr(type(connection), "execute", lambda _, *given: killed(*given))
        with pytest.raises(KeyboardInterrupt):
            purge_piece(connection, day)
        monkeypatch.undo()
        ((noted,),) = connection.execute("SELECT purged_day FROM progress").fetchall()
        ((left,),) = connection.execute("SELECT count(*) FROM visit").fetchall()
        assert (noted, left) in {(day, 100), (0, 100)}
        assert (noted == day) is ("postgresql" in path)  # in SQLite it is one transaction


def test_forgetting_leaves_no_trace(path: str) -> None:
    """The name is in no file; the figures stay as they were."""
    with writing(path) as connection:
        fill(connection, 1200, 5)
        upkeep = Upkeep(connection, Places())
        upkeep.settle_all()
        before = all_reports(path)
        name = "r7@example.org"
        with Store(path) as store:
            hashed = pseudonym(store.who(), name)
        assert forget(connection, [name, hashed], lambda _event: None) > 0
        assert connection.wipe()
        for file in Path(path).parent.iterdir() if os.path.exists(path) else ():
            assert name.encode() not in file.read_bytes(), file
        assert all_reports(path) == before
        check(path)
        fill(connection, 200, 6)
        upkeep.settle_all()
        check(path)


@pytest.mark.sqlite
def test_a_reader_keeps_a_name_in_the_log(ready: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emptying it is tried a few times, each for a moment, and said if in vain."""
    monkeypatch.setattr("sestrack.engines.sqlite._WIPES", 3)
    name = b"r1@example.org"
    log = ready.store.with_name("store.db-wal")
    with writing(ready.address) as connection:
        fill(connection, 300, 2)
        with closing(sqlite3.connect(ready.store, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM event").fetchall()
            forget(connection, [name.decode()], lambda _event: None)
            begun = awake.seconds()
            assert not connection.wipe()
            assert awake.seconds() - begun < 3
            done = ready("events", "forget", "--recipient", name.decode())
            assert b"hint" not in done.stderr
            assert b"when they have ended: sestrack events forget" in done.stderr
            assert name in log.read_bytes()
        assert connection.wipe()
        assert name not in log.read_bytes() + ready.store.read_bytes()


def test_new_rules_move_the_figures(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `reclassify` the figures are what a recount of the new judgements says."""
    with writing(path) as connection:
        fill(connection, 1500, 9)
        upkeep = Upkeep(connection, Places())
        upkeep.settle_all()
        forget(connection, ["r3@example.org"], lambda _event: None)
        assert reclassify(connection, Places(), lambda: None)[1] == 0
        real = visitors.read_agent

        def changed(text: str) -> visitors.Agent:
            agent = real(text)
            if "iPhone" in text:
                return agent._replace(client="Mail", signs=visitors.Reason.ROBOT)
            return agent._replace(signs=visitors.Reason(0)) if "curl" in text else agent

        monkeypatch.setattr("sestrack.tracker.judge.read_agent", changed)
        seen, differently = reclassify(connection, Places(), lambda: None)
        assert differently > 300
        assert seen < 1500  # those of the forgotten are left alone
        check(path)
        fill(connection, 300, 10)
        upkeep.settle_all()
        check(path)


def test_rates_only_over_counted_copies(path: str) -> None:
    """A rate needs the number of copies, and is not made up without it."""
    with writing(path) as connection:
        fill(connection, 300, 2)
        connection.execute("INSERT INTO copies VALUES ('news.example.com', 'june', 80)")
        with Store(path) as store:
            look = Look(store.connection, Places())
            lines = {line.name: line for line in report(look, Question())}
    assert lines["june"].open_rate == lines["june"].readers / 80
    assert (lines["july"].open_rate, lines["july"].copies) == (None, None)
    assert lines["july"].click_to_open is not None


def test_forgetting_leaves_the_figures(ready: Program) -> None:
    """Who was a machine stays one, though what showed it goes, counted before or not."""
    with writing(ready.address) as connection:
        fill(connection, 300, 2)
    reports = [("stats",), ("stats", "--by", "device"), ("stats", "--by", "link", "--json")]
    before = [ready.ok(*report) for report in reports]
    ready.ok("events", "forget", "--recipient", "r1@example.org")
    assert [ready.ok(*report) for report in reports] == before
    assert "r1@example.org" not in ready.ok("events", "export")


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        (Question("message"), True),
        (Question("recipient"), True),
        (Question("day"), False),
        (Question("device"), False),
        (Question("message", since_day=1), False),
    ],
)
def test_click_to_open_where_it_means_something(
    path: str, question: Question, *, shown: bool
) -> None:
    """A click may stand on another day or device than the open: then there is no rate."""
    with writing(path) as connection:
        fill(connection, 300, 2)
    with Store(path) as store:
        look = Look(store.connection, Places())
        rates = [line.click_to_open for line in report(look, question)]
    assert any(rate is not None for rate in rates) is shown
    assert all(rate <= 1 for rate in rates if rate is not None)


def test_stats_as_a_user_reads_it(ready: Program) -> None:
    """Tabs on a pipe, JSON, CSV; times; errors."""
    with writing(ready.address) as connection:
        fill(connection, 300, 2)
    lines = ready.ok("stats").splitlines()
    assert lines[0].split("\t")[:2] == ["message", "readers"]
    assert len(lines) == 4
    assert len({line.count("\t") for line in lines}) == 1
    rows = json.loads(ready.ok("stats", "--json"))
    assert {row["message"] for row in rows} == {"june", "july", "shop"}
    assert ready.ok("stats", "--csv").splitlines()[0].startswith("message,readers,")
    days = json.loads(ready.ok("stats", "--by", "day", "--json"))
    assert [day["day"] for day in days] == sorted(day["day"] for day in days)
    first = days[0]["day"]
    part = json.loads(
        ready.ok("stats", "--by", "day", "--since", first, "--until", first, "--json")
    )
    assert part == days[:1]
    assert len(json.loads(ready.ok("stats", "--by", "link", "--limit", "2", "--json"))) == 2
    assert json.loads(ready.ok("stats", "--since", "1d", "--json")) == []
    assert ready("stats", "--message", "nothing").returncode == 66
    assert ready("stats", "--since", "soon").returncode == 2
    assert ready("stats", "--since", "2026-07-01", "--until", "2026-06-01").returncode == 2
    assert ready("stats", "--by", "weather").returncode == 2


def test_events_as_a_user_reads_them(ready: Program) -> None:
    """Tail, export in three formats, purge, forget, reclassify."""
    with writing(ready.address) as connection:
        fill(connection, 300, 4)
    assert len(ready.ok("events", "tail", "-n", "5").splitlines()) == 6
    rows = [json.loads(line) for line in ready.ok("events", "export").splitlines()]
    start = rows[0]["id"] - 1
    assert [row["id"] - start for row in rows] == list(range(1, 301))
    assert len(ready.ok("events", "export", "--format", "csv").splitlines()) == 301
    later = rows[200]["time"]
    at_once = ready.ok("events", "export", "--since", later).splitlines()  # as it is printed
    assert json.loads(at_once[0])["time"] == later
    part = ready.ok("events", "export", "--since", later[:19] + "Z").splitlines()
    assert len(part) == sum(row["time"][:19] >= later[:19] for row in rows)
    assert ready("events", "export", "--format", "parquet").returncode == 2
    assert ready("events", "export", "-o", "/nowhere/x").returncode == 73
    ready.ok("events", "export", "-o", "all.jsonl")
    assert len((ready.folder / "all.jsonl").read_text().splitlines()) == 300
    ready.ok("events", "export", "-o", "all.CSV")
    assert (ready.folder / "all.CSV").read_text().startswith("id,")
    assert ready("events", "export", "-o", "all.csv", "--format", "jsonl").returncode == 0
    assert (ready.folder / "all.csv").read_text().startswith("{")
    assert b"there were no events" in ready("events", "forget", "--recipient", "nobody@example.org").stderr  # fmt: skip
    ready.ok("events", "forget", "--recipient", "r1@example.org")
    assert "r1@example.org" not in ready.ok("events", "export")
    assert b"judged again" in ready("events", "reclassify").stderr
    ready.ok("events", "purge", "--before", "2026-06-02")
    assert len(ready.ok("events", "export").splitlines()) < 300
    assert ready.ok("events", "export").splitlines()[0].find("2026-06-01") < 0


@pytest.mark.sqlite
def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """`init` adds what came since; until then the message says to run it."""
    program = Program(tmp_path)
    file = sqlite_utils.Database(program.store)
    migrations.apply(file, stop_before="m002_tracking")
    file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    file.execute("PRAGMA user_version = 1")
    file.execute("INSERT INTO key (secret, created_at) VALUES (?, 1)", [bytes(64)])
    file.conn.commit()
    file.close()
    done = program("stats")
    assert done.returncode == 78
    assert b"sestrack init" in done.stderr
    program.ok("init")
    assert program.ok("stats").startswith("message")
    assert [key["id"] for key in json.loads(program.ok("keys", "list", "--json"))] == [1]
