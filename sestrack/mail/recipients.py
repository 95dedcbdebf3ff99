"""Lists of recipients: CSV (RFC 4180), read line by line, so that any length will do.

The recipients stand in the column `recipient`, else `email`, else the first.  Values may be
parted by commas, semicolons or tabs, as the heading shows.  A list whose first line has an
"@" has no heading.  Lines without any value are passed over.
"""

from __future__ import annotations

import csv
import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from sestrack.errors import BadInput, NotFound, SestrackError
from sestrack.files import reading
from sestrack.tokens import check_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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
def open_list(name: str, column: str = "") -> Iterator[Recipients]:
    """Open a list; `-` is standard input.

    Raises `NotFound` if there is no such file or column, and, while it is read, `BadInput`
    that names the line for a recipient that is missing or cannot be.
    """
    with reading(name) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            yield _open(name, text, column)
        except UnicodeDecodeError as error:
            msg = f"the list {name} is not UTF-8: {error.reason}"
            raise BadInput(msg, f"iconv -f windows-1252 -t utf-8 {name}") from None
        finally:
            if name == "-":
                text.detach()


def _open(name: str, lines: Iterable[str], column: str) -> Recipients:
    source = _Recorded(lines)
    first = next(source, "")
    if not first.strip():
        msg = f"the list {name} is empty"
        raise BadInput(msg, "a CSV file with the column `recipient`")
    delimiter = max(",;\t", key=first.count)
    source.again(first)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    heading = [cell.strip() for cell in next(reader)]
    raw = source.taken()
    if any("@" in cell for cell in heading) and not column:
        index = next(n for n, cell in enumerate(heading) if "@" in cell)
        source.again(raw)
        source.lines_before = -raw.count("\n")
        return Recipients("", delimiter, _rows(name, source, reader, index))
    names = [cell.lower() for cell in heading]
    wanted = [column.lower()] if column else ["recipient", "email"]
    index = next((names.index(name) for name in wanted if name in names), -1 if column else 0)
    if index < 0:
        msg = f"the list {name} has no column {column!r}; it has {', '.join(heading)}"
        raise NotFound(msg, f"--column {heading[0]}")
    return Recipients(raw, delimiter, _rows(name, source, reader, index))


class _Recorded:
    """Lines for a reader, with those that it took since it was last asked."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again = ""
        self._taken: list[str] = []

    def __iter__(self) -> _Recorded:
        return self

    def __next__(self) -> str:
        line, self._again = self._again or next(self._lines), ""
        self._taken.append(line)
        return line

    lines_before = 0

    def again(self, line: str) -> None:
        """Give a line once more."""
        self._again = line
        self._taken.clear()

    def taken(self) -> str:
        """Return what was read since."""
        raw = "".join(self._taken)
        self._taken.clear()
        return raw


def _rows(name: str, source: _Recorded, reader: Iterator[list[str]], index: int) -> Iterator[Row]:
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
            line = getattr(reader, "line_num", 0) + source.lines_before
            msg = f"{name}, line {line}: {error}"
            raise BadInput(msg, f"sed -n {line}p {name}") from None
        yield Row(number, recipient, raw)
