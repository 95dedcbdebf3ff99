"""`sestrack check`: a look at a mail before it is sent; it changes nothing."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sestrack import files, output, store
from sestrack.errors import EXIT_NO, BadInput
from sestrack.links import REASON_WORDS, Reason, Wrapping
from sestrack.mail.audit import COPY_TOKEN, Audit, Severity, audit_html, audit_message
from sestrack.mail.mailbox import messages
from sestrack.mail.mime import is_mbox, read
from sestrack.rewrite import looks_like_message
from sestrack.rules import sender_domain_of
from sestrack.terminal import mistyped, offers
from sestrack.tracking import How, Tracking

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def check(
    ctx: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-", help="HTML or a whole message.", click_type=offers.FileName()
        ),
    ],
    sender: Annotated[
        str,
        typer.Option(
            help="Look with the settings of this sender domain.",
            metavar="DOMAIN",
            autocompletion=offers.sender_domains,
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Audit a mail before it is sent: its links, and what may go wrong.  Changes nothing.

    Exit status 1 means an error was found.  Without --sender no store is needed.

    Example: sestrack check letter.html --sender news.example.com
    """
    output.report()
    data = files.read(file)
    wrapping, untracked = _wrapping(ctx.obj, sender)
    try:
        audit = _audit(data, wrapping)
    except BadInput as error:
        error.message = f"{files.shown(file)}: {error.message}"
        raise
    if json:
        output.json_object(_values(file, audit, untracked))
    else:
        _show(audit, untracked)
    return 0 if audit.is_good else EXIT_NO


def _audit(data: bytes, wrapping: Wrapping) -> Audit:
    """Look at HTML, a message, or the messages of an mbox one by one, as `rewrite` does."""
    if is_mbox(data):
        audits = [audit_message(read(mail), wrapping) for mail in messages(BytesIO(data))]
        if len(audits) == 1:
            return audits[0]
        audit = Audit([], [])
        for number, each in enumerate(audits, 1):
            audit.findings.extend(f._replace(part=f"{number}/{f.part}") for f in each.findings)
            audit.links.extend(link._replace(part=f"{number}/{link.part}") for link in each.links)
        return audit
    if data.startswith(b"From ") or looks_like_message(data):
        return audit_message(read(data), wrapping)
    return audit_html(data, wrapping)


_ANY = Wrapping(
    base=b"https://trace.example.com/",
    seal=lambda _number, url: b"L" * (4 * (len(url.encode(errors="replace")) + 22) // 3),
    pixel="bottom",
    copy_size=len(COPY_TOKEN),
    is_ours=lambda _url: False,
)
"""What a sender domain that is tracked would have."""


def _wrapping(address: str, sender: str) -> tuple[Wrapping, str]:
    """Return what is done with mail of a sender domain, and why it is not tracked, if it is not."""
    if not sender:
        return _ANY, ""
    name = sender_domain_of(sender)
    with store.Store(address) as opened, mistyped.sender_domain(opened, name):
        opened.sender(name)
    tracking = Tracking.of(address, sender)
    if tracking.entry is not None:
        return tracking.wrapping("check", How(), len(COPY_TOKEN)), ""
    output.note(f"untracked: {tracking.untracked}")
    return _ANY._replace(seal=None, pixel=""), tracking.untracked


def _words(reason: Reason, untracked: str) -> str:
    return untracked if untracked and reason is Reason.CLICKS_OFF else REASON_WORDS[reason]


def _show(audit: Audit, untracked: str) -> None:
    wrapped = sum(link.is_wrapped for link in audit.links)
    parts = {link.part for link in audit.links}
    place = "part:line" if any(parts) else "line"
    place = "message/part:line" if any("/" in part for part in parts) else place
    output.table(
        [place, "link", "why", "words", "URL"],
        [
            [
                _place(link.part, link.line),
                "wrapped" if link.is_wrapped else "left",
                link.left or _words(link.reason, untracked), link.text, link.url,
            ]
            for link in audit.links
        ],
    )  # fmt: skip
    if audit.findings:
        output.product("\n")
        output.table(["line", "severity", "found", "advice"], list(_findings(audit)), marks=[1])
    left = len(audit.links) - wrapped
    count = sum(finding.severity is Severity.ERROR for finding in audit.findings)
    errors = f"{count} error{'' if count == 1 else 's'}" if count else "no error"
    links = "1 link" if wrapped == 1 else f"{wrapped} links"
    output.note(f"{links} would be wrapped, {left} left; {errors}")


def _findings(audit: Audit) -> Iterator[list[str]]:
    for finding in sorted(
        audit.findings, key=lambda finding: list(Severity).index(finding.severity)
    ):
        place = _place(finding.part, finding.line)
        yield [place, finding.severity, finding.found, finding.advice]


def _place(part: str, line: int) -> str:
    return ":".join(filter(None, (part, str(line) if line else "")))


def _values(file: str, audit: Audit, untracked: str) -> dict[str, Any]:
    return {
        "file": file, "good": audit.is_good,
        "findings": [finding._asdict() for finding in audit.findings],
        "links": [
            {
                "part": link.part, "line": link.line, "url": link.url,
                "wrapped": link.is_wrapped,
                "reason": "message-left" if link.left else str(link.reason),
                "words": link.left or _words(link.reason, untracked), "text": link.text,
            }
            for link in audit.links
        ],
    }  # fmt: skip
