"""Whole messages and mailboxes: judged by the standard library's `email`, and byte by byte."""

from __future__ import annotations

import base64
import binascii
import email
import email.message
import json
import mailbox
import quopri
import re
import shlex
import subprocess
import sys
from pathlib import Path

import judge
import pytest
from conftest import Program
from hypothesis import given, settings
from hypothesis import strategies as st

from sestrack.errors import InputOutputError
from sestrack.links import Reason, Wrapping
from sestrack.mail import message as messages
from sestrack.mail import mime, transfer
from sestrack.mail.mailbox import deliver
from sestrack.rewrite import compile_text
from sestrack.tokens import Copy, Key, LinkSealer, seal_copy

KEY = Key.from_secret(1, bytes(range(64)))
COPY = seal_copy(KEY, "trace.example.com", Copy("news.example.com", "june", "ada@example.org", 1))
WRAPPING = Wrapping(
    base=b"https://trace.example.com/",
    seal=LinkSealer.of(KEY, "trace.example.com", "news.example.com", "june").seal,
    pixel="bottom",
    copy_size=len(COPY),
    is_ours=lambda _url: False,
)
PAGE = b'<p>Gr\xc3\xbc\xc3\x9fe <a href="https://example.com/?a=1&amp;b=2">x</a></p>\n</body>\n'
REWRITE = ("rewrite", "--sender", "news.example.com", "--message", "june")


def rewritten(data: bytes, *, plain: bool = False) -> messages.Rewritten:
    """Rewrite a message."""
    message = mime.read(data)
    found = messages.contents(message, plain=plain)
    if reason := messages.untouchable(message, found):
        return messages.Rewritten(data, [], reason)
    return messages.rewrite(message, found, WRAPPING, COPY)


def check_only_parts_changed(before: bytes, done: messages.Rewritten) -> None:
    """Octet by octet: what is not a rewritten part is as it was; what is, is as was meant."""
    old, new = mime.read(before), mime.read(done.data)
    changed = {part.number: (data, template) for part, data, template in done.parts}
    at_old = at_new = 0
    for a, b in zip(old.parts, new.parts, strict=True):
        assert before[at_old : a.start] == done.data[at_new : b.start]
        raw = done.data[b.start : b.end]
        if a.number in changed:
            data, template = changed[a.number]
            assert transfer.decode(raw, b.encoding) == template.render(COPY)
            rest = 0
            for hole in template.holes:
                kept = data[rest : hole.start]
                assert template.render(COPY).count(kept)
                rest = hole.end
        else:
            assert raw == before[a.start : a.end]
        at_old, at_new = a.end, b.end
    assert before[at_old:] == done.data[at_new:]


def pages(data: bytes) -> list[bytes]:
    """Return the HTML of a message, as the standard library reads it."""
    found = email.message_from_bytes(data)
    return [
        part.get_payload(decode=True)  # type: ignore[misc]
        for part in found.walk()
        if part.get_content_type() == "text/html"
    ]


def a_message(body: bytes, *headers: str, eol: bytes = b"\n") -> bytes:
    """Make a message."""
    head = [
        "From: news@news.example.com",
        "To: Ada <ada@example.org>",
        "MIME-Version: 1.0",
        *headers,
    ]
    return eol.join(line.encode() for line in head) + eol + eol + body


def encoded(page: bytes, encoding: str, eol: bytes) -> bytes:
    """Encode a body."""
    page = page.replace(b"\n", eol)
    if encoding == "base64":
        return eol.join(base64.encodebytes(page).splitlines()) + eol
    if encoding == "quoted-printable":
        return binascii.b2a_qp(page, istext=True)
    return page


@pytest.mark.parametrize("eol", [b"\n", b"\r\n"])
@pytest.mark.parametrize("encoding", ["7bit", "8bit", "base64", "quoted-printable"])
def test_every_encoding(encoding: str, eol: bytes) -> None:
    """The part is rewritten in its own encoding; a message of one part, and of two."""
    header = (
        f"Content-Type: text/html; charset=utf-8{eol.decode()}Content-Transfer-Encoding: {encoding}"
    )
    alone = a_message(encoded(PAGE, encoding, eol), header, eol=eol)
    inner = header.encode() + eol + eol + encoded(PAGE, encoding, eol)
    both = a_message(
        eol.join((b"preamble", b"--b", b"Content-Type: text/plain", b"", b"https://example.com/", b"--b",
                  inner + b"--b--", b"epilogue", b"")),
        'Content-Type: multipart/alternative;\n\tboundary="b"'.replace("\n", eol.decode()), eol=eol,
    )  # fmt: skip
    for data in (alone, both):
        done = rewritten(data)
        assert done.untracked == ""
        check_only_parts_changed(data, done)
        (page,) = pages(done.data)
        assert page.count(b"https://trace.example.com/" + COPY) == 2
        assert b"Gr\xc3\xbc\xc3\x9fe " in page
        assert all(
            len(line) <= 76 + len(eol)
            for line in done.data.splitlines(keepends=True)
            if encoding == "quoted-printable" and b"Content" not in line
        )
        assert done.data.count(b"\r\n") == (done.data.count(b"\n") if eol == b"\r\n" else 0)


