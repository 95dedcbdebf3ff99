"""`sestrack inspect`: what is inside a tracking URL.  Needs the keys and nothing else."""

from __future__ import annotations

import os
import re
import sys
from html import unescape
from typing import Annotated, Any

import typer

from sestrack import output, store
from sestrack.errors import BadInput, ForgedToken
from sestrack.files import typed
from sestrack.times import utc
from sestrack.tokens import Key, open_copy, open_link

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_WHOLE = "the whole of a link, as it stands in the mail"
_URL = re.compile(
    r"https?://([^/:\s]+)(?::\d+)?/([A-Za-z0-9_~]+)(?:/([A-Za-z0-9_~]+))?/?", re.IGNORECASE
)


@app.command()
def inspect(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL|-", help="- reads one a line.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Show what is inside a tracking URL; works without network.

    Example: sestrack inspect - < urls.txt
    """
    output.report()
    with store.Store(ctx.obj) as opened:
        keys = opened.token_keys()
        if os.path.isfile(url):
            hosts = "|".join(re.escape(domain.name) for domain in opened.trace_domains()[:5])
            msg = f"{url} is a file, and a tracking URL is wanted"
            links = f"grep -oE 'https?://({hosts})[A-Za-z0-9_~/:]*' {typed(url)}"
            raise BadInput(msg, f"{links} | sestrack inspect -")
    many = url == "-"
    shown, code = 0, 0
    for number, line in enumerate(sys.stdin if many else [url], 1):
        if many and not line.strip():
            continue
        try:
            values = _open(keys, line)
        except ForgedToken as error:
            if not many:
                raise
            output.error(f"line {number}: {error.message}", error.hint)
            code = error.code
            continue
        if shown and not json:
            output.product("\n")
        shown += 1
        if many and json:
            output.json_line(values)
        elif json:
            output.json_object(values)
        else:
            output.facts((name.replace("_", " "), str(value)) for name, value in values.items())
    if not (shown or code):
        msg = "there is no URL in standard input"
        raise BadInput(msg, "sestrack inspect - < urls.txt")
    return code


def _short(url: str) -> str:
    return f"{url[:80]!r}{'…' if url[80:] else ''}"


def _open(keys: list[Key], url: str) -> dict[str, Any]:
    cleaned = unescape(url.strip().strip("<>\"'"))
    match = _URL.fullmatch(cleaned)
    if match is None:
        msg = f"{_short(cleaned)} is not a tracking URL"
        raise ForgedToken(msg, _WHOLE)
    host = match[1].lower()
    for key in keys:
        try:
            copy = open_copy([key], host, match[2].encode())
        except ForgedToken:
            continue
        values: dict[str, Any] = {
            "kind": "click" if match[3] else "open",
            "trace_domain": host, "sender_domain": copy.sender, "message": copy.message,
            "recipient": copy.recipient, "minted_at": utc(copy.minted), "key": key.id,
        }  # fmt: skip
        if match[3]:
            try:
                link = open_link(keys, host, copy, match[3].encode())
            except ForgedToken as error:
                msg = f"{_short(cleaned)}: {error.message}"
                raise ForgedToken(msg, error.hint or _WHOLE) from None
            values |= {"link": link.number, "destination": link.url}
        return values
    msg = f"{_short(cleaned)} was not sealed by a key of this store for {host}"
    raise ForgedToken(msg, "sestrack keys list")
