"""The root of the command tree, for Typer."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer._click import (
    Command,
    Context,
    HelpFormatter,
    decorators,
)  # the click that Typer carries with it
from typer._click.exceptions import ClickException, NoArgsIsHelpError
from typer._click.shell_completion import CompletionItem
from typer.core import TyperGroup

import sestrack
from sestrack import output
from sestrack.cli import COMMANDS
from sestrack.engines.default import default_address, expanded
from sestrack.errors import UsageError
from sestrack.terminal.helping import (
    Formatter,
    example_of,
    first_sentence,
    path_of,
    swallowed,
    width,
    wrong_line,
)
from sestrack.terminal.offers import FileName


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
        if isinstance(command, TyperGroup):
            inner = list(command.commands.values())
            for each in inner:
                each.short_help = first_sentence(each)
            command.help += f"\n\nExample: {example_of(inner[0])}"
        return command

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: Context, incomplete: str) -> list[CompletionItem]:
        """Offer commands without importing them; else the options."""
        names = [name for name in COMMANDS if name.startswith(incomplete)]
        if names:
            return [CompletionItem(name, help=COMMANDS[name]) for name in names]
        return super().shell_complete(ctx, incomplete)


app = typer.Typer(
    cls=Root, add_completion=False, rich_markup_mode=None, no_args_is_help=True,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _help(text: str, color: bool | None = None) -> None:  # noqa: ARG001, FBT001 - as Typer calls it
    output.report()
    output.drawn(f"{text}\n")


def _version(value: bool) -> None:  # noqa: FBT001
    if value:
        output.report()
        output.product(f"sestrack {sestrack.__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    store: Annotated[
        str,
        typer.Option(
            help="The store's file; else $SESTRACK_STORE.", metavar="PATH", click_type=FileName()
        ),
    ] = "",
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Open and click tracking for e-mail under your own domain.

    Example: sestrack init --edge edge.example.net
    """
    ctx.obj = expanded(store) or default_address()


def _check_values(command: Command, arguments: list[str]) -> None:
    """Raise `UsageError` for a value that is empty or not there: a variable is not set.

    What an option is for would be done to all there is.  For empty ones `rewrite` looks itself.
    """
    if failure := swallowed(command, arguments):
        raise failure
    path = path_of(command, arguments)
    if path == "sestrack rewrite":
        arguments = arguments[: arguments.index("rewrite")]
    for before, word in pairwise(["", *arguments]):
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if not value and (equals or not word):
            option = name or (before if before.startswith("-") and before.strip("-") else "")
            msg = f"{option or 'an argument'} is empty; is a variable not set?"
            raise UsageError(msg, f"{path} --help")


def application(arguments: list[str]) -> int:
    """Run the command tree; return its exit code."""
    output.prepare()
    Context.formatter_class = Formatter
    # Typer's own way to print help knows no full disk
    decorators.echo = _help  # type: ignore[attr-defined, assignment]
    if "_SESTRACK_COMPLETE" in os.environ:
        from sestrack.terminal.completion import register

        register()
    command = typer.main.get_command(app)
    _check_values(command, arguments)
    try:
        result: Any = command.main(
            arguments, prog_name="sestrack", standalone_mode=False, terminal_width=width()
        )
    except NoArgsIsHelpError as usage:
        with suppress(OSError):  # nobody listens
            typer.echo(usage.format_message(), err=True)
        return usage.exit_code
    except ClickException as usage:
        raise wrong_line(usage, command, arguments) from None
    return result if isinstance(result, int) else 0
