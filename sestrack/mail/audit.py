"""A look at a mail before it is sent, with lxml as a second, independent reader.

`audit` says what rewriting would do and what may go wrong with it; nothing is changed.
`check_unharmed` compares the tree that a reader's program makes of a document before and
after rewriting: but for links and the pixel there must be no difference.
"""

from __future__ import annotations

import re
from enum import StrEnum
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from lxml import etree

from sestrack.errors import BadInput, UsageError
from sestrack.html import charset as charsets
from sestrack.links import Reason, fields_in
from sestrack.mail.message import (
    BINDING,
    PARTED_WORDS,
    after_part,
    bound_by,
    contents,
    is_parted,
    of_message,
    of_part,
    recipient_of,
    untouchable,
)
from sestrack.mail.mime import LEFT_WORDS, Left, Message
from sestrack.rewrite import Template, compile_html, has_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sestrack.links import Wrapping
    from sestrack.rewrite import Decision

GMAIL_OCTETS = 102_400
"""Octets of HTML that Gmail shows; the rest is cut off."""
COPY_TOKEN = b"R" * 100
"""Stands for the recipient token where only its size counts."""


class Severity(StrEnum):
    """How grave a finding is."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Finding(NamedTuple):
    """What may go wrong."""

    severity: Severity
    code: str
    part: str
    """Of a message: "1.2"; "" for HTML alone."""
    line: int
    """Of the HTML, from 1; 0 for the whole."""
    found: str
    advice: str


class SeenLink(NamedTuple):
    """A link, what becomes of it, and the words a reader sees."""

    part: str
    line: int
    url: str
    reason: Reason
    text: str
    left: str = ""
    """Why its message is left as a whole, in words; "" if it is not."""

    @property
    def is_wrapped(self) -> bool:
        """Would it be?"""
        return self.reason is Reason.WRAPPED and not self.left


class Audit(NamedTuple):
    """All that was found."""

    findings: list[Finding]
    links: list[SeenLink]

    @property
    def is_good(self) -> bool:
        """No error was found."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)


def audit_message(message: Message, wrapping: Wrapping) -> Audit:
    """Look at a whole message."""
    findings: list[Finding] = []
    links: list[SeenLink] = []

    def add(severity: Severity, code: str, found: str, advice: str, part: str = "") -> None:
        findings.append(Finding(severity, code, part, 0, found, advice))

    if name := bound_by(message):
        add(Severity.ERROR, "signed", f"the message has a {name}", BINDING[name])
    if is_parted(message):
        add(Severity.ERROR, "parted", PARTED_WORDS, "`>` in front of the line, as mbox asks for")
    if not message.values("List-Unsubscribe"):
        add(
            Severity.WARNING, "no-list-unsubscribe", "there is no List-Unsubscribe header",
            "add it, with List-Unsubscribe-Post (RFC 8058): large receivers want both",
        )  # fmt: skip
    for part in message.parts:
        if part.left in {Left.SIGNED, Left.ENCRYPTED, Left.UNCLOSED, Left.DAMAGED}:
            words = LEFT_WORDS[part.left]
            grave = Severity.ERROR if part.left is Left.SIGNED else _WARNING
            add(
                grave,
                part.left,
                f"the part {part.kind} {words}",
                "it is left as it is",
                part.number,
            )
    found = contents(message)
    wrapping = of_message(message, found, wrapping)
    untouched = untouchable(message, found)
    if not untouched:
        try:
            recipient_of(message)
        except UsageError as error:
            add(_NOTE, "several-recipients", error.message, error.hint)
    if not found:
        add(Severity.WARNING, "no-html", "there is no HTML part", "nothing will be tracked")
    for part, data, left in found:
        if left:
            is_meant = left == LEFT_WORDS[Left.ATTACHMENT] and not all(each.left for each in found)
            grave = _NOTE if is_meant else Severity.ERROR
            add(grave, "left", f"the HTML part {left}", "it is left as it is", part.number)
            continue
        try:
            here = of_part(part, wrapping, message.line_end_of(part))
            template = compile_html(data, here, part.charset)
        except BadInput as error:
            found_here = f"the HTML part is left: {error.message}"
            add(_WARNING, "left", found_here, "it is left as it is", part.number)
            continue
        wrapping = after_part(wrapping, template)
        inner = _audit(data, template, wrapping.is_ours, part.charset, part.number, untouched)
        findings += inner.findings
        links += inner.links
    return Audit(findings, links)


