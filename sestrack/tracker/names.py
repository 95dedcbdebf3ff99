"""What is recorded in place of a recipient's name."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sestrack.engines.interface import Connection


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
