"""`sestrack rewrite`: a filter from HTML to tracked HTML.

A mail server's pipe starts it once per message, so its start counts.  `OPTIONS` is the one
table of its options, with two readers: `light` takes command lines that are plainly
right, without importing Typer; all others, and `--help`, go to Typer, whose parameters
are made from the same table.  `tests/test_rewrite_command.py` holds the two equal.

The mail comes first: whatever goes wrong, the original bytes go out and the exit code
tells.  An output file is written beside and renamed.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from sestrack import output
from sestrack.errors import (
    EXIT_NO,
    BadInput,
    CannotCreate,
    ForgedToken,
    InputOutputError,
    NotFound,
    NotSetUp,
    Refused,
    SestrackError,
    UsageError,
)
from sestrack.rewrite import (
    REASON_WORDS,
    Reason,
    Template,
    Wrapping,
    compile_html,
    refuse_other_input,
)
from sestrack.rules import sender_domain_of, tracked
from sestrack.store import Store, default_path, now
from sestrack.tokens import Copy, Key, LinkSealer, check_text, open_copy, seal_copy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sestrack.model import Entry


class Option(NamedTuple):
    """An option of `rewrite`, for both readers."""

    flags: tuple[str, ...]
    metavar: str
    """What its value is called; "" for a switch."""
    help: str
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The field of `Request` that it fills."""
        return self.flags[-1].removeprefix("--").replace("-", "_")


OPTIONS = (
    Option(("--sender",), "DOMAIN", "The sender domain, or an address in it."),
    Option(("--recipient",), "ID", "Whom the copy is for: an address or any id."),
    Option(("--recipient-field",), "TEXT", "A merge field to stand in its place."),
    Option(("--message",), "LABEL", "What opens and clicks are counted under."),
    Option(("-o", "--output"), "FILE", "Write here; a folder for several files."),
    Option(("--in-place",), "", "Change the files themselves."),
    Option(("--diff",), "", "Show what would change, and change nothing."),
    Option(("--check",), "", "Change nothing; exit with 1 if something would."),
    Option(("--report",), "FILE", "Write one JSON object a link."),
    Option(("--at",), "TIME", "The minting time; default now."),
    Option(("--pixel",), "PLACE", "Where the pixel goes.", ("bottom", "top")),
    Option(("--strict",), "", "Exit with 1 if a mail goes out untracked."),
    Option(("--wrap-unsubscribe",), "", "Wrap links that unsubscribe too."),
)


class Request(NamedTuple):
    """A command line of `rewrite`."""

    files: tuple[str, ...] = ()
    sender: str = ""
    recipient: str = ""
    recipient_field: str = ""
    message: str = ""
    output: str = ""
    in_place: bool = False
    diff: bool = False
    check: bool = False
    report: str = ""
    at: str = ""
    pixel: str = "bottom"
    strict: bool = False
    wrap_unsubscribe: bool = False

    def run(self, store: str | None) -> int:
        """Carry it out; return the exit code."""
        return _run(self, store or default_path())


def light(arguments: list[str]) -> Request | None:
    """Read a command line; None if it is better left to Typer."""
    values: dict[str, Any] = {}
    files: list[str] = []
    options = {flag: option for option in OPTIONS for flag in option.flags}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            files += arguments[position:]
            break
        if not argument.startswith("-") or argument == "-":
            files.append(argument)
            continue
        flag, equals, value = argument.partition("=")
        option = options.get(flag)
        if option is None or (equals and (not option.metavar or not flag.startswith("--"))):
            return None
        if not option.metavar:
            values[option.name] = True
            continue
        if not equals:
            if position == len(arguments):
                return None
            value = arguments[position]
            position += 1
        if option.choices and value not in option.choices:
            return None
        values[option.name] = value
    if not values.get("sender"):
        return None
    return Request(files=tuple(files), **values)


def __getattr__(name: str) -> Any:
    """Make the Typer application when it is asked for."""
    if name == "app":
        from sestrack.commands.rewrite_options import application

        return application()
    raise AttributeError(name)


class _Tracking(NamedTuple):
    """What is needed to rewrite mail of one sender domain; or why it goes out untracked."""

    sender: str
    keys: list[Key]
    base: str
    trace_domain: str
    entry: Entry | None
    untracked: str


def _run(request: Request, path: str) -> int:
    inputs = list(_inputs(request.files))
    _check_request(request, inputs)
    if request.report and os.path.isfile(request.report):
        os.truncate(request.report, 0)
    try:
        tracking = _tracking(request, path)
        _check_texts(request)
        failure = None
    except SestrackError as error:
        tracking, failure = None, error
    if not request.files:
        return _pipe(request, tracking, failure)
    if failure is not None or tracking is None:
        if len(inputs) == 1 and not _quiet(request):
            _deliver(request, inputs[0], _read(inputs[0]))
        raise failure or AssertionError
    return _files(request, inputs, tracking)


