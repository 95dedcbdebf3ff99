"""Lists of recipients: CSV (RFC 4180), read line by line, so that any length will do.

The recipients stand in the column `recipient`, else `email` (`E-Mail`, `Email Address`), else the
only one with an address in the line below, else, if no column has one, the first; several columns
of addresses are refused.  Values may be parted by commas, semicolons or tabs, as the heading
shows, or Excel's line `sep=;` before it.  A list whose first line has an address has no heading.
Lines without any value are passed over.
"""

from __future__ import annotations

import csv
import io
import re
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from sestrack.errors import BadInput, NotFound, SestrackError
from sestrack.files import quoted, reading, shown, typed
from sestrack.links import is_field
from sestrack.tokens import check_text

if TYPE_CHECKING:
    from collections.abc import Iterator


class Row(NamedTuple):
    """A recipient of the list."""

    number: int
    """From 1, the heading and lines without a value not counted."""
    recipient: str
    raw: str
    """The line, or lines, as they stand in the list."""


class Recipients(NamedTuple):
    """An open list."""

    mark: str
    """U+FEFF where the list begins with it, else "": Excel knows UTF-8 by nothing else."""
    heading: str
    """As it stands in the list; "" for none."""
    delimiter: str
    rows: Iterator[Row]


@contextmanager
def open_list(name: str, column: str = "", *, raw: bool = False) -> Iterator[Recipients]:
    """Open a list; `-` is standard input.  With `raw` a row has its line as it stands.

    Raises `NotFound` if there is no such file or column, and, while it is read, `BadInput`
    that names the line for a recipient that is missing or cannot be.
    """
    with reading(name) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            first = next(text, "")
            lines = chain([first.removeprefix(_MARK)], text)
            found = _open(name, lines, column, raw=raw)
            yield found._replace(mark=_MARK if first.startswith(_MARK) else "")
        except UnicodeDecodeError as error:
            msg = f"the list {shown(name)} is not UTF-8: {error.reason}"
            raise BadInput(msg, _to_utf_8(name, error.object)) from None
        finally:
            if name == "-":
                text.detach()


