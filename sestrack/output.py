"""The only place that prints: tables and tabs, JSON, and the talk on stderr.

stdout is the product, stderr the talk.  A table is drawn for a terminal only; a pipe gets
tabs, nothing cut off and no colour.  A terminal gets none either with `NO_COLOR` set, or
`TERM=dumb`.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from sestrack.errors import InputOutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from sestrack.terminal.drawing import Drawn


_process = ""
"""Which of ours writes a log for machines; "" talks to people."""


def log_as_json(process: str) -> None:
    """Talk in JSON from now on, one object a line: this process does nothing but serve.

    Its members are `time` (RFC 3339, UTC, milliseconds), `level` (info, warning, error), `process`,
    `pid` and `message`; some have an `event`, a `hint`, or more.
    """
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _log(record.levelname.lower(), self.format(record), logger=record.name)

    global _process  # noqa: PLW0603 - stderr is one, too
    _process = process
    logging.basicConfig(handlers=[Handler()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)  # noqa: FBT003


def _log(level: str, message: str, **more: object) -> None:
    import json

    now = time.time()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    line = {
        "time": f"{seconds}.{int(now * 1000) % 1000:03}Z", "level": level, "process": _process,
        "pid": os.getpid(), "message": message,
    }  # fmt: skip
    _write_line(json.dumps(line | more, default=str))


_store = ""
"""The address of the store that was named, if one was."""
_takers: Collection[str] = ()
"""The commands that take it."""


def name_store(address: str, commands: Collection[str]) -> None:
    """Have the store stand in the commands that are told to type: without, it were another one."""
    global _store, _takers
    _store, _takers = address, commands


def _typed(words: str) -> str:
    """Name the store in each command of ours that is told."""
    if not _store:
        return words
    import re

    from sestrack.engines.addresses import shown
    from sestrack.engines.default import command

    begun = command(shown(_store) if "://" in _store else _store, "")
    return re.sub(rf"\bsestrack (?=(?:{'|'.join(_takers)})\b)", lambda _: begun, words)


def note(message: str, *, level: str = "info", **more: object) -> None:
    """Say something to the person at the terminal; machines are told the level and more."""
    _talk(_typed(message), level, message, **more)


def warn(message: str, **more: object) -> None:
    """Say what might be wrong."""
    _talk(f"sestrack: warning: {_typed(message)}", "warning", message, **more)


def error(message: str, hint: str) -> None:
    """Say what went wrong, and what to type next."""
    hint = _typed(hint)
    more = {"hint": hint} if hint else {}
    words = f"sestrack: error: {message}\nhint: {hint}" if hint else f"sestrack: error: {message}"
    _talk(words, "error", message, **more)


def _talk(line: str, level: str, message: str, **more: object) -> None:
    if _process:
        _log(level, message, **more)
    else:
        _write_line(line)


_waits = True
"""Whether the talk waits for who reads it."""
_untold = 0
_is_cut = False


def never_wait() -> None:
    """Leave lines out from now on while nobody takes them: a server answers, log or no log.

    A pipe whose reader stands still, or a terminal that was stopped (Ctrl-S), would hold us up.
    """
    global _waits  # noqa: PLW0603 - stderr is one, too
    _waits = False


def _is_taken() -> bool:
    """Would a line be taken at once?  A pipe that is ready takes PIPE_BUF octets (pipe(7))."""
    import select

    looker = select.poll()
    looker.register(sys.stderr.fileno(), select.POLLOUT)
    return bool(looker.poll(0))


def _write_line(line: str) -> None:
    global _untold, _is_cut  # noqa: PLW0603 - stderr is one, too
    if not _waits:
        if not _is_taken():
            _untold += 1
            return
        if _untold:
            untold, _untold = _untold, 0
            warn(f"lines of the log that nobody took, and that are left out: {untold}")
    end = "\n" * _is_cut  # of half a line that was written when the disk was full
    try:
        sys.stderr.write(f"{end}{_printable(line, sys.stderr.encoding)}\n")
        sys.stderr.flush()
        _is_cut = False
    except OSError as error:
        if error.errno in _PASSING:
            _is_cut = True
            # what could not be written is left behind; a server may have more to say later,
            # and keeps nothing back then that could fail at the end
            encoding, errors = sys.stderr.encoding, sys.stderr.errors
            bare = io.FileIO(2, "w", closefd=False)
            sys.stderr = io.TextIOWrapper(bare, encoding, errors, write_through=True)
        else:  # nobody listens; the exit code still speaks
            _abandon(sys.stderr)


_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a log on a disk that is full."""


def prepare() -> None:
    """Let nothing that others print (help) fail for want of a character."""
    from sestrack.terminal.characters import PLAIN

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=PLAIN)


