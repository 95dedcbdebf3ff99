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
    codec = codec_of(found[1].decode("ascii"))
    return codec if codec and is_ascii_superset(codec) else "utf-8"


def codec_of(label: str) -> str:
    """Return Python's codec for a charset as programs read its label; "" for one of nobody's.

    The standard's encodings (WHATWG Encoding §4.2) are wider than their labels say: gb2312 is
    gb18030, shift_jis what Windows made of it, iso-8859-1 windows-1252.
    """
    label = label.strip().lower()
    if label in _EVERYDAY:
        return _EVERYDAY[label]
    import webencodings  # few mails need it, and a pipe pays for it

    found = webencodings.lookup(label)
    if found is not None and found.name not in _NO_CODECS:
        return _WIDER.get(found.name) or found.codec_info.name
    try:
        return lookup(label).name
    except LookupError:
        return ""


def narrow(data: bytes) -> bytes:
    """Write UTF-16 or UTF-32 as UTF-8, to look for something in it; all else is as it was."""
    mark, encoding = wide_mark(data)
    return data[len(mark) :].decode(encoding, "replace").encode() if mark else data


def differs(codec: str, text: str) -> bool:
    """Has it a character for which the standard's index has another one than Python?"""
    if codec.startswith("big5"):
        return not {code.decode(codec) for code in _BIG5}.isdisjoint(text)
    return codec.startswith(("euc_j", "iso2022_j")) and not _JIS0208.isdisjoint(text)


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


_EVERYDAY = {
    "": "", "utf-8": "utf-8", "utf8": "utf-8",
    **dict.fromkeys(("us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252"), "cp1252"),
}  # fmt: skip
# what browsers refuse, or keep for another use; mail programs read the first
_NO_CODECS = {"replacement", "x-user-defined"}
# GBK is read as GB 18030 (WHATWG Encoding §10.1.1), katakana in ISO-2022-JP (§12.2.1)
_WIDER = {"gbk": "gb18030", "iso-2022-jp": "iso2022_jp_ext"}
_ASCII = bytes(range(0x20, 0x7F))
_SUPERSETS = {"": True, "utf-8": True, "us-ascii": True, "iso-8859-1": True, "windows-1252": True}
_REMEMBERED = 1000
_JIS0208 = frozenset("\u301c\u2016\u2212\xa2\xa3\xac")
_BIG5 = [
    bytes.fromhex(code)
    for code in (
        "a145", "a14e", "a1c2", "a1e3", "a1f2", "a1f3", "a241", "a242", "a244", "a246", "a247",
    )
]  # fmt: skip
