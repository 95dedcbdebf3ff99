"""Where the links of an HTML document are, in byte offsets (WHATWG HTML §13.2.5).

Nothing is parsed into a tree.  The scanner finds the places that can matter (anchors,
comments, elements whose content is raw text, a few tags more) with one search, and
proves of each that the standard's tokenizer would be in the *data state* there, that
is: neither in a tag, nor in an attribute value, nor in a comment.

**The proof.**  Let the tokenizer be in the data state at `known`, and let `place` be the
first match of `_PLACE` at or after it.  Let `closed` be the last ">" between the two.

1. Between `known` and `place` no raw text begins: its start tags are places.
2. A quoted attribute value is opened by a quote that follows "=" and white space only
   (§13.2.5.35).  If the last `"` before `closed` does not, no value in double quotes is
   open at `closed`, for such a value holds no `"`; and so for `'`.
3. A comment that is open at `place` began with some "<!--" and has seen no "-->" since.
   If a "-->" follows the last "<!--", none is open.
4. In every other state of a tag, of a bogus comment and of a doctype, ">" ends it.  So
   after `closed` the tokenizer is in the data state.
5. If no "<" stands between `closed` and `place`, it still is when it comes to `place`.

Where the proof fails (`place` is in a comment, a ">" in a value, a stray quote, `1 < 2`),
the scanner goes on from `known` construct by construct, exactly by the states of the
standard, until it has passed `place`.  A tag is always read exactly, attribute by
attribute; a pattern takes those that are tidy in one step.

The time is linear: what lies behind `known` is never looked at again, and a pattern
that could go back does so over a bounded number of attributes.  Bytes are compared
with ASCII only, so any encoding will do in which the bytes of `<>"'&=/` and white space
never are part of another character (UTF-8, all of ISO 8859 and Windows, KOI8, EUC,
GBK, Big5, Shift_JIS); see `sestrack.rewrite` for the others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Href(NamedTuple):
    """The first `href` of an `a`, `area` or `v:*` start tag.  Byte offsets, end exclusive."""

    start: int
    end: int
    tag_start: int
    tag_end: int
    conditional: bool
    """It stands in a conditional comment: `<!--[if mso]>…<![endif]-->`."""


class Scan(NamedTuple):
    """What a document has.  Offsets are -1 for what it has not."""

    hrefs: list[Href]
    body_end: int
    """At the last `</body>` that is a tag."""
    html_end: int
    """At the last `</html>` that is a tag."""
    text_end: int
    """Where the document ends as markup: at its end, or at a comment, tag or raw text
    that is never closed."""


# -- patterns --------------------------------------------------------------------------
# White space is the standard's: CR too, for input preprocessing makes a line feed of it.
# Loops over one class are possessive (`*+`), so they never go back.  (Possessive groups
# would say more, but are broken in CPython 3.11.0 to 3.11.4, gh-106052.)

_SPACES = b"\t\n\f\r "
_BEFORE_VALUE = frozenset(b"=" + _SPACES)
_LESS_THAN, _EXCLAMATION_MARK = b"<!"  # `in` finds a number in bytes five times as fast
_SPACE = rb"[\t\n\f\r ]"
_NAME_ENDS = rb"[\t\n\f\r />]"


def _any_case(name: str) -> bytes:
    # IGNORECASE would keep `re` from testing the first character of a branch
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in name).encode()


_HREF_NAMES = frozenset((b"a", b"area"))  # and v:*
_FOREIGN_NAMES = frozenset((b"svg", b"math"))
_RAW_TEXT_NAMES = frozenset(
    b"iframe noembed noframes plaintext script style textarea title xmp".split()
)

_VALUE = rb"""(?:"[^"]*+"|'[^']*+'|[^\t\n\f\r >"'][^\t\n\f\r >]*+)"""
_ATTRIBUTE = _SPACE + rb"""++[^\t\n\f\r />="'][^\t\n\f\r />=]*+(?:=""" + _VALUE + rb")?"
_HREF = _any_case("href")

