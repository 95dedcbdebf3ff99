"""Metrics in Prometheus' text format (0.0.4), on an address of this machine.

The main process answers, in a thread: it has the counts of its workers, and asks the store for the
rest each time.  The format is written by hand, which takes thirty lines; a test reads it with
Prometheus' own parser.  No name of a recipient, message or link is in it.
"""

from __future__ import annotations

import os
import platform
import socket
import sqlite3
import threading
import time
from contextlib import closing, suppress
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import sestrack
from sestrack.model import DomainStatus
from sestrack.store import Store, kind_of
from sestrack.tracker.counts import BOUNDS, Tally, added
from sestrack.tracker.events import Kind
from sestrack.tracker.upkeep import behind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sestrack.tracker.counts import Report

PATIENCE = 2.0
"""Seconds that a client may take to ask."""
_CLIENTS = 4
"""How many are answered at a time."""
_MAX_REQUEST = 8192
_OF_KIND = {Kind.OPEN: b"200", Kind.CLICK: b"302"}
_HEAD = (
    "HTTP/1.1 {}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
    "Content-Length: {}\r\nConnection: close\r\n\r\n"
)

Sample = tuple[str, dict[str, str], float]
"""What its name has behind the family's, its labels and its value."""


class Source(NamedTuple):
    """Where the figures come from."""

    store: str
    tally: Tally
    restarts: Callable[[], int]
    reports: Callable[[], list[Report]] = list
    """The latest of each worker that runs."""
    spool: Callable[[], str] = str
    certificate: str = ""


def write(source: Source) -> str:
    """Write all metrics."""
    return "".join(
        text
        for families in (_of_server(source), _of_store(source.store), _of_files(source))
        for family in families
        for text in _family(*family)
    )


