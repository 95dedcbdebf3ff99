"""What is recorded in place of a recipient's name."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sestrack.engines.interface import Connection
    from sestrack.tracker.collector import EventRow

_KNOWN_BY_THEN = 60
"""Seconds in which every worker has learned whom to forget, had it stood still before."""


def key_of(connection: Connection) -> bytes:
    """Return the key of the hashes that stand for recipients in a store."""
    ((key,),) = connection.execute("SELECT who FROM progress").fetchall()
    assert isinstance(key, bytes)
    return key


def forgotten_in(connection: Connection) -> dict[str, int]:
    """Return when recipients were forgotten (seconds since 1970), by pseudonym."""
    return dict(connection.execute("SELECT who, at FROM forgotten").fetchall())


def pseudonym(key: bytes, recipient: str) -> str:
    """Return the keyed hash that stands for a recipient: 96 bits in hexadecimal."""
    return f"recipient-{hashlib.blake2b(recipient.encode(), key=key, digest_size=12).hexdigest()}"


class Names:
    """Says what is recorded of recipients' names.  Pure."""

    def __init__(self, key: bytes, forgotten: Mapping[str, int], *, hashed: bool) -> None:
        """Take the key of the store's pseudonyms, and who was forgotten when.

        `forgotten` has times, seconds since 1970, by pseudonym; `hashed` keeps no names at
        all, as `serve --no-recipient` does.
        """
        self._key = key
        self._forgotten = forgotten
        self._hashed = hashed

    def recorded(self, recipient: str, minted: int) -> str | None:
        """Return what is recorded of a recipient; None for one that was forgotten.

        Only copies minted (seconds since 1970) up to that moment count: whoever gets mail
        afterwards has come again.
        """
        hashed = pseudonym(self._key, recipient)
        if self._is_forgotten(hashed, minted):
            return None
        return hashed if self._hashed else recipient

    def still_recorded(self, recorded: str, minted: int) -> bool:
        """Tell whether what was recorded of a recipient may stay: it was no one forgotten since."""
        hashed = pseudonym(self._key, recorded)
        return not (self._is_forgotten(recorded, minted) or self._is_forgotten(hashed, minted))

    def _is_forgotten(self, hashed: str, minted: int) -> bool:
        return self._forgotten.get(hashed, -1) >= minted


class Late:
    """Takes the name and address out of events that were on their way while it was forgotten.

    A worker records by a list that is half a second old, and what it hands over may wait: in
    memory while the disk stands still, in a spool while the store is away.
    """

    def __init__(self) -> None:
        """Know of nobody yet."""
        self._forgotten: dict[str, int] = {}
        self._names = Names(b"", {}, hashed=False)
        self._until = 0
        """Events up to this time (ms since 1970) may name somebody forgotten."""

    def look(self, connection: Connection) -> None:
        """Learn who is forgotten by now."""
        forgotten = forgotten_in(connection)
        if forgotten != self._forgotten:
            self._names = Names(key_of(connection), forgotten, hashed=False)
            self._forgotten = forgotten
            self._until = int((time.time() + _KNOWN_BY_THEN) * 1000)

    def cleared(self, rows: list[EventRow]) -> list[EventRow]:
        """Return the events as they may be stored."""
        if not self._forgotten or not rows or rows[0][0] > self._until:
            return rows
        may_stay = self._names.still_recorded
        return [
            row if not row[2] or may_stay(row[2], row[3]) else (*row[:2], "", row[3], "", *row[5:])
            for row in rows
        ]
