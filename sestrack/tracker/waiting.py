"""The collecting end while there is no store: what comes waits until one can be opened.

Readers are answered with the keys of a file meanwhile (`serve --keys`).  Batches stay here, and
more of them in the workers (`sestrack.tracker.recorder.ROOM`), as with a disk that stands still.
"""

from __future__ import annotations

import threading
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
        self,
        look: Callable[[], SestrackError | None],
        open_store: Callable[[], Collector],
        log: Callable[..., None],
        trouble: str,
    ) -> None:
        """Take what opens the store, or raises `SestrackError`, and why it could not be.

        Before that `look` is called, in a thread, to say whether it would: a store that is
        silent is waited for, and workers are to be seen to meanwhile.
        """
        super().__init__(log)
        self._look = look
        self._open_store = open_store
        self._held: list[tuple[Worker, Batch]] = []
        self._look_at = time.monotonic() + REOPEN_SECONDS
        self._looking: threading.Thread | None = None
        self._found: SestrackError | None = None
        self._is_last = False
        """Whether the store was looked at since the server was told to end: it is not again."""
        self.heir: Collector | None = None
        """Who writes what is here, when the store is open."""
        self._say_why(trouble)

    def _patience(self) -> float:
        return _NAP_SECONDS

    def _turn(self, batches: list[tuple[Worker, Batch]]) -> None:
        self._held += batches
        if self.heir is not None:
            return
        if self._looking is not None:
            if not self._looking.is_alive():
                self._try()
        elif self._is_last:
            self._give_up_held()
        elif self.give_up_at < float("inf"):  # nobody waits for a store that is not there
            self._is_last = True
            self._begin_to_look()
        elif time.monotonic() >= self._look_at:
            self._begin_to_look()

    def _begin_to_look(self) -> None:
        def look() -> None:
            self._found = self._look()

        self._looking = threading.Thread(target=look, daemon=True)
        self._looking.start()

    def _try(self) -> None:
        """Open the store, unless it was seen that it cannot be."""
        self._looking = None
        self._look_at = time.monotonic() + REOPEN_SECONDS
        try:
            if self._found is not None:
                raise self._found
            self.heir = self._open_store()
        except SestrackError as error:
            self._say_why(error.message)

    def _say_why(self, trouble: str) -> None:
        self._say(_RECORD, f"{trouble}; events wait in memory")

    def _give_up_held(self) -> None:
        held, self._held = self._held, []
        self.give_up(held)

    def finish(self) -> None:
        """Hand over what is held, and the workers; or count it as lost."""
        if self._looking is not None and self._held:
            self._looking.join()
            self._try()
        if self.heir is None:
            self._give_up_held()
        else:
            held, self._held = self._held, []
            self._log("events are recorded from now on")
            self.heir.take_over(self, held)
