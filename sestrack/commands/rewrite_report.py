"""What `sestrack rewrite` tells of its work: the report link by link, and the differences."""

from __future__ import annotations

import os
from difflib import diff_bytes, unified_diff
from typing import TYPE_CHECKING, TextIO

from sestrack import files, output
from sestrack.errors import UsageError
from sestrack.links import REASON_WORDS, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sestrack.rewrite import Template


class Report:
    """The report of one command line, a JSON object a link."""

    def __init__(self, to: str, others: Iterable[str]) -> None:
        """Take its name, "-" for standard output, and those of the inputs and the output.

        Raises `UsageError` if it is one of them, `CannotCreate` if it is a database.
        """
        self._to = to
        self._file: TextIO | None = None
        if to == "-" or files.is_special(to):
            return
        place = os.path.realpath(to)
        if any(os.path.realpath(name) == place or files.is_same(name, to) for name in others):
            msg = f"the report {to} is what is to be rewritten, or comes of it"
            raise UsageError(msg, f"--report {files.typed(to)}.report")
        files.refuse_database(to)

    def begin(self) -> None:
        """Empty it, when there is something to report on.  A pipe is opened once."""
        if self._file is None and self._to != "-":
            try:
                self._file = open(self._to, "w", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise files.cannot_create(self._to, error) from None

    def add(self, name: str, parts: Iterable[tuple[str, Template]]) -> None:
        """Write one JSON object a link; the spans are octets of the part, decoded."""
        lines = []
        for part, template in parts:
            for number, (href, url, reason) in enumerate(template.decisions):
                line = {
                    "file": name, **({"part": part} if part else {}), "link": number,
                    "destination": url, "start": href.start, "end": href.end,
                    "wrapped": reason is Reason.WRAPPED, "reason": str(reason),
                    "words": REASON_WORDS[reason], "conditional": href.conditional,
                }  # fmt: skip
                lines.append(output.json_text(line))
        text = "".join(lines)
        if self._file is None:
            output.product(text)
            return
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise files.cannot_create(self._to, error) from None


def show_diff(name: str, data: bytes, result: bytes) -> None:
    """Print the differences of two documents, line by line."""
    shown = name.encode(errors="surrogateescape")
    lines = diff_bytes(
        unified_diff, data.splitlines(keepends=True), result.splitlines(keepends=True), shown, shown
    )
    for line in lines:
        whole = line if line.endswith(b"\n") else line + b"\n\\ No newline at end\n"
        if output.is_terminal():  # which would obey what the mail says
            output.product(whole.replace(b"\r\n", b"\n").decode(errors="backslashreplace"))
        else:
            output.write_bytes(whole)
