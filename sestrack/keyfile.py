"""The key file: all sealing keys, as JSON, for the day the store is lost.

{"sestrack-keys": 1, "keys": [{"id": 1, "created_at": "2026-…", "secret": "base64"}]}
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING

from sestrack import files
from sestrack.errors import BadInput
from sestrack.times import utc
from sestrack.tokens import KEY_OCTETS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sestrack.store import KeyRow


def write_keys(keys: Iterable[KeyRow]) -> str:
    """Return the text of a key file."""
    rows = [
        {"id": key.id, "created_at": utc(key.created_at), "secret": b64encode(key.secret).decode()}
        for key in keys
    ]
    return json.dumps({"sestrack-keys": 1, "keys": rows}, indent=2) + "\n"


def read_keys(file: str) -> list[tuple[int, bytes]]:
    """Read ids and secrets, the newest first.  Raises `BadInput`, and what `files.read` does."""
    data = files.read(file)
    try:
        document = json.loads(data)
        keys = [
            (int(row["id"]), b64decode(row["secret"], validate=True)) for row in document["keys"]
        ]
        if document["sestrack-keys"] != 1 or any(len(s) != KEY_OCTETS for _, s in keys):
            raise ValueError
    except (ValueError, KeyError, TypeError, Base64Error, OverflowError, RecursionError):
        msg = f"{files.shown(file)} is not a key file"
        raise BadInput(msg, "sestrack keys export FILE  # makes one") from None
    return sorted(keys, reverse=True)
