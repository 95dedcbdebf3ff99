"""The parts of a message in byte offsets, and splicing into them (RFC 5322, RFC 2045 to 2049).

A message is never parsed into objects and written again: the standard library's way there
and back changes more than half of real messages.  `read` finds headers and parts; `splice`
replaces spans of a part's *decoded* content in the part as it is transferred:

- 7bit, 8bit, binary: in place.
- quoted-printable (RFC 2045 §6.7): in place too; every line that no span touches keeps its
  bytes, and what is put in is folded at 76 characters.
- base64 (§6.8): written anew, in lines as long as they were.

Line ends may be CRLF or LF.  Reading is as lenient as the standard library's `email` about
headers and boundaries; what is left alone and why is `Left`.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_qp, b2a_base64
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from sestrack.html.charset import is_ascii_superset

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DEPTH = 30
"""Multiparts in multiparts that are looked into."""
_LONGEST_VALUE = 4096
"""Octets of a header that are looked at for parameters; hostile ones could take long."""
MAX_LINE = 998
"""Octets of a line without its end (RFC 5322 §2.1.1)."""


class Left(StrEnum):
    """Why a part is left as it is.  The values stand in reports."""

    SIGNED = "signed"
    ENCRYPTED = "encrypted"
    REPORT = "report"
    MESSAGE = "message"
    ATTACHMENT = "attachment"
    NOT_HTML = "not-html"
    UNCLOSED = "unclosed"
    DAMAGED = "damaged"
    ENCODING = "unknown-encoding"
    CHARSET = "unknown-charset"
    AMBIGUOUS = "ambiguous"
    TOO_DEEP = "too-deep"


LEFT_WORDS = {
    Left.SIGNED: "is signed, and a change would break the signature",
    Left.ENCRYPTED: "is encrypted",
    Left.REPORT: "is a delivery report",
    Left.MESSAGE: "is a message within the message",
    Left.ATTACHMENT: "is an attachment",
    Left.NOT_HTML: "is not HTML",
    Left.UNCLOSED: "has no closing boundary",
    Left.DAMAGED: "is damaged",
    Left.ENCODING: "has a transfer encoding that is not known",
    Left.CHARSET: "has a charset that is not a superset of ASCII",
    Left.AMBIGUOUS: "has two headers that contradict each other",
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
    line_end: bytes

    def values(self, name: str) -> list[bytes]:
        """Return the values of a header, unfolded (RFC 5322 §2.2.3)."""
        return [unfold(header.value) for header in self.headers if header.name == name.lower()]


class Edit(NamedTuple):
    """Octets `start` to `end` of the decoded content become `text`."""

    start: int
    end: int
    text: bytes


def read(data: bytes) -> Message:
    """Find the headers and the parts of a message."""
    first = data.find(b"\n")
    line_end = b"\r\n" if first > 0 and data[first - 1 : first] == b"\r" else b"\n"
    headers, body = _headers(data, 0, len(data))
    parts: list[Part] = []
    # the line ends at the end are not the document's: in an mbox they part it from the next
    end = max(body, len(data.rstrip(b"\r\n")))
    _walk(data, (headers, body, end), "", "text/plain", parts)
    return Message(data, headers, parts, line_end)


def unfold(value: bytes) -> bytes:
    """Take the line ends out of a header's value."""
    return value.replace(b"\r\n", b"").replace(b"\n", b"").strip()


# -- structure -----------------------------------------------------------------------------

_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)(?:\n|\Z)")
_FROM_LINE = re.compile(rb">?From [^\n]*\n")
_BLANK = re.compile(rb"\r?\n")
_PARAMETER = re.compile(rb';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))', re.DOTALL)
_LINE_REST = re.compile(rb"[ \t]*(?:\r?\n|\Z)")
_KIND = re.compile(r"[^\s/;]+/[^\s/;]+")


def _headers(data: bytes, start: int, end: int) -> tuple[list[Header], int]:
    """Read headers; return where the body begins.  A line that is none ends them."""
    headers = []
    position = start
    if from_line := _FROM_LINE.match(data, position, end):
        position = from_line.end()
    while header := _HEADER.match(data, position, end):
        headers.append(Header(header[1].decode("ascii").lower(), header[2]))
        position = header.end()
    if blank := _BLANK.match(data, position, end):
        position = blank.end()
    return headers, position


def _walk(
    data: bytes, entity: tuple[list[Header], int, int], number: str, default: str, parts: list[Part]
) -> None:
    """Add the parts of an entity, depth first."""
    headers, start, end = entity
    kind, parameters, ambiguous = _content_type(headers, default)
    encoding = _encoding(headers)
    left = Left.AMBIGUOUS if ambiguous else _left_by_kind(kind, headers)
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
    if left is not None or not kind.startswith("multipart/"):
        parts.append(Part(number or "1", start, end, kind, charset, encoding, left))
        return
    inner = "message/rfc822" if kind == "multipart/digest" else "text/plain"
    for count, (part_start, part_end) in enumerate(children, 1):
        part_headers, body = _headers(data, part_start, part_end)
        name = f"{number}.{count}" if number else str(count)
        _walk(data, (part_headers, body, part_end), name, inner, parts)


_IDENTITY = frozenset(("7bit", "8bit", "binary"))
_ENCODINGS = _IDENTITY | {"base64", "quoted-printable"}


def _encoding(headers: list[Header]) -> str:
    for name, value in headers:
        if name == "content-transfer-encoding":
            words = unfold(value).decode("latin-1").lower()
            return words.partition("(")[0].partition(";")[0].strip() or "7bit"
    return "7bit"


