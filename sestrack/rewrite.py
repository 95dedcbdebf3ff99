"""Rewriting HTML: pure, bytes to bytes, and never more than the spans that matter.

`compile_html` finds the links (`sestrack.html.scanner`), decides on each with a reason, and
cuts the document into chunks.  Between two chunks stands the recipient token, so that
making a copy is one join: `token.join(chunks)`.

What is wrapped: the `href` of `a`, `area` and `v:*` whose value is an absolute http or
https URL as the standard reads it (WHATWG HTML §13.2.5.36 to §13.2.5.40, §13.2.5.72; URL
§4.4: outer control characters and spaces, and every tab and line end, do not count).
What is left, and why, is `links.Reason`.  Every byte outside the spliced values and the pixel is
the input's.

Encodings.  The scanner compares bytes with ASCII.  Two families of encodings need help:
UTF-16 and UTF-32 are taken through UTF-8, if the way there and back gives the same bytes;
and the double bytes of ISO-2022-*, which contain `<`, `"` and `&`, are masked while
scanning.  A URL is decoded as programs do (`html.charset`), and left where they differ.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, NamedTuple

from sestrack.errors import BadInput
from sestrack.html import charset as charsets
from sestrack.html.charrefs import decode as decode_references
from sestrack.html.scanner import Href, after_body_start, attributes, scan
from sestrack.links import (
    MAX_URL,
    Reason,
    Wrapping,
    closer_look,
    reason_to_leave,
    tracked_size,
    unsubscribes,
)

if TYPE_CHECKING:
    from sestrack.html.scanner import Scan

# a member is looked up slowly on its class in CPython 3.11
_WRAPPED = Reason.WRAPPED


class Hole(NamedTuple):
    """Where a copy differs: `start` to `end` give way to `before`, the recipient token, `after`."""

    start: int
    end: int
    before: bytes
    after: bytes

    def grows(self, copy_size: int) -> int:
        """Return by how many octets a copy is longer here, with a token of so many."""
        return len(self.before) + copy_size + len(self.after) - (self.end - self.start)


class Decision(NamedTuple):
    """One href and what became of it."""

    href: Href
    url: str
    """What the reader's program would follow, decoded."""
    reason: Reason


class Template(NamedTuple):
    """A compiled document."""

    chunks: list[bytes]
    decisions: list[Decision]
    pixel_at: int
    """Byte offset in the input; -1 for none."""
    encoding: str
    """UTF-16 or UTF-32, or "" for anything that is a superset of ASCII."""
    holes: list[Hole]
    """What `chunks` were cut by, in byte offsets of the input."""

    def render(self, copy_token: bytes) -> bytes:
        """Make one copy of the document for the recipient of `copy_token`."""
        return self.encoded(copy_token).join(self.chunks)

    def encoded(self, copy_token: bytes) -> bytes:
        """Write a token as the document is written."""
        return copy_token.decode("ascii").encode(self.encoding) if self.encoding else copy_token


def compile_html(data: bytes, wrapping: Wrapping, charset: str = "") -> Template:
    """Compile a document.

    `charset` is what a Content-Type said of it; else its byte order mark, its `meta`, or UTF-8
    decides.  A URL that cannot be read in it is left.

    Raises `BadInput` if it is empty, binary, or a whole message instead of HTML.
    """
    mark, encoding = charsets.wide_mark(data)
    if mark:
        return _compile_wide(data, mark, encoding, wrapping)
    refuse_other_input(data)
    found = scan(data if _ESCAPE not in data else re.sub(_ISO_2022_RUN, _mask, data))
    reader = _Reader(data, charset)
    decisions = [reader.decide(href, wrapping) for href in found.hrefs]
    if wrapping.max_line:
        decisions = [reader.within_line(decision, wrapping) for decision in decisions]
    pixel_at = _pixel_place(data, found, wrapping)
    holes = _holes(data, decisions, pixel_at, wrapping)
    return Template(_cut(data, holes), decisions, pixel_at, "", holes)


