"""`sestrack backup`: all of the store in one file."""

from __future__ import annotations

from shlex import quote
from typing import Annotated

import typer

from sestrack import output, store
from sestrack.backups import save
from sestrack.terminal import offers

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def backup(
    ctx: typer.Context,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Made with mode 0600.", click_type=offers.FileName()),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is there, by a whole new one.")
    ] = False,
) -> None:
    """Write all of the store to one file, as it is at one moment, while it is served.

    The file has the keys and the recipients in it: keep it as you keep the store.  It is there
    when all of it is.  Of a store in PostgreSQL the same kind of file is made, row by row; its
    own backups (pg_dump, archived logs) do as well.

    Example: sestrack backup /backup/sestrack-$(date +%F).db
    """
    address = ctx.obj
    octets = save(address, file, output.progress, force=force)
    output.note(f"{file} has all of {store.shown(address)}, {octets / (1 << 20):,.1f} MiB")
    back = "sestrack restore FILE puts it back"
    if store.kind_of(address) != store.kind_of(file):
        back = f"sestrack copy FILE {quote(store.shown(address))} puts it into an empty database"
    output.note(f"whoever has it can read and forge links; {back}")
