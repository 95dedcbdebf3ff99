"""The headers and the parts of a message, in byte offsets (RFC 5322, RFC 2045 to 2049).

A message is never parsed into objects and written again: the standard library's way there
and back changes more than half of real messages.  Line ends may be CRLF or LF.  Reading is as
lenient as the standard library's `email` about headers and boundaries; what is left alone and
why is `Left`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from sestrack.html.charset import is_ascii_superset

# Texts, which `re` compiles at their first use: a pipe has no mbox, and would pay for them.
_BEGINS_MBOX = rb"From \S[^\n]*\d\d:\d\d[^\n]*\n"
"""What parts the messages of an mbox: it has a time (RFC 4155, appendix A)."""
NEXT_LINE = rb"\nFrom \S[^\n]{0,99}\d\d:\d\d[^\n]{0,40}\d{4}"
"""The same, wherever it stands, with a year: not all readers want an empty line before it."""

MAX_DEPTH = 30
"""Multiparts in multiparts that are looked into."""
_LONGEST_VALUE = 4096
"""Octets of a header that are looked at for parameters; hostile ones could take long."""


class Left(StrEnum):
    """Why a part is left as it is.  The values stand in reports."""

    SIGNED = "signed"
    SUMMED = "summed"
    ENCRYPTED = "encrypted"
    REPORT = "report"
    MESSAGE = "message"
    ATTACHMENT = "attachment"
    NOT_HTML = "not-html"
    UNCLOSED = "unclosed"
    DAMAGED = "damaged"
    ENCODING = "unknown-encoding"
    CHARSET = "unknown-charset"
    FLOWED = "flowed"
    AMBIGUOUS = "ambiguous"
    TOO_DEEP = "too-deep"


LEFT_WORDS = {
    Left.SIGNED: "is signed, and a change would break the signature",
    Left.SUMMED: "has a Content-MD5, and a change would make it false",
    Left.ENCRYPTED: "is encrypted",
    Left.REPORT: "is a delivery report",
    Left.MESSAGE: "is a message within the message",
    Left.ATTACHMENT: "is an attachment",
    Left.NOT_HTML: "is not HTML",
    Left.UNCLOSED: "has no closing boundary",
    Left.DAMAGED: "is damaged",
    Left.ENCODING: "has a transfer encoding that is not known",
    Left.CHARSET: "has a charset that is not a superset of ASCII",
    Left.FLOWED: "has lines that go on without a blank, and so URLs do (RFC 3676, DelSp)",
    Left.AMBIGUOUS: "has two headers that contradict each other, or one with a comment",
    Left.TOO_DEEP: "lies too deep",
}


class Header(NamedTuple):
    """A header field: its name in lower case, its value with the folding."""

    name: str
    value: bytes


class Part(NamedTuple):
    """A part that has no parts itself, or none that are looked at."""

    number: str
    """As IMAP counts (RFC 3501 §6.4.5): "1.2"."""
    start: int
    end: int
    """Of its body, in byte offsets of the message."""
    kind: str
    """`text/html`, in lower case."""
    charset: str
    encoding: str
    """The transfer encoding, in lower case; "7bit" if none is named."""
    left: Left | None
    """Why it is not to be touched, whatever it holds."""


class Message(NamedTuple):
    """A message and its parts, in their order."""

    data: bytes
    headers: list[Header]
    parts: list[Part]

    def line_end_of(self, part: Part) -> bytes:
        """Return how a part ends its lines: the first of them, be it that before it."""
        first = self.data.find(b"\n", max(0, part.start - 1))
        return b"\r\n" if first > 0 and self.data[first - 1 : first] == b"\r" else b"\n"

    def values(self, name: str) -> list[bytes]:
        """Return the values of a header, unfolded (RFC 5322 §2.2.3)."""
        return [unfold(header.value) for header in self.headers if header.name == name.lower()]


def read(data: bytes) -> Message:
    """Find the headers and the parts of a message."""
    headers, body, whole = _headers(data, 0, len(data))
    parts: list[Part] = []
    # the line ends at the end are not the document's: in an mbox they part it from the next
    end = max(body, len(data.rstrip(b"\r\n")))
    _walk(data, _Entity(headers, body, end, whole), "", "text/plain", parts)
    return Message(data, headers, parts)


def unfold(value: bytes) -> bytes:
    """Take the line ends out of a header's value."""
    return value.replace(b"\r\n", b"").replace(b"\n", b"").strip()


