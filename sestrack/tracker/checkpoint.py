"""Moving the write-ahead log into the store without keeping the writer waiting.

SQLite would do it within a COMMIT, some tens of milliseconds once every few seconds, and each
reader of that moment would wait.  Here a thread does the bulk of it on a connection of its own
(a PASSIVE checkpoint keeps no writer out); the writer then does the little that came meanwhile,
after which SQLite begins its log again from the start.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

from sestrack.engines import sqlite

ROWS = 40_000
"""After so many rows it is time: some 8 MB of log."""
SECONDS = 10.0
"""Or after so long, when anything was written."""
TOO_LONG = 50_000
"""Pages at which the log is moved whatever it costs: 200 MB."""
_WAIT_MS = 50


class Checkpointer:
    """Checkpoints the store of a connection, when the writer says that it may."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        """Take over from SQLite's own checkpoints."""
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._connection = connection
        ((_, _, self._path),) = connection.execute("PRAGMA database_list").fetchall()
        self._rows = 0
        self._at = now
        self._thread: threading.Thread | None = None

    def written(self, rows: int, now: float) -> None:
        """Note what was written, between two transactions."""
        self._rows += rows
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread = None
            ((_, pages, moved),) = self._connection.execute(
                "PRAGMA wal_checkpoint(PASSIVE)"
            ).fetchall()
            if moved < pages and pages > TOO_LONG:
                # it waits for readers: one that reads long, such as a backup, is left in peace,
                # and the log grows meanwhile
                with sqlite.patience(self._connection, _WAIT_MS):
                    self._connection.execute("PRAGMA wal_checkpoint(RESTART)")
            self._rows, self._at = 0, now
        elif self._rows >= ROWS or (self._rows and now - self._at > SECONDS):
            self._thread = threading.Thread(target=self._move, daemon=True)
            self._thread.start()

    def _move(self) -> None:
        try:
            # a store that was moved away must not be made anew
            with closing(sqlite3.connect(sqlite.uri_of(self._path, "rw"), uri=True)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error:
            pass  # the disk is full, perhaps: the writer will meet it, and say so
