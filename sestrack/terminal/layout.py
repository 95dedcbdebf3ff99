"""What of a table fits a terminal: which columns, how wide; computed, nothing is printed.

A column gets at least its longest word, and a long word, like a URL, is broken before it
takes more than `LONG`; what room is left goes to the columns that have most use for it.
Columns that can be spared are left out before a table is given up;
one that is too wide even then is drawn as a list of pairs for each row (`psql` calls that
expanded).
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = 2
LONG = 24
LEAST = 12
"""What a column that may be cut keeps, if others can be left out for it."""
FEW = 5


class Fit(NamedTuple):
    """The columns that are shown, by number, and the width of each."""

    columns: list[int]
    widths: list[int]


def cells(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fitting(
    headings: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[int], room: int
) -> Fit | None:
    """Choose the columns of a table whose cells may take several lines; None if it cannot be."""
    wide = _natural(headings, rows)
    least = [
        max(
            min(LONG, max((cells(word) for text in column for word in text.split()), default=0)),
            *(cells(word) for word in heading.split()),
        )
        if heading
        else width  # a drawing is not broken
        for heading, column, width in zip(headings, _columns(headings, rows), wide, strict=True)
    ]
    columns = list(range(len(headings)))
    for out in (None, *spare):
        if out is not None:
            columns.remove(out)
        widths = [least[number] for number in columns]
        if _width(widths) <= room:
            inner = _natural([""] * len(headings), rows)
            for wanted in (inner, wide):  # a heading of two lines does not hurt
                widths = _widened(widths, [wanted[number] for number in columns], room)
            return Fit(columns, widths)
    return None


def _widened(widths: list[int], wide: list[int], room: int) -> list[int]:
    """Give what is left of the room to the narrowest of the columns that want it."""
    for _ in range(room - _width(widths)):
        wanting = [n for n, width in enumerate(widths) if width < wide[n]]
        if not wanting:
            break
        widths[min(wanting, key=lambda n: widths[n])] += 1
    return widths


def one_line(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    cut: Sequence[int],
    spare: Sequence[int],
    room: int,
) -> Fit:
    """Choose the columns of a list with one line a row; those in `cut` may be cut."""
    wide = _natural(headings, rows)
    columns = list(range(len(headings)))
    for out in (*spare, None):
        floor = [min(wide[n], LEAST) if n in cut else wide[n] for n in columns]
        if _width(floor) <= room or out is None:
            break
        columns.remove(out)
    widths = [wide[number] for number in columns]
    while _width(widths) > room:
        longest = max(
            (n for n, column in enumerate(columns) if column in cut), key=lambda n: widths[n]
        )
        if widths[longest] <= 1:
            break
        widths[longest] -= 1
    if len(rows) < FEW:  # they do not tell how wide what follows will be
        wanted = [LONG if column in cut else 0 for column in columns]
        widths = _widened(widths, wanted, room)
    return Fit(columns, widths)


def shorten(text: str, width: int, mark: str) -> str:
    """Cut a text that is wider, and fill one that is not."""
    if cells(text) > width:
        while text and cells(text) + len(mark) > width:
            text = text[:-1]
        text += mark[:width]
    return text + " " * (width - cells(text))


def folded(text: str, width: int, indent: int) -> str:
    """Break a text between words; the lines after the first are indented."""
    lines = textwrap.wrap(text, max(width, LEAST), break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)


def _natural(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(map(cells, (heading, *column)))
        for heading, column in zip(headings, _columns(headings, rows), strict=True)
    ]


def _columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[row[number] for row in rows] for number in range(len(headings))]


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)
