"""`sestrack rewrite TEMPLATE --recipients list.csv`: a copy for each recipient."""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack, suppress
from hashlib import blake2b
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from sestrack import files, output
from sestrack.commands.rewrite_copies import count, refuse_copies
from sestrack.commands.rewrite_run import HEAD, check_texts, how, minted
from sestrack.errors import EXIT_NO, BadInput, InputOutputError, NotSetUp, Refused, UsageError
from sestrack.links import fields_in
from sestrack.mail.campaign import (
    BLOCK,
    INDEX,
    Journal,
    Output,
    Plan,
    check_same,
    finish,
    make,
    open_result,
    read_journal,
    resume_at,
)
from sestrack.mail.recipients import open_list
from sestrack.rewrite import has_tag, looks_like_message
from sestrack.store import count_copies
from sestrack.tracking import Letter, Tracking

if TYPE_CHECKING:
    from sestrack.commands.rewrite import Request


def run(request: Request, store: str) -> int:
    """Make the copies; return the exit code."""
    jobs = _check(request)
    check_texts(request)
    name = request.files[0] if request.files else "-"
    data = files.read(name)
    if looks_like_message(data):
        msg = "a campaign's template is HTML, and this is a whole message"
        hint = f"sestrack rewrite --sender {files.quoted(request.sender)} --recipient ID"
        file = "".join(f" {files.typed(name)}" for name in request.files if name != "-")
        raise UsageError(msg, f"{hint}{file or ' < message.eml'}  # once for each recipient")
    if request.type == "auto" and not has_tag(data):
        msg = f"the template {files.shown(name)} has no tag, and may be plain text"
        raise BadInput(msg, _swapped(request) or "--type html")
    tracking = Tracking.of(store, request.sender)
    refuse_copies(tracking, name, data)
    if fields := fields_in(data):
        more = f" and {len(fields) - 1} more" if fields[1:] else ""
        output.warn(f"the copies have {fields[0]}{more} as it stands: `rewrite` fills in nothing")
    total, people = _read_list(request)
    if _is_stream(request.output):
        return _to_stream(
            request, store, tracking.compile(data, request.message, how(request)), jobs, total
        )
    return _Campaign(request, store, tracking, data, people).run(jobs, total)


def _swapped(request: Request) -> str:
    """Return the command with template and list the other way round, if that is what was meant."""
    if not os.path.isfile(request.recipients) or not has_tag(files.read(request.recipients)[:HEAD]):
        return ""
    list_ = request.files[0] if request.files else "-"
    return request.line(files=(request.recipients,), recipients=list_)


_NOT_OURS = {".csv", ".htm", ".html", ".eml", ".mbox", ".xlsx", ".zip"}
"""Ends of names that somebody might wait for, and that are none of ours."""


def _check(request: Request) -> int:
    for name in _NOT_HERE:
        if getattr(request, name):
            msg = f"--{name.replace('_', '-')} does not go with --recipients"
            where = request.output or "copies.jsonl"
            raise UsageError(msg, _line(request, output=where))
    if len(request.files) > 1:
        msg = f"a campaign has one template, not {len(request.files)}"
        raise UsageError(msg, _line(request))
    for name in (*request.files, request.recipients):
        if files.is_same(request.output, name):
            msg = f"the output {request.output} is what the campaign is made of"
            raise UsageError(msg, "--output copies.jsonl")
    stem, end = os.path.splitext(request.output)
    if end.lower() in _NOT_OURS and not os.path.isdir(request.output):
        msg = (
            f"{request.output} would not be what its name says: copies are JSON Lines, or a folder"
        )
        raise UsageError(msg, _line(request, output=f"{stem}.jsonl"))
    if os.path.basename(request.output.rstrip("/")) in {".", ".."} or request.output == "/":
        msg = f"{request.output} is there, and copies get a folder of their own"
        folder = f"{request.output.rstrip('/')}/copies/"
        raise UsageError(msg, _line(request, output=folder))
    if request.recipients == "-" and request.files[:1] in {(), ("-",)}:
        msg = "standard input cannot be the template and the list"
        raise UsageError(msg, f"{_line(request)} < list.csv")
    if request.resume and (_is_stream(request.output) or request.recipients == "-"):
        msg = "--resume needs a list and an output that are files"
        where = "copies.jsonl" if _is_stream(request.output) else request.output
        people = _a_file(request.recipients) or "list.csv"
        raise UsageError(msg, _line(request, recipients=people, output=where))
    if not request.jobs.isdecimal() or not 1 <= int(request.jobs) <= (os.cpu_count() or 1) * 4:
        msg = f"--jobs {request.jobs!r} is not a number of processes that helps here"
        raise UsageError(msg, f"--jobs {os.cpu_count() or 1}")
    if request.jobs != "1" and request.recipients == "-":
        msg = "several processes cannot read one standard input"
        raise UsageError(msg, "--jobs 1")
    return int(request.jobs)


_NOT_HERE: dict[str, Any] = {
    "in_place": False, "diff": False, "check": False, "report": "", "verify": False,
    "count": False, "plain": False, "message_header": "",
}  # fmt: skip
"""What does not go with a campaign."""


