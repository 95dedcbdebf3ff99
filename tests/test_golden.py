"""The golden sets: what must come of real traps, to the byte, and what must hold of any mail.

Each case is run for its expected bytes; then what case.toml recorded is proven against the
two files by others than the program: its spans by plain cutting, the words by html5lib and
lxml, the links by html5lib, the parts of a message by `email`.  How to add one: docs/golden.md.
"""

from __future__ import annotations

import email
import re
from collections.abc import Iterable, Iterator
from email.message import Message
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import html5lib
import judge
import lxml.etree
import lxml.html
import pytest
from golden.cases import HERE, Case, Link, folders

from sestrack.links import Reason
from sestrack.mail import mime
from sestrack.tokens import LinkSealer

FOLDERS = folders()
PROJECT = [folder for folder in FOLDERS if folder.parent.name == "rewrite"]


@pytest.fixture(params=FOLDERS, ids=lambda folder: str(folder.relative_to(HERE)))
def case(request: pytest.FixtureRequest) -> Case:
    """Give each case; a proof that fails for a known reason, named in case.toml, is expected to."""
    case = Case.of(request.param)
    reason = case.facts.get("bugs", {}).get(request.function.__name__)
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, raises=AssertionError))
    return case


class Document(NamedTuple):
    """The HTML of a case, or one HTML part of its message, before and after."""

    part: str
    before: bytes
    after: bytes
    charset: str
    """What a reader's program takes."""

    def texts(self) -> tuple[str, str]:
        """Decode both."""
        return (
            self.before.decode(self.charset, "replace"),
            self.after.decode(self.charset, "replace"),
        )


def leaves(message: Message, number: str = "") -> Iterator[tuple[str, Message]]:
    """Give each part that has none itself, with its number."""
    if not message.is_multipart():
        yield number or "1", message
        return
    for count, part in enumerate(message.get_payload(), 1):
        assert isinstance(part, Message)
        yield from leaves(part, f"{number}.{count}" if number else f"{count}")


def documents(case: Case, kinds: tuple[str, ...] = ("text/html",)) -> Iterator[Document]:
    """Give what was rewritten."""
    result = case.expected.data
    if case.kind == "html":
        yield Document("", case.data, result, case.facts["charset"])
        return
    touched = {link.part for link in case.expected.links} | {case.expected.pixel_part}
    both = zip(
        leaves(email.message_from_bytes(case.data)),
        leaves(email.message_from_bytes(result)),
        strict=True,
    )
    for (number, old), (_, new) in both:
        if number in touched and old.get_content_type() in kinds:
            before, after = old.get_payload(decode=True), new.get_payload(decode=True)
            assert isinstance(before, bytes)
            assert isinstance(after, bytes)
            yield Document(number, before, after, old.get_content_charset("utf-8"))


_ALL_KINDS = ("text/html", "text/plain")


def tracking_urls(case: Case) -> dict[Link, str]:
    """Make the tracking URL of each link that is wrapped: they are numbered from 0."""
    tracking = case.tracking
    sealer = LinkSealer.of(
        case.key, tracking.trace_domain, tracking.sender, case.facts["message"]
    )  # fmt: skip
    wrapped = [link for link in case.expected.links if link.reason == "wrapped"]
    start = tracking.base + case.copy_token().decode()
    return {
        link: f"{start}/{sealer.seal(n, link.url).decode()}" for n, link in enumerate(wrapped)
    }  # fmt: skip


def pixel(case: Case) -> str:
    """Write the pixel."""
    url = case.tracking.base + case.copy_token().decode()
    return f'<img src="{url}" width="1" height="1" alt="" style="width:1px;height:1px;border:0">'


def rebuilt(case: Case, document: Document) -> set[bytes]:
    """Put what case.toml recorded into what went in, by plain cutting.

    In a message the pixel may stand on a line of its own, so there are several answers.
    """
    before, expected = document.before, case.expected
    written = "utf-16-le" if before[:2] == b"\xff\xfe" else "ascii"
    written = "utf-16-be" if before[:2] == b"\xfe\xff" else written
    spans = []
    unsafe_bare = set(case.how.field) & set(" <>=")
    for link, url in tracking_urls(case).items():
        if link.part == document.part:
            start, end = link.span
            quote = '"' if unsafe_bare and before[start - 1 : start] not in {b'"', b"'"} else ""
            spans.append((start, end, (quote + url + quote).encode(written)))
    line_ends = {b"", b"\n", b"\r\n"} if case.kind == "eml" else {b""}
    answers = set()
    for above, below in product(line_ends, repeat=2):
        edits = list(spans)
        if expected.pixel_at >= 0 and expected.pixel_part == document.part:
            place = expected.pixel_at
            edits.append((place, place, above + pixel(case).encode(written) + below))
        pieces, at = [], 0
        for start, end, text in sorted(edits):
            pieces += [before[at:start], text]
            at = end
        answers.add(b"".join((*pieces, before[at:])))
    return answers


def test_to_the_byte(case: Case) -> None:
    """The program gives the bytes and the decisions that were reviewed."""
    assert case.rewrite() == case.expected


def test_nothing_else_changed(case: Case) -> None:
    """What came out is what went in with the recorded spans replaced, and nothing more."""
    for document in documents(case, _ALL_KINDS):
        assert document.after in rebuilt(case, document)
    if case.expected.untracked:
        assert case.expected.data == case.data
    elif case.kind == "eml":
        check_around_the_parts(case)


