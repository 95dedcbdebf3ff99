"""`sestrack rewrite --jsonl`: a filter that another program keeps open.

One JSON object a line comes in, with `html` and, if the copy is for somebody, `recipient`;
`message` is its label, else --message.  The same object goes out at once, its HTML rewritten and
all else as it stood, numbers and blanks too.
A line that cannot be rewritten goes out as it came, and stderr says why.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sestrack import files, output
from sestrack.commands.rewrite_copies import Meant, count, is_made
from sestrack.commands.rewrite_run import bug, check_texts, how, minted
from sestrack.errors import EXIT_NO, BadInput, InputOutputError, SestrackError, UsageError
from sestrack.links import is_field
from sestrack.tracking import Letter, Tracking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sestrack.commands.rewrite import Request

SEEN_SECONDS = 0.2
"""How soon a change of the settings is seen."""
COMPILED = 64
"""Documents that are kept compiled."""


def run(request: Request, store: str) -> int:
    """Filter until the input ends; return the worst exit code."""
    if (
        request.files or request.in_place or request.diff or request.check or request.report
        or request.output not in {"", "-"}
    ):  # fmt: skip
        msg = "--jsonl is a filter: it reads standard input and writes standard output"
        plain = request._replace(in_place=False, diff=False, check=False, report="", output="")
        file = (*request.files, "in.jsonl")[0]
        hint = f"{plain.line(files=())} < {files.typed(file)} > out.jsonl"
        if file.endswith((".html", ".htm", ".eml")):  # no objects, but what is to be rewritten
            hint = request.line(jsonl=False)
        raise UsageError(msg, hint)
    check_texts(request)
    lines = _Filter(request, store)
    worst = 0
    # who keeps us open may end us so: what went out is counted
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                result, code = lines.rewrite(line, number)
            except SestrackError as error:
                output.error(f"line {number}: {error.message}", error.hint)
                result, code = line, error.code
            except Exception as error:  # noqa: BLE001 - the lines to come must not be lost for it
                result, code = line, bug(f"line {number}", error)
            lines.made.update(lines.fresh)  # before: who has the line may end us at once
            try:
                output.write_bytes(result)
            except InputOutputError:
                lines.made.subtract(lines.fresh)
                raise
            worst = worst or code
    finally:
        lines.count()
    return worst


class _Filter:
    """Rewrites line by line, with the settings of the moment."""

    def __init__(self, request: Request, store: str) -> None:
        self.request, self.store = request, store
        self.how = how(request)
        self.tracking = Tracking.of(store, request.sender)
        self.read_at = time.monotonic()
        self.compile = lru_cache(COMPILED)(self._compile)
        self.said = ""
        self.made: Counter[str] = Counter()
        """Copies of each message that went out,"""
        self.fresh: list[str] = []
        """and the one that goes out next, by its message."""

    def rewrite(self, line: bytes, number: int) -> tuple[bytes, int]:
        """Rewrite one line; return it with an exit code."""
        self.fresh.clear()
        if not line.strip():
            return line, 0
        text, values, start, end = _object(line)
        self._look_again()
        letter = self.compile(values["html"], values.get("message") or self.request.message)
        if letter.tracking.entry is None:
            if letter.tracking.untracked != self.said:
                self.said = letter.tracking.untracked
                output.note(f"sestrack: untracked: {self.said}")
            return line, EXIT_NO if self.request.strict else 0
        self.said = ""
        recipient = values.get("recipient") or ""
        if is_field(recipient):
            msg = f"the recipient {recipient!r} is a merge field, that nothing has filled in"
            raise BadInput(msg, _LIKE)
        rewritten = letter.render(recipient, minted(self.request))
        changed = bool(letter.template.holes)
        asked = values.get("message") or self.request.message
        meant = Meant(recipient, asked, letter.message)
        source = values["html"].encode()
        if (
            not is_made(letter.tracking, f"line {number}", source, meant, changed=changed)
            and changed
        ):
            self.fresh.append(letter.message)
        html = json.dumps(rewritten.decode(), ensure_ascii=False)
        return f"{text[:start]}{html}{text[end:]}".encode(), 0

    def _look_again(self) -> None:
        if time.monotonic() - self.read_at < SEEN_SECONDS:
            return
        tracking = Tracking.of(self.store, self.request.sender)
        self.read_at = time.monotonic()
        if tracking[:5] != self.tracking[:5] or _ids(tracking) != _ids(self.tracking):
            self.tracking = tracking
            self.compile.cache_clear()

    def _compile(self, html: str, message: str) -> Letter:
        return self.tracking.compile(html.encode(), message, self.how, "utf-8")

    def count(self) -> None:
        """Count the copies, if that is asked for."""
        made = +self.made  # those that are not none
        if self.request.count and made:
            count(self.store, self.tracking.sender, made)


def _ids(tracking: Tracking) -> list[int]:
    return [key.id for key in tracking.keys]


def _object(line: bytes) -> tuple[str, dict[str, Any], int, int]:
    """Read a line; return its text, the object, and where the value of `html` stands."""
    try:
        text = line.decode()
        values: dict[str, Any] = {}
        place = 0, 0
        for name, value, start, end in _members(text):
            if name in values and name in _OURS:
                msg = f"it has two {name!r}"
                raise BadInput(msg, _LIKE)
            values[name] = value
            if name == "html":
                place = start, end
        if not isinstance(values.get("html"), str):
            msg = "it is no object with a text `html`"
            raise BadInput(msg, _LIKE)
        for name in _OURS:
            value = values.get(name) or ""
            if not isinstance(value, str):
                msg = f"its {name!r} is no text"
                raise BadInput(msg, _LIKE)
            value.encode()
    except UnicodeError as error:
        msg = f"it is not valid Unicode: {error}"
        raise BadInput(msg, _LIKE) from None
    except (ValueError, RecursionError) as error:
        msg = f"it is not JSON: {error}"
        raise BadInput(msg, "one object a line") from None
    return text, values, *place


_OURS = ("html", "recipient", "message")
_LIKE = '{"html": "<p>…", "recipient": "ada@example.org"}'
_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")


def _members(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Give name and value of each member of an object (RFC 8259 §4), and where the value stands.

    Nothing for another value.  Raises `ValueError` for what is not JSON.
    """

    def skip(position: int, wanted: str) -> int:
        found = _BLANK.match(text, position)
        assert found is not None
        if not text.startswith(wanted, found.end()):
            msg = f"Expecting {wanted!r}"
            raise json.JSONDecodeError(msg, text, found.end())
        return found.end() + len(wanted)

    position = skip(0, "\ufeff" if text.startswith("\ufeff") else "")
    if not text.startswith("{", position):
        _, position = _DECODER.raw_decode(text, position)
    else:
        position = skip(position, "{")
        closed = text.startswith("}", skip(position, ""))
        while not closed:
            start = skip(position, "")
            name, position = _DECODER.raw_decode(text, start)
            if not isinstance(name, str):
                msg = "Expecting property name enclosed in double quotes"
                raise json.JSONDecodeError(msg, text, start)
            start = skip(skip(position, ":"), "")
            value, position = _DECODER.raw_decode(text, start)
            yield name, value, start, position
            closed = text.startswith("}", skip(position, ""))
            position = position if closed else skip(position, ",")
        position = skip(position, "}")
    if skip(position, "") != len(text):
        msg = "Extra data"
        raise json.JSONDecodeError(msg, text, position)
