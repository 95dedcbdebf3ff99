"""The root of the command tree, for Typer."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer._click import Command, Context  # the click that Typer carries with it
from typer._click.exceptions import ClickException, NoArgsIsHelpError
from typer.core import TyperGroup

import sestrack
from sestrack.cli import COMMANDS
from sestrack.errors import UsageError


class Root(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002
        """Name the commands, in the order an administrator meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"sestrack.commands.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        command.help = command.help or COMMANDS[cmd_name]
        return command


app = typer.Typer(
    cls=Root, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _version(value: bool) -> None:  # noqa: FBT001
    if value:
        typer.echo(f"sestrack {sestrack.__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    store: Annotated[
        str, typer.Option(help="The store's file; else $SESTRACK_STORE.", metavar="PATH")
    ] = "",
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Open and click tracking for e-mail under your own domain.

    Begin with: sestrack init --edge edge.example.net
    """
    ctx.obj = store or None


def application(arguments: list[str]) -> int:
    """Run the command tree; return its exit code."""
    command = typer.main.get_command(app)
    try:
        result: Any = command.main(arguments, prog_name="sestrack", standalone_mode=False)
    except NoArgsIsHelpError as usage:
        typer.echo(usage.format_message(), err=True)
        return usage.exit_code
    except ClickException as usage:
        context = getattr(usage, "ctx", None)
        path = context.command_path if context is not None else "sestrack"
        raise UsageError(usage.format_message().rstrip("."), f"{path} --help") from None
    return result if isinstance(result, int) else 0
