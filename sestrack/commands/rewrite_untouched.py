"""A mail that was piped through a command line that cannot be read: it goes out as it came.

`rewrite` itself may be what was mistyped.  Where the line names a file, nobody knows whose standard
input is: in `while read`, it is the list.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from sestrack.commands.rewrite import OPTIONS
from sestrack.commands.rewrite_delivery import pass_through
from sestrack.terminal.mistyped import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_NO_PIPE = {"--in-place", "--recipients", "--check", "--diff", "-o", "--output"}


def pass_on(arguments: Sequence[str], commands: Collection[str]) -> None:
    """Write standard input as it came, if the command line was one of `rewrite` for a pipe.

    `arguments` are what was typed, `commands` what there could be.
    """
    behind = _behind_rewrite(arguments, commands)
    if behind is None or sys.stdin.isatty():
        return
    if _NO_PIPE.isdisjoint(word.partition("=")[0] for word in behind) and not any(
        map(os.path.isfile, _no_options(behind))
    ):
        pass_through()


def _behind_rewrite(arguments: Sequence[str], commands: Collection[str]) -> Sequence[str] | None:
    """Return what stands behind `rewrite`, or what was meant by it; None for another command."""
    if "rewrite" in arguments and arguments[0] not in commands:
        # before it a value may be anything
        return arguments[arguments.index("rewrite") + 1 :]
    for position, word in enumerate(arguments):
        if word.startswith("-"):
            continue
        command = word if word in commands else nearest(word, commands)
        if command:
            return arguments[position + 1 :] if command == "rewrite" else None
    return None


def _no_options(words: Sequence[str]) -> Iterator[str]:
    """Name what is neither an option, or near to one, nor the value of one."""
    options = {flag: option for option in OPTIONS for flag in option.flags}
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            yield word
            continue
        if word == "--":
            yield from rest
        elif "=" not in word:
            option = options.get(word) or options.get(nearest(word, options))
            if option and option.metavar:
                next(rest, None)
