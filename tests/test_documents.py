"""Scanner and rewriting, judged by html5lib and by the bytes themselves."""

from __future__ import annotations

import judge
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sestrack.errors import BadInput
from sestrack.html import charrefs
from sestrack.html.charset import declared
from sestrack.html.scanner import after_body_start, scan
from sestrack.links import Reason, Wrapping, is_placeholder
from sestrack.rewrite import compile_html

WRAPPING = Wrapping(
    base=b"https://t.example.com/",
    seal=lambda number, _url: f"L{number}".encode(),
    pixel="bottom",
    copy_size=80,
    is_ours=lambda url: url.startswith("https://other.example/"),
)

PIECES = ["<", ">", '"', "'", "=", "/", "-", "!", "<!", "<?", "?>", "</", "<1", "&", "x", "1", "a", "href", "HREF", "<a", "</a>", "<p", "<p>", "</p>", "class=", "<!--", "-->", "--!>", "<!-->", "<!--->", "<style>", "</style>", "<STYLE", "<script>", "</script>", "<title>", "</title", "<textarea>", "</textarea", "<xmp>", "</xmp>", "<![CDATA[", "]]>", "&amp;", "&copy=", "&copy", "&#", "&#x41;", "<b>", "<plaintext>", "<iframe>", "</iframe>", "<noembed>", "<table>", "it's", "<br/>", "<noscript>", "</body>", "</html>", "<body>"] + [
    " ", "\n", "\t", "\r", "\f", "\v", "<a ", '<a href="', "<a href=x>", "<A HREF='", "<area href=y ",
    '<v:rect href="v">', '<abbr href="z">', 'alt="<a href=q>"', 'b=">"', "<!DOCTYPE html>", "1 < 2",
    'a=b"c', '<img src=x alt=">">', "= ' ", '= "',
]  # fmt: skip


def read(document: str) -> list[str]:
    """Read the hrefs as the judge gives them."""
    data = document.encode()
    values = [charrefs.decode(data[h.start : h.end].decode()) for h in scan(data).hrefs]
    return [v.replace("\r\n", "\n").replace("\r", "\n") for v in values if v]


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_tag_soup(document: str) -> None:
    """On whatever is made of nasty pieces, the scanner and html5lib see the same links."""
    assert read(document) == [href for href in judge.hrefs(document) if href]


@pytest.mark.parametrize(
    ("document", "hrefs"),
    [
        ('<svg><style><a href="a"></style></svg><style><a href="b"></style>', ["a"]),
        ('<svg><title><a href="a"></title><![CDATA[<a href="b">]]></svg>', ["a"]),
        ('<svg><p><style><a href="b"></style>', []),
        ('<math><mi><style><a href="b"></style></mi></math><a href="a">', ["a"]),
        ('<table><tr><td><svg><path></td><td><style><a href="b"></style>', []),
        (
            '<p><svg><a href="a"></a><style><a href="c"></style></svg></p><style><a href="b"></style>',
            ["a", "c"],
        ),
        ('<a href="a"><svg></a><textarea><a href="b"></textarea>', ["a"]),
        ('<svg><a href="a"></svg><a href="b"><svg></a><style><a href="c"></style>', ["a", "b"]),
        ("<script><!--<script></script><a href=b>--></script><a href=a>", ["a"]),
        ("<a href=a href=b><a data-href=c><a title='?href=d'>", ["a"]),
        ('<a\nhref\n=\n"a"><a/href=b><a class="c"href=d>', ["a", "b", "d"]),
    ],
)
def test_documents_by_hand(document: str, hrefs: list[str]) -> None:
    """Foreign content, escaped scripts, odd attributes."""
    assert read(document) == hrefs
    assert judge.hrefs(document) == hrefs


