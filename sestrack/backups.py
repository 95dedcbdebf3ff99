"""Backups: all of a store in one file of SQLite, made while it is served, and put back.

A store that is a file is copied page by page by SQLite's backup API, within one read
transaction.  In WAL mode that keeps no writer waiting, and because the snapshot is held, what
is written meanwhile does not make it begin again, as it would without (the documentation of
`sqlite3_backup_step`).  `VACUUM INTO` sees as much, but takes several times the CPU and cannot say
how far it is.  What is written is synced every few megabytes: one sync at the end would keep
the server's own waiting.  A store in PostgreSQL is copied row by row from a snapshot
(`sestrack.copying`), and compared.

A backup has the keys: whoever has it can read and forge links.  It has not what waits in the
spool of a server.

To put one back, nobody may serve or use the store.  It is made ready beside: checked, brought
up to date, and given the keys that the store here has on top of its own, for links sealed
since lead on; who was forgotten since is forgotten in it, too.  Then the store that was here
gets another name, and the new one its place, in one step.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from sestrack.copying import copy
from sestrack.engines import engine_of, sqlite, sqlite_health
from sestrack.engines.default import command
from sestrack.errors import (
    BadInput,
    CannotCreate,
    Refused,
    SestrackError,
    TryAgain,
    UsageError,
)
from sestrack.files import (
    beside,
    give_to_owner_of,
    is_database,
    is_same,
    is_special,
    look,
    reading,
    typed,
)
from sestrack.store import BUSY_SECONDS, kind_of, shown
from sestrack.tracker.names import forgotten_in, key_of, pseudonym
from sestrack.tracker.places import Places
from sestrack.tracker.upkeep import Upkeep, forget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sestrack.copying import Progress

_STEP_PAGES = 1024
_SYNC_OCTETS = 16 << 20
_HEADER_OCTETS = 100
_COMPANIONS = ("-wal", "-shm", "-journal")
_ALONE_SECONDS = 5.0


class Restored(NamedTuple):
    """What was done to put a backup back."""

    schema: int
    """The one that the backup had."""
    aside: str
    """What the store that was here is called now; "" where there was none."""
    keys: tuple[int, ...]
    """Keys that the store here had on top of the backup's, and that were kept."""
    strange: bool
    """Whether the store here had other keys altogether, or could not be read."""
    forgotten: int
    """How many recipients were forgotten in the store here since, and now are in the backup."""


def save(address: str, to: str, progress: Progress, *, force: bool = False) -> int:
    """Write all of a store to a file, mode 0600; return its octets.

    The file is there when all of it is, and was found whole.  Raises `CannotCreate` where there is
    one already, unless `force`; `UsageError` if it is the store itself; `BadInput` for a store
    that is damaged, of which the last backup may be all there is.
    """
    if os.path.isdir(to):
        msg = f"{to} is a folder, and a backup is a file"
        raise CannotCreate(msg, f"sestrack backup {typed(_dated(to))}")
    _check_regular(to)
    if os.path.exists(to):
        if is_same(to, address):
            msg = f"{to} is the store itself"
            raise UsageError(msg, f"sestrack backup {typed(_dated(os.path.dirname(to)))}")
        other = f"sestrack backup {typed(_dated(os.path.dirname(to)))}"
        if what := _other_than_a_backup(to, address):
            msg = f"{to} {what}, and is not written over"
            raise CannotCreate(msg, other)
        if not force:
            msg = f"{to} is there already"
            hint = f"sestrack backup --force {typed(to)}  # puts a whole new one in its place"
            raise CannotCreate(msg, hint if os.path.getsize(to) else other)
    with (
        beside(to, private=True, database=True) as name,
        sqlite.errors(to),
        _without_companions(name),
    ):
        _SAVING[kind_of(address)](address, name, progress)
        _make_single(name)
        # a log that somebody left beside the last backup would be taken for this one's
        _remove_companions(os.path.realpath(to))
    return os.path.getsize(to)


