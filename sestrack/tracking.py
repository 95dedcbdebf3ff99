"""Tracking for one sender domain: what the settings say now, with the keys to make copies.

The commands use it, and programs may::

    from sestrack import Tracking

    tracking = Tracking.of("/var/lib/sestrack/store.db", "news.example.com")
    letter = tracking.compile(html, message="june")
    body = letter.render("ada@example.org")
    mail = tracking.rewrite_message(raw, recipient="ada@example.org").data

A `Tracking` is a value: it does not change and may be used by several threads; make another
to see settings that changed.  When the sender domain is not tracked, `untracked` says why
and everything comes back as it went in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sestrack.engines.default import default_address
from sestrack.errors import BadInput, ForgedToken
from sestrack.html import charset as charsets
from sestrack.links import Wrapping, is_placeholder
from sestrack.model import Dimension
from sestrack.rewrite import Decision, Template, compile_html, refuse_other_input
from sestrack.rules import sender_domain_of, tracked
from sestrack.store import Store, now
from sestrack.tokens import (
    Copy,
    CopySealer,
    Key,
    LinkSealer,
    check_text,
    longest_copy,
    open_copy,
    seal_copy,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sestrack.mail.message import Rewritten
    from sestrack.mail.mime import Message
    from sestrack.model import Entry


_LIKE_TOKEN = rb"/[A-Za-z0-9_~]{40}"
_LIKE_OURS = rb"""(?i:https?)://[^/\s"'<>]{1,300}/[A-Za-z0-9_~]{40,}+"""


class How(NamedTuple):
    """How to rewrite; the same for all copies of a message."""

    pixel: str = "bottom"
    """Where the pixel goes: "bottom" or "top"."""
    wrap_unsubscribe: bool = False
    field: str = ""
    """A merge field in place of the recipient token, for another tool to fill in."""
    plain: bool = False
    """Wrap the URLs of a message's text parts too."""


class Tracking(NamedTuple):
    """The settings that apply to a sender domain, and the keys."""

    sender: str
    trace_domain: str
    base: str
    """What tracking URLs begin with."""
    entry: Entry | None
    """The settings that apply; None if it is not tracked."""
    untracked: str
    """Why it is not tracked, in words."""
    keys: list[Key]

    @classmethod
    def of(cls, store: str | None, sender: str) -> Tracking:
        """Read the store; `sender` is a sender domain or an address in it.

        Raises `NotSetUp` for a store that is missing or has no key, `TryAgain` if it is
        busy, `BadInput` for what is no domain.
        """
        sender = sender_domain_of(sender)
        with Store(store or default_address()) as opened:
            keys = opened.token_keys()
            settings = opened.settings(sender)
            known = opened.find_sender(sender)
            wanted = [e.domain for e in (settings.account, *settings.senders.values()) if e]
            found = (opened.find_trace_domain(name) for name in wanted if name)
            domains = {domain.name: domain for domain in found if domain}
            verdict = tracked(settings, known, sender, domains)
            # other mail of a server comes by, too: only what is said needs a guess
            meant = _meant(sender, opened) if verdict.code == "unknown-sender" else ""
        if verdict.entry is None:
            guess = f"; did you mean {meant}?" if meant else ""
            return cls(sender, "", "", None, verdict.words + guess, [])
        domain = domains[verdict.entry.domain]
        return cls(sender, domain.name, domain.base, verdict.entry, "", keys)

    def copy_token(self, message: str, recipient: str, minted: int | None = None) -> bytes:
        """Seal the recipient token of one copy; `minted` is in seconds since 1970, or now."""
        copy = Copy(self.sender, message, recipient, now() if minted is None else minted)
        return seal_copy(self.keys[0], self.trace_domain, copy)

    def sealer(self, message: str, minted: int) -> CopySealer | None:
        """Give what seals the tokens of many copies made in one second; None if untracked."""
        if self.entry is None:
            return None
        return CopySealer.of(self.keys[0], self.trace_domain, self.sender, message, minted)

    @staticmethod
    def sealer_while_untracked(
        store: str, sender: str, message: str, minted: int
    ) -> CopySealer | None:
        """Give what seals for a sender domain that was tracked before; None if there is no trace.

        A template may have been rewritten then, and its links need tokens.
        """
        with Store(store) as opened:
            settings = opened.settings(sender)
            entries = [settings.senders.get(sender), settings.account]
            if settings.dimension is Dimension.ACCOUNT:
                entries.reverse()
            named = next((entry.domain for entry in entries if entry and entry.domain), "")
            domain = opened.find_trace_domain(named) if named else None
            if domain is None:
                return None
            return CopySealer.of(opened.token_keys()[0], domain.name, sender, message, minted)

    def wrapping(self, message: str, how: How, copy_size: int) -> Wrapping:
        """Say what is to be done with a document of the message; it must be tracked.

        `copy_size` is the length of its recipient tokens, the longest.
        """
        assert self.entry is not None
        sealer = LinkSealer.of(self.keys[0], self.trace_domain, self.sender, message)
        return Wrapping(
            base=self.base.encode(),
            seal=sealer.seal if self.entry.click else None,
            pixel=how.pixel if self.entry.open else "",
            copy_size=copy_size,
            is_ours=self._is_ours,
            wrap_unsubscribe=how.wrap_unsubscribe,
            quote=bool(set(how.field) & set(" <>=")),
        )

    def compile(
        self,
        html: bytes,
        message: str = "",
        how: How = How(),  # noqa: B008
        charset: str = "",
        copy_size: int = 0,
    ) -> Letter:
        """Compile HTML once for any number of copies.

        `message` is the label that opens and clicks are counted under, by default a hash of
        the HTML; `charset` what a Content-Type says of it; `copy_size` the length of the
        longest recipient token, by default what any recipient may need.  Raises `BadInput`
        for what is not HTML, and for a label or merge field that cannot be.
        """
        message = message or label(html)
        check_text("message label", message)
        check_field(how.field)
        charset = charsets.codec_of(charset) or charsets.declared(html)
        if self.entry is None:
            refuse_other_input(html)
            template = Template([html], [], -1, charsets.wide_mark(html)[1], [])
            return Letter(self, message, template, how.field, charset)
        size = copy_size or longest_copy(self.sender, message)
        template = compile_html(html, self.wrapping(message, how, size), charset)
        return Letter(self, message, template, how.field, charset)

    def rewrite_message(
        self,
        message: bytes | Message,
        recipient: str | None = None,
        label: str = "",
        minted: int | None = None,
        how: How = How(),  # noqa: B008
    ) -> Rewritten:
        """Rewrite the HTML parts of a whole message (RFC 5322).

        Without `recipient` it is for the only address that the message goes to.  Raises
        `UsageError` if there are several.  Not one byte outside the parts changes.
        """
        from sestrack.mail.message import Rewritten, contents, recipient_of, rewrite, untouchable
        from sestrack.mail.mime import read

        if isinstance(message, bytes):
            message = read(message)
        if self.entry is None:
            return Rewritten(message.data, [], self.untracked, label)
        found = contents(message, plain=how.plain)
        if reason := untouchable(message, found):
            return Rewritten(message.data, [], reason, label)
        if recipient is None and not how.field:
            recipient = recipient_of(message)
        label = label or _label_of(content.data for content in found if not content.left)
        check_text("message label", label)
        check_field(how.field)
        token = how.field.encode() or self.copy_token(label, recipient or "", minted)
        size = longest_copy(self.sender, label) if how.field else len(token)
        done = rewrite(message, found, self.wrapping(label, how, size), token)
        return done._replace(label=label, recipient=recipient or "")

    def copies_in(self, html: bytes) -> list[Copy]:
        """Return the copies that tracking URLs in a document were made for, each once.

        A document that is to be many copies, or that of another recipient, should have none.
        """
        text = charsets.narrow(html)
        if not re.search(_LIKE_TOKEN, text):  # as in most mail, and quickly told
            return []
        urls = dict.fromkeys(re.findall(_LIKE_OURS, text))
        found = (self._copy_of(url.decode("ascii", "replace")) for url in urls)
        return list(dict.fromkeys(copy for copy in found if copy is not None))

    def _is_ours(self, url: str) -> bool:
        """Did one of our keys seal the recipient token of this URL?"""
        return self._copy_of(url) is not None

    def _copy_of(self, url: str) -> Copy | None:
        """Open the recipient token of a URL; None if it is none of ours."""
        _, _, rest = url.partition("://")
        authority, _, path = rest.partition("/")
        host = authority.partition(":")[0].lower()
        try:
            return open_copy(self.keys, host, path.partition("/")[0].encode())
        except ForgedToken:
            return None


