"""Lists of recipients: CSV (RFC 4180), read line by line, so that any length will do.

The recipients stand in the column `recipient`, else `email`, else the first.  Values may be
parted by commas, semicolons or tabs, as the heading shows.  A list whose first line has an
"@" has no heading.  Lines without any value are passed over.
"""

from __future__ import annotations

import csv
import io
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from sestrack.errors import BadInput, NotFound, SestrackError
from sestrack.files import reading, shown, typed
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
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            yield _open(name, text, column, raw=raw)
        except UnicodeDecodeError as error:
            msg = f"the list {shown(name)} is not UTF-8: {error.reason}"
            raise BadInput(msg, f"iconv -f windows-1252 -t utf-8 {typed(name)}") from None
        finally:
            if name == "-":
                text.detach()


def _open(name: str, lines: Iterator[str], column: str, *, raw: bool) -> Recipients:
    blank = 0
    for first in lines:
        if first.strip():
            break
        blank += 1
    else:
        msg = f"the list {shown(name)} is empty"
        raise BadInput(msg, "a CSV file with the column `recipient`")
    delimiter = max(",;\t", key=first.count)
    source = _Recorded(first, lines)
    try:
        (heading,) = csv.reader([first], delimiter=delimiter)
    except csv.Error as error:
        raise _bad(name, blank + 1, error) from None
    heading = [cell.strip() for cell in heading]
    names = [cell.lower() for cell in heading]
    if not column and any("@" in cell for cell in heading):
        index = next(n for n, cell in enumerate(heading) if "@" in cell)
        first = ""
    else:
        wanted = [column.lower()] if column else ["recipient", "email"]
        index = next((names.index(name) for name in wanted if name in names), -1 if column else 0)
        if index < 0:
            msg = f"the list {shown(name)} has no column {column!r}; it has {', '.join(heading)}"
            raise NotFound(msg, f"--column {typed(heading[0])}")
    every = source if raw else chain([source.first], lines)
    reader = csv.reader(every, delimiter=delimiter, strict=True)
    if first:
        try:
            next(reader)
        except csv.Error as error:
            raise _bad(name, blank + 1, error) from None
        source.taken()
    return Recipients(first, delimiter, _rows(name, source, reader, index, blank))


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


def _rows(name: str, source: _Recorded, reader: Any, index: int, blank: int) -> Iterator[Row]:
    """Read on, below the heading and `blank` lines above it."""
    number = 0
    while True:
        try:
            cells = next(reader, None)
            if cells is None:
                return
            raw = source.taken()
            if not any(cells):
                continue
            number += 1
            recipient = cells[index].strip() if index < len(cells) else ""
            if not recipient:
                msg = "the recipient is empty"
                raise BadInput(msg)
            check_text("recipient", recipient)
        except (csv.Error, SestrackError) as error:
            raise _bad(name, blank + reader.line_num, error) from None
        yield Row(number, recipient, raw)


def _bad(name: str, line: int, error: Exception) -> BadInput:
    msg = f"{shown(name)}, line {line}: {error}"
    return BadInput(msg, "" if name == "-" else f"sed -n {line}p {typed(name)}")
