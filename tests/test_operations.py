"""Running it for years: backups, logs for machines, metrics, what systemd starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Program, Server, as_nobody
from postgresql import free_port, until
from prometheus_client.parser import text_string_to_metric_families

from sestrack import files, output
from sestrack.backups import restore
from sestrack.engines import sqlite_health
from sestrack.errors import NoPermission
from sestrack.store import Store

LETTER = '<body><a href="https://www.example.com/a">a</a></body>'
Serve = Callable[..., Server]


# -- backup and restore --------------------------------------------------------------------------


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Ask a file of SQLite."""
    with closing(sqlite3.connect(path)) as store:
        return store.execute(sql).fetchall()


def test_a_backup_while_serving_is_whole(tracking: Program, serve: Serve) -> None:
    """Under load: nobody waits long, the file is consistent, and has what was answered before."""
    server = serve()
    pixel = tracking.paths(LETTER)[-1]
    for _ in range(50):
        server.ask(pixel)
    stop = threading.Event()
    waits = []

    def ask() -> None:
        while not stop.is_set():
            began = time.monotonic()
            assert server.ask(pixel).status == 200
            waits.append(time.monotonic() - began)

    asking = threading.Thread(target=ask)
    asking.start()
    tracking.ok("backup", "one.db")
    stop.set()
    asking.join()
    assert max(waits) < 2  # generous for a busy machine
    file = tracking.folder / "one.db"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tracking.folder.glob("one.db*")] == ["one.db"]
    assert read(file, "PRAGMA integrity_check") == [("ok",)]
    ((events,),) = read(file, "SELECT count(*) FROM event")
    assert 50 <= int(str(events)) <= 50 + len(waits)
    server.stop()
    restored = Program(tracking.folder)
    restored.lives_at(str(tracking.folder / "two.db"))
    restored.ok("restore", "one.db")
    for command in (("settings", "export"), ("keys", "export", "-"), ("domain", "list")):
        assert restored.ok(*command) == tracking.ok(*command)
    assert restored.events() == tracking.events()[: int(str(events))]
    assert not list(tracking.folder.glob("two.db.before*"))


def test_a_backup_replaces_nothing_unasked(tracking: Program) -> None:
    """A file that is there stays, but for --force; the store itself stays in any case."""
    file = tracking.folder / "one.db"
    file.write_text("mine")
    done = tracking("backup", "one.db")
    assert (done.returncode, file.read_text()) == (73, "mine")
    assert b"--force" not in done.stderr  # which is for backups: it may be a file of keys
    assert tracking("backup", "no/such/folder/one.db").returncode == 73
    file.write_text("")
    tracking.ok("backup", "one.db", "--force")
    assert b"hint: sestrack backup --force one.db" in tracking("backup", "one.db").stderr
    assert read(file, "SELECT count(*) FROM key") == [(1,)]
    if tracking.store.exists():
        assert tracking("backup", str(tracking.store), "--force").returncode == 2
        assert tracking("restore", str(tracking.store), "--force").returncode == 2


@pytest.mark.sqlite
def test_a_backup_replaces_no_other_store(tracking: Program, serve: Serve) -> None:
    """In the wrong shell, with the arguments the wrong way round: all its keys would be gone."""
    tracking.ok("--store", "other.db", "init")
    tracking.ok("keys", "export", "keys")
    tracking.ok("backup", "one.db")
    shutil.copy(tracking.folder / "one.db", tracking.folder / "store.db.before-restore-x")
    with closing(sqlite3.connect(tracking.folder / "cash.db")) as cash:
        cash.execute("CREATE TABLE key (id, secret)")
    for file, why in (
        ("other.db", b"has keys that this store has not"),
        ("store.db.before-restore-x", b"is a store that `restore` has put aside"),
        ("cash.db", b"is no backup of a store"),
        ("keys", b"is no backup"),
    ):
        before = (tracking.folder / file).read_bytes()
        for force in ((), ("--force",)):
            done = tracking("backup", *force, file)
            assert (done.returncode, why in done.stderr) == (73, True)
            assert b"--force" not in done.stderr
        assert (tracking.folder / file).read_bytes() == before
    tracking.ok("keys", "rotate")
    tracking.ok("backup", "--force", "one.db")
    server = serve()
    done = tracking("--store", "one.db", "backup", "--force", str(tracking.store))
    assert (done.returncode, b"is a store that is served" in done.stderr) == (73, True)
    server.stop()