def test_a_merge_field_stays_in_one_line() -> None:
    """In quoted-printable, too: another tool looks for it there."""
    page = b'<a href="https://example.com/">x</a>\n' * 40
    data = a_message(
        encoded(b"<i>" + page, "quoted-printable", b"\n"),
        "Content-Type: text/html", "Content-Transfer-Encoding: quoted-printable",
    )  # fmt: skip
    message = mime.read(data)
    for number in range(20):
        field = b"{{" + b"f" * number + b"}}"
        done = messages.rewrite(message, messages.contents(message), WRAPPING, field)
        assert done.data.count(field) == 41
        assert all(len(line) <= 76 for line in done.data.splitlines())


def test_quoted_printable_keeps_its_lines() -> None:
    """Only the lines of a link change; soft breaks, odd escapes and case stay as they were."""
    body = b'=3cp>odd =\n= lower=c3=a9 \t\n<a href=3D"https://exam=\nple.com/">x</a>=20\nlast ==\n'
    data = a_message(body, "Content-Type: text/html", "Content-Transfer-Encoding: quoted-printable")
    done = rewritten(data)
    lines = done.data.partition(b"\n\n")[2].splitlines()
    assert lines[:2] == [b"=3cp>odd =", b"= lower=c3=a9 \t"]
    assert lines[2].startswith(b'<a href=3D"https://trace.example.com/')
    assert [line for line in lines if line.endswith(b'">x</a>=20')]
    assert done.parts[0].template.decisions[0].url == "https://example.com/"
    check_only_parts_changed(data, done)


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("multipart/signed; boundary=b", b"--b\nContent-Type: text/html\n\n<p>\n--b--\n", "signed"),
        ("multipart/encrypted; boundary=b", b"--b\n\n--b--\n", "encrypted"),
        ("application/pkcs7-mime; smime-type=signed-data", b"MIIB", "encrypted"),
        ("multipart/report; boundary=b", b"--b\nContent-Type: text/html\n\n<p>\n--b--\n", "report"),
        ("multipart/mixed; boundary=b", b"--b\nContent-Type: text/html\n\n<p>\n", "no closing boundary"),
        ("multipart/mixed", b"--b\nContent-Type: text/html\n\n<p>\n--b--", "damaged"),
        ("text/plain", b"https://example.com/", "no HTML part"),
        ("text/calendar", b"BEGIN:VCALENDAR", "no HTML part"),
        ("text/x-amp-html", b"<html amp4email>", "no HTML part"),
        ("message/rfc822", b"Content-Type: text/html\n\n<p>", "no HTML part"),
        ("multipart/digest; boundary=b", b"--b\n\nContent-Type: text/html\n\n<p>\n--b--", "no HTML part"),
        ("text/html\nContent-Disposition: attachment", b"<p>", "attachment"),
        ("text/html\nContent-Disposition: inline; filename=x.html", b"<p>", "attachment"),
        ("text/html\nContent-Transfer-Encoding: base64", b"PHA+\n!\n", "damaged"),
        ("text/html\nContent-Transfer-Encoding: x-uuencode", b"begin", "not known"),
        ("text/html; charset=utf-7", b"+ADw-p+AD4-", "superset of ASCII"),
        ("text/html; charset=cp037", b"\x4c\x97\x6e", "superset of ASCII"),
        ("text/html\nContent-Type: text/plain", b"<p>", "contradict"),
        ("text/html", b"-----BEGIN PGP SIGNED MESSAGE-----\n<p>", "signed"),
        ("text/html", b"", "empty"),
        ("text/html\nDKIM-Signature: v=1", b"<p>", "DKIM-Signature"),
        ("text/html\nContent-Transfer-Encoding: quoted-printable", b"<a href=3D'https://a.example/= \nb'>", "damaged"),
        ("text/html\nARC-Seal: i=1", b"<p>", "ARC-Seal"),
        ("text/html\nDomainKey-Signature: a=rsa-sha1", b"<p>", "DomainKey-Signature"),
        ("text/html\nContent-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==", b"<p>", "Content-MD5"),
        ("multipart/(x)signed; boundary=b", b"--b\nContent-Type: text/html\n\n<p>\n--b--\n", "comment"),
        ("text/html\nContent-Transfer-Encoding: 7bit\nContent-Transfer-Encoding: base64", b"PHA+", "not known"),
        ("text/html\nContent-Transfer-Encoding: (x)base64", b"PHA+", "not known"),
        ("text/html\nno header\nContent-Transfer-Encoding: base64", b"PHA+", "damaged"),
        ("text/html\n: none\nDKIM-Signature: v=1", b"<p>", "damaged"),
        ("multipart/mixed; boundary=b", b"--b\nContent-Type: text/html\nno header\n\n<p>\n--b--", "damaged"),
        ("multipart/mixed; boundary=b", b"--b\nContent-Type: text/html\nContent-MD5: x\n\n<p>\n--b--", "Content-MD5"),
        ("multipart/mixed; boundary=b", b"--b\nContent-Type: text/html; name=a.html\n\n<p>\n--b--", "attachment"),
        ("text/html\nContent-Disposition: (x) attachment", b"<p>", "attachment"),
        # the library's reader of RFC 2231 raises on this (found by fuzzing)
        ("text/html; charset*=\0'x'y", b"", "empty"),
    ],
)  # fmt: skip
@pytest.mark.sqlite
def test_what_is_never_touched(tracking: Program, kind: str, body: bytes, words: str) -> None:
    """It goes out as it came, exit 0, and stderr says why; --strict is 1."""
    data = a_message(body, f"Content-Type: {kind}")
    assert words in rewritten(data).untracked
    for strict, code in ([], 0), (["--strict"], 1):
        done = tracking(*REWRITE, *strict, stdin=data)
        assert (done.returncode, done.stdout) == (code, data)
        assert words in done.stderr.decode()


