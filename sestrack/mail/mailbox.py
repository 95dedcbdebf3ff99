"""Mailboxes: one message after the other from an mbox or a Maildir, and back.

An mbox is read as a stream, message by message; its `From ` lines stay as they are.  A
Maildir's messages are written as the format asks: into `tmp`, then renamed into their folder
(https://cr.yp.to/proto/maildir.html); a size in the name (`S=`, of Dovecot and Courier) is
kept true.
"""

from __future__ import annotations

import os
import re
import stat
from io import BytesIO
from typing import IO, TYPE_CHECKING

from sestrack.errors import InputOutputError
from sestrack.files import give_to_owner_of, typed
from sestrack.mail.mime import is_mbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def messages(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Give the messages of an mbox one by one, each with its `From ` line.

    A `From ` line begins a message only behind an empty line; joined, they are the mbox.
    """
    kept: list[bytes] = []
    blank = True
    for line in lines:
        if blank and kept and is_mbox(line):
            yield b"".join(kept)
            kept.clear()
        kept.append(line)
        blank = not line.strip()
    if kept:
        yield b"".join(kept)


def stream(file: IO[bytes], head: bytes) -> Iterator[bytes]:
    """Read an mbox whose first octets, `head`, were taken from it already."""
    lines = BytesIO(head).readlines()
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += file.readline()

    def both() -> Iterator[bytes]:
        yield from lines
        yield from file

    return messages(both())


def is_maildir(path: str) -> bool:
    """Is it a Maildir?"""
    return all(os.path.isdir(os.path.join(path, name)) for name in ("cur", "new", "tmp"))


def maildir_files(path: str) -> Iterator[str]:
    """Name the messages of a Maildir: `new/…` and `cur/…`."""
    for folder in ("new", "cur"):
        for name in sorted(os.listdir(os.path.join(path, folder))):
            if not name.startswith("."):
                yield os.path.join(path, folder, name)


def sized(name: str, size: int) -> str:
    """Return the name with its size made true; a size in CRLF (`W=`) is taken out."""
    name = re.sub(r",W=\d+", "", name)
    return re.sub(r",S=\d+", f",S={size}", name)


def deliver(maildir: str, name: str, data: bytes, *, keep: bool) -> None:
    """Put a message into a Maildir under the name of the file it came from.

    Without `keep` that file goes away: it was this Maildir's.  Raises `InputOutputError`, where a
    reader has moved it since, too: there would be two of it.
    """
    folder, base = os.path.basename(os.path.dirname(name)), os.path.basename(name)
    target = os.path.join(maildir, folder, sized(base, len(data)))
    passing = os.path.join(maildir, "tmp", base)
    try:
        for inner in ("tmp", "new", "cur"):
            os.makedirs(os.path.join(maildir, inner), exist_ok=True)
        # nobody else reads the mail before it has the mode of the file it came from
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(passing, flags, 0o666 if keep else 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if not keep:
                state = os.stat(name)
                give_to_owner_of(name, file.fileno())
                os.fchmod(file.fileno(), stat.S_IMODE(state.st_mode))
                os.utime(file.fileno(), ns=(state.st_atime_ns, state.st_mtime_ns))
        os.rename(passing, target)
        if not keep and os.path.realpath(target) != os.path.realpath(name):
            os.unlink(name)
    except FileNotFoundError:
        msg = f"{name} was moved by a reader meanwhile, and is as it was"
        raise InputOutputError(msg, f"ls {typed(os.path.dirname(name))}") from None
    except OSError as error:
        msg = f"writing {target} failed: {error.strerror}; {name} is as it was"
        raise InputOutputError(msg, "df -h  # the space left") from None
    finally:
        if os.path.exists(passing):
            os.unlink(passing)