def audit_html(data: bytes, wrapping: Wrapping) -> Audit:
    """Look at an HTML document."""
    audit = _audit(data, compile_html(data, wrapping), wrapping.is_ours)
    if not has_tag(data):
        found = "there is no tag: it may be plain text, and would go out as it is"
        audit.findings.append(Finding(_WARNING, "no-tag", "", 0, found, "rewrite --type html"))
    return audit


def _audit(  # noqa: PLR0913 - what a part of a message has
    data: bytes,
    template: Template,
    is_ours: Callable[[str], bool],
    charset: str = "",
    part: str = "",
    left: str = "",
) -> Audit:
    """Look at HTML; `left` is why all of its links are left, "" if they are not."""
    texts = _Texts(data, template.encoding or charset or charsets.declared(data))
    findings: list[Finding] = []
    links: list[SeenLink] = []
    line, position = 1, 0
    for decision in template.decisions:
        line += data.count(b"\n", position, decision.href.tag_start)
        position = decision.href.tag_start
        text = "" if decision.href.conditional else texts.take(decision.url)
        links.append(SeenLink(part, line, decision.url, decision.reason, text, left))
        if left:
            continue
        for severity, code, found, advice in _about_link(decision, text):
            findings.append(Finding(severity, code, part, line, found, advice))
    before = sum(
        decision.reason is Reason.OURS and is_ours(decision.url) for decision in template.decisions
    )
    if before and not left:
        links_are = "1 link is" if before == 1 else f"{before} links are"
        found = f"{links_are} of a copy that was made before, and would count as that one"
        advice = "take the mail as it was before `rewrite`"
        findings.append(Finding(_WARNING, "rewritten-before", part, 0, found, advice))
    filled = (d.url for d in template.decisions if d.reason is Reason.PLACEHOLDER)
    said = {field for url in filled for field in fields_in(url.encode("utf-8", "replace"))}
    for field in fields_in(data):
        if field in said:
            continue  # of the link
        found = f"a merge field stands in it: {field}"
        findings.append(Finding(_NOTE, "merge-field", part, 0, found, "`rewrite` fills in nothing"))
    for url in texts.left_over():
        found = f"a second reader sees a link that we do not: {url}"
        findings.append(Finding(_WARNING, "readers-differ", part, 0, found, "mend the HTML there"))
    for severity, code, found, advice in _about_size(template):
        findings.append(Finding(severity, code, part, 0, found, advice))
    return Audit(findings, links)


_Words = tuple[Severity, str, str, str]
_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
_LOOKS_LIKE_URL = re.compile(
    r"(?:https?://|www\.)\S+|((?:[a-z0-9-]+\.)+[a-z]{2,})(?:/\S*)?", re.IGNORECASE
)
_WORD = r"(?:(?<![a-z])|(?-i:(?<=[a-z])(?=[A-Z])))"  # begins, if only in camelCase
_ONE_TIME = re.compile(
    rf"{_WORD}(?:reset|recover|verif|confirm|activat|magic|one[-_]?time|passwordless|"
    r"sign[-_]?in[-_]?link|invit|otp(?![a-z]))|"
    r"[?&#/](?:token|code|key|secret|signature|sig|auth|ticket|jwt)=",
    re.IGNORECASE,
)
_UNSUBSCRIBES = re.compile(
    r"unsubscri|(?<![a-z])opt[- ]?out(?![a-z])|abmeld|abbestell|austrag|désabonn|désinscri|"
    r"darse de baja|cancelar la suscripción|disiscri|afmelden|uitschrijv|отписа|"
    r"退订|取消订阅|配信停止",
    re.IGNORECASE,
)