@pytest.mark.sqlite
def test_an_mbox_whose_readers_count_octets(tracking: Program) -> None:
    """Content-Length says where the next message begins: it is left true."""
    mail = a_message(b"<p>\n", "Content-Type: text/html", "Content-Length: 4")
    assert tracking(*REWRITE, stdin=mail).stdout != mail
    mbox = b"From a@example.org Mon Jun  1 08:00:00 2026\n" + mail + b"\n"
    done = tracking(*REWRITE, stdin=mbox)
    assert (done.stdout, b"Content-Length" in done.stderr) == (mbox, True)


def test_a_boundary_that_begins_like_another() -> None:
    """Lines that only look like a boundary part nothing."""
    inner = b"--b-inner\nContent-Type: text/html\n\n--bogus\n<a href=https://example.com/>\n--b-inner--\n"
    data = a_message(
        b"--b\nContent-Type: multipart/related; boundary=b-inner\n\n" + inner + b"--b--\n",
        "Content-Type: multipart/mixed; boundary=b",
    )
    done = rewritten(data)
    assert [part.part.number for part in done.parts] == ["1.1"]
    check_only_parts_changed(data, done)


def test_what_would_break_the_structure_is_not_done() -> None:
    """A line end for the pixel would make a boundary of what stands before it."""
    page = b"<p>\n--b</body>" + b"x" * 980 + b"\n<a href=https://example.com/>"
    data = a_message(
        b"--b\nContent-Type: text/html\n\n" + page + b"\n--b--\n",
        "Content-Type: multipart/mixed; boundary=b",
    )
    done = rewritten(data)
    assert done.data == data
    assert "changes how the message is read" in done.untracked


