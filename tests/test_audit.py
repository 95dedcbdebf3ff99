"""`check` and `--verify`: a second reader looks at the mail."""

from __future__ import annotations

import json

import pytest
from conftest import Program

from sestrack.errors import BadInput
from sestrack.links import Wrapping
from sestrack.mail.audit import GMAIL_OCTETS, check_unharmed
from sestrack.rewrite import Hole, compile_html

WRAPPING = Wrapping(
    base=b"https://trace.example.com/",
    seal=lambda number, _url: f"L{number}".encode(),
    pixel="bottom",
    copy_size=100,
    is_ours=lambda _url: False,
)


def audit(program: Program, data: str, *options: str) -> tuple[int, dict[str, object]]:
    """Check a mail; return the exit code and the codes found, with their severity and line."""
    done = program("check", "-", "--json", *options, stdin=data.encode())
    found = json.loads(done.stdout)
    return done.returncode, {f["code"]: (f["severity"], f["line"]) for f in found["findings"]}


@pytest.mark.parametrize(
    ("html", "code", "severity", "line"),
    [
        (
            '\n<a href="https://example.com/x">https://example.com/x</a>',
            "text-is-url",
            "warning",
            2,
        ),
        ('<a href="https://example.com/">www.example.com</a>', "text-is-url", "warning", 1),
        ('<a href="https://example.com/reset?token=1">Reset</a>', "one-time", "warning", 1),
        ('<a href="https://example.com/x?signature=1">x</a>', "one-time", "warning", 1),
        (
            '<a href="https://example.com/preferences">Unsubscribe here</a>',
            "tracked-unsubscribe",
            "error",
            1,
        ),
        ('<a href="https://example.com/abmelden">x</a>', "tracked-unsubscribe", "error", 1),
        (f'<a href="https://example.com/{"x" * 1600}">x</a>', "too-long", "warning", 1),
        ('<a href="https://example.com/{{id}}">x</a>', "placeholder", "note", 1),
        ('<a href="http://example.com/">x</a>', "not-https", "note", 1),
        ("x" * GMAIL_OCTETS, "clipped", "warning", 0),
        ("x" * GMAIL_OCTETS + "</body>", "pixel-cut", "error", 0),
    ],
)
@pytest.mark.sqlite
def test_every_finding(program: Program, html: str, code: str, severity: str, line: int) -> None:
    """It has a severity and a line; an error is exit 1; no store is needed."""
    exit_code, found = audit(program, html)
    assert found[code] == (severity, line)
    assert exit_code == (1 if any(f[0] == "error" for f in found.values()) else 0)  # type: ignore[index]


def test_control_characters_around_the_pixel() -> None:
    """They are the second reader's to read, and no bug of ours."""
    for end in ("\x02</body>\x03", "<p>\x01</body>\x0c</html>", "z\x02\n</body></html>"):
        data = f"<html><body><p>{'x' * 200}</p>{end}".encode()
        check_unharmed(data, compile_html(data, WRAPPING), "https://trace.example.com/")


@pytest.mark.sqlite
def test_words_are_those_of_what_readers_see(program: Program) -> None:
    """A button that Outlook draws from a comment takes none of the link behind it."""
    data = b"""<!--[if mso]><v:rect href="https://e.com/"><![endif]--><a href="https://e.com/">Buy</a>"""
    done = program("check", "-", stdin=data)
    words = [line.split("\t")[3] for line in done.stdout.decode().splitlines()[1:3]]
    assert words == ["", "Buy"]


@pytest.mark.sqlite
def test_a_good_mail(program: Program) -> None:
    """Nothing is found, and the words a reader sees are told."""
    data = b'<p><a href="https://example.com/">See <b>it</b></a> <a href="https://example.com/2"><img alt="Two"></a> <a href="mailto:a@example.com">write</a>'
    done = program("check", "-", stdin=data)
    assert done.returncode == 0
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert lines == [
        ["line", "link", "why", "words", "URL"],
        ["1", "wrapped", "http or https link", "See it", "https://example.com/"],
        ["1", "wrapped", "http or https link", "[Two]", "https://example.com/2"],
        ["1", "left", "neither http nor https", "write", "mailto:a@example.com"],
    ]
    assert done.stderr.decode().endswith("2 links would be wrapped, 1 left; no error\n")


