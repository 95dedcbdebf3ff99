"""`sestrack domain`: trace domains, from their CNAME to their retirement."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sestrack import output, store
from sestrack.commands.domain_accelerate import accelerate
from sestrack.commands.domain_verify import verify
from sestrack.errors import NotSetUp, Refused
from sestrack.model import DomainStatus, TraceDomain
from sestrack.rules import named_domain, prefix_warning, split_name
from sestrack.terminal import mistyped, offers
from sestrack.times import utc

SHOWN_CHECKS = 10

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A trace domain like trace.example.com.",
        autocompletion=offers.trace_domains,
    ),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(  # noqa: PLR0913 - one for each choice
    ctx: typer.Context,
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="The label before the primary domain.")
    ],
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="DOMAIN",
            help="May be left out when there is one.",
            autocompletion=offers.primary_domains,
        ),
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="http URLs: for trials on one's own machine.")
    ] = False,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="In the URLs; 0 is the scheme's own.")
    ] = 0,
    json: Json = False,
) -> None:
    """Create a trace domain and print the zone lines of its CNAME.

    Example: sestrack domain create trace --primary example.com >> example.com.zone
    """
    with store.Store(ctx.obj) as opened:
        edge = opened.edge()
        if not edge:
            msg = "the store knows no edge, the host that trace domains point to"
            raise NotSetUp(msg, "sestrack init --edge edge.example.net")
        senders = opened.senders()
        with mistyped.primary_domain(primary, senders):
            label, chosen = split_name(prefix, primary, senders)
        name = f"{label}.{chosen}"
        if name == edge:
            msg = f"{name} is the edge itself, and cannot point to itself"
            raise Refused(msg, f"sestrack domain create trace --primary {chosen}")
        if opened.find_sender(name) is not None:
            msg = f"{name} is a sender domain: a CNAME there would take its MX and TXT records away"
            raise Refused(msg, f"sestrack domain create trace --primary {chosen}")
        domain = TraceDomain(
            name, label, chosen, DomainStatus.PENDING, plain_http, port,
            created_at=store.now(), verified_at=0, checked_at=0, last_ok_at=0, last_state="",
            target=edge,
        )  # fmt: skip
        opened.add_trace_domain(domain)
    if warning := prefix_warning(label):
        output.warn(warning)
    if json:
        output.json_object(_as_json(domain))
    else:
        output.product(f"; sestrack: opens and clicks of mail from {chosen}\n{_record(domain)}\n")
    output.note(f"next: publish this record, then: sestrack domain verify {name}")


app.command()(verify)
app.command()(accelerate)


@app.command("list")
def list_(ctx: typer.Context, json: Json = False) -> None:
    """List the trace domains.

    Example: sestrack domain list
    """
    output.report()
    with store.Store(ctx.obj) as opened:
        domains = opened.trace_domains()
    if json:
        output.json_array([_as_json(domain) for domain in domains])
        return
    output.table(
        ("trace domain", "status", "last check", "checked", "last ok"),
        [(d.name, d.standing, d.last_state, utc(d.checked_at), utc(d.last_ok_at)) for d in domains],
        spare=[3],
        marks=[1],
    )
    if not domains:
        output.note("no trace domains; the first: sestrack domain create trace --primary DOMAIN")


@app.command()
def show(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show a trace domain, its record, and what checks have found.

    Example: sestrack domain show trace.example.com
    """
    output.report()
    with store.Store(ctx.obj) as opened:
        domain = _found(opened, name)
        history = opened.history(domain.name)
    if json:
        past = [
            past._asdict() | {"since": utc(past.since), "until": utc(past.until)}
            for past in history
        ]
        output.json_object(_as_json(domain) | {"history": past})
        return
    output.facts([
        ("trace domain", domain.name), ("status", domain.standing), ("URLs", domain.base),
        ("record", _record(domain)), ("created", utc(domain.created_at)),
        ("verified", utc(domain.verified_at)), ("checked", utc(domain.checked_at)),
        ("last check", domain.last_state), ("last ok", utc(domain.last_ok_at)),
        *[("certificate ends", utc(domain.certificate_ends))] * bool(domain.certificate_ends),
        *[("former target", domain.former_target)] * bool(domain.former_target),
        *[("history", _past(past)) for past in history[:SHOWN_CHECKS]],
    ])  # fmt: skip


@app.command()
def delete(ctx: typer.Context, name: Name) -> None:
    """Retire a trace domain.  Links in mail already sent live on.

    Example: sestrack domain delete trace.example.com
    """
    with store.Store(ctx.obj) as opened:
        domain = _found(opened, name, "sestrack domain list")
        opened.retire(domain.name)
    keep = "keep its CNAME, for the links in sent mail need it"
    unused = "it was never verified, and no mail has its links"
    output.note(f"{domain.name} is retired; {keep if domain.verified_at else unused}")


def _found(opened: store.Store, name: str, instead: str = "") -> TraceDomain:
    domains = opened.trace_domains()
    with mistyped.trace_domain(name, domains, instead):
        return opened.trace_domain(named_domain(name, domains))


def _past(past: store.PastCheck) -> str:
    often = f" ({past.times} times)" if past.times > 1 else ""
    until = "" if past.until == past.since else f" to {utc(past.until)}"
    return f"{utc(past.since)}{until}{often} {past.state}: {past.found}"


def _record(domain: TraceDomain) -> str:
    return f"{domain.name}. 3600 IN CNAME {domain.target}."


def _as_json(domain: TraceDomain) -> dict[str, Any]:
    times = (
        "created_at", "verified_at", "checked_at", "last_ok_at", "failing_since",
        "certificate_ends",
    )  # fmt: skip
    values = domain._asdict()
    return values | {time: utc(values[time]) or None for time in times} | {
        "urls": domain.base, "record": _record(domain),
    }  # fmt: skip
