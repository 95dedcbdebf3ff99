"""Copies: which a mail is already, and how many were made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from sestrack import files, output
from sestrack.errors import BadInput, SestrackError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sestrack.tracking import Tracking


def refuse_copies(tracking: Tracking, name: str, html: bytes) -> None:
    """Raise `BadInput` for a template that was rewritten for somebody: all would count as them."""
    for copy in tracking.copies_in(html):
        msg = (
            f"the template {files.shown(name)} was rewritten before, for "
            f"{copy.recipient or 'nobody'} (message {copy.message}): all copies would count as that"
        )
        hint = "take it as it was before `rewrite`"
        if os.path.exists(name):  # and is no message of an mbox
            hint = f"sestrack check {files.typed(name)} --sender {tracking.sender}  # and {hint}"
        raise BadInput(msg, hint)


class Meant(NamedTuple):
    """What a mail is to be a copy of."""

    recipient: str
    asked: str
    """The message as it was asked for, "" if it was not,"""
    message: str
    """and as it is labelled."""


def is_made(tracking: Tracking, name: str, html: bytes, meant: Meant, *, changed: bool) -> bool:
    """Tell whether a mail is a copy of this message already, which was counted when it was made.

    Says it if it is one for somebody else, or of another message: what was rewritten stays that.
    """
    copies = list(tracking.copies_in(html))
    for copy in copies:
        if copy.recipient != meant.recipient or copy.message != (meant.asked or copy.message):
            where = "" if name == "-" else f"{name}: "
            whom = copy.recipient or "nobody"
            done = "only what is new was rewritten" if changed else "unchanged"
            output.warn(f"{where}{done}: it is a copy made for {whom} already, of {copy.message}")
            break
    return any(copy.message == meant.message for copy in copies)


COUNT_SECONDS = 0.25
"""How long counting waits for a busy store."""


def count(store: str, sender: str, made: Mapping[str, int]) -> int:
    """Count copies as well as can be, when they are out: no mail waits for it.

    Returns how many the messages have now, 0 if that is not known.
    """
    from sestrack.store import count_copies

    try:
        return count_copies(store, sender, made, wait=COUNT_SECONDS)
    except SestrackError as error:
        number = sum(made.values())
        copies = "1 copy is" if number == 1 else f"{number} copies are"
        output.warn(f"{copies} not counted: {error.message}")
        return 0
