"""`sestrack sender`: the domains that mail is sent from, and their proof."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sestrack import output, store
from sestrack.errors import Refused, TryAgain
from sestrack.model import Sender, SenderStatus
from sestrack.rules import check_name, sender_domain_of
from sestrack.terminal import mistyped, offers
from sestrack.terminal.next_step import of_sender
from sestrack.times import utc

if TYPE_CHECKING:
    from sestrack.domains.findings import Finding
    from sestrack.domains.resolver import Resolver

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="DOMAIN", help="A domain like news.example.com.")]
Known = Annotated[
    str,
    typer.Argument(
        metavar="DOMAIN", help="A sender domain, as `sestrack sender list` shows it.",
        autocompletion=offers.sender_domains,
    ),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Server = Annotated[
    str | None,
    typer.Option("--resolver", metavar="IP[:PORT]", help="Ask this name server, not the system's."),
]


@app.command()
def add(
    ctx: typer.Context,
    domain: Name,
    assume_verified: Annotated[
        bool, typer.Option("--assume-verified", help="Take it on trust; shown as such for ever.")
    ] = False,
    json: Json = False,
) -> None:
    """Add a sender domain and print the TXT record that proves it.

    Example: sestrack sender add news.example.com >> example.com.zone
    """
    from publicsuffixlist import PublicSuffixList

    name = sender_domain_of(domain)
    primary = PublicSuffixList().privatesuffix(name)
    if primary is None:
        msg = f"{name} is a public suffix: nobody can own it"
        raise Refused(msg, f"sestrack sender add example.{name}")
    with store.Store(ctx.obj) as opened:
        sender = Sender(
            name, primary, f"sestrack-verify={secrets.token_hex(16)}",
            SenderStatus.PENDING, assumed=False, created_at=store.now(), verified_at=0,
        )  # fmt: skip
        if assume_verified:
            sender = sender._replace(
                status=SenderStatus.VERIFIED, assumed=True, verified_at=sender.created_at
            )
        opened.add_sender(sender)
        step = of_sender(opened, sender)
    if json:
        output.json_object(_as_json(sender))
    elif not assume_verified:
        output.product(f"; sestrack: proves that {name} is ours\n{_record(sender)}\n")
    if assume_verified:
        output.note(f"{name} is taken on trust; its primary domain is {primary}")
        if step:
            output.note(f"next: {step}")
        return
    output.note(f"next: publish this record, then: sestrack sender verify {name}")


@app.command()
def verify(ctx: typer.Context, domain: Known, resolver: Server = None, json: Json = False) -> None:
    """Look for the TXT record that proves a sender domain.

    Example: sestrack sender verify news.example.com
    """
    import asyncio

    from sestrack.domains.resolver import Resolver

    name = check_name("sender domain", domain)
    with store.Store(ctx.obj) as opened:
        with mistyped.sender_domain(opened, name):
            sender = opened.sender(name)
        if sender.assumed:
            output.note(f"{name} was taken on trust; the record is looked for all the same")
        finding = asyncio.run(_look(Resolver.of(resolver), sender))
        if finding.level == "ok" and sender.status is not SenderStatus.VERIFIED:
            sender = opened.verify_sender(name, store.now())
        step = of_sender(opened, sender)
    if json:
        output.json_object(
            _as_json(sender)
            | {"check": finding.state, "found": finding.found, "expected": finding.expected,
               "advice": finding.advice}
        )  # fmt: skip
    else:
        output.facts([
            ("sender domain", name), ("check", finding.state), ("found", finding.found),
            ("expected", finding.expected),
        ])  # fmt: skip
    if finding.level == "ok":
        output.note(f"{name} is verified" + (f"; next: {step}" if step else ""))
        return
    pending = sender.status is SenderStatus.PENDING
    msg = f"{name}: {finding.found}" + ("" if pending else "; it stays verified")
    if finding.level == "later" or (finding.absent and pending):
        raise TryAgain(msg, finding.advice)
    raise Refused(msg, finding.advice)


async def _look(resolver: Resolver, sender: Sender) -> Finding:
    from sestrack.domains.dns_judgement import judge_txt

    found = await resolver.txt(f"_sestrack.{sender.domain}")
    finding = judge_txt(found, sender.proof)
    if not finding.absent:
        return finding
    doubled = await resolver.txt(f"_sestrack.{sender.domain}.{sender.primary}")
    return judge_txt(found, sender.proof, doubled)


@app.command("list")
def list_(ctx: typer.Context, json: Json = False) -> None:
    """List the sender domains.

    Example: sestrack sender list
    """
    output.report()
    with store.Store(ctx.obj) as opened:
        senders = opened.senders()
    if json:
        output.json_array([_as_json(sender) for sender in senders])
        return
    output.table(
        ("sender domain", "primary domain", "status", "verified"),
        [(s.domain, s.primary, _status(s), utc(s.verified_at)) for s in senders],
        marks=[2],
    )
    if not senders:
        output.note("no sender domains; the first: sestrack sender add DOMAIN")


@app.command()
def show(ctx: typer.Context, domain: Known, json: Json = False) -> None:
    """Show a sender domain and the record that proves it.

    Example: sestrack sender show news.example.com
    """
    output.report()
    name = check_name("sender domain", domain)
    with (
        store.Store(ctx.obj) as opened,
        mistyped.sender_domain(opened, name),
    ):
        sender = opened.sender(name)
    if json:
        output.json_object(_as_json(sender))
        return
    output.facts([
        ("sender domain", sender.domain), ("primary domain", sender.primary),
        ("status", _status(sender)), ("added", utc(sender.created_at)),
        ("verified", utc(sender.verified_at)),
        ("record", _record(sender)),
    ])  # fmt: skip


@app.command()
def remove(ctx: typer.Context, domain: Known) -> None:
    """Remove a sender domain.  Links in mail already sent keep working.

    Example: sestrack sender remove news.example.com
    """
    name = check_name("sender domain", domain)
    with (
        store.Store(ctx.obj) as opened,
        mistyped.sender_domain(opened, name, "sestrack sender list"),
    ):
        opened.remove_sender(name)
    output.note(f"{name} is removed; its mail goes out untracked from now on")


def _record(sender: Sender) -> str:
    return f'_sestrack.{sender.domain}. 3600 IN TXT "{sender.proof}"'


def _status(sender: Sender) -> str:
    return f"{sender.status} (assumed)" if sender.assumed else str(sender.status)


def _as_json(sender: Sender) -> dict[str, Any]:
    return sender._asdict() | {
        "created_at": utc(sender.created_at) or None,
        "verified_at": utc(sender.verified_at) or None,
        "record": _record(sender),
    }