def _line(request: Request, **changes: Any) -> str:
    """Return the campaign that a command line may have meant."""
    template = _a_file(*request.files) or "letter.html"
    return request.line(files=(template,), **_NOT_HERE | changes)


def _a_file(*names: str) -> str:
    """Return the first name that is not standard input, "" for none."""
    return next((name for name in names if name != "-"), "")


def _read_list(request: Request) -> tuple[int, str]:
    """Read the whole list once, so that what is wrong in it is known before a copy is made.

    Returns how many it names, and a digest: going on with another list would leave some out.
    Warns of what makes a copy each, and may not be meant so.
    """
    if request.recipients == "-":
        return 0, ""
    number, digest = 0, blake2b(digest_size=16)
    seen: set[int] = set()
    again, several, plain = _Doubt(), _Doubt(), _Doubt()
    is_odd = _SEVERAL.search
    with open_list(request.recipients, request.column) as found:
        for number, recipient, _ in found.rows:
            digest.update(recipient.encode("utf-8", "surrogatepass") + b"\0")
            known = hash(recipient)
            if known in seen:
                again.add(number, recipient)
            elif number <= COMPARED:
                seen.add(known)
            if "@" not in recipient:
                plain.add(number, recipient)
            elif is_odd(recipient):
                several.add(number, recipient)
        is_named = request.column or "recipient" in found.heading.lower()
    again.say("stands in the list before: a copy is made each time")
    several.say("is taken as it stands; an address alone is wanted")
    if plain.count == number and not is_named:
        plain.say("is no address, nor is any other; --column names another column")
    return number, digest.hexdigest()


COMPARED = 100_000
"""Recipients of a list that all others are compared with; more would take memory."""
_SEVERAL = re.compile("[<,; ]")


class _Doubt:
    """Recipients of a list that may not be meant: the first, and how many."""

    def __init__(self) -> None:
        self.count = 0
        self._first = ""

    def add(self, number: int, recipient: str) -> None:
        """Note one."""
        self.count += 1
        self._first = self._first or f"recipient {number}, {recipient}"

    def say(self, words: str) -> None:
        """Warn, if there is any."""
        if self.count:
            more = f", and {self.count - 1:,} more" if self.count > 1 else ""
            output.warn(f"{self._first}{more}: {words}")


def _is_stream(name: str) -> bool:
    """Is it standard output, a device or a pipe, with which nobody can go on later?"""
    return name in {"", "-"} or files.is_special(name)


def _to_stream(request: Request, store: str, letter: Letter, jobs: int, total: int) -> int:
    plan = Plan(letter, minted(request), request.recipients, request.column)
    made = in_all = 0
    try:
        with ExitStack() as stack, output.progress("copies", total) as bar:
            file = sys.stdout
            if files.is_special(request.output):
                file = stack.enter_context(open(request.output, "w", encoding="utf-8"))
            file.flush()
            _widen_pipe(file.fileno())

            def step(number: int) -> None:
                nonlocal made
                made += number
                bar(number)

            make(plan, Output(file.fileno(), ""), jobs, step)
    except OSError as error:
        where = request.output if files.is_special(request.output) else "standard output"
        msg = f"writing to {where} failed: {error.strerror}"
        surely = f"{made} copies are out, and up to {BLOCK * jobs} more may be"
        raise InputOutputError(msg, surely) from None
    finally:
        if letter.tracking.entry is not None and made:
            in_all = count(store, letter.tracking.sender, {letter.message: made})
    return _say(letter, made, in_all, "", strict=request.strict)


def _widen_pipe(file: int) -> None:
    """Let a pipe hold a megabyte where that can be had: fewer turns for writer and reader."""
    import fcntl

    with suppress(OSError, AttributeError):
        fcntl.fcntl(file, fcntl.F_SETPIPE_SZ, 1 << 20)


def _say(letter: Letter, made: int, in_all: int, where: str, *, strict: bool) -> int:
    """Say what was made; `in_all` is how many copies the message has with those of before."""
    to = f" in {where}" if where else ""
    copies = "1 copy" if made == 1 else f"{made:,} copies"
    if letter.tracking.entry is None:
        output.warn(f"{copies}{to}, all of them untracked: {letter.tracking.untracked}")
        return EXIT_NO if strict else 0
    if not made:
        output.warn(f"the list names nobody below its heading: no copies{to}")
        return 0
    if in_all > made:
        output.warn(
            f"{letter.message} has {in_all:,} copies now, with those of before: if they were not "
            "sent, its rates are too low; --message gives another label"
        )
    output.note(
        f"{copies} of {letter.message}{to}; when they are sent: "
        f"sestrack stats --message {files.quoted(letter.message)}"
    )
    return 0


