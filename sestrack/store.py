"""The store: the one door to what is kept.

Rows go in, values of `sestrack.model` come out.  Every verb that changes something is one
transaction that no other change runs beside; `kill -9` leaves the state before or the state
after.  Where the rows live is the engine's (`sestrack.engines`), chosen by the address:
a file of SQLite, or a PostgreSQL.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from sestrack import rules
from sestrack.engines import default, engine_of
from sestrack.errors import NotFound, NotSetUp, Refused, TryAgain
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
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from sestrack.engines.interface import Connection, Left, Note, Watch
    from sestrack.settings import Text
    from sestrack.tokens import Key

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


class Initialised(NamedTuple):
    """What `initialise` did."""

    changed: bool
    former_edge: str
    """The edge that it put another in the place of; "" for none."""
    former_schema: int
    """The schema that it brought up to date; 0 for none."""
    schema: int


def default_spool(address: str) -> str:
    """Return the folder where a server's events wait while the store is away."""
    import zlib

    return f"{default.data_folder()}/sestrack/spool-{zlib.crc32(shown(address).encode()):08x}"


def spool_files() -> str:
    """Return the pattern of the files in all folders of `default_spool`."""
    return f"{default.data_folder()}/sestrack/spool-*/spool-*.db"


def shown(address: str) -> str:
    """Return an address as it may be shown: without a password."""
    return engine_of(address).shown(address)


def kind_of(address: str) -> str:
    """Return the name of a store's engine."""
    return engine_of(address).KIND


def errors_of(address: str) -> AbstractContextManager[None]:
    """Turn the errors of a store's engine into ours."""
    return engine_of(address).errors(address)


def initialise(address: str, edge: str, now: int) -> Initialised:
    """Make the store with its first key, or set its edge while no trace domain points to one.

    Raises `Refused` if another edge is in use.
    """
    former = ""
    engine = engine_of(address)
    engine.check_new(address)
    engine.create(address)
    with Store(address, fresh=True) as store, store.change() as db:
        schema = engine.version(db)
        changed = engine.migrate(db)
        if not store.keys():
            changed = True
            _add_key(db, now)
        known = store.edge()
        if edge and edge != known:
            live = [d.name for d in store.trace_domains() if d.status is not DomainStatus.RETIRED]
            if known and live:
                msg = f"the edge is {known} already, and trace domains point to it"
                moved = f"{known}. 3600 IN CNAME {edge}."
                mistyped = f"if it was mistyped: sestrack domain delete {live[0]}, and init again"
                raise Refused(msg, f"{moved}  # moves it for all of them; {mistyped}")
            db.execute("UPDATE config SET edge = ?", [edge])
            changed, former = True, known
    wanted = engine.SCHEMA_VERSION
    return Initialised(changed, former, schema if schema < wanted else 0, wanted)


def open_for_recording(address: str) -> Connection:
    """Return a connection that writes events, for `sestrack.tracker`."""
    engine = engine_of(address)
    with Store(address), engine.errors(address):
        return engine.for_recording(address)


def count_copies(
    address: str,
    sender: str,
    made: Mapping[str, int],
    campaign: str = "",
    wait: float = BUSY_SECONDS,
) -> int:
    """Count copies made of messages; `made` says how many of each.  Returns all they have now.

    A campaign says each time how many it has made by now, so that counting twice, or going
    on after an interruption, counts each copy once.  Raises `TryAgain` if the store is busy.
    """
    engine = engine_of(address)
    with engine.errors(address):
        connection = engine.connect(address, writing=True, wait=wait)
        try:
            with connection.transaction():
                before = 0
                if campaign:
                    # its row is locked first: another process may count the same one
                    connection.execute(
                        "INSERT INTO campaign (id, number, at) VALUES (?, 0, ?) "
                        "ON CONFLICT (id) DO UPDATE SET at = excluded.at",
                        (campaign, now()),
                    )
                    ask = "SELECT number FROM campaign WHERE id = ?"
                    ((before,),) = connection.execute(ask, (campaign,)).fetchall()
                    put = "UPDATE campaign SET number = ? WHERE id = ?"
                    connection.execute(put, (sum(made.values()), campaign))
                connection.insert(
                    "copies", ("sender", "message", "number"),
                    [(sender, message, number - before) for message, number in made.items()],
                    "ON CONFLICT (sender, message) DO UPDATE "
                    "SET number = copies.number + excluded.number",
                )  # fmt: skip
                ask = "SELECT number FROM copies WHERE sender = ? AND message = ?"
                rows = [connection.execute(ask, (sender, name)).fetchone() for name in made]
                return sum(int(number) for (number,) in rows)
        finally:
            connection.close()