def compile_text(data: bytes, wrapping: Wrapping) -> Template:
    """Compile plain text, in a superset of ASCII: its http and https URLs, without a pixel.

    A URL ends before white space, a quote, an angle bracket (RFC 3986 appendix C), or the
    punctuation that ends a sentence; one that runs into other letters than ASCII is left.
    """
    reader = _Reader(data, "")
    wrapping = wrapping._replace(quote=False)
    decisions = []
    for found in re.finditer(_URL_IN_TEXT, data):
        raw = _without_punctuation(found[0], data[max(0, found.start() - 1) : found.start()])
        start, end = found.start(), found.start() + len(raw)
        url = raw.decode("ascii")
        reason = reason_to_leave(url)
        if reason is _WRAPPED:
            after = data[found.end() : found.end() + 2]
            # ISO-2022 goes on with other letters; a mailing tool with what it fills in
            if after >= b"\x80" or after[:1] == b"\x1b" or re.match(_FIELD, raw[-1:] + after):
                reason = Reason.UNCLEAR_END
            elif wrapping.seal is None:
                reason = Reason.CLICKS_OFF
            elif unsubscribes(url, wrapping):
                reason = Reason.UNSUBSCRIBE
            else:
                reason = closer_look(url, wrapping)
        href = Href(start, end, start, end, conditional=False)
        decisions.append(reader.within_line(Decision(href, url, reason), wrapping))
    holes = _holes(data, decisions, -1, wrapping)
    return Template(_cut(data, holes), decisions, -1, "", holes)


def _without_punctuation(raw: bytes, before: bytes) -> bytes:
    """Take off what belongs to the sentence around a URL, an unpaired bracket too.

    `_` is such a mark only if it stands before the URL, too: _https://example.com/_.
    """
    count = {bracket: raw.count(bracket) for bracket in (b"(", b")", b"[", b"]", b"{", b"}")}
    end = len(raw)
    while end:
        last = raw[end - 1 : end]
        opening = _OPENING.get(last)
        if (
            opening is None
            or (last == b"_" != before)
            or (opening and count[opening] >= count[last])
        ):
            break
        if opening:
            count[last] -= 1
        end -= 1
    return raw[:end]


def refuse_other_input(data: bytes) -> None:
    """Raise `BadInput` for what is surely not HTML: nothing, a picture, a whole message."""
    if charsets.wide_mark(data)[0]:
        return
    if not data.strip():
        msg = "the input is empty"
        raise BadInput(msg, "did what writes it end well?")
    if looks_like_message(data):
        msg = "the input is a whole message, with headers, where HTML is wanted"
        raise BadInput(msg, "--type message, or without --type")
    head = data[:1024]
    controls = len(head) - len(head.translate(None, _CONTROLS))
    # some HTML has a stray NUL; only UTF-16 without its mark and real binaries have many
    if data.startswith(_BINARY_STARTS) or controls > len(head) // 50:
        msg = f"the input is binary, neither HTML nor a message: it begins with {data[:8]!r}"
        raise BadInput(msg, "HTML, or a whole message with its headers, is wanted")
    if re.match(_JSON, head):
        msg = f"the input is JSON, where HTML is wanted: it begins with {data[:20]!r}"
        raise BadInput(msg, "--jsonl")
    other = re.match(_OTHER_MARKUP, head, re.IGNORECASE | re.DOTALL)
    # a picture may stand in front of HTML
    behind = rb"(?:</svg\s*+|<svg[^<>]*/)>\s*+(?:(?><!--.*?-->)\s*+)*+\S"
    if other and (
        other[1].lower() != b"svg" or not re.search(behind, data, re.IGNORECASE | re.DOTALL)
    ):
        name = other[1].decode().lower()
        msg = f"the input begins with <{name}>, which is no HTML"
        makes_html = "mjml letter.mjml -o letter.html  # makes HTML of it"
        raise BadInput(
            msg, makes_html if name.startswith("mj") else "HTML, or a message, is wanted"
        )


