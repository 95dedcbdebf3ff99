"""What an engine offers to the store and to the tracker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

Row = tuple[Any, ...]


class WriterMark(NamedTuple):
    """How far the events of one writer are.  Ids of events: see `tracker.events`."""

    id: int
    judged: int
    """The last event that is in the figures."""
    stored: int
    """The last event that is there."""


class Left(NamedTuple):
    """What servers left for others to see."""

    killed: Sequence[str] = ()
    """The URLs of those that ended without saying so."""
    lost: int = 0
    """Events they lost that the store knows nothing of."""
    lost_at: int = 0
    """When, in seconds since 1970, UTC."""
    trouble: str = ""
    """What the server that runs cannot do."""


class Note(Protocol):
    """Notes beside a store what a server says of itself."""

    def __call__(self, url: str, lost: int | None = None, trouble: str = "", /) -> None:
        """Note its URL, how many events were lost that the store knows nothing of, its trouble."""


class Rows(Protocol):
    """What a statement answers."""

    rowcount: int

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return the rows left."""

    def __iter__(self) -> Iterator[Any]:
        """Go through the rows left."""


class Connection(Protocol):
    """An open connection.  Outside `transaction` each statement is one of its own."""

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Rows:
        """Run a statement; its marks are `?`."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Run a statement with each of the rows."""

    def close(self) -> None:
        """Close it."""

    def transaction(self) -> AbstractContextManager[object]:
        """All of what is done in it, or nothing; on disk when it ends."""

    def changing(self) -> AbstractContextManager[None]:
        """Make a transaction that no other `changing` runs beside, and tell the servers after."""

    def derived(self) -> AbstractContextManager[None]:
        """Make a transaction of what can be made again: it need not be on disk when it ends."""

    def snapshot(self) -> None:
        """See from now on, until closed, what there is now."""

    def freeze(self, tables: Sequence[str]) -> None:
        """Let nobody else write to these tables until closed; they can be read."""

    def insert(
        self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], conflict: str = ""
    ) -> None:
        """Insert rows; `conflict` is what to do with those that are there: `ON CONFLICT …`."""

    def insert_new(
        self, table: str, columns: Sequence[str], rows: Sequence[Row], key: int
    ) -> set[Row]:
        """Insert those rows that are not there; return their first `key` values.

        Those must be the primary key, and no two rows may have the same.
        """

    def those_there(self, table: str, columns: Sequence[str], keys: Sequence[Row]) -> set[Row]:
        """Return those keys that have a row."""

    def make_room(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Have room for such rows.  Not within a transaction, unless there is room already."""

    def kept(self, text: str) -> str:
        """Return a text as it can be kept."""

    def writers(self) -> list[WriterMark]:
        """Return how far all writers are."""

    def put_writers(self, marks: Sequence[WriterMark]) -> None:
        """Have these writers in place of those that are there."""

    def drop_days(self, before_day: int, first: Callable[[], None]) -> int:
        """Drop the events of whole days (since 1970, UTC) at once, where the engine can.

        Only what is in the figures goes, and `first` is called before anything does.  Returns
        how many events went.
        """

    def number_on(self) -> None:
        """Have new ids come behind those that were copied in with their rows."""

    def wipe(self) -> bool:
        """Have what was overwritten leave the files; False if a reader keeps it there."""


class SharedConnection(Connection, Protocol):
    """A connection to a store that several servers record into."""

    def moving(self, sql: str) -> AbstractContextManager[int]:
        """Make a transaction that begins with a statement without values.

        Gives how many rows that changed.
        """

    def copy(self, sql: str, lines: bytes) -> None:
        """Copy lines in (COPY … FROM STDIN, text format)."""

    def store(self, move: str, copy: str, lines: bytes) -> bool:
        """Do `move` and `copy` in one transaction; False, and nothing, if no row was moved."""

    def ensure_days(self, days: set[int]) -> None:
        """Have room for events of these days (since 1970, UTC).  Not within a transaction."""

    def sever(self) -> None:
        """End the connection from another thread; whoever waits on it gets an error."""

    def hold(self, name: str) -> bool:
        """Take or renew the lease to keep the figures; False while another one has it."""

    def release(self, name: str) -> None:
        """Give the lease back."""

    def announce(self, name: str, url: str) -> None:
        """Say that a server records into the store now."""

    def replace(self, name: str, url: str) -> None:
        """Forget the servers that ended without saying so and in whose place this one begins."""

    def withdraw(self, name: str) -> None:
        """Say that it does no longer."""


class Watch(Protocol):
    """Looks out for changes of settings and keys, in a thread of its own."""

    is_told: bool
    """Whether it hears of changes; else it only waits."""

    def wait(self, seconds: float) -> None:
        """Return when something may have changed, or after so long."""

    def close(self) -> None:
        """Stop."""


class Engine(Protocol):
    """One of the modules of this package.  All take the address of a store."""

    KIND: str
    """Its name: what is chosen by it elsewhere is a table, never a condition."""
    SCHEMA_VERSION: int
    """The number of migrations that make a store."""

    def shown(self, address: str) -> str:
        """Return the address as it may be shown: without a password."""

    def errors(self, address: str) -> AbstractContextManager[None]:
        """Turn the engine's errors into ours."""

    def check_new(self, address: str) -> None:
        """Raise `Refused` where a new store would take the place of one that is gone."""

    def check_name(self, address: str) -> None:
        """Raise `TryAgain` where not all that is stored can be seen, for it is served elsewhere."""

    def create(self, address: str) -> None:
        """Make what a connection needs, if it is not there."""

    def connect(self, address: str, *, writing: bool, wait: float) -> Connection:
        """Connect; a busy store is waited for so many seconds."""

    def check_schema(self, connection: Connection, address: str) -> None:
        """Raise `NotSetUp` or `BadInput` if it is not a store of this version."""

    def version(self, connection: Connection) -> int:
        """Return how many migrations made the store: 0 where none is, negative for half a copy."""

    def set_version(self, connection: Connection, version: int) -> None:
        """Say how many migrations made it, and by a negative number that it is half a copy."""

    def migrate(self, connection: Connection) -> bool:
        """Bring the schema up to date within a transaction; return whether anything changed."""

    def for_recording(self, address: str) -> Connection:
        """Connect to write events."""

    def serving(self, address: str) -> AbstractContextManager[Note]:
        """Hold what a server must hold; yield what notes its URL.

        Raises `TryAgain` while another server has it, `NoPermission`, `CannotCreate`.
        """

    def keeping(self, address: str) -> AbstractContextManager[None]:
        """Be the one that keeps the figures.  Raises `TryAgain` while another one is."""

    def served_at(self, address: str) -> list[str]:
        """Return the URLs of the servers that record into the store now.  Changes nothing."""

    def left(self, address: str) -> Left:
        """Return what servers left for others to see.  Changes nothing."""

    def watch(self, address: str) -> Watch:
        """Look out for changes."""

    def free_space(self, address: str) -> int | None:
        """Return the octets left where the store is; None where that cannot be told."""

    def trouble(self, connection: Connection, address: str) -> tuple[str, str]:
        """Say why events cannot be stored, and what to do; "" if all is well."""

    def set_aside_with(self, address: str, recipients: Sequence[str]) -> list[str]:
        """Name the stores that `restore` kept beside this one, with events of these recipients."""
