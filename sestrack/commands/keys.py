"""`sestrack keys`: the sealing keys."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sestrack import files, output, store
from sestrack.errors import CannotCreate
from sestrack.keyfile import write_keys
from sestrack.terminal import offers
from sestrack.times import utc

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.command("list")
def list_(
    ctx: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the keys; their secrets are not shown.

    Example: sestrack keys list
    """
    output.report()
    with store.Store(ctx.obj) as opened:
        keys = opened.keys()
    rows = [(key.id, utc(key.created_at), "seals" if key is keys[0] else "reads") for key in keys]
    if json:
        output.json_array([{"id": i, "created_at": at, "use": use} for i, at, use in rows])
        return
    output.table(("key", "created", "use"), [(str(i), at, use) for i, at, use in rows])


@app.command()
def rotate(ctx: typer.Context) -> None:
    """Add a key that seals from now on.  The older ones keep reading.

    Example: sestrack keys rotate
    """
    with store.Store(ctx.obj) as opened:
        key = opened.rotate_key(store.now())
    output.note(f"key {key} seals from now on; export the keys again if you keep a copy")


@app.command()
def export(
    ctx: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Made with mode 0600; - is stdout.", click_type=offers.FileName()
        ),
    ],
) -> None:
    """Write all keys to a file: with it links outlive the loss of the store.

    Example: sestrack keys export sestrack.keys
    """
    with store.Store(ctx.obj) as opened:
        store.check_name(ctx.obj)
        keys = opened.keys()
    text = write_keys(keys)
    if file == "-":
        output.product(text)
        return
    if os.path.lexists(file):
        msg = f"{file} is there already, and is not written over"
        other = f"{file}.new"
        if os.path.isdir(file):
            other = os.path.join(file, "sestrack.keys")
        elif files.is_special(file):
            other = "-"
        raise CannotCreate(msg, f"sestrack keys export {files.typed(other)}")
    with files.beside(file, private=True) as name, open(name, "w", encoding="ascii") as stream:
        stream.write(text)
    said = "1 key is" if len(keys) == 1 else f"{len(keys)} keys are"
    output.note(f"{said} in {file}; whoever has it can read and forge links")