# A tidy anchor behind its name: other attributes, the first href, other attributes, ">".
# Its three groups are the value, by its quotes.
_ANCHOR_REST = (
    rb"(?:(?!" + _SPACE + rb"++" + _HREF + rb"[\t\n\f\r />=])" + _ATTRIBUTE + rb"){0,20}"
    + _SPACE + rb"++" + _HREF
    + rb"""=(?:"([^"]*+)"|'([^']*+)'|([^\t\n\f\r >"'][^\t\n\f\r >]*+))"""
    + rb"(?:" + _ATTRIBUTE + rb"){0,20}" + _SPACE + rb"*+/?>"
)  # fmt: skip


def _tidy_raw_text(begun: str, rest: str) -> bytes:
    """Match the rest of a tidy element that has raw text, up to its end tag, or nothing."""
    return (
        rb"(?:" + _any_case(rest) + rb"(?:" + _ATTRIBUTE + rb"){0,5}" + _SPACE + rb"*+>[^<]*+"
        + rb"(?=</" + _any_case(begun + rest) + _NAME_ENDS + rb")()|)"
    )  # fmt: skip


# Where something may begin that matters: the commonest as a whole, told apart by the
# last group that matched, and anything else that begins like one of the names, without
# a group; `construct` looks closer.  This pattern meets every "<", so two characters, the
# commonest first, turn away nearly all other tags.
_PLACE = re.compile(
    rb"<(?:"
    rb"/(?:[bB][oO](?:[dD][yY]>()|)|[hH][tT](?:[mM][lL]>()|))"
     rb"|[tT](?:[iI]" + _tidy_raw_text("ti", "tle") + rb"|[eE])"  # title textarea
    + rb"|[aA](?:(?:[rR][eE][aA])?" + _ANCHOR_REST + rb"|[\t\n\f\r />rR])"  # a area
    + rb"|[sS](?:[tT][yY]" + _tidy_raw_text("sty", "le") + rb"|[cC]|[vV])"  # style script svg
    # iframe noembed noframes plaintext v:, math, xmp
    + rb"|[iImMnNpPvVxX](?:[fF:lLoO]|[aA][tT]|[mM][pP]))"
)  # fmt: skip
_BODY_END, _HTML_END, _HREF_VALUES = 1, 2, (4, 5, 6)

# A tidy tag behind its name; group 1 is there if it closes itself.
_TIDY_REST = re.compile(rb"(?:" + _ATTRIBUTE + rb"){0,20}" + _SPACE + rb"*+(/)?>")

# §13.2.5.6: after "<", anything else makes it text
_CONSTRUCT = re.compile(rb"<[a-zA-Z/!?]")

# §13.2.5.6 to §13.2.5.8: a letter begins a tag name, white space, "/" or ">" ends it.
_TAG = re.compile(rb"<(/?)([a-zA-Z][^\t\n\f\r />]*+)")

# §13.2.5.32 to §13.2.5.39, one attribute: what separates, then ">" or a name ("=" may be
# its first character), then perhaps "=" and a value.  Group 3 without one of 4 to 7
# means that a quote is not closed before the end of the document.
_TAG_END, _UNCLOSED_VALUE, _MISSING_VALUE = 1, 3, 6
_VALUES = (4, 5, 7)
_EXACT_ATTRIBUTE = re.compile(
    rb"[\t\n\f\r /]*+(?:(>)|(=?[^\t\n\f\r />=]*+)(?:[\t\n\f\r ]*+(=)[\t\n\f\r ]*+"
    rb"""(?:"([^"]*+)"|'([^']*+)'|(?=(>))|([^\t\n\f\r >"'][^\t\n\f\r >]*+)|))?)"""
)

_COMMENT_END = re.compile(rb"--!?>")
_CONDITION = re.compile(rb"\[[iI][fF]" + _SPACE + rb"[^\]>]*+\]>")
_MAYBE_ANCHOR = re.compile(rb"<(?:[aA]|[vV]:)")
_CONDITION_END = re.compile(rb"<!\[[eE][nN][dD][iI][fF]\]")
# §13.2.5.20 to §13.2.5.31: the escaped states of script data
_SCRIPT_STEP = rb"<!--|-->|<(/?)" + _any_case("script") + rb"(?=" + _NAME_ENDS + rb")"

