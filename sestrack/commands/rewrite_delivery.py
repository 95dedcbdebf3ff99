"""What `sestrack rewrite` reads and where it goes: a pipe, files, folders, Maildirs.

An output file is written beside and renamed.  What comes of a folder keeps its place in it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from sestrack import files, output
from sestrack.errors import CannotCreate, NoPermission, NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sestrack.commands.rewrite import Request


class Input(NamedTuple):
    """What is to be rewritten."""

    name: str
    """Its path; "-" is standard input."""
    place: str
    """Its path within a folder that takes several results."""


def inputs(request: Request) -> list[Input]:
    """Name what is to be rewritten.  Raises `UsageError` if it cannot go where it should.

    A folder means its .html, .htm and .eml, at any depth; what is hidden, and a link that
    leads out of the folder, is not meant.  A Maildir means its messages.
    """
    found = [each for name in request.files or ("-",) for each in _in(name)]
    if request.in_place and (request.output or not request.files or "-" in request.files):
        msg = "--in-place needs files, and no --output"
        raise UsageError(msg, _in_place(request))
    if request.report == "-" and not (
        request.in_place or request.output not in {"", "-"} or request.check
    ):
        msg = "--report - would mix with the mail on standard output"
        raise UsageError(msg, "--report report.jsonl")
    if any(files.is_same(request.output, source.name) for source in found):
        msg = f"the output {request.output} is what is to be rewritten"
        raise UsageError(msg, _in_place(request))
    if _is_folder(request.output):
        _check_places(request.output, found)
        if not quiet(request):
            _make_folder(request.output)
    elif len(found) > 1 and not (request.in_place or quiet(request)):
        msg = f"{len(found)} files cannot go to one output: {request.output or 'standard output'}"
        is_free = request.output not in {"", "-"} and not os.path.exists(request.output)
        folder = request.output if is_free else "out"
        raise UsageError(msg, f"--output {files.typed(f'{folder}/')}")
    return found


def _in_place(request: Request) -> str:
    """Return the command that changes the files themselves."""
    named = [name for name in request.files if name != "-"] or ["letter.html"]
    return request.line(files=tuple(named), output="", in_place=True)


def _is_folder(name: str) -> bool:
    """Is it one, or is to be made one?"""
    return name.endswith("/") or os.path.isdir(name)


def _check_places(folder: str, found: list[Input]) -> None:
    """Let no result take the place of another, or of what it was made of."""
    taken: dict[str, str] = {}
    for name, place in found:
        if name == "-":
            msg = f"standard input has no name to have in the folder {folder}"
            raise UsageError(msg, f"--output {files.typed(os.path.join(folder, 'letter.html'))}")
        target = os.path.join(folder, place)
        if files.is_same(target, name):
            msg = f"the output {target} is what is to be rewritten"
            raise UsageError(msg, "--output out/")
        if place in taken:
            msg = f"{taken[place]} and {name} would both become {os.path.join(folder, place)}"
            raise UsageError(msg, "name a folder that both lie in: their places are kept")
        taken[place] = name


def _in(name: str) -> Iterator[Input]:
    if name == "-" or not os.path.isdir(name):
        yield Input(name, os.path.basename(name))
        return
    from sestrack.mail.mailbox import is_maildir, maildir_files

    if is_maildir(name):
        for path in maildir_files(name):
            yield Input(path, os.path.relpath(path, name))
        return
    root = os.path.realpath(name)
    empty = True
    for folder, folders, inner_names in os.walk(name, onerror=_refuse):
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        for inner in sorted(inner_names):
            path = os.path.join(folder, inner)
            if inner.startswith(".") or not inner.lower().endswith((".html", ".htm", ".eml")):
                continue
            if os.path.islink(path) and not os.path.realpath(path).startswith(f"{root}/"):
                output.warn(f"{path} is left: it is a link that leads out of {name}")
                continue
            if not os.path.isfile(path):
                output.warn(f"{path} is left: it is no file, but a pipe or the like")
                continue
            empty = False
            yield Input(path, os.path.relpath(path, name))
    if empty:
        msg = f"there is no .html, .htm or .eml in the folder {name}"
        raise NotFound(msg, files.look(name))


def _refuse(error: OSError) -> None:
    """Leave no mail out because its folder cannot be read."""
    msg = f"cannot read the folder {error.filename}: {error.strerror}"
    raise NoPermission(msg, files.look(error.filename)) from None


def quiet(request: Request) -> bool:
    """Is nothing delivered?"""
    return request.diff or request.check


def deliver(request: Request, source: Input, pieces: Iterable[bytes]) -> None:
    """Write a result, piece by piece, where it is to go."""
    name, place = source
    target = name if request.in_place else request.output
    if not target or target == "-":
        for piece in pieces:
            output.write_bytes(piece)
        return
    maildir = _maildir_of(name)
    if maildir and (request.in_place or os.path.isdir(target)):
        from sestrack.mail.mailbox import deliver

        deliver(
            maildir if request.in_place else target,
            name,
            b"".join(pieces),
            keep=not request.in_place,
        )
        return
    if os.path.isdir(target):
        target = os.path.join(target, place)
        _make_folder(os.path.dirname(target))
    with files.beside(target) as beside, open(beside, "wb") as file:
        for piece in pieces:
            file.write(piece)


def _make_folder(name: str) -> None:
    try:
        os.makedirs(name, exist_ok=True)
    except OSError as error:
        msg = f"cannot make the folder {name}: {error.strerror}"
        plain = name.rstrip("/")
        there = plain if os.path.lexists(plain) else os.path.dirname(plain) or "."
        raise CannotCreate(msg, files.look(there)) from None


def pass_through() -> None:
    """Write standard input as it comes: whoever asks line by line gets it line by line."""
    stream = sys.stdin.buffer
    read = getattr(stream, "read1", stream.read)
    while data := read(1 << 16):
        output.write_bytes(data)


def original(request: Request) -> None:
    """Deliver what came, where one mail was to be rewritten and could not be."""
    names = request.files or ("-",)
    if quiet(request) or request.recipients or len(names) > 1 or os.path.isdir(names[0]):
        return
    if request.in_place and request.files:
        return  # it is there
    if names == ("-",) and sys.stdin.isatty():
        return  # no mail comes from a person's keys
    if _is_folder(request.output):
        request = request._replace(output="")
    source = Input(names[0], os.path.basename(names[0]))
    deliver(request._replace(in_place=False), source, (files.read(names[0]),))


def _maildir_of(name: str) -> str:
    """Return the Maildir that a file lies in, or ""."""
    folder = os.path.dirname(name)
    if os.path.basename(folder) not in {"new", "cur"}:
        return ""
    from sestrack.mail.mailbox import is_maildir

    above = os.path.dirname(folder) or "."
    return above if is_maildir(above) else ""
