"""What is said of a store by the version of its schema, on whatever engine it lives.

The version is how many migrations made the store, negative for half a copy of another one.
"""

from sestrack.engines.default import command
from sestrack.errors import NotSetUp


def check(version: int, wanted: int, name: str) -> None:
    """Raise `NotSetUp` unless the version is the one that is wanted."""
    refuse_newer(version, wanted, name)
    if version < 0:
        from shlex import quote

        msg = f"the store {name} is half a copy of another one; the same copy goes on with it"
        raise NotSetUp(msg, f"sestrack copy FROM {quote(name)}")
    if version < wanted:
        msg = f"the store {name} has schema {version}, and {wanted} is wanted: init brings it there"
        raise NotSetUp(msg, command(name, "init"))


def refuse_newer(version: int, wanted: int, name: str) -> None:
    """Raise `NotSetUp` if a newer sestrack made the store."""
    if version > wanted:
        msg = f"the store {name} was made by a newer sestrack (schema {version})"
        raise NotSetUp(msg, "pip install --upgrade .  # in a checkout of the newer one")


def refuse_half(version: int) -> None:
    """Raise `NotSetUp` if it is half a copy, which no migration makes whole."""
    if version < 0:
        msg = "the store is half a copy of another one; the same copy goes on with it"
        raise NotSetUp(msg, "sestrack copy FROM TO")
