"""`sestrack domain`: trace domains, from their CNAME to their retirement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sestrack import output, store
from sestrack.errors import EXIT_NO, NotFound, NotSetUp, Refused, TryAgain, UsageError
from sestrack.model import DomainStatus, TraceDomain
from sestrack.rules import check_name, check_prefix, choose_primary, prefix_warning
from sestrack.times import utc

if TYPE_CHECKING:
    from sestrack.domains.judgement import Finding

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A trace domain like trace.example.com.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(  # noqa: PLR0913 - one for each choice
    ctx: typer.Context,
    prefix: Annotated[str, typer.Argument(help="The label before the primary domain.")],
    primary: Annotated[
        str | None, typer.Option(metavar="DOMAIN", help="May be left out when there is one.")
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="http URLs: for trials on one's own machine.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --plain-http.")] = 0,
    json: Json = False,
) -> None:
    """Create a trace domain and print the zone lines of its CNAME.

    Example: sestrack domain create trace --primary example.com >> example.com.zone
    """
    if port and not plain_http:
        msg = f"--port {port} is for trials, and goes with --plain-http only"
        raise UsageError(msg, "sestrack domain create --help")
    with store.Store(ctx.obj or store.default_path()) as opened:
        edge = opened.edge()
        if not edge:
            msg = "the store knows no edge, the host that trace domains point to"
            raise NotSetUp(msg, "sestrack init --edge edge.example.net")
        chosen = choose_primary(
            check_name("primary domain", primary) if primary else None, opened.senders()
        )
        label = check_prefix(prefix, chosen)
        name = f"{label}.{chosen}"
        if name == edge:
            msg = f"{name} is the edge itself, and cannot point to itself"
            raise Refused(msg, "another prefix")
        domain = TraceDomain(
            name, label, chosen, DomainStatus.PENDING, plain_http, port,
            created_at=store.now(), verified_at=0, checked_at=0, last_ok_at=0, last_state="",
        )  # fmt: skip
        opened.add_trace_domain(domain)
    if warning := prefix_warning(label):
        output.warn(warning)
    if json:
        output.json_object(_as_json(domain, edge))
    else:
        output.product(
            f"; sestrack: opens and clicks of mail from {chosen}\n{_record(name, edge)}\n"
        )
    output.note(f"next: publish this record, then: sestrack domain verify {name}")


@app.command()
def verify(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every one that is not retired.")] = False,
    resolver: Annotated[
        str | None, typer.Option(metavar="IP[:PORT]", help="Ask this name server.")
    ] = None,
    json: Json = False,
) -> int:
    """Check the CNAME of trace domains over DNS.

    Exit status: 0 usable, 1 a definite no, 75 could not tell or not there yet.

    Example: sestrack domain verify trace.example.com
    """
    with store.Store(ctx.obj or store.default_path()) as opened:
        domains = _wanted(opened, names or [], every=every)
        edge = opened.edge()
        findings = _check(domains, edge, resolver)
        checked = [
            _note(opened, domain, finding)
            for domain, finding in zip(domains, findings, strict=True)
        ]
    if json:
        rows = [
            _as_json(domain, edge) | {"check": finding.state, "found": finding.found,
            "expected": finding.expected, "advice": finding.advice}
            for domain, finding in zip(checked, findings, strict=True)
        ]  # fmt: skip
        if every or len(rows) > 1:
            output.json_array(rows)
        else:
            output.json_object(rows[0])
    else:
        output.table(
            ("trace domain", "status", "check", "found", "expected"),
            [
                (domain.name, domain.status, finding.state, finding.found, finding.expected)
                for domain, finding in zip(checked, findings, strict=True)
            ],
        )
    worst = 0
    for domain, finding in zip(checked, findings, strict=True):
        if finding.usable:
            continue
        output.error(f"{domain.name}: {finding.found}", finding.advice)
        later = finding.transient or (finding.absent and domain.status is DomainStatus.PENDING)
        worst = EXIT_NO if EXIT_NO in {worst, 0 if later else EXIT_NO} else TryAgain.code
    if not worst and checked:
        output.note(
            "next: sestrack settings enable --dimension account "
            f"--domain {checked[0].name} --click --open"
        )
    return worst


@app.command("list")
def list_(ctx: typer.Context, json: Json = False) -> None:
    """List the trace domains.

    Example: sestrack domain list
    """
    with store.Store(ctx.obj or store.default_path()) as opened:
        domains, edge = opened.trace_domains(), opened.edge()
    if json:
        output.json_array([_as_json(domain, edge) for domain in domains])
        return
    output.table(
        ("trace domain", "status", "last check", "checked", "last ok"),
        [(d.name, d.status, d.last_state, utc(d.checked_at), utc(d.last_ok_at)) for d in domains],
    )


@app.command()
def show(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show a trace domain and its record.

    Example: sestrack domain show trace.example.com
    """
    with store.Store(ctx.obj or store.default_path()) as opened:
        domain, edge = opened.trace_domain(check_name("trace domain", name)), opened.edge()
    if json:
        output.json_object(_as_json(domain, edge))
        return
    output.facts([
        ("trace domain", domain.name), ("status", domain.status), ("URLs", domain.base),
        ("record", _record(domain.name, edge)), ("created", utc(domain.created_at)),
        ("verified", utc(domain.verified_at)), ("checked", utc(domain.checked_at)),
        ("last check", domain.last_state), ("last ok", utc(domain.last_ok_at)),
    ])  # fmt: skip


