"""What `sestrack rewrite` does: a pipe, files, messages, mailboxes.

The mail comes first: whatever goes wrong, the original bytes go out and the exit code tells.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from sestrack import files, output
from sestrack.commands.rewrite_copies import Meant, count, is_made, refuse_copies
from sestrack.commands.rewrite_delivery import (
    Input,
    deliver,
    inputs,
    original,
    pass_through,
    quiet,
)
from sestrack.errors import EXIT_BUG, EXIT_NO, BadInput, SestrackError, UsageError
from sestrack.links import is_field, is_placeholder
from sestrack.rewrite import has_tag, looks_like_message, refuse_other_input
from sestrack.store import now
from sestrack.tokens import check_text
from sestrack.tracking import How, Tracking, check_field, label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sestrack.commands.rewrite import Request
    from sestrack.commands.rewrite_report import Report
    from sestrack.mail.mime import Message
    from sestrack.rewrite import Template

HEAD = 65_536
"""Octets looked at to tell what the input is."""


def run(request: Request, store: str) -> int:
    """Carry out a command line; return the exit code."""
    try:
        _check(request)
        if request.jsonl:
            from sestrack.commands.rewrite_lines import run as run_lines

            return run_lines(request, store)
        if request.recipients:
            from sestrack.commands.rewrite_campaign import run as run_campaign

            return run_campaign(request, store)
        if request.diff:
            output.report()
        sources = inputs(request)
        check_texts(request)
        rewriter = _Rewriter(request, store, sources)
    except Exception as error:  # a bug of ours, too: the mail goes out
        if request.jsonl and isinstance(error, SestrackError):
            output.error(error.message, error.hint)  # first: who keeps us open waits for it
            if not quiet(request):
                pass_through()
            return error.code
        original(request)
        raise
    worst = 0
    try:
        with output.progress("rewriting", len(sources)) as step:
            for source in sources:
                try:
                    code = _one(rewriter, source)
                except SestrackError as error:
                    if source.name not in {"-", *error.message.split()}:
                        error.message = f"{source.name}: {error.message}"
                    if len(sources) == 1:
                        raise
                    output.error(error.message, _hint(request, source.name, error.hint))
                    code = error.code
                worst = code or worst
                step()
    finally:
        if request.count and rewriter.made:
            count(store, rewriter.tracking.sender, rewriter.made)
    return worst


def _hint(request: Request, name: str, hint: str) -> str:
    """Return a hint for one of many mails: for all of them a recipient would be wrong."""
    if "--recipient ID" not in hint:
        return hint
    return f"{request.line(files=(name,), recipient='ID')}  # for that mail alone"


def how(request: Request) -> How:
    """Take from the command line what is the same for all copies."""
    return How(request.pixel, request.wrap_unsubscribe, request.recipient_field, request.plain)


def minted(request: Request) -> int:
    """Return the minting time, in seconds since 1970."""
    if not request.at:
        return now()
    from sestrack.times import seconds_of

    return seconds_of(request.at)


def check_texts(request: Request) -> None:
    """Raise `BadInput` for a recipient, label or merge field that cannot be."""
    check_text("recipient", request.recipient)
    check_field(request.recipient_field)
    if is_field(request.recipient):
        msg = f"the recipient {request.recipient!r} is a merge field: all readers would be one"
        field = _field_like(request.recipient)
        raise UsageError(msg, request.line(recipient="", recipient_field=field))
    if request.recipient_field and not is_placeholder(request.recipient_field):
        output.warn(f"{request.recipient_field} does not look like a merge field")
    if "mail" in request.recipient_field.lower():
        output.warn(
            f"{request.recipient_field} is to become a token in each copy, from the column that "
            "`sestrack recipients` adds; with an address in its place no link leads anywhere"
        )
    if request.recipient.endswith(">") and "<" in request.recipient:
        address = request.recipient.rpartition("<")[2][:-1]
        output.warn(f"the recipient is {request.recipient!r} as a whole; was {address} meant?")
    if request.recipient and "@" not in request.recipient and os.path.isfile(request.recipient):
        meant = f"--recipients {files.typed(request.recipient)}"
        output.warn(f"the recipient {request.recipient} is the name of a file; was {meant} meant?")
    check_text("message label", request.message)


def _field_like(field: str) -> str:
    """Return a merge field for tokens, in the marks of another one."""
    marks = re.fullmatch(r"([^\w'\"`\\]+)([\w.]+)([^\w'\"`\\]+)", field)
    if not marks:
        return "{{sestrack}}"
    return marks[1] + ("SESTRACK" if marks[2].isupper() else "sestrack") + marks[3]


# -- one input -----------------------------------------------------------------------------


class _Result(NamedTuple):
    """What came of one document or message."""

    data: bytes
    label: str
    recipient: str
    untracked: str
    """Why it is as it was; "" if it was rewritten."""
    templates: list[tuple[str, str, bytes, Template]]
    """Number of the part ("" for HTML alone), its type, its content, what was made of it."""


class _Rewriter:
    """Rewrites documents and messages as one command line says."""

    def __init__(self, request: Request, store: str, sources: list[Input]) -> None:
        self.request = request
        self.report: Report | None = None
        if request.report:
            from sestrack.commands.rewrite_report import Report

            self.report = Report(request.report, _files_of(request, sources))
        self.tracking = Tracking.of(store, request.sender)
        self.how = how(request)
        self.minted = minted(request)
        self.made: Counter[str] = Counter()
        """Copies of each message that were delivered,"""
        self.fresh: list[str] = []
        """and those that are to be, by their message."""
        self.addressed: list[bytes] | None = None
        """Whom the message before went to,"""
        self.is_warned = False
        """and whether it was said that others go elsewhere."""

    def rewrite(self, name: str, data: bytes, kind: str) -> tuple[bytes, int]:
        """Rewrite; return the result, or the original with the reason said, and an exit code."""
        if self.report is not None:
            self.report.begin()
        result = self._message(data) if kind == "message" else self._html(data)
        if result.untracked:
            where = "" if name == "-" else f"{name}: "
            output.note(f"sestrack: {where}untracked: {result.untracked}")
            return data, EXIT_NO if self.request.strict else 0
        if self.how.field:
            for _, _, content, _ in result.templates:
                refuse_copies(self.tracking, name, content)
        elif not self._is_made(name, result) and result.data != data:
            self.fresh.append(result.label)
        if self.request.verify:
            self._verify(result)
        if self.request.recipient_field and not self.request.message:
            words = re.findall(r"\w+", self.request.recipient_field)
            name = f" --name {words[-1]}" if words and words[-1].lower() != "sestrack" else ""
            output.note(
                f"the message is {result.label}; next: sestrack recipients list.csv "
                f"--sender {self.tracking.sender} --message {files.quoted(result.label)}{name}"
            )
        if self.report is not None:
            self.report.add(name, [(part[0], part[3]) for part in result.templates])
        return result.data, 0

    def delivered(self) -> None:
        """Count the copies made since, if they are to go to somebody."""
        if not quiet(self.request):
            self.made.update(self.fresh)

    def _html(self, data: bytes) -> _Result:
        untracked = self.tracking.untracked
        if not untracked and self.request.type == "auto" and not has_tag(data):
            untracked = "it has no tag, and may be plain text; --type html"
        if untracked:
            refuse_other_input(data)
            return _Result(data, "", "", untracked, [])
        _check_no_header(self.request)
        request = self.request
        message = request.message or label(data)
        token = self.how.field.encode()
        size = 0
        if not token:
            token = self.tracking.copy_token(message, request.recipient, self.minted)
            size = len(token)
        letter = self.tracking.compile(data, message, self.how, copy_size=size)
        result = letter.template.render(token)
        parts = [("", "text/html", data, letter.template)]
        return _Result(result, message, request.recipient, "", parts)

    def _message(self, data: bytes) -> _Result:
        from sestrack.mail.message import label_of, recipient_of
        from sestrack.mail.mime import read

        request = self.request
        message = read(data)
        recipient: str | None = request.recipient or None
        if recipient:
            self._warn_of_others(message)
        label = request.message
        if self.tracking.entry is not None:
            if request.recipient_header:
                recipient = recipient_of(message, request.recipient_header)
            if request.message_header and not label:
                label = label_of(message, request.message_header)
        done = self.tracking.rewrite_message(message, recipient, label, self.minted, self.how)
        templates = [
            (part.number, part.kind, content, template) for part, content, template in done.parts
        ]
        return _Result(done.data, done.label, done.recipient, done.untracked, templates)

    def _warn_of_others(self, message: Message) -> None:
        """Say it if mails to several people are all made copies for one."""
        to = message.values("To")
        if self.addressed not in (None, to) and not self.is_warned:
            self.is_warned = True
            whom = self.request.recipient
            output.warn(f"mails to several addresses are all made copies for {whom}")
        self.addressed = to

    def _is_made(self, name: str, result: _Result) -> bool:
        meant = Meant(result.recipient, self.request.message, result.label)
        return any(
            is_made(self.tracking, name, content, meant, changed=bool(template.holes))
            for _, _, content, template in result.templates
        )

    def _verify(self, result: _Result) -> None:
        from sestrack.mail.audit import check_unharmed

        for _, kind, content, template in result.templates:
            if kind == "text/html":
                check_unharmed(content, template, self.tracking.base)


def _files_of(request: Request, sources: list[Input]) -> Iterator[str]:
    """Name what is read, and what is written."""
    yield from (source.name for source in sources)
    if request.output:
        yield request.output
        yield from (os.path.join(request.output, source.place) for source in sources)


def _check_no_header(request: Request) -> None:
    """Raise `UsageError` if HTML is to be named by a header: its copy would be nobody's."""
    if request.recipient_header:
        msg = f"--recipient-header {request.recipient_header}: the input is HTML, without headers"
        raise UsageError(msg, request.line(recipient_header="", recipient="ID"))
    if request.message_header and not request.message:
        msg = f"--message-header {request.message_header}: the input is HTML, without headers"
        raise UsageError(msg, request.line(message_header="", message="june"))


