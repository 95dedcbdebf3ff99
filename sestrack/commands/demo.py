"""`sestrack demo`: the main job, shown on one's own machine."""

from __future__ import annotations

from typing import Annotated

import typer

from sestrack import output
from sestrack.errors import InputOutputError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running, with a page to click on.")
    ] = False,
) -> None:
    """Show the main job, from a sender domain to the figures, in some ten seconds.

    Everything is real, and on this machine alone: a store in a temporary folder, a name
    server and a tracking server on loopback, a newsletter, visits over HTTP.  Each command
    is printed as you would type it.  Nothing is left behind.

    Example: sestrack demo
    """
    from sestrack.demo.acts import show

    try:
        show(keep=keep)
    except InputOutputError as error:
        if isinstance(error.__context__, BrokenPipeError):
            output.end_by_sigpipe()  # all is tidied up by now
        raise