class Letter(NamedTuple):
    """Compiled HTML of a message."""

    tracking: Tracking
    message: str
    template: Template
    field: str
    charset: str
    """What the document is written in, as far as is known."""

    @property
    def decisions(self) -> list[Decision]:
        """Each link and what became of it."""
        return self.template.decisions

    def render(self, recipient: str = "", minted: int | None = None) -> bytes:
        """Make the copy for a recipient; "" is nobody.  Costs one sealing and one join."""
        if self.tracking.entry is None:
            return self.template.chunks[0]
        token = self.field.encode() or self.tracking.copy_token(self.message, recipient, minted)
        return self.template.render(token)


def label(html: bytes) -> str:
    """Return the label of a message without one: a hash of its content."""
    return _label_of((html,))


def _meant(sender: str, opened: Store) -> str:
    """Return which sender domain was meant by one that there is not, "" if none is near."""
    from sestrack.terminal.mistyped import NEAR_NAME, nearest

    return nearest(sender, [known.domain for known in opened.senders()], NEAR_NAME)


def _label_of(contents: Iterable[bytes]) -> str:
    from hashlib import blake2b

    digest = blake2b(digest_size=6)
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def check_field(field: str) -> None:
    """Raise `BadInput` for a merge field that is not safe inside an attribute or a comment.

    And for one that is none, but part of a URL or an address: no link would lead anywhere.
    """
    if (
        not field.isprintable()
        or not field.isascii()
        or "--" in field
        or set(field) & set("\"'`\\")
    ):
        msg = f"the merge field {field!r} is not safe in HTML: ASCII, no quotes, no `--`"
        raise BadInput(msg, "--recipient-field '{{sestrack}}'")
    if set(field) & set("/?#&@:;, ") and not is_placeholder(field):
        msg = f"{field!r} is no merge field, which a mailing tool would fill in"
        raise BadInput(msg, "--recipient-field '{{sestrack}}'")
