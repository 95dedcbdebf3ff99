"""`sestrack settings`: show, enable, disable, edit, export, apply."""

from __future__ import annotations

import difflib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sestrack import output, store
from sestrack.errors import (
    EXIT_NO,
    BadInput,
    InputOutputError,
    NoPermission,
    NotFound,
    NotSetUp,
    Refused,
    SestrackError,
    TryAgain,
    UsageError,
)
from sestrack.model import Dimension
from sestrack.rules import check_name, check_settings, sender_domain_of, tracked
from sestrack.settings import Text, disable, enable, parse
from sestrack.terminal import mistyped, offers

if TYPE_CHECKING:
    from sestrack.model import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def show(
    ctx: typer.Context,
    sender: Annotated[
        str,
        typer.Option(
            metavar="DOMAIN", help="What holds for its mail.", autocompletion=offers.sender_domains
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Show the settings, and for each sender domain what holds and why.

    Example: sestrack settings show --sender news.example.com
    """
    with store.Store(ctx.obj or store.default_address()) as opened:
        settings = opened.settings()
        names = [sender_domain_of(sender)] if sender else [s.domain for s in opened.senders()]
        answers = _answers(opened, settings, names)
    if json:
        if sender:
            output.json_object(answers[0])
        else:
            output.json_object({
                "status": _status(settings.enabled), "dimension": settings.dimension,
                "account": settings.account._asdict() if settings.account else None,
                "entries": {name: entry._asdict() for name, entry in settings.senders.items()},
                "senders": answers,
            })  # fmt: skip
        return
    if sender:
        output.facts((name.replace("_", " "), _words(value)) for name, value in answers[0].items())
        return
    output.facts([
        ("tracking", _status(settings.enabled)), ("dimension", settings.dimension or "not chosen"),
        *((f"account {key}", _words(value)) for key, value in
          (settings.account._asdict().items() if settings.account else ())),
    ])  # fmt: skip
    if answers:
        output.product("\n")
        output.table(
            ("sender domain", "tracking", "trace domain", "click", "open", "reason"),
            [
                (a["sender_domain"], a["tracking"], a["trace_domain"] or "", _words(a["click"]),
                 _words(a["open"]), a["reason"])
                for a in answers
            ],
        )  # fmt: skip


@app.command("enable")
def enable_command(  # noqa: PLR0913 - one for each choice
    ctx: typer.Context,
    dimension: Annotated[
        Dimension | None,
        typer.Option(metavar="WHO", help=f"Who the settings apply to: {', '.join(Dimension)}."),
    ] = None,
    domain: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="A verified trace domain.", autocompletion=offers.trace_domains
        ),
    ] = "",
    click: Annotated[bool | None, typer.Option("--click/--no-click", help="Wrap links.")] = None,
    opens: Annotated[bool | None, typer.Option("--open/--no-open", help="Add the pixel.")] = None,
    sender: Annotated[
        str,
        typer.Option(
            metavar="DOMAIN",
            help="Its own entry, not the account's.",
            autocompletion=offers.sender_domains,
        ),
    ] = "",
) -> None:
    """Enable tracking.  What is not named stays as it was.

    Example: sestrack settings enable --dimension account --domain trace.example.com --click --open
    """
    choices: dict[str, str | bool] = {}
    if domain:
        choices["domain"] = check_name("trace domain", domain)
    if click is not None:
        choices["click"] = click
    if opens is not None:
        choices["open"] = opens
    own = check_name("sender domain", sender) if sender else ""
    with store.Store(ctx.obj or store.default_address()) as opened:
        if domain:
            with mistyped.trace_domain(domain, opened.trace_domains()):
                opened.trace_domain(str(choices["domain"]))
        text, revision = opened.settings_text()
        _save(opened, enable(text, sender=own, dimension=dimension, choices=choices), revision)
        settings = opened.settings()
    output.note(f"tracking is {_status(settings.enabled)}")
    if own and settings.dimension is Dimension.ACCOUNT:
        output.warn(f"dimension is account: the entry of {own} is kept but not used")
    elif own and not settings.enabled:
        output.warn("the entry is kept; to use it: sestrack settings enable --dimension domain")


@app.command("disable")
def disable_command(
    ctx: typer.Context,
    sender: Annotated[str, typer.Option(metavar="DOMAIN", help="For its mail alone.")] = "",
) -> None:
    """Disable tracking.  Every other choice is kept; links in sent mail keep working.

    Example: sestrack settings disable
    """
    own = check_name("sender domain", sender) if sender else ""
    with store.Store(ctx.obj or store.default_address()) as opened:
        if own and opened.settings().dimension is Dimension.ACCOUNT:
            msg = f"dimension is account: {own} uses the account's settings like all others"
            raise Refused(msg, "sestrack settings enable --dimension account+domain")
        text, revision = opened.settings_text()
        _save(opened, disable(text, sender=own), revision)
    output.note(f"tracking is Not Enabled{f' for {own}' if own else ''}")


@app.command()
def export(ctx: typer.Context) -> None:
    """Print the settings as text, comments and all.

    Example: sestrack settings export > settings.toml
    """
    with store.Store(ctx.obj or store.default_address()) as opened:
        text, _ = opened.settings_text()
    output.product(parse(text).text)


@app.command("apply")
def apply_command(
    ctx: typer.Context,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE|-", help="- is standard input.", click_type=offers.FileName()),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the change only.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if it would change.")] = False,
) -> int:
    """Make the settings what a file says.

    Example: sestrack settings apply settings.toml --dry-run
    """
    new = parse(_read(file))
    with store.Store(ctx.obj or store.default_address()) as opened:
        text, revision = opened.settings_text()
        old = parse(text)
        if old.text == new.text:
            output.note("the settings are so already; nothing changed")
            return 0
        _check(opened, new)
        output.product(_diff(old.text, new.text))
        if dry_run or check:
            return EXIT_NO if check else 0
        opened.save_settings(new, revision)
    output.note("saved")
    return 0


@app.command()
def edit(ctx: typer.Context) -> None:
    """Edit the settings in $VISUAL or $EDITOR.

    The text opens again with the error on top until it is valid; leave it as it is, or
    empty it, to change nothing.

    Example: EDITOR=nano sestrack settings edit
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        if not sys.stdin.isatty():
            msg = "no editor is named, and there is no terminal to open one on"
            raise UsageError(msg, "EDITOR=nano sestrack settings edit")
        editor = "vi"
    with store.Store(ctx.obj or store.default_address()) as opened:
        stored, revision = opened.settings_text()
        before = parse(stored).text
    handle, name = tempfile.mkstemp(prefix="sestrack-settings-", suffix=".toml")
    os.close(handle)
    draft = Path(name)
    shown = before
    while True:
        draft.write_text(shown, encoding="utf-8")
        _run_editor(editor, draft)
        text = _without_error(draft.read_text(encoding="utf-8", errors="replace"))
        if not text.strip() or text == before:
            draft.unlink()
            output.note("cancelled; nothing changed")
            return
        if text == _without_error(shown) and shown != before:
            msg = "the text is still invalid, and was left as it was; nothing changed"
            raise BadInput(msg, f"your text is in {draft}")
        try:
            new = parse(text)
            with store.Store(ctx.obj or store.default_address()) as opened:
                _check(opened, new)
        except (TryAgain, NoPermission, NotSetUp) as error:  # the text has no part in it
            raise type(error)(error.message, f"{error.hint}; your text is in {draft}") from None
        except SestrackError as error:
            shown = _with_error(text, error)
            continue
        break
    try:
        with store.Store(ctx.obj or store.default_address()) as opened:
            opened.save_settings(new, revision)
    except SestrackError as error:
        raise type(error)(error.message, f"{error.hint}; your text is in {draft}") from None
    draft.unlink()
    output.note("saved")


_ERROR_MARK = "#! "


def _with_error(text: str, error: SestrackError) -> str:
    lines = [f"error: {error.message}", f"hint: {error.hint}", "save as it is, or empty, to cancel"]
    return "".join(f"{_ERROR_MARK}{line}\n" for line in lines) + text


def _without_error(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(_ERROR_MARK))


def _run_editor(editor: str, draft: Path) -> None:
    try:
        status = subprocess.run([*shlex.split(editor), str(draft)], check=False).returncode  # noqa: S603
    except OSError as error:
        msg = f"the editor {editor!r} cannot be started: {error.strerror}"
        raise NotFound(msg, "EDITOR=nano sestrack settings edit") from None
    if status:
        msg = f"the editor {editor!r} ended with status {status}; nothing changed"
        raise InputOutputError(msg, f"your text is in {draft}")


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except FileNotFoundError:
        msg = f"there is no file {file}"
        raise NotFound(msg, "sestrack settings export > settings.toml") from None
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror}"
        raise InputOutputError(msg, f"ls -l {file}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        msg = f"{file} is not UTF-8, as TOML is"
        raise BadInput(msg, f"file {file}") from None


def _save(opened: store.Store, text: Text, revision: int) -> None:
    _check(opened, text)
    opened.save_settings(text, revision)


def _check(opened: store.Store, text: Text) -> None:
    domains = {domain.name: domain for domain in opened.trace_domains()}
    old = opened.settings()
    entries = [*old.senders.values(), *([old.account] if old.account else [])]
    check_settings(text.settings, domains, {entry.domain for entry in entries})
    for name in text.settings.senders:
        if opened.find_sender(name) is None:
            output.warn(f"{name} has an entry, and is not a sender domain yet")


def _diff(old: str, new: str) -> str:
    return "".join(
        difflib.unified_diff(
            old.splitlines(keepends=True), new.splitlines(keepends=True), "settings", "new settings"
        )
    )


def _answers(opened: store.Store, settings: Settings, names: list[str]) -> list[dict[str, Any]]:
    domains = {domain.name: domain for domain in opened.trace_domains()}
    answers = []
    for name in names:
        verdict = tracked(settings, opened.find_sender(name), name, domains)
        entry = verdict.entry
        answers.append({
            "sender_domain": name, "tracking": _status(verdict.yes), "code": verdict.code,
            "reason": f"{'tracked' if verdict.yes else 'not tracked'}: {verdict.words}",
            "trace_domain": entry.domain if entry else None,
            "click": entry.click if entry else False, "open": entry.open if entry else False,
        })  # fmt: skip
    return answers


def _status(enabled: bool) -> str:  # noqa: FBT001
    return "Enabled" if enabled else "Not Enabled"


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value if value is not None else "")