def test_conditional_comments() -> None:
    """What Outlook will see counts; a plain comment does not."""
    data = (
        b'<!--[if mso]><v:rect href="a"><a href="b"></body><![endif]-->'
        b'<!--[if !mso]><!--><a href="c"><!--<![endif]--><!-- <a href="d"> --></body>'
    )
    found = scan(data)
    assert [data[h.start : h.end] for h in found.hrefs] == [b"a", b"b", b"c"]
    assert [h.conditional for h in found.hrefs] == [True, True, False]
    assert found.body_end == data.rindex(b"</body>")


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        (b'<a href="https://e.example/?a=1&amp;b=2">', Reason.WRAPPED),
        (b"<a href=' &#104;ttps&colon;//e.example/\n '>", Reason.WRAPPED),
        (b"<A HREF=HTTPS://e.example/>", Reason.WRAPPED),
        (b'<a href="https://e.example/a[0]?f[x]=1#%20">', Reason.WRAPPED),
        (b'<a href="mailto:a@e.example">', Reason.OTHER_SCHEME),
        (b'<a href="#x">', Reason.FRAGMENT),
        (b'<a href="//e.example/">', Reason.RELATIVE),
        (b'<a href="https:x">', Reason.RELATIVE),
        (b'<a href="http://">', Reason.NO_HOST),
        (b'<a href="">', Reason.EMPTY),
        (b'<a href="https://e.example/{{x}}">', Reason.PLACEHOLDER),
        (b'<a href="*|X|*">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/[X]">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/%%x%%">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/<%= x %>">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=$$email$$">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=$[UD:EMAIL]$">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=[user->email]">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/page@TrackLink">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/@TrackLinks/x">', Reason.WRAPPED),
        (b'<a href="https://e.example/?n=$[FNAME|Customer]$">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=##NEWSMAN:list_email##">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=#recipient:email#">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=%%$email%%">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=%2A%7CEMAIL%7C%2A">', Reason.PLACEHOLDER),
        (f'<a href="https://e.example/{440 * "ж"}">'.encode(), Reason.WRAPPED),
        (f'<a href="https://e.example/{600 * "ж"}">'.encode(), Reason.TOO_LONG),
        (b'<a href="https://e.example/?e=%5BEMAIL%5D">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=%5B%5Bemail%5D%5D&x">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=%25%25email%25%25">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=%3C%25=x%25%3E">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?e=$%7Bx%7D">', Reason.PLACEHOLDER),
        (b'<a href="https://e.example/?filter%5Bname%5D=x&a=5%25&p=$1">', Reason.WRAPPED),
        (b'<a href="https://e.example/Unsubscribe">', Reason.UNSUBSCRIBE),
        (b'<a data-sestrack="off" href="https://e.example/">', Reason.OPT_OUT),
        (b'<a ses:no-track href="https://e.example/">', Reason.OPT_OUT),
        (b'<a clicktracking=off href="https://e.example/">', Reason.OPT_OUT),
        (b'<a clicktracking=on href="https://e.example/">', Reason.WRAPPED),
        (b'<a href="https://t.example.com/Qxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/Q">', Reason.OURS),
        (b'<a href="https://other.example/Q' + b"x" * 50 + b'/Q">', Reason.OURS),
        (b'<a href="https://e.example/' + b"x" * 1500 + b'">', Reason.TOO_LONG),
    ],
)
def test_what_becomes_of_a_link(html: bytes, reason: Reason) -> None:
    """Each link is wrapped or left, with its reason; nothing else changes."""
    template = compile_html(html, WRAPPING)
    (decision,) = template.decisions
    assert decision.reason is reason
    href = decision.href
    wanted = html[: href.start], html[href.end :]
    out = template.render(b"R")
    assert out.startswith(wanted[0])
    pixel = out.index(b'<img src="https://t.example.com/R"')
    assert out[:pixel].endswith(wanted[1])
    middle = out[len(wanted[0]) : pixel - len(wanted[1])]
    if reason is Reason.WRAPPED:
        assert middle == b"https://t.example.com/R/L0"
    else:
        assert middle == html[href.start : href.end]