def _to_utf_8(name: str, head: bytes) -> str:
    """Return what makes UTF-8 of a list; where it begins tells what it may be."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        charset = "utf-16"  # Excel's "Unicode text"
    elif b"\0" in head:
        return "" if name == "-" else f"file {typed(name)}"
    else:
        charset = "windows-1252"
    stem = "list" if name == "-" else name.rpartition(".")[0] or name
    return f"iconv -f {charset} -t utf-8 {typed(name)} > {typed(f'{stem}-utf8.csv')}"


def _open(name: str, lines: Iterator[str], column: str, *, raw: bool) -> Recipients:
    blank = 0
    for first in lines:
        if first.strip():
            break
        blank += 1
    else:
        msg = f"the list {shown(name)} is empty"
        raise BadInput(msg, "a CSV file with the column `recipient`")
    if "\0" in first:
        msg = f"the list {shown(name)} is binary, and a CSV file is wanted"
        raise BadInput(msg, _to_utf_8(name, b"\0"))
    is_html = first.lstrip().startswith("<")
    if is_html or re.match(_MAIL, first, re.IGNORECASE):
        what = "HTML" if is_html else "a mail"
        msg = f"the list {shown(name)} begins like {what}: {first.strip()[:40]}"
        raise BadInput(msg, "a list is a CSV file; the template is another file, `rewrite FILE`")
    excel = ""
    if parted := re.fullmatch(r"sep=(.)\s*", first, re.IGNORECASE):
        excel, first = first, next(lines, "")
        blank += 1
    first, lines = _whole(first, lines)
    second, lines = _telling(lines)
    delimiter = parted[1] if parted else _delimiter(first, second, column)
    source = _Recorded(first, lines)
    try:
        heading, below = (
            next(csv.reader([line], delimiter=delimiter), []) for line in (first, second)
        )
    except csv.Error as error:
        raise _bad(name, blank + 1, error) from None
    if not column and any(map(_is_address, heading)):
        index, *more = [n for n, cell in enumerate(heading) if _is_address(cell)]
        if more:
            msg = f"the list {shown(name)} has no heading, and {1 + len(more)} columns of addresses"
            raise BadInput(msg, "a first line that names the columns, one of them `recipient`")
        first = excel = ""
    else:
        index = _column(name, column, [cell.strip() for cell in heading], below)
    every = source if raw else chain([source.first], lines)
    reader = csv.reader(every, delimiter=delimiter, strict=True)
    if first:
        try:
            next(reader)
        except csv.Error as error:
            raise _bad(name, blank + 1, error) from None
        source.taken()
    blank += max(0, first.count("\n") - 1)
    shape = _Shape(index, len(heading), delimiter, raw)
    return Recipients("", excel + first, delimiter, _rows(name, source, reader, shape, blank))


class _Shape(NamedTuple):
    """What the lines of a list are like."""

    column: int
    """Of the recipient."""
    width: int
    """Values of a line."""
    delimiter: str
    raw: bool
    """Whether another value is to be put behind them: then empty ones too many matter, too."""


def _delimiter(first: str, second: str, column: str) -> str:
    """Return what parts the values: `E-Mail;Name, Vorname` has a comma, too."""
    wanted = [_plain(column)] if column else _USUAL

    def fits(delimiter: str) -> tuple[bool, bool, int]:
        try:
            heading, below = (
                next(csv.reader([line], delimiter=delimiter), []) for line in (first, second)
            )
        except csv.Error:
            heading = below = []
        is_named = any(_plain(cell) in wanted for cell in heading)
        cells = [*heading, *below]
        has_address = any(_is_address(cell) and not re.search(r"[,;|]", cell) for cell in cells)
        return is_named, has_address, re.sub(r'"[^"]*"', "", first).count(delimiter)

    return max(",;\t|", key=fits)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _whole(first: str, lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    """Return the first line with those that a quoted name of it goes on in, and the lines below."""
    whole, taken = first, [first]
    while whole.count('"') % 2 and len(taken) < _NAME_LINES and (more := next(lines, "")):
        taken.append(more)
        whole += more
    if whole.count('"') % 2:  # a stray one
        return first, chain(taken[1:], lines)
    return whole, lines


def _telling(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    """Return the first row that may have an address, else the first with a value, and all lines.

    No more are looked at than tell something: others may come from a program, one by one.
    """
    taken: list[str] = []

    def take() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    rest, found = take(), ""
    while len(taken) < _TELLING_LINES and (line := next(rest, "")):
        row, rest = _whole(line, rest)
        if "@" in row:
            found = row
            break
        found = found or (row.strip("\"',;|\t\r\n ") and row)
    return found, chain(taken, lines)


def _column(name: str, wanted: str, heading: list[str], below: list[str]) -> int:
    """Find the column of the recipients."""
    names = [cell.lower() for cell in heading]
    plain = [*map(_plain, names)]
    usual = [plain.index(word) for word in _USUAL if word in plain]
    addresses = [n for n, cell in enumerate(below[: len(heading)]) if _is_address(cell)]
    if usual and plain[usual[0]] != "recipient" and addresses and usual[0] not in addresses:
        usual = [n for n in usual if n in addresses]  # "mail: yes" beside "contact: a@b.c"
    likely = usual[0] if usual else addresses[0] if len(addresses) == 1 else 0
    if not wanted:
        if not usual and len(addresses) > 1:
            names = [heading[n] for n in addresses]
            msg = (
                f"the list {shown(name)} has {len(names)} columns of addresses: {', '.join(names)}"
            )
            raise BadInput(msg, f"--column {quoted(names[0])}")
        return likely
    if wanted.lower() in names:
        return names.index(wanted.lower())
    near = get_close_matches(wanted.lower(), names, 1)
    meant = heading[names.index(near[0]) if near else likely]
    msg = f"the list {shown(name)} has no column {wanted!r}; it has {', '.join(heading)}"
    raise NotFound(msg, f"--column {quoted(meant)}")


def _is_address(cell: str) -> bool:
    return re.fullmatch(r" *[^\s@]+@[^\s@]+\s*", cell) is not None


_MARK = "\ufeff"
_PARTS = re.compile(r"[,;\t|]")
_MAIL = (
    r"(?:From|To|Subject|Date|Received|Return-Path|Message-ID|MIME-Version|Content-Type): |From "
)
_TELLING_LINES = 20
"""Lines in which an address is looked for, to tell what parts the values, and their columns."""
_NAME_LINES = 20
"""Lines that the heading of a list may have."""
_USUAL = ("recipient", "email", "emailaddress", "mail", "mailaddress")
"""What the column of the recipients may be called, without what is neither letter nor digit."""


class _Recorded:
    """Lines for a reader, with those that it took since it was last asked."""

    def __init__(self, first: str, lines: Iterator[str]) -> None:
        self.first = first
        self._lines = chain([first], lines)
        self._taken: list[str] = []

    def __iter__(self) -> _Recorded:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._taken.append(line)
        return line

    def taken(self) -> str:
        """Return what was read since."""
        raw = "".join(self._taken)
        self._taken.clear()
        return raw


def _rows(name: str, source: _Recorded, reader: Any, shape: _Shape, blank: int) -> Iterator[Row]:
    """Read on, below the heading and `blank` lines above it."""
    column, width, delimiter, _ = shape
    number = 0
    while True:
        begin = reader.line_num
        try:
            cells = next(reader, None)
            if cells is None:
                return
            raw = source.taken()
            if not any(cells):
                continue
            number += 1
            recipient = cells[column].strip() if column < len(cells) else ""
            if not recipient:
                msg = "the recipient is empty"
                raise BadInput(msg)
            check_text("recipient", recipient)
            if is_field(recipient):
                msg = f"the recipient {recipient!r} is a merge field, that nothing has filled in"
                raise BadInput(msg)
            if len(cells) != width:
                _check_width(cells, recipient, shape)
                line = raw.rstrip("\r\n")
                raw = line + delimiter * (width - len(cells)) + raw[len(line) :]
        except (csv.Error, SestrackError) as error:
            raise _bad(name, blank + begin + 1, error, blank + reader.line_num) from None
        yield Row(number, recipient, raw)


def _check_width(cells: list[str], recipient: str, shape: _Shape) -> None:
    """Raise `BadInput` unless a row with more or fewer values than the heading can be meant so.

    `King, Ada` without quotes makes one too many, lines with other delimiters than the heading's
    make too few.  Empty ones are as good as none, where no other is to be put behind them.
    """
    more = cells[shape.width :]
    few = len(cells) < shape.width
    if any(more) or (more and shape.raw) or (few and _PARTS.search(recipient)):
        values = "1 value" if len(cells) == 1 else f"{len(cells)} values"
        columns = f"{shape.width} column{'s' * (shape.width != 1)}"
        msg = f"it has {values}, and the list {columns}"
        raise BadInput(msg)


def _bad(name: str, line: int, error: Exception, last: int = 0) -> BadInput:
    """Say what is wrong with a row; a quote that nobody closed makes one of many lines."""
    place, which = f"line {line}", f"{line}p"
    if last > line:
        place, which = f"lines {line} to {last}", f"'{line},{last}p'"
    hint = "" if name == "-" else f"sed -n {which} {typed(name)}"
    return BadInput(f"{shown(name)}, {place}: {error}", hint)