def check_around_the_parts(case: Case) -> None:
    """Headers, boundaries and the parts that were not rewritten: octet by octet."""
    before, after = case.data, case.expected.data
    touched = {document.part for document in documents(case, _ALL_KINDS)}
    old, new = mime.read(before), mime.read(after)
    at_old = at_new = 0
    for a, b in zip(old.parts, new.parts, strict=True):
        assert before[at_old : a.start] == after[at_new : b.start]
        if a.number not in touched:
            assert before[a.start : a.end] == after[b.start : b.end]
        at_old, at_new = a.end, b.end
    assert before[at_old:] == after[at_new:]
    messages = email.message_from_bytes(before), email.message_from_bytes(after)
    for one, other in zip(*(message.walk() for message in messages), strict=True):
        assert one.items() == other.items()


def test_never_twice(case: Case) -> None:
    """Rewriting what came out, for whomever and whenever, changes nothing."""
    facts = case.facts | {"recipient": "bob@example.org", "minted": _LATER}
    for again in (case, case._replace(facts=facts)):
        done = again._replace(data=case.expected.data).rewrite()
        assert done.data == case.expected.data
        assert done.pixel_at == -1
        assert "wrapped" not in {link.reason for link in done.links}


_LATER = Case.of(PROJECT[0]).facts["minted"].replace(year=2027)


def test_the_same_words(case: Case) -> None:
    """A reader sees the words that were there, as html5lib and as lxml read them."""
    for document in documents(case):
        before, after = document.texts()
        assert words_of_html5lib(after) == words_of_html5lib(before)
        assert words_of_lxml(after) == words_of_lxml(before)


def words_of_html5lib(text: str) -> list[str]:
    """Return the words of the tree, without what is never shown."""
    shown, unseen = [], 0
    for token in tokens(text):
        if token["type"].endswith("Characters"):
            shown.append("" if unseen else token["data"])
        elif token.get("name") in UNSEEN:
            unseen += {"StartTag": 1, "EndTag": -1}[token["type"]]
    return "".join(shown).split()


def tokens(text: str) -> Iterator[dict[str, Any]]:
    """Walk through the tree that html5lib makes."""
    tree = html5lib.parse(text, treebuilder="dom")
    yield from html5lib.getTreeWalker("dom")(tree)


def words_of_lxml(text: str) -> list[str]:
    """Return the words of the tree, without what is never shown."""
    parser = lxml.html.HTMLParser(encoding="utf-8")
    tree = lxml.html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    # it knows no SVG, and takes a title in there for raw text
    lxml.etree.strip_elements(tree, lxml.etree.Comment, "title", *UNSEEN, with_tail=False)
    return "".join(map(str, tree.itertext())).split()


UNSEEN = ("script", "style")


def test_the_same_links(case: Case) -> None:
    """html5lib sees each recorded link before, and after the same or its tracking URL."""
    urls = tracking_urls(case)
    for document in documents(case):
        links = [link for link in case.expected.links if link.part == document.part]
        shown = [link for link in links if not link.conditional]
        texts = document.texts()
        check_links(shown, urls, *map(judge.hrefs, texts))
        hidden = [link for link in links if link.conditional]
        check_links(hidden, urls, *map(hrefs_for_outlook, texts))


def hrefs_for_outlook(text: str) -> list[str]:
    """Return the hrefs that stand in conditional comments."""
    comments = [token["data"] for token in tokens(text) if token["type"] == "Comment"]
    found = [CONDITIONAL.match(comment) for comment in comments]
    return [href for hidden in found if hidden for href in judge.hrefs(hidden[1])]


CONDITIONAL = re.compile(r"\[if[^\]]*\]>(.*)<!\[endif\]", re.DOTALL | re.IGNORECASE)


def check_links(
    links: list[Link], urls: dict[Link, str], before: Iterable[str], after: Iterable[str]
) -> None:
    """Compare the links of one document with those before and after."""
    # a missing value has no span: to html5lib it is an href, to us none
    assert [url for url in map(clean, before) if url] == [link.url for link in links if link.url]
    links = [link for link in links if link.url]
    before, after = filter(clean, before), filter(clean, after)
    for link, old, new in zip(links, before, after, strict=True):
        sealed = urls.get(link)
        # in JIS X 0201 a tilde is an overline, which the server reads as one
        assert (new.replace("\u203e", "~") if sealed else new) == (sealed or old)


def clean(href: str) -> str:
    """Take out of a URL what the URL standard does (§4.4)."""
    return re.sub(r"[\t\n\r]", "", href.strip("".join(map(chr, range(0x21)))))


@pytest.mark.parametrize("folder", PROJECT, ids=lambda folder: folder.name)
def test_a_case_is_whole(folder: Path) -> None:
    """The files are there, and no other; the readme says something; the number is its own."""
    kind = Case.of(folder).kind
    assert {path.name for path in folder.iterdir()} == {
        f"in.{kind}", f"out.{kind}", "case.toml", "readme",
    }  # fmt: skip
    assert len((folder / "readme").read_text(encoding="utf-8").split()) > 4
    assert re.fullmatch(r"\d\d-[a-z0-9-]+", folder.name)
    assert [other.name[:2] for other in PROJECT].count(folder.name[:2]) == 1


def test_every_reason_has_a_case() -> None:
    """Whatever can become of a link is shown by some case of the project."""
    shown = {link.reason for folder in PROJECT for link in Case.of(folder).expected.links}
    assert shown == set(Reason)