def test_no_line_becomes_too_long() -> None:
    """In 7bit a link stays, and the pixel gets a line of its own; a URL of several lines is one."""
    link = b'<a href="https://example.com/">x</a>'
    for page in (
        b"x" * 700 + link * 3 + b"</body>",
        b"x" * 950 + b"</body>",
        # a URL over two lines makes one of them, for itself and for the pixel (both found by fuzzing)
        b"%s<a href='https://e.example/%s\n%s'>%s"
        % (b"x" * 300, b"y" * 300, b"y" * 300, b"z" * 400),
        b"%s<a href='https://e.example/\ny'>%s</body>" % (b"x" * 400, b"z" * 350),
    ):
        done = rewritten(a_message(page, "Content-Type: text/html"))
        assert max(map(len, done.data.split(b"\n"))) <= 998
        assert COPY in done.data
        check_only_parts_changed(a_message(page, "Content-Type: text/html"), done)
    reasons = [
        d.reason
        for d in rewritten(a_message(b"x" * 700 + link * 3, "Content-Type: text/html"))
        .parts[0]
        .template.decisions
    ]
    assert reasons == [Reason.WRAPPED, Reason.LONG_LINE, Reason.LONG_LINE]
    long = a_message(b"x" * 1200 + link, "Content-Type: text/html")
    assert rewritten(long).parts[0].template.decisions[0].reason is Reason.WRAPPED


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Type: text/html; x=1" + b';a="\\"' * 150_000 + b"\n\n<p>",
        b"Content-Type: text/html" + b";a*1*=x" * 150_000 + b"\n\n<p>",
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n" * 200_000 + b"--b--\n",
        b"Content-Type: multipart/mixed; boundary=b\n\n"
        + b"--b\nContent-Type: multipart/mixed; boundary=b\n\n" * 20_000,
        b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n)
            for n in range(20_000)
        ),
        b"X: 1\n " * 150_000 + b"\n\n<p>",
        b"Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n"
        + b"=\r=" * 300_000,
        b"To: " + b"(" * 500_000 + b"\nContent-Type: text/html\n\n<p>x",
        b"To: " + b"a@b.example," * 80_000 + b"\nContent-Type: text/html\n\n<p>x",
    ],
    ids=str.split("quotes continuations boundaries nested depth folding soft brackets addresses"),
)
@pytest.mark.sqlite
def test_hostile_messages_take_no_time(tracking: Program, data: bytes) -> None:
    """A megabyte of each; the whole process ends soon, and nothing is lost."""
    done = subprocess.run(
        ["bash", "-c", f"ulimit -t 5; exec {sys.executable} -m sestrack {' '.join(REWRITE)} --type message"],
        input=data, env=tracking.environment, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode in {0, 2}, done.stderr[-500:]
    if done.returncode or b"untracked" in done.stderr:
        assert done.stdout == data


def test_several_parts_are_numbered_through() -> None:
    """Two HTML parts: links counted on, one pixel; List-Unsubscribe is left."""
    part = b'Content-Type: text/html\n\n<a href="https://example.com/a"><a href="https://example.com/out">\n'
    data = a_message(
        b"--b\n" + part + b"--b\n" + part + b"--b--\n",
        "Content-Type: multipart/mixed; boundary=b",
        "List-Unsubscribe: <mailto:out@example.com>,\n <https://example.com/out>",
    )
    done = rewritten(data)
    assert done.data.count(b"<img ") == 1
    reasons = [[decision.reason for decision in part.template.decisions] for part in done.parts]
    assert reasons == [[Reason.WRAPPED, Reason.UNSUBSCRIBE]] * 2
    urls = re.findall(rb"https://trace[^\"]*/([^/\"]+)\"", done.data)
    assert len(set(urls)) == 3


def test_list_unsubscribe_as_it_is_written() -> None:
    """As encoded words, which the standard library folds long ones into; and without brackets."""
    url = "https://example.com/preferences?list=weekly&id=" + 60 * "0"
    html = f'<a href="{url.replace("&", "&amp;")}">leave</a>'
    for value in (f"<{url}>", f"<mailto:a@example.com>, <{url}>", url):
        mail = email.message.EmailMessage()
        mail["List-Unsubscribe"] = value
        mail.set_content(html, subtype="html")
        (part,) = rewritten(mail.as_bytes()).parts
        assert [d.reason for d in part.template.decisions] == [Reason.UNSUBSCRIBE], value


def test_the_ends_of_lines_are_those_of_the_part() -> None:
    """Not those of a line that was put before the mail."""
    url = "https://example.com/" + 60 * "x"
    html = f'<p>\n<a href="{url}">x</a>\n</p>\n'
    for encode in (quopri.encodestring, base64.encodebytes):
        body = encode(html.encode()).replace(b"\n", b"\r\n")
        name = "base64" if encode is base64.encodebytes else "quoted-printable"
        head = f"To: a@b.c\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: {name}\r\n\r\n"
        done = rewritten(b"Return-Path: <a@b>\n" + head.encode() + body).data
        assert done.count(b"\n") - done.count(b"\r\n") == 1, name
    line = '<a href="https://e.com/x">x</a>'
    line += "y" * (998 - len(line)) + "\r\n"
    data = f"To: a@b.c\r\nContent-Type: text/html\r\n\r\n{line}"
    (part,) = rewritten(data.encode()).parts
    assert [d.reason for d in part.template.decisions] == [Reason.LONG_LINE]


def test_two_encodings_that_are_one() -> None:
    """They differ in a comment alone."""
    encoding = "Content-Transfer-Encoding: "
    data = a_message(b"<p>", "Content-Type: text/html", f"{encoding}8bit (x)", f"{encoding}8bit")
    assert b"<img" in rewritten(data).data


@pytest.mark.sqlite
def test_an_mbox_without_empty_lines(tracking: Program) -> None:
    """Some readers see two messages where others see one: it is left."""
    mail = "From a@b Thu Jan  1 00:00:00 2026\nTo: {}@example.org\nContent-Type: text/html\n\n<p></body>\n"
    data = (mail.format("ada") + mail.format("bob")).encode()
    done = tracking(*REWRITE, stdin=data)
    assert (done.returncode, done.stdout) == (0, data)
    assert b"begins another message" in done.stderr


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("See https://example.com/a.", ["https://example.com/a"]),
        ("(https://example.com/a_(b))", ["https://example.com/a_(b)"]),
        ("<https://example.com/a?x=1&y=2>", ["https://example.com/a?x=1&y=2"]),
        ('"http://example.com/", or HTTPS://EXAMPLE.COM/!', ["http://example.com/", "HTTPS://EXAMPLE.COM/"]),
        ("xhttps://example.com/ ftp://example.com/", []),
        ("https://example.com/日本", []),
        ("https://example.com/{{name}} https://example.com/unsubscribe", []),
        ("https:// http://.", []),
        ("{https://example.com} \\url{https://example.com/b} https://example.com/c\\ ",
         ["https://example.com", "https://example.com/b", "https://example.com/c"]),
        ("https://example.com/?e=<%= email %> https://example.com/<?php echo $id ?>/x", []),
        ("https://example.com/?e={ lead.email } https://example.com/?e=[ email ]", []),
        ("_https://example.com/a_ https://example.com/b_ *https://example.com/c_*",
         ["https://example.com/a", "https://example.com/b_", "https://example.com/c_"]),
    ],
)  # fmt: skip
def test_urls_in_plain_text(text: str, urls: list[str]) -> None:
    """Exactly the URL; what ends a sentence is not part of it."""
    template = compile_text(text.encode(), WRAPPING)
    wrapped = [d for d in template.decisions if d.reason is Reason.WRAPPED]
    assert [decision.url for decision in wrapped] == urls
    out = template.render(COPY).decode()
    for url in urls:
        text = text.replace(url, "U", 1)
    assert (
        re.sub(r"https://trace\.example\.com/[A-Za-z0-9_~]+/[A-Za-z0-9_~]+[A-Za-z0-9]", "U", out)
        == text
    )