def looks_like_message(data: bytes) -> bool:
    """Does it begin with headers of a message (RFC 5322 §2.2), be they ever so damaged?

    A mark, blank lines, a quoted `From ` line or a header that is none may stand before: HTML
    has no such lines, and a pixel would harm what is no HTML.
    """
    return data[:1] != b"<" and re.match(_MESSAGE, data, re.IGNORECASE) is not None


def has_tag(data: bytes) -> bool:
    """Is there a tag, a comment or a declaration in it?  Plain text has none."""
    return re.search(rb"<[!/?a-z]", charsets.narrow(data), re.IGNORECASE) is not None


def _mask(run: re.Match[bytes]) -> bytes:
    return b"\x1b" + b"x" * (len(run[0]) - 1)


def _compile_wide(data: bytes, mark: bytes, encoding: str, wrapping: Wrapping) -> Template:
    try:
        text = data[len(mark) :].decode(encoding)
        narrow = text.encode()
    except UnicodeError:
        msg = f"the input begins like {encoding} and is not"
        raise BadInput(msg, "write it as UTF-8") from None
    template = compile_html(narrow, wrapping, "utf-8")
    hrefs = [decision.href for decision in template.decisions]
    places = {template.pixel_at, *(place for hole in template.holes for place in hole[:2])}
    places.update(place for href in hrefs for place in href[:4])
    wide = {-1: -1}
    position, width = 0, len(mark)
    for place in sorted(places - {-1}):  # once through the text, however many links there are
        width += len(narrow[position:place].decode().encode(encoding))
        position, wide[place] = place, width
    holes = [
        Hole(
            wide[start], wide[end],
            before.decode().encode(encoding), after.decode().encode(encoding),
        )
        for start, end, before, after in template.holes
    ]  # fmt: skip
    decisions = [
        decision._replace(href=Href._make((*(wide[place] for place in href[:4]), href.conditional)))
        for href, decision in zip(hrefs, template.decisions, strict=True)
    ]
    return Template(_cut(data, holes), decisions, wide[template.pixel_at], encoding, holes)


def _cut(data: bytes, holes: list[Hole]) -> list[bytes]:
    """Cut `data` where a recipient token goes."""
    chunks = []
    behind = b""  # what follows the last token: the rest of its URL
    position = 0
    for start, end, before, after in holes:
        chunks.append(b"".join((behind, data[position:start], before)))
        behind, position = after, end
    chunks.append(behind + data[position:])
    return chunks


def _holes(data: bytes, decisions: list[Decision], pixel_at: int, wrapping: Wrapping) -> list[Hole]:
    """List what is replaced, in order."""
    holes: list[Hole] = []
    index = wrapping.first
    base, seal = wrapping.base, wrapping.seal
    for href, url, reason in decisions:
        if reason is not _WRAPPED or seal is None:
            continue
        start, end = href.start, href.end
        if 0 <= pixel_at <= start:
            holes.append(_pixel(data, holes, pixel_at, wrapping, links_follow=True))
            pixel_at = -1
        quote = b'"' if wrapping.quote and data[start - 1] not in b"\"'" else b""
        holes.append(Hole(start, end, quote + base, b"/" + seal(index, url) + quote))
        index += 1
    if pixel_at >= 0:
        holes.append(_pixel(data, holes, pixel_at, wrapping))
    return holes


def _pixel(
    data: bytes, holes: list[Hole], pixel_at: int, wrapping: Wrapping, *, links_follow: bool = False
) -> Hole:
    """Make the hole of the pixel; on a line of its own where one line would be too long."""
    pixel = Hole(pixel_at, pixel_at, _PIXEL_OPEN + wrapping.base, _PIXEL_CLOSE)
    if wrapping.max_line:
        start, end = _line(data, pixel_at)
        for hole in reversed(holes):
            if hole.start < start <= hole.end:  # a value of several lines makes them one
                start, _ = _line(data, hole.start)
        grown = sum(
            hole.grows(wrapping.copy_size) for hole in (*holes, pixel) if hole.start >= start
        )
        if links_follow or end - start + grown > wrapping.max_line:
            eol = wrapping.line_end
            pixel = pixel._replace(
                before=eol + pixel.before if pixel_at > start else pixel.before,
                after=pixel.after + eol if data[pixel_at:end].strip() else pixel.after,
            )
    return pixel