def _one(rewriter: _Rewriter, source: Input) -> int:
    """Rewrite one input, whatever it is; return the exit code.  A mail that fails goes out."""
    request, name = rewriter.request, source.name
    rewriter.fresh.clear()
    with files.reading(name) as file:
        head = file.read(HEAD)
        kind = _kind(request.type, head)
        if kind == "mbox" and head.startswith(b"From "):
            from sestrack.mail.mailbox import stream

            return _mailbox(rewriter, source, stream(file, head))
        data = head + file.read()
    try:
        if kind == "mbox":
            begun = head[:20].partition(b"\n")[0].decode(errors="replace").strip()
            msg = f"the input is no mbox, for it begins with {begun!r}, not `From sender date`"
            raise BadInput(msg, f"--type {_kind('auto', head)}")
        result, code = rewriter.rewrite(name, data, kind)
    except Exception:
        if not (quiet(request) or request.in_place):
            deliver(request, source, (data,))
        raise
    code = _finish(request, source, data, result) or code
    rewriter.delivered()
    return code


def _kind(asked: str, head: bytes) -> str:
    """Tell what the input is: html, message or mbox."""
    if asked != "auto":
        return asked
    if head.startswith(b"From "):
        from sestrack.mail.mime import is_mbox

        return "mbox" if is_mbox(head) else "message"
    return "message" if looks_like_message(head) else "html"


