"""Open and click tracking for e-mail under one's own domain.

The package is one command, `sestrack`; `sestrack.cli` is its door.  The map of
the modules, and which may import which, is in the README and is held by
`tests/test_imports.py`.

Programs import `Tracking` from here: see `sestrack.tracking`.  There is no global state,
and what is made of it may be used by several threads.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sestrack.errors import SestrackError
    from sestrack.mail.message import Rewritten
    from sestrack.tracking import How, Letter, Tracking

__all__ = ["How", "Letter", "Rewritten", "SestrackError", "Tracking"]

__version__ = "0.1.0"


_ROOMS = {
    "How": "sestrack.tracking",
    "Letter": "sestrack.tracking",
    "Rewritten": "sestrack.mail.message",
    "SestrackError": "sestrack.errors",
    "Tracking": "sestrack.tracking",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: a pipe of `rewrite` pays for every import."""
    if name not in _ROOMS:
        msg = f"module 'sestrack' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