def _line(data: bytes, position: int) -> tuple[int, int]:
    end = data.find(b"\n", position)
    return data.rfind(b"\n", 0, position) + 1, len(data) if end < 0 else end


# As programs behave: `display:none` keeps some from fetching it, without a size others show
# a broken picture, and alt="" keeps screen readers silent.
_PIXEL_OPEN = b'<img src="'
_PIXEL_CLOSE = b'" width="1" height="1" alt="" style="width:1px;height:1px;border:0">'


def _pixel_place(data: bytes, found: Scan, wrapping: Wrapping) -> int:
    if not wrapping.pixel or _is_amp(data[:1024]) or has_pixel(data, wrapping):
        return -1
    if wrapping.pixel == "top":
        top = after_body_start(data)
        if top >= 0:
            return top
    if found.body_end >= 0:
        return found.body_end
    end = found.html_end if found.html_end >= 0 else found.text_end
    escape = data.rfind(b"\x1b", 0, end)
    if escape >= 0 and re.match(_ISO_2022_RUN, data[escape:end]):
        return -1  # it would be read as other characters
    return end


def _is_amp(head: bytes) -> bool:
    """Is it AMP for Email?  It takes no `img`, and is checked before it is shown."""
    head = head.lower()
    return b"4email" in head and re.search(rb"<html\b[^>]*?4email", head) is not None


def has_pixel(data: bytes, wrapping: Wrapping) -> bool:
    """Is a pixel of ours in the document?  A link to the same host has a second part.

    One under another trace domain, or that was made before the scheme or port changed, is told by
    its look and its seal.
    """
    # as we write it, for a field of a mailing tool may be any text
    position = data.find(_PIXEL_OPEN + wrapping.base)
    if position >= 0:
        position += len(_PIXEL_OPEN)
        if data.startswith(_PIXEL_CLOSE, data.find(b'"', position)):
            return True
    host = wrapping.base[wrapping.base.index(b":") :]
    position = data.find(host)
    while position >= 0:
        position += len(host)
        if re.match(_TOKEN_ALONE, data[position : position + 2 * MAX_URL]):
            return True
        position = data.find(host, position)
    urls = re.findall(_LIKE_PIXEL, data) if _PIXEL_CLOSE in data else ()
    return any(wrapping.is_ours(url.decode("ascii", "replace")) for url in urls)


