"""A worker: the process that answers readers.

It looks at settings and keys in a thread, when it is told of a change or else twice a second,
and hands what is to be kept to the writer.  It ends when it is told to (SIGTERM, from the
server), with everything handed over and answered, or at once when the writer has gone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import resource
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import uvloop

from sestrack import output
from sestrack.cli import boundary
from sestrack.errors import SestrackError
from sestrack.store import Store, watch
from sestrack.tracker.answers import Answers
from sestrack.tracker.ask import Ask
from sestrack.tracker.certificate import context_of, renew, times_of, tls_context
from sestrack.tracker.clients import Clients, Network
from sestrack.tracker.listening import BACKLOG, OWN_FILES
from sestrack.tracker.names import Names
from sestrack.tracker.protocol import Connection, Site
from sestrack.tracker.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from sestrack.model import Settings
    from sestrack.tracker.certificate import Pair

    _Look = tuple["Known | None", SestrackError | None]
    """What was read, and why it could not be."""

_T = TypeVar("_T")
_R = TypeVar("_R")

HANDSHAKE_SECONDS = 10.0
LOOK_SECONDS = 0.5
FIRST_LOOK_SECONDS = 1.0
"""How long a worker waits for the store before it answers with what the server knew: a link that
was sealed with a key made since leads nowhere then."""
MAX_TARGETS = 100_000
DRAIN_SECONDS = 35.0
"""How long a worker that is to end waits for its events to be on disk,"""
GRACE_SECONDS = 2.0
"""and for connections alone: for requests that have not come whole, and clients that read on."""
EXIT_ORPHAN = 3
"""The writer has gone."""


class ServeOptions(NamedTuple):
    """What `sestrack serve` was told."""

    store: str
    host: str
    port: int
    proxies: tuple[Network, ...] = ()
    workers: int = 1
    tls_cert: str = ""
    tls_key: str = ""
    tls_pair: Pair | None = None
    """What was read of the two, for a worker that finds half of new ones."""
    keep_days: int = 0
    anonymize_ip: bool = False
    no_recipient: bool = False
    secrets: tuple[tuple[int, bytes], ...] = ()
    """From a key file; they read what the store's do not."""
    mmdb: str = ""
    ask: tuple[str, int] | None = None
    """Where front ends ask whether a name may have a certificate."""
    spool: str = ""
    """The folder where events wait while PostgreSQL is away."""
    spool_limit: int = 0
    metrics: tuple[str, int] | None = None
    """Where Prometheus asks."""
    log_json: bool = False
    known: Known | None = None
    """What the store said when the server began, for a worker that cannot read it."""


class Known(NamedTuple):
    """What is read from the store again and again."""

    stamp: tuple[int, int, int, int]
    secrets: tuple[tuple[int, bytes], ...]
    settings: Settings
    who: bytes
    """The key of recipients' pseudonyms."""
    forgotten: dict[str, int]
    """When recipients were forgotten, by pseudonym."""


def main() -> None:
    """Be a worker: the options and the open sockets come from the server on stdin."""
    output.never_wait()
    options, handles = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    listener, link, *asked = (socket.socket(fileno=handle) for handle in handles)
    if options.log_json:
        output.log_as_json("worker")
    for number in (signal.SIGINT, signal.SIGHUP):  # they reach all; the server tells us
        signal.signal(number, signal.SIG_IGN)
    code = boundary(lambda: work(options, listener, link, *asked))
    sys.stderr.flush()
    os._exit(code)  # a thread may still wait for a database that stands still


def work(
    options: ServeOptions,
    listener: socket.socket,
    link: socket.socket,
    ask: socket.socket | None = None,
) -> int:
    """Answer until SIGTERM; return the exit code.

    The link leads to the writer; `ask` is where front ends ask.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(options, listener, link, ask))


async def _work(
    options: ServeOptions,
    listener: socket.socket,
    link: socket.socket,
    ask: socket.socket | None,
) -> int:
    times = times_of(options.tls_cert, options.tls_key)
    try:
        tls = tls_context(options.tls_cert, options.tls_key)  # first: nothing is open if it fails
    except SestrackError as error:
        if options.tls_pair is None:
            raise
        output.warn(f"the certificate stays as it was: {error.message}")
        tls, times = context_of(options.tls_pair), []
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    _, recorder = await loop.create_connection(
        lambda: Recorder(loop, lambda: os._exit(EXIT_ORPHAN), output.warn), sock=link
    )
    known = options.known
    lookout = Lookout(options.store)
    looking = lookout.look(None)
    await asyncio.wait([looking], timeout=FIRST_LOOK_SECONDS)
    if looking.done():
        known = looking.result()[0] or known
    site = Site(
        recorder,
        Answers(all_keys(known, options), known.settings if known else None),
        Clients(options.proxies, anonymize=options.anonymize_ip),
    )
    site.name_of = _naming(known, options)
    site.room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_FILES
    server = await loop.create_server(
        lambda: Connection(site),
        sock=listener,
        backlog=BACKLOG,
        ssl=tls,
        ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
    )
    asked = await asyncio.start_server(Ask(options.store).answer, sock=ask) if ask else None
    # what is there now stays: collecting it again and again would cost, and hold up readers
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    tasks = [
        asyncio.create_task(_keep_fresh(options, site, known, lookout, looking)),
        asyncio.create_task(_tick(site, recorder, reports=options.metrics is not None)),
    ]
    if tls is not None:
        tasks.append(asyncio.create_task(renew(options.tls_cert, options.tls_key, tls, times)))
    await stop.wait()
    server.close()
    if asked is not None:
        asked.close()
    site.drain()
    begun = loop.time()
    while recorder.waiting or site.connections:
        waited = loop.time() - begun
        if waited > (DRAIN_SECONDS if recorder.waiting else GRACE_SECONDS):
            break
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    for connection in list(site.connections):
        connection.abort()
    if options.metrics is not None:
        recorder.report(site.replies, 0, site.refused)
    recorder.close()
    await asyncio.gather(*tasks, server.wait_closed(), return_exceptions=True)
    await asyncio.sleep(0)
    return 0


def _naming(known: Known | None, options: ServeOptions) -> Callable[[str, int], str | None] | None:
    """Return what is asked for each recipient's name; None if names are kept as they are."""
    if known is None:  # without the store's key nobody is named at all
        return (lambda *_: "") if options.no_recipient else None
    if not options.no_recipient and not known.forgotten:
        return None
    return Names(known.who, known.forgotten, hashed=options.no_recipient).recorded