def _other_than_a_backup(file: str, address: str) -> str:
    """Say what a file is if it is no backup of this store, which is all that a new one replaces.

    One that is damaged is a backup if it says so: a cron job is to go on.
    """
    if not os.path.getsize(file):
        return ""
    if not is_database(file):
        return "is no backup"
    if sqlite.served_at(file):
        return "is a store that is served"
    if sqlite_health.ASIDE in os.path.basename(file):
        return "is a store that `restore` has put aside"
    with open(file, "rb") as opened:
        application = opened.read(_HEADER_OCTETS)[68:72]  # sqlite.org, Database File Format §1.3
    if int.from_bytes(application, "big") != sqlite.APPLICATION_ID:
        return "is no backup of a store"
    engine = engine_of(address)
    ask = "SELECT id, secret FROM key"
    try:
        with closing(sqlite.connect(file, writing=False)) as connection:
            there = set(connection.execute(ask).fetchall())
    except sqlite3.OperationalError:
        return "is no backup of a store"
    except (SestrackError, sqlite3.Error):
        return ""
    with (
        engine.errors(address),
        closing(engine.connect(address, writing=False, wait=BUSY_SECONDS)) as connection,
    ):
        here = {(number, bytes(secret)) for number, secret in connection.execute(ask).fetchall()}
    return "" if there <= here else "has keys that this store has not"


def _dated(folder: str) -> str:
    """Return a name for a backup of today in a folder."""
    return os.path.join(folder, f"sestrack-{time.strftime('%Y-%m-%d')}.db")


def _check_regular(name: str) -> None:
    if is_special(name) or os.path.isdir(name):
        msg = f"{name} is no regular file"
        raise CannotCreate(msg, look(name))


def _save_pages(address: str, to: str, progress: Progress) -> None:
    with ExitStack() as stack:
        with sqlite.errors(address):
            sqlite.check_name(address)
            source = stack.enter_context(closing(sqlite.connect(address, writing=False)))
            if sqlite.version(source) <= 0:  # one of an earlier schema can be kept as it is
                sqlite.check_schema(source, address)
            source.snapshot()
        with _damaged(address):
            _copy_pages(source, to, progress)
    with closing(sqlite.connect(to, writing=False)) as connection:
        _check_whole(connection, address)


def _check_whole(copied: sqlite.Connection, name: str) -> None:
    """Refuse a copy with a damaged page: it was copied like any other.  Raise `BadInput`."""
    with _damaged(name):
        ((found,),) = copied.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        msg = f"{name} is damaged: {found}"
        raise BadInput(msg, command(name, "restore --force FILE  # an earlier backup"))


@contextmanager
def _damaged(name: str) -> Iterator[None]:
    """Say of what is damaged that it is what was read: what is written is new."""
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            with sqlite.errors(name):
                raise
        raise


@contextmanager
def _unusable() -> Iterator[None]:
    """Name what helps when it is the backup that is damaged, or none."""
    try:
        yield
    except BadInput as error:
        hint = "sestrack restore --force FILE  # an earlier backup; nothing was changed"
        raise BadInput(error.message, hint) from None


