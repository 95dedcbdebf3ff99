"""The collecting end while there is no store: what comes waits until one can be opened.

Readers are answered with the keys of a file meanwhile (`serve --keys`).  Batches stay here, and
more of them in the workers (`sestrack.tracker.recorder.ROOM`), as with a disk that stands still.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sestrack.errors import SestrackError
from sestrack.tracker.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Callable

    from sestrack.tracker.collector import Batch, Worker

REOPEN_SECONDS = 5.0
"""How often the store is tried."""
_NAP_SECONDS = 0.1
_RECORD = "nothing is recorded yet"


class Waiting(Collector):
    """Holds what the workers hand over, until there is somebody to write it."""

    def __init__(
        self, open_store: Callable[[], Collector], log: Callable[..., None], trouble: str
    ) -> None:
        """Take what opens the store, or raises `SestrackError`, and why it could not be."""
        super().__init__(log)
        self._open_store = open_store
        self._held: list[tuple[Worker, Batch]] = []
        self._look_at = time.monotonic() + REOPEN_SECONDS
        self.heir: Collector | None = None
        """Who writes what is here, when the store is open."""
        self._say_why(trouble)

    def _patience(self) -> float:
        return _NAP_SECONDS

    def _turn(self, batches: list[tuple[Worker, Batch]]) -> None:
        self._held += batches
        is_last = self.give_up_at < float("inf")  # nobody waits for a store that is not there
        if self.heir is not None or (time.monotonic() < self._look_at and not is_last):
            return
        self._look_at = time.monotonic() + REOPEN_SECONDS
        try:
            self.heir = self._open_store()
        except SestrackError as error:
            self._say_why(error.message)
            if is_last:
                self.finish()

    def _say_why(self, trouble: str) -> None:
        self._say(_RECORD, f"{trouble}; events wait in memory")

    def finish(self) -> None:
        """Hand over what is held, and the workers; or count it as lost."""
        held, self._held = self._held, []
        if self.heir is None:
            self.give_up(held)
        else:
            self._log("events are recorded from now on")
            self.heir.take_over(self, held)
