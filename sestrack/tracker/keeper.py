"""The keeper: keeps the figures of a store that has many servers.

Each server starts one.  All of them announce their server; the one that has the lease
judges, counts and purges for all.  Should two believe that they have it, the marks tell:
who finds one moved by another undoes what it did.  It is a process of its own, so that
neither its work nor a database that hangs holds up what is recorded.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple, cast

from sestrack import output
from sestrack.cli import boundary
from sestrack.errors import SestrackError
from sestrack.store import errors_of, open_for_recording
from sestrack.tracker.places import Places
from sestrack.tracker.upkeep import Upkeep

if TYPE_CHECKING:
    from sestrack.engines.interface import SharedConnection

PIECE = 2_000
"""Visits a transaction: the more at once, the fewer rows of tallies, but the longer others
wait for the disk and the standbys."""
LATE_SECONDS = 60.0
"""How far behind the figures may be before they take all the time there is.  Reports count
what is behind for themselves."""
_EASE = 9.0
"""How much longer than a piece of work the rest after it is, until then."""
_EASE_SECONDS = 1.0
"""And how long at most: 2,000 events a second are kept up with at least."""
NICE = 10
"""Figures can wait, readers cannot."""
_RENEW_SECONDS = 3.0
_REST_SECONDS = 0.2
_RETRY_SECONDS = 1.0


class Charge(NamedTuple):
    """What a keeper is told."""

    store: str
    url: str
    mmdb: str = ""
    keep_days: int = 0
    log_json: bool = False


def main() -> None:
    """Be a keeper: what to do comes from the server on stdin."""
    output.never_wait()
    charge: Charge = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    for number in (signal.SIGINT, signal.SIGHUP):  # they reach all; the server tells us
        signal.signal(number, signal.SIG_IGN)
    if charge.log_json:
        output.log_as_json("keeper")
    sys.exit(boundary(lambda: Keeper(charge).run()))


class Keeper:
    """Announces a server, and keeps the figures when it is its turn."""

    def __init__(self, charge: Charge) -> None:
        """Take what it is told."""
        self._charge = charge
        self._parent = os.getppid()
        self._name = f"{socket.gethostname()}:{self._parent}:{os.urandom(4).hex()}"
        self._places = Places(charge.mmdb)
        self._stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _going_on(self) -> bool:
        return not self._stopping and os.getppid() == self._parent

    def run(self) -> int:
        """Work until SIGTERM, or until the server has gone."""
        gc.freeze()
        os.nice(NICE)
        said = ""
        is_new = True
        while self._going_on():
            try:
                with (
                    errors_of(self._charge.store),
                    closing(open_for_recording(self._charge.store)) as connection,
                ):
                    shared = cast("SharedConnection", connection)
                    if is_new:
                        shared.replace(self._name, self._charge.url)
                        is_new = False
                    shared.announce(self._name, self._charge.url)
                    if said:
                        output.note("figures: over")
                        said = ""
                    self._keep(shared)
            except SestrackError as error:
                if error.message != said:
                    said = error.message
                    output.warn(f"figures: {said}")
                self._sleep(_RETRY_SECONDS)
        return 0

    def _keep(self, connection: SharedConnection) -> None:
        upkeep: Upkeep | None = None
        renew_at = time.monotonic()
        announced = renew_at
        while self._going_on():
            now = time.monotonic()
            if now >= renew_at:
                renew_at = now + _RENEW_SECONDS
                if not connection.hold(self._name):
                    upkeep = None
                elif upkeep is None:
                    upkeep = Upkeep(connection, self._places, self._charge.keep_days, PIECE)
                if now - announced >= _RENEW_SECONDS:
                    announced = now
                    connection.announce(self._name, self._charge.url)
            more = upkeep is not None and upkeep.work()
            spent = time.monotonic() - now
            if upkeep is None or not more:
                self._sleep(_REST_SECONDS)
            elif time.time() - upkeep.judged_at / 1000 < LATE_SECONDS:
                self._sleep(min(_EASE * spent, _EASE_SECONDS))
        connection.release(self._name)
        if self._stopping:  # a server that was killed is missed
            connection.withdraw(self._name)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._going_on() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
