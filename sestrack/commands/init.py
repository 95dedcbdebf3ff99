"""`sestrack init`: the store, the first key, and what to do next."""

from __future__ import annotations

from typing import Annotated

import typer

from sestrack import output, store
from sestrack.rules import check_name

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def init(
    ctx: typer.Context,
    edge: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="The host name that the tracking server answers under."),
    ] = None,
) -> None:
    """Make the store and its first key.  Again: nothing changes.

    Example: sestrack init --edge edge.example.net
    """
    path = ctx.obj
    named = "" if edge is None else check_name("edge", edge, "--edge edge.example.net")
    done = store.initialise(path, named, store.now())
    state = "ready" if done.changed else "set up already; nothing changed"
    output.note(f"the store {store.shown(path)} is {state}")
    if done.former_schema:
        output.note(f"it had schema {done.former_schema}, and has {done.schema} now")
    if done.former_edge:
        output.note(f"the edge was {done.former_edge}, and is {named} now")
    with store.Store(path) as opened:
        if not opened.edge():
            output.note(
                "next: sestrack init --edge HOST, the name the tracking server answers under"
            )
        elif not opened.senders():
            output.note("next: sestrack sender add DOMAIN, a domain that you send mail from")