def is_mbox(data: bytes) -> bool:
    """Does it begin like an mbox?"""
    return data.startswith(b"From ") and re.match(_BEGINS_MBOX, data) is not None


# -- structure -----------------------------------------------------------------------------

_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)(?:\n|\Z)")
_FROM_LINE = re.compile(rb">?From [^\n]*\n")
_BLANK = re.compile(rb"\r?\n")
_PARAMETER = re.compile(rb';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))', re.DOTALL)
_LINE_REST = re.compile(rb"[ \t]*(?:\r?\n|\Z)")
_KIND = re.compile(r"[^\s/;]+/[^\s/;]+")


class _Entity(NamedTuple):
    """A message, or a part of one."""

    headers: list[Header]
    start: int
    end: int
    """Of its body."""
    whole: bool
    """Whether an empty line ends its headers.  Behind a line that is none, some readers go on."""


def _headers(data: bytes, start: int, end: int) -> tuple[list[Header], int, bool]:
    """Read headers; return where the body begins, and whether an empty line is before it."""
    headers = []
    position = start
    if from_line := _FROM_LINE.match(data, position, end):
        position = from_line.end()
    while header := _HEADER.match(data, position, end):
        headers.append(Header(header[1].decode("ascii").lower(), header[2]))
        position = header.end()
    blank = _BLANK.match(data, position, end)
    return headers, blank.end() if blank else position, blank is not None or position >= end


def _walk(data: bytes, entity: _Entity, number: str, default: str, parts: list[Part]) -> None:
    """Add the parts of an entity, depth first."""
    headers, start, end, whole = entity
    kind, parameters, ambiguous = _content_type(headers, default)
    encoding = _encoding(headers)
    left = Left.AMBIGUOUS if ambiguous else _left_by_kind(kind, headers)
    if left is None and not whole:
        left = Left.DAMAGED
    if left is None and number and kind == "text/html" and "name" in parameters:
        left = Left.ATTACHMENT  # the name of a file, as older programs write it
    charset = parameters.get("charset", "")
    children: list[tuple[int, int]] = []
    if left is None and kind.startswith("multipart/"):
        if number.count(".") >= MAX_DEPTH:
            left = Left.TOO_DEEP
        elif not parameters.get("boundary") or encoding not in _IDENTITY:
            left = Left.DAMAGED
        else:
            boundary = parameters["boundary"].encode("latin-1", "replace")
            found = _split(data, start, end, boundary)
            left, children = (Left.UNCLOSED, []) if found is None else (None, found)
    elif left is None and encoding not in _ENCODINGS:
        left = Left.ENCODING
    elif left is None and kind.startswith("text/") and not is_ascii_superset(charset):
        left = Left.CHARSET
    elif left is None and kind == "text/plain" and parameters.get("delsp", "").lower() == "yes":
        left = Left.FLOWED
    if left is not None or not kind.startswith("multipart/"):
        parts.append(Part(number or "1", start, end, kind, charset, encoding, left))
        return
    inner = "message/rfc822" if kind == "multipart/digest" else "text/plain"
    for count, (part_start, part_end) in enumerate(children, 1):
        part_headers, body, whole = _headers(data, part_start, part_end)
        name = f"{number}.{count}" if number else str(count)
        _walk(data, _Entity(part_headers, body, part_end, whole), name, inner, parts)


_IDENTITY = frozenset(("7bit", "8bit", "binary"))
_ENCODINGS = _IDENTITY | {"base64", "quoted-printable"}


