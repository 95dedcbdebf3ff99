"""A URL and what is to become of it: pure, text in, a reason out."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_URL = 2000
"""Longest tracking URL, in characters; mail programs and proxies cut longer ones."""


class Reason(StrEnum):
    """Why a link was wrapped or left.  The values stand in reports."""

    WRAPPED = "wrapped"
    CLICKS_OFF = "clicks-off"
    OURS = "already-ours"
    OPT_OUT = "opt-out"
    UNSUBSCRIBE = "unsubscribe"
    PLACEHOLDER = "placeholder"
    EMPTY = "empty"
    FRAGMENT = "fragment"
    RELATIVE = "relative"
    OTHER_SCHEME = "other-scheme"
    NO_HOST = "no-host"
    TOO_LONG = "too-long"
    LONG_LINE = "long-line"
    UNCLEAR_END = "unclear-end"
    UNCLEAR_CHARACTERS = "unclear-characters"


REASON_WORDS = {
    Reason.WRAPPED: "http or https link",
    Reason.CLICKS_OFF: "click tracking is off",
    Reason.OURS: "already a tracking URL of ours",
    Reason.OPT_OUT: "the tag asks not to be tracked",
    Reason.UNSUBSCRIBE: "unsubscribe link",
    Reason.PLACEHOLDER: "has a placeholder to be filled in later",
    Reason.EMPTY: "no URL",
    Reason.FRAGMENT: "points into the mail itself",
    Reason.RELATIVE: "not an absolute URL",
    Reason.OTHER_SCHEME: "neither http nor https",
    Reason.NO_HOST: "the URL has no host",
    Reason.TOO_LONG: f"the tracking URL would pass {MAX_URL} characters",
    Reason.LONG_LINE: "its line would grow too long for mail",
    Reason.UNCLEAR_END: "where it ends cannot be told",
    Reason.UNCLEAR_CHARACTERS: "what its characters stand for depends on the reader's program",
}


class Wrapping(NamedTuple):
    """What to do with a document."""

    base: bytes
    """What a tracking URL begins with: `https://trace.example.com/`."""
    seal: Callable[[int, str], bytes] | None
    """Seals link number n with its URL; `None` while click tracking is off."""
    pixel: str
    """Where the pixel goes: "bottom", "top", or "" for none."""
    copy_size: int
    """Characters of the recipient token, for the limit on URLs."""
    is_ours: Callable[[str], bool]
    """Was this URL (one that looks like it) sealed by us?"""
    wrap_unsubscribe: bool = False
    first: int = 0
    """The number of the first link: those of a message are numbered through its parts."""
    quote: bool = False
    """Put quotes around a value that had none: what stands for the recipient token is a
    merge field that is not safe without."""
    unsubscribe: frozenset[str] = frozenset()
    """URLs of the List-Unsubscribe header (RFC 2369 §3.2)."""
    max_line: int = 0
    """Longest line in octets, for what goes into a mail as it is (RFC 5322 §2.1.1: 998);
    0 for no limit.  Lines that were longer before are left as they are."""
    line_end: bytes = b"\n"


def reason_to_leave(url: str) -> Reason:
    """Say why a decoded value cannot be wrapped, or `Reason.WRAPPED`."""
    if not url:
        return Reason.EMPTY
    if is_placeholder(url):
        return Reason.PLACEHOLDER
    if url.startswith("#"):
        return Reason.FRAGMENT
    scheme = re.match(_SCHEME, url)
    if scheme is None:
        return Reason.RELATIVE
    if scheme[1].lower() not in {"http", "https"}:
        return Reason.OTHER_SCHEME
    if not url.startswith("//", scheme.end()):
        return Reason.RELATIVE  # `https:path` is, to the standard's parser
    if not url[scheme.end() :].strip("/\\"):
        return Reason.NO_HOST
    return Reason.WRAPPED


def unsubscribes(url: str, wrapping: Wrapping) -> bool:
    """Is it a link that unsubscribes, and so is not to be wrapped?"""
    return not wrapping.wrap_unsubscribe and (
        "unsubscribe" in url.lower() or url in wrapping.unsubscribe
    )


def tracked_size(url: str, wrapping: Wrapping) -> int:
    """Return how long a tracking URL is, at most."""
    sealed = 4 * (len(url.encode("utf-8", "surrogatepass")) + _SEAL_OCTETS) // 3
    return len(wrapping.base) + wrapping.copy_size + 1 + sealed


def _location_size(url: str) -> int:
    """Return how many octets a redirect there needs: letters that are not ASCII are escaped."""
    octets = url.encode("utf-8", "surrogatepass")
    return len(octets) + 2 * len(octets.translate(None, _ASCII))


_ASCII = bytes(range(128))
_MAX_LOCATION = 3500
"""A front end has 4 KiB for all headers of an answer where nobody gave it more (nginx)."""


def closer_look(url: str, wrapping: Wrapping) -> Reason:
    """Say what only long URLs, or those of our own host, have to be asked."""
    if url.startswith(wrapping.base.decode()) or (
        re.match(_LIKE_OURS, url) is not None and wrapping.is_ours(url)
    ):
        return Reason.OURS
    if tracked_size(url, wrapping) > MAX_URL or _location_size(url) > _MAX_LOCATION:
        return Reason.TOO_LONG
    return Reason.WRAPPED


_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*+):"
# What mailing tools fill in.  A URL has no use for the marks of the first lines; with those of
# the last, which it may have, the field must be all of a value or of a segment of the path.
_PLACEHOLDER = (
    r"\{(?![0-9A-F]{8}-)|<[%?<#$]|«|\*\||\|\*|\[\[|\[%|\$\$\w+\$\$|"  # {x} ${x} <%x%> *|X|* $$x$$
    r"%7B%7B|[$#]%7B|%3C%(?:25|3F)|(?:\*|%2A)%7C|%7C(?:\*|%2A)|%5B%5B|"  # as editors
    r"%25%25[A-Za-z_=]|"  # escape them
    r"\$\[\w[^][$]*+\]\$|\[\w+->\w+\]|~~eloqua|@TrackLink$|"  # $[X:Y|Z]$ [user->email]
    r"=\$!?[A-Z_]|\$[\w.]+\(|=[^&#=]*\$[A-Z_]\w*\$|"  # =$x.y =$!x $lookup(x) =x$y$
    r"%%[A-Za-z_=[$]|%\(\w+\)s|"  # %%x%% %%=v(@x)=%% %(x)s
    r"%(?:\d+\$)?[sdux](?=[^\w%-]|$)|"  # %s %1$s
    r"%(?![0-9A-F]{2})[A-Za-z_][\w.:-]*+%|"  # %x%
    r"%[A-Za-z_][\w.:-]*+%(?![0-9A-F]{2})|"  # %ADDRESS%, which begins like an escape
    r"(?-i:\[[A-Z][A-Z0-9_ -]*+\]|__[A-Z][A-Z0-9_]*?__|@[A-Z][A-Z0-9_]*+@)|"  # [X] __X__ @X@
    r"##\w[\w.:]*##|@@\w[\w.]*@@|"
    r"=[^&#=]*\[[A-Z][\w .:-]*\]|"  # =x[y]
    r"(?:^|[=/])(?:([$|^#@]|~~?|(?<==)-)[A-Za-z_][\w.:]*\1|"  # =$X$ =|X| =^X^ =~X.y~ =-x-
    r"\[(?![0-9A-F:.]+\])[A-Za-z][\w.:-]*(?:,fallback=[^][]*)?\]|"  # =[x]
    r"%5B[A-Za-z_]\w*%5D)(?=[&/?#]|$)"
)


def is_placeholder(text: str) -> bool:
    """Does a mailing tool fill it in?"""
    return re.search(_PLACEHOLDER, text, re.IGNORECASE) is not None


def is_field(text: str) -> bool:
    """Is all of it what a mailing tool fills in?  `{SHA}…=` is a hash as LDAP writes it."""
    if "@" in text:
        return False
    ends = {text[:1], {"{": "}", "[": "]", "<": ">", "$": "}"}.get(text[:1], "")}
    return text[-1:] in ends and is_placeholder(text)


def fields_in(html: bytes) -> list[str]:
    """Return what in a document looks like a merge field, each once, links or not."""
    return [field.decode() for field in dict.fromkeys(re.findall(_FIELD_IN_TEXT, html))]


_FIELD_IN_TEXT = (
    rb"\{\{\{? *[A-Za-z_][\w.]* *\}\}\}?|\*\|[A-Z_][\w:]*\|\*|%%[A-Za-z_]\w*%%|"
    rb"\[\[[A-Za-z_]\w*\]\]"
)
_LIKE_OURS = r"[hH][tT][tT][pP][sS]?://[^/]++/[A-Za-z0-9_~]{40}"
_SEAL_OCTETS = 22  # one in clear, 16 of SIV, at most 5 of index
