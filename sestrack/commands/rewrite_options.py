"""The options of `sestrack rewrite`, as Typer wants them: made from its one table."""

from __future__ import annotations

from enum import StrEnum
from inspect import Parameter, Signature
from typing import Annotated, Any, cast

import typer
from typer._click.core import ParameterSource  # the click that Typer carries with it

from sestrack import output
from sestrack.commands.rewrite import OPTIONS, Option, Request
from sestrack.errors import UsageError
from sestrack.terminal import offers

_HELP = """Rewrite mail: wrap its links, add the pixel, change nothing else.

HTML, whole messages, mbox and Maildir; from standard input, or files, to standard output.
Mail that is not tracked goes out as it came, with the reason on stderr.

Example: sestrack rewrite --sender news.example.com --recipient ada@example.org < letter.html

A campaign, a copy for each line of a list:

Example: sestrack rewrite letter.html --sender news.example.com --recipients list.csv -o out.jsonl
"""


_OFFERS = {"sender": offers.sender_domains, "message": offers.messages}


def application() -> typer.Typer:
    """Make the command."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    def rewrite(ctx: typer.Context, files: list[str] | None = None, **values: Any) -> int:
        for option in OPTIONS:
            typed = ctx.get_parameter_source(option.name)
            if typed is ParameterSource.COMMANDLINE and option.metavar and not values[option.name]:
                msg = f"{option.flags[-1]} is empty; is a variable not set?"
                if option.wanted:
                    raise UsageError(msg, "sestrack rewrite --help")
                if option.name != "sender":
                    output.warn(msg)
        given = {name: value for name, value in values.items() if value is not None}
        if isinstance(given.get("pixel"), StrEnum):
            given["pixel"] = str(given["pixel"])
        return Request(files=tuple(files or ()), **given).run(ctx.obj)

    parameters = [
        Parameter("ctx", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        Parameter(
            "files", Parameter.POSITIONAL_OR_KEYWORD, default=None,
            annotation=Annotated[
                list[str] | None,
                typer.Argument(
                    metavar="[FILE...]", help="Files or folders.", click_type=offers.FileName()
                ),
            ],
        ),
        *map(_parameter, OPTIONS),
    ]  # fmt: skip
    rewrite.__doc__ = _HELP
    rewrite.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    rewrite.__annotations__ = {p.name: p.annotation for p in parameters}
    app.command()(rewrite)
    return app


def _parameter(option: Option) -> Parameter:
    default = Request._field_defaults[option.name]
    kind: Any = bool if not option.metavar else str
    if option.choices:
        members = {choice.upper(): choice for choice in option.choices}
        kind = cast("Any", StrEnum)(option.name, members)
        default = kind(default)
    details: dict[str, Any] = {"help": option.help}
    if option.metavar:
        details["metavar"] = option.metavar
    if option.metavar == "FILE":
        details["click_type"] = offers.FileName()
    if option.name in _OFFERS:
        details["autocompletion"] = _OFFERS[option.name]
    if option.name == "sender":
        default = Parameter.empty
    return Parameter(
        option.name, Parameter.KEYWORD_ONLY, default=default,
        annotation=Annotated[kind, typer.Option(*option.flags, **details)],
    )  # fmt: skip