class _Campaign:
    """A campaign into a file or a folder, which can be gone on with."""

    def __init__(
        self, request: Request, store: str, tracking: Tracking, data: bytes, people: str
    ) -> None:
        self.request, self.store, self.people = request, store, people
        self.is_folder = request.output.endswith("/") or os.path.isdir(request.output)
        self.name = request.output.rstrip("/")
        self.partial = f"{self.name}.partial"
        self.result = f"{self.partial}/{INDEX}" if self.is_folder else self.partial
        journal = read_journal(f"{self.partial}.json")
        if journal is not None and not os.path.exists(self.partial) and _is_finished(self.name):
            os.unlink(journal.path)  # it was killed when all was done but this
            journal = None
        if journal is not None and not request.resume:
            msg = f"a campaign into {self.name} was interrupted"
            raise Refused(msg, "--resume")
        if journal is None and request.resume and _is_finished(self.name):
            msg = f"{self.name} is finished: there is nothing to go on with"
            raise Refused(msg, f"ls -l {files.typed(self.name)}")
        if journal is None and self._has_copies():
            msg = f"{self.partial} is there, and no journal of a campaign that it belongs to"
            raise Refused(msg, f"rm -r {files.typed(self.partial)}")
        if self.is_folder and os.path.isfile(self.name):
            msg = f"{self.name} is a file, and a folder is wanted"
            raise Refused(msg, f"--output {files.typed(self.name)}.copies/")
        if self.is_folder and os.path.isdir(self.name) and os.listdir(self.name):
            msg = f"the folder {self.name} is not empty"
            raise Refused(msg, f"--output {files.typed(f'{self.name}-2')}/")
        if journal is None and os.path.isfile(self.name) and os.path.getsize(self.name):
            msg = f"{self.name} is there already, and may be the copies of another campaign"
            stem, end = os.path.splitext(self.name)
            raise Refused(msg, f"--output {files.typed(f'{stem}-2{end}')}")
        self.letter, self.journal = self._begin(tracking, data, journal)

    def _has_copies(self) -> bool:
        """See whether something is there already that is not just begun."""
        just_begun = os.path.isfile(self.result) and not os.path.getsize(self.result)
        return os.path.exists(self.partial) and not just_begun

    def _begin(
        self, tracking: Tracking, data: bytes, journal: Journal | None
    ) -> tuple[Letter, Journal]:
        request = self.request
        if journal is not None:
            if tracking.entry is None and journal.facts.get("trace_domain"):
                msg = (
                    f"the interrupted campaign was tracked, and now it is not: {tracking.untracked}"
                )
                raise Refused(msg, f"sestrack settings show --sender {tracking.sender}")
            # copies go on under the key they began with
            tracking = _with_key(tracking, int(journal.facts["key"]))
        letter = tracking.compile(data, request.message, how(request))
        facts: dict[str, Any] = {
            "id": token_hex(16), "minted": minted(request), "sender": tracking.sender,
            "message": letter.message, "trace_domain": tracking.trace_domain,
            "key": tracking.keys[0].id if tracking.keys else 0,
            "template": blake2b(b"\0".join(letter.template.chunks), digest_size=16).hexdigest(),
            "recipients": os.path.abspath(request.recipients), "column": request.column,
            "list": self.people,
        }  # fmt: skip
        if journal is None:
            return letter, Journal(f"{self.partial}.json", facts)
        check_same(journal, facts)
        if request.at and facts["minted"] != journal.facts["minted"]:
            msg = "the interrupted campaign had another --at"
            raise Refused(msg, "--resume without --at")
        return letter, journal

    def run(self, jobs: int, total: int) -> int:
        """Make what is not made yet; count; give the result its name."""
        facts = self.journal.facts
        with open_result(self.result) as file:
            self.journal.write()
            done = resume_at(file, as_json=not self.is_folder)
            plan = Plan(
                self.letter, facts["minted"], self.request.recipients, self.request.column, done
            )
            out = Output(file.fileno(), self.partial if self.is_folder else "")
            try:
                with output.progress("copies", total, done) as bar:
                    made = done + make(plan, out, jobs, bar)
            except KeyboardInterrupt:
                output.note(f"\ninterrupted; the same command with --resume goes on: {self.name}")
                raise
            except OSError as error:
                msg = f"writing {self.result} failed: {error.strerror}"
                raise InputOutputError(msg, "df -h; then the same command with --resume") from None
            in_all = 0
            if self.letter.tracking.entry is not None:
                in_all = count_copies(
                    self.store, facts["sender"], {facts["message"]: made},
                    facts["id"],
                )  # fmt: skip
            if self.is_folder and os.path.isdir(self.name):
                os.rmdir(self.name)
            finish(file, self.partial, self.name)
        os.unlink(self.journal.path)
        return _say(self.letter, made, in_all, self.name, strict=self.request.strict)


def _is_finished(name: str) -> bool:
    return bool(os.listdir(name)) if os.path.isdir(name) else os.path.exists(name)


def _with_key(tracking: Tracking, key_id: int) -> Tracking:
    if tracking.entry is None or tracking.keys[0].id == key_id:
        return tracking
    keys = sorted(tracking.keys, key=lambda key: key.id != key_id)
    if keys[0].id != key_id:
        msg = f"the interrupted campaign was sealed with key {key_id}, which the store has not"
        raise NotSetUp(msg, "sestrack keys list")
    return tracking._replace(keys=keys)