@pytest.mark.sqlite
def test_plain_parts_on_demand(tracking: Program) -> None:
    """--plain wraps the text part too."""
    data = a_message(b"See https://example.com/a.\n", "Content-Type: text/plain")
    assert tracking(*REWRITE, stdin=data).stdout == data
    out = tracking(*REWRITE, "--plain", stdin=data).stdout
    assert re.search(rb"\n\nSee https://trace\.example\.com/\S+/\S+[^.]\.\n\Z", out)


@pytest.mark.parametrize(
    ("headers", "options", "recipient"),
    [
        ([], [], "ada@example.org"),
        ([], ["--recipient", "x-17"], "x-17"),
        (["X-Who: <eve@example.org>"], ["--recipient-header", "x-who"], "eve@example.org"),
        (["X-Who: 4711"], ["--recipient-header", "X-Who"], "4711"),
        (["Cc: Ada again <ada@example.org>"], [], "ada@example.org"),
    ],
)
def test_who_the_recipient_is(
    tracking: Program, headers: list[str], options: list[str], recipient: str
) -> None:
    """The only address, or what is named."""
    data = a_message(PAGE, "Content-Type: text/html", *headers)
    out = tracking(*REWRITE, *options, stdin=data).stdout.decode()
    url = out.partition('href="')[2].partition('"')[0]
    assert f"recipient\t{recipient}\n" in tracking.ok("inspect", url)


@pytest.mark.parametrize(
    ("headers", "options", "words"),
    [
        (["Cc: bob@example.org"], [], "2 addresses"),
        ([], ["--recipient-header", "X-Who"], "is not in the message"),
        (["X-Who: a@b.example, c@d.example"], ["--recipient-header", "X-Who"], "names 2 addresses"),
        ([], ["--message-header", "X-Campaign", "--message", ""], "is not in the message"),
        (["X-Campaign: a", "X-Campaign: b"], ["--message-header", "X-Campaign", "--message", ""], "stands 2 times"),
    ],
)  # fmt: skip
@pytest.mark.sqlite
def test_no_wrong_name(
    tracking: Program, headers: list[str], options: list[str], words: str
) -> None:
    """Where nobody can be named for sure it is an error, and the mail goes out as it came."""
    data = a_message(PAGE, "Content-Type: text/html", *headers)
    done = tracking(*REWRITE, *options, stdin=data)
    assert (done.returncode, done.stdout) == (2, data)
    assert words in done.stderr.decode()


@pytest.mark.parametrize(
    ("field", "ours"),
    [
        ("{{email}}", "{{sestrack}}"), ("{{ contact.email }}", "{{ sestrack }}"),
        ("%EMAIL%", "%SESTRACK%"), ("*|EMAIL|*", "*|SESTRACK|*"),
        ("<%= user['email'] %>", "{{sestrack}}"),
    ],
)  # fmt: skip
@pytest.mark.sqlite
def test_a_merge_field_is_no_recipient(tracking: Program, field: str, ours: str) -> None:
    """All readers would be one; a field of its own tells them apart, for it becomes a token."""
    done = tracking("rewrite", "--sender", "news.example.com", "--recipient", field, stdin=PAGE)
    assert (done.returncode, done.stdout) == (2, PAGE)
    hint = done.stderr.decode().partition("hint: ")[2].strip()
    given = hint.removeprefix("sestrack rewrite --sender news.example.com --recipient-field ")
    assert shlex.split(given) == [ours]


@pytest.mark.parametrize("option", ["--recipient-header", "--message-header"])
@pytest.mark.sqlite
def test_html_has_no_headers(tracking: Program, option: str) -> None:
    """What is to be named by one would be nobody's, or of no message."""
    done = tracking("rewrite", "--sender", "news.example.com", option, "X-Id", stdin=PAGE)
    assert (done.returncode, done.stdout) == (2, PAGE)
    assert f"{option} X-Id: the input is HTML, without headers".encode() in done.stderr
    hint = shlex.split(done.stderr.decode().partition("hint: sestrack ")[2])
    assert tracking(*hint, stdin=PAGE).returncode == 0
    done = tracking("rewrite", "--jsonl", "--sender", "news.example.com", option, "X-Id", stdin=b"")
    assert done.returncode == 2