@pytest.mark.sqlite
def test_a_backup_that_fails_leaves_nothing(tracking: Program) -> None:
    """No store, a full disk, a kill: no half of a file under its name, and the old one stays."""
    assert tracking("--store", "none.db", "backup", "one.db").returncode == 78
    (tracking.folder / "text").write_text("hello, this is no database at all" * 200)
    done = tracking("--store", "text", "backup", "one.db")
    assert (done.returncode, b"text is not a store" in done.stderr) == (65, True)
    assert not list(tracking.folder.glob("one.db*"))
    tracking.ok("backup", "one.db")
    before = (tracking.folder / "one.db").read_bytes()
    command = f"ulimit -f 20; exec {sys.executable} -m sestrack backup one.db --force"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=False, cwd=tracking.folder,
        env=tracking.environment,
    )  # fmt: skip
    assert done.returncode == 74, done.stderr
    assert (tracking.folder / "one.db").read_bytes() == before
    assert [path.name for path in tracking.folder.glob("one.db*")] == ["one.db"]


@pytest.mark.sqlite
def test_restore_keeps_the_old_store_and_its_keys(tracking: Program, serve: Serve) -> None:
    """What was here gets another name; links sealed with a key made since lead on."""
    tracking.ok("backup", "one.db")
    tracking.ok("keys", "rotate")
    tracking.ok("sender", "add", "later.example.com")
    link = tracking.paths(LETTER)[0]
    assert tracking("restore", "one.db").returncode == 1
    server = serve()
    server.ask(link)
    done = tracking("restore", "one.db", "--force")
    assert (done.returncode, b"systemctl stop" in done.stderr) == (75, True)
    server.stop()
    done = tracking("restore", "one.db", "--force")
    assert done.returncode == 0, done.stderr
    assert b"its key 2 is kept" in done.stderr
    assert "later" not in tracking.ok("sender", "list")
    assert stat.S_IMODE(tracking.store.stat().st_mode) == 0o600
    (aside,) = tracking.folder.glob("store.db.before-restore-*")
    assert read(aside, "SELECT count(*) FROM event") == [(1,)]
    assert "later" in tracking.ok("--store", str(aside), "sender", "list")
    server = serve()
    assert server.ask(link).status == 302
    server.stop()
    assert len(tracking.events()) == 1


@pytest.mark.sqlite
@pytest.mark.parametrize("options", [(), ("--no-recipient",)], ids=["names", "hashes"])
def test_restore_forgets_again(tracking: Program, serve: Serve, options: tuple[str, ...]) -> None:
    """Who was forgotten after the backup was made is forgotten in it, for now and later."""
    ada, bob = (tracking.paths(LETTER, f"{name}@example.org")[0] for name in ("ada", "bob"))
    server = serve(*options)
    server.ask(ada)
    server.ask(bob)
    server.stop()
    (_, kept) = (event["recipient"] for event in tracking.events())
    tracking.ok("backup", "one.db")
    tracking.ok("events", "forget", "--recipient", "ada@example.org")
    done = tracking("restore", "one.db", "--force")
    assert (done.returncode, b"forgotten in it, too: 1" in done.stderr) == (0, True), done.stderr
    server = serve(*options)
    server.ask(ada)
    server.stop()
    first, second, third = (event["recipient"] for event in tracking.events())
    assert (first[:10], second, third) == ("forgotten-", kept, "")
    assert b"ada@example.org" not in tracking.store.read_bytes()
    tracking.ok("backup", "two.db")
    assert b"too: " not in tracking("restore", "two.db", "--force").stderr


