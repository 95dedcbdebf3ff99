"""`sestrack recipients`: the column that any mailing tool merges into a rewritten template."""

from __future__ import annotations

from collections import deque
from typing import Annotated

import typer

from sestrack import output, store
from sestrack.errors import Refused, UsageError
from sestrack.files import is_special, quoted, shown
from sestrack.mail.recipients import open_list
from sestrack.terminal import mistyped, offers
from sestrack.times import seconds_of
from sestrack.tracking import Tracking

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_LINES = 1000


@app.command()
def recipients(  # noqa: PLR0913 - one for each choice
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="LIST|-", help="A CSV file.", click_type=offers.FileName())
    ],
    sender: Annotated[
        str,
        typer.Option(
            help="The sender domain.", metavar="DOMAIN", autocompletion=offers.sender_domains
        ),
    ],
    message: Annotated[
        str,
        typer.Option(
            help="The label the template was rewritten with.",
            metavar="LABEL",
            autocompletion=offers.messages,
        ),
    ],
    column: Annotated[str, typer.Option(metavar="NAME", help="The column of the recipients.")] = "",
    name: Annotated[
        str, typer.Option(metavar="NAME", help="What the new column is called.")
    ] = "sestrack",
    at: Annotated[str, typer.Option(help="The minting time; default now.", metavar="TIME")] = "",
    count: Annotated[bool, typer.Option("--count", help="Count a copy for each.")] = False,
) -> None:
    """Add the column with the recipient tokens to a list, for a mailing tool's own merge.

    The template is rewritten once, with the merge field in place of the token:
    sestrack rewrite --sender DOMAIN --message june --recipient-field '{{sestrack}}'

    Example: sestrack recipients list.csv --sender news.example.com --message june > merged.csv
    """
    tracking = Tracking.of(ctx.obj, sender)
    if tracking.entry is None:  # tokens for a name that is mistyped would lead nowhere
        with store.Store(ctx.obj) as opened, mistyped.sender_domain(opened, tracking.sender):
            opened.sender(tracking.sender)
    if not name.strip():
        msg = "--name is empty, and names no column"
        raise UsageError(msg, "--name sestrack")
    minted = seconds_of(at) if at else store.now()
    sealer = tracking.sealer(message, minted) or Tracking.sealer_while_untracked(
        ctx.obj, tracking.sender, message, minted
    )
    made = 0
    if file != "-" and not is_special(file):  # what is wrong in it is said before a line is out
        with open_list(file, column, raw=True) as found:
            deque(found.rows, maxlen=0)
    with open_list(file, column, raw=True) as found:
        names = [cell.strip(' "\r\n') for cell in found.heading.split(found.delimiter)]
        if name in names:
            msg = f"the list {shown(file)} has a column {name!r} already"
            raise Refused(msg, f"--name {quoted(f'{name}2')}")
        added = output.csv_lines([(name,)], found.delimiter).rstrip("\n")
        heading = _with(found.heading, found.delimiter, added) if found.heading else ""
        lines = [found.mark + heading]
        for row in found.rows:
            token = sealer.seal(row.recipient.encode()).decode() if sealer else ""
            lines.append(_with(row.raw, found.delimiter, token))
            made += 1
            if len(lines) >= _LINES:
                output.write_bytes("".join(lines).encode())
                lines.clear()
        output.write_bytes("".join(lines).encode())
    if sealer is None:
        output.note(f"sestrack: the column is empty: untracked: {tracking.untracked}")
    elif tracking.entry is None:
        output.note(
            f"sestrack: untracked: {tracking.untracked}; the tokens are for templates of before"
        )
    else:
        output.note(f"the tokens are for links under {tracking.trace_domain}, of {message}")
    if tracking.entry is not None and count:
        store.count_copies(ctx.obj, tracking.sender, {message: made})


def _with(raw: str, delimiter: str, cell: str) -> str:
    """Add a cell to a line; whatever else stands in it stays."""
    line = raw.rstrip("\r\n")
    return f"{line}{delimiter}{cell}{raw[len(line) :] or chr(10)}"