def _copy_pages(source: sqlite3.Connection, to: str, progress: Progress) -> None:
    ((pages,),) = source.execute("PRAGMA page_count").fetchall()
    ((size,),) = source.execute("PRAGMA page_size").fetchall()
    every = max(1, _SYNC_OCTETS // (_STEP_PAGES * size))
    left = pages
    with closing(sqlite3.connect(to)) as target, progress("copying", pages, 0) as step:
        target.execute("PRAGMA synchronous = OFF")
        handle = os.open(to, os.O_RDWR)
        taken = 0

        def told(_status: int, remaining: int, _total: int) -> None:
            nonlocal left, taken
            step(left - remaining)
            left = remaining
            taken += 1
            if taken % every == 0:
                os.fdatasync(handle)

        try:
            source.backup(target, pages=_STEP_PAGES, progress=told)
        finally:
            os.close(handle)


def _save_rows(address: str, to: str, progress: Progress) -> None:
    copy(address, to, progress, live=True)


_SAVING = {"sqlite": _save_pages, "postgresql": _save_rows}


@contextmanager
def _without_companions(name: str) -> Iterator[None]:
    """Leave nothing beside a file, whatever happens."""
    try:
        yield
    finally:
        _remove_companions(name)


def _remove_companions(name: str) -> None:
    for companion in _COMPANIONS:
        with suppress(FileNotFoundError):
            os.unlink(name + companion)


@contextmanager
def _as_it_was(file: str) -> Iterator[None]:
    """Leave no log of SQLite beside a backup that had none.

    Of a file that may only be read, SQLite leaves an empty one, and its index.
    """
    had = any(os.path.exists(file + companion) for companion in _COMPANIONS)
    try:
        yield
    finally:
        log, index = file + "-wal", file + "-shm"
        with suppress(OSError):
            if not had and not os.path.getsize(log):
                os.unlink(log)
                os.unlink(index)


def _make_single(name: str) -> None:
    """Have all of it in the one file, which can be read where nothing can be written then."""
    with closing(sqlite3.connect(name, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()


def restore(
    file: str, address: str, progress: Progress, now: int, *, force: bool = False
) -> Restored:
    """Put a backup in the place of a store, which gets another name.

    Raises `NotFound`; `BadInput` for what is no store, or damaged; `NotSetUp` for one of a
    newer version; `Refused` where there is a store already, unless `force`; `TryAgain` while it
    is served or used.
    """
    _check_regular(address)
    if kind_of(address) != sqlite.KIND:
        name = shown(address)
        msg = f"{name} is no file: a backup is copied into an empty database"
        raise Refused(msg, f"sestrack copy {typed(file)} {typed(name)}")
    if not is_special(file):
        with reading(file):  # or say why it cannot be
            pass
    if os.path.isfile(file) and not os.path.getsize(file):
        msg = f"the file {file} is empty"
        raise BadInput(msg, look(file))
    if not is_database(file):
        msg = f"{file} is no backup of a store"
        raise BadInput(msg, "sestrack restore --force FILE  # what sestrack backup wrote")
    there = os.path.exists(address) and os.path.getsize(address) > 0
    if there and os.path.samefile(file, address):
        msg = f"{file} is the store itself"
        raise UsageError(msg, "sestrack restore FILE  # another one")
    if there and not force:
        msg = f"there is a store at {address}"
        raise Refused(msg, f"sestrack restore --force {typed(file)}  # gives it another name")
    named, address = address, os.path.realpath(address)  # a link to it stays one
    _make_folder(address)
    aside = _aside(address, now)
    while os.path.lexists(aside):  # restored twice in a second
        now += 1
        aside = _aside(address, now)
    keys: tuple[int, ...] = ()
    strange = False
    forgotten = 0
    with ExitStack() as held:
        _have_alone(address, held)
        with beside(named, private=True, database=True) as name, _without_companions(name):
            with sqlite.errors(address), _unusable(), _damaged(file), _as_it_was(file):
                schema = _take(file, name, progress)
            if there:
                keys, strange = _keep_keys(address, name)
                forgotten = _forget_again(address, name)
            with sqlite.errors(address):
                _make_single(name)
            if there:
                _give_to_who_serves(address, name)
                _put_aside(address, aside, held)
            else:
                _move_companions(address, aside)
    return Restored(schema, aside if there else "", keys, strange, forgotten)


def _aside(address: str, now: int) -> str:
    return f"{address}{sqlite_health.ASIDE}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"


def _give_to_who_serves(address: str, name: str) -> None:
    """Give a store that root puts back to the owner of the one that was here."""
    handle = os.open(name, os.O_RDWR | os.O_NOFOLLOW)
    try:
        give_to_owner_of(address, handle)
    finally:
        os.close(handle)


def _make_folder(address: str) -> None:
    try:
        os.makedirs(os.path.dirname(os.path.abspath(address)), mode=0o700, exist_ok=True)
    except OSError as error:
        msg = f"cannot make the folder of {address}: {error.strerror}"
        raise CannotCreate(msg, "sestrack --store PATH restore FILE") from None


def _have_alone(address: str, held: ExitStack) -> None:
    """Let no server begin until all is done."""
    try:
        held.enter_context(sqlite.serving(address))
    except TryAgain:
        msg = f"the store {address} is being served"
        raise TryAgain(msg, "systemctl stop sestrack  # then the same command again") from None


def _take(file: str, name: str, progress: Progress) -> int:
    """Copy a backup, check the copy and bring it up to date; return the schema it had."""
    with sqlite.errors(file):
        source = sqlite.connect(file, writing=False)
    with closing(source):
        with sqlite.errors(file):
            schema = sqlite.version(source)
            if not 0 < schema < sqlite.SCHEMA_VERSION:
                sqlite.check_schema(source, file)
        _copy_pages(source, name, progress)
    with closing(sqlite.connect(name, writing=True)) as connection:
        _check_whole(connection, file)
        if schema < sqlite.SCHEMA_VERSION:
            from sestrack.engines.sqlite_schema import apply  # imports sqlite-utils

            with connection.changing():
                apply(connection)
    return schema


def _keep_keys(address: str, name: str) -> tuple[tuple[int, ...], bool]:
    """Give a backup the keys that the store here has on top; say whether it has others instead."""
    select = "SELECT id, secret, created_at FROM key"
    try:
        with sqlite.errors(address), closing(sqlite.connect(address, writing=False)) as connection:
            here = {key: rest for key, *rest in connection.execute(select)}
    except (SestrackError, sqlite3.Error):
        return (), True
    with sqlite.errors(name), closing(sqlite.connect(name, writing=True)) as connection:
        backup = {key: rest for key, *rest in connection.execute(select)}
        if any(here.get(key) != rest for key, rest in backup.items()):
            return (), True
        more = sorted(here.keys() - backup.keys())
        with connection.transaction():
            connection.insert(
                "key", ("id", "secret", "created_at"), [(key, *here[key]) for key in more]
            )
    return tuple(more), False


def _forget_again(address: str, name: str) -> int:
    """Forget in a backup who was forgotten in the store here since; return how many they are."""
    engine = engine_of(address)
    try:
        with (
            engine.errors(address),
            closing(engine.connect(address, writing=False, wait=BUSY_SECONDS)) as connection,
        ):
            key, here = key_of(connection), forgotten_in(connection)
    except (SestrackError, sqlite3.Error):  # damaged, or of a version that forgot nobody for ever
        return 0
    with engine.errors(name), closing(engine.for_recording(name)) as connection:
        known = forgotten_in(connection)
        since = {who: at for who, at in here.items() if known.get(who, -1) < at}
        if not since or key_of(connection) != key:
            return 0
        Upkeep(connection, Places()).settle_all()  # judged first, as `events forget` has it
        with connection.transaction():
            connection.executemany("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", since.items())
        names = {name for (name,) in connection.execute("SELECT DISTINCT recipient FROM event")}
        for recipient in names:
            if recipient in since or pseudonym(key, recipient) in since:
                forget(connection, [recipient], lambda _: None)
    return len(since)


def _put_aside(address: str, aside: str, held: ExitStack) -> None:
    """Give a store a second name, and keep everybody out of it until the first is another's."""
    try:
        with sqlite.errors(address):
            _shut(address, held)
    except BadInput:  # damaged, or no store at all: it is kept with all that belongs to it
        _move_companions(address, aside)
    try:
        os.link(address, aside)
    except OSError as error:
        msg = f"cannot keep the store as {aside}: {error.strerror}"
        raise CannotCreate(msg, look(os.path.dirname(address) or ".")) from None


def _move_companions(address: str, aside: str) -> None:
    """Move what SQLite would take for the new store's, even where the old one is gone."""
    for companion in _COMPANIONS:
        with suppress(FileNotFoundError):
            os.rename(address + companion, aside + companion)


def _shut(address: str, held: ExitStack) -> None:
    """Have all of a store in the one file, and lock it.

    Leaving WAL mode needs to be alone, so nobody has the old file open under the new one's
    name: what they wrote would go to the log of the new one.  Two octets of the first page
    change; a journal on disk would keep those who may only read from a store whose `restore`
    was killed.

    What is no database is not opened for writing: closing it, SQLite would remove its log.
    """
    with closing(sqlite.connect(address, writing=False)) as reader:
        sqlite.version(reader)
    connection = held.enter_context(closing(sqlite.connect(address, writing=True, wait=0)))
    end = time.monotonic() + _ALONE_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = MEMORY").fetchall()
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
