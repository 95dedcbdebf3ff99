"""What a document is written in: its mark, its `meta`, and whether ASCII reads in it."""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE, lookup

_WIDE_MARKS = (  # UTF-32's begins like UTF-16's
    (BOM_UTF32_LE, "utf-32-le"),
    (BOM_UTF32_BE, "utf-32-be"),
    (BOM_UTF16_LE, "utf-16-le"),
    (BOM_UTF16_BE, "utf-16-be"),
)
_WIDE_STARTS = (b"\xff", b"\xfe", b"\0")
_META_CHARSET = rb"<meta[^>]*?charset[\t\n\f\r ]*=[\t\n\f\r \"']*([a-z0-9_:.-]+)"


def wide_mark(data: bytes) -> tuple[bytes, str]:
    """Return the mark of UTF-16 or UTF-32 and its encoding, or nothing twice."""
    if data[:1] in _WIDE_STARTS:
        for mark, encoding in _WIDE_MARKS:
            if data.startswith(mark):
                return mark, encoding
    return b"", ""


def declared(data: bytes) -> str:
    """Return what a byte order mark or a `meta` says the charset is; else utf-8.

    A `meta` in ASCII that says UTF-16 cannot be right, and means UTF-8 (WHATWG HTML §13.2.3.2).
    """
    if data.startswith(BOM_UTF8):
        return "utf-8"
    if wide := wide_mark(data)[1]:
        return wide
    found = re.search(_META_CHARSET, data[:2048], re.IGNORECASE)
    if found is None:
        return "utf-8"
    name = found[1].decode("ascii").lower()
    try:
        lookup(name)
    except LookupError:
        return "utf-8"
    if not is_ascii_superset(name):
        return "utf-8"
    # the standard's encodings (WHATWG Encoding §4.2) read these labels as windows-1252
    return "cp1252" if name in {"iso-8859-1", "latin1", "latin-1", "ascii", "us-ascii"} else name


def is_ascii_superset(charset: str) -> bool:
    """Do ASCII's characters stand for themselves?  Not in UTF-7, UTF-16, EBCDIC, HZ."""
    known = _SUPERSETS.get(charset.lower())
    if known is None:
        try:
            codec = lookup(charset)
            known = codec._is_text_encoding and _ASCII.decode(charset) == _ASCII.decode()  # noqa: SLF001
        except LookupError:
            known = "utf-7" not in charset.lower()  # a name of nobody's: mostly windows-1252
        except (UnicodeError, ValueError):
            known = False
        if len(_SUPERSETS) < _REMEMBERED:
            _SUPERSETS[charset.lower()] = known
    return known


_ASCII = bytes(range(0x20, 0x7F))
_SUPERSETS = {"": True, "utf-8": True, "us-ascii": True, "iso-8859-1": True, "windows-1252": True}
_REMEMBERED = 1000