@pytest.mark.parametrize(
    ("headers", "code", "severity"),
    [
        ("DKIM-Signature: v=1\nContent-Type: text/html", "signed", "error"),
        ("Content-Type: text/html", "no-list-unsubscribe", "warning"),
        ("Content-Type: text/plain", "no-html", "warning"),
        ("Content-Type: multipart/signed; boundary=b", "signed", "error"),
        ("Content-Type: text/html\nContent-Transfer-Encoding: base64", "left", "error"),
        (
            "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/html\n\n\n--b--",
            "left",
            "warning",
        ),
    ],
)
@pytest.mark.sqlite
def test_messages(program: Program, headers: str, code: str, severity: str) -> None:
    """What the headers say."""
    exit_code, found = audit(program, f"To: a@example.org\n{headers}\n\n<p>Hello!")
    assert found[code][0] == severity  # type: ignore[index]
    assert exit_code == (1 if severity == "error" else 0)


def test_a_link_to_the_trace_domain_is_no_copy(tracking: Program) -> None:
    """Without a token nobody is named by it."""
    page = b'<a href="https://trace.example.com/privacy">p</a>'
    (tracking.folder / "own.html").write_bytes(page)
    said = tracking("check", "own.html", "--sender", "news.example.com")
    assert b"made before" not in said.stdout


def test_with_the_settings_of_a_sender(tracking: Program) -> None:
    """Our own links are known; a sender domain that is not tracked is said."""
    html = tracking.ok(
        "rewrite", "--sender", "news.example.com", stdin=b'<a href="https://example.com/">x</a>'
    )
    done = tracking("check", "-", "--sender", "news.example.com", stdin=html.encode())
    assert b"already a tracking URL of ours" in done.stdout
    done = tracking("check", "-", "--sender", "new.example.com", stdin=html.encode())
    assert (done.returncode, b"did you mean news.example.com?" in done.stderr) == (66, True)
    tracking.ok("settings", "disable")
    done = tracking("check", "-", "--sender", "news.example.com", stdin=LINK)
    assert b"untracked" in done.stderr
    assert b"0 links would be wrapped, 1 left" in done.stderr
    assert b"tracking is not enabled" in done.stdout


LINK = b'<a href="https://example.com/">x</a>'


@pytest.mark.parametrize(
    "html",
    [
        '<a href="https://example.com/hotpot">x</a>',
        '<a href="https://example.com/presets">x</a>',
        '<a href="https://example.com/opt-outdoor">x</a>',
        '<a href="https://example.com/">Node.js</a>',
    ],
)
@pytest.mark.sqlite
def test_what_only_resembles_is_not_found(program: Program, html: str) -> None:
    """A word within another is none; nor is it a URL that no name can end like."""
    assert audit(program, html) == (0, {})


@pytest.mark.sqlite
def test_a_message_is_looked_at_as_it_is_rewritten(tracking: Program) -> None:
    """With its List-Unsubscribe and its longest line; the pixel goes into one part."""
    message = (
        b"To: a@example.org\nFrom: n@news.example.com\nList-Unsubscribe: <https://example.com/>\n"
        b"Content-Type: text/html\n\n" + LINK + b"\n<i>" + b"x" * 900 + b"</i>"
        b'<a href="https://example.com/2">y</a>\n'
    )
    shown = json.loads(tracking.ok("check", "-", "--json", stdin=message))
    tracking.ok(
        "rewrite", "--sender", "news.example.com", "--report", "report", "-o", "out", stdin=message
    )
    lines = (tracking.folder / "report").read_text().splitlines()
    done = [json.loads(line)["reason"] for line in lines]
    assert [link["reason"] for link in shown["links"]] == done == ["unsubscribe", "long-line"]