@app.command()
def delete(ctx: typer.Context, name: Name) -> None:
    """Retire a trace domain.  Links in mail already sent live on.

    Example: sestrack domain delete trace.example.com
    """
    name = check_name("trace domain", name)
    with store.Store(ctx.obj or store.default_path()) as opened:
        opened.retire(name)
    output.note(f"{name} is retired; keep its CNAME, for the links in sent mail need it")


def _wanted(opened: store.Store, names: list[str], *, every: bool) -> list[TraceDomain]:
    alive = [d for d in opened.trace_domains() if d.status is not DomainStatus.RETIRED]
    if names:
        wanted = [opened.trace_domain(check_name("trace domain", name)) for name in names]
        for domain in wanted:
            if domain.status is DomainStatus.RETIRED:
                msg = f"the trace domain {domain.name} is retired"
                raise Refused(
                    msg, f"sestrack domain create {domain.prefix} --primary {domain.primary}"
                )
        return wanted
    if every or len(alive) == 1:
        return alive
    if alive:
        msg = "which trace domain? there are several"
        raise UsageError(msg, "sestrack domain verify --all")
    msg = "there is no trace domain"
    raise NotFound(msg, "sestrack domain create trace")


def _check(domains: list[TraceDomain], edge: str, server: str | None) -> list[Finding]:
    import asyncio

    from sestrack.domains.judgement import judge_cname
    from sestrack.domains.resolver import Resolver

    resolver = Resolver.of(server)

    async def check_all() -> list[Finding]:
        # more at once lose packets on one socket, and each costs a second
        room = asyncio.Semaphore(100)

        async def check(domain: TraceDomain) -> Finding:
            async with room:
                finding = judge_cname(await resolver.cname(domain.name), edge)
            step()
            return finding

        return await asyncio.gather(*map(check, domains))

    with output.progress("checking", len(domains)) as step:
        return asyncio.run(check_all())


def _note(opened: store.Store, domain: TraceDomain, finding: Finding) -> TraceDomain:
    """Keep what was found.  Passing trouble never demotes; nothing makes pending worse."""
    status = domain.status
    if finding.usable:
        status = DomainStatus.VERIFIED
    elif not finding.transient and status is not DomainStatus.PENDING:
        status = DomainStatus.FAILING
    opened.note_check(domain.name, status, finding.state, store.now(), usable=finding.usable)
    return opened.trace_domain(domain.name)


def _record(name: str, edge: str) -> str:
    return f"{name}. 3600 IN CNAME {edge}."


def _as_json(domain: TraceDomain, edge: str) -> dict[str, Any]:
    times = ("created_at", "verified_at", "checked_at", "last_ok_at")
    values = domain._asdict()
    return values | {time: utc(values[time]) or None for time in times} | {
        "urls": domain.base, "record": _record(domain.name, edge),
    }  # fmt: skip