def _printable(text: str, encoding: str | None) -> str:
    """Text that any terminal can show, and that does nothing to it."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    from sestrack.terminal.characters import printable

    return printable(text, encoding or "utf-8")


def product(text: str) -> None:
    """Write text to stdout."""
    write_bytes(_printable(text, sys.stdout.encoding).encode(sys.stdout.encoding or "utf-8"))


def exactly(text: str) -> None:
    """Write a text that is read back later: a terminal gets what can be shown, all else UTF-8."""
    if is_terminal():
        product(text)
    else:
        write_bytes(text.encode())


def drawn(text: str) -> None:
    """Write what others drew (help), with its colours, which a pipe does not get."""
    from typer._click._compat import strip_ansi

    text = text if is_terminal() else strip_ansi(text)
    write_bytes(text.encode(sys.stdout.encoding or "utf-8", sys.stdout.errors or "strict"))


_is_report = False
"""Whether a reader may go when it has read enough."""


def report() -> None:
    """What is printed from now on is to be read: with a reader like `head` gone, end quietly.

    As the tools that are in C end: by SIGPIPE.  Where the product must arrive, in `rewrite`, and
    where something was changed, a reader that has gone is a failure.
    """
    global _is_report  # noqa: PLW0603 - stdout is one, too
    _is_report = True


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
        if _is_report and isinstance(failure, BrokenPipeError):
            end_by_sigpipe()
        _abandon(sys.stdout)
        msg = f"writing to standard output failed: {failure.strerror}"
        raise InputOutputError(msg, "df -h  # full? or what reads the output has gone") from None


def _abandon(stream: TextIO) -> None:
    """Keep the interpreter from trying once more, and failing (120), when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def end_by_sigpipe() -> NoReturn:
    """End as the tools that are in C do whose reader has gone."""
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    raise AssertionError  # nobody outlives it


def json_object(value: dict[str, Any]) -> None:
    """Print one object."""
    product(json_text(value, indent=2))


def json_line(value: dict[str, Any]) -> None:
    """Print one line of JSON Lines."""
    product(json_text(value))


def json_text(value: object, indent: int | None = None) -> str:
    """Return JSON and the end of its line, safe for any terminal, file or pipe.

    What cannot be shown (`isprintable`), or stdout has no character for, is an escape of JSON's
    own, which every reader undoes.
    """
    import json

    text = json.dumps(value, ensure_ascii=not _is_unicode(), indent=indent) + "\n"
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def json_array(values: Sequence[dict[str, Any]]) -> None:
    """Print an array of objects."""
    product(json_text(values, indent=2))


def csv_lines(rows: Iterable[Iterable[Any]], delimiter: str = ",") -> str:
    """Write comma-separated values (RFC 4180, but for the ends of lines)."""
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def bar(value: int, most: int, width: int = 12) -> str:
    """Draw a number as a part of the largest; in eighths of a character where they can be had."""
    if not most:
        return ""
    if not _is_unicode():
        return "#" * round(width * value / most)
    eighths = round(8 * width * value / most)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Collection[int] = (),
    spare: Sequence[int] = (),
    marks: Collection[int] = (),
) -> None:
    """Print a table on a terminal, tab-separated lines with a heading on a pipe.

    `right` are the columns of numbers, from 0; `spare` those that a narrow terminal may do
    without, the first of them first; `marks` those whose words say how something is.
    """
    rows = list(rows)
    if not is_terminal():
        lines = ["\t".join(_one_line(cell) for cell in row) for row in (headings, *rows)]
        product("\n".join(lines) + "\n")
        return
    from sestrack.terminal import drawing

    _draw(drawing.table(headings, rows, right, spare, marks, sys.stdout.encoding))


def _draw(drawn: Drawn) -> None:
    write_bytes(drawn.text.encode(sys.stdout.encoding, "replace"))
    if drawn.left_out:
        note(f"too narrow for: {', '.join(drawn.left_out)}; a pipe and --json have all")


def listing(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    cut: Sequence[int] = (),
    spare: Sequence[int] = (),
    sample: Sequence[str] | None = None,
) -> Callable[[Sequence[str]], None]:
    """Print a list that may go on, one line a row; return what prints one more.

    On a terminal columns in `cut` are cut to what fits, as `rows`, and a `sample` of what may
    follow, tell; a pipe gets all.
    """
    rows = list(rows)
    if not is_terminal():

        def tabs(row: Sequence[str]) -> None:
            product("\t".join(_one_line(cell) for cell in row) + "\n")

        for row in (headings, *rows):
            tabs(row)
        return tabs
    from sestrack.terminal import drawing

    heading, line = drawing.listing(
        headings, [*rows, *([sample] if sample else ())], cut, spare, sys.stdout.encoding
    )
    _draw(heading._replace(left_out=[]))
    for row in rows:
        product(line(row))
    _draw(heading._replace(text=""))
    return lambda row: product(line(row))


def checks(lines: Iterable[tuple[str, str, list[str]]]) -> None:
    """Draw checks on a terminal: how each went, its name, what is to be said of it."""
    from sestrack.terminal import drawing

    _draw(drawing.Drawn(drawing.checks(list(lines), sys.stdout.encoding), []))


def is_terminal() -> bool:
    """Does a person read stdout?"""
    return sys.stdout.isatty()


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    if not is_terminal():
        product("".join(f"{name}\t{_one_line(value)}\n" for name, value in pairs))
        return
    import shutil

    from sestrack.terminal import layout

    pairs = list(pairs)
    indent = max((len(name) for name, _ in pairs), default=0) + layout.GAP
    room = shutil.get_terminal_size().columns - indent
    for name, value in pairs:
        shown = layout.folded(value, room, indent) if name in _PROSE else value
        product(f"{name:<{indent}}{shown}\n")


_PROSE = {"found", "history", "reason"}
"""Facts that are broken between words; a record, or a URL, is copied whole."""


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
