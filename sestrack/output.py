"""The only place that prints: tables and tabs, JSON, and the talk on stderr.

stdout is the product, stderr the talk.  A table is drawn for a terminal only; a pipe gets
tabs, nothing cut off and no colour.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sestrack.errors import InputOutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence


def note(message: str) -> None:
    """Say something to the person at the terminal."""
    _talk(message)


def warn(message: str) -> None:
    """Say what might be wrong."""
    _talk(f"sestrack: warning: {message}")


def error(message: str, hint: str) -> None:
    """Say what went wrong, and what to type next."""
    _talk(f"sestrack: error: {message}")
    if hint:
        _talk(f"hint: {hint}")


def _talk(line: str) -> None:
    try:
        sys.stderr.write(_printable(line, sys.stderr.encoding) + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody listens; the exit code still speaks


def _printable(text: str, encoding: str | None) -> str:
    """Text that a terminal in the C locale or Windows-1252 can show too."""
    clean = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return clean.encode(encoding or "utf-8", "replace").decode(encoding or "utf-8")


def product(text: str) -> None:
    """Write text to stdout."""
    write_bytes(_printable(text, sys.stdout.encoding).encode(sys.stdout.encoding or "utf-8"))


def write_bytes(data: bytes) -> None:
    """Write bytes to stdout, all of them.

    Raw standard output (`python -u`) may take a part and say so; a mail cut off there
    would go unnoticed.  Raises `InputOutputError`.
    """
    try:
        stream = sys.stdout.buffer
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]
        stream.flush()
    except OSError as failure:
        _abandon_stdout()
        msg = f"writing to standard output failed: {failure.strerror}"
        raise InputOutputError(msg, "what reads the output, or the disk, has gone") from None


def _abandon_stdout() -> None:
    """Keep the interpreter from trying once more, with a traceback, when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def json_object(value: dict[str, Any]) -> None:
    """Print one object."""
    import json

    product(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def json_array(values: Sequence[dict[str, Any]]) -> None:
    """Print an array of objects."""
    import json

    product(json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Write comma-separated values (RFC 4180, but for the ends of lines)."""
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def bar(value: int, most: int, width: int = 12) -> str:
    """Draw a number as a part of the largest; in eighths of a character where they can be had."""
    if not most:
        return ""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    if not encoding.startswith("utf"):
        return "#" * round(width * value / most)
    eighths = round(8 * width * value / most)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()
) -> None:
    """Print a table on a terminal, tab-separated lines with a heading on a pipe.

    `right` are the columns of numbers, from 0.
    """
    rows = list(rows)
    if not is_terminal():
        lines = ["\t".join(_one_line(cell) for cell in row) for row in (headings, *rows)]
        product("\n".join(lines) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        if heading:
            number = index in right
            drawn.add_column(heading, overflow="fold", justify="right" if number else "left")
        else:
            drawn.add_column("", no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(_printable(cell, sys.stdout.encoding)) for cell in row))
    Console().print(drawn)


_MARKS = {"ok": "green", "warning": "yellow", "later": "yellow", "no": "bold red"}


def checks(lines: Iterable[tuple[str, str, list[str]]]) -> None:
    """Draw checks on a terminal: how each went, its name, what is to be said of it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table.grid(padding=(0, 2, 0, 0))
    for no_wrap in (True, True, False):
        drawn.add_column(no_wrap=no_wrap, overflow="fold")
    for level, name, words in lines:
        said = _printable("\n".join(words), sys.stdout.encoding)
        drawn.add_row(Text(f"  {level}", style=_MARKS[level]), name, Text(said))
    Console().print(drawn)


def is_terminal() -> bool:
    """Does a person read stdout?"""
    return sys.stdout.isatty()


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    if not is_terminal():
        product("".join(f"{name}\t{_one_line(value)}\n" for name, value in pairs))
        return
    pairs = list(pairs)
    width = max((len(name) for name, _ in pairs), default=0)
    product("".join(f"{name:<{width}}  {value}\n" for name, value in pairs))


def _one_line(cell: str) -> str:
    return cell.replace("\t", " ").replace("\n", " ")


_REDRAW = 0.1
"""Seconds between two pictures of a progress bar."""


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show a bar on a terminal's stderr; yield what is to be called after each step, or steps."""
    if total < 2 or not sys.stderr.isatty():  # noqa: PLR2004
        yield lambda _steps=1: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # drawn by us alone: a thread that draws is in the way of processes that are forked
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(title, total=total, completed=done)
        drawn = 0.0

        def advance(steps: int = 1) -> None:
            nonlocal drawn
            bar.advance(task, steps)
            if time.monotonic() - drawn > _REDRAW:
                bar.refresh()
                drawn = time.monotonic()

        bar.refresh()
        yield advance
