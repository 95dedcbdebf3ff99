"""What becomes of a store whose file loses its name while it is served.

Somebody moved a backup over it, removed it, its log or its whole folder.  Whoever opened what is
there now would take our log for its own, so the log gives up its name first.  All there was
is in the files that we have open yet: when the server has ended, it is copied under the old name
if that is free, or beside.  Nothing of it is given up before there is room for the copy.

SQLite itself touches neither log nor file at its end when the file has another name, or none
(`SQLITE_FCNTL_HAS_MOVED`).
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NamedTuple

from sestrack.engines.sqlite import patience
from sestrack.errors import SestrackError
from sestrack.files import beside

if TYPE_CHECKING:
    from sestrack.engines import sqlite

_MOVE_MS = 50
"""How long the log is tried to be moved into a file that has another name, each time."""
_ROOM_LEFT = 1 << 20
"""Octets that a disk must have on top of the copy."""


_MOVED = "moved away"
_IN_PLACE = {"", "robbed of its log", "moved about"}
"""Fates of a file that has its name."""


class Fate(NamedTuple):
    """What has become of the store's file."""

    what: str = ""
    """In words; "" while it is where it was, or has another name that is its own."""
    trouble: str = ""
    """Why the server has to go on with a file that nobody will find."""


class Rescue:
    """Watches over the files of one connection, and keeps what they have."""

    def __init__(self, connection: sqlite.Connection) -> None:
        """Take the connection that writes."""
        self._connection = connection
        self._name = connection.path
        self._path = os.path.realpath(connection.path)
        self._file = _placed(self._path)
        self._log = _placed(f"{self._path}-wal")
        self._aside = ""
        self.lost = ""
        """What has become of the file, be there room for a copy or not."""
        self._has_moved = False
        """Whether it has another name alone, which the log has not."""

    def look(self) -> Fate:
        """See whether the files have their names."""
        # one that came back has a log without a name: nobody else would find what is in it
        what = self._what() or ("moved about" if self._aside else "")
        self._has_moved = what == _MOVED
        if self._has_moved:
            return self._move_along()
        self.lost = what
        if what in _IN_PLACE:
            return Fate(what)
        if not self._aside:
            moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            self._aside = f"{self._path}.{what}-{moment}"
            self._move_log()
        needed = self._octets()
        try:
            folder = os.path.dirname(self._path)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            disk = os.statvfs(folder)
        except OSError as error:
            return Fate(trouble=f"its folder cannot be made again: {error.strerror}")
        if disk.f_bavail * disk.f_frsize < needed + _ROOM_LEFT:
            trouble = f"{needed // (1 << 20) + 1} MiB free are needed to keep all it has"
            return Fate(trouble=f"it was {what}, and {trouble}: {folder}")
        return Fate(what)

    def _move_along(self) -> Fate:
        """Have all in the file: whoever opens it by its other name does not see the log."""
        with suppress(sqlite3.Error), patience(self._connection, _MOVE_MS):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        where = os.readlink(f"/proc/self/fd/{self._file}")
        again = "stop the server, and start it with that name"
        return Fate(trouble=f"it was moved away while it is served, to {where}: {again}")

    def keep(self, what: str) -> str:
        """Keep all there is; say in words what was done.  Nobody writes any more."""
        if what in _IN_PLACE:
            return f"{what} while it was served{self._keep_in_place()}"
        try:
            with beside(self._aside, private=True) as name, closing(sqlite3.connect(name)) as kept:
                kept.execute("PRAGMA journal_mode = OFF").fetchall()  # it is whole, or thrown away
                self._connection.backup(kept)
            where = self._aside
            with suppress(FileExistsError):
                os.link(self._aside, self._path)
                os.unlink(self._aside)
                where = self._path
        except (SestrackError, OSError, sqlite3.Error) as error:
            return f"{what} while it was served, and what it had is lost: {error}"
        self._remove_log()
        return f"{what} while it was served; what it had is {where} now"

    def _keep_in_place(self) -> str:
        """Move the log into the file, or give it its name again; say in words how it went."""
        with suppress(sqlite3.Error):
            if self._connection.wipe():
                self._remove_log()
                return "; all it had is there"
        log = f"{self._path}-wal"
        try:
            os.link(f"{self._aside}-wal", log)  # not in the place of another one
        except OSError:
            return ", and the last events may be lost"
        self._remove_log()
        return "; all it had is there, and in its log"

    def _remove_log(self) -> None:
        """Remove what has another name, and that nobody needs any more."""
        if self._aside:
            for companion in ("-wal", "-shm"):
                with suppress(OSError):
                    os.unlink(self._aside + companion)

    def close(self) -> str:
        """Forget the files; say in words if not all that was stored is where it will be found."""
        words = self._leave_moved() if self._has_moved else ""
        for handle in (self._file, self._log):
            if handle is not None:
                os.close(handle)
        self._file = self._log = None
        return words

    def _leave_moved(self) -> str:
        """Have all in a file that has another name; else give its log that name, too."""
        with suppress(sqlite3.Error):
            if self._connection.wipe():
                return ""
        where = os.readlink(f"/proc/self/fd/{self._file}")
        log = f"{self._path}-wal"
        try:
            os.link(log, f"{where}-wal")  # not in the place of another one
            os.unlink(log)
        except OSError:
            return f"moved away to {where}, and its last events are in {log} alone"
        return ""

    def _what(self) -> str:
        if self._file is None:
            return ""
        ours = os.fstat(self._file)
        try:
            if not os.path.samestat(os.stat(self._name), ours):
                return "replaced"
        except OSError:
            return _MOVED if ours.st_nlink else "removed"
        if self._log is None:
            self._log = _placed(f"{self._path}-wal")  # it comes with the first event
        elif not os.fstat(self._log).st_nlink:
            return "robbed of its log"
        return ""

    def _move_log(self) -> None:
        """Take its name from the log, if it is ours yet, and from its index."""
        log = f"{self._path}-wal"
        with suppress(OSError):
            if self._log is not None and os.path.samestat(os.stat(log), os.fstat(self._log)):
                os.rename(log, f"{self._aside}-wal")
                os.rename(f"{self._path}-shm", f"{self._aside}-shm")

    def _octets(self) -> int:
        try:
            ((pages,),) = self._connection.execute("PRAGMA page_count").fetchall()
            ((size,),) = self._connection.execute("PRAGMA page_size").fetchall()
        except sqlite3.Error:
            assert self._file is not None
            return os.fstat(self._file).st_size
        return int(pages * size)


def _placed(path: str) -> int | None:
    """Remember a file by a handle that is a mere place (open(2)); None where that cannot be.

    Closing a handle that can read would take SQLite's locks away.
    """
    with suppress(OSError, AttributeError):
        return os.open(path, os.O_PATH)
    return None
