"""What is recorded: one open or one click, as the server saw it, before any judgement.

An event is a plain fact and is never changed again (but for `events forget`).  What is made
of it (who it was, from where, person or machine) is a `visit` and may be judged anew.

Whoever stores events is a *writer* and has a number: 0 in SQLite, one for each server in
PostgreSQL.  An event's id is made there: the writer's number, then a sequence number in
`SEQUENCE_BITS` that only grows.  So two servers never give the same id, the same event
stored again has the same one, and what a writer stored up to an id is complete.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

MAX_AGENT = 512
"""Longest user agent that is kept, in octets."""
SEQUENCE_BITS = 40
"""A writer's first 1,099,511,627,775 events; with 23 bits for writers an id is a positive int64."""


def first_id(writer: int) -> int:
    """Return the id before a writer's first event."""
    return writer << SEQUENCE_BITS


def writer_of(event: int) -> int:
    """Return the number of the writer that made an id."""
    return event >> SEQUENCE_BITS


class Kind(IntEnum):
    """What a reader's program asked for."""

    OPEN = 1
    CLICK = 2


class Trait(IntFlag):
    """What else the request showed."""

    HEAD = 1
    PREFETCH = 2
    FORGOTTEN = 4
    """Its recipient was forgotten, and it is not judged again."""


class Origin(NamedTuple):
    """What a copy was made as part of: a message of a sender under a trace domain."""

    sender: str
    message: str
    trace_domain: str


class Target:
    """What was hit: the pixel of a message, or one of its links.  One object each."""

    __slots__ = ("index", "kind", "number", "origin", "url")

    def __init__(self, kind: Kind, origin: Origin, number: int = -1, url: str = "") -> None:
        """Take the link's number in its message and its destination; -1 and "" for the pixel."""
        self.kind = kind
        self.origin = origin
        self.number = number
        self.url = url
        self.index = -1
        """What a recorder calls it by; -1 while it was not introduced."""


Event = tuple[int, int, str, int, str, bytes, int]
"""One open or one click.  A plain tuple, for one is made with every request:

    at         milliseconds since 1970, UTC
    target     the index of what was hit
    recipient  as the token says, or its keyed hash; "" for nobody
    minted     seconds since 1970, UTC
    ip         as text; "" if unknown
    agent      the user agent, octets as they came
    traits     a `Trait`
"""
