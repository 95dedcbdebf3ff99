"""What `sestrack rewrite` does: a pipe, files, messages, mailboxes.

The mail comes first: whatever goes wrong, the original bytes go out and the exit code
tells.  An output file is written beside and renamed.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from sestrack import files, output
from sestrack.errors import EXIT_BUG, EXIT_NO, BadInput, SestrackError, UsageError
from sestrack.rewrite import looks_like_message, refuse_other_input
from sestrack.store import now
from sestrack.tokens import check_text
from sestrack.tracking import How, Tracking, check_field, label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sestrack.commands.rewrite import Request
    from sestrack.rewrite import Template

HEAD = 65_536
"""Octets looked at to tell what the input is."""


def run(request: Request, store: str | None) -> int:
    """Carry out a command line; return the exit code."""
    _check(request)
    if request.jsonl:
        from sestrack.commands.rewrite_lines import run as run_lines

        return run_lines(request, store)
    if request.recipients:
        from sestrack.commands.rewrite_campaign import run as run_campaign

        return run_campaign(request, store)
    inputs = list(_inputs(request.files))
    _check_output(request, inputs)
    if request.report and os.path.isfile(request.report):
        os.truncate(request.report, 0)
    try:
        check_texts(request)
        rewriter = _Rewriter(request, store)
    except Exception:  # a bug of ours, too: the mail goes out
        if len(inputs) == 1 and not (_quiet(request) or request.in_place):
            _deliver(request, inputs[0], files.read(inputs[0]))
        raise
    worst = 0
    with output.progress("rewriting", len(inputs)) as step:
        for name in inputs:
            worst = _one(rewriter, name, alone=len(inputs) == 1) or worst
            step()
    if request.count and rewriter.made:
        count(store, rewriter.tracking.sender, rewriter.made)
    return worst


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
    check_text("message label", request.message)
    check_field(request.recipient_field)


# -- one input -----------------------------------------------------------------------------


class _Result(NamedTuple):
    """What came of one document or message."""

    data: bytes
    label: str
    untracked: str
    """Why it is as it was; "" if it was rewritten."""
    templates: list[tuple[str, str, bytes, Template]]
    """Number of the part ("" for HTML alone), its type, its content, what was made of it."""


class _Rewriter:
    """Rewrites documents and messages as one command line says."""

    def __init__(self, request: Request, store: str | None) -> None:
        self.request = request
        self.tracking = Tracking.of(store, request.sender)
        self.how = how(request)
        self.minted = minted(request)
        self.made: dict[str, int] = {}
        """Copies made of each message."""

    def rewrite(self, name: str, data: bytes, kind: str) -> tuple[bytes, int]:
        """Rewrite; return the result, or the original with the reason said, and an exit code."""
        result = self._message(data) if kind == "message" else self._html(data)
        if result.untracked:
            where = "" if name == "-" else f"{name}: "
            output.note(f"sestrack: {where}untracked: {result.untracked}")
            return data, EXIT_NO if self.request.strict else 0
        if self.request.verify:
            self._verify(result)
        if self.request.report:
            from sestrack.commands.rewrite_report import report

            report(self.request.report, name, [(part[0], part[3]) for part in result.templates])
        self.made[result.label] = self.made.get(result.label, 0) + 1
        return result.data, 0

    def _html(self, data: bytes) -> _Result:
        if self.tracking.entry is None:
            refuse_other_input(data)
            return _Result(data, "", self.tracking.untracked, [])
        message = self.request.message or label(data)
        token = self.how.field.encode()
        size = 0
        if not token:
            token = self.tracking.copy_token(message, self.request.recipient, self.minted)
            size = len(token)
        letter = self.tracking.compile(data, message, self.how, copy_size=size)
        result = letter.template.render(token)
        return _Result(result, message, "", [("", "text/html", data, letter.template)])

    def _message(self, data: bytes) -> _Result:
        from sestrack.mail.message import label_of, recipient_of
        from sestrack.mail.mime import read

        request = self.request
        message = read(data)
        recipient: str | None = request.recipient or None
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
        return _Result(done.data, done.label, done.untracked, templates)

    def _verify(self, result: _Result) -> None:
        from sestrack.mail.audit import check_unharmed

        for _, kind, content, template in result.templates:
            if kind == "text/html":
                check_unharmed(content, template, self.tracking.base)


def _one(rewriter: _Rewriter, name: str, *, alone: bool) -> int:
    """Rewrite one input, whatever it is; return the exit code."""
    request = rewriter.request
    with files.reading(name) as file:
        head = file.read(HEAD)
        kind = _kind(request.type, head)
        if kind == "mbox" and head.startswith(b"From "):
            from sestrack.mail.mailbox import stream

            return _mailbox(rewriter, name, stream(file, head))
        data = head + file.read()
    failure: SestrackError | None = None
    result, code = data, 0
    try:
        if kind == "mbox":
            msg = f"the input is no mbox, for it begins with {head[:20]!r}, not `From sender date`"
            raise BadInput(msg, "--type message")
        result, code = rewriter.rewrite(name, data, kind)
    except SestrackError as error:
        failure, code = error, error.code
    except Exception:
        if not (_quiet(request) or request.in_place):
            _deliver(request, name, data)
        raise
    if failure is None or not _quiet(request):
        code = _finish(request, name, data, result) or code
    if failure is not None:
        if alone:
            raise failure
        output.error(f"{name}: {failure.message}", failure.hint)
    return code


def _kind(asked: str, head: bytes) -> str:
    """Tell what the input is: html, message or mbox."""
    if asked != "auto":
        return asked
    if head.startswith(b"From "):
        from sestrack.mail.mailbox import is_mbox

        return "mbox" if is_mbox(head) else "message"
    return "message" if looks_like_message(head) else "html"


def _mailbox(rewriter: _Rewriter, name: str, messages: Iterable[bytes]) -> int:
    """Rewrite the messages of an mbox, one by one."""
    request = rewriter.request
    worst = 0

    def results() -> Iterator[bytes]:
        nonlocal worst
        for number, data in enumerate(messages, 1):
            here = f"message {number}" if name == "-" else f"{name}: message {number}"
            result, code = data, 0
            try:
                result, code = rewriter.rewrite(here, data, "message")
            except SestrackError as error:
                output.error(f"{here}: {error.message}", error.hint)
                code = error.code
            except Exception as error:  # noqa: BLE001 - the other messages must not be lost for it
                code = bug(here, error)
            if _quiet(request):
                code = _finish(request, here, data, result) or code
            worst = code or worst
            yield result

    if _quiet(request):
        for _ in results():
            pass
    else:
        _deliver_all(request, name, results())
    return worst


def bug(where: str, error: Exception) -> int:
    """Say that one mail of many met a bug of ours; return the exit code."""
    hint = "the mail is as it was; please report it"
    output.error(f"{where}: a bug of ours: {type(error).__name__}: {error}", hint)
    return EXIT_BUG


def _finish(request: Request, name: str, data: bytes, result: bytes) -> int:
    """Show or deliver a result."""
    if request.diff:
        from sestrack.commands.rewrite_report import show_diff

        show_diff(name, data, result)
    if request.check:
        if result != data:
            output.note(f"would change {name}")
            return EXIT_NO
        return 0
    if not request.diff and (result != data or not request.in_place):
        _deliver(request, name, result)
    return 0


COUNT_SECONDS = 0.25
"""How long counting waits for a busy store."""


def count(store: str | None, sender: str, made: Mapping[str, int]) -> None:
    """Count copies as well as can be, when they are out: no mail waits for it."""
    from sestrack.store import count_copies, default_address

    try:
        count_copies(store or default_address(), sender, made, wait=COUNT_SECONDS)
    except SestrackError as error:
        output.warn(f"{sum(made.values())} copies are not counted: {error.message}")


# -- what is read and where it goes ----------------------------------------------------------


def _quiet(request: Request) -> bool:
    return request.diff or request.check


def _check(request: Request) -> None:
    for option, others in _WHO.items():
        clash = next((other for other in others if getattr(request, _name(other))), None)
        if clash and getattr(request, _name(option)):
            msg = f"{option} and {clash} exclude each other"
            raise UsageError(msg, "sestrack rewrite --help")
    if not request.recipients and (request.resume or request.column or request.jobs != "1"):
        msg = "--resume, --column and --jobs go with --recipients"
        raise UsageError(msg, "sestrack rewrite letter.html --sender DOMAIN --recipients list.csv")
    if not request.files and not request.jsonl and sys.stdin is not None and sys.stdin.isatty():
        msg = "there is nothing to rewrite: standard input is a terminal"
        raise UsageError(msg, "sestrack rewrite --sender DOMAIN < letter.html")


_WHO = {
    "--recipient": ("--recipient-field", "--recipient-header", "--recipients", "--jsonl"),
    "--recipient-field": ("--recipient-header", "--recipients", "--jsonl"),
    "--recipient-header": ("--recipients", "--jsonl"),
    "--recipients": ("--jsonl",),
}


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _check_output(request: Request, inputs: list[str]) -> None:
    if request.in_place and (request.output or not request.files or "-" in request.files):
        msg = "--in-place needs files, and no --output"
        raise UsageError(msg, "sestrack rewrite --sender DOMAIN --in-place letter.html")
    if len(inputs) > 1 and not (
        request.in_place or _quiet(request) or os.path.isdir(request.output)
    ):
        msg = f"{len(inputs)} files cannot go to one output"
        raise UsageError(msg, "--output FOLDER")
    if request.report == "-" and not (request.in_place or request.output or request.check):
        msg = "--report - would mix with the mail on standard output"
        raise UsageError(msg, "--report FILE")


def _inputs(names: tuple[str, ...]) -> Iterator[str]:
    """Name the files; a folder means its .html, .htm and .eml, a Maildir its messages."""
    for name in names or ("-",):
        if name == "-" or not os.path.isdir(name):
            yield name
            continue
        from sestrack.mail.mailbox import is_maildir, maildir_files

        if is_maildir(name):
            yield from maildir_files(name)
            continue
        for folder, folders, inner_names in os.walk(name):
            folders.sort()
            for inner in sorted(inner_names):
                if inner.lower().endswith((".html", ".htm", ".eml")):
                    yield os.path.join(folder, inner)


def _deliver(request: Request, name: str, data: bytes) -> None:
    _deliver_all(request, name, (data,))


def _deliver_all(request: Request, name: str, pieces: Iterable[bytes]) -> None:
    target = name if request.in_place else request.output
    if not target or target == "-":
        for piece in pieces:
            output.write_bytes(piece)
        return
    maildir = _maildir_of(name)
    if maildir and (request.in_place or os.path.isdir(target)):
        from sestrack.mail.mailbox import deliver

        deliver(
            maildir if request.in_place else target,
            name,
            b"".join(pieces),
            keep=not request.in_place,
        )
        return
    if os.path.isdir(target):
        target = os.path.join(target, os.path.basename(name))
    with files.beside(target) as beside, open(beside, "wb") as file:
        for piece in pieces:
            file.write(piece)


def _maildir_of(name: str) -> str:
    """Return the Maildir that a file lies in, or ""."""
    folder = os.path.dirname(name)
    if os.path.basename(folder) not in {"new", "cur"}:
        return ""
    from sestrack.mail.mailbox import is_maildir

    above = os.path.dirname(folder) or "."
    return above if is_maildir(above) else ""