@pytest.mark.parametrize(
    "html",
    [
        '<!--[if mso]><v:rect href="https://v.example/"><a href="https://e.example/">x</a><![endif]--><p>',
        "<table><tr><td><a href=https://e.example/>x</a>",
        "<p>a</p></body></html>behind",
        "{{> header}}<container></container>",
        '<p a"b=1 href="x"><a href="https://e.example/">é',
        "x",
    ],
)
def test_unharmed(html: str) -> None:
    """Links and pixel are no difference."""
    check_unharmed(
        html.encode(), compile_html(html.encode(), WRAPPING), "https://trace.example.com/"
    )


@pytest.mark.parametrize(
    ("hole", "words"),
    [
        (Hole(3, 4, b"z", b""), "text"),
        (Hole(0, 3, b"<div>", b""), "<p> became <div>"),
        (Hole(13, 32, b"https://other.example/", b""), "href of <a>"),
        (Hole(4, 4, b"<b></b>", b""), "became"),
        (Hole(8, 8, b'class="x" ', b""), "attributes"),
    ],
)
def test_harm_is_seen(hole: Hole, words: str) -> None:
    """Whatever else differs is refused: here by a template that is wrong on purpose."""
    data = b'<p>a <a href="https://e.example/">x</a></p>'
    template = compile_html(data, WRAPPING._replace(pixel=""))
    chunks = [data[: hole.start] + hole.before, data[hole.end :]]
    broken = template._replace(chunks=[chunks[0] + chunks[1]])
    with pytest.raises(BadInput, match=words):
        check_unharmed(data, broken, "https://trace.example.com/")


@pytest.mark.sqlite
def test_verify_passes_real_mail(tracking: Program) -> None:
    """What is not harmed goes out rewritten."""
    data = b'<p>a <a href="https://e.example/">x</a></p></body>'
    out = tracking.ok("rewrite", "--sender", "news.example.com", "--verify", stdin=data)
    assert "https://trace.example.com/" in out


@pytest.mark.sqlite
def test_an_mbox_is_looked_at_message_by_message(tracking: Program) -> None:
    """As it is rewritten; each place says which."""
    mail = "From a@b Thu Jan  1 00:00:00 2026\nTo: x@y.z\nContent-Type: text/html\n\n"
    mail += '<p><a href="https://example.com/">1</a></p>\n\n'
    (tracking.folder / "two.mbox").write_text(mail * 2)
    shown = json.loads(tracking.ok("check", "two.mbox", "--json"))
    assert [(link["part"], link["line"]) for link in shown["links"]] == [("1/1", 1), ("2/1", 1)]
    assert tracking.ok("check", "two.mbox").startswith("message/part:line\t")


@pytest.mark.sqlite
def test_what_is_left_by_rewriting_is_an_error(tracking: Program) -> None:
    """A line that begins a message to some readers of an mbox."""
    mail = "From a@b Thu Jan  1 00:00:00 2026\nTo: x@y.z\nContent-Type: text/html\n\n"
    mail += '<p><a href="https://example.com/">1</a>\nFrom c@d Fri Jan  2 00:00:00 2026\n</p>\n'
    (tracking.folder / "one.mbox").write_text(mail)
    rewritten = tracking("rewrite", "--sender", "news.example.com", "one.mbox")
    assert rewritten.stdout.decode() == mail
    words = "a line of it begins another message"
    assert words in rewritten.stderr.decode()
    done = tracking("check", "one.mbox")
    assert (done.returncode, words in done.stdout.decode()) == (1, True)
    (link,) = json.loads(tracking("check", "one.mbox", "--json").stdout)["links"]
    assert (link["wrapped"], link["words"]) == (False, words + ", to some readers of this mbox")


@pytest.mark.sqlite
def test_check_says_of_several_recipients(tracking: Program) -> None:
    """`rewrite` would not know whose copy it is; and what is no mail is named."""
    mail = "To: a@x.org, b@x.org\nContent-Type: text/html\n\n<a href='https://example.com/'>1</a>\n"
    (tracking.folder / "two.eml").write_text(mail)
    out = tracking.ok("check", "two.eml")
    assert "the message goes to 2 addresses" in out
    (tracking.folder / "empty.html").write_text("")
    assert b"empty.html: the input is empty" in tracking("check", "empty.html").stderr