@pytest.mark.parametrize(
    ("charset", "href", "is_clear"),
    [
        ("windows-1252", b"https://e.example/?q=&eacute;", False),
        ("windows-1252", b"https://e.example/?a=1&#38;b=\xe4", False),
        ("windows-1252", b"https://e.example/&quest;q=&#228;", False),
        ("windows-1252", b"https://e.example/&eacute;?q=1#&eacute;", True),
        ("utf-8", b"https://e.example/?q=&eacute;", True),
        ("euc-jp", b"https://e.example/\xa1\xc1", False),
        ("euc-jp", b"https://e.example/\xa4\xa2", True),
        ("iso-2022-jp", b"https://e.example/\x1b$B!A\x1b(B", False),
        ("big5", b"https://e.example/\xa1\xe3", False),
        ("big5", b"https://e.example/\xa4\xa4", True),
    ],
)
def test_what_programs_read_differently(charset: str, href: bytes, *, is_clear: bool) -> None:
    """A query in a charset other than UTF-8, however it is written; what two indexes differ in."""
    (decision,) = compile_html(b'<a href="' + href + b'">', WRAPPING, charset).decisions
    assert decision.reason is (Reason.WRAPPED if is_clear else Reason.UNCLEAR_CHARACTERS)


def test_a_mark_that_contradicts_the_label() -> None:
    """Browsers go by the mark, mail programs by the label."""
    for label, reason in (("windows-1252", Reason.UNCLEAR_CHARACTERS), ("utf-8", Reason.WRAPPED)):
        html = b'\xef\xbb\xbf<a href="https://e.example/\xc3\xbc"><a href="https://e.example/u">'
        first, second = compile_html(html, WRAPPING, label).decisions
        assert (first.reason, second.reason) == (reason, Reason.WRAPPED)


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-32", "latin-1", "gbk", "shift_jis", "iso2022_jp"]
)
def test_encodings(encoding: str) -> None:
    """Whatever the encoding, the text around the links comes back as it was."""
    text = "é" if encoding == "latin-1" else "日本語"
    document = f'<p>{text}<a href="https://e.example/">{text}</a></body>'
    out = compile_html(document.encode(encoding), WRAPPING).render(b"R").decode(encoding)
    head, _, rest = out.partition("<img ")
    assert head == f'<p>{text}<a href="https://t.example.com/R/L0">{text}</a>'
    assert rest.endswith("</body>")


def test_where_links_stand_in_utf_16() -> None:
    """Spans are of the octets as they came, in text before and behind other letters."""
    links = [f"https://e.example/{number}" for number in range(50)]
    text = "".join(f'<p title="日本語">é<a href="{url}">x</a>' for url in links) + "</body>"
    data = text.encode("utf-16")
    template = compile_html(data, WRAPPING)
    spans = [data[d.href.start : d.href.end].decode("utf-16-le") for d in template.decisions]
    tags = [data[d.href.tag_start : d.href.tag_end].decode("utf-16-le") for d in template.decisions]
    assert spans == links
    assert tags == [f'<a href="{url}">' for url in links]
    assert data[template.pixel_at :].decode("utf-16-le") == "</body>"


@pytest.mark.parametrize(
    ("data", "charset"),
    [
        (b"<meta charset=utf-16>", "utf-8"),
        (b'<META http-equiv=x content="text/html; charset=UTF-16LE">', "utf-8"),
        (b"<meta charset=hex>", "utf-8"),
        (b"<meta charset=utf-7>", "utf-8"),
        (b"<meta charset=latin1>", "cp1252"),
        (b"<meta charset=koi8-r>", "koi8-r"),
        (b"<meta charset=gb2312>", "gb18030"),
        (b"<meta charset=x-sjis>", "cp932"),
        (b"<meta charset=euc-kr>", "cp949"),
        (b"<meta charset=big5>", "big5hkscs"),
        (b"<meta charset=iso-8859-9>", "cp1254"),
        (b"<meta charset=iso-2022-jp>", "iso2022_jp_ext"),
        (b"<meta charset=cp850>", "cp850"),
        (b"<meta charset=nobody-s>", "utf-8"),
        ("<p>".encode("utf-16"), "utf-16-le"),
    ],
)
def test_what_a_document_says_of_itself(data: bytes, charset: str) -> None:
    """UTF-16 said in ASCII cannot be (WHATWG HTML §13.2.3.2)."""
    assert declared(data) == charset


