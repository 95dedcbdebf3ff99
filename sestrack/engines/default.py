"""Where the store is unless told otherwise, and how a command is typed for another one."""

from __future__ import annotations

import os

SERVICE_STORE = "/var/lib/sestrack/store.db"
"""The store of the service, as its unit in `packaging` has it."""


def default_address() -> str:
    """Return where the store is, unless told otherwise: `$SESTRACK_STORE`, or XDG's place."""
    return expanded(os.environ.get("SESTRACK_STORE") or "") or own_store()


def expanded(address: str) -> str:
    """Return an address without `~`, which no shell expands in a crontab, a unit or --store=~."""
    return os.path.expanduser(address) if address.startswith("~") else address


def own_store() -> str:
    """Return where a user's own store is."""
    return f"{data_folder()}/sestrack/store.db"


def data_folder() -> str:
    """Return the folder of XDG where programs keep what is theirs."""
    return os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")


def command(name: str, words: str) -> str:
    """Return how a command is typed for a store; `name` is its address without a password."""
    import shlex

    from sestrack.engines.addresses import shown

    usual = default_address()
    if name in {usual, shown(usual)}:
        return f"sestrack {words}"
    return f"sestrack --store {shlex.quote(name)} {words}"
