"""What can be wrong with a file of SQLite, or with its place, that no command need have met yet."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from glob import escape, glob
from shlex import quote
from typing import TYPE_CHECKING

from sestrack.engines import sqlite_lock
from sestrack.engines.default import command
from sestrack.engines.sqlite import uri_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sestrack.engines.sqlite import Connection

ASIDE = ".before-restore-"
"""What `restore` puts behind the name of the store that was there."""
_RESCUED = (".replaced-", ".removed-")
"""What a server puts behind the name of a store that lost its place (`sestrack.tracker.rescue`)."""
READ_WHOLE = 256 << 20
"""Octets of a store that is read in whole, in a second or three; `backup` reads any."""
_GROWING = {"agent", "event", "first", "tally", "visit"}
"""Tables that are not read where the store is larger: what mail needs is in the others."""


def trouble(connection: Connection, path: str) -> tuple[str, str]:
    """Say why events cannot be stored, or not be read again, and what to do; "" if all is well.

    Whoever may only read looks, too: that is no trouble, unless nobody may write.
    """
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "it lies on a file system that can only be read", f"findmnt --target {quote(path)}"
    if not stat.S_IMODE(os.stat(path).st_mode) & 0o222:
        return "nobody may write it", f"chmod u+w {quote(path)}"
    if damage := _damage(connection):
        return f"it is damaged: {damage}", command(path, "restore --force FILE")
    return "", ""


def _damage(connection: Connection) -> str:
    """Return what SQLite finds, "" for nothing."""
    ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
    ((octets,),) = connection.execute("PRAGMA page_size").fetchall()
    checks = ["PRAGMA quick_check(1)"]
    if pages * octets > READ_WHOLE:
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        checks = [f"PRAGMA quick_check('{name}')" for (name,) in names if name not in _GROWING]
    for check in checks:
        try:
            ((found,), *_) = connection.execute(check).fetchall()
        except UnicodeDecodeError:  # SQLite quotes what is damaged
            found = "a name in it is no text"
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            found = str(error)
        if found != "ok":
            return " ".join(str(found).removeprefix("*** in database main ***").split())
    return ""


def _set_aside(path: str) -> list[str]:
    """Name the stores that `restore`, or a server, kept beside this one, the newest last."""
    here = escape(os.path.realpath(path))
    return sorted(name for kind in (ASIDE, *_RESCUED) for name in glob(f"{here}{kind}*Z"))


def set_aside_with(path: str, recipients: Sequence[str]) -> list[str]:
    """Name those of them in which there are events of these recipients, or that cannot be read."""
    marks = ", ".join("?" * len(recipients))
    ask = f"SELECT EXISTS (SELECT 1 FROM event WHERE recipient IN ({marks}))"
    found = []
    for kept in _set_aside(path):
        try:
            with closing(sqlite3.connect(uri_of(kept, "ro"), uri=True)) as connection:
                ((is_there,),) = connection.execute(ask, list(recipients)).fetchall()
        except sqlite3.Error:
            is_there = 1
        found += [kept] * bool(is_there)
    return found


def was_there(path: str) -> bool:
    """Tell whether a store was served or restored under this name."""
    return os.path.exists(sqlite_lock.name_of(path)) or bool(_set_aside(path))
