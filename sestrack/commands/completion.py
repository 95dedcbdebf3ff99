"""`sestrack completion`: the script that lets a shell complete our command lines."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sestrack import output
from sestrack.terminal.completion import SCRIPTS

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Shell(StrEnum):
    """The shells there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")],
) -> None:
    """Print the script that completes commands, options, names and files.

    \b
    Source it where your shell starts:
      bash  ~/.bashrc                    source <(sestrack completion bash)
      zsh   ~/.zshrc, after compinit     source <(sestrack completion zsh)
      fish  ~/.config/fish/config.fish   sestrack completion fish | source

    Domains and messages are those of the store; nothing is changed, and no network is
    needed unless the store is a PostgreSQL.

    Example: source <(sestrack completion bash)
    """  # noqa: D301 - \b is click's sign for lines as they are
    output.report()
    output.product(SCRIPTS[shell])
