"""HTTP/1.1 on one connection: an asyncio protocol over httptools' parser.

A raw protocol has no framework's safety, so its limits stand here: GET and HEAD only, a
request of at most `MAX_REQUEST` octets, arriving within `REQUEST_SECONDS`, at most
`MAX_WAITING` requests of one connection under way (then it is not read from), nothing read
from a client that does not take its answers.  Answers keep the order of their requests.
"""

from __future__ import annotations

import asyncio
from time import gmtime, strftime, time_ns
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from sestrack import output
from sestrack.tracker.answers import (
    BAD_REQUEST,
    BROKEN,
    NOT_ALLOWED,
    TOO_LARGE,
    TOO_SLOW,
    Answer,
    Answers,
    Found,
)
from sestrack.tracker.events import MAX_AGENT, Event, Target, Trait

if TYPE_CHECKING:
    from collections.abc import Callable

    from sestrack.tracker.clients import Clients

MAX_REQUEST = 32 * 1024
REQUEST_SECONDS = 10
IDLE_SECONDS = 75
LINGER_SECONDS = 5
MAX_WAITING = 64


MAX_KNOWN = 4096
MAX_BLOCK = 2048
"""How many header blocks are remembered, and the longest of them in octets."""

_HEAD = int(Trait.HEAD)
_COMMA = ord(",")
_PURPOSES = frozenset({b"purpose", b"sec-purpose", b"x-purpose", b"x-moz"})
_PREFETCH_WORDS = (b"prefetch", b"preview", b"prerender")


class Recorder(Protocol):
    """Where events go, and answers after them (`sestrack.tracker.recorder`)."""

    def introduce(self, target: Target) -> int:
        """Give a target its index."""

    def record(self, event: Event, channel: Connection, response: bytes) -> None:
        """Write the event, then send the response."""

    def answer(self, channel: Connection, response: bytes) -> None:
        """Send the response behind those that wait."""


class Said(NamedTuple):
    """What headers say."""

    host: bytes
    agent: bytes
    traits: int


class Site:
    """What all connections share."""

    def __init__(self, recorder: Recorder, answers: Answers, clients: Clients) -> None:
        """Take what answers and what records."""
        self.recorder = recorder
        self.answers = answers
        self.clients = clients
        self.name_of: Callable[[str, int], str | None] | None = None
        """What is recorded of a recipient of a copy minted then; no address with None."""
        self.connections: set[Connection] = set()
        self.replies: dict[bytes, int] = {}
        """Answers without an event, by status line."""
        self.known: dict[bytes, Said] = {}
        """What the header blocks say that came before, by what follows the request's target."""
        self.room = 100_000
        """How many connections there may be."""
        self.closing = False
        self.refused = 0
        """Connections for which there was none."""
        self._room_made = 0
        self._bugs = 0
        self.tick = 1
        """Seconds, counted from the start: a clock that costs nothing to read."""
        self.date = b""
        self.every_second()

    def every_second(self) -> None:
        """Move the clock; close what is too slow."""
        self.tick += 1
        self.date = strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", gmtime()).encode()
        if self.tick % 5 == 0:
            for connection in list(self.connections):
                connection.expire(self.tick)

    def say_bug(self, error: BaseException) -> None:
        """Say that a request could not be answered: at 1, 2, 4, 8 … of them."""
        self._bugs += 1
        if self._bugs & (self._bugs - 1) == 0:
            output.warn(
                f"{self._bugs} requests could not be answered, and it is a bug of ours: "
                f"{type(error).__name__}: {error}"
            )

    def has_room(self) -> bool:
        """See whether one more connection can be had; idle ones make room for it."""
        if len(self.connections) >= self.room and self._room_made != self.tick:
            self._room_made = self.tick
            for connection in list(self.connections):
                connection.expire(self.tick, idle_seconds=0)
        return len(self.connections) < self.room

    def note_refused(self) -> None:
        """Count a connection for which there is no room, and say so at 1, 2, 4, 8 … of them."""
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:
            output.warn(
                f"no room for {self.refused} connections so far: {self.room} are open; "
                "more files (LimitNOFILE, ulimit -n) or --workers have more"
            )

    def drain(self) -> None:
        """Take no new requests; answers that wait still go out."""
        self.closing = True
        for connection in list(self.connections):
            connection.drain()


