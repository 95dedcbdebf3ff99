"""The tables that both engines have, with what `copying` asks of them: rows and digests."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sestrack.engines.interface import Connection, Row

PIECE = 20_000
"""Rows a transaction."""


class Table(NamedTuple):
    """A table both engines have."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    """All of them, those of the key first."""

    def pieces(self, connection: Connection, after: Row = ()) -> Iterator[list[Row]]:
        """Read the rows behind a key, in the order of the keys; the last piece is not full."""
        key, marks = ", ".join(self.key), ", ".join("?" * len(self.key))
        select = f"SELECT {', '.join(self.columns)} FROM {self.name}"
        while True:
            where = f"WHERE ({key}) > ({marks})" if after else ""
            sql = f"{select} {where} ORDER BY {key} LIMIT {PIECE}"
            rows = connection.execute(sql, after).fetchall()
            yield rows
            if len(rows) < PIECE:
                return
            after = rows[-1][: len(self.key)]


def _table(name: str, key: str, more: str) -> Table:
    return Table(name, tuple(key.split()), (*key.split(), *more.split()))


TABLES = (
    _table("progress", "id", "purged_day lost lost_at who"),
    _table("config", "id", "edge enabled dimension text revision"),
    _table("key", "id", "secret created_at"),
    _table("forgotten", "who", "at"),
    _table("sender", "domain", '"primary" proof status assumed created_at verified_at'),
    _table(
        "trace_domain", "name",
        'prefix "primary" status plain_http port created_at verified_at checked_at last_ok_at '
        "last_state target former_target dns_verified dns_only failures refusals failing_since "
        "certificate_ends",
    ),
    _table("entry", "sender", "trace_domain click open enabled"),
    _table("trace_check", "id", "trace_domain state found since until times"),
    _table("copies", "sender message", "number"),
    _table("campaign", "id", "number at"),
    _table("origin", "id", "sender message trace_domain"),
    _table("link", "id", "origin number url"),
    _table("agent", "id", "text"),
    _table("place", "id", "country region"),
    _table("program", "id", "device client system"),
    _table("event", "id", "at kind origin link recipient minted ip agent traits"),
    _table("visit", "event", "visitor place program reasons rules at"),
    _table("first", "origin who act", "day"),
    _table(
        "tally", "dimension day origin value visitor", "opens openers readers clicks clickers"
    ),
)  # fmt: skip
"""What a store is made of, a table behind those its rows refer to; and `writer`, of which the
engines keep different things (`Connection.writers`)."""


class Digest(NamedTuple):
    """What a table holds, in short."""

    rows: int
    sum: int
    altered: int
    """Rows with a text that is kept otherwise."""


def digest(
    connection: Connection,
    table: Table,
    kept: Callable[[str], str] | None,
    step: Callable[[int], None],
) -> Digest:
    """Add up the digests of all rows, each with its texts as the other store keeps them."""
    count = total = altered = 0
    for rows in table.pieces(connection):
        for row in rows:
            text = repr(row)
            if kept and "\\" in text:  # what cannot be kept is escaped there
                as_kept = repr(tuple(kept(v) if isinstance(v, str) else v for v in row))
                altered += as_kept != text
                text = as_kept
            octets = text.encode("utf-8", "surrogatepass")
            total += int.from_bytes(blake2b(octets, digest_size=16).digest(), "big")
        count += len(rows)
        step(len(rows))
    return Digest(count, total % 2**128, altered)