def _content_type(headers: list[Header], default: str) -> tuple[str, dict[str, str], bool]:
    """Return the type, its parameters, and whether there are several."""
    values = [unfold(value) for name, value in headers if name == "content-type"]
    if not values:
        return default, {}, False
    kind = values[0].decode("latin-1").partition(";")[0].strip().lower()
    if not re.fullmatch(_KIND, kind):
        kind = "text/plain"  # RFC 2045 §5.2
    return kind, _parameters(values[0]), len(set(values)) > 1


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
        if name == "content-disposition":
            disposition = unfold(value)
            if disposition[:10].lower() == b"attachment" or "filename" in _parameters(disposition):
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


# -- content -------------------------------------------------------------------------------


def decode(raw: bytes, encoding: str) -> bytes | None:
    """Decode a body; None if it is damaged."""
    if encoding == "base64":
        try:
            return a2b_base64(raw.translate(None, b" \t\r\n"), strict_mode=True)
        except Base64Error:
            return b"" if not raw.strip() else None
    return a2b_qp(raw) if encoding == "quoted-printable" else raw


def splice(raw: bytes, encoding: str, edits: list[Edit], line_end: bytes) -> bytes:
    """Replace spans of the decoded content, in the body as it is transferred.

    The edits are in order and do not overlap.
    """
    if not edits:
        return raw
    if encoding == "quoted-printable":
        return _splice_quoted_printable(raw, edits, line_end)
    if encoding == "base64":
        return _lines_of_base64(raw, join(decode(raw, encoding) or b"", edits), line_end)
    return join(raw, edits)


def join(data: bytes, edits: Iterable[Edit]) -> bytes:
    """Replace the spans of plain octets."""
    pieces: list[bytes] = []
    position = 0
    for start, end, text in edits:
        pieces += (data[position:start], text)
        position = end
    pieces.append(data[position:])
    return b"".join(pieces)


def _lines_of_base64(raw: bytes, data: bytes, line_end: bytes) -> bytes:
    """Encode, in lines as long as those of `raw`, with what stood around them."""
    text = raw.strip()
    begin = raw.index(text)
    newline = text.find(b"\n")
    width = len(text[:newline].rstrip()) if newline >= 0 else 76
    if not width or width % 4 or width > MAX_LINE:
        width = 76
    encoded = b2a_base64(data, newline=False)
    lines = [encoded[at : at + width] for at in range(0, len(encoded), width)]
    return raw[:begin] + line_end.join(lines) + raw[begin + len(text) :]


# As CPython's `binascii.a2b_qp`, and so as `email`, reads: a soft line break and an "=" at the
# end stand for nothing, "==" and two digits for one octet, any other "=" for itself.
_ESCAPES = re.compile(rb"=(?:\n|\r[^\n]*+\n?|=|[0-9A-Fa-f]{2}|\Z|)")
_FOLD = 76
"""Longest line of quoted-printable, its "=" included (RFC 2045 §6.7, rule 5)."""


def _raw_offsets(raw: bytes, wanted: list[int]) -> list[int]:
    """Turn ascending offsets of the decoded content into offsets of `raw`."""
    found: list[int] = []
    count = shift = 0
    for escape in _ESCAPES.finditer(raw):
        start, end = escape.span()
        while wanted[count] <= start - shift:
            found.append(wanted[count] + shift)
            count += 1
            if count == len(wanted):
                return found
        # an "=" alone is one, but for the last octet
        silent = end == len(raw) if end == start + 1 else raw[start + 1] in b"\r\n"
        shift += end - start - (not silent)
    return found + [offset + shift for offset in wanted[count:]]


def _splice_quoted_printable(raw: bytes, edits: list[Edit], line_end: bytes) -> bytes:
    offsets = _raw_offsets(raw, [offset for edit in edits for offset in (edit.start, edit.end)])
    pieces: list[bytes] = []
    position = column = 0
    for number, (_, _, text) in enumerate(edits):
        start, end = offsets[2 * number], offsets[2 * number + 1]
        kept = raw[position:start]
        pieces.append(kept)
        newline = kept.rfind(b"\n")
        column = column + len(kept) if newline < 0 else len(kept) - newline - 1
        column = _fold(text, column, pieces, line_end)
        position = end
        next_edit = offsets[2 * number + 2] if 2 * number + 2 < len(offsets) else len(raw)
        line = raw.find(b"\n", end, next_edit)
        # a line that another edit goes on with needs room for the "=" of a soft break
        room = _FOLD if line >= 0 or next_edit == len(raw) else _FOLD - 1
        rest = (next_edit if line < 0 else line - (raw[line - 1 : line] == b"\r")) - end
        if rest > 0 and column + rest > room:
            pieces.append(b"=" + line_end)
            column = 0
    pieces.append(raw[position:])
    return b"".join(pieces)


def _fold(text: bytes, column: int, pieces: list[bytes], line_end: bytes) -> int:
    """Add `text`, encoded, in soft lines; return the column behind it."""
    for atom in re.split(rb"(=[0-9A-F]{2})", _encode_quoted_printable(text)):
        begin = 0
        while begin < len(atom):
            room = _FOLD - 1 - column
            if room <= 0 or (atom[:1] == b"=" and room < len(atom)):
                pieces.append(b"=" + line_end)
                column = 0
                continue
            taken = atom[begin : begin + room]
            pieces.append(taken)
            column += len(taken)
            begin += len(taken)
    return column


def _encode_quoted_printable(text: bytes) -> bytes:
    """Encode what goes into a line; it does not end in a space, which would have to be, too."""
    return re.sub(rb"[^ -<>-~]", lambda octet: b"=%02X" % octet[0][0], text)