class Connection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_began", "_ends", "_feed", "_full", "_headers", "_ip", "_lingers", "_messages", "_parser",
        "_paused", "_peer", "_pieces", "_proxied", "_said", "_seen", "_site", "_size",
        "_transport", "_waiting", "on_url",
    )  # fmt: skip

    def __init__(self, site: Site) -> None:
        """Begin; `connection_made` follows."""
        self._site = site
        self._transport: asyncio.Transport | None = None
        self._size = self._waiting = self._began = self._messages = 0
        self._seen = site.tick
        self._ends = self._full = self._lingers = self._paused = False

    # -- asyncio -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note whose connection it is."""
        site = self._site
        stream = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        if site.closing or not site.has_room():
            if not site.closing:
                site.note_refused()
            stream.abort()
            return
        self._transport = stream
        site.connections.add(self)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if peer else ""
        self._proxied = site.clients.is_trusted(self._peer)
        self._ip = site.clients.kept(self._peer)
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._said: list[Said] = []
        self.on_url = self._pieces.append
        self._parser = HttpRequestParser(self)
        self._feed = self._parser.feed_data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget it; what waits is still recorded."""
        self._transport = None
        self._site.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Take a request that differs from earlier ones in its target alone; parse any other."""
        if self._ends:
            return
        fresh = not self._began
        if fresh:
            target = data[4 : data.find(b" ", 4)]
            said = self._site.known.get(data[4 + len(target) :])
            # behind `?` and `#` anything may stand, the end of a line too: the parser looks at it
            if (
                said is not None
                and data[:5] == b"GET /"
                and b"?" not in target
                and b"#" not in target
                and not self._proxied
            ):
                found = self._site.answers.find(said[0], target)
                if found[1] is not None:  # a token opened: there is nothing else in the target
                    self._seen = self._site.tick
                    self._record(found, self._ip, said[1], said[2])
                    return
        self._said.clear()
        self._messages = 0
        self._size += len(data)
        try:
            self._feed(data)
        except HttpParserUpgrade:
            return  # not offered; the request was answered, and ends the connection
        except HttpParserCallbackError as error:
            self._site.say_bug(error.__context__ or error)
            self._refuse(BROKEN)
            return
        except HttpParserError:
            self._refuse(BAD_REQUEST)
            return
        if self._size > MAX_REQUEST:
            self._refuse(TOO_LARGE)
        elif fresh and not self._began and self._messages == len(self._said) == 1:
            self._remember(data)

    def eof_received(self) -> bool:
        """Answer what is under way before closing: a client may send its last so (RFC 9112 §9.6).

        TLS has no such half of an end: there the transport closes.
        """
        if not self._waiting or self._transport is None or not self._transport.can_write_eof():
            return False
        self._ends = True
        self._lingers = False  # nothing comes any more that would have to be read
        self._began = 0
        return True

    def _remember(self, data: bytes) -> None:
        """Remember the headers of a request that came alone and whole.

        Readers' programs send the same octets each time but for the target, so that one
        look-up tells what a parser would.
        """
        block = data[data.find(b" ", 4) :]
        if data.startswith(b"GET /") and len(block) <= MAX_BLOCK and block.endswith(b"\r\n\r\n"):
            known = self._site.known
            if len(known) >= MAX_KNOWN:
                known.clear()
            known[block] = self._said[0]

    def pause_writing(self) -> None:
        """Read nothing from a client that does not take its answers."""
        self._full = True
        self._pace()

    def resume_writing(self) -> None:
        """Go on."""
        self._full = False
        self._pace()

    # -- httptools -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Note that a request is under way, be it in the same octets as one that is whole.

        Empty lines before it are none of it (RFC 9112 §2.2): a connection with nothing else is
        idle, and `MAX_REQUEST` bounds them.
        """
        self._messages += 1
        self._began = self._site.tick

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; it may come several times (RFC 9110 §5.3)."""
        name = name.lower()
        before = self._headers.get(name)
        self._headers[name] = value if before is None else before + b"," + value

    def on_message_complete(self) -> None:
        """Answer a request."""
        site = self._site
        headers, pieces = self._headers, self._pieces
        host = headers.get(b"host", b"")
        agent = headers.get(b"user-agent", b"")[:MAX_AGENT]  # what is never kept fills no memory
        traits = 0 if _PURPOSES.isdisjoint(headers) else self._prefetch()
        ip = self._client() if self._proxied else self._ip
        headers.clear()
        wanted = b"".join(pieces)
        pieces.clear()
        self._seen = site.tick
        self._began = self._size = 0
        if self._transport is None or self._ends:
            return
        parser = self._parser
        # what follows an Upgrade or a CONNECT is no HTTP to the parser: RFC 9110 §7.8 lets a
        # server answer as if it were not asked, and closing tells that nothing more is read
        if site.closing or not parser.should_keep_alive() or parser.should_upgrade():
            self._ends = True
        method = parser.get_method()
        if method != b"GET":
            if method != b"HEAD":
                self._reply(NOT_ALLOWED, 0)
                return
            traits |= _HEAD
        version = parser.get_http_version()
        # no host, or two of them: RFC 9112 §3.2; the parser also knows HTTP/0.9
        if _COMMA in host or (not host and version == "1.1") or version < "1.0":
            self._refuse(BAD_REQUEST)
            return
        found = site.answers.find(host, wanted)
        if found[1] is None:
            self._reply(found[0], traits)
            return
        if not self._ends and not self._proxied:
            self._said.append(Said(host, agent, traits))
        self._record(found, ip, agent, traits)

    def _record(self, found: Found, ip: str, agent: bytes, traits: int) -> None:
        """Record a hit, and answer it then.  What every reader waits for."""
        site = self._site
        answer, target, recipient, minted = found
        assert target is not None
        index = target.index
        if index < 0:
            index = site.recorder.introduce(target)
        if site.name_of is not None and recipient:
            name = site.name_of(recipient, minted)
            if name is None:
                ip = ""
            recipient = name or ""
        self._waiting = waiting = self._waiting + 1
        if waiting >= MAX_WAITING:
            self._pace()
        site.recorder.record(
            (time_ns() // 1_000_000, index, recipient, minted, ip, agent, traits),
            self,
            self._response(answer, traits)
            if traits or self._ends
            else answer[0] + site.date + answer[1],
        )

    def _prefetch(self) -> int:
        """See whether the request says that nobody asked for it yet."""
        for name in _PURPOSES.intersection(self._headers):
            if self._headers[name].lower().startswith(_PREFETCH_WORDS):
                return int(Trait.PREFETCH)
        return 0

    def _client(self) -> str:
        """Return the client's address as the trusted proxy tells it."""
        clients = self._site.clients
        forwarded_for = self._headers.get(b"x-forwarded-for", b"").decode("latin-1")
        forwarded = self._headers.get(b"forwarded", b"").decode("latin-1")
        return clients.kept(clients.behind(self._peer, forwarded_for, forwarded))

    # -- answering -----------------------------------------------------------------------

    def _response(self, answer: Answer, traits: int) -> bytes:
        status, tail, head = answer
        if traits & _HEAD:
            tail = head
        if self._ends:
            tail = b"Connection: close\r\n" + tail
        return status + self._site.date + tail

    def _reply(self, answer: Answer, traits: int) -> None:
        """Answer without recording, but not before those that wait."""
        response = self._response(answer, traits)
        replies = self._site.replies
        replies[answer.status] = replies.get(answer.status, 0) + 1
        self._waiting += 1
        if self._waiting == 1:
            self.send(response)
            return
        if self._waiting >= MAX_WAITING:
            self._pace()
        self._site.recorder.answer(self, response)

    def _refuse(self, answer: Answer) -> None:
        """Answer, and end the connection; what comes behind a refused request changes nothing."""
        if self._transport is None or self._lingers:
            return
        self._ends = self._lingers = True
        self._began = 0
        self._seen = self._site.tick
        self._reply(answer, 0)

    def send(self, response: bytes) -> None:
        """Send a response, in the order of `record`, `answer` and this."""
        self._waiting -= 1
        transport = self._transport
        # uvloop raises for a transport that was closed since
        if transport is None or transport.is_closing():
            return
        transport.write(response)
        if self._ends or self._paused:
            self._after_sending(transport)

    def _after_sending(self, transport: asyncio.Transport) -> None:
        if not self._ends:
            self._pace()
        elif not self._waiting:
            self._end(transport)

    def _end(self, transport: asyncio.Transport) -> None:
        """Close; but a client that may still be sending must see the answer first.

        Closing with octets unread resets the connection, and with it what the client has
        not read (RFC 9112 §9.6): so only our side is closed, and the rest is read and dropped.
        """
        if self._lingers and transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _pace(self) -> None:
        """Read from the client, or not for a while."""
        paused = self._full or self._waiting >= MAX_WAITING
        if (
            self._transport is not None
            and paused != self._paused
            and not self._transport.is_closing()
        ):
            self._paused = paused
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def expire(self, tick: int, idle_seconds: int = IDLE_SECONDS) -> None:
        """Close a connection that is idle, or that does not get its request out or answers in."""
        if self._transport is None:
            return
        if self._lingers and tick - self._seen > LINGER_SECONDS:
            self._transport.abort()
        elif self._began and tick - self._began > REQUEST_SECONDS:
            self._refuse(TOO_SLOW)
        elif not self._began and not self._waiting and tick - self._seen > idle_seconds:
            # one that does not take its answer, or is closing already, would wait for ever
            if self._transport.is_closing() or self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
                self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def drain(self) -> None:
        """Close now if nothing is under way, else after the answer."""
        if self._transport is None:
            return
        if self._waiting:
            self._ends = not self._began
        elif not self._began:
            self._transport.close()
