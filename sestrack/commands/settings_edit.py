"""`sestrack settings edit`: the text in an editor, and again until it is valid."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import typer

from sestrack import output, store
from sestrack.errors import (
    BadInput,
    InputOutputError,
    NoPermission,
    NotFound,
    NotSetUp,
    SestrackError,
    TryAgain,
    UsageError,
)
from sestrack.files import look, typed
from sestrack.html.charset import wide_mark
from sestrack.settings import Text, parse
from sestrack.terminal import mistyped

_ERROR_MARK = "#! "
_ABOVE = re.compile("#! (?:error|hint|save as it is)")
_TRIES = 3
"""Texts that may be invalid where there is no terminal, and so nobody who would mend them."""


def edit(ctx: typer.Context) -> None:
    """Edit the settings in $VISUAL or $EDITOR.

    The text opens again with the error on top until it is valid; leave it as it is, or
    empty it, to change nothing.

    Example: EDITOR=nano sestrack settings edit
    """
    editor = _editor()
    address = ctx.obj
    with store.Store(address) as opened:
        stored, revision = opened.settings_text()
    before = parse(stored).text
    handle, name = tempfile.mkstemp(prefix="sestrack-settings-", suffix=".toml")
    os.close(handle)
    draft = Path(name)
    try:
        new = _edited(editor, draft, before, address)
        if new is not None:
            with store.Store(address) as opened:
                opened.save_settings(new, revision)
    except SestrackError as error:
        if _is_left(draft, before):
            draft.unlink(missing_ok=True)
            raise
        between = "" if not error.hint else "; " if "  # " in error.hint else "  # "
        hint = f"{error.hint}{between}your text is in {typed(str(draft))}"
        raise type(error)(error.message, hint) from None
    draft.unlink(missing_ok=True)
    if new is None:
        output.note("cancelled; nothing changed")
        return
    output.product(diff(before, new.text))
    output.note("saved")


def diff(old: str, new: str) -> str:
    """Return what differs between two texts of settings, as `diff -u` has it."""
    before, after = (text.splitlines(keepends=True) for text in (old, new))
    return "".join(difflib.unified_diff(before, after, "settings", "new settings"))


def _editor() -> list[str]:
    """Return the words that the editor is called by.  Raises `UsageError`."""
    named = ((os.environ.get("VISUAL") or "").strip() or os.environ.get("EDITOR") or "").strip()
    if not named:
        if not sys.stdin.isatty():
            msg = "no editor is named, and there is no terminal to open one on"
            raise UsageError(msg, _otherwise())
        return ["vi"]
    try:
        return shlex.split(named)
    except ValueError as error:
        msg = f"the editor {named!r} is no command line: {error}"
        raise UsageError(msg, _otherwise()) from None


def _otherwise() -> str:
    """Return a command that edits with what is installed here, or without an editor of ours."""
    there = next((name for name in ("nano", "vim", "vi", "emacs") if shutil.which(name)), "")
    if there:
        name = "VISUAL" if (os.environ.get("VISUAL") or "").strip() else "EDITOR"
        return f"{name}={there} sestrack settings edit"
    return "sestrack settings export > settings.toml  # and sestrack settings apply settings.toml"


def _edited(editor: list[str], draft: Path, before: str, address: str) -> Text | None:
    """Have the text edited until it is valid; None if it is left as it was, or emptied."""
    text = before
    above = said = hint = ""
    tries = 0
    while True:
        draft.write_bytes((above + text).encode())  # each end of a line as it is
        _run_editor(editor, draft)
        last, text = text, _read(draft, above)
        if not text.strip() or text == before:
            return None
        try:
            if text == last:
                msg = f"the text was left as it was, and is still invalid: {said}"
                raise BadInput(msg, hint)
            new = parse(text)
            with store.Store(address) as opened:
                check(opened, new)
        except (TryAgain, NoPermission, NotSetUp):  # the text has no part in it
            raise
        except SestrackError as error:
            tries += 1
            said, hint = error.message, error.hint
            if text == last or (tries == _TRIES and not sys.stdin.isatty()):
                raise
            above = _lines_above(error)
            continue
        return new


def _run_editor(editor: list[str], draft: Path) -> None:
    try:
        process = subprocess.Popen([*editor, str(draft)])  # noqa: S603
    except OSError as error:
        msg = f"the editor {shlex.join(editor)!r} cannot be started: {error.strerror}"
        raise NotFound(msg, _otherwise()) from None
    # Ctrl-C is the editor's affair while it runs
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, handler)
    if status:
        msg = f"the editor {shlex.join(editor)!r} ended with status {status}; nothing changed"
        raise InputOutputError(msg, _otherwise())


def _lines_above(error: SestrackError) -> str:
    """Return what an editor shows above a text that is invalid."""
    lines = [f"error: {error.message}", f"hint: {error.hint}", "save as it is, or empty, to cancel"]
    above = len(lines)  # the editor counts them, too
    lines[0] = re.sub(r"\bline (\d+)", lambda found: f"line {int(found[1]) + above}", lines[0])
    return "".join(f"{_ERROR_MARK}{line}\n" for line in lines)


def _read(draft: Path, above: str) -> str:
    """Return the text of a draft without the lines that were put above it; "" if it is gone.

    Raises `BadInput` if an editor wrote it in another charset: its comments would be lost.
    """
    ours = set(above.splitlines())
    try:
        data = draft.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        msg = f"what the editor left in {draft} cannot be read: {error.strerror}"
        raise InputOutputError(msg, look(str(draft))) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        msg = "the editor did not write UTF-8, as TOML is"
        charset = wide_mark(data)[1][:6] or "windows-1252"
        iconv = f"iconv -f {charset} -t utf-8 {typed(str(draft))}"
        raise BadInput(msg, f"{iconv} | sestrack settings apply -") from None
    lines = text.splitlines(keepends=True) if ours else [text]
    for _ in ours:  # an editor may have changed words in them
        if lines and (lines[0].rstrip("\r\n") in ours or _ABOVE.match(lines[0])):
            lines.pop(0)
    return "".join(line for line in lines if line.rstrip("\r\n") not in ours)


def _is_left(draft: Path, before: str) -> bool:
    """Is there nothing in a draft that could be lost?"""
    with suppress(BadInput, InputOutputError):
        return _read(draft, "") in {"", before}
    return False


def check(opened: store.Store, text: Text) -> None:
    """Raise `Refused` if settings cannot be saved; warn of what may be meant otherwise."""
    opened.check_settings(text.settings)
    old = opened.settings()
    known = {sender.domain for sender in opened.senders()}
    for name in sorted(text.settings.senders.keys() - old.senders.keys() - known):
        meant = mistyped.nearest(name, known, mistyped.NEAR_NAME)
        if meant:
            what = f"; did you mean {meant}?  To take the entry out: sestrack settings edit"
        else:
            what = f" yet: sestrack sender add {name}"
        output.warn(f"{name} has an entry, and is not a sender domain{what}")
