"""The file `store.db-serve`, whose lock the one server holds that writes to a store.

It stands beside the file itself, as SQLite's log does, by whatever links the store is named.

In it stand, a line each, the URL of the server; how many events were lost that the store knows
nothing of, with when, and the number of the file that the server has open (its inode); and what
the server cannot do now.  A clean end takes the URL out: one
that nobody holds the lock for is of a server that was killed.  All of it has one size, written
and synced when a server begins, so that it can be written over on a full disk.

The server has a lock on the store's file itself, too (flock(2), which SQLite's own know nothing
of): under another name, after `mv` or `ln`, it has another log, and two logs destroy a store.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sestrack.engines.interface import Left
from sestrack.errors import CannotCreate, NoPermission, TryAgain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sestrack.engines.interface import Note

_HELD: set[str] = set()
"""Stores whose lock this process has."""
_OCTETS = 512
_TRIES = 5
_PAUSE_SECONDS = 0.05
"""Whoever looks whether a server runs has the lock for a moment, too."""


@contextmanager
def serving(path: str) -> Iterator[Note]:
    """Hold the lock; yield what notes in the file.

    Raises `TryAgain` while another one has it, `NoPermission` or `CannotCreate` where it cannot
    be had: two that write would give their events the same ids.
    """
    handle = _open(path)
    if handle is None:
        yield lambda *_: None
        return
    held = os.path.realpath(path)
    file = None
    try:
        _lock(handle, path)
        _check_beside_link(path)
        file = _file_of(path)
        _lock_file(file, fcntl.LOCK_EX, path)
        _HELD.add(held)
        before = _read(handle)
        number = _number_of(path)
        if number:  # of a store that was restored since, it is another one
            with suppress(OSError):
                _write(handle, "".join(before.killed), before, number)
        noted = False

        def note(url: str, lost: int | None = None, trouble: str = "") -> None:
            nonlocal before, noted
            before = before._replace(trouble=trouble)
            if lost is not None and lost != before.lost:
                before = before._replace(lost=lost, lost_at=int(time.time()))
            _write(handle, url, before, number)
            noted = True

        try:
            yield note
        finally:
            _HELD.discard(held)
            if noted:
                with suppress(OSError):
                    note("")
    finally:
        if file is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
        elif not os.path.exists(path) and not os.fstat(handle).st_size:
            with suppress(OSError):  # no store was made: nothing tells that there was one
                os.unlink(name_of(path))
        os.close(handle)


_FILES: dict[tuple[int, int], int] = {}
"""Stores that were opened for their lock, by device and number.  They stay open: closing one would
take the locks of SQLite away that this process has on it (fcntl(2))."""


def _file_of(path: str) -> int | None:
    """Open the store itself; None where it cannot be."""
    try:
        state = os.stat(path)
        known = state.st_dev, state.st_ino
        if known not in _FILES:
            _FILES[known] = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    return _FILES[known]


def _lock_file(file: int | None, how: int, path: str) -> None:
    """Lock the store itself.  Raises `TryAgain` if a server has it, under whatever name."""
    if file is None or _is_had(file, how):
        return
    msg = f"a server has the file {path} open, under another name or without its -serve file"
    raise TryAgain(msg, "systemctl stop sestrack  # then the same command again")


def check_file(path: str) -> None:
    """Refuse to write where it would harm: raise `TryAgain`.

    Into a file that was put in the place of the one a server has open: until the server has seen
    it, and ended, the log that stands beside is the other file's.  And into one that a server has
    open under another name.
    """
    if os.path.realpath(path) in _HELD or _is_served_as(path):
        return
    file = _file_of(path)
    _lock_file(file, fcntl.LOCK_SH, path)
    if file is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _is_served_as(path: str) -> bool:
    """Tell whether a server has this file open under this name.  Raises as `check_file`."""
    try:
        handle = os.open(name_of(path), os.O_RDONLY)
    except PermissionError:
        return True  # one of an earlier version, or of other rights than the store's
    except OSError:
        return False
    try:
        number = _numbers(handle)[2]
        if not _is_anothers(handle):
            return False
    finally:
        os.close(handle)
    if number in {0, _number_of(path)}:
        return True
    msg = f"{path} is not the file that a server has open under this name"
    raise TryAgain(msg, "systemctl restart sestrack  # then the same command again")


def name_of(path: str) -> str:
    """Name the file of a store's lock; it is there from the first `serve` on."""
    return f"{os.path.realpath(path)}-serve"


