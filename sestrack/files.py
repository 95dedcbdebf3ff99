"""Files: read whole, written beside and renamed; so there is the old one or the new, never half."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from sestrack.errors import CannotCreate, InputOutputError, NoPermission, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator


def read(name: str) -> bytes:
    """Read a file, or standard input for `-`.  Raises what `reading` does."""
    with reading(name) as file:
        return file.read()


@contextmanager
def reading(name: str) -> Iterator[IO[bytes]]:
    """Open a file, or standard input for `-`.

    Raises `NotFound`, `NoPermission`, `InputOutputError`.
    """
    try:
        if name == "-":
            yield sys.stdin.buffer
            return
        with open(name, "rb") as file:
            yield file
    except FileNotFoundError:
        raise not_there(name) from None
    except IsADirectoryError:
        msg = f"{name} is a folder, and a file is wanted"
        raise NotFound(msg, f"ls {typed(name)}") from None
    except PermissionError as error:
        msg = f"cannot read {shown(name)}: {error.strerror}"
        raise NoPermission(msg, look(name)) from None
    except OSError as error:
        msg = f"cannot read {shown(name)}: {error.strerror}"
        raise InputOutputError(msg, look(name)) from None


_LIKE = 0.6
"""How like the stems of two names must be for one to be meant."""


def not_there(name: str) -> NotFound:
    """Say that there is no such file, and which one may be meant."""
    from difflib import SequenceMatcher, get_close_matches

    folder, last = os.path.split(name)
    try:
        near = get_close_matches(last, os.listdir(folder or "."), 1, 0.7)
    except OSError:
        near = []
    # two names with one ending are not alike by that
    stem, *stems = (os.path.splitext(each)[0] for each in (last, *near))
    if not stems or SequenceMatcher(None, stem, stems[0]).ratio() < _LIKE:
        return NotFound(f"there is no file {name}", f"ls {typed(folder or '.')}")
    meant = os.path.join(folder, near[0])
    failure = NotFound(f"there is no file {name}; did you mean {meant}?", look(meant))
    failure.meant = (name, meant)
    return failure


def shown(name: str) -> str:
    """Return a name as words have it."""
    return "standard input" if name == "-" else name


def look(name: str) -> str:
    """Return the command that shows a file or folder as such; "" for standard input."""
    return "" if name == "-" else f"ls -ld {typed(name)}"


def typed(name: str) -> str:
    """Return the name of a file as it has to be typed; one like `-x` is no option."""
    return quoted(f"./{name}" if name[:1] == "-" and name != "-" else name)


def quoted(word: str) -> str:
    """Return a word as a shell takes it for one."""
    from shlex import quote

    return quote(word)


def is_same(one: str, other: str) -> bool:
    """Are both names those of one regular file?"""
    return os.path.isfile(one) and os.path.isfile(other) and os.path.samefile(one, other)


def is_special(name: str) -> bool:
    """Is it a device or a pipe, like /dev/null or /dev/stdout?  Nothing may take its place."""
    try:
        mode = os.stat(name).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def beside(to: str, *, private: bool = False, database: bool = False) -> Iterator[str]:
    """Give the name of an empty file beside `to` that becomes it in the end, synced.

    The mode is that of the old file, or what the umask says; `private` is 0600.  A symbolic
    link is followed, unless another user put it where everybody may.  What is special is
    given itself.  A database is not written over, unless by another one: it may be the store.
    Raises `CannotCreate`, `InputOutputError`.
    """
    if is_special(to):
        try:
            yield to
        except OSError as error:
            msg = f"writing {to} failed: {error.strerror}"
            raise InputOutputError(msg, "what reads it may have gone") from None
        return
    if to.endswith("/") and not os.path.isdir(to):  # `realpath` would name the file without it
        raise cannot_create(to)
    target = os.path.realpath(to)
    if database:
        _refuse_companion(to)
    else:
        refuse_database(to)
    # not the process's number: in containers it is the same each time, and one that was killed
    # leaves its file there
    name = f"{target}.{os.urandom(4).hex()}.sestrack"
    try:
        _check_link(to)
        mode = 0o600 if private else _mode(target)
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise cannot_create(to, error) from None
    try:
        yield name
        # by its handle: whoever may write in the folder could put a link in its place
        handle = os.open(name, os.O_RDWR | os.O_NOFOLLOW)
        try:
            os.fsync(handle)
            if not private:  # keys go to nobody else, whoever has the old file
                give_to_owner_of(target, handle)
            os.fchmod(handle, mode)
        finally:
            os.close(handle)
        os.replace(name, target)
    except OSError as error:
        msg = f"writing {to} failed: {error.strerror}; it is as it was"
        raise InputOutputError(msg, "df -h  # the space left") from None
    finally:
        if os.path.exists(name):
            os.unlink(name)


def refuse_database(to: str) -> None:
    """Raise `CannotCreate` for a database as the place of an output: it may be the store."""
    _refuse_companion(to)
    if is_database(to):
        msg = f"{to} is a database, and may be the store: it is not written over"
        raise CannotCreate(msg, look(to))


def _refuse_companion(to: str) -> None:
    """Raise `CannotCreate` for what SQLite, or a server, keeps beside a database.

    A database there would be worse yet: SQLite takes `store.db-journal` for what is to be undone.
    """
    database, _, companion = os.path.realpath(to).rpartition("-")
    if companion in {"wal", "shm", "journal", "serve"} and is_database(database):
        msg = f"{to} belongs to the database {database}, which may be the store: it stays"
        raise CannotCreate(msg, look(to))


def is_database(name: str) -> bool:
    """Is there a file, and is it one of SQLite?"""
    if is_special(name):  # reading it would wait, or take what is in it
        return False
    with suppress(OSError), open(name, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC
    return False


_MAGIC = b"SQLite format 3\0"


def give_to_owner_of(old: str, handle: int) -> None:
    """Give an open file that takes the place of another one to its owner, if we may: as root."""
    with suppress(OSError):
        state = os.stat(old)
        os.fchown(handle, state.st_uid, state.st_gid)


def cannot_create(to: str, error: OSError | None = None) -> CannotCreate:
    """Say that a file cannot be made, and what helps: a folder that is not there, or a look."""
    folder = os.path.dirname(to) or "."
    if os.path.isdir(folder):  # the file may be a link that leads elsewhere
        folder = os.path.dirname(os.path.realpath(to))
    if isinstance(error, PermissionError):
        while not os.path.lexists(folder):  # nor could it be made
            folder = os.path.dirname(folder) or "."
    if not os.path.lexists(folder):
        msg = f"cannot create {to}: there is no folder {folder}"
        return CannotCreate(msg, f"mkdir -p {typed(folder)}")
    reason = error.strerror if error and os.path.isdir(folder) else f"{folder} is no folder"
    return CannotCreate(f"cannot create {to}: {reason}", look(folder))


def write(to: str, data: bytes) -> None:
    """Write a file: all of it, or nothing.  Raises `CannotCreate`, `InputOutputError`."""
    with beside(to) as name, open(name, "wb") as file:
        file.write(data)


def _check_link(to: str) -> None:
    """Refuse a link that Linux would not follow (fs.protected_symlinks): we resolve it ourselves.

    That is another user's, in a folder like /tmp, where it may lead to a file of ours.
    """
    if os.path.islink(to):
        link, folder = os.lstat(to), os.stat(os.path.dirname(to) or ".")
        shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
        if shared and link.st_uid not in {os.geteuid(), folder.st_uid}:
            raise PermissionError(errno.EACCES, "it is a symbolic link of another user")


def _mode(target: str) -> int:
    if os.path.exists(target):
        return stat.S_IMODE(os.stat(target).st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
