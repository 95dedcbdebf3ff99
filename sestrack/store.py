"""The store: one SQLite file, and the one door to it.

Rows go in, values of `sestrack.model` come out.  Every verb that changes something is
one transaction, begun IMMEDIATE; `kill -9` leaves the state before or the state after.
The file is made with mode 0600 before SQLite sees it, which gives its companions (-wal,
-shm) the same mode.  WAL keeps readers and the writer out of each other's way.

Reading uses the standard library alone, because `rewrite` reads once per mail.  Writing
and the schema use sqlite-utils (`migrations.py`), imported when first needed.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from sestrack.errors import (
    BadInput,
    CannotCreate,
    InputOutputError,
    NoPermission,
    NotFound,
    NotSetUp,
    Refused,
    TryAgain,
)
from sestrack.model import (
    Dimension,
    DomainStatus,
    Entry,
    Sender,
    SenderStatus,
    Settings,
    TraceDomain,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlite_utils import Database

    from sestrack.settings import Text

APPLICATION_ID = 0x73657374  # "sest": tells our files from other SQLite files
SCHEMA_VERSION = 4
"""`PRAGMA user_version`: the number of migrations that made the file."""

BUSY_SECONDS = 5.0
KEY_OCTETS = 64


KEPT_CHECKS = 100
"""Lines of a trace domain's history."""


class PastCheck(NamedTuple):
    """What checks in a row found alike.  Times are seconds since 1970, UTC."""

    state: str
    found: str
    since: int
    until: int
    times: int


Checked = tuple[TraceDomain, str]
"""A trace domain as it stands after a check, and what was found in words."""


class KeyRow(NamedTuple):
    """A sealing key as it is kept."""

    id: int
    secret: bytes
    created_at: int


def default_path() -> str:
    """Return where the store is, unless told otherwise: `$SESTRACK_STORE`, or XDG's place."""
    named = os.environ.get("SESTRACK_STORE")
    if named:
        return named
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{data}/sestrack/store.db"


def initialise(path: str, edge: str, now: int) -> bool:
    """Make the store with its first key, or set the edge of one that has none.

    Returns whether anything changed.  Raises `Refused` if another edge is in use.
    """
    _make_file(path)
    with Store(path, fresh=True) as store, store.change() as db:
        # imported here, for it imports this module
        from sestrack.migrations import apply

        changed = apply(db)
        if not store.keys():
            changed = True
            _add_key(db, now)
        known = store.edge()
        if edge and edge != known:
            if known and any(d.status is not DomainStatus.RETIRED for d in store.trace_domains()):
                msg = f"the edge is {known} already, and trace domains point to it"
                raise Refused(msg, "sestrack domain list")
            db.execute("UPDATE config SET edge = ?", [edge])
            changed = True
    return changed


def open_for_recording(path: str) -> sqlite3.Connection:
    """Return a connection that writes, for `sestrack.tracker`; what is deleted is overwritten."""
    with Store(path), sqlite_errors(path):
        connection = _connect(path, "rw")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def count_copies(
    path: str, sender: str, made: Mapping[str, int], campaign: str = "", wait: float = BUSY_SECONDS
) -> None:
    """Count copies made of messages; `made` says how many of each.

    A campaign says each time how many it has made by now, so that counting twice, or going
    on after an interruption, counts each copy once.  Raises `TryAgain` if the store is busy.
    """
    with sqlite_errors(path):
        connection = _connect(path, "rw", wait)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            with transaction(connection):
                before = 0
                if campaign:
                    ask = "SELECT number FROM campaign WHERE id = ?"
                    (before,) = connection.execute(ask, (campaign,)).fetchone() or (0,)
                    put = "INSERT OR REPLACE INTO campaign (id, number, at) VALUES (?, ?, ?)"
                    connection.execute(put, (campaign, sum(made.values()), now()))
                connection.executemany(
                    "INSERT INTO copies (sender, message, number) VALUES (?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET number = number + excluded.number",
                    [(sender, message, number - before) for message, number in made.items()],
                )
        finally:
            connection.close()