def _about_link(decision: Decision, text: str) -> Iterator[_Words]:
    url, reason = decision.url, decision.reason
    if reason is Reason.TOO_LONG:
        found = f"the link is too long to wrap: {len(url)} characters"
        yield _WARNING, "too-long", found, "shorten it, or it is not counted"
    if reason is Reason.PLACEHOLDER:
        found = f"a placeholder stands in {url}"
        yield _NOTE, "placeholder", found, "fill it in before rewriting, or it is not counted"
    if reason is not Reason.WRAPPED:
        return
    if _UNSUBSCRIBES.search(text) or _UNSUBSCRIBES.search(url):
        found = f"the link {text!r} looks like unsubscribing and would be tracked: {url}"
        yield _ERROR, "tracked-unsubscribe", found, 'data-sestrack="off" in its tag'
    if _ONE_TIME.search(url):
        found = f"the link looks as if it were good once, or secret: {url}"
        yield _WARNING, "one-time", found, 'data-sestrack="off" in its tag: scanners burn it'
    if _is_like_url(text):
        found = f"the text is itself a URL, {text}, and will lead elsewhere: warnings of phishing"
        yield _WARNING, "text-is-url", found, "words in place of the URL"
    if url.lower().startswith("http://"):
        yield _NOTE, "not-https", f"the link is not https: {url}", "https, if the site has it"


def _is_like_url(text: str) -> bool:
    """Would a reader take it for an address of the web?  `Node.js` is none: there is no .js."""
    found = _LOOKS_LIKE_URL.fullmatch(text)
    if found is None or not found[1]:
        return found is not None
    from publicsuffixlist import PublicSuffixList  # takes a while

    return PublicSuffixList(accept_unknown=False).publicsuffix(found[1].lower()) is not None


def _about_size(template: Template) -> Iterator[_Words]:
    size = len(template.render(COPY_TOKEN))
    if size <= GMAIL_OCTETS:
        return
    found = f"the HTML will have {size:,} octets; Gmail shows {GMAIL_OCTETS:,}"
    yield _WARNING, "clipped", found, "shorten it: styles and tracking URLs count too"
    grown = sum(
        hole.grows(len(COPY_TOKEN)) for hole in template.holes if hole.start <= template.pixel_at
    )
    end = template.pixel_at + grown
    if template.pixel_at >= 0 and end > GMAIL_OCTETS:
        found = f"the pixel would end at {end:,}, behind where Gmail cuts"
        yield _ERROR, "pixel-cut", found, "sestrack rewrite --pixel top"


# -- the second reader -----------------------------------------------------------------------


def _tree(data: bytes, charset: str) -> Any:
    """Let libxml2 read a document; None if there is nothing in it."""
    try:
        parser = etree.HTMLParser(encoding=charset, huge_tree=True)
    except LookupError:
        parser = etree.HTMLParser(huge_tree=True)
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError:
        return None


class _Texts:
    """The words of the links that the second reader sees, by URL."""

    def __init__(self, data: bytes, charset: str) -> None:
        self._texts: dict[str, list[str]] = {}
        self._taken: set[str] = set()
        tree = _tree(data, charset)
        for element in () if tree is None else tree.iter("a", "area"):
            url = _plain(element.get("href") or "")
            if url:
                self._texts.setdefault(url, []).append(_words(element))

    def take(self, url: str) -> str:
        """Return the words of the next link to this URL."""
        key = _plain(url)
        self._taken.add(key)
        texts = self._texts.get(key)
        return texts.pop(0) if texts else ""

    def left_over(self) -> Iterable[str]:
        """Name http and https URLs that were not asked for."""
        web = (url for url in self._texts if url[:4].lower() == "http")
        return [url for url in web if url not in self._taken]


