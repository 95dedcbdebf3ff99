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
from sestrack.rules import check_settings
from sestrack.settings import Text, parse
from sestrack.terminal import mistyped

_ERROR_MARK = "#! "
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
        if _read(draft) in {"", before}:
            draft.unlink(missing_ok=True)
            raise
        between = "" if not error.hint else "; " if "  # " in error.hint else "  # "
        hint = f"{error.hint}{between}your text is in {draft}"
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
    named = (os.environ.get("VISUAL") or os.environ.get("EDITOR") or "").strip()
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
        return f"EDITOR={there} sestrack settings edit"
    return "sestrack settings export > settings.toml  # and sestrack settings apply settings.toml"


def _edited(editor: list[str], draft: Path, before: str, address: str) -> Text | None:
    """Have the text edited until it is valid; None if it is left as it was, or emptied."""
    text = shown = before
    said = hint = ""
    tries = 0
    while True:
        draft.write_bytes(shown.encode())  # each end of a line as it is
        _run_editor(editor, draft)
        last, text = text, _read(draft)
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
            shown = _with_error(text, error)
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


def _with_error(text: str, error: SestrackError) -> str:
    lines = [f"error: {error.message}", f"hint: {error.hint}", "save as it is, or empty, to cancel"]
    above = len(lines)  # the editor counts them, too
    lines[0] = re.sub(r"\bline (\d+)", lambda found: f"line {int(found[1]) + above}", lines[0])
    return "".join(f"{_ERROR_MARK}{line}\n" for line in lines) + text


def _read(draft: Path) -> str:
    """Return the text of a draft without the error on top; "" if it is gone."""
    with suppress(FileNotFoundError):
        text = draft.read_bytes().decode("utf-8-sig", "replace")
        return re.sub(f"^{_ERROR_MARK}.*\n?", "", text, flags=re.MULTILINE)
    return ""


def check(opened: store.Store, text: Text) -> None:
    """Raise `Refused` if settings cannot be saved; warn of what may be meant otherwise."""
    domains = {domain.name: domain for domain in opened.trace_domains()}
    old = opened.settings()
    entries = [*old.senders.values(), *([old.account] if old.account else [])]
    check_settings(text.settings, domains, {entry.domain for entry in entries})
    known = {sender.domain for sender in opened.senders()}
    for name in sorted(text.settings.senders.keys() - old.senders.keys() - known):
        meant = mistyped.nearest(name, known, mistyped.NEAR_NAME)
        if meant:
            what = f"; did you mean {meant}?  To take the entry out: sestrack settings edit"
        else:
            what = f" yet: sestrack sender add {name}"
        output.warn(f"{name} has an entry, and is not a sender domain{what}")