# §13.2.6.5: start tags that leave SVG and MathML
_BREAKOUT = frozenset(
    b"b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img "
    b"li listing menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul "
    b"var".split()
)
# End tags that close what is open around SVG and MathML, and those with it; `a` is SVG's own, too
_OUTER_ENDS = _BREAKOUT | frozenset(
    b"a address article aside button caption details fieldset figcaption figure footer form html "
    b"label legend main nav optgroup option section select summary tbody td tfoot th thead tr "
    b"video audio".split()
)
# in which HTML begins again (§13.2.6: HTML and MathML text integration points)
_INTEGRATION = {
    b"svg": frozenset(b"foreignobject desc title".split()),
    b"math": frozenset(b"mi mo mn ms mtext".split()),
}


_MAX_DEPTH = 512


class _EndOfFile(Exception):
    """The document ends in a construct that began at `start`."""

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.start = start


def scan(data: bytes) -> Scan:
    """Find the hrefs of `data`, and where its body begins and ends."""
    scanner = _Scanner(data)
    text_end = scanner.run(0, len(data))
    return Scan(scanner.hrefs, scanner.body_end, scanner.html_end, text_end)


def after_body_start(data: bytes) -> int:
    """Return the offset behind the first `<body …>`, -1 if there is none.

    Goes construct by construct, which is slow, but never far: a body begins early.
    """
    scanner = _Scanner(data)
    known, end = 0, len(data)
    try:
        while (start := data.find(b"<", known, end)) >= 0:
            if scanner.foreign:
                known = scanner.foreign_construct(known, end)
                continue
            known = scanner.construct(start, end)
            match = _TAG.match(data, start)
            if match is not None and not match[1] and match[2].lower() == b"body":
                return known
    except _EndOfFile:
        pass
    return -1