class _Reader:
    """Reads the hrefs of one document."""

    def __init__(self, data: bytes, charset: str) -> None:
        self.data = data
        self.charset = charset
        self.known = ""
        self.escapes = _ESCAPE in data
        self.line = (0, 0)
        """The line at hand, without its end; or several that became one."""
        self.longest = 0
        """Octets of the longest of them."""
        self.grown = 0
        """By how many octets it grows."""

    def decide(self, href: Href, wrapping: Wrapping) -> Decision:
        """Decide on one href."""
        data = self.data
        start, end, tag_start, tag_end, _ = href
        raw = data[start:end]
        # the last two may be marks of merge fields, __X__ and =-x-
        plain = _is_plain_url(raw) and b"__" not in raw and b"=-" not in raw
        if plain:
            url = raw.decode("ascii")
        else:
            url, clear = self.url(raw, start)
            reason = reason_to_leave(url)
            if reason is _WRAPPED and not clear:
                reason = Reason.UNCLEAR_CHARACTERS
            if reason is not _WRAPPED:
                return Decision(href, url, reason)
        if wrapping.seal is None:
            return Decision(href, url, Reason.CLICKS_OFF)
        # `in` is three times as fast on text as on bytes
        tag = data[tag_start:tag_end].decode("latin-1").lower()
        if ("trac" in tag or "data-skip" in tag) and _opts_out(data, tag_start):
            return Decision(href, url, Reason.OPT_OUT)
        # a URL that had to be decoded may have the word where the tag shows none
        if ("unsub" in tag or wrapping.unsubscribe or not plain) and unsubscribes(url, wrapping):
            return Decision(href, url, Reason.UNSUBSCRIBE)
        if end - start > _SHORT or raw.startswith(wrapping.base):
            return Decision(href, url, closer_look(url, wrapping))
        return Decision(href, url, _WRAPPED)

    def within_line(self, decision: Decision, wrapping: Wrapping) -> Decision:
        """Leave a link that would make its line too long, unless it was so before.

        All of a document are asked about, in their order.
        """
        limit = wrapping.max_line
        href, url, reason = decision
        if not limit or reason is not _WRAPPED:
            return decision
        start, end = self.line
        if href.end > end:
            start, end = self._next_line(href)
        size = end - start + self.grown + tracked_size(url, wrapping) - (href.end - href.start)
        if size > limit >= self.longest:
            return decision._replace(reason=Reason.LONG_LINE)
        self.grown = size - (end - start)
        return decision

    def _next_line(self, href: Href) -> tuple[int, int]:
        """Go on to the line of an href; a value of several lines makes them one, with its URL."""
        before, last = self.line
        start, _ = _line(self.data, href.start)
        _, end = _line(self.data, href.end)
        if not before <= href.start <= last or before == last:
            self.grown = 0
        else:
            start = before  # what this line had before goes on
        self.line = start, end
        self.longest = max(len(line.rstrip(b"\r")) for line in self.data[start:end].split(b"\n"))
        return start, end

    def url(self, raw: bytes, start: int) -> tuple[str, bool]:
        """Decode a raw attribute value to the URL that a program would follow.

        Say, too, whether all would follow the same one.
        """
        clear = True
        # ISO-2022 writes its two-octet characters with octets of ASCII, after an escape
        if raw.isascii() and not self.escapes:
            text = raw.decode("ascii")
        else:
            text, clear = self.decode(raw, start)
        text = decode_references(text).replace("\0", "\ufffd").strip(_C0_AND_SPACE)
        # browsers write a query in the charset of the page (WHATWG URL §4.4), but a webmail has
        # made UTF-8 of the page; all else of a URL is UTF-8
        query = text.partition("#")[0].partition("?")[2]
        clear = clear and (query.isascii() or self.codec() == "utf-8")
        return text.translate(_NO_TAB_OR_LINE_END), clear

    def decode(self, raw: bytes, start: int) -> tuple[str, bool]:
        """Decode bytes in the document's encoding; say whether all programs agree on them."""
        codec = self.codec()
        if self.escapes and codec.startswith("iso2022"):
            escape = self.data.rfind(b"\x1b", 0, start)
            if self.data.startswith(_ROMAN, escape):
                raw = _ROMAN + raw
        try:
            text = raw.decode(codec)
        except (UnicodeError, LookupError):
            return raw.decode(errors="replace"), False
        return text, not charsets.differs(codec, text)

    def codec(self) -> str:
        """Return what the document is written in; no codec's name if that is unclear."""
        if not self.known:
            self.known = charsets.codec_of(self.charset) or charsets.declared(self.data)
            if self.data.startswith(BOM_UTF8) and self.known != "utf-8":
                self.known = "a label and a mark that contradict each other"
        return self.known


def _opts_out(data: bytes, tag_start: int) -> bool:
    for name, value in attributes(data, tag_start):
        refusals = _OPT_OUTS.get(name)
        if refusals is not None and (not refusals or _plain(value) in refusals):
            return True
    return False


def _plain(value: bytes) -> bytes:
    """Return a word as it is meant: " Off " and "&#111;ff" are "off"."""
    return decode_references(value.decode("latin-1")).strip().lower().encode("latin-1", "replace")


