"""`sestrack restore`: a backup in the place of the store."""

from __future__ import annotations

from typing import Annotated

import typer

from sestrack import output, store
from sestrack.backups import restore as put_back
from sestrack.engines.sqlite import SCHEMA_VERSION
from sestrack.files import typed
from sestrack.terminal import offers

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def restore(
    ctx: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="What sestrack backup wrote.", click_type=offers.FileName()
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Give the store that is here another name.")
    ] = False,
) -> None:
    """Put a backup in the place of the store.  Stop the server first.

    FILE is checked, and one of an earlier version brought up to date.  The store that was here is
    kept under another name, and so are the keys it had on top: links sealed since lead on.
    Who was forgotten since stays so.  What was recorded since is in the old one alone.

    Example: sestrack restore --force /backup/sestrack-2026-06-01.db
    """
    address = ctx.obj
    done = put_back(file, address, output.progress, store.now(), force=force)
    if done.schema < SCHEMA_VERSION:
        output.note(f"it had schema {done.schema}, and has {SCHEMA_VERSION} now")
    if done.aside:
        output.note(
            f"the store that was here is {done.aside} now, with its keys and all names; to go "
            f"back: sestrack restore --force {typed(done.aside)}"
        )
    if done.keys:
        numbers = ", ".join(map(str, done.keys))
        its = f"its key {numbers} is" if len(done.keys) == 1 else f"its keys {numbers} are"
        output.note(f"{its} kept: links sealed since lead on")
    if done.forgotten:
        output.note(f"recipients forgotten since are forgotten in it, too: {done.forgotten}")
    if done.strange:
        output.warn(
            "it had other keys, or could not be read: links sealed with them lead nowhere now "
            "(sestrack serve --keys FILE reads keys that were exported), and who was forgotten "
            "in it is not forgotten here (sestrack events forget --recipient ID)"
        )
    output.note(f"the store {address} is what {file} was; next: sestrack serve")
