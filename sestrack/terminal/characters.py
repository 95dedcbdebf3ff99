r"""Text for terminals that do not have every character, and that obey some of them.

What an encoding has no character for (Windows-1252, the C locale) is written as its nearest
in ASCII, or as an escape: `caf\xe9`, which says more than a question mark.  What is no text,
like the sequences that move a cursor, is shown as an escape too.
"""

from __future__ import annotations

import codecs

PLAIN = "plain"
"""The name of our way to encode what an encoding does not have."""
_NEAREST = {
    "…": "...", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "→": "->",
    "×": "x", "\xa0": " ",
}  # fmt: skip


def _plain(failure: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(failure, UnicodeEncodeError)
    missing = failure.object[failure.start : failure.end]
    return "".join(
        _NEAREST.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing
    ), failure.end


codecs.register_error(PLAIN, _plain)


def printable(text: str, encoding: str) -> str:
    """Return what can be shown."""
    clean = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return clean.encode(encoding, PLAIN).decode(encoding)
