"""A clock that stands still while the machine does, for bounds on what somebody waits.

A virtual machine may be held for seconds, and a busy one gives a process no turn: whoever
waited then did not wait for us.
"""

from __future__ import annotations

import threading
import time

_TICK = 0.01
_LONGEST = 0.03
"""What a tick counts for at most."""


class _Clock(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds = 0.0
        self.start()

    def run(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(_TICK)
            now = time.monotonic()
            self.seconds += min(now - before, _LONGEST)
            before = now


_clock: list[_Clock] = []


def seconds() -> float:
    """Return the time awake, from any moment on."""
    if not _clock:
        _clock.append(_Clock())
    return _clock[0].seconds