async def _tick(site: Site, recorder: Recorder, *, reports: bool) -> None:
    while True:
        await asyncio.sleep(1)
        site.every_second()
        if reports:
            recorder.report(site.replies, len(site.connections), site.refused)
        if recorder.introduced > MAX_TARGETS:
            # whoever gives each mail a label of its own would fill the memory
            recorder.start_over()
            site.answers = site.answers.anew()


async def _keep_fresh(
    options: ServeOptions,
    site: Site,
    known: Known | None,
    lookout: Lookout,
    looking: asyncio.Future[_Look],
) -> None:
    """See changed settings and keys; what cannot be read stays as it was.

    `looking` is the first look, which may take long yet.
    """
    said = ""
    try:
        while True:
            seen, trouble = await looking
            if trouble is not None:
                if said != trouble.message:
                    said = trouble.message
                    output.warn(f"settings and keys stay as they were: {said}")
            else:
                said = ""
                if seen is not known and seen is not None:
                    known = seen
                    site.answers = Answers(all_keys(known, options), known.settings)
                    site.name_of = _naming(known, options)
            await lookout.wait()
            looking = lookout.look(known)
    finally:
        lookout.close()


class Lookout:
    """Looks at settings and keys again and again.

    In one thread: libpq's connections are no other's, least of all while it waits on them.
    """

    def __init__(self, address: str) -> None:
        """Take the store's address."""
        self._address = address
        self._thread = ThreadPoolExecutor(1, "lookout")
        self._watch = watch(address)
        self._store: Store | None = None

    async def wait(self) -> None:
        """Wait until something may have changed: told of it, or twice a second."""
        if self._watch.is_told:
            await self._in_thread(self._watch.wait, LOOK_SECONDS)
        else:
            await asyncio.sleep(LOOK_SECONDS)

    def look(self, known: Known | None) -> asyncio.Future[_Look]:
        """Read settings and keys if they changed."""
        return self._in_thread(self._look, known)

    def _in_thread(self, action: Callable[[_T], _R], value: _T) -> asyncio.Future[_R]:
        return asyncio.get_running_loop().run_in_executor(self._thread, action, value)

    def _look(self, known: Known | None) -> _Look:
        try:
            if self._store is None:
                self._store = Store(self._address)
            return read(self._store, known), None
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look may be better
            self._close_store()
            return known, _trouble(error)
        finally:
            if not self._watch.is_told:  # a file may be another one next time
                self._close_store()

    def _close_store(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            with suppress(Exception):  # it may be what went wrong
                store.close()

    def close(self) -> None:
        """Hang up, when what the thread is at has ended; the interpreter's end waits for it."""
        self._thread.submit(self._hang_up)
        self._thread.shutdown(wait=False)

    def _hang_up(self) -> None:
        self._watch.close()
        self._close_store()


def look(address: str) -> tuple[Known | None, SestrackError | None]:
    """Read settings and keys."""
    try:
        with Store(address) as store:
            return read(store, None), None
    except Exception as error:  # noqa: BLE001 - whatever it is, readers may be answered without
        return None, _trouble(error)


def _trouble(error: Exception) -> SestrackError:
    if isinstance(error, SestrackError):
        return error
    return SestrackError(f"{type(error).__name__}: {error}")


def read(store: Store, known: Known | None) -> Known:
    """Read settings, keys and names, unless they are as they are known."""
    stamp = store.stamp()
    if known is not None and known.stamp == stamp:
        return known
    secrets = tuple((key.id, key.secret) for key in store.keys())  # noqa: SIM118
    return Known(stamp, secrets, store.settings(), store.who(), store.forgotten())


def all_keys(known: Known | None, options: ServeOptions) -> list[tuple[int, bytes]]:
    """Return the store's keys, then those of the key file that it has not."""
    own = list(known.secrets) if known else []
    return own + [key for key in options.secrets if key not in own]