@contextmanager
def serving_lock(path: str) -> Iterator[Callable[[str], None]]:
    """Hold the lock of the one server that writes to a store; yield what notes its URL there.

    Raises `TryAgain`.
    """
    import fcntl

    try:
        handle = os.open(f"{path}-serve", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield lambda _: None  # there is no store here, or none that can be written
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        msg = f"another sestrack serve records into {path}"
        raise TryAgain(msg, "sestrack serve --workers 2 uses more cores") from None

    def note_url(url: str) -> None:
        os.ftruncate(handle, 0)
        os.pwrite(handle, url.encode(), 0)

    try:
        yield note_url
    finally:
        os.close(handle)


def is_served(path: str) -> bool:
    """Does a server record into the store now?"""
    try:
        with serving_lock(path):
            return False
    except TryAgain:
        return True


def served_at(path: str) -> str | None:
    """Return the URL of the server that records into the store now; "" where it is not told."""
    if not is_served(path):
        return None
    with open(f"{path}-serve", encoding="utf-8") as file:
        return file.read()


def _connect(path: str, mode: str, wait: float = BUSY_SECONDS) -> sqlite3.Connection:
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(
        f"file:{quoted}?mode={mode}", uri=True, timeout=wait, isolation_level=None
    )


class Store:
    """An open store."""

    def __init__(self, path: str, *, fresh: bool = False) -> None:
        """Open `path` for reading; `change` opens it for writing."""
        self.path = path
        self._writing = fresh
        with sqlite_errors(path):
            self._connection = self._open()
            if not fresh:
                self._check_schema()

    def _open(self) -> sqlite3.Connection:
        if not self._writing and not os.path.exists(self.path):
            raise NotSetUp(f"there is no store at {self.path}", "sestrack init --edge HOST")  # noqa: EM102, TRY003
        connection = _connect(self.path, "rw" if self._writing else "ro")
        connection.execute("PRAGMA foreign_keys = ON")
        if self._writing:
            connection.execute("PRAGMA journal_mode = WAL")
        return connection

    def _check_schema(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application == 0 and version == 0 and os.path.getsize(self.path) <= _EMPTY_FILE:
            msg = f"the store {self.path} is not set up"
            raise NotSetUp(msg, "sestrack init --edge HOST")
        if application != APPLICATION_ID:
            msg = f"{self.path} is a database, but not a store of sestrack"
            raise BadInput(msg, "sestrack --store PATH")
        if version > SCHEMA_VERSION:
            msg = f"the store {self.path} was made by a newer sestrack (schema {version})"
            raise NotSetUp(msg, "pip install --upgrade sestrack")
        if version < SCHEMA_VERSION:
            msg = f"the store {self.path} has schema {version}, and {SCHEMA_VERSION} is wanted"
            raise NotSetUp(msg, "sestrack init brings it up to date")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def change(self) -> Iterator[Database]:
        """One transaction: all of what is done in it, or nothing."""
        from sqlite_utils import Database

        with sqlite_errors(self.path):
            if not self._writing:
                self._connection.close()
                self._writing = True
                self._connection = self._open()
            self._connection.execute("PRAGMA synchronous = FULL")
            with transaction(self._connection):
                yield Database(self._connection)

    def _rows(self, sql: str, *values: str | int) -> list[tuple[object, ...]]:
        with sqlite_errors(self.path):
            return self._connection.execute(sql, values).fetchall()

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection itself, for `sestrack.tracker`, which has tables of its own."""
        return self._connection

    def stamp(self) -> tuple[int, int]:
        """Return what differs when the settings or the keys were changed since."""
        ((revision, key),) = self._rows("SELECT revision, (SELECT max(id) FROM key) FROM config")
        return int(str(revision)), int(str(key or 0))

    def who(self) -> bytes:
        """Return the key of the hashes that stand for recipients."""
        ((key,),) = self._rows("SELECT who FROM progress")
        assert isinstance(key, bytes)
        return key

    # -- keys ---------------------------------------------------------------------------

    def keys(self) -> list[KeyRow]:
        """Return the keys, the one that seals first."""
        rows = self._rows("SELECT id, secret, created_at FROM key ORDER BY id DESC")
        return [KeyRow._make(row) for row in rows]

    def rotate_key(self, now: int) -> int:
        """Add a key that seals from now on; return its id.  The older ones keep reading."""
        with self.change() as db:
            return _add_key(db, now)

    # -- the edge -----------------------------------------------------------------------

    def edge(self) -> str:
        """Return our server's name, "" if it was not told."""
        ((edge,),) = self._rows("SELECT edge FROM config")
        return str(edge)

    # -- sender domains -----------------------------------------------------------------

    def senders(self) -> list[Sender]:
        """Return all sender domains by name."""
        return [_sender(row) for row in self._rows(f"{_SELECT_SENDER} ORDER BY domain")]

    def find_sender(self, domain: str) -> Sender | None:
        """Return a sender domain, or None."""
        rows = self._rows(f"{_SELECT_SENDER} WHERE domain = ?", domain)
        return _sender(rows[0]) if rows else None

    def sender(self, domain: str) -> Sender:
        """Return a sender domain.  Raises `NotFound`."""
        found = self.find_sender(domain)
        if found is None:
            msg = f"there is no sender domain {domain}"
            raise NotFound(msg, f"sestrack sender add {domain}")
        return found

    def add_sender(self, sender: Sender) -> None:
        """Add a sender domain.  Raises `Refused` if it is there already."""
        with self.change() as db:
            if self.find_sender(sender.domain) is not None:
                msg = f"the sender domain {sender.domain} is there already"
                raise Refused(msg, f"sestrack sender show {sender.domain}")
            db.table("sender").insert(sender._asdict())

    def verify_sender(self, domain: str, now: int, *, assumed: bool = False) -> Sender:
        """Note that a sender domain is proven, or taken on trust."""
        with self.change() as db:
            self.sender(domain)
            db.table("sender").update(
                domain,
                {"status": SenderStatus.VERIFIED, "verified_at": now, "assumed": assumed},
            )
        return self.sender(domain)

    def remove_sender(self, domain: str) -> None:
        """Remove a sender domain.  Raises `Refused` while something rests on it."""
        with self.change() as db:
            sender = self.sender(domain)
            others = [
                other
                for other in self.senders()
                if other.primary == sender.primary
                and other.domain != domain
                and other.status is SenderStatus.VERIFIED
            ]
            for trace_domain in self.trace_domains():
                if (
                    trace_domain.primary == sender.primary
                    and trace_domain.status is not DomainStatus.RETIRED
                    and not others
                ):
                    msg = f"the trace domain {trace_domain.name} rests on {domain}"
                    raise Refused(msg, f"sestrack domain delete {trace_domain.name}")
            if domain in self.settings().senders:
                msg = f"the settings have an entry for {domain}"
                raise Refused(msg, "sestrack settings edit")
            db.table("sender").delete(domain)

    # -- trace domains ------------------------------------------------------------------

    def trace_domains(self) -> list[TraceDomain]:
        """Return all trace domains by name."""
        return [_trace_domain(row) for row in self._rows(f"{_SELECT_DOMAIN} ORDER BY name")]

    def find_trace_domain(self, name: str) -> TraceDomain | None:
        """Return a trace domain, or None."""
        rows = self._rows(f"{_SELECT_DOMAIN} WHERE name = ?", name)
        return _trace_domain(rows[0]) if rows else None

    def trace_domain(self, name: str) -> TraceDomain:
        """Return a trace domain.  Raises `NotFound`."""
        found = self.find_trace_domain(name)
        if found is None:
            msg = f"there is no trace domain {name}"
            raise NotFound(msg, "sestrack domain list")
        return found

    def add_trace_domain(self, domain: TraceDomain) -> None:
        """Add a trace domain; a retired one comes back.  Raises `Refused` if it is there."""
        with self.change() as db:
            known = self.find_trace_domain(domain.name)
            if known is not None and known.status is not DomainStatus.RETIRED:
                msg = f"the trace domain {domain.name} is there already"
                raise Refused(msg, f"sestrack domain show {domain.name}")
            if known is not None:  # the certificate of links in sent mail goes on
                domain = domain._replace(dns_verified=known.dns_verified)
            db.table("trace_domain").upsert(domain._asdict(), pk="name")

    def note_dns(self, names: Iterable[str]) -> None:
        """Note that DNS leads to us at these trace domains."""
        rows = [(name,) for name in names]
        if rows:
            with self.change() as db:
                db.conn.executemany("UPDATE trace_domain SET dns_verified = 1 WHERE name = ?", rows)

    def note_checks(self, checks: Iterable[Checked]) -> None:
        """Note what checks of trace domains found: where they stand now, and the history."""
        with self.change() as db:
            known = {domain.name: domain for domain in self.trace_domains()}
            for domain, found in checks:
                before = known.get(domain.name)
                if before is None or before.status is DomainStatus.RETIRED:
                    continue
                # what is not for a check to say stays, for another may have changed it since
                former = domain if before.target == domain.target else before
                db.execute(
                    _NOTE_CHECK,
                    [
                        *(getattr(domain, field) for field in _CHECKED),
                        former.former_target,
                        domain.name,
                    ],
                )
                _note_history(db, domain, found)

    def history(self, name: str) -> list[PastCheck]:
        """Return what checks of a trace domain found, the newest first."""
        rows = self._rows(
            "SELECT state, found, since, until, times FROM trace_check "
            "WHERE trace_domain = ? ORDER BY id DESC",
            name,
        )
        return [PastCheck._make(row) for row in rows]

    def set_target(self, name: str, target: str) -> TraceDomain:
        """Change where the CNAME of a trace domain should lead.

        The former target is accepted too, until a check sees the new one.
        """
        with self.change() as db:
            known = self.trace_domain(name)
            if known.target != target:
                row = {"target": target, "former_target": known.target}
                db.table("trace_domain").update(name, row)
        return self.trace_domain(name)

    def retire(self, name: str) -> None:
        """Retire a trace domain.  Raises `Refused` while settings use it."""
        with self.change() as db:
            if self.trace_domain(name).status is DomainStatus.RETIRED:
                return
            users = self._rows("SELECT sender FROM entry WHERE trace_domain = ?", name)
            if users:
                tables = ", ".join(
                    f'[sender."{user}"]' if user else "[account]" for (user,) in users
                )
                msg = f"the settings use {name}: {tables}"
                raise Refused(msg, "sestrack settings edit")
            db.table("trace_domain").update(name, {"status": DomainStatus.RETIRED})

    # -- settings -----------------------------------------------------------------------

    def settings(self, sender: str | None = None) -> Settings:
        """Return the settings; with `sender`, of the senders' entries that one only."""
        ((enabled, dimension),) = self._rows("SELECT enabled, dimension FROM config")
        sql = "SELECT sender, trace_domain, click, open, enabled FROM entry"
        rows = (
            self._rows(sql)
            if sender is None
            else self._rows(f"{sql} WHERE sender IN ('', ?)", sender)
        )
        entries = {
            str(name): Entry(str(domain or ""), bool(click), bool(opens), bool(on))
            for name, domain, click, opens, on in rows
        }
        return Settings(
            enabled=bool(enabled),
            dimension=Dimension(str(dimension)) if dimension else None,
            account=entries.pop("", None),
            senders=entries,
        )

    def settings_text(self) -> tuple[str, int]:
        """Return the settings as the administrator wrote them, and their revision."""
        ((text, revision),) = self._rows("SELECT text, revision FROM config")
        return str(text), int(str(revision))

    def save_settings(self, text: Text, revision: int) -> None:
        """Save settings that were made from `revision`.  Raises `TryAgain` if one came between."""
        with self.change() as db:
            if self.settings_text()[1] != revision:
                msg = "the settings were changed meanwhile by another"
                raise TryAgain(msg, "sestrack settings export shows them as they are now")
            settings = text.settings
            db.execute(
                "UPDATE config SET enabled = ?, dimension = ?, text = ?, revision = revision + 1",
                [settings.enabled, settings.dimension, text.text],
            )
            db.execute("DELETE FROM entry")
            entries = {"": settings.account} if settings.account else {}
            entries |= settings.senders
            for name, entry in entries.items():
                db.table("entry").insert(
                    {
                        "sender": name,
                        "trace_domain": entry.domain or None,
                        "click": entry.click,
                        "open": entry.open,
                        "enabled": entry.enabled,
                    }
                )


_CHECKED = (
    "status", "verified_at", "checked_at", "last_ok_at", "last_state", "dns_verified", "dns_only",
    "failures", "refusals", "failing_since",
)  # fmt: skip
_NOTE_CHECK = (
    f"UPDATE trace_domain SET {', '.join(f'{field} = ?' for field in _CHECKED)}, "
    "former_target = ? WHERE name = ?"
)
_EMPTY_FILE = 4096  # SQLite's first page, which setting WAL writes
# quoted, for `primary` is a word of SQL
_SELECT_SENDER = 'SELECT "' + '", "'.join(Sender._fields) + '" FROM sender'
_SELECT_DOMAIN = 'SELECT "' + '", "'.join(TraceDomain._fields) + '" FROM trace_domain'


def _sender(row: tuple[object, ...]) -> Sender:
    sender = Sender._make(row)
    return sender._replace(status=SenderStatus(sender.status), assumed=bool(sender.assumed))


def _trace_domain(row: tuple[object, ...]) -> TraceDomain:
    domain = TraceDomain._make(row)
    return domain._replace(
        status=DomainStatus(domain.status),
        plain_http=bool(domain.plain_http),
        dns_verified=bool(domain.dns_verified),
        dns_only=bool(domain.dns_only),
    )


def _note_history(db: Database, domain: TraceDomain, found: str) -> None:
    """Count a finding that is the last one's again; else begin a new line."""
    again = db.execute(
        "UPDATE trace_check SET until = ?, times = times + 1 WHERE state = ? AND found = ? "
        "AND id = (SELECT max(id) FROM trace_check WHERE trace_domain = ?)",
        [domain.checked_at, domain.last_state, found, domain.name],
    )
    if again.rowcount:
        return
    db.execute(
        "INSERT INTO trace_check (trace_domain, state, found, since, until, times) "
        "VALUES (?, ?, ?, ?, ?, 1)",
        [domain.name, domain.last_state, found, domain.checked_at, domain.checked_at],
    )
    db.execute(
        "DELETE FROM trace_check WHERE trace_domain = ? AND id NOT IN (SELECT id FROM "
        "trace_check WHERE trace_domain = ? ORDER BY id DESC LIMIT ?)",
        [domain.name, domain.name, KEPT_CHECKS],
    )


def _add_key(db: Database, now: int) -> int:
    cursor = db.execute(
        "INSERT INTO key (secret, created_at) VALUES (?, ?)", [os.urandom(KEY_OCTETS), now]
    )
    return int(cursor.lastrowid or 0)


def _make_file(path: str) -> None:
    """Make an empty file that only its owner can read, if there is none."""
    try:
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except PermissionError as error:
        msg = f"no permission to make the store {path}: {error.strerror}"
        raise NoPermission(msg, "sestrack --store PATH init") from None
    except OSError as error:
        msg = f"cannot make the store {path}: {error.strerror}"
        raise CannotCreate(msg, "sestrack --store PATH init") from None


@contextmanager
def sqlite_errors(path: str) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            msg = f"the store {path} is busy"
            raise TryAgain(msg, "another sestrack is writing; the same command again") from None
        if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            msg = f"the store {path} cannot be written: {error}"
            raise InputOutputError(msg, "df -h shows the space left; nothing was changed") from None
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
            msg = f"the store {path} cannot be opened: {error}"
            raise NoPermission(msg, f"ls -l {path}") from None
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            msg = f"{path} is not a store of sestrack: {error}"
            raise BadInput(msg, "sestrack --store PATH") from None
        raise


def now() -> int:
    """Return the time: seconds since 1970, UTC."""
    return int(time.time())
