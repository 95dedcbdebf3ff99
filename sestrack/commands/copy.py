"""`sestrack copy`: everything of a store into another one."""

from __future__ import annotations

from typing import Annotated

import typer

from sestrack import output, store
from sestrack.copying import copy as copy_store
from sestrack.terminal import offers

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def copy(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FROM",
            help="A store's path, or its postgresql:// URL.",
            click_type=offers.FileName(),
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TO",
            help="A path with no file, or an empty database.",
            click_type=offers.FileName(),
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy all of a store to a new one, from SQLite to PostgreSQL or any other way.

    Keys, domains, settings, events and figures: links and reports go on as before.  Stop the
    servers of FROM first; it is not changed, and nobody else can write to it meanwhile.  After
    an interruption the same command goes on.  In the end both are read again and compared;
    until then no other command takes TO for a store.

    Events that wait in the spool of a server are no part of FROM: let it store them first.

    Example: sestrack copy store.db postgresql://sestrack@db.example.net/sestrack
    """
    done = copy_store(source, target, output.progress)
    if json:
        output.json_array([table._asdict() for table in done.tables])
    else:
        lines = [(name, str(rows), digest) for name, rows, digest in done.tables]
        output.table(("table", "rows", "digest"), lines, right={1})
    if done.resumed:
        output.note(f"{done.resumed} rows were there from before")
    if done.altered:
        output.warn(f"{done.altered} rows had NUL in a text; U+FFFD stands for it in the copy")
    output.note(f"{store.shown(target)} has all of {store.shown(source)}, read again and compared")
    output.note("next: name it with --store or SESTRACK_STORE, and start the server")
