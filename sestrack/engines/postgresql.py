"""PostgreSQL, or what speaks its protocol: the store of many servers.

The address is a URL as libpq takes it (RFC 3986; PostgreSQL's manual, 34.1.1.2); it may name
several hosts, and who writes then asks for the one that may be written to.  A password had
better not stand in it: `~/.pgpass` and `PGPASSWORD` are read as ever, and where it does stand
in it, it is shown nowhere.
"""

from __future__ import annotations

import os
import time
from contextlib import closing, contextmanager
from shlex import quote
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sestrack.engines import addresses, versions
from sestrack.engines.default import command
from sestrack.engines.interface import Left
from sestrack.engines.postgresql_connection import (
    CHANNEL,
    LEASE_SECONDS,
    MISSED_SECONDS,
    NOW,
    SILENT_SECONDS,
    Connection,
)
from sestrack.engines.postgresql_errors import Login, judge_code, judge_words, lost
from sestrack.engines.postgresql_schema import SCHEMA_VERSION, apply
from sestrack.errors import NotSetUp, SestrackError, TryAgain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sestrack.engines.interface import Note

KIND = "postgresql"
CONNECT_SECONDS = 5
SILENCE_MS = 10_000
"""How long the network may be silent on what was sent before the connection is given up."""


# -- addresses ------------------------------------------------------------------------------


def shown(address: str) -> str:
    """Return the address without what is secret, or is nobody's business, in it."""
    return addresses.shown(address)


def _conninfo(address: str, **more: str | int) -> str:
    """Read the address; raise `UsageError` without quoting what may be a password."""
    if not addresses.is_plain(address):
        raise addresses.not_postgresql(address)
    try:
        known = conninfo_to_dict(address)
        usual: dict[str, str | int] = {
            "application_name": "sestrack", "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": SILENCE_MS, "keepalives_idle": 10, "keepalives_interval": 3,
            "keepalives_count": 3, "client_encoding": "UTF8",
        }  # fmt: skip
        return make_conninfo(address, **{k: v for k, v in (usual | more).items() if k not in known})
    except (psycopg.Error, ValueError) as error:
        raise addresses.not_postgresql(address, str(error)) from None


def _several(address: str) -> bool:
    return "," in str(conninfo_to_dict(address).get("host") or "")


def _open(conninfo: str, wait: float) -> Connection:
    raw = psycopg.connect(conninfo, autocommit=True)
    return Connection(raw, wait)


def connect(address: str, *, writing: bool, wait: float = 5.0) -> Connection:
    """Connect; of several hosts to the one that may be written to.

    Who reads takes a standby where there is no other: settings may be a moment old there,
    but a mail goes out.
    """
    if not _several(_conninfo(address)):
        return _open(_conninfo(address), wait)
    try:
        return _open(_conninfo(address, target_session_attrs="read-write"), wait)
    except psycopg.OperationalError:
        if writing:
            raise
        return _open(_conninfo(address, target_session_attrs="any"), wait)


def for_recording(address: str) -> Connection:
    """Connect to write events."""
    return connect(address, writing=True)


def check_new(address: str) -> None:
    """Refuse nothing: a database is there, or it is not."""


def check_name(address: str) -> None:
    """Refuse nothing: by whatever name, it is the same database."""


def create(address: str) -> None:
    """See that texts of all alphabets can be kept; the database itself is not ours to make."""
    with errors(address), closing(connect(address, writing=True)) as connection:
        encoding = connection.raw.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            msg = f"the database of {shown(address)} has the encoding {encoding}, not UTF8"
            raise NotSetUp(msg, f"one beside it: {_login(address).elsewhere}")
        if _is_there(connection):
            versions.refuse_newer(_number(connection), SCHEMA_VERSION, shown(address))


def _login(address: str) -> Login:
    """Take the address apart for messages."""
    known = {name: str(value) for name, value in conninfo_to_dict(_conninfo(address)).items()}
    user = known.get("user") or os.environ.get("PGUSER") or _own_name()
    database = known.get("dbname") or os.environ.get("PGDATABASE") or user
    return Login(shown(address), known.get("host", ""), known.get("port", ""), user, database)


def _own_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "postgres"


def check_schema(connection: Connection, address: str) -> None:
    """See whether the database is a store of this version."""
    if not _is_there(connection):
        msg = f"the store {shown(address)} is not set up"
        raise NotSetUp(msg, command(shown(address), "init"))
    versions.check(_number(connection), SCHEMA_VERSION, shown(address))