def _mailbox(rewriter: _Rewriter, source: Input, messages: Iterable[bytes]) -> int:
    """Rewrite the messages of an mbox, one by one."""
    request, name = rewriter.request, source.name
    worst = 0

    def results() -> Iterator[bytes]:
        nonlocal worst
        for number, data in enumerate(messages, 1):
            here = f"message {number}" if name == "-" else f"{name}: message {number}"
            result, code = data, 0
            try:
                result, code = rewriter.rewrite(here, data, "message")
            except SestrackError as error:
                hint = _hint(request._replace(output=""), "message.eml", error.hint)
                output.error(f"{here}: {error.message}", hint)
                code = error.code
            except Exception as error:  # noqa: BLE001 - the other messages must not be lost for it
                code = bug(here, error)
            if quiet(request):
                code = _finish(request, Input(here, ""), data, result) or code
            worst = code or worst
            yield result

    if quiet(request):
        for _ in results():
            pass
    else:
        deliver(request, source, results())
        rewriter.delivered()
    return worst


def bug(where: str, error: Exception) -> int:
    """Say that one mail of many met a bug of ours; return the exit code."""
    hint = "the mail is as it was; please report it"
    output.error(f"{where}: a bug of ours: {type(error).__name__}: {error}", hint)
    return EXIT_BUG


def _finish(request: Request, source: Input, data: bytes, result: bytes) -> int:
    """Show or deliver a result."""
    name = source.name
    if request.diff:
        from sestrack.commands.rewrite_report import show_diff

        show_diff(name, data, result)
    if request.check:
        if result != data:
            output.note(f"would change {name}")
            return EXIT_NO
        return 0
    if not request.diff and (result != data or not request.in_place):
        try:
            deliver(request, source, (result,))
        except SestrackError:
            if name == "-" and request.output not in {"", "-"}:  # nobody else has the mail
                output.write_bytes(data)
            raise
    return 0


# -- the command line -----------------------------------------------------------------------


def _check(request: Request) -> None:
    if not request.sender:
        msg = "--sender is empty; is a variable not set?"
        raise UsageError(msg, request.line(sender="news.example.com"))
    for option, others in _EXCLUSIVE.items():
        clash = next((other for other in others if getattr(request, _name(other))), None)
        if clash and getattr(request, _name(option)):
            msg = f"{option} and {clash} exclude each other"
            raise UsageError(msg, "sestrack rewrite --help")
    if not request.recipients and (request.resume or request.column or request.jobs != "1"):
        msg = "--resume, --column and --jobs go with --recipients"
        raise UsageError(msg, "--recipients list.csv")
    if not request.files and not request.jsonl and sys.stdin is not None and sys.stdin.isatty():
        msg = "there is nothing to rewrite: standard input is a terminal"
        raise UsageError(msg, f"{request.line()} < letter.html")


_EXCLUSIVE = {
    "--recipient": ("--recipient-field", "--recipient-header", "--recipients", "--jsonl"),
    "--recipient-field": ("--recipient-header", "--recipients", "--jsonl"),
    "--recipient-header": ("--recipients", "--jsonl"),
    "--recipients": ("--jsonl",),
    "--message-header": ("--jsonl",),
}


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