def test_a_link_to_our_own_host_is_no_pixel() -> None:
    """It is left, however short, and the pixel comes nevertheless."""
    data = b'<a href="https://t.example.com/prefs">x</a>'
    template = compile_html(data, WRAPPING)
    assert [decision.reason for decision in template.decisions] == [Reason.OURS]
    assert template.render(b"R" * 50).startswith(data + b"<img ")


def test_again_changes_nothing() -> None:
    """Neither links nor the pixel come twice."""
    once = compile_html(b'<a href="https://e.example/">x</a>', WRAPPING).render(b"R" * 50)
    assert compile_html(once, WRAPPING).render(b"S" * 50) == once


@pytest.mark.parametrize("place", ["bottom", "top"])
def test_where_the_pixel_goes(place: str) -> None:
    """Before the last `</body>` that is a tag, or behind `<body>`."""
    html = b'<head></head><body class=">"><!-- </body> --><p></body></html><p>'
    out = compile_html(html, WRAPPING._replace(pixel=place)).render(b"R")
    wanted = html.rindex(b"</body>") if place == "bottom" else html.index(b"<!--")
    assert out.index(b"<img") == wanted
    assert after_body_start(b"<p>") == -1


def test_the_pixel_stays_out_of_what_is_never_closed() -> None:
    """At the end it would be part of a comment, a tag, or a style."""
    for html in (b"<p>x<!-- y", b"<p>x<style>y", b'<p>x<a href="y'):
        out = compile_html(html, WRAPPING).render(b"R")
        assert out.index(b"<img") == 4


@pytest.mark.parametrize("data", [b"", b" \n", b"\x89PNG\r\n", b"Subject: x\n\n<p>"])
def test_what_is_not_html(data: bytes) -> None:
    """Nothing, a picture, a message: an error, never a guess."""
    with pytest.raises(BadInput):
        compile_html(data, WRAPPING)


@pytest.mark.parametrize(
    "piece",
    ["<", "<a ", '<a href="', "<a b='", "<!--", "<svg><g></x>", '="', "<p ", "</", "' <a b> "],
)
def test_work_grows_as_the_input(piece: str) -> None:
    """Twice the pathological input makes about twice the calls."""
    import sys

    def calls(size: int) -> int:
        count = 0

        def count_calls(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(count_calls)
        try:
            scan((piece * size).encode())
        finally:
            sys.setprofile(None)
        return count

    assert calls(4000) < 2.5 * calls(2000) + 100


@pytest.mark.parametrize("piece", ["$[a", "[A,fallback=", "=~A.", "@A-", "%[A-Z", "=a[A", "$a."])
def test_fields_are_looked_for_in_no_time(piece: str) -> None:
    """What begins like a merge field again and again: all of it again each time would be hours."""
    assert not is_placeholder("https://example.com/?" + piece * 400_000)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("&copy=2", "&copy=2"), ("&copy;", "©"), ("&copyx", "&copyx"), ("&copy ", "© "),
        ("&amp;amp;", "&amp;"), ("&#038;", "&"), ("&#x80;", "€"), ("&#0;", "\ufffd"),
        ("&#x110000;", "\ufffd"), ("&#" + "9" * 9999 + ";", "\ufffd"), ("&notit;", "&notit;"),
        ("&colon;", ":"), ("&unknown;", "&unknown;"), ("&", "&"), ("&#xD800;", "\ufffd"),
    ],
)  # fmt: skip
def test_references(value: str, text: str) -> None:
    """References are decoded as in attributes, once."""
    assert charrefs.decode(value) == text