def _is_there(connection: Connection) -> bool:
    ((there,),) = connection.execute("SELECT to_regclass('sestrack') IS NOT NULL").fetchall()
    return bool(there)


def _number(connection: Connection) -> int:
    ((number,),) = connection.execute("SELECT max(version) FROM sestrack").fetchall()
    return int(number or 0)


def version(connection: Connection) -> int:
    """Return how many migrations made the store: 0 where none is, negative for half a copy."""
    return _number(connection) if _is_there(connection) else 0


def set_version(connection: Connection, version: int) -> None:
    """Say how many migrations made it, and by a negative number that it is half a copy."""
    connection.execute("UPDATE sestrack SET version = ?", (version,))


def migrate(connection: Connection) -> bool:
    """Run the migrations that are pending."""
    versions.refuse_half(version(connection))
    return apply(connection)


# -- servers --------------------------------------------------------------------------------


@contextmanager
def serving(address: str) -> Iterator[Note]:  # noqa: ARG001
    """Hold nothing: there may be many servers, and their keepers announce them."""
    yield lambda *_: None


@contextmanager
def keeping(address: str) -> Iterator[None]:
    """Be the one that keeps the figures.  Raises `TryAgain` while another one is."""
    name = f"command-{time.time_ns()}"
    with errors(address), closing(connect(address, writing=True)) as connection:
        if not connection.hold(name):
            msg = f"a server keeps the figures of {shown(address)}"
            raise TryAgain(msg, "sestrack doctor")
        yield
        connection.release(name)


def served_at(address: str) -> list[str]:
    """Return the URLs of the servers that have announced themselves of late."""
    with errors(address), closing(connect(address, writing=False)) as connection:
        rows = connection.execute(
            f"SELECT url FROM server WHERE seen_at > {NOW} - {LEASE_SECONDS} ORDER BY name"
        )
        return [url for (url,) in rows]


def left(address: str) -> Left:
    """Return which servers ended without saying so; what they lost is in the store."""
    with errors(address), closing(connect(address, writing=False)) as connection:
        rows = connection.execute(
            f"SELECT name, url FROM server WHERE seen_at <= {NOW} - {SILENT_SECONDS} "
            f"AND seen_at > {NOW} - {MISSED_SECONDS} ORDER BY name"
        )
        return Left([f"{url} on {name.partition(':')[0]}" for name, url in rows])


class Watch:
    """Is told of changes (LISTEN); where that cannot be had, it waits."""

    is_told = True

    def __init__(self, address: str) -> None:
        """Take the address; it connects when it first waits."""
        self._address = address
        self._raw: psycopg.Connection[Any] | None = None

    def wait(self, seconds: float) -> None:
        """Return when something was changed, or after so long."""
        end = time.monotonic() + seconds
        try:
            if self._raw is None:
                self._raw = connect(self._address, writing=True).raw
                self._raw.execute(f"LISTEN {CHANNEL}")
                return  # what was told before nobody heard
            for _ in self._raw.notifies(timeout=seconds, stop_after=1):
                return
        except (psycopg.Error, SestrackError):
            self.close()
            time.sleep(max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """Hang up."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None


def watch(address: str) -> Watch:
    """Look out for changes."""
    return Watch(address)


def free_space(address: str) -> None:
    """Tell nothing: the disk is another machine's."""


def trouble(connection: Connection, address: str) -> tuple[str, str]:
    """Tell whether it is a standby, or the database is set to be read alone."""
    ((answer,),) = connection.execute(
        "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean"
    ).fetchall()
    hint = f"psql {quote(shown(address))} -c 'SHOW transaction_read_only'"
    return ("it can only be read", hint) if answer else ("", "")


def set_aside_with(address: str, recipients: Sequence[str]) -> list[str]:  # noqa: ARG001
    """Name none: `restore` is for files."""
    return []


# -- errors ---------------------------------------------------------------------------------


@contextmanager
def errors(address: str) -> Iterator[None]:
    """Turn PostgreSQL's errors into ours.  None of them shows a password."""
    try:
        yield
    except psycopg.Error as error:
        raise _ours(error, address) from None


def _ours(error: psycopg.Error, address: str) -> Exception:
    login = _login(address)
    if error.sqlstate:
        words = " ".join((error.diag.message_primary or str(error)).split())
        if found := judge_code(error.sqlstate, words, login):
            return found
    elif isinstance(error, psycopg.OperationalError) or "connect_timeout" in str(error):
        return judge_words(str(error), login)
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return lost(str(error).partition("\n")[0], login.name)
    return error