def _plain(url: str) -> str:
    return re.sub(r"[\t\r\n]", "", url).strip()


def _words(element: Any) -> str:
    text = " ".join("".join(element.itertext()).split())
    if not text:
        pictures = (image.get("alt") or "picture" for image in element.iter("img"))
        text = " ".join(f"[{words}]" for words in pictures)
    return text


def check_unharmed(data: bytes, template: Template, base: str) -> None:
    """Raise `BadInput` if more than links and the pixel differs after rewriting."""
    charset = charsets.declared(data)
    before = _tree(data, charset)
    first = ""
    for prune in (False, True):
        after = _tree(template.render(COPY_TOKEN), charset)
        if before is None or after is None:
            return
        _take_out_pixel(after, base, prune=prune)
        difference = _first_difference(before, after, base)
        if not difference:
            return
        first = first or difference
    msg = f"a second parser sees more than links change: {first}"
    raise BadInput(msg, "mend the HTML there; sestrack check shows the links")


def _first_difference(before: Any, after: Any, base: str) -> str:
    both = zip_longest(before.iter(), after.iter())
    return next(filter(None, (_difference(old, new, base) for old, new in both)), "")


def _take_out_pixel(tree: Any, base: str, *, prune: bool) -> None:
    """Take the pixel out; with `prune` the body and paragraph too that libxml2 made for it."""
    pixel = base + COPY_TOKEN.decode()
    found = next((image for image in tree.iter("img") if image.get("src") == pixel), None)
    while found is not None:
        parent, before = found.getparent(), found.getprevious()
        if before is not None:
            before.tail = _text(before.tail) + _text(found.tail) or None
        else:
            parent.text = _text(parent.text) + _text(found.tail) or None
        parent.remove(found)
        is_made = (
            prune
            and parent.tag in {"body", "p"}
            and not (len(parent) or parent.attrib or parent.text)
        )
        found = parent if is_made and parent.getparent() is not None else None


def _text(text: str | None) -> str:
    """Return a text of a tree without what libxml2 reads, and lxml does not take back."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", text or "")


def _difference(old: Any, new: Any, base: str) -> str:
    """Say what differs between two nodes; "" if nothing but links does."""
    if old is None or new is None:
        tag, when = (old.tag, "before") if new is None else (new.tag, "after")
        return f"<{tag}> is there only {when}"
    if old.tag != new.tag:
        return f"<{old.tag}> became <{new.tag}>"
    where = f"line {old.sourceline}"
    if _text(old.tail) != _text(new.tail):
        return f"{where}: text {(old.tail or '')[:40]!r} became {(new.tail or '')[:40]!r}"
    if callable(old.tag):  # comments, with what Outlook sees in them
        return "" if _same_comment(old.text or "", new.text or "", base) else f"{where}: a comment"
    if _text(old.text) != _text(new.text):
        return f"{where}: text {(old.text or '')[:40]!r} became {(new.text or '')[:40]!r}"
    attributes = dict(new.attrib.items())
    if old.attrib.keys() != list(attributes):
        return f"{where}: the attributes of <{old.tag}>"
    for name, value in old.attrib.items():
        changed = attributes[name]
        if changed != value and not (name == "href" and changed.startswith(base)):
            return f"{where}: {name} of <{old.tag}>"
    return ""


def _same_comment(old: str, new: str, base: str) -> bool:
    """Are two comments alike but for the links in them?"""
    if old == new:
        return True
    pieces = re.split(re.escape(base) + r"[A-Za-z0-9_~]+/[A-Za-z0-9_~]+", new)
    position = 0
    for number, piece in enumerate(pieces):
        found = old.find(piece, position) if number else 0 if old.startswith(piece) else -1
        if found < 0:
            return False
        position = found + len(piece)
    return old.endswith(pieces[-1])