def _pipe(request: Request, tracking: _Tracking | None, failure: SestrackError | None) -> int:
    data = _read("-")
    result, code = data, 0
    try:
        if failure is not None or tracking is None:
            raise failure or AssertionError
        result, code = _rewrite(request, tracking, "-", data)
    except Exception:
        if not _quiet(request):
            _deliver(request, "-", data)
        raise
    return _finish(request, "-", data, result) or code


def _files(request: Request, inputs: list[str], tracking: _Tracking) -> int:
    worst = 0
    with output.progress("rewriting", len(inputs)) as step:
        for name in inputs:
            data = _read(name)
            try:
                result, code = _rewrite(request, tracking, name, data)
            except SestrackError as error:
                if len(inputs) == 1:
                    if not _quiet(request) and not request.in_place:
                        _deliver(request, name, data)
                    raise
                output.error(f"{name}: {error.message}", error.hint)
                result, code = data, error.code
            worst = _finish(request, name, data, result) or code or worst
            step()
    return worst


def _finish(request: Request, name: str, data: bytes, result: bytes) -> int:
    """Show or deliver a result."""
    if request.diff:
        _show_diff(name, data, result)
    if request.check:
        if result != data:
            output.note(f"would change {name}")
            return EXIT_NO
        return 0
    if not request.diff and (result != data or not request.in_place):
        _deliver(request, name, result)
    return 0


def _quiet(request: Request) -> bool:
    return request.diff or request.check


def _check_request(request: Request, inputs: list[str]) -> None:
    if not request.files and sys.stdin is not None and sys.stdin.isatty():
        msg = "there is nothing to rewrite: standard input is a terminal"
        raise UsageError(msg, "sestrack rewrite --sender DOMAIN < letter.html")
    if request.in_place and (request.output or not request.files or "-" in request.files):
        msg = "--in-place needs files, and no --output"
        raise UsageError(msg, "sestrack rewrite --sender DOMAIN --in-place letter.html")
    if request.recipient and request.recipient_field:
        msg = "--recipient and --recipient-field exclude each other"
        raise UsageError(msg, "--recipient-field when another tool fills the recipient in")
    if len(inputs) > 1 and not (
        request.in_place or _quiet(request) or os.path.isdir(request.output)
    ):
        msg = f"{len(inputs)} files cannot go to one output"
        raise UsageError(msg, "--in-place, or --output FOLDER")
    if request.report == "-" and not (request.in_place or request.output or request.check):
        msg = "--report - would mix with the mail on standard output"
        raise UsageError(msg, "--report FILE")


def _check_texts(request: Request) -> None:
    check_text("recipient", request.recipient)
    check_text("message label", request.message)
    field = request.recipient_field
    if (
        not field.isprintable()
        or not field.isascii()
        or "--" in field
        or set(field) & set("\"'`\\")
    ):
        msg = f"the merge field {field!r} is not safe in HTML: ASCII, no quotes, no `--`"
        raise BadInput(msg, "--recipient-field '{{sestrack}}'")


def _tracking(request: Request, path: str) -> _Tracking:
    sender = sender_domain_of(request.sender)
    with Store(path) as store:
        rows = store.keys()
        settings = store.settings(sender)
        known = store.find_sender(sender)
        wanted = [entry.domain for entry in (settings.account, *settings.senders.values()) if entry]
        found = (store.find_trace_domain(name) for name in wanted if name)
        domains = {domain.name: domain for domain in found if domain}
    if not rows:
        msg = f"the store {path} has no key"
        raise NotSetUp(msg, "sestrack init")
    verdict = tracked(settings, known, sender, domains)
    if verdict.entry is None:
        return _Tracking(sender, [], "", "", None, verdict.words)
    domain = domains[verdict.entry.domain]
    keys = [Key.from_secret(row.id, row.secret) for row in rows]
    return _Tracking(sender, keys, domain.base, domain.name, verdict.entry, "")


