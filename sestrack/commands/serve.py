"""`sestrack serve`: the tracking server."""

from __future__ import annotations

from typing import Annotated

import typer

from sestrack import output, store
from sestrack.errors import UsageError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(  # noqa: PLR0913 - one for each choice
    ctx: typer.Context,
    bind: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The address to listen on.")
    ] = "127.0.0.1:8025",
    trust_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Believe the client address that these proxies tell."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that answer; one more writes.")
    ] = 1,
    tls_cert: Annotated[str, typer.Option(metavar="FILE", help="Serve https: the chain.")] = "",
    tls_key: Annotated[str, typer.Option(metavar="FILE", help="Its private key.")] = "",
    keep: Annotated[
        str, typer.Option(metavar="DAYS", help="Purge events older than this, like 400d.")
    ] = "",
    anonymize_ip: Annotated[
        bool, typer.Option("--anonymize-ip", help="Keep /24 and /48 of addresses only.")
    ] = False,
    no_recipient: Annotated[
        bool, typer.Option("--no-recipient", help="Keep a keyed hash in place of recipients.")
    ] = False,
    keys: Annotated[
        str, typer.Option(metavar="FILE", help="Keys exported before: links outlive the store.")
    ] = "",
    mmdb: Annotated[
        str, typer.Option(metavar="FILE", help="An MMDB for countries and regions.")
    ] = "",
    spool: Annotated[
        str,
        typer.Option(metavar="FOLDER", help="Where events wait while PostgreSQL is away."),
    ] = "",
    spool_limit: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="How much may wait there.")
    ] = 1024,
    ask: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Caddy asks which names are ours.")
    ] = "",
) -> int:
    """Answer the URLs that `rewrite` makes, and record opens and clicks.

    Example: sestrack serve --bind 127.0.0.1:8025 --trust-proxy 127.0.0.1
    """
    from sestrack.keyfile import read_keys
    from sestrack.tracker.clients import networks_of
    from sestrack.tracker.server import serve
    from sestrack.tracker.worker import Plan

    if bool(tls_cert) != bool(tls_key):
        msg = "--tls-cert and --tls-key go together"
        raise UsageError(msg, "sestrack serve --tls-cert FULLCHAIN.pem --tls-key KEY.pem")
    address = ctx.obj or store.default_address()
    host, port = _address("--bind", bind, 8025)
    asked = _address("--ask", ask, 8026) if ask else None
    if asked and not asked[0].startswith(("127.", "::1", "localhost")):
        output.warn(f"--ask {ask} is open to others: it tells which trace domains there are")
    return serve(
        Plan(
            store=address,
            host=host,
            port=port,
            proxies=networks_of(trust_proxy or []),
            workers=workers,
            tls_cert=tls_cert,
            tls_key=tls_key,
            keep_days=_days(keep),
            anonymize_ip=anonymize_ip,
            no_recipient=no_recipient,
            secrets=tuple(read_keys(keys)) if keys else (),
            mmdb=mmdb,
            ask=asked,
            spool=spool or store.default_spool(address),
            spool_limit=spool_limit << 20,
        )
    )


def _address(option: str, text: str, usual: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004
        msg = f"{option} {text!r} is not an address and a port"
        raise UsageError(msg, f"{option} 127.0.0.1:{usual}, or {option} [::]:{usual}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - ":8025" asks for just that


def _days(keep: str) -> int:
    if not keep:
        return 0
    number = keep.removesuffix("d")
    if not number.isdigit() or not int(number):
        msg = f"--keep {keep!r} is not a number of days"
        raise UsageError(msg, "--keep 400d")
    return int(number)
