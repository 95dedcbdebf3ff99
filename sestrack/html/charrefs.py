"""Character references in attribute values (WHATWG HTML §13.2.5.72 to §13.2.5.80).

`html.unescape` is made for text: in an attribute `&copy=2` must stay as it is, for it is
a query parameter; and it drops references to control characters where the standard
keeps them.  The 2,231 names come from `html.entities`, which is imported only when a
reference other than the everyday ones turns up, because a pipe pays for every import.
"""

from __future__ import annotations

import re

_REFERENCE = r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[A-Za-z][A-Za-z0-9]*;?)"
_EVERYDAY = {
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": '"',
    "&apos;": "'",
    "&nbsp;": "\xa0",
}

# §13.2.5.80: what numbers of the C1 controls mean (windows-1252, with its five gaps)
_C1_FIRST = 0x80
_C1_LAST = 0x9F
_MAX_CODE_POINT = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_REPLACEMENT = "\ufffd"


def decode(value: str) -> str:
    """Decode the character references of an attribute value, each once.

    >>> decode("?a=1&amp;b=2&copy=3&copy;")
    '?a=1&b=2&copy=3©'
    """
    if "&" not in value:
        return value
    return re.sub(_REFERENCE, _replace, value)


def _replace(match: re.Match[str]) -> str:
    reference = match[0]
    if reference in _EVERYDAY:
        return _EVERYDAY[reference]
    if reference[1] == "#":
        return _numeric(reference[2:].rstrip(";"))
    following = match.string[match.end() : match.end() + 1]
    return _named(reference, following)


def _numeric(digits: str) -> str:
    # int() refuses numbers of thousands of digits, and they are all too large anyway
    hexadecimal = digits[0] in "xX"
    significant = digits.lstrip("xX").lstrip("0")
    if len(significant) > len(str(_MAX_CODE_POINT)):
        return _REPLACEMENT
    number = int(significant or "0", 16 if hexadecimal else 10)
    if number == 0 or number > _MAX_CODE_POINT or _SURROGATES[0] <= number <= _SURROGATES[1]:
        return _REPLACEMENT
    if _C1_FIRST <= number <= _C1_LAST:
        return bytes((number,)).decode("cp1252", "replace").replace(_REPLACEMENT, chr(number))
    return chr(number)


def _named(reference: str, following: str) -> str:
    """Replace the longest name that stands at the beginning of `reference`.

    §13.2.5.73: without its semicolon a name is text if "=" or an alphanumeric follows it.
    """
    from html.entities import html5

    name = reference[1:]
    if name in html5 and name.endswith(";"):
        return html5[name]
    bare = name.removesuffix(";")
    for length in range(len(bare), 1, -1):
        if bare[:length] in html5:
            rest = name[length:]
            after = (rest + following)[:1]
            if after == "=" or (after.isascii() and after.isalnum()):
                return reference
            return html5[bare[:length]] + rest
    return reference
