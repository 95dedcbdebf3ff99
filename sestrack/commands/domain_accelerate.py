"""`sestrack domain accelerate`: what stands between readers and `sestrack serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from sestrack import output, store
from sestrack.domains.frontends import FrontEnd, Setup, cdn_advice, configuration
from sestrack.errors import Refused, UsageError
from sestrack.rules import check_name, named_domain
from sestrack.terminal import mistyped, offers
from sestrack.tracker.listening import address_of

_UPSTREAM = "127.0.0.1:8025"
_ASK = "127.0.0.1:8026"


def accelerate(  # noqa: PLR0913 - one for each choice
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A trace domain like trace.example.com.",
            autocompletion=offers.trace_domains,
        ),
    ],
    kind: Annotated[
        FrontEnd | None, typer.Option("--for", help="Print a configuration that does TLS.")
    ] = None,
    via: Annotated[
        str, typer.Option(metavar="HOST", help="The CNAME that a CDN gave out, to expect in DNS.")
    ] = "",
    off: Annotated[
        bool, typer.Option("--off", help="No CDN any more: expect the edge again.")
    ] = False,
    upstream: Annotated[
        str, typer.Option(metavar="HOST:PORT", help=f"Where serve listens; else {_UPSTREAM}.")
    ] = "",
    ask: Annotated[
        str, typer.Option(metavar="HOST:PORT", help=f"Its --ask, for Caddy; else {_ASK}.")
    ] = "",
) -> None:
    """Print what puts TLS, or a CDN, in front of a trace domain.

    Example: sestrack domain accelerate trace.example.com --for nginx > sestrack.conf
    """
    if sum((kind is not None, bool(via), off)) != 1:
        msg = "one of --for, --via and --off is wanted"
        raise UsageError(msg, f"sestrack domain accelerate {name} --for nginx")
    _check_addresses(name, kind, upstream, ask)
    with store.Store(ctx.obj) as opened:
        edge = opened.edge()
        domains = opened.trace_domains()
        with mistyped.trace_domain(name, domains):
            domain = opened.trace_domain(named_domain(name, domains))
        if kind is not None:
            output.report()
            if domain.plain_http:
                msg = f"{domain.name} has plain http, and what is printed here does TLS"
                raise Refused(msg, f"sestrack serve --bind :{domain.port or 80}")
            setup = Setup(
                domain.name, upstream or _UPSTREAM, ask or _ASK, domain.port or 443,
                through_cdn=domain.target != edge,
            )  # fmt: skip
            output.product(configuration(kind, setup))
            return
        target = edge if off else check_name("--via", via, "--via example.cdn.example.net")
        if not off and target in {domain.name, edge}:
            msg = f"--via {target} is {'the edge' if target == edge else 'the trace domain'} itself"
            raise Refused(
                msg, f"sestrack domain accelerate {domain.name} --via example.cdn.example.net"
            )
        if domain.target == target:
            output.note(f"{domain.name} is to lead to {target} already")
        else:
            domain = opened.set_target(domain.name, target)
    if off:
        output.product(f"{domain.name}. 3600 IN CNAME {target}.\n")
    else:
        output.product(cdn_advice(domain.name, edge, target))
    former = f"; {domain.former_target} is accepted until then" if domain.former_target else ""
    output.note(f"next: publish this record, then: sestrack domain verify {domain.name}{former}")


def _check_addresses(name: str, kind: FrontEnd | None, upstream: str, ask: str) -> None:
    """Let nothing but an address into a configuration, and none be given for nothing."""
    for option, text, usual, wanted, right in (
        ("--upstream", upstream, _UPSTREAM, kind or FrontEnd.NGINX, bool(kind)),
        ("--ask", ask, _ASK, FrontEnd.CADDY, kind is FrontEnd.CADDY),
    ):
        if not text:
            continue
        host, _ = address_of(option, text, usual)
        if not right:
            msg = f"{option} goes with --for {wanted}"
            hint = f"sestrack domain accelerate {name} --for {wanted} {option} {text}"
            raise UsageError(msg, hint)
        if not host:
            msg = f"{option} {text!r} names no host to connect to"
            raise UsageError(msg, f"{option} {usual}")
