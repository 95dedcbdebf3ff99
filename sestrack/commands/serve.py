"""`sestrack serve`: the tracking server."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sestrack import output, store
from sestrack.errors import UsageError
from sestrack.terminal import offers
from sestrack.tracker.listening import address_of

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_FILE = offers.FileName()
_LOOPBACK = ("127.", "::1", "localhost")


class Log(StrEnum):
    """Whom the log is for: people or machines."""

    TEXT = "text"
    JSON = "json"


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
        int,
        typer.Option(metavar="N", min=1, max=64, help="Processes that answer; one more writes."),
    ] = 1,
    tls_cert: Annotated[
        str, typer.Option(metavar="FILE", help="Serve https: the chain.", click_type=_FILE)
    ] = "",
    tls_key: Annotated[
        str, typer.Option(metavar="FILE", help="Its private key.", click_type=_FILE)
    ] = "",
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
        str,
        typer.Option(
            metavar="FILE", help="Keys exported before: links outlive the store.", click_type=_FILE
        ),
    ] = "",
    mmdb: Annotated[
        str,
        typer.Option(metavar="FILE", help="An MMDB for countries and regions.", click_type=_FILE),
    ] = "",
    spool: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Where events wait while PostgreSQL is away.",
            click_type=offers.FileName(folder=True),
        ),
    ] = "",
    spool_limit: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="How much may wait there.")
    ] = 1024,
    ask: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Caddy asks which names are ours.")
    ] = "",
    metrics: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Prometheus asks for /metrics.")
    ] = "",
    log: Annotated[Log, typer.Option(help="How to write what there is to say.")] = Log.TEXT,
) -> int:
    """Answer the URLs that `rewrite` makes, and record opens and clicks.

    Example: sestrack serve --bind 127.0.0.1:8025 --trust-proxy 127.0.0.1
    """
    from sestrack.keyfile import read_keys
    from sestrack.tracker.clients import networks_of
    from sestrack.tracker.server import serve
    from sestrack.tracker.worker import ServeOptions

    output.never_wait()
    if log is Log.JSON:
        output.log_as_json("server")
    if bool(tls_cert) != bool(tls_key):
        msg = "--tls-cert and --tls-key go together"
        raise UsageError(msg, "--tls-key key.pem" if tls_cert else "--tls-cert fullchain.pem")
    address = ctx.obj
    host, port = _address("--bind", bind, 8025)
    asked = _address("--ask", ask, 8026) if ask else None
    if asked and not asked[0].startswith(_LOOPBACK):
        output.warn(f"--ask {ask} is open to others: it tells which trace domains there are")
    shown = _address("--metrics", metrics, 9125) if metrics else None
    if shown and not shown[0].startswith(_LOOPBACK):
        output.warn(f"--metrics {metrics} is open to others: it tells how much is read, and when")
    if spool and store.kind_of(address) == "sqlite":
        output.warn("--spool is for PostgreSQL: a store in a file needs none")
    return serve(
        ServeOptions(
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
            metrics=shown,
            log_json=log is Log.JSON,
        )
    )


def _address(option: str, text: str, usual: int) -> tuple[str, int]:
    host, port = address_of(option, text, f"127.0.0.1:{usual}")
    return host or "0.0.0.0", port  # noqa: S104 - ":8025" asks for just that


def _days(keep: str) -> int:
    if not keep:
        return 0
    number = keep.removesuffix("d")
    if not number.isdecimal() or not int(number):
        msg = f"--keep {keep!r} is not a number of days"
        raise UsageError(msg, "--keep 400d")
    return int(number)
