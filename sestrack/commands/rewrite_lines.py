"""`sestrack rewrite --jsonl`: a filter that another program keeps open.

One JSON object a line comes in, with `html` and, if the copy is for somebody, `recipient`;
`message` is its label, else --message.  The same object goes out at once, its HTML rewritten.
A line that cannot be rewritten goes out as it came, and stderr says why.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sestrack import output
from sestrack.commands.rewrite_run import bug, check_texts, count, how, minted
from sestrack.errors import EXIT_NO, BadInput, SestrackError, UsageError
from sestrack.tracking import Letter, Tracking

if TYPE_CHECKING:
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
        raise UsageError(msg, "sestrack rewrite --jsonl --sender DOMAIN < in.jsonl > out.jsonl")
    check_texts(request)
    lines = _Filter(request, store)
    worst = 0
    try:
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                result, code = lines.rewrite(line)
            except SestrackError as error:
                output.error(f"line {number}: {error.message}", error.hint)
                result, code = line, error.code
            except Exception as error:  # noqa: BLE001 - the lines to come must not be lost for it
                result, code = line, bug(f"line {number}", error)
            output.write_bytes(result)
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

    def rewrite(self, line: bytes) -> tuple[bytes, int]:
        """Rewrite one line; return it with an exit code."""
        if not line.strip():
            return line, 0
        values = _object(line)
        self._look_again()
        letter = self.compile(values["html"], values.get("message") or self.request.message)
        if letter.tracking.entry is None:
            if letter.tracking.untracked != self.said:
                self.said = letter.tracking.untracked
                output.note(f"sestrack: untracked: {self.said}")
            return line, EXIT_NO if self.request.strict else 0
        self.said = ""
        rewritten = letter.render(values.get("recipient") or "", minted(self.request))
        self.made[letter.message] += 1
        values["html"] = rewritten.decode()
        return json.dumps(values, ensure_ascii=False).encode() + b"\n", 0

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
        if self.request.count and self.made:
            count(self.store, self.tracking.sender, self.made)


def _ids(tracking: Tracking) -> list[int]:
    return [key.id for key in tracking.keys]


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
        if not isinstance(values, dict) or not isinstance(values.get("html"), str):
            msg = "it is no object with a text `html`"
            raise BadInput(msg, '{"html": "<p>…", "recipient": "ada@example.org"}')
        for name in ("recipient", "message"):
            if not isinstance(values.get(name) or "", str):
                msg = f"its {name!r} is no text"
                raise BadInput(msg, '{"html": "<p>…", "recipient": "ada@example.org"}')
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeError as error:
        msg = f"it is not valid Unicode: {error}"
        raise BadInput(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"it is not JSON: {error}"
        raise BadInput(msg, "one object a line") from None
    return values