@pytest.mark.sqlite
def test_restore_checks_the_file(tracking: Program) -> None:
    """No file, no store, a damaged one, one of a newer version: refused, and nothing is changed."""
    before = tracking.ok("settings", "export")
    tracking.ok("backup", "good.db")
    good = (tracking.folder / "good.db").read_bytes()
    (tracking.folder / "text").write_text("hello, this is no database at all" * 200)
    with closing(sqlite3.connect(tracking.folder / "other.db")) as other:
        other.execute("CREATE TABLE key (id)")
    (tracking.folder / "short.db").write_bytes(good[: len(good) // 2])
    broken = bytearray(good)
    root = int(
        str(
            read(
                tracking.folder / "good.db",
                "SELECT rootpage FROM sqlite_master WHERE name = 'config'",
            )[0][0]
        )
    )
    broken[(root - 1) * 4096 : root * 4096] = bytes(4096)
    (tracking.folder / "broken.db").write_bytes(broken)
    (tracking.folder / "newer.db").write_bytes(good)
    with closing(sqlite3.connect(tracking.folder / "newer.db")) as newer:
        newer.execute("PRAGMA user_version = 99")
    for name, code in (
        ("none", 66), ("text", 65), ("other.db", 65), ("short.db", 65), ("broken.db", 65), ("newer.db", 78),
    ):  # fmt: skip
        done = tracking("restore", name, "--force")
        assert done.returncode == code, (name, done.stderr)
        assert name.encode() in done.stderr
        assert tracking.ok("settings", "export") == before
    assert [
        p for p in tracking.folder.glob("store.db*") if "before" in p.name or "sestrack" in p.name
    ] == []


@pytest.mark.sqlite
def test_restore_in_place_of_what_is_damaged(tracking: Program) -> None:
    """A store that cannot be read, and the log of one that is gone, are kept out of the way."""
    tracking.ok("backup", "one.db")
    tracking.store.write_bytes(b"damaged" * 3000)
    Path(f"{tracking.store}-wal").write_bytes(b"a log")
    done = tracking("restore", "one.db", "--force")
    assert done.returncode == 0, done.stderr
    assert b"could not be read" in done.stderr
    tracking.ok("keys", "list")
    kept = [p.read_bytes()[:7] for p in tracking.folder.glob("store.db.before-restore-*")]
    assert {b"a log", b"damaged"} <= set(kept)
    tracking.store.unlink()
    Path(f"{tracking.store}-wal").write_bytes(b"another log")
    tracking.ok("restore", "one.db")
    tracking.ok("keys", "list")
    assert b"another log" in [p.read_bytes() for p in tracking.folder.glob("store.db.before*")]


@pytest.mark.sqlite
def test_restore_waits_for_whoever_has_the_store_open(tracking: Program) -> None:
    """A reader would go on in the old file, a writer in the new one's log: neither may be there."""
    tracking.ok("backup", "one.db")
    with closing(sqlite3.connect(tracking.store)) as reader:
        reader.execute("SELECT * FROM key").fetchall()
        done = tracking("restore", "one.db", "--force")
        assert done.returncode == 75, done.stderr
    assert not list(tracking.folder.glob("*before*"))
    tracking.ok("restore", "one.db", "--force")


@pytest.mark.sqlite
def test_restore_where_names_are_odd(tracking: Program) -> None:
    """A store in a folder with `%` in its name; the hint has a name with a blank as it is typed."""
    tracking.ok("backup", "my backup.db")
    folder = tracking.folder / "100%d"
    folder.mkdir()
    odd = str(folder / "store.db")
    tracking.ok("--store", odd, "restore", "my backup.db")
    done = tracking("--store", odd, "restore", "my backup.db")
    assert b" restore --force 'my backup.db'  # " in done.stderr
    tracking.ok("--store", odd, "restore", "my backup.db", "--force")
    assert len(list(folder.glob("store.db.before-restore-*"))) == 1


@pytest.mark.sqlite
def test_a_backup_over_one_that_was_tried_out(tracking: Program) -> None:
    """The log that was left beside the old one is not the new one's."""
    tracking.ok("backup", "backup.db")
    copy = tracking.folder / "backup.db"
    with closing(sqlite3.connect(copy)) as tried:
        tried.execute("PRAGMA journal_mode = WAL").fetchall()
        tried.execute("CREATE TABLE tried (x)")
        tried.commit()
        log = Path(f"{copy}-wal").read_bytes()
        assert log
    Path(f"{copy}-wal").write_bytes(log)  # it was killed
    tracking.ok("backup", "--force", "backup.db")
    assert not Path(f"{copy}-wal").exists()
    tracking.ok("restore", "--force", "backup.db")


@pytest.mark.sqlite
def test_restore_through_a_link(tracking: Program) -> None:
    """The file itself gets another name, and the link leads to what was put back."""
    tracking.ok("backup", "backup.db")
    tracking.ok("sender", "add", "later.example.org")
    link = tracking.folder / "link.db"
    link.symlink_to(tracking.store)
    said = tracking("--store", str(link), "restore", "--force", "backup.db").stderr.decode()
    (aside,) = tracking.folder.glob("*.before-restore-*")
    assert str(aside) in said
    assert not aside.is_symlink()
    assert link.is_symlink()
    assert "later.example.org" in tracking.ok("--store", str(aside), "sender", "list")
    for store in (link, tracking.store):
        assert "later.example.org" not in tracking.ok("--store", str(store), "sender", "list")


@pytest.mark.sqlite
def test_restore_leaves_a_file_as_it_was(tracking: Program) -> None:
    """An empty one is said to be; beside a damaged copy of a store nothing appears."""
    file = tracking.folder / "copy.db"
    file.write_bytes(b"")
    done = tracking("restore", "copy.db", "--force")
    assert (done.returncode, b"copy.db is empty" in done.stderr) == (65, True)
    file.write_bytes(tracking.store.read_bytes()[:30_000])
    done = tracking("restore", "copy.db", "--force")
    assert (done.returncode, b"copy.db is damaged" in done.stderr) == (65, True)
    assert b"hint: sestrack restore --force FILE  # an earlier backup" in done.stderr
    assert list(tracking.folder.glob("copy.db*")) == [file]


@pytest.mark.sqlite
def test_a_store_whose_names_are_damaged(tracking: Program) -> None:
    """SQLite quotes them in its errors, which are no text then: told, and put right all the same."""
    tracking.ok("backup", "one.db")
    content = tracking.store.read_bytes()
    assert content.count(b"CREATE INDEX trace_check_of") == 1
    damaged = content.replace(b"CREATE INDEX trace_check_of", b"CREATE INDEX trace_ch\x9a\xffk_o(")
    tracking.store.write_bytes(damaged)
    done = tracking("doctor", "--offline")
    assert (done.returncode, b"damaged" in done.stdout + done.stderr) == (1, True)
    assert tracking("backup", "two.db").returncode == 65
    tracking.ok("restore", "--force", "one.db")
    tracking.ok("domain", "list")


@pytest.mark.sqlite
def test_a_restore_that_fails_on_a_new_machine(program: Program) -> None:
    """It leaves nothing that `init` would take for the rest of a store."""
    program.ok("--store", "other.db", "init", "--edge", "edge.example.net")
    program.ok("--store", "other.db", "backup", "bad.db")
    bad = program.folder / "bad.db"
    content = bytearray(bad.read_bytes())
    content[8192:20000] = b"\xff" * (20000 - 8192)
    bad.write_bytes(content)
    done = program("restore", "bad.db")
    assert done.returncode == 65
    assert not [*program.folder.glob("store.db*")]
    program.ok("init", "--edge", "edge.example.net")


@pytest.mark.sqlite
def test_a_backup_that_may_not_be_read(program: Program) -> None:
    """It is not said to be none: root makes it, and the service is another user."""
    program.ok("--store", "other.db", "init", "--edge", "edge.example.net")
    program.ok("--store", "other.db", "backup", "one.db")
    file = program.folder / "one.db"
    file.chmod(0)
    with as_nobody(), pytest.raises(NoPermission) as failure:
        restore(str(file), str(program.folder / "new.db"), output.progress, 1)
    assert "cannot read" in failure.value.message
    assert program("restore", str(program.folder)).returncode == 66


@pytest.mark.sqlite
def test_a_store_that_was_left_half_written(tracking: Program) -> None:
    """Whoever opens it next undoes that, even if it is to read only."""
    tracking.ok("backup", "one.db")  # which has no log, but a journal
    code = (
        "import os, sqlite3\n"
        "c = sqlite3.connect('one.db', isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1')\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "c.execute('CREATE TABLE half (x)')\n"
        "c.executemany('INSERT INTO half VALUES (?)', [('x' * 3000,)] * 500)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tracking.folder, check=False)
    assert (tracking.folder / "one.db-journal").exists()
    exported = tracking.ok("--store", "one.db", "settings", "export")
    assert exported == tracking.ok("settings", "export")
    (tracking.folder / "one.db-journal").unlink(missing_ok=True)
    done = tracking("backup", "one.db-journal")  # which would be undone with what it is
    assert (done.returncode, b"belongs to the database" in done.stderr) == (73, True)


@pytest.mark.sqlite
def test_a_file_that_a_killed_process_left(program: Program) -> None:
    """In a container the next one has the same number; it is not in its way."""
    left = program.folder / f"report.txt.{os.getpid()}.sestrack"
    left.touch()
    files.write(str(program.folder / "report.txt"), b"all of it")
    assert (program.folder / "report.txt").read_bytes() == b"all of it"


@pytest.mark.sqlite
def test_a_backup_names_the_store_that_is_damaged(tracking: Program) -> None:
    """And not the file that is made."""
    data = tracking.store.read_bytes()
    tracking.store.write_bytes(data[:100] + bytes(3996) + data[4096:])  # its list of tables
    done = tracking("backup", "one.db")
    assert (done.returncode, b"store.db is damaged" in done.stderr) == (65, True)
    assert not list(tracking.folder.glob("one.db*"))


@pytest.mark.sqlite
@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
def test_what_root_puts_back_is_the_owners(tracking: Program) -> None:
    """The user of the service opens it afterwards; a backup stays root's, whosever file was there."""
    os.chown(tracking.store, 65534, 65534)
    old = tracking.folder / "one.db"
    old.touch()
    os.chown(old, 65534, 65534)
    tracking.ok("backup", "--force", "one.db")
    assert (old.stat().st_uid, old.stat().st_mode & 0o777) == (0, 0o600)
    tracking.ok("restore", "--force", "one.db")
    assert (tracking.store.stat().st_uid, tracking.store.stat().st_mode & 0o777) == (65534, 0o600)


@pytest.mark.sqlite
def test_a_damaged_store_costs_no_backup(tracking: Program) -> None:
    """A page of data that is damaged is copied like any other: the last good file stays."""
    tracking.ok("backup", "one.db")
    good = (tracking.folder / "one.db").read_bytes()
    roots = "SELECT rootpage FROM sqlite_master WHERE name = 'visit'"
    root = int(str(read(tracking.store, roots)[0][0]))
    data = bytearray(tracking.store.read_bytes())
    data[(root - 1) * 4096 : root * 4096] = b"\xa5" * 4096
    tracking.store.write_bytes(data)
    done = tracking("backup", "one.db", "--force")
    assert (done.returncode, b"store.db is damaged" in done.stderr) == (65, True)
    assert b"hint: sestrack restore --force FILE  # an earlier backup" in done.stderr
    assert [p.read_bytes() for p in tracking.folder.glob("one.db*")] == [good]


@pytest.mark.sqlite
@pytest.mark.parametrize("most", [1 << 30, 0], ids=["whole", "small tables"])
def test_doctor_reads_the_store(
    tracking: Program, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Damage is found before mail meets it; of a large store what mail needs is read."""
    monkeypatch.setattr(sqlite_health, "READ_WHOLE", most)
    whole = tracking.store.read_bytes()
    for table, found in (("entry", True), ("visit", most > 0)):
        roots = f"SELECT rootpage FROM sqlite_master WHERE name = '{table}'"
        root = int(str(read(tracking.store, roots)[0][0]))
        data = bytearray(whole)
        data[(root - 1) * 4096 : root * 4096] = b"\xa5" * 4096
        tracking.store.write_bytes(data)
        with Store(tracking.address) as opened:
            trouble, hint = opened.trouble()
        assert ("it is damaged" in trouble) is found
        assert ("restore --force FILE" in hint) is found
    if most:
        done = tracking("doctor", "--offline")
        assert (done.returncode, b"store: " in done.stderr) == (1, True)


@pytest.mark.sqlite
def test_doctor_tells_of_a_store_that_nobody_may_write(tracking: Program) -> None:
    """The server would lose each event; who may only read is another matter."""
    tracking.store.chmod(0o444)
    done = tracking("doctor", "--offline")
    assert done.returncode == 1
    assert b"nobody may write it\nhint: chmod u+w " in done.stderr


@pytest.mark.sqlite
def test_a_store_that_is_gone(tracking: Program, serve: Serve) -> None:
    """A new one would have another key, and all links in sent mail be dead: it is put back."""
    tracking.ok("backup", "one.db")
    link = tracking.paths(LETTER)[0]
    serve().stop()
    for part in tracking.folder.glob("store.db*"):
        if not part.name.endswith("-serve"):
            part.unlink()
    for words in (("doctor",), ("serve",), ("stats",)):
        done = tracking(*words)
        assert b"there is no store at" in done.stdout + done.stderr
        assert b"hint: sestrack restore FILE  # a backup" in done.stderr
    done = tracking("init")
    assert (done.returncode, tracking.store.exists()) == (1, False)
    assert b"to begin anew: rm " in done.stderr
    tracking.ok("restore", "one.db")
    server = serve()
    assert server.ask(link).status == 302
    server.stop()
    tracking.ok("restore", "one.db", "--force")
    tracking.ok("restore", "one.db", "--force")
    said = tracking("events", "forget", "--recipient", "ada@example.org").stderr.decode()
    kept = {str(path) for path in tracking.folder.glob("store.db.before-restore-*Z")}
    assert len(kept) == 2
    (named,) = re.findall(r"what restore kept has their name yet: (.*)", said)
    assert {named} < kept  # the other one is the backup, without an event


@pytest.mark.sqlite
def test_killing_restore_leaves_a_store(tracking: Program) -> None:
    """`kill -9` at any moment: the store is the old one or the new one, and opens."""
    tracking.ok("backup", "one.db")
    tracking.ok("keys", "rotate")
    for step in range(8):
        child = subprocess.Popen(
            [sys.executable, "-m", "sestrack", "restore", "one.db", "--force"],
            cwd=tracking.folder, env=tracking.environment, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.2 + step * 0.03)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        with Store(tracking.address) as store:
            assert len(store.keys()) == 2
        assert read(tracking.store, "PRAGMA integrity_check") == [("ok",)]


def test_restore_into_a_database_is_a_copy(tracking: Program) -> None:
    """Into PostgreSQL a backup is copied; the words say how."""
    if tracking.store.exists():
        pytest.skip("it is a file")
    tracking.ok("backup", "one.db")
    done = tracking("restore", "one.db")
    assert done.returncode == 1
    assert b"hint: sestrack copy one.db" in done.stderr


def damage(path: Path) -> None:
    """Make a store whose pages are overwritten but for the first."""
    content = (path.parent / "store.db").read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def make_version(path: Path, version: int) -> None:
    """Make a store that says it is of a version."""
    shutil.copy(path.parent / "store.db", path)
    with closing(sqlite3.connect(path)) as store:
        store.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize(
    ("name", "prepare", "code", "words", "hint"),
    [
        pytest.param("a b.db", lambda _: None, 78, "there is no store at", "sestrack --store 'a b.db' init", id="nothing"),
        pytest.param("a b.db", lambda path: path.touch(), 78, "is not set up", "sestrack --store 'a b.db' init", id="an empty file"),
        pytest.param("a b", lambda path: path.mkdir(), 65, "is a folder", "sestrack --store 'a b/store.db' keys list", id="a folder"),
        pytest.param("a b.db", damage, 65, "is damaged", "sestrack --store 'a b.db' restore --force FILE", id="damaged"),
        pytest.param("a b.db", lambda path: make_version(path, 3), 78, "has schema 3", "sestrack --store 'a b.db' init", id="older"),
        pytest.param("a b.db", lambda path: make_version(path, -1), 78, "goes on with it", "sestrack copy FROM 'a b.db'", id="half a copy"),
        pytest.param("store.db", lambda path: path.unlink(), 78, "there is no store at", "sestrack init", id="the usual one"),
    ],
)  # fmt: skip
@pytest.mark.sqlite
def test_what_is_no_store_that_can_be_used(
    tracking: Program,
    name: str,
    prepare: Callable[[Path], object],
    code: int,
    words: str,
    hint: str,
) -> None:
    """It is said what it is, and what to type; names of files can be typed as they stand."""
    path = tracking.folder / name
    prepare(path)
    options = () if name == "store.db" else ("--store", name)
    done = tracking(*options, "keys", "list")
    assert done.returncode == code, done.stderr
    message, given = done.stderr.decode().splitlines()
    assert words in message
    assert given == f"hint: {hint}"


# -- logs for machines ---------------------------------------------------------------------------


def test_the_log_as_json(tracking: Program, serve: Serve) -> None:
    """Every line of every process is an object with time, level, process and message."""
    server = serve("--log", "json")
    (worker,) = server.children()
    os.kill(worker, signal.SIGKILL)
    for _ in range(100):
        if "a new one starts" in server.log.read_text():
            break
        time.sleep(0.1)
    assert server.ask(tracking.paths(LETTER)[-1]).status == 200
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    for line in lines:
        assert {"time", "level", "process", "pid", "message"} <= line.keys()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert (line["level"], line["process"]) in {("info", "server"), ("warning", "server")}
    assert lines[0]["event"] == "serving"
    assert lines[0]["url"] == f"http://127.0.0.1:{server.port}/"
    (ended,) = [line for line in lines if line.get("event") == "worker-ended"]
    assert (ended["worker"], ended["status"]) == (worker, -signal.SIGKILL)


def test_trouble_in_the_log_as_json(tracking: Program, serve: Serve) -> None:
    """What workers warn of, and what ends a command, are objects too."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=trace.example.com"],
        cwd=tracking.folder, check=True, capture_output=True,
    )  # fmt: skip
    server = serve("--log", "json", "--tls-cert", "cert.pem", "--tls-key", "key.pem")
    context = ssl.create_default_context(cafile=str(tracking.folder / "cert.pem"))
    context.check_hostname = False
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        context.wrap_socket(plain).close()  # the worker has read the certificate
    (tracking.folder / "cert.pem").write_text("no certificate\n")
    for _ in range(80):
        if "stays as it was" in server.log.read_text():
            break
        time.sleep(0.1)
    server.stop()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (said,) = [line for line in lines if line["process"] == "worker"]
    assert said["level"] == "warning"
    assert said["message"].startswith("the certificate stays as it was")
    done = tracking("serve", "--log", "json", "--tls-cert", "cert.pem", "--tls-key", "key.pem")
    (line,) = done.stderr.splitlines()
    error = json.loads(line)
    assert (done.returncode, error["level"], bool(error["hint"])) == (65, "error", True)
    assert tracking("serve", "--log", "xml").returncode == 2


# -- metrics -------------------------------------------------------------------------------------


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """Read the metrics as Prometheus does: by name, and the values of labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = answer.read().decode()
    assert "example.org" not in text  # nobody is named
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}
        for sample in family.samples:
            key = (sample.name.removeprefix("sestrack_"), *sample.labels.values())
            assert key not in found
            found[key] = sample.value
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
def test_metrics_count_what_was_done(tracking: Program, serve: Serve, workers: str) -> None:
    """Events by kind, answers by status, delays, the store: of all workers together."""
    port = free_port()
    server = serve("--metrics", f"127.0.0.1:{port}", "--workers", workers)
    link, pixel = tracking.paths(LETTER)
    for path, times in ((link, 3), (pixel, 5), ("/nothing", 2), ("/healthz", 1)):
        for _ in range(times):
            server.ask(path)
    assert until(lambda: sum(n for k, n in scrape(port).items() if k[0] == "answers_total") == 11)
    assert until(lambda: scrape(port)["answer_seconds_count",] == 8)
    before = scrape(port)
    assert before["events_total", "open"] == 5
    assert before["events_total", "click"] == 3
    assert before["answers_total", "200"] == 6
    assert before["answers_total", "302"] == 3
    assert before["answer_seconds_count",] == 8
    assert before["answer_seconds_bucket", "+Inf"] == 8
    assert 0 < before["answer_seconds_sum",] < 8
    buckets = [value for key, value in before.items() if key[0] == "answer_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert before["workers",] == int(workers)
    assert before["store_up",] == 1
    assert before["trace_domain_usable", "trace.example.com", "ok"] == 1
    assert before["events_lost_total",] == before["events_waiting",] == 0
    assert [value for key, value in before.items() if key[0] == "build_info"] == [1]
    assert 0 <= before["events_behind",] <= 8
    # a worker that ends takes nothing along, and no count falls
    for child in server.children():
        os.kill(child, signal.SIGKILL)
    assert until(lambda: scrape(port)["worker_restarts_total",] == int(workers))
    server.ask(pixel)
    # a reader is answered before the store is, should it take its time
    assert until(lambda: scrape(port)["events_total", "open"] == 6)
    after = scrape(port)
    assert after["answer_seconds_count",] >= 8
    assert after["answers_total", "404"] == 2
    assert server.stop() == 0


@pytest.mark.sqlite
def test_metrics_while_the_store_is_away(tracking: Program, serve: Serve) -> None:
    """They are answered, and say that the store is not."""
    port = free_port()
    server = serve("--metrics", f"127.0.0.1:{port}")
    tracking.store.rename(tracking.folder / "away.db")
    found = scrape(port)
    assert found["store_up",] == 0
    assert ("events_behind",) not in found
    (tracking.folder / "away.db").rename(tracking.store)
    assert scrape(port)["store_up",] == 1
    with tracking.connection() as store:  # an error that is not ours
        store.execute("ALTER TABLE trace_domain RENAME TO elsewhere")
        found = scrape(port)
        assert (found["store_up",], found["workers",]) == (0, 1)
        store.execute("ALTER TABLE elsewhere RENAME TO trace_domain")
    assert scrape(port)["store_up",] == 1
    assert server.stop() == 0


@pytest.mark.sqlite
def test_who_asks_for_metrics(tracking: Program, serve: Serve) -> None:
    """GET /metrics alone; whoever hangs keeps it for two seconds; another address is warned of."""
    port = free_port()
    server = serve("--metrics", f"127.0.0.1:{port}")
    for request, status in (
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"200"), (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"), (b"GET\r\n\r\n", b"404"), (b"\r\n\r\n", b"405"),
        (b"x" * 20_000, b"405"),
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(request)
            assert client.recv(12)[9:12] == status, request
    with socket.create_connection(("127.0.0.1", port)):
        assert scrape(port)["store_up",] == 1
    assert "open to others" not in server.log.read_text()
    assert server.stop() == 0
    server = serve("--metrics", f"0.0.0.0:{port}")
    assert f"--metrics 0.0.0.0:{port} is open to others" in server.log.read_text()
    done = tracking("serve", "--metrics", "9125x")
    assert done.returncode == 2
    other = Program(tracking.folder)
    other.lives_at(str(tracking.folder / "other.db"))
    other.ok("init")
    done = other("serve", "--bind", "127.0.0.1:0", "--metrics", f"127.0.0.1:{port}")
    assert (done.returncode, b" --metrics 127.0.0.1:" in done.stderr) == (69, True)
