"""Tables for a terminal, with rich: drawn here to text, printed by `sestrack.output`.

rich leaves colours out with `NO_COLOR` set or `TERM=dumb`, and so it is for a width that is
too small for a table: nothing here looks at the environment but for the columns.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sestrack.terminal import layout
from sestrack.terminal.characters import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from rich.console import RenderableType

MARKS = {
    "ok": "green", "verified": "green", "warning": "yellow", "later": "yellow",
    "pending": "yellow", "no": "bold red", "error": "bold red", "failing": "bold red",
}  # fmt: skip
MARGIN = 36
"""Columns for a mark, and for what is to be said beside a name."""


class Drawn(NamedTuple):
    """Text for a terminal, and the columns that there was no room for."""

    text: str
    left_out: list[str]


def table(  # noqa: PLR0913 - as `output.table`, which is asked by name
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[int],
    spare: Sequence[int],
    marks: Collection[int],
    encoding: str,
) -> Drawn:
    """Draw a table, the words of some columns as marks; where it cannot be, pairs for each row."""
    rows = [[printable(cell, encoding) for cell in row] for row in rows]
    console = _console()
    fit = layout.fitting(headings, rows, spare, console.width)
    if fit is None:
        return Drawn("\n".join(_pairs(headings, row, console.width) for row in rows), [])
    drawn = Table(box=None, pad_edge=False, padding=(0, layout.GAP, 0, 0), header_style="bold")
    for column, width in zip(fit.columns, fit.widths, strict=True):
        drawn.add_column(
            headings[column], overflow="fold", width=width, no_wrap=not headings[column],
            justify="right" if column in right and headings[column] else "left",
        )  # fmt: skip
    for row in rows:
        drawn.add_row(
            *(
                Text(row[column], MARKS.get(row[column].partition(" ")[0], "")
                     if column in marks else "")
                for column in fit.columns
            )
        )  # fmt: skip
    return Drawn(_text(console, drawn), _left_out(headings, fit.columns))


def _pairs(headings: Sequence[str], row: Sequence[str], width: int) -> str:
    indent = max(map(layout.cells, headings)) + layout.GAP
    return "".join(
        f"{name:<{indent}}{layout.folded(cell, width - indent, indent)}".rstrip() + "\n"
        for name, cell in zip(headings, row, strict=True)
        if name
    )


def listing(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    cut: Sequence[int],
    spare: Sequence[int],
    encoding: str,
) -> tuple[Drawn, Callable[[Sequence[str]], str]]:
    """Draw the heading of a list; return what draws a line of it, too."""
    console = _console()
    fit = layout.one_line(headings, rows, cut, spare, console.width)
    mark = printable("…", encoding)

    def line(row: Sequence[str]) -> str:
        shown = (printable(" ".join(row[column].split("\n")), encoding) for column in fit.columns)
        return (" " * layout.GAP).join(
            layout.shorten(cell, width, mark) for cell, width in zip(shown, fit.widths, strict=True)
        ).rstrip() + "\n"

    heading = Text(line(headings).rstrip(), style="bold", no_wrap=True)
    return Drawn(_text(console, heading), _left_out(headings, fit.columns)), line


def checks(lines: Sequence[tuple[str, str, list[str]]], encoding: str) -> str:
    """Draw checks: how each went, its name, what is to be said of it."""
    console = _console()
    beside = max((len(name) for _, name, _ in lines), default=0) + MARGIN < console.width
    drawn = Table.grid(padding=(0, layout.GAP, 0, 0))
    for no_wrap in (True, beside, False)[: 2 + beside]:
        drawn.add_column(no_wrap=no_wrap, overflow="fold")
    for level, name, words in lines:
        said = Text(printable("\n".join(words), encoding))
        mark = Text(f"  {level}", style=MARKS[level])
        if beside:
            drawn.add_row(mark, Text(name), said)
        else:
            drawn.add_row(mark, Text(name))
            drawn.add_row("", said)
    return _text(console, drawn)


def _console() -> Console:
    # a dumb terminal has a width nevertheless
    return Console(width=shutil.get_terminal_size().columns, highlight=False)


def _text(console: Console, drawn: RenderableType) -> str:
    with console.capture() as capture:
        console.print(drawn)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _left_out(headings: Sequence[str], columns: Collection[int]) -> list[str]:
    return [name for number, name in enumerate(headings) if name and number not in columns]
