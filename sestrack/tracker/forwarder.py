"""The writer into PostgreSQL: answers when events are committed there, or wait on disk here.

While all is well a batch is answered after PostgreSQL has committed it, with whatever it
waits for (`synchronous_standby_names`); what comes meanwhile is the next batch.  If that
takes longer than `SPOOL_AFTER`, or PostgreSQL is away, the batch goes into the spool and is
answered then; what waits there goes first, in its order, once PostgreSQL is back.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from sestrack.tracker.collector import Collector
from sestrack.tracker.shipper import Shipper
from sestrack.tracker.spool import Parcel, own_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from sestrack.tracker.collector import Batch, Worker
    from sestrack.tracker.spool import Spool

SPOOL_AFTER = 0.1
"""Seconds that a commit may take before its events are put on disk here; readers wait 0.2."""
HANG_SECONDS = 15.0
"""How long a commit may hang before the connection is ended."""
LAST_SECONDS = 5.0
"""How long what waits on disk is still tried to be stored when the server ends."""
SWITCH_SECONDS = 0.0005
"""How long one thread may keep the interpreter while another has something to do."""
RETRY_SECONDS = 0.5
LOT = 20_000
"""Events from the spool in one transaction."""
_NAP_SECONDS = 0.1
_LOOK_SECONDS = 0.02
_NAME_SECONDS = 1.0
_TAKE_UP_SECONDS = 60.0
_STORE = "PostgreSQL"
_SPOOL = "cannot write the spool"
_FULL = "the spool"


class _Lot(NamedTuple):
    """What is stored in one transaction."""

    parcels: list[Parcel]
    batches: list[tuple[Worker, Batch]]
    """Those to answer when it is kept; empty when they were."""


class Forwarder(Collector):
    """Numbers batches and has them stored."""

    def __init__(self, address: str, spool: Spool, log: Callable[..., None]) -> None:
        """Take the store's address and the spool."""
        super().__init__(log)
        self._address = address
        self._gathered: list[tuple[Worker, Batch]] = []
        self._flying: _Lot | None = None
        """What the shipper has."""
        self._since = 0.0
        self._held: _Lot | None = None
        """What is kept nowhere yet, for neither place takes it."""
        self._overflown = 0
        """Events for which the spool had no room since it was full."""
        self._landed: list[tuple[Worker, Batch]] = []
        """Batches that are stored and not answered yet."""
        self._retry_at = 0.0
        self._look_at = 0.0
        """When the spool is looked for under its name."""
        self._hung_up = False
        self._take_up_at = 0.0
        """When the folder is looked at for other spools of ours."""
        ended_in, ended_out = socket.socketpair()
        for end in (ended_in, ended_out):
            end.setblocking(False)  # noqa: FBT003
        self._ends = ended_in, ended_out
        self._limit = spool.limit
        self.watch(ended_in)
        self._ship_from(spool)
        # the shipper's thread waits for answers mostly, and should go on when they come
        sys.setswitchinterval(SWITCH_SECONDS)

    def _ship_from(self, spool: Spool) -> None:
        if spool.owed:  # they are counted with what is stored next
            with suppress(sqlite3.Error):
                spool.put([Parcel(spool.number(1), [], [], spool.owed)])
                spool.note_owed(0)
        self._spool, self.spool_file = spool, spool.path
        self._shipper = Shipper(self._address, spool, lambda: _wake(self._ends[1]))

    def _patience(self) -> float:
        if self._flying is not None or self._held is not None:
            return _LOOK_SECONDS
        return _NAP_SECONDS

    def _turn(self, batches: list[tuple[Worker, Batch]]) -> None:
        now = time.monotonic()
        self._gathered += batches
        self._land(now)
        self._put_held()
        if self._flying is not None and self._flying.batches and now - self._since > SPOOL_AFTER:
            self._put_flying()
        if self._gathered and self._held is None and not (self._flying and self._flying.batches):
            self._held = self._number()
            if self._flying is not None or self._spool.waiting or now < self._retry_at:
                self._put_held()
        if self._flying is None and now >= self._retry_at:
            if self._spool.waiting:
                self._send(_Lot(self._spool.take(LOT), []), now)
            elif self._held is not None:
                held, self._held = self._held, None
                self._send(held, now)
        if now >= self._look_at:
            self._look_at = now + _NAME_SECONDS
            try:
                self._spool.keep_name()
            except sqlite3.Error as error:
                self._say(_SPOOL, str(error))
        self._spool.tidy()
        # the next lot is on its way: time to answer
        landed, self._landed = self._landed, []
        self._answer(landed)
        if self._flying is not None and now - self._since > HANG_SECONDS and not self._hung_up:
            self._hung_up = self._shipper.hang_up()
        if self.give_up_at < float("inf"):
            return  # what others left is for one that goes on
        if now >= self._take_up_at and self._spool.is_over and not self._is_more():
            self._take_up_at = now + _TAKE_UP_SECONDS
            self._take_up()

    def _take_up(self) -> None:
        """Go on with another spool of this store, if events were left there.

        Ours has none.  At the start it was not known whose they are, with keys from a file; or
        the server that had them has ended since.
        """
        spool = own_left(os.path.dirname(self._spool.path), self._spool.store, self._limit)
        if spool is not None:
            self._log(f"what was left in {spool.path} is stored now")
            self._shipper.close()
            self._spool.close()
            self._ship_from(spool)

    def _number(self) -> _Lot | None:
        batches = self._gathered
        try:
            parcels = [
                Parcel(
                    self._spool.number(max(len(batch.rows), 1)),
                    batch.rows, batch.targets, batch.lost,
                )
                for _, batch in batches
            ]  # fmt: skip
        except sqlite3.Error as error:
            self._say(_SPOOL, str(error))
            return None
        self._gathered = []
        return _Lot(parcels, batches)

    def _send(self, lot: _Lot, now: float) -> None:
        self._flying, self._since, self._hung_up = lot, now, False
        self._shipper.send(lot.parcels)

    def _land(self, now: float) -> None:
        """See whether the shipper has ended, and how."""
        if self._flying is None:
            return
        ended, trouble = self._shipper.end()
        if not ended:
            return
        lot, self._flying = self._flying, None
        if trouble is not None:
            self._say(_STORE, f"{trouble.message}; events wait in {self._spool.path}")
            self._retry_at = now + RETRY_SECONDS
            if lot.batches:
                self._put(lot)
            return
        self._say(_STORE, "")
        self._say(_SPOOL, "")
        if lot.batches:
            self._landed = lot.batches
        else:
            self._spool.drop(lot.parcels[-1].last)
            self._overflown = 0
            self._say(_FULL, "")

    def _put_flying(self) -> None:
        """Keep on disk what the shipper is still busy with: it may or may not arrive."""
        lot, self._flying = self._flying, None
        assert lot is not None
        self._put(lot)
        if self._held is None:
            self._flying = _Lot(lot.parcels, [])
        else:
            self._flying, self._held = lot, None

    def _put(self, lot: _Lot) -> None:
        """Keep a lot in the spool, and answer; hold it if that cannot be done."""
        try:
            refused = self._spool.put(lot.parcels)
        except sqlite3.Error as error:
            self._say(_SPOOL, str(error))
            self._held = lot
            return
        self._say(_SPOOL, "")
        if refused:
            self._overflown += sum(len(parcel.rows) + parcel.lost for parcel in refused)
            # said when it has doubled
            at_least = 1 << self._overflown.bit_length() - 1
            self._say(_FULL, f"it is full, and {at_least} events or more are lost")
        lost = {parcel.first for parcel in refused}
        for parcel, batch in zip(lot.parcels, lot.batches, strict=True):
            self._answer([batch], kept=parcel.first not in lost)

    def _put_held(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._put(held)

    def finish(self) -> None:
        """Have stored what can be; what cannot is in the spool."""
        while self._is_more():
            if time.monotonic() > self.give_up_at:
                lots = [lot for lot in (self._held, self._flying) if lot and lot.batches]
                batches = [*self._gathered, *(batch for lot in lots for batch in lot.batches)]
                self.give_up(batches)
                self._spool.note_owed(self._spool.owed + self.given_up)
                break
            time.sleep(_LOOK_SECONDS)
            self._turn([])
        self._shipper.close()
        if self._spool.waiting:
            self._leave_spool()
        self._spool.close()
        for end in self._ends:
            end.close()

    def _leave_spool(self) -> None:
        """Say where events wait, if they do: the file may have been removed."""
        events = self._spool.events
        try:
            self._spool.keep_name()
        except sqlite3.Error as error:
            self.given_up += events
            self._log(str(error))
            return
        waits = "1 event waits" if events == 1 else f"{events} events wait"
        then = "the next sestrack serve here stores"
        self._log(f"{waits} in {self._spool.path}; {then} {'it' if events == 1 else 'them'}")

    def _is_more(self) -> bool:
        """Tell whether anything is kept nowhere yet, or may leave the spool soon."""
        if self._gathered or self._held or (self._flying and self._flying.batches):
            return True
        now = time.monotonic()
        if self._flying:
            return now - self._since < LAST_SECONDS
        return bool(self._spool.waiting) and now >= self._retry_at


def _wake(end: socket.socket) -> None:
    with suppress(OSError):  # full: it wakes anyway; closed: nobody waits
        end.send(b"\0")
