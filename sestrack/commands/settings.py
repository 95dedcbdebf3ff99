"""`sestrack settings`: show, enable, disable, edit, export, apply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sestrack import files, output, store
from sestrack.commands.settings_edit import check as check_saving
from sestrack.commands.settings_edit import diff, edit
from sestrack.errors import EXIT_NO, BadInput, Refused
from sestrack.model import Dimension, DomainStatus
from sestrack.rules import check_choices, named_domain, sender_domain_of, tracked
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
    output.report()
    with store.Store(ctx.obj) as opened:
        settings = opened.settings()
        known = [each.domain for each in opened.senders()]
        names = [sender_domain_of(sender)] if sender else known
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
        meant = "" if names[0] in known else mistyped.nearest(names[0], known, mistyped.NEAR_NAME)
        if meant:
            output.note(f"did you mean {meant}? sestrack settings show --sender {meant}")
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
    own = sender_domain_of(sender) if sender else ""
    with store.Store(ctx.obj) as opened:
        choices: dict[str, str | bool] = {}
        if domain:
            domains = opened.trace_domains()
            with mistyped.trace_domain(domain, domains):
                choices["domain"] = opened.trace_domain(named_domain(domain, domains)).name
        if click is not None:
            choices["click"] = click
        if opens is not None:
            choices["open"] = opens
        text, revision = opened.settings_text()
        new = enable(text, sender=own, dimension=dimension, choices=choices)
        settings = new.settings
        entry = settings.senders.get(own) if own else settings.account
        if own and entry is None and dimension is None:
            with mistyped.sender_domain(opened, own):
                opened.sender(own)
        if own and (entry is not None or settings.dimension in {None, Dimension.DOMAIN}):
            by_name = {each.name: each for each in opened.trace_domains()}
            declined = [kind for kind, on in choices.items() if on is False]
            check_choices(settings, own, by_name, declined)
        _save(opened, new, revision)
        used = opened.find_trace_domain(entry.domain) if entry and entry.domain else None
    output.note(f"tracking is {_status(settings.enabled)}")
    if used is not None and used.status is not DomainStatus.VERIFIED:
        output.warn(
            f"{used.name} is {used.status}, so mail goes out untracked: "
            f"sestrack domain verify {used.name}"
        )
    if own and entry is None:
        output.note(f"{own} has no entry of its own; the account's settings hold for it")
    elif own and settings.dimension is Dimension.ACCOUNT:
        _warn_not_used(own, enabled=settings.enabled)
    elif own and not settings.enabled:
        wanted = settings.dimension or Dimension.DOMAIN
        whom = "" if wanted is Dimension.DOMAIN else "  # for all senders"
        output.warn(
            "tracking as a whole is off, and the entry is kept; to switch it on: "
            f"sestrack settings enable --dimension {wanted}{whom}"
        )


@app.command("disable")
def disable_command(
    ctx: typer.Context,
    sender: Annotated[str, typer.Option(metavar="DOMAIN", help="For its mail alone.")] = "",
) -> None:
    """Disable tracking.  Every other choice is kept; links in sent mail keep working.

    Example: sestrack settings disable
    """
    own = sender_domain_of(sender) if sender else ""
    with store.Store(ctx.obj) as opened:
        settings = opened.settings()
        known = {sender.domain for sender in opened.senders()}
        if own not in {"", *settings.senders, *known}:
            with mistyped.sender_domain(opened, own):
                opened.sender(own)
        if own and settings.enabled and settings.dimension is Dimension.ACCOUNT:
            msg = f"dimension is account: {own} uses the account's settings like all others"
            both = "sestrack settings enable --dimension account+domain"
            raise Refused(msg, f"{both} && sestrack settings disable --sender {own}")
        text, revision = opened.settings_text()
        _save(opened, disable(text, sender=own), revision)
    if own and settings.dimension is Dimension.ACCOUNT:
        _warn_not_used(own, enabled=settings.enabled)
        return
    output.note(f"tracking is Not Enabled{f' for {own}' if own else ''}")


def _warn_not_used(own: str, *, enabled: bool) -> None:
    """Say that an entry is not used; what would use it is no hint where that switches more on."""
    words = f"dimension is account: the entry of {own} is kept but not used"
    if enabled:
        words += "; to use it: sestrack settings enable --dimension account+domain"
    else:
        words = f"tracking as a whole is off, and {words}"
    output.warn(words)


@app.command()
def export(ctx: typer.Context) -> None:
    """Print the settings as text, comments and all.

    Example: sestrack settings export > settings.toml
    """
    output.report()
    with store.Store(ctx.obj) as opened:
        text, _ = opened.settings_text()
    output.exactly(parse(text).text)


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
    text = _read(file)
    try:
        new = parse(text)
    except BadInput as error:
        error.message = f"{files.shown(file)}: {error.message}"
        raise
    with store.Store(ctx.obj) as opened:
        text, revision = opened.settings_text()
        old = parse(text)
        if old.text == new.text:
            output.note("the settings are so already; nothing changed")
            return 0
        check_saving(opened, new)
        output.product(diff(old.text, new.text))
        if dry_run or check:
            return EXIT_NO if check else 0
        opened.save_settings(new, revision)
    output.note("saved")
    return 0


app.command()(edit)


def _read(file: str) -> str:
    data = files.read(file)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        msg = f"{files.shown(file)} is not UTF-8, as TOML is"
        raise BadInput(msg, "" if file == "-" else f"file {files.typed(file)}") from None
    if all(line.startswith("#") for line in map(str.strip, text.splitlines()) if line):
        # a pipe whose left side failed must not take all settings away
        why = "nothing but comments" if text.strip() else "it is empty"
        msg = f"there are no settings in {files.shown(file)}: {why}"
        raise BadInput(msg, "sestrack settings disable  # switches tracking off")
    return text


def _save(opened: store.Store, text: Text, revision: int) -> None:
    check_saving(opened, text)
    opened.save_settings(text, revision)


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
