"""The entry: which command, from which module, and what an error becomes.

Command modules are imported when their command is asked for.  `sestrack rewrite` in a
pipe starts once per mail; its command lines are read by a light reader first, without
Typer (see `sestrack.commands.rewrite`).
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from sestrack.errors import EXIT_BUG, EXIT_USAGE, InputOutputError, SestrackError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMANDS = {
    "demo": "Show the main job, on this machine alone; leaves nothing behind.",
    "init": "Make the store and its first key.",
    "sender": "Sender domains: add, verify, list, show, remove.",
    "domain": "Trace domains: create, verify, accelerate, list, show, delete.",
    "settings": "Tracking settings: show, enable, disable, edit, export, apply.",
    "rewrite": "Rewrite HTML mail: wrap its links, add the pixel.",
    "check": "Look at a mail before it is sent: its links, and what may go wrong.",
    "recipients": "Add the column of recipient tokens to a list, for another tool to merge.",
    "serve": "Answer tracking URLs, and record opens and clicks.",
    "stats": "Opens and clicks, counted.",
    "events": "Opens and clicks, one by one: tail, export, purge, forget, reclassify.",
    "inspect": "Show what is inside a tracking URL; needs no network.",
    "keys": "Sealing keys: list, rotate, export.",
    "copy": "Copy a store to a new one, from SQLite to PostgreSQL or any other way.",
    "backup": "Write all of the store to one file, while it is served.",
    "restore": "Put a backup in the place of the store.",
    "doctor": "Check that everything is well: one line a check.",
    "completion": "Print what makes Tab complete in bash, zsh or fish.",
}
"""Each is a module of `sestrack.commands` with a Typer application `app`."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # else we were told to ignore it
        # until there is something to tidy up, Ctrl-C ends us at once: a traceback of imports
        # would tell nobody anything
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _open_streams()
    arguments = sys.argv[1:]
    store, rest = _global_options(arguments)
    if store:
        from sestrack import output

        # the stores of `copy` are its arguments
        output.name_store(store, COMMANDS.keys() - {"copy"})
    for address in (store, *(rest[1:] if rest[:1] == ["copy"] else ())):
        if address and "://" in address:
            _warn_of_password(address)
    if rest[:1] == ["rewrite"]:
        from sestrack.commands.rewrite import light
        from sestrack.engines.default import default_address, expanded

        request = light(rest[1:]) if store != "" else None
        if request is not None:
            signal.signal(signal.SIGINT, handler)
            address = expanded(store or "") or default_address()
            code = boundary(lambda: request.run(address), arguments)
            sys.stderr.flush()
            # all is written; taking the interpreter apart would cost another tenth of the time
            os._exit(code)
    from sestrack.root import application

    signal.signal(signal.SIGINT, handler)
    code = boundary(lambda: application(arguments), arguments)
    if code == EXIT_USAGE:
        from sestrack.commands.rewrite_untouched import pass_on

        if store in COMMANDS and rest[:1] != [store]:
            rest = [store, *rest]  # it was no store, but the command
        boundary(lambda: pass_on(rest, COMMANDS))
    sys.exit(code)


def boundary(action: Callable[[], int | None], arguments: Sequence[str] | None = None) -> int:
    """Run `action`; turn whatever it raises into words and an exit code.  The only place.

    With the `arguments` that were typed, a hint that is an option becomes a whole command, and so
    does a word that was meant.
    """
    from sestrack import output

    try:
        return action() or 0
    except SestrackError as error:
        hint = error.hint
        if arguments is not None and (error.meant or hint.startswith("--")):
            from sestrack.terminal.mistyped import corrected, with_option

            if error.meant:
                hint = corrected(*error.meant, arguments, hint)
            else:
                hint = with_option(hint, arguments, error.message)
        output.error(error.message, hint)
        return error.code
    except KeyboardInterrupt:
        output.note("")
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            output.error(f"too few files may be open here: {error.strerror}", "ulimit -n 65536")
            return InputOutputError.code
        if os.environ.get("SESTRACK_TRACEBACK"):
            raise
        output.error(
            f"a bug of ours: {type(error).__name__}: {error}",
            "SESTRACK_TRACEBACK=1 with the same command shows where; please report it",
        )
        return EXIT_BUG


class _ClosedInput(io.RawIOBase):
    """Standard input that was closed (`<&-`), which is not the same as empty."""

    def readable(self) -> bool:
        return True

    def readinto(self, _: object) -> NoReturn:
        msg = "standard input is closed"
        raise InputOutputError(msg, "< /dev/null makes it empty")


def _open_streams() -> None:
    """Open the standard streams that were closed, so that no other file gets their numbers.

    stdout so that writing to it fails, as on a full disk; what goes to stderr is lost.
    """
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            nowhere = os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)  # noqa: FBT003 - for processes of ours, too
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()), "utf-8")
    # both stay open to the end
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _warn_of_password(address: str) -> None:
    from sestrack import output
    from sestrack.engines.addresses import has_password

    if has_password(address):
        output.warn(
            "every process here can read a password on the command line; "
            "~/.pgpass, PGPASSWORD or SESTRACK_STORE keeps it"
        )


def _global_options(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Take `--store PATH` off the front, as Typer would."""
    if arguments[:1] == ["--store"] and len(arguments) > 1:
        return arguments[1], arguments[2:]
    if arguments and arguments[0].startswith("--store="):
        return arguments[0].removeprefix("--store="), arguments[1:]
    return None, arguments
