"""The server: one process that writes, and the workers it starts, which answer.

The writing process is the one that was started: it listens, starts the workers, keeps them
running, and ends when they have.  SIGTERM, SIGINT, or a terminal that hangs up: the workers
take no new connections, answer what they have, hand over the rest; then the writer ends.
Where several servers share a store, each also starts a keeper of the figures
(`sestrack.tracker.keeper`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from sestrack import output
from sestrack.errors import (
    BadInput,
    CannotCreate,
    InputOutputError,
    NoPermission,
    NotSetUp,
    SestrackError,
)
from sestrack.store import (
    default_spool,
    errors_of,
    kind_of,
    left,
    open_for_recording,
    serving,
    shown,
)
from sestrack.tracker import metrics
from sestrack.tracker.certificate import LastPair, tls_context
from sestrack.tracker.collector import Collector, Worker
from sestrack.tracker.counts import Tally
from sestrack.tracker.forwarder import Forwarder
from sestrack.tracker.keeper import Charge
from sestrack.tracker.listening import listen, listen_beside, raise_file_limit
from sestrack.tracker.places import Places
from sestrack.tracker.spool import mark_of, open_spool
from sestrack.tracker.upkeep import Upkeep
from sestrack.tracker.waiting import Waiting
from sestrack.tracker.worker import DRAIN_SECONDS, ServeOptions, all_keys, look
from sestrack.tracker.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sestrack.engines.interface import Connection, Note

KEEPER_SECONDS = 5.0
"""How long the keeper may take to end."""
GIVE_UP_SECONDS = 30.0
"""How long the writer goes on trying after SIGTERM."""
KILL_SECONDS = DRAIN_SECONDS + 5
"""How long workers may take to end."""
PAUSE_SECONDS = 0.1
"""How long after its end a program is started again; a keeper after twice the time each time,"""
LONGEST_PAUSE_SECONDS = 60.0
"""up to this one, and from the beginning when it has lived so long."""
FAILED_PAUSE_SECONDS = 2.0
"""How long after it could not be started it is tried again."""
SPATE = 5
SPATE_SECONDS = 10.0
"""Workers that end so fast are started again after so long only, or not, if none is well."""
_LINK_OCTETS = 4 << 20
_ROOM = "df -h  # the space left"


def serve(options: ServeOptions) -> int:
    """Serve until it is told to end; return the exit code.

    Raises `CannotListen`; `NotSetUp` without any key; `TryAgain` while another one serves;
    `BadInput` for a certificate that cannot be used.  With keys from a file, a store that
    cannot be read or written is said, and readers are served all the same.
    """
    known, trouble = look(options.store)
    if not all_keys(known, options):
        raise trouble or NotSetUp(f"the store {shown(options.store)} has no key", "sestrack init")
    options = options._replace(known=known)
    tls_context(options.tls_cert, options.tls_key)
    raise_file_limit()
    with contextlib.ExitStack() as stack:
        opening = Opening(options, stack)
        wrong = _hindering(trouble, options)
        try:
            opening.lock(wrong)
        except (NoPermission, CannotCreate, NotSetUp, BadInput) as error:
            wrong = error
        listeners = [
            stack.enter_context(listener)
            for listener in listen(options.host, options.port, options.workers, "--bind")
        ]
        ask = None
        if options.ask is not None:
            ask = stack.enter_context(listen(*options.ask, 1, "--ask")[0])
        page = None
        if options.metrics is not None:
            page = stack.enter_context(listen(*options.metrics, 1, "--metrics")[0])
        writer: Collector | SestrackError
        try:
            if wrong is not None:
                raise wrong
            writer = opening.open()
        except SestrackError as error:
            if not options.secrets:
                raise
            writer = error
        server = Server(options, listeners, ask, opening, writer)
        if page is not None:
            metrics.listen(page, partial(metrics.write, server.source()))
        stack.callback(server.close)
        return server.run()


def _hindering(trouble: SestrackError | None, options: ServeOptions) -> SestrackError | None:
    """Return the trouble with the store if it keeps events from being taken: a spool takes them."""
    if kind_of(options.store) in KEPT_APART and not isinstance(trouble, NotSetUp):
        return None
    return trouble


class Opening:
    """Opens the store to write; what could not be done at the start is tried again."""

    def __init__(self, options: ServeOptions, stack: contextlib.ExitStack) -> None:
        """Take where to put what is to be closed at the end."""
        self._options = options
        self._lock = stack.enter_context(contextlib.ExitStack())
        self._stack = stack
        self.note: Note | None = None
        """What tells others of this server, when it has the lock."""

    def lock(self, trouble: SestrackError | None) -> None:
        """Be the one that writes; again, for there may be a store now.  Raises as `serving`.

        Raises the trouble that there is with the store if there is none, or if it is damaged:
        whoever makes or restores one must find nobody that serves it.
        """
        self.note = None
        self._lock.close()
        if isinstance(trouble, (NotSetUp, BadInput)):
            raise trouble
        self.note = self._lock.enter_context(serving(self._options.store))

    def add_lost(self, number: int) -> None:
        """Note what is lost without a store that can be written, for the server that has one."""
        _, trouble = look(self._options.store)
        with contextlib.suppress(SestrackError, OSError):
            if self.note is None and not isinstance(trouble, NotSetUp):
                self.note = self._lock.enter_context(serving(self._options.store))
            if self.note is not None:
                self.note("", left(self._options.store).lost + number)

    def open(self) -> Collector:
        """Open the store; return what writes into it.  Raises `SestrackError`."""
        with contextlib.ExitStack() as undo:
            writer = COLLECTORS[kind_of(self._options.store)](self._options, undo)
            self._stack.push(undo.pop_all())
        return writer


def _into_sqlite(options: ServeOptions, stack: contextlib.ExitStack) -> Collector:
    connection = stack.enter_context(contextlib.closing(open_for_recording(options.store)))
    owed = count_lost(connection, options.store)
    upkeep = Upkeep(connection, Places(options.mmdb), options.keep_days)
    writer = Writer(connection, upkeep.work, output.note)
    writer.owed = owed
    return writer


def count_lost(connection: Connection, address: str) -> int:
    """Count in the store what an earlier server lost; return what it cannot be told yet.

    Killed before the note of it is taken back, it is counted twice: rather so than never.
    """
    lost = left(address)
    if lost.lost:
        try:
            with errors_of(address), connection.transaction():
                add = "UPDATE progress SET lost = lost + ?, lost_at = ?"
                connection.execute(add, (lost.lost, lost.lost_at))
        except SestrackError:
            return lost.lost
    return 0


def _into_postgresql(options: ServeOptions, _: contextlib.ExitStack) -> Collector:
    Places(options.mmdb)  # the keeper reads it: here it is only seen that it can be
    store = mark_of(options.known.who) if options.known else ""
    shared = options.spool != default_spool(options.store)
    spool = open_spool(options.spool, options.spool_limit, store, shared=shared)
    return Forwarder(options.store, spool, output.note)


COLLECTORS = {"sqlite": _into_sqlite, "postgresql": _into_postgresql}
"""What writes into each engine."""
KEPT_APART = {"postgresql"}
"""Engines whose figures are kept by a process of its own."""


class Server:
    """The process that was started."""

    def __init__(
        self,
        options: ServeOptions,
        listeners: list[socket.socket],
        ask: socket.socket | None,
        opening: Opening,
        writer: Collector | SestrackError,
    ) -> None:
        """Take what was opened; no worker runs yet.

        In place of a writer comes what is wrong with the store, which is tried again.
        """
        self._opening = opening
        self._options = options
        self._listeners = listeners
        self._url = _url_of(listeners[0], tls=bool(options.tls_cert))
        self._ask = ask
        self._pair = LastPair(options.tls_cert, options.tls_key)
        if isinstance(writer, SestrackError):
            writer = Waiting(
                lambda: _hindering(look(options.store)[1], options),
                self._open_store, output.note, writer.message,
            )  # fmt: skip
        self._writer = writer
        self._tally: Tally | None = None
        """What counts, if somebody wants to know."""
        self._keeper: subprocess.Popen[bytes] | None = None
        self._keeper_since = 0.0
        self._keeper_pause = 0.0
        self._workers: dict[subprocess.Popen[bytes], int] = {}
        self._begun: dict[subprocess.Popen[bytes], float] = {}
        """When each of them was started."""
        self._due: dict[int | None, float] = {}
        """When workers are started again, by their index, and the keeper, None."""
        self._trouble: SestrackError | None = None
        """What ends the server."""
        self._deaths: deque[float] = deque(maxlen=SPATE)
        self._stopping = False
        self._kill_at = float("inf")
        self._some_ended = False
        self._restarts = 0
        self._wake_in, self._wake_out = socket.socketpair()

    def source(self) -> metrics.Source:
        """Begin to count; return where the counts are."""
        self._tally = Tally()
        self._writer.tally = self._tally
        return metrics.Source(
            self._options.store,
            self._tally,
            lambda: self._restarts,
            lambda: [worker.report for worker in self._writer.workers],
            lambda: self._writer.spool_file,
            self._options.tls_cert,
        )

    def run(self) -> int:
        """Start the workers, write until they have ended; return the exit code."""
        # nothing here makes cycles, and looking for them in a backlog of events takes a
        # tenth of a second in which nobody's event is written
        gc.freeze()
        gc.disable()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)  # noqa: FBT003
        signal.set_wakeup_fd(self._wake_in.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` has it
            # a daemon is asked to read its settings again, and does so anyway
            signal.signal(signal.SIGHUP, self._stop if _has_terminal() else signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, self._note_death)
        self._pair.look()
        for index in range(len(self._listeners)):
            self._start(index)
        # what is noted there stays, until a store is told of it
        self._note_down(None if isinstance(self._writer, Waiting) else self._writer.owed)
        output.note(
            f"serving on {self._url}; SIGTERM drains and ends", event="serving", url=self._url
        )
        self._writer.watch(self._wake_out)
        if isinstance(self._writer, Waiting):
            self._wait_for_store(self._writer)
        self._writer.troubled = lambda: self._note_down(None)
        if kind_of(self._options.store) in KEPT_APART and not self._stopping:
            self._start_keeper()
        self._writer.run(self._going_on)
        self._end_keeper()
        if self._writer.displaced:
            msg = f"the store {shown(self._options.store)} was {self._writer.displaced}"
            self._trouble = InputOutputError(msg, "sestrack serve")
        if self._writer.given_up:
            if isinstance(self._writer, Waiting):
                self._opening.add_lost(self._writer.given_up)
            else:
                self._note_down(self._writer.owed + self._writer.given_up)
            msg = f"{self._writer.given_up} events could not be written and are lost"
            if self._trouble is not None:
                output.warn(self._trouble.message)
            why = "sestrack doctor --offline" if isinstance(self._writer, Waiting) else _ROOM
            self._trouble = InputOutputError(msg, why)
        if self._trouble is not None:
            raise self._trouble
        return 0

    def _wait_for_store(self, waiting: Waiting) -> None:
        """Have readers answered without it until it can be opened, or the server ends."""
        waiting.run(lambda: waiting.heir is None and self._going_on())
        if waiting.heir is not None:
            self._writer = waiting.heir
            # whoever told us to end may have done so while it was opened
            self._writer.give_up_at = min(self._writer.give_up_at, waiting.give_up_at)
            self._writer.watch(self._wake_out)
            self._note_down(self._writer.owed)

    def _open_store(self) -> Collector:
        try:
            self._opening.lock(None)
            return self._opening.open()
        finally:
            self._note_down(None)

    def close(self) -> None:
        """Close what woke us."""
        signal.set_wakeup_fd(-1)
        for end in (self._wake_in, self._wake_out):
            end.close()

    def _start(self, index: int) -> None:
        """Start a worker."""
        if self._listeners[index].fileno() < 0:
            beside = next(each for each in self._listeners if each.fileno() >= 0)
            self._listeners[index] = listen_beside(beside)
        link = socket.socketpair()
        for end in link:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINK_OCTETS)
        handles = [self._listeners[index].fileno(), link[1].fileno()]
        if self._ask is not None:
            handles.append(self._ask.fileno())
        options = self._options._replace(tls_pair=self._pair.pair)
        process = _start_program("sestrack.tracker.worker", (options, handles), handles)
        self._workers[process] = index
        self._begun[process] = time.monotonic()
        if self._stopping:  # while it was started
            process.terminate()
        link[1].close()
        self._writer.add(Worker(link[0]))

    def _start_keeper(self) -> None:
        options = self._options
        charge = Charge(options.store, self._url, options.mmdb, options.keep_days, options.log_json)
        self._keeper = _start_program("sestrack.tracker.keeper", charge)
        self._keeper_since = time.monotonic()

    def _end_keeper(self) -> None:
        if self._keeper is not None:
            try:
                self._keeper.wait(KEEPER_SECONDS)
            except subprocess.TimeoutExpired:
                self._keeper.kill()  # what it was at is undone, and done by another
                self._keeper.wait()

    def _stop(self, *_: object) -> None:
        """Tell the workers and the keeper to end."""
        if not self._stopping:  # whoever asks again puts nothing off
            self._stopping = True
            self._kill_at = time.monotonic() + KILL_SECONDS
            self._writer.give_up_at = time.monotonic() + GIVE_UP_SECONDS
        for process in [*self._workers, *([self._keeper] if self._keeper else [])]:
            process.terminate()

    def _note_death(self, *_: object) -> None:
        self._some_ended = True

    def _going_on(self) -> bool:
        """See whether workers have ended; start them again unless they should have.

        Events are written between two calls: nothing is waited for here.
        """
        if self._some_ended:
            self._some_ended = False  # before looking: whoever ends from here on is noted again
            if self._keeper and self._keeper.poll() is not None and not self._stopping:
                self._note_end_of_keeper(self._keeper.returncode)
            for process in [process for process in self._workers if process.poll() is not None]:
                index = self._workers.pop(process)
                del self._begun[process]
                if not self._stopping:
                    self._note_end_of_worker(process, index)
        if self._writer.displaced and not self._stopping:
            self._stop()  # the next server has the file that is there then
        self._pair.look()
        if self._stopping:
            self._due.clear()
            self._see_to_the_end()
        elif self._due:
            now = time.monotonic()
            for who in [who for who, at in self._due.items() if at <= now]:
                self._start_again(who)
        return bool(self._workers or self._due or self._writer.workers)

    def _start_again(self, who: int | None) -> None:
        del self._due[who]
        try:
            if who is None:
                self._start_keeper()
            else:
                self._start(who)
        except OSError as error:  # no memory, no process: that passes
            output.warn(f"a program of the server cannot be started: {error.strerror}")
            if who is not None and self._workers:
                self._listeners[who].close()  # others serve those whom the kernel would keep
            self._due[who] = time.monotonic() + FAILED_PAUSE_SECONDS

    def _see_to_the_end(self) -> None:
        """Have whoever comes now refused at once, to go elsewhere, and workers end in time."""
        for listener in (*self._listeners, *([self._ask] if self._ask else [])):
            listener.close()
        if time.monotonic() > self._kill_at:
            for process in self._workers:
                process.kill()

    def _note_end_of_keeper(self, status: int) -> None:
        now = time.monotonic()
        lived_long = now - self._keeper_since > LONGEST_PAUSE_SECONDS
        pause = PAUSE_SECONDS if lived_long else max(PAUSE_SECONDS, 2 * self._keeper_pause)
        self._keeper_pause = min(pause, LONGEST_PAUSE_SECONDS)
        self._keeper, self._due[None] = None, now + self._keeper_pause
        output.warn(
            f"the keeper ended with {status}; a new one starts in {self._keeper_pause:g} seconds"
        )

    def _note_end_of_worker(self, process: subprocess.Popen[bytes], index: int) -> None:
        self._restarts += 1
        output.warn(
            f"worker {process.pid} ended with {process.returncode}; a new one starts",
            event="worker-ended", worker=process.pid, status=process.returncode,
        )  # fmt: skip
        now = time.monotonic()
        self._due[index] = now + PAUSE_SECONDS
        self._deaths.append(now)
        if now - self._deaths[0] > SPATE_SECONDS or len(self._deaths) < SPATE:
            return
        if any(now - begun > SPATE_SECONDS for begun in self._begun.values()):
            # one that is well serves meanwhile, and those whom the kernel would keep for this one
            self._due[index] = now + SPATE_SECONDS
            self._listeners[index].close()
        else:
            msg = f"{SPATE} workers ended within {SPATE_SECONDS:.0f} seconds"
            # raised when what was handed over is written
            self._trouble = SestrackError(msg, "the lines before this one say why")
            self._stop()

    def _note_down(self, lost: int | None) -> None:
        """Note for doctor and the next server where we are, our trouble, what the store lacks."""
        if self._opening.note is not None:
            try:
                self._opening.note(self._url, lost, self._writer.trouble)
            except OSError as error:
                output.warn(f"doctor cannot be told of this server: {error.strerror}")


def _url_of(listener: socket.socket, *, tls: bool) -> str:
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/"


def _has_terminal() -> bool:
    """Is there one that may hang up?"""
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return True
    return False


def _start_program(
    module: str, told: object, handles: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start one of our programs: new, for a fork would share SQLite's memory of its locks.

    What it is told goes not into argv, which everybody may read: there are keys in it.
    """
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-P", "-c", f"from {module} import main; main()"],
        stdin=subprocess.PIPE,
        pass_fds=handles,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(pickle.dumps(told))
    return process
