"""Rewriting a whole message: its HTML parts, and not one byte outside them.

The parts are decoded, compiled and rewritten as HTML alone would be, and spliced back in
their own transfer encoding and charset.  Then the result is read again: the same headers and
parts must be there, those that were not rewritten with the same octets, those that were
with just the content that was meant.  Else the message is left as it was.

A message with a DKIM-Signature or its like is left: a change would break it.  Signed and
encrypted parts, attachments, reports and what else is left is said in `sestrack.mail.mime`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sestrack.errors import BadInput, UsageError
from sestrack.links import Wrapping
from sestrack.mail.mime import LEFT_WORDS, NEXT_LINE, Left, Message, Part, is_mbox, read
from sestrack.mail.transfer import MAX_LINE, Edit, decode, join, splice
from sestrack.rewrite import Template, compile_html, compile_text, has_pixel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Content(NamedTuple):
    """A part whose links could be wrapped, decoded."""

    part: Part
    data: bytes
    left: str
    """Why it is left after all, in words; "" if it is not."""


class Compiled(NamedTuple):
    """A part and what became of its links."""

    part: Part
    data: bytes
    template: Template


class Rewritten(NamedTuple):
    """A message after rewriting."""

    data: bytes
    parts: list[Compiled]
    untracked: str
    """Why it is as it was, in words; "" if it was rewritten."""
    label: str = ""
    """What its opens and clicks are counted under."""
    recipient: str = ""
    """Whom the copy is for."""


def contents(message: Message, *, plain: bool = False) -> list[Content]:
    """Decode the HTML parts, and with `plain` the text parts."""
    found = []
    for part in message.parts:
        if part.kind != "text/html" and not (plain and part.kind == "text/plain"):
            continue
        data, left = b"", part.left
        if left is None:
            decoded = decode(message.data[part.start : part.end], part.encoding)
            if decoded is None:
                left = Left.DAMAGED
            elif b"-----BEGIN PGP " in decoded:
                left = Left.SIGNED
            else:
                data = decoded
        found.append(Content(part, data, LEFT_WORDS[left] if left else ""))
    return found


def untouchable(message: Message, found: list[Content]) -> str:
    """Say why the message as a whole is left, in words; "" if it is not."""
    if name := bound_by(message):
        return f"it has a {name} already; {BINDING[name]}"
    if is_parted(message):
        return PARTED_WORDS
    if any(not content.left for content in found):
        return ""
    if found:
        return "; ".join(f"part {part.number} {left}" for part, _, left in found)
    lefts = {part.left for part in message.parts if part.left in _WHOLE}
    if lefts:
        return " and ".join(f"it {LEFT_WORDS[left]}" for left in sorted(lefts) if left)
    return "it has no HTML part"


_SIGN = "sign after rewriting"
_MBOX_ONLY = "Content-Length"
BINDING = {
    "DKIM-Signature": _SIGN,
    "DomainKey-Signature": _SIGN,
    "ARC-Seal": _SIGN,
    "Content-MD5": "add it after rewriting",
    _MBOX_ONLY: "readers of this mbox would find the next message by it",
}
"""Headers that a change would break (RFC 6376, 4870, 8617, 1864), with what to do."""


def bound_by(message: Message) -> str:
    """Name the header that a change of the body would break, "" for none."""
    in_mbox = is_mbox(message.data)
    names = (name for name in BINDING if in_mbox or name != _MBOX_ONLY)
    return next((name for name in names if message.values(name)), "")


def is_parted(message: Message) -> bool:
    """Does a message of an mbox have a line that begins the next one, to some of its readers?"""
    return is_mbox(message.data) and re.search(NEXT_LINE, message.data) is not None


PARTED_WORDS = "a line of it begins another message, to some readers of this mbox"


_WHOLE = {Left.SIGNED, Left.ENCRYPTED, Left.REPORT, Left.UNCLOSED, Left.DAMAGED, Left.AMBIGUOUS}


def rewrite(
    message: Message, found: list[Content], wrapping: Wrapping, copy_token: bytes
) -> Rewritten:
    """Rewrite the parts that `contents` found; links are numbered through all of them.

    The pixel goes into the first HTML part that takes it.
    """
    wrapping = of_message(message, found, wrapping)
    compiled: list[Compiled] = []
    reasons = []
    for part, data, left in found:
        if left:
            reasons.append(f"part {part.number} {left}")
            continue
        try:
            template = _compile(part, data, of_part(part, wrapping, message.line_end_of(part)))
        except BadInput as error:
            reasons.append(f"part {part.number}: {error.message}")
            continue
        compiled.append(Compiled(part, data, template))
        wrapping = after_part(wrapping, template)
    if not compiled:
        return Rewritten(message.data, [], "; ".join(reasons))
    result, expected = _splice(message, compiled, copy_token)
    if result != message.data and not _holds(message, read(result), expected):
        reason = "what would be put in changes how the message is read"
        return Rewritten(message.data, [], reason)
    return Rewritten(result, compiled, "")


def _compile(part: Part, data: bytes, wrapping: Wrapping) -> Template:
    if part.kind == "text/plain":
        return compile_text(data, wrapping)
    return compile_html(data, wrapping, part.charset)


def of_message(message: Message, found: list[Content], wrapping: Wrapping) -> Wrapping:
    """Say what is to be done with the first of the parts that `contents` found."""
    wrapping = wrapping._replace(unsubscribe=frozenset(_list_unsubscribe(message)))
    if any(part.kind == "text/html" and has_pixel(data, wrapping) for part, data, _ in found):
        return wrapping._replace(pixel="")  # it need not stand in the first part
    return wrapping


def of_part(part: Part, wrapping: Wrapping, line_end: bytes) -> Wrapping:
    """Say what is to be done with this part: one that is not encoded has lines of mail."""
    if part.encoding in {"base64", "quoted-printable"}:
        return wrapping
    return wrapping._replace(max_line=MAX_LINE, line_end=line_end)


def after_part(wrapping: Wrapping, template: Template) -> Wrapping:
    """Number the links of the next part on from those of this one; one pixel is enough."""
    pixel = "" if template.pixel_at >= 0 else wrapping.pixel
    count = len(template.holes) - (template.pixel_at >= 0)
    return wrapping._replace(pixel=pixel, first=wrapping.first + count)


def _splice(
    message: Message, compiled: list[Compiled], copy_token: bytes
) -> tuple[bytes, dict[str, bytes]]:
    """Return the new message, and what each part should now hold."""
    bodies = []
    expected = {}
    for part, _, template in compiled:
        token = template.encoded(copy_token)
        edits = [
            Edit(start, end, before + token + after) for start, end, before, after in template.holes
        ]
        raw = message.data[part.start : part.end]
        bodies.append(
            Edit(
                part.start,
                part.end,
                splice(raw, part.encoding, edits, message.line_end_of(part), token),
            )
        )
        expected[part.number] = template.render(copy_token)
    return join(message.data, bodies), expected


def _holds(before: Message, after: Message, expected: dict[str, bytes]) -> bool:
    """Is the result just what was meant?"""
    if before.headers != after.headers or len(before.parts) != len(after.parts):
        return False
    position_before = position_after = 0
    for old, new in zip(before.parts, after.parts, strict=True):
        if old._replace(start=0, end=0) != new._replace(start=0, end=0):
            return False
        # what stands between two parts: boundaries and their headers
        between = before.data[position_before : old.start]
        if between != after.data[position_after : new.start]:
            return False
        position_before, position_after = old.end, new.end
        raw = after.data[new.start : new.end]
        if old.number in expected:
            if decode(raw, new.encoding) != expected[old.number]:
                return False
        elif raw != before.data[old.start : old.end]:
            return False
    return before.data[position_before:] == after.data[position_after:]


# -- what the headers say --------------------------------------------------------------------


def _list_unsubscribe(message: Message) -> Iterator[str]:
    """Give the URLs of List-Unsubscribe (RFC 2369 §2): between angle brackets, or bare.

    Python's `email` folds long ones as encoded words, which have no place there.
    """
    for value in message.values("List-Unsubscribe"):
        text = value.decode("latin-1")
        text = _in_words(text) if "=?" in text else text
        for piece in text.split("<")[1:] or text.split(","):
            yield "".join(piece.partition(">")[0].split())


_LONGEST_FIELDS = 20_000
"""Characters of To, Cc and Bcc that surely name several; a hostile one could take long."""
_LONGEST_LABEL = 4096


def recipient_of(message: Message, header: str = "") -> str:
    """Name whom the copy is for: by the header named, else by the only address it is sent to.

    Without any address the copy is nobody's.  Raises `UsageError` for several, and for a
    header that is missing or stands twice.
    """
    from email.utils import getaddresses

    if header:
        text = _only(message, header, "the recipient", lambda: _who_else(message))
        if not text.strip():
            msg = f"the header {header}, which is to name the recipient, is empty"
            raise UsageError(msg, _who_else(message))
        fields = [text]
    else:
        named = [value for name in ("To", "Cc", "Bcc") for value in message.values(name)]
        fields = [value.decode("utf-8", "replace") for value in named]
        text = ""
    if sum(map(len, fields)) > _LONGEST_FIELDS:
        msg = "the message goes to more addresses than one"
        raise UsageError(msg, _who_else(message))
    addresses = {address for _, address in getaddresses(fields) if "@" in address}
    if len(addresses) > 1:
        where = f"the header {header} names" if header else "the message goes to"
        msg = f"{where} {len(addresses)} addresses; one copy has one recipient"
        raise UsageError(msg, _who_else(message))
    return addresses.pop() if addresses else text


def _who_else(message: Message) -> str:
    """Return the options that can name the recipient: a header with one address, or by hand."""
    for header in _NAMING:
        values = message.values(header)
        if len(values) == 1 and len(values[0]) < _LONGEST_FIELDS and values[0].count(b"@") == 1:
            return f"--recipient-header {header}, or --recipient ID"
    return "--recipient ID"


_NAMING = ("X-Recipient", "Delivered-To", "X-Original-To", "Envelope-To", "To")
"""Headers in which programs name whom a copy is for (the first four), and what it shows."""


def label_of(message: Message, header: str) -> str:
    """Return what the header named says, "" if it is empty.  Raises `UsageError` without it."""
    text = _only(message, header, "the message", lambda: "--message-header Subject")
    return _in_words(text).strip()


def _in_words(text: str) -> str:
    """Decode the encoded words of a header (RFC 2047); what cannot be decoded names itself."""
    from email.errors import MessageError
    from email.header import decode_header, make_header

    text = text[:_LONGEST_LABEL]
    try:
        return str(make_header(decode_header(text)))
    except (MessageError, LookupError, ValueError):
        return text


def _only(message: Message, header: str, what: str, hint: Callable[[], str]) -> str:
    """Return the value of a header that is to name something, and so stands once."""
    values = message.values(header)
    if len(values) != 1:
        many = f"stands {len(values)} times" if values else "is not in the message"
        msg = f"the header {header}, which is to name {what}, {many}"
        raise UsageError(msg, hint())
    return values[0].decode("utf-8", "replace")