def _family(name: str, kind: str, help_: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP sestrack_{name} {help_}\n# TYPE sestrack_{name} {kind}\n"
    for suffix, labels, value in samples:
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"sestrack_{name}{suffix}{inner and f'{{{inner}}}'} {value}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _one(value: float, **labels: str) -> list[Sample]:
    return [("", labels, value)]


Family = tuple[str, str, str, list[Sample]]


def _of_server(source: Source) -> Iterator[Family]:
    running = source.reports()
    report = added([source.tally.gone, *running])
    events, lost = dict(source.tally.events), dict(source.tally.lost)
    engine = kind_of(source.store)
    yield (
        "build_info", "gauge", "What runs.",
        _one(1, version=sestrack.__version__, python=platform.python_version(), engine=engine),
    )  # fmt: skip
    yield (
        "events_total", "counter", "Opens and clicks kept on disk since the server began.",
        [("", {"kind": kind.name.lower()}, events.get(kind, 0)) for kind in Kind],
    )  # fmt: skip
    answers = {line.split()[1]: 0 for line in report.replies} | dict.fromkeys(_OF_KIND.values(), 0)
    for line, number in report.replies.items():
        answers[line.split()[1]] += number
    for kind, status in _OF_KIND.items():
        answers[status] += events.get(kind, 0) + lost.get(kind, 0)
    yield (
        "answers_total", "counter",
        "Answers by status; those to events once these are kept, or lost.",
        [("", {"status": status.decode()}, number) for status, number in sorted(answers.items())],
    )  # fmt: skip
    yield (
        "answer_seconds", "histogram",
        "From a request to its answer, for answers that wait until an event is kept.",
        _histogram(report),
    )  # fmt: skip
    yield (
        "events_lost_total", "counter", "Events for which memory, the disk or the spool was full.",
        _one(report.lost + sum(lost.values())),
    )  # fmt: skip
    yield "events_waiting", "gauge", "Events in memory, not kept yet.", _one(report.waiting)
    yield "connections", "gauge", "Connections of readers.", _one(report.connections)
    yield (
        "connections_refused_total", "counter", "Connections for which there was no room.",
        _one(report.refused),
    )  # fmt: skip
    yield "workers", "gauge", "Workers that run.", _one(len(running))
    yield "worker_restarts_total", "counter", "Workers that ended unasked.", _one(source.restarts())


def _histogram(report: Report) -> list[Sample]:
    sums = list(accumulate(report.delays))
    classes = zip((*map(str, BOUNDS), "+Inf"), sums, strict=True)
    return [
        *(("_bucket", {"le": bound}, float(number)) for bound, number in classes),
        ("_sum", {}, report.delay),
        ("_count", {}, float(sums[-1])),
    ]


def _of_store(address: str) -> Iterator[Family]:
    families: list[Family] = []
    try:
        with Store(address) as store:
            count, oldest = behind(store.connection)
            domains = [d for d in store.trace_domains() if d.status is not DomainStatus.RETIRED]
        late = max(0.0, time.time() - oldest / 1000) if oldest else 0.0
        families = [
            ("events_behind", "gauge", "Events kept that are not in the figures.", _one(count)),
            ("behind_seconds", "gauge", "How old the first of them is.", _one(late)),
            (
                "trace_domain_usable", "gauge", "Whether it is verified, and not failing.",
                [
                    (
                        "", {"trace_domain": d.name, "state": d.last_state},
                        float(d.status is DomainStatus.VERIFIED),
                    )
                    for d in domains
                ],
            ),
            (
                "trace_domain_checked_timestamp_seconds", "gauge", "When it was checked last.",
                [("", {"trace_domain": d.name}, d.checked_at) for d in domains],
            ),
            (
                "trace_domain_certificate_not_after_timestamp_seconds", "gauge",
                "When its certificate ends, as it was seen by the last check that saw one.",
                [
                    ("", {"trace_domain": d.name}, d.certificate_ends)
                    for d in domains
                    if d.certificate_ends
                ],
            ),
        ]  # fmt: skip
    except Exception:  # noqa: BLE001 - a page that is damaged, a table that is not there
        families = []
    yield "store_up", "gauge", "Whether the store could be read.", _one(float(bool(families)))
    yield from families


def _of_files(source: Source) -> Iterator[Family]:
    if path := source.spool():
        with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as spool:
            ((events,),) = spool.execute("SELECT coalesce(sum(events), 0) FROM parcel").fetchall()
            help_ = "Events on this machine's disk that PostgreSQL has not yet."
            yield "spool_events", "gauge", help_, _one(events)
    if source.certificate:
        from cryptography import x509

        with suppress(OSError, ValueError), open(source.certificate, "rb") as file:
            ends = x509.load_pem_x509_certificate(file.read()).not_valid_after_utc
            name = os.path.basename(source.certificate)
            help_ = "When the certificate that is served ends, in seconds since 1970."
            samples = _one(ends.timestamp(), file=name)
            yield "certificate_not_after_timestamp_seconds", "gauge", help_, samples


def listen(listener: socket.socket, page: Callable[[], str]) -> None:
    """Answer GET /metrics from now on, in a few threads: a client that is silent holds up one."""
    listener.setblocking(True)  # noqa: FBT003
    for _ in range(_CLIENTS):
        threading.Thread(target=_listen, args=(listener, page), name="metrics", daemon=True).start()


def _listen(listener: socket.socket, page: Callable[[], str]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            if listener.fileno() < 0:
                return  # the server ends
            time.sleep(0.1)
            continue
        with closing(client), suppress(OSError):
            client.settimeout(PATIENCE)
            client.sendall(_answer(client, page))
            client.shutdown(socket.SHUT_WR)
            client.recv(_MAX_REQUEST)  # closing with octets unread would reset the connection


def _answer(client: socket.socket, page: Callable[[], str]) -> bytes:
    request = b""
    end = time.monotonic() + PATIENCE  # for all of it: the next one waits for this one
    while b"\r\n\r\n" not in request and len(request) < _MAX_REQUEST:
        client.settimeout(max(0.01, end - time.monotonic()))
        data = client.recv(_MAX_REQUEST)
        if not data:
            break
        request += data
    method, _, rest = request.partition(b"\r\n")[0].partition(b" ")
    if method != b"GET":
        return _HEAD.format("405 Method Not Allowed", 0).encode()
    if rest.partition(b" ")[0].partition(b"?")[0] != b"/metrics":
        return _HEAD.format("404 Not Found", 0).encode()
    try:
        body = page().encode()
    except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on
        body = f"# {type(error).__name__}: {error}\n".encode()
        return _HEAD.format("500 Internal Server Error", len(body)).encode() + body
    return _HEAD.format("200 OK", len(body)).encode() + body