def attributes(data: bytes, tag_start: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield name (in lower case) and raw value of each attribute of a complete tag."""
    position = _tag_name_end(data, tag_start)
    while True:
        match = _EXACT_ATTRIBUTE.match(data, position)
        if match is None or match[1]:  # `None` never happens: every text matches
            return
        value = match[4] or match[5] or match[7] or b""
        yield match[2].lower(), value
        position = match.end()


def _tag_name_end(data: bytes, tag_start: int) -> int:
    match = _TAG.match(data, tag_start)
    return match.end() if match else tag_start


def _opens_value(before: bytes, quote: int) -> bool:
    return before[:quote].rstrip(_SPACES).endswith(b"=")


class _Scanner:
    """One pass over one document."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.hrefs: list[Href] = []
        self.body_end = self.html_end = -1
        self.conditional = False
        self.self_closing = False
        # the open foreign elements and integration points, innermost last
        self.foreign: list[bytes] = []
        # `a` elements open within them
        self.anchors = 0

    def run(self, known: int, end: int) -> int:
        """Scan from `known`, in the data state, to `end`; return where the text ends."""
        data = self.data
        search = _PLACE.search
        try:
            while (match := search(data, known, end)) is not None:
                place = match.start()
                kind = match.lastindex
                if not self.proven(known, place):
                    known = self.pass_by(known, place, end)
                elif kind is None:
                    known = self.construct(place, end)
                else:
                    known = match.end()
                    if kind in _HREF_VALUES:
                        self.hrefs.append(Href(*match.span(kind), place, known, self.conditional))
                    elif kind == _BODY_END:
                        self.end_tag(b"body", place)
                    elif kind == _HTML_END:
                        self.end_tag(b"html", place)
                while self.foreign:
                    known = self.foreign_construct(known, end)
            return self.exact_end(known, end)
        except _EndOfFile as unclosed:
            return unclosed.start

    def pass_by(self, known: int, place: int, end: int) -> int:
        """Go from `known` over `place`, which is not proven: by its comment, or exactly."""
        comment = self.data.rfind(b"<!--", known, place)
        if comment >= 0 and self.proven(known, comment):
            return self.comment(comment, end)
        while known <= place and not self.foreign:
            match = _CONSTRUCT.search(self.data, known, end)
            assert match is not None, "there is one at `place`"
            known = self.construct(match.start(), end)
        return known

    def proven(self, known: int, place: int) -> bool:
        """Is the tokenizer surely in the data state at `place`?  See the module's text."""
        before, closed, after = self.data[known:place].rpartition(b">")
        if _LESS_THAN in after:
            return False
        if not closed:
            return True
        quote = before.rfind(b'"')
        if quote > 0 and before[quote - 1] in _BEFORE_VALUE and _opens_value(before, quote):
            return False
        quote = before.rfind(b"'")
        if quote > 0 and before[quote - 1] in _BEFORE_VALUE and _opens_value(before, quote):
            return False
        if _EXCLAMATION_MARK not in before:
            return True
        comment = before.rfind(b"<!--")
        return comment < 0 or self.data.find(b"-->", known + comment + 4, place) >= 0

    def exact_end(self, known: int, end: int) -> int:
        """No place is left: return `end`, or where a tag begins that is never closed.

        Asked only where it matters, for a document without `</body>` and `</html>`.
        """
        if max(self.body_end, self.html_end) < 0 and not self.proven(known, end):
            while (match := _CONSTRUCT.search(self.data, known, end)) is not None:
                known = self.construct(match.start(), end)
        return end

    def construct(self, start: int, end: int) -> int:
        """Read what begins with the "<" at `start`, in HTML; return the offset behind it."""
        match = _TAG.match(self.data, start, end)
        if match is None:
            if self.data.startswith(b"<!--", start):
                return self.comment(start, end)
            return self.markup_or_text(start, end)
        name = match[2].lower()
        if match[1]:
            self.end_tag(name, start)
            return self.tag(match, end)
        if name in _HREF_NAMES or name.startswith(b"v:"):
            return self.tag(match, end, wanted=True)
        after = self.tag(match, end)
        if name in _RAW_TEXT_NAMES:
            return self.raw_text(name, start, after, end)
        if name in _FOREIGN_NAMES and not self.self_closing:
            self.foreign.append(name)
            self.anchors = 0
        return after

    def end_tag(self, name: bytes, start: int) -> None:
        """Note where the body ends, as far as what is in the document itself goes."""
        if self.conditional:
            return
        if name == b"body":
            self.body_end = start
        elif name == b"html":
            self.html_end = start

    def tag(self, match: re.Match[bytes], end: int, *, wanted: bool = False) -> int:
        """Read a tag attribute by attribute; keep its first href if `wanted`."""
        data = self.data
        start, position = match.span()
        if not wanted:
            rest = _TIDY_REST.match(data, position, end)
            if rest is not None:
                self.self_closing = rest[1] is not None
                return rest.end()
        href: tuple[int, int] | None = None
        while position < end:
            attribute = _EXACT_ATTRIBUTE.match(data, position, end)
            if attribute is None or attribute.lastindex == _UNCLOSED_VALUE:
                break
            kind = attribute.lastindex or 0
            if wanted and href is None and kind > _TAG_END and attribute[2].lower() == b"href":
                href = attribute.span(kind) if kind in _VALUES else (-1, -1)
            position = attribute.end()
            if kind in {_TAG_END, _MISSING_VALUE}:
                position = attribute.end(kind)
                self.self_closing = kind == _TAG_END and attribute[0].endswith(b"/>")
                if href is not None and href[0] >= 0:
                    self.hrefs.append(Href(*href, start, position, self.conditional))
                return position
        raise _EndOfFile(start)

    def comment(self, start: int, end: int) -> int:
        """Read a comment (§13.2.5.43 to §13.2.5.51), and what a conditional one hides."""
        data = self.data
        text = start + len(b"<!--")
        if data.startswith(b">", text, end):
            return text + 1
        if data.startswith(b"->", text, end):
            return text + 2
        closing = _COMMENT_END.search(data, text, end)
        if closing is None:
            raise _EndOfFile(start)
        if not self.conditional:
            condition = _CONDITION.match(data, text, closing.start())
            if condition is not None:
                self.conditional_comment(condition.end(), closing.start())
        return closing.end()

    def conditional_comment(self, start: int, end: int) -> None:
        """Scan what Outlook will see of `<!--[if mso]>…<![endif]-->`, as a text of its own."""
        endif = _CONDITION_END.search(self.data, start, end)
        if endif is None or _MAYBE_ANCHOR.search(self.data, start, endif.start()) is None:
            return
        outside, self.foreign, self.conditional = self.foreign, [], True
        self.run(start, endif.start())
        self.foreign, self.conditional = outside, False

    def markup_or_text(self, start: int, end: int) -> int:
        """Read what begins with "<" and is neither a tag nor a comment (§13.2.5.6)."""
        data = self.data
        second = data[start + 1 : min(start + 2, end)]
        if second == b"/":
            if start + 2 >= end:
                raise _EndOfFile(start)  # text, until something follows it
        elif second not in {b"!", b"?"}:
            return start + 1
        # a doctype, or a bogus comment (§13.2.5.41): all end at the first ">"
        closed = data.find(b">", start + 2, end)
        if closed < 0:
            raise _EndOfFile(start)
        return closed + 1

    def raw_text(self, name: bytes, start: int, text: int, end: int) -> int:
        """Pass over the content of style, title, script…; return where its end tag begins."""
        if name == b"plaintext":
            raise _EndOfFile(start)
        if name == b"script":
            return self.script(start, text, end)
        end_tag = re.compile(rb"</" + _any_case(name.decode()) + rb"(?=" + _NAME_ENDS + rb")")
        closing = end_tag.search(self.data, text, end)
        if closing is None:
            raise _EndOfFile(start)
        return closing.start()

    def script(self, start: int, position: int, end: int) -> int:
        """Pass over script data: in `<!-- <script> … </script>` the end tag is text."""
        escaped = double_escaped = False
        search = re.compile(_SCRIPT_STEP).search
        while (step := search(self.data, position, end)) is not None:
            position = step.end()
            if step[0] == b"<!--":
                escaped = True
                position -= 2  # its dashes may also be those of "-->"
            elif step[0] == b"-->":
                escaped = double_escaped = False
            elif step[1]:
                if not double_escaped:
                    return step.start()
                double_escaped = False
            elif escaped:
                double_escaped = True
        raise _EndOfFile(start)

    def foreign_construct(self, known: int, end: int) -> int:
        """Read the next construct in SVG or MathML, where no element has raw text (§13.2.6.5)."""
        data = self.data
        start = data.find(b"<", known, end)
        if start < 0:
            raise _EndOfFile(end)
        match = _TAG.match(data, start, end)
        if match is None:
            if data.startswith(b"<![CDATA[", start, end) and not self.in_html():
                closed = data.find(b"]]>", start, end)
                if closed < 0:
                    raise _EndOfFile(start)
                return closed + len(b"]]>")
            return self.construct(start, end)
        name = match[2].lower()
        if match[1]:
            self.foreign_end_tag(name)
            return self.construct(start, end)
        if name in _BREAKOUT:
            self.leave_foreign()
        if not self.foreign or self.in_html():
            return self.construct(start, end)
        after = self.tag(match, end, wanted=name in _HREF_NAMES or name.startswith(b"v:"))
        if name == b"a" and not self.self_closing:
            self.anchors += 1
        outer = self.foreign[-1]
        if (name == outer or name in _INTEGRATION[outer]) and not self.self_closing:
            self.open_foreign(name)
        return after

    def foreign_end_tag(self, name: bytes) -> None:
        """Close the element; one of the HTML around it closes all that is within (§13.2.6.5)."""
        if name in self.foreign:
            while self.foreign.pop() != name:
                pass
        elif name == b"a" and self.anchors:
            self.anchors -= 1
        elif name in _OUTER_ENDS:
            self.leave_foreign()

    def leave_foreign(self) -> None:
        """Go back to the HTML around, or the integration point."""
        while self.foreign and not self.in_html():
            self.foreign.pop()

    def open_foreign(self, name: bytes) -> None:
        """Note an open element; as browsers do, not deeper than any sane document goes."""
        if len(self.foreign) < _MAX_DEPTH:
            self.foreign.append(name)

    def in_html(self) -> bool:
        """Is the innermost open foreign element one in which HTML begins again?"""
        return self.foreign[-1] not in _FOREIGN_NAMES