def serving(address: str) -> AbstractContextManager[Note]:
    """Hold what a server must hold; yield what notes its URL.

    Raises `TryAgain` while another server has it, `NoPermission`, `CannotCreate`.
    """
    return engine_of(address).serving(address)


def keeping(address: str) -> AbstractContextManager[None]:
    """Be the one that keeps the figures.  Raises `TryAgain` while another one is."""
    return engine_of(address).keeping(address)


def check_name(address: str) -> None:
    """Raise `TryAgain` if a server has the store under another name, and not all can be seen."""
    engine_of(address).check_name(address)


def served_at(address: str) -> list[str]:
    """Return the URLs of the servers that record into the store now; "" for one not told."""
    return engine_of(address).served_at(address)


def left(address: str) -> Left:
    """Return what servers of the store left behind."""
    return engine_of(address).left(address)


def watch(address: str) -> Watch:
    """Look out for changes of settings and keys."""
    return engine_of(address).watch(address)


class Store:
    """An open store."""

    def __init__(self, address: str, *, fresh: bool = False) -> None:
        """Open a store for reading; `change` opens it for writing."""
        self.address = address
        self._engine = engine_of(address)
        self._writing = fresh
        with self._engine.errors(address):
            self._connection = self._open()
            if not fresh:
                try:
                    self._engine.check_schema(self._connection, address)
                except BaseException:
                    self._connection.close()
                    raise

    def _open(self) -> Connection:
        return self._engine.connect(self.address, writing=self._writing, wait=BUSY_SECONDS)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """One transaction: all of what is done in it, or nothing."""
        with self._engine.errors(self.address):
            if not self._writing:
                self._connection.close()
                self._writing = True
                self._connection = self._open()
            with self._connection.changing():
                yield self._connection

    def _rows(self, sql: str, *values: str | int) -> list[tuple[object, ...]]:
        with self._engine.errors(self.address):
            return self._connection.execute(sql, values).fetchall()

    @property
    def connection(self) -> Connection:
        """The connection itself, for `sestrack.tracker`, which has tables of its own."""
        return self._connection

    def free_space(self) -> int | None:
        """Return the octets left where the store is; None where that cannot be told."""
        return self._engine.free_space(self.address)

    def trouble(self) -> tuple[str, str]:
        """Say why events cannot be stored, or read again, and what to do; "" if all is well."""
        with self._engine.errors(self.address):
            return self._engine.trouble(self.connection, self.address)

    def set_aside_with(self, recipients: Sequence[str]) -> list[str]:
        """Name the stores that `restore` kept beside this one, with events of these recipients."""
        return self._engine.set_aside_with(self.address, recipients)

    def stamp(self) -> tuple[int, int, int, int]:
        """Return what differs when settings, keys or who is forgotten were changed since."""
        ((revision, key, forgotten, at),) = self._rows(
            "SELECT revision, (SELECT max(id) FROM key), (SELECT count(*) FROM forgotten), "
            "(SELECT sum(at) FROM forgotten) FROM config"
        )
        return int(str(revision)), int(str(key or 0)), int(str(forgotten)), int(str(at or 0))

    def who(self) -> bytes:
        """Return the key of the hashes that stand for recipients."""
        ((key,),) = self._rows("SELECT who FROM progress")
        assert isinstance(key, bytes)
        return key

    def forgotten(self) -> dict[str, int]:
        """Return when recipients were forgotten (seconds since 1970), by pseudonym."""
        return {str(who): int(str(at)) for who, at in self._rows("SELECT who, at FROM forgotten")}

    def note_forgotten(self, who: str, now: int) -> None:
        """Note that a recipient is forgotten from now on; servers see it as they do settings."""
        with self.change() as db:
            db.execute(
                "INSERT INTO forgotten VALUES (?, ?) ON CONFLICT (who) DO UPDATE SET at = ?",
                [who, now, now],
            )

    # -- keys ---------------------------------------------------------------------------

    def keys(self) -> list[KeyRow]:
        """Return the keys, the one that seals first."""
        rows = self._rows("SELECT id, secret, created_at FROM key ORDER BY id DESC")
        return [KeyRow._make(row) for row in rows]

    def token_keys(self) -> list[Key]:
        """Return what seals and opens tokens.  Raises `NotSetUp` if the store has no key."""
        from sestrack.tokens import Key

        keys = [Key.from_secret(row.id, row.secret) for row in self.keys()]
        if not keys:
            msg = f"the store {shown(self.address)} has no key"
            raise NotSetUp(msg, "sestrack init")
        return keys

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
            known = self.find_sender(sender.domain)
            if known is not None:
                msg = f"the sender domain {sender.domain} is there already"
                hint = f"sestrack sender show {sender.domain}"
                if sender.assumed and known.status is SenderStatus.PENDING:
                    again = f"sestrack sender add {sender.domain} --assume-verified"
                    hint = f"sestrack sender remove {sender.domain} && {again}"
                raise Refused(msg, hint)
            _put(db, "sender", sender._asdict())

    def verify_sender(self, domain: str, now: int) -> Sender:
        """Note that a sender domain is proven."""
        with self.change() as db:
            self.sender(domain)
            db.execute(
                "UPDATE sender SET status = ?, verified_at = ?, assumed = ? WHERE domain = ?",
                [SenderStatus.VERIFIED, now, False, domain],
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
            db.execute("DELETE FROM sender WHERE domain = ?", [domain])

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
            raise NotFound(msg, rules.instead_of(name, self.trace_domains()))
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
                db.execute("DELETE FROM trace_domain WHERE name = ?", [domain.name])
            _put(db, "trace_domain", domain._asdict())

    def note_dns(self, names: Iterable[str]) -> None:
        """Note that DNS leads to us at these trace domains."""
        rows = [(name,) for name in names]
        if rows:
            with self.change() as db:
                db.executemany("UPDATE trace_domain SET dns_verified = 1 WHERE name = ?", rows)

    def note_checks(self, checks: Iterable[Checked]) -> None:
        """Note what checks of trace domains found: where they stand now, and the history."""
        with self.change() as db:
            known = {domain.name: domain for domain in self.trace_domains()}
            for domain, found in checks:
                before = known.get(domain.name)
                if before is None or before.status is DomainStatus.RETIRED:
                    continue
                if domain.checked_at < before.checked_at <= now():
                    continue  # another one, that began later, has ended already
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
                db.execute(
                    "UPDATE trace_domain SET target = ?, former_target = ? WHERE name = ?",
                    [target, known.target, name],
                )
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
            db.execute(
                "UPDATE trace_domain SET status = ? WHERE name = ?", [DomainStatus.RETIRED, name]
            )

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

    def check_settings(self, settings: Settings) -> None:
        """Raise `Refused` if these settings cannot be saved."""
        domains = {domain.name: domain for domain in self.trace_domains()}
        old = self.settings()
        entries = [*old.senders.values(), *([old.account] if old.account else [])]
        rules.check_settings(settings, domains, {entry.domain for entry in entries})

    def save_settings(self, text: Text, revision: int) -> None:
        """Save settings that were made from `revision`.  Raises `TryAgain` if one came between.

        Raises `Refused` if they cannot be: a trace domain may have been deleted a moment ago.
        """
        with self.change() as db:
            if self.settings_text()[1] != revision:
                msg = "the settings were changed meanwhile by another"
                raise TryAgain(msg, "sestrack settings export  # as they are now")
            settings = text.settings
            self.check_settings(settings)
            db.execute(
                "UPDATE config SET enabled = ?, dimension = ?, text = ?, revision = revision + 1",
                [settings.enabled, settings.dimension, text.text],
            )
            db.execute("DELETE FROM entry")
            entries = {"": settings.account} if settings.account else {}
            entries |= settings.senders
            for name, entry in entries.items():
                row = {
                    "sender": name, "trace_domain": entry.domain or None, "click": entry.click,
                    "open": entry.open, "enabled": entry.enabled,
                }  # fmt: skip
                _put(db, "entry", row)


_CHECKED = (
    "status", "verified_at", "checked_at", "last_ok_at", "last_state", "dns_verified", "dns_only",
    "failures", "refusals", "failing_since", "certificate_ends",
)  # fmt: skip
_NOTE_CHECK = (
    f"UPDATE trace_domain SET {', '.join(f'{field} = ?' for field in _CHECKED)}, "
    "former_target = ? WHERE name = ?"
)
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


def _note_history(db: Connection, domain: TraceDomain, found: str) -> None:
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


def _add_key(db: Connection, now: int) -> int:
    ((number,),) = db.execute(
        "INSERT INTO key (secret, created_at) VALUES (?, ?) RETURNING id",
        [os.urandom(KEY_OCTETS), now],
    ).fetchall()
    return int(number)


def _put(db: Connection, table: str, row: dict[str, Any]) -> None:
    db.insert(table, [f'"{name}"' for name in row], [tuple(row.values())])


def now() -> int:
    """Return the time: seconds since 1970, UTC."""
    return int(time.time())