@pytest.mark.sqlite
def test_a_field_that_becomes_an_address_is_warned_of(tracking: Program) -> None:
    """The mailing tool would put the reader's address where the token belongs."""
    send = ("rewrite", "--sender", "news.example.com", "--recipient-field")
    assert (
        b"with an address in its place no link leads"
        in tracking(*send, "{{email}}", stdin=PAGE).stderr
    )
    assert b"warning" not in tracking(*send, "{{sestrack}}", stdin=PAGE).stderr
    assert b"does not look like a merge field" in tracking(*send, "TOKEN", stdin=PAGE).stderr
    assert b"--name track\n" in tracking(*send, "{{ person.track }}", stdin=PAGE).stderr
    for field in ("ada@example.org", "&copy", "a/b?c#d", " "):
        done = tracking(*send, field, stdin=PAGE)
        assert (done.returncode, done.stdout) == (65, PAGE)
        assert b"is no merge field" in done.stderr


@pytest.mark.parametrize("name", ["{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "[x](y)", "%41%"])
@pytest.mark.sqlite
def test_an_id_that_looks_odd_is_a_recipient(tracking: Program, name: str) -> None:
    """What is only in part like a merge field is none."""
    send = ("rewrite", "--sender", "news.example.com", "--recipient")
    assert tracking(*send, name, stdin=PAGE).returncode == 0


def test_the_label(tracking: Program) -> None:
    """From a header, decoded; else a hash that other headers do not change."""
    send = ("rewrite", "--sender", "news.example.com")
    labels = []
    for options, headers in (
        (["--message-header", "X-Campaign"], ["X-Campaign: =?utf-8?q?J=C3=BAn?="]),
        ([], ["Date: today"]),
        ([], ["Message-ID: <1@example.com>"]),
    ):
        data = a_message(PAGE, "Content-Type: text/html", *headers)
        out = tracking(*send, *options, stdin=data).stdout.decode()
        facts = tracking.ok("inspect", out.partition('href="')[2].partition('"')[0], "--json")
        labels.append(re.findall(r'"message": "(.*)"', facts)[0])
    assert labels[0] == "Jún"
    assert labels[1] == labels[2]
    assert re.fullmatch(r"[0-9a-f]{12}", labels[1])


def an_mbox() -> bytes:
    """Make an mbox of three: HTML, plain, HTML without a closing tag and two addresses."""
    page = a_message(b"<a href=https://example.com/>\n\n>From here\n", "Content-Type: text/html")
    other = page.replace(b"ada@", b"bob@")
    line = b"From news@news.example.com Mon Jun  1 08:00:00 2026\n"
    return b"\n".join((line + page, line + a_message(b"hello\n"), line + other))


@pytest.mark.sqlite
def test_an_mbox(tracking: Program, tmp_path: Path) -> None:
    """Message by message, to each recipient; what parts them stays."""
    data = an_mbox()
    done = tracking(*REWRITE, stdin=data)
    assert done.returncode == 0
    assert b"message 2: untracked: it has no HTML part" in done.stderr
    file = tmp_path / "out.mbox"
    file.write_bytes(done.stdout)
    box = mailbox.mbox(file)
    assert len(box) == 3
    box.close()
    urls = re.findall(rb"href=(https://trace[^>]+)>", done.stdout)
    names = [
        tracking.ok("inspect", url.decode()).split("recipient\t")[1].split("\n")[0] for url in urls
    ]
    assert names == ["ada@example.org", "bob@example.org"]
    stripped = re.sub(rb"\n<img[^>]*>\n?|<img[^>]*>", b"", done.stdout)
    for url in urls:
        stripped = stripped.replace(url, b"https://example.com/")
    assert stripped == data


@pytest.mark.sqlite
def test_a_bad_message_in_an_mbox_stays(tracking: Program) -> None:
    """One cannot be named: it stays, the others are rewritten, the exit code tells."""
    data = an_mbox().replace(b"To: Ada <ada@example.org>", b"To: a@example.org, b@example.org", 1)
    done = tracking(*REWRITE, stdin=data)
    assert done.returncode == 2
    assert b"message 1: the message goes to 2 addresses" in done.stderr
    assert done.stdout.count(b"href=https://trace.example.com/") == 1


@pytest.mark.sqlite
def test_a_bug_costs_one_message(tracking: Program) -> None:
    """Whatever we do wrong with one message of an mbox, the others go out, and so does it."""
    code = (
        "import sys, sestrack.tracking as t\n"
        "old = t.Tracking.rewrite_message\n"
        "def broken(self, message, *rest):\n"
        "    if b'bob@' in message.data: raise ZeroDivisionError('oh')\n"
        "    return old(self, message, *rest)\n"
        "t.Tracking.rewrite_message = broken\n"
        f"sys.argv = ['sestrack', *{list(REWRITE)!r}]\n"
        "from sestrack.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=an_mbox(), capture_output=True, check=False,
        env=tracking.environment,
    )  # fmt: skip
    assert done.returncode == 70
    assert b"message 3: a bug of ours: ZeroDivisionError: oh" in done.stderr
    assert done.stdout.count(b"https://trace.example.com/") == 2
    assert done.stdout.endswith(an_mbox().rpartition(b"From news@")[2])


def test_urls_that_go_on_in_the_next_line() -> None:
    """In text that is flowed without blanks, where one ends cannot be seen."""
    for more, reason in ("", ""), ("; DelSp=Yes", "go on without a blank"):
        data = a_message(
            b"https://example.com/a \nb\n", f"Content-Type: text/plain; format=flowed{more}"
        )
        assert reason in rewritten(data, plain=True).untracked


def test_a_maildir_whose_reader_moves_a_mail(tmp_path: Path) -> None:
    """It is not there twice afterwards: what the reader has stays."""
    for folder in ("new", "cur", "tmp"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cur" / "1.host:2,S").write_bytes(b"old")
    gone = str(tmp_path / "new" / "1.host")
    with pytest.raises(InputOutputError, match="was moved by a reader"):
        deliver(str(tmp_path), gone, b"new", keep=False)
    assert [path.name for path in tmp_path.rglob("1*")] == ["1.host:2,S"]


@pytest.mark.sqlite
def test_a_maildir(tracking: Program, tmp_path: Path) -> None:
    """In place and into another; the size in a name stays true."""
    box = mailbox.Maildir(tmp_path / "box")
    box.add(a_message(PAGE, "Content-Type: text/html; charset=utf-8"))
    (path,) = (tmp_path / "box" / "new").iterdir()
    size = path.stat().st_size
    named = path.with_name(f"1.M1P1.host,S={size},W={size + 9}")
    path.rename(named)
    (tmp_path / "other").mkdir()
    tracking.ok(*REWRITE, str(tmp_path / "box"), "--output", str(tmp_path / "other"))
    (copy,) = (tmp_path / "other" / "new").iterdir()
    assert copy.name == f"1.M1P1.host,S={copy.stat().st_size}"
    assert named.stat().st_size == size
    tracking.ok(*REWRITE, str(tmp_path / "box"), "--in-place")
    (changed,) = (tmp_path / "box" / "new").iterdir()
    assert changed.name == copy.name
    assert list((tmp_path / "box" / "tmp").iterdir()) == []


@pytest.mark.sqlite
def test_a_message_of_very_many_parts(tracking: Program) -> None:
    """Links are numbered through all of them, and nothing is nested for it."""
    part = b"--b\nContent-Type: text/html\n\n" + PAGE
    data = a_message(part * 1200 + b"--b--\n", "Content-Type: multipart/mixed; boundary=b")
    done = tracking(*REWRITE, "--report", "-", "-o", "out.eml", stdin=data)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["link"] for line in done.stdout.splitlines()] == [0] * 1200
    text = (tracking.folder / "out.eml").read_bytes()
    assert text.count(b"<img ") == 1
    assert len(set(re.findall(rb"https://trace[^\"]*/[^\"]*/[^\"]*", text))) == 1200


def test_a_field_in_plain_text_gets_no_quotes() -> None:
    """Text has no attributes that quotes could end."""
    template = compile_text(b"see https://e.example/ now", WRAPPING._replace(quote=True))
    assert template.render(b"<% r %>").startswith(b"see https://trace.example.com/<% r %>/")


@pytest.mark.parametrize(
    "first",
    [b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b">From a@b Wed Nov 25 10:00:00 2026\n", b" x: y\n", b"\0",
     b"X-\xc3\xa4: y\n", b"\xef\xbb\xbf\n"],
    ids=repr,
)  # fmt: skip
@pytest.mark.sqlite
def test_damaged_headers_are_no_html(tracking: Program, first: bytes) -> None:
    """What can be read as a message is rewritten as one, all else goes out as it came."""
    page = a_message(
        encoded(PAGE, "quoted-printable", b"\n"), "Content-Type: text/html; charset=utf-8",
        "Content-Transfer-Encoding: quoted-printable",
    )  # fmt: skip
    signed = a_message(PAGE, "Content-Type: text/html", "DKIM-Signature: v=1; a=rsa-sha256")
    for data in (first + page, first + signed):
        done = tracking(*REWRITE, stdin=data)
        assert done.returncode == 0, done.stderr
        if done.stdout != data:
            assert b"DKIM-Signature" not in data
            (before,), (after,) = mime.read(data).parts, mime.read(done.stdout).parts
            assert done.stdout[: after.start] == data[: before.start]
            assert done.stdout.count(b'<img src=3D"https://trace.example.com/') == 1
        else:
            assert b"untracked" in done.stderr


@pytest.mark.sqlite
def test_folders_and_types(tracking: Program, tmp_path: Path) -> None:
    """An .eml in a folder is rewritten; --type says what is not recognised."""
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "a.eml").write_bytes(a_message(PAGE, "Content-Type: text/html; charset=utf-8"))
    tracking.ok(*REWRITE, str(folder), "--in-place")
    assert b"https://trace.example.com/" in (folder / "a.eml").read_bytes()
    odd = b"X-Odd: 1\nContent-Kind: x\nContent-type: text/html\n\n" + PAGE
    assert COPY[:1] in tracking(*REWRITE, "--type", "message", stdin=odd).stdout
    done = tracking(*REWRITE, "--type", "html", stdin=a_message(PAGE))
    assert (done.returncode, done.stdout) == (65, a_message(PAGE))
    done = tracking(*REWRITE, "--type", "mbox", stdin=a_message(PAGE))
    assert (done.returncode, done.stdout) == (65, a_message(PAGE))


@pytest.mark.sqlite
def test_the_report_names_the_part(tracking: Program, tmp_path: Path) -> None:
    """Spans are of the decoded part."""
    data = a_message(
        b"--b\nContent-Type: text/html\n\n" + PAGE + b"--b--\n",
        "Content-Type: multipart/mixed; boundary=b",
    )
    tracking.ok(*REWRITE, "--verify", "--report", str(tmp_path / "r"), stdin=data)
    line = (tmp_path / "r").read_text()
    assert '"part": "1"' in line
    assert f'"start": {PAGE.index(b"https:")}' in line


PIECES = ["<p>x", "</p>", '<a href="https://e.example/?a=1&amp;b=2">', "<a href=https://e.example/x>", "é ", "日本", "=3D", "=", "..", "\n.", "\nFrom me", "  \n", "\t\n", '<!--[if mso]><v:rect href="https://v.example/"><![endif]-->', "</body>", "</html>", "\n\n", "--b1", "\n--b1x\n", "x" * 80, "x " * 600, '"', "'", ">", '<a title="', "https://e.example/"]  # fmt: skip


@st.composite
def nasty(draw: st.DrawFn, depth: int = 0) -> bytes:
    """Make an entity of nasty pieces."""
    eol = b"\n"
    if depth < 2 and draw(st.integers(0, 3)) == 0:
        boundary = draw(st.sampled_from(["b1", "b1x", "=_b 2", "'()+_,-./:=?"]))
        kind = draw(st.sampled_from(["mixed", "alternative", "signed", "report", "digest"]))
        parts = draw(st.lists(nasty(depth=depth + 1), max_size=3))
        body = b"".join(b"--" + boundary.encode() + eol + part + eol for part in parts)
        end = draw(
            st.sampled_from(
                [
                    b"--" + boundary.encode() + b"--\n",
                    b"",
                    b"--" + boundary.encode() + b"-- \nepilogue",
                ]
            )
        )
        return f'Content-Type: multipart/{kind}; boundary="{boundary}"\n\n'.encode() + body + end
    text = "".join(draw(st.lists(st.sampled_from(PIECES), max_size=20)))
    charset = draw(st.sampled_from(["utf-8", "iso-8859-1", "shift_jis", "utf-7", "x-unknown"]))
    data = text.encode(charset if charset == "shift_jis" else "utf-8", "replace")
    encoding = draw(
        st.sampled_from(["7bit", "8bit", "base64", "quoted-printable", "Base64", "x-uu"])
    )
    if encoding.lower() == "base64":
        data = base64.encodebytes(data) + draw(st.sampled_from([b"", b"", b"!!", b"\n-- \nfooter"]))
    elif encoding == "quoted-printable":
        data = draw(st.sampled_from([quopri.encodestring, binascii.b2a_qp]))(data)
    kind = draw(st.sampled_from(["text/html", "TEXT/HTML", "text/plain"]))
    head = f"Content-Type: {kind}; charset={charset}\nContent-Transfer-Encoding: {encoding}\n"
    return (
        head.encode()
        + draw(st.sampled_from([b"", b"", b"Content-Disposition: attachment\n"]))
        + eol
        + data
    )


@settings(max_examples=400, deadline=None)
@given(nasty())
def test_messages_of_nasty_parts(entity: bytes) -> None:
    """Whatever it is: headers and parts are as `email` reads them, links as html5lib does."""
    data = b"From: a@example.com\nTo: b@example.org\nMIME-Version: 1.0\n" + entity
    done = rewritten(data)
    if done.data == data:
        return
    check_only_parts_changed(data, done)
    for part, content, template in done.parts:
        if part.charset == "utf-8":
            seen = [
                decision.url for decision in template.decisions if not decision.href.conditional
            ]
            links = [
                re.sub(r"[\t\r\n]", "", href.strip(" \t\r\n\f"))
                for href in judge.hrefs(content.decode())
            ]
            assert [url for url in seen if url] == [url for url in links if url]
    before, after = email.message_from_bytes(data), email.message_from_bytes(done.data)
    leaves = [[p for p in m.walk() if not p.is_multipart()] for m in (before, after)]
    for old, new in zip(*leaves, strict=True):
        assert old.items() == new.items()
        if old.get_payload(decode=True) != new.get_payload(decode=True):
            assert old.get_content_type() == "text/html"
            assert not old.get_filename()