_OFF = frozenset((b"off", b"0", b"false", b"no"))
_ON = frozenset((b"", b"on", b"1", b"true", b"yes"))
_ANY: frozenset[bytes] = frozenset()
# attribute -> the values with which it asks not to be tracked; none named: with any
_OPT_OUTS = {
    b"data-sestrack": _OFF,
    b"clicktracking": _OFF,
    b"data-alidm-traceoff": _ANY,
    b"data-msys-clicktrack": _OFF,
    b"data-mt-no-track": _ANY,
    b"data-no-track": _ANY,
    b"data-pm-no-track": _ANY,
    b"data-skip-click": _ANY,
    b"disable-tracking": _ON,
    b"mautic:disable-tracking": _ON,
    b"mc:disable-tracking": _ANY,
    b"ses:no-track": _ANY,
}

# A pattern that few mails need stays a text, which `re` compiles at its first use: a pipe
# pays for each.
#
# The everyday case needs no decoding at all: ASCII, no reference, no white space, and hardly
# anything that a placeholder is made of.
_is_plain_url = re.compile(rb"[hH][tT][tT][pP][sS]?://[a-zA-Z0-9][!'()+-;=?A-Z_a-z]*+\Z").match
_FIELD = rb"[{[(]|.<[A-Za-z%?#$]"  # { x }, <%= x %>
_URL_IN_TEXT = rb"(?<![A-Za-z0-9+.-])[hH][tT][tT][pP][sS]?://[!#-;=?-~]+"
# what ends a sentence, and the brackets that a URL may hold in pairs
_OPENING = dict.fromkeys((bytes((c,)) for c in b".,;:!?'*_`|\\"), b"") | {
    b")": b"(", b"]": b"[", b"}": b"{",
}  # fmt: skip
_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_NO_TAB_OR_LINE_END = dict.fromkeys(b"\t\n\r")
_LIKE_PIXEL = rb"""https?://[^/\s"'<>]{1,300}/[A-Za-z0-9_~]{40,}+(?=["'\s>]|$)"""
_TOKEN_ALONE = rb"""[A-Za-z0-9_~]{40,}+(?:["'\s>]|$)"""
_SHORT = 40  # shorter than any tracking URL of ours, and far from the limit
_JSON = rb'(?:\xef\xbb\xbf)?\s*\[?\s*\{\s*"[^"{}<>]*"\s*:'
_OTHER_MARKUP = (
    # atomic: what is a comment is not tried as two, which would take 2^n steps for n of them
    rb"(?:\xef\xbb\xbf)?\s*+(?:(?:<\?|<!doctype\s+svg\b)[^>]*+>\s*+|(?><!--.*?-->)\s*+)*+"
    rb"<(mjml|mj-[a-z]+|rss|rdf:rdf|feed|svg)[\s>/]"
)
_ESCAPE = 0x1B
_ROMAN = b"\x1b(J"  # JIS X 0201, where `~` is an overline
# two octets a character; and half-width katakana, `(I`
_ISO_2022_RUN = rb"\x1b(?:\$(?:[@B]|\([@BCD]|\)[CAG])|\(I)[^\x1b]*+"
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\f\r\x1b")) + b"\x7f"
_BINARY_STARTS = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"%PDF-", b"PK\x03\x04", b"\x1f\x8b", b"\x7fELF",
)  # fmt: skip
# each line can be read in one way only: there is nothing to go back to
_MESSAGE = (
    rb"(?:\xef\xbb\xbf)?+[\0\s]*+(?:>?From [^\n]*+\n)?+"
    rb"(?:[^\s<:][^\n<:]*+:[^\n]*+\n|[ \t][^\n]*+\n)*?"
    rb"(?:From|To|Cc|Subject|Date|Received|Return-Path|Reply-To|Sender|Delivered-To|Message-ID|"
    rb"MIME-Version|Content-Type|Content-Transfer-Encoding|DKIM-Signature|List-Unsubscribe)[ \t]*:"
)