def _rewrite(request: Request, tracking: _Tracking, name: str, data: bytes) -> tuple[bytes, int]:
    """Rewrite one document; return it, or the original with the reason said."""
    if tracking.entry is None:
        refuse_other_input(data)
        output.note(
            f"sestrack: {'' if name == '-' else name + ': '}untracked: {tracking.untracked}"
        )
        return data, EXIT_NO if request.strict else 0
    message = request.message or _label(data)
    if request.recipient_field:
        token = request.recipient_field.encode()
        size = _FIELD_SIZE
    else:
        minted = _minted(request.at)
        copy = Copy(tracking.sender, message, request.recipient, minted)
        token = seal_copy(tracking.keys[0], tracking.trace_domain, copy)
        size = len(token)
    sealer = LinkSealer.of(tracking.keys[0], tracking.trace_domain, tracking.sender, message)
    wrapping = Wrapping(
        base=tracking.base.encode(),
        seal=sealer.seal if tracking.entry.click else None,
        pixel=request.pixel if tracking.entry.open else "",
        copy_size=size,
        is_ours=_Recogniser(tracking.keys).is_ours,
        wrap_unsubscribe=request.wrap_unsubscribe,
        quote=bool(set(request.recipient_field) & set(" <>=")),
    )
    template = compile_html(data, wrapping)
    if request.report:
        _report(request, name, template)
    return template.render(token), 0


_FIELD_SIZE = 400  # characters kept free for the token that a merge will put in


class _Recogniser(NamedTuple):
    """Knows our own tracking URLs, whatever domain and key they were made with."""

    keys: list[Key]

    def is_ours(self, url: str) -> bool:
        """Does the recipient token of this URL open?"""
        _, _, rest = url.partition("://")
        authority, _, path = rest.partition("/")
        try:
            open_copy(
                self.keys, authority.partition(":")[0].lower(), path.partition("/")[0].encode()
            )
        except ForgedToken:
            return False
        return True


def _label(data: bytes) -> str:
    from hashlib import blake2b

    return blake2b(data, digest_size=6).hexdigest()


def _minted(at: str) -> int:
    if not at:
        return now()
    from sestrack.times import seconds_of

    return seconds_of(at)


def _report(request: Request, name: str, template: Template) -> None:
    import json

    lines = []
    for number, (href, url, reason) in enumerate(template.decisions):
        line = {
            "file": name, "link": number, "destination": url, "start": href.start,
            "end": href.end, "wrapped": reason is Reason.WRAPPED, "reason": str(reason),
            "words": REASON_WORDS[reason], "conditional": href.conditional,
        }  # fmt: skip
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    text = "".join(lines)
    if request.report == "-":
        output.product(text)
        return
    try:
        with open(request.report, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        msg = f"cannot write the report {request.report}: {error.strerror}"
        raise CannotCreate(msg, "--report FILE") from None


def _show_diff(name: str, data: bytes, result: bytes) -> None:
    from difflib import diff_bytes, unified_diff

    shown = name.encode(errors="surrogateescape")
    lines = diff_bytes(
        unified_diff, data.splitlines(keepends=True), result.splitlines(keepends=True), shown, shown
    )
    for line in lines:
        output.write_bytes(line if line.endswith(b"\n") else line + b"\n\\ No newline at end\n")


def _inputs(files: tuple[str, ...]) -> Iterator[str]:
    """Name the files; a folder means its .html and .htm, those in its folders too."""
    for name in files:
        if name != "-" and os.path.isdir(name):
            for folder, folders, names in os.walk(name):
                folders.sort()
                for inner in sorted(names):
                    if inner.lower().endswith((".html", ".htm")):
                        yield os.path.join(folder, inner)
        else:
            yield name


def _read(name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read()
        with open(name, "rb") as file:
            return file.read()
    except FileNotFoundError:
        msg = f"there is no file {name}"
        raise NotFound(msg, "sestrack rewrite --sender DOMAIN FILE") from None
    except OSError as error:
        msg = f"cannot read {name}: {error.strerror}"
        raise InputOutputError(msg, f"ls -l {name}") from None


def _deliver(request: Request, name: str, data: bytes) -> None:
    target = name if request.in_place else request.output
    if not target or target == "-":
        output.write_bytes(data)
        return
    if os.path.isdir(target):
        target = os.path.join(target, os.path.basename(name))
    _replace(target, data)


def _replace(target: str, data: bytes) -> None:
    """Write a file beside and rename it: the old file or the new one, never half."""
    target = os.path.realpath(target)
    beside = f"{target}.{os.getpid()}.sestrack"
    try:
        mode = (
            stat.S_IMODE(os.stat(target).st_mode) if os.path.exists(target) else 0o666 & ~_umask()
        )
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        msg = f"cannot create {target}: {error.strerror}"
        raise CannotCreate(msg, "ls -ld of its folder") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, mode)
        os.replace(beside, target)
    except OSError as error:
        os.unlink(beside)
        msg = f"writing {target} failed: {error.strerror}; it is as it was"
        raise InputOutputError(msg, "df -h shows the space left") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


__all__ = ["OPTIONS", "Refused", "Request", "light"]