def _number_of(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _open(path: str) -> int | None:
    """Open the file, made if it is not there; None where there is no store or none is written."""
    name = name_of(path)
    try:
        handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError:
        msg = f"no permission to write {name}, which tells servers of each other"
        raise NoPermission(msg, f"ls -l {shlex.quote(name)}") from None
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EROFS}:
            return None
        msg = f"cannot make {name}, which tells servers of each other: {error.strerror}"
        raise CannotCreate(msg, f"df -h {shlex.quote(os.path.dirname(name) or '.')}") from None
    # whoever may use the store may see whether it is served; as SQLite does with its companions
    with suppress(OSError):
        store = os.stat(path)
        if os.geteuid() == 0:
            os.fchown(handle, store.st_uid, store.st_gid)
        os.fchmod(handle, 0o600 | store.st_mode & 0o060)
    return handle


def _is_had(handle: int, how: int) -> bool:
    """Lock a file, and say whether that could be done."""
    for _ in range(_TRIES):
        if not _is_anothers(handle, how):
            return True
        time.sleep(_PAUSE_SECONDS)
    return False


def _is_anothers(handle: int, how: int = fcntl.LOCK_SH) -> bool:
    """Lock a file, unless another one has it; say whether one has.

    On a file system without such locks nobody has any.
    """
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(handle: int, path: str) -> None:
    if _is_had(handle, fcntl.LOCK_EX):
        return
    url = _read(handle).killed
    where = f", at {url[0]}" if url else ""
    msg = (
        f"another sestrack serve records into {path}{where}; one is enough, with --workers for "
        "more cores"
    )
    raise TryAgain(msg, "sestrack doctor --offline")


def _check_beside_link(path: str) -> None:
    """Raise `TryAgain` if an earlier sestrack serves it: that one locks beside a link."""
    if not os.path.islink(path):
        return
    try:
        handle = os.open(f"{path}-serve", os.O_RDONLY)
    except OSError:
        return
    try:
        if _is_anothers(handle):
            msg = f"an earlier sestrack serve records into {path}"
            raise TryAgain(msg, "systemctl stop sestrack  # then the same command again")
    finally:
        os.close(handle)


def served_at(path: str) -> list[str]:
    """Return the URL of the server, if one runs; "" where it is not told."""
    is_served, left = _look(path)
    return [*left.killed] or [""] if is_served else []


def left(path: str) -> Left:
    """Return what servers left behind."""
    is_served, left = _look(path)
    return left._replace(killed=[]) if is_served else left._replace(trouble="")


def _look(path: str) -> tuple[bool, Left]:
    """Tell whether a server runs, and what the file says; it is not made for that."""
    name = name_of(path)
    try:
        handle = os.open(name, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False, Left()
    except PermissionError:
        msg = f"no permission to read {name}: whether a server runs is not known"
        raise NoPermission(msg, f"ls -l {shlex.quote(name)}") from None
    try:
        said = _read(handle)
        if _is_anothers(handle):
            return True, said
        # read again: until now a server may have run, and ended well
        return False, _read(handle)
    finally:
        os.close(handle)


def _read(handle: int) -> Left:
    """Read the file; one of an earlier sestrack, which left its URL there, says nothing."""
    url, line, rest = _text(handle).partition("\n")
    if not line:
        return Left()
    lost, lost_at, _ = _numbers(handle)
    return Left([url] if url else [], lost, lost_at, rest.partition("\n")[2].strip())


def _numbers(handle: int) -> list[int]:
    """Read how much was lost, when, and the number of the file that is open."""
    line = _text(handle).partition("\n")[2].partition("\n")[0]
    numbers = [int(word) for word in line.split() if word.isdecimal()]
    return [*numbers, 0, 0, 0][:3]


def _text(handle: int) -> str:
    return os.pread(handle, _OCTETS, 0).decode("utf-8", "replace")


def _write(handle: int, url: str, left: Left, number: int) -> None:
    trouble = " ".join(left.trouble.split())
    text = f"{url}\n{left.lost} {left.lost_at} {number}\n{trouble}"
    os.pwrite(handle, text.encode()[:_OCTETS].ljust(_OCTETS), 0)
    os.ftruncate(handle, _OCTETS)
    os.fsync(handle)
