"""A part's content in its transfer encoding: decoded, and spliced without harm (RFC 2045 §6).

`splice` replaces spans of the *decoded* content in the body as it is transferred:

- 7bit, 8bit, binary: in place.
- quoted-printable (§6.7): in place too; every line that no span touches keeps its bytes, and
  what is put in is folded at 76 characters.
- base64 (§6.8): written anew, in lines as long as they were.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_qp, b2a_base64
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LINE = 998
"""Octets of a line without its end (RFC 5322 §2.1.1)."""


class Edit(NamedTuple):
    """Octets `start` to `end` of the decoded content become `text`."""

    start: int
    end: int
    text: bytes


def decode(raw: bytes, encoding: str) -> bytes | None:
    """Decode a body; None if it is damaged."""
    if encoding == "base64":
        try:
            return a2b_base64(raw.translate(None, b" \t\r\n"), strict_mode=True)
        except Base64Error:
            return b"" if not raw.strip() else None
    if encoding == "quoted-printable":
        # blanks behind a soft line break: some readers go on in the next line (RFC 2045 §6.7,
        # rule 3), others see an "="
        return None if re.search(rb"=[ \t]+\r?\n", raw) else a2b_qp(raw)
    return raw


def splice(
    raw: bytes, encoding: str, edits: list[Edit], line_end: bytes, whole: bytes = b""
) -> bytes:
    """Replace spans of the decoded content, in the body as it is transferred.

    The edits are in order and do not overlap.  No line is broken within `whole`, if it can be
    helped: another tool looks for it there.
    """
    if not edits:
        return raw
    if encoding == "quoted-printable":
        return _splice_quoted_printable(raw, edits, line_end, whole)
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


def _splice_quoted_printable(raw: bytes, edits: list[Edit], line_end: bytes, whole: bytes) -> bytes:
    # a token is longer than any line, and another one in each message: no pattern is made of it
    unbroken = b"|" + re.escape(whole) if 0 < len(whole) < _FOLD else b""
    atoms = rb"(=[0-9A-F]{2}" + unbroken + b")"
    offsets = _raw_offsets(raw, [offset for edit in edits for offset in (edit.start, edit.end)])
    pieces: list[bytes] = []
    position = column = 0
    for number, (_, _, text) in enumerate(edits):
        start, end = offsets[2 * number], offsets[2 * number + 1]
        kept = raw[position:start]
        pieces.append(kept)
        newline = kept.rfind(b"\n")
        column = column + len(kept) if newline < 0 else len(kept) - newline - 1
        column = _fold(re.split(atoms, _encode_quoted_printable(text)), column, pieces, line_end)
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


def _fold(parts: list[bytes], column: int, pieces: list[bytes], line_end: bytes) -> int:
    """Add `parts` in soft lines, every second one unbroken; return the column behind them."""
    for number, atom in enumerate(parts):
        begin = 0
        while begin < len(atom):
            room = _FOLD - 1 - column
            is_whole = number % 2 and len(atom) < _FOLD
            if room <= 0 or (is_whole and room < len(atom)):
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
