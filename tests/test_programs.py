"""The names for programs: `from sestrack import Tracking`."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from email.message import EmailMessage
from typing import Any

import pytest
import senders
from aiosmtpd.controller import Controller
from conftest import Program
from postgresql import free_port

import sestrack
from sestrack import SestrackError, Tracking

HTML = '<p>Hello <a href="https://example.com/?a=1&amp;b=2">world</a></p>'
AT = 1_780_300_800


@pytest.fixture
def known(tracking: Program) -> Tracking:
    """Give tracking for news.example.com."""
    return Tracking.of(tracking.address, "news.example.com")


def test_compile_and_render(known: Tracking, tracking: Program) -> None:
    """The same bytes as the command gives."""
    letter = known.compile(HTML.encode(), "june")
    assert [decision.url for decision in letter.decisions] == ["https://example.com/?a=1&b=2"]
    by_command = tracking.ok(
        "rewrite", "--sender", "news.example.com", "--recipient", "ada@example.org", "--message",
        "june", "--at", str(AT), stdin=HTML.encode(),
    )  # fmt: skip
    assert letter.render("ada@example.org", AT).decode() == by_command


def test_threads_share_it(known: Tracking) -> None:
    """Eight threads make the copies that one makes."""
    letter = known.compile(HTML.encode(), "june")
    names = [f"{number}@example.org" for number in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda name: letter.render(name, AT), names))
    assert many == [letter.render(name, AT) for name in names]


def test_untracked(tracking: Program) -> None:
    """It says why, and gives back what went in."""
    other = Tracking.of(tracking.address, "shop.example.org")
    assert "not a sender domain" in other.untracked
    assert other.compile(HTML.encode()).render("ada@example.org") == HTML.encode()
    raw = b"To: a@example.org\nContent-Type: text/html\n\n" + HTML.encode()
    assert other.rewrite_message(raw).data == raw


def test_errors_are_one_tree(tracking: Program, known: Tracking) -> None:
    """Whoever catches `SestrackError` catches all; no other name leaks."""
    with pytest.raises(SestrackError):
        known.compile(b"")
    with pytest.raises(SestrackError):
        known.compile(HTML.encode(), "j" * 256)
    with pytest.raises(SestrackError):
        Tracking.of(str(tracking.folder / "none.db"), "news.example.com")
    for name in sestrack.__all__:
        assert getattr(sestrack, name).__doc__
    with pytest.raises(AttributeError):
        _ = sestrack.nothing


class Inbox:
    """Takes mail over SMTP."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, bytes]] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802
        """Keep a mail."""
        self.mails.append((envelope.rcpt_tos[0], envelope.original_content))
        return "250 kept"


@pytest.fixture
def smtp() -> Iterator[tuple[Inbox, int]]:
    """Give a mail server and its port."""
    inbox = Inbox()
    controller = Controller(inbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield inbox, controller.port
    controller.stop()


def check_mail(program: Program, inbox: Inbox) -> None:
    """Each mail holds a link of its recipient."""
    for recipient, raw in inbox.mails:
        (page,) = (p for p in message_from_bytes(raw).walk() if p.get_content_type() == "text/html")
        body = page.get_payload(decode=True)
        assert isinstance(body, bytes)
        url = body.decode().partition('href="')[2].partition('"')[0]
        facts = program.ok("inspect", url)
        assert f"recipient\t{recipient}\n" in facts
        assert "message\tjune\n" in facts
        assert "destination\thttps://example.com/?a=1&b=2\n" in facts


def test_smtplib(known: Tracking, tracking: Program, smtp: tuple[Inbox, int]) -> None:
    """The example sends a copy to each."""
    inbox, port = smtp
    mail = EmailMessage()
    mail["From"], mail["Subject"] = "news@news.example.com", "June"
    mail.set_content("Hello")
    mail.add_alternative(HTML, subtype="html")
    with smtplib.SMTP("127.0.0.1", port) as connection:
        senders.send(connection, known, mail, ["ada@example.org", "bob@example.org"])
    assert [name for name, _ in inbox.mails] == ["ada@example.org", "bob@example.org"]
    check_mail(tracking, inbox)


def test_django(tracking: Program, smtp: tuple[Inbox, int]) -> None:
    """The example is a backend for Django's `send_mail`."""
    import django
    from django.conf import settings
    from django.core.mail import EmailMultiAlternatives
    from django.test import override_settings

    inbox, port = smtp
    if not settings.configured:
        settings.configure()
        django.setup()
    ours: dict[str, Any] = {
        "SESTRACK_STORE": tracking.address, "SESTRACK_SENDER": "news.example.com",
    }  # fmt: skip
    backend, options = "senders.TrackingBackend", {"host": "127.0.0.1", "port": port}
    if django.VERSION >= (6, 1):
        ours["MAILERS"] = {"default": {"BACKEND": backend, "OPTIONS": options}}
    else:
        ours |= {"EMAIL_BACKEND": backend, "EMAIL_HOST": options["host"], "EMAIL_PORT": port}
    mail = EmailMultiAlternatives(
        "June", "Hello", "news@news.example.com", ["ada@example.org", "bob@example.org"],
        headers={"X-Message": "june"},
    )  # fmt: skip
    mail.attach_alternative(HTML, "text/html")
    with override_settings(**ours):
        assert mail.send() == 1
    assert len(inbox.mails) == 2
    check_mail(tracking, inbox)
