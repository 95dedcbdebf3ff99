"""Addresses and sockets to listen on, and files to have them open with."""

from __future__ import annotations

import contextlib
import errno
import re
import resource
import socket

from sestrack.errors import CannotListen, NotSetUp, UsageError

OWN_FILES = 64
"""How many files a worker may have open besides its connections; a few are."""
BACKLOG = 4096
_ADDRESS = re.compile(r"([\w.-]*|\[[0-9a-f:.]+(?:%\w+)?\]):([0-9]{1,5})", re.ASCII | re.IGNORECASE)


def address_of(option: str, text: str, usual: str) -> tuple[str, int]:
    """Read the HOST:PORT, or [IPV6]:PORT, that an option names; the host may be "".

    Raises `UsageError`; `usual` is one that would do.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[2]) > 65535:  # noqa: PLR2004
        msg = f"{option} {text!r} is not an address and a port"
        raise UsageError(msg, f"{option} {usual}")
    return found[1].strip("[]"), int(found[2])


def listen(host: str, port: int, number: int, option: str) -> list[socket.socket]:
    """Open a socket for each worker; the kernel shares connections out among them.

    Raises `CannotListen`, with a port that is free; `option` is what named the address.
    """
    listeners: list[socket.socket] = []
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        for _ in range(number):
            listener = socket.socket(family, kind, proto)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if number > 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # port 0 is any: the others take the one that the first got
            listener.bind(listeners[0].getsockname() if len(listeners) > 1 else address)
            listener.listen(BACKLOG)
            listener.setblocking(False)  # noqa: FBT003
    except OSError as error:
        for listener in listeners:
            listener.close()
        place = f"[{host}]" if ":" in host else host
        msg = f"cannot listen on {place}:{port}: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            where = f"{place}:{_free(host, port)}"
        else:  # not our address; or, as 80, a port for root alone
            where = f"127.0.0.1:{8025 if error.errno == errno.EACCES else port}"
        raise CannotListen(msg, f"{option} {where}") from None
    return listeners


def listen_beside(beside: socket.socket) -> socket.socket:
    """Listen on the address of another socket, one of several that share it."""
    listener = socket.socket(beside.family, beside.type, beside.proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(beside.getsockname())
        listener.listen(BACKLOG)
        listener.setblocking(False)  # noqa: FBT003
    except OSError:
        listener.close()
        raise
    return listener


def _free(host: str, port: int) -> int:
    """Return the next port that can be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for other in range(port + 1, min(port + 100, 65_536)):
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host, other))
            return other
    return 0  # any


def raise_file_limit() -> None:
    """Take as many open files as we may: each connection is one.  Raises `NotSetUp` if none is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(hard, 65_536) if hard > 0 else 65_536, hard)
        )
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most <= OWN_FILES:
        msg = f"{most} files may be open here, which leaves no room for readers"
        raise NotSetUp(msg, "ulimit -n 65536  # in a unit of systemd: LimitNOFILE=65536")