def _encoding(headers: list[Header]) -> str:
    """Return the transfer encoding; what is unclear is returned as it stands, and unknown."""
    found = {
        unfold(value).decode("latin-1").lower().strip()
        for name, value in headers
        if name == "content-transfer-encoding"
    }
    plain = {words.partition("(")[0].partition(";")[0].strip() for words in found}
    if len(plain) > 1:
        return " and ".join(sorted(found))
    return "".join(plain) or "".join(found) or "7bit"


def _content_type(headers: list[Header], default: str) -> tuple[str, dict[str, str], bool]:
    """Return the type, its parameters, and whether it is unclear.

    There may be several headers; or a comment (RFC 5322 §3.2.2), behind which some readers find
    another type than others.
    """
    values = [unfold(value) for name, value in headers if name == "content-type"]
    if not values:
        return default, {}, False
    kind = values[0].decode("latin-1").partition(";")[0].strip().lower()
    unclear = len(set(values)) > 1 or "(" in kind
    if not re.fullmatch(_KIND, kind):
        kind = "text/plain"  # RFC 2045 §5.2
    return kind, _parameters(values[0]), unclear


def _parameters(value: bytes) -> dict[str, str]:
    """Read the parameters of a header (RFC 2045 §5.1); RFC 2231's by the standard library."""
    value = value[:_LONGEST_VALUE]
    if b"*" in value and re.search(rb";\s*[\w-]+\*\d*\*?\s*=", value):
        from email.message import Message as Header
        from email.utils import collapse_rfc2231_value

        header = Header()
        header["Content-Type"] = value.decode("latin-1")
        try:
            found = header.get_params([], unquote=True)
            return {name.lower(): collapse_rfc2231_value(text) for name, text in found[1:]}
        except (ValueError, LookupError, TypeError):  # found by fuzzing: a NUL in a charset
            return {}
    parameters: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(value):
        text = re.sub(rb"\\(.)", rb"\1", quoted) if quoted else plain
        parameters.setdefault(name.decode("latin-1").lower(), text.decode("latin-1").rstrip())
    return parameters


def _left_by_kind(kind: str, headers: list[Header]) -> Left | None:
    if kind in _NEVER:
        return _NEVER[kind]
    if kind.startswith("message/"):
        return Left.MESSAGE
    for name, value in headers:
        if name == "content-md5":
            return Left.SUMMED
        if name == "content-disposition":
            disposition = unfold(value)
            kind_of_it = disposition.partition(b";")[0].lower()
            if b"attachment" in kind_of_it or "filename" in _parameters(disposition):
                return Left.ATTACHMENT
    if kind.startswith("multipart/") or kind in {"text/html", "text/plain"}:
        return None
    return Left.NOT_HTML


_NEVER = {
    "multipart/signed": Left.SIGNED,
    "multipart/encrypted": Left.ENCRYPTED,
    "multipart/report": Left.REPORT,
    "application/pkcs7-mime": Left.ENCRYPTED,
    "application/x-pkcs7-mime": Left.ENCRYPTED,
}


def _split(data: bytes, start: int, end: int, boundary: bytes) -> list[tuple[int, int]] | None:
    """Find the parts between boundary lines (RFC 2046 §5.1.1); None if the last is missing."""
    delimiter = b"--" + boundary
    parts: list[tuple[int, int]] = []
    begin = -1
    position = start
    while (found := data.find(delimiter, position, end)) >= 0:
        position = found + len(delimiter)
        if found > start and data[found - 1] != _LINE_FEED:
            continue
        closing = data.startswith(b"--", position)
        rest = _LINE_REST.match(data, position + 2 * closing, end)
        if rest is None:
            continue
        if begin >= 0:
            # the line end before a boundary belongs to it
            part_end = found - (2 if data[found - 2 : found] == b"\r\n" else 1)
            parts.append((begin, max(begin, part_end)))
        if closing:
            return parts
        begin = position = rest.end()
    return None


_LINE_FEED = 0x0A
