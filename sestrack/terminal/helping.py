"""How help looks, and what is said of a wrong command line."""

from __future__ import annotations

import os
import re
import shutil
from itertools import pairwise
from shlex import quote
from typing import TYPE_CHECKING

from typer import style
from typer._click import Context, HelpFormatter  # the click that Typer carries with it
from typer._click.exceptions import (
    BadParameter,
    ClickException,
    MissingParameter,
    NoSuchOption,
)
from typer.core import TyperGroup

from sestrack.errors import UsageError
from sestrack.terminal.mistyped import corrected, line_of, moved_before, moved_behind, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typer._click import Command

NARROW, WIDEST = 60, 100
"""Columns below which what an option does stands under it; columns that help does not pass."""
EXAMPLE = re.compile(r"^Example: (.+)$", re.MULTILINE)


def width() -> int:
    """Return the columns for help: those of the terminal, within reason."""
    return max(min(shutil.get_terminal_size().columns, WIDEST) - 2, 20)


class Formatter(HelpFormatter):
    """Writes an example so that it can be copied; fits a narrow terminal; headings are bold."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write how a command is called, without Typer's braces around what is required."""
        args = re.sub(r"\{(.+?)\}", r"\1", args)
        super().write_usage(prog, args, _bold(prefix or "Usage: "))

    def write_heading(self, heading: str) -> None:
        """Write what stands over options and commands."""
        super().write_heading(_bold(heading))

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        for number, paragraph in enumerate(re.split(r"\n{2,}", text.strip("\n"))):
            if number:
                self.write_paragraph()
            if EXAMPLE.match(paragraph):
                for line in paragraph.splitlines():
                    self._write_example(line)
            else:
                super().write_text(paragraph.replace(".  ", ". "))

    def _write_example(self, line: str) -> None:
        """Break a long line as one would in a shell, before an option or a redirection."""
        indent = " " * self.current_indent
        begun, *rest = re.split(r" (?=--?\w|[|<>])", line)
        room = self.width - len(indent) - len(" \\")
        for piece in rest:
            if len(begun) + 1 + len(piece) > room:
                self.write(f"{indent}{begun} \\\n")
                begun = f"    {piece}"
            else:
                begun += f" {piece}"
        self.write(f"{indent}{begun}\n")

    def write_dl(
        self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write options, or commands, and what they do."""
        rows = [(name, range_in_words(what)) for name, what in rows]
        if self.width >= NARROW:
            super().write_dl(rows, col_max, col_spacing)
            return
        for name, what in rows:
            super().write_text(name)
            self.indent()
            super().write_text(what)
            self.dedent()


def range_in_words(what: str) -> str:
    """Write the range of a number as people do; click has "[default: 1; 1<=x<=64]"."""
    what = re.sub(r"(\d+)<=x<=(\d+)\]$", r"\1 to \2]", what)
    return re.sub(r"; x>=\d+\]$", "]", what)


def _bold(text: str) -> str:
    """Make text bold; where that cannot be, Typer's echo leaves it out again."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else style(text, bold=True)


def example_of(command: Command) -> str:
    """Return the first example in a command's help, "" if there is none."""
    found = EXAMPLE.search(command.help or "")
    return found[1] if found else ""


def first_sentence(command: Command) -> str:
    """Return the first sentence of a command's help, whole; click would cut it."""
    return re.split(r"(?<=\.)  |\n\n", command.help or "")[0]


_NO_COMMAND = re.compile(r"No such command '(.+?)'")
_NO_CHOICE = re.compile(r"'(.*)' is not one of ")


def wrong_line(wrong: ClickException, root: Command, arguments: Sequence[str]) -> UsageError:
    """Return what is said of a command line that cannot be read, and what to type."""
    context = getattr(wrong, "ctx", None)
    message = " ".join(wrong.format_message().split()).rstrip(".")
    hint = f"{path_of(root, arguments)} --help"
    if context is None:  # an option without its value: the example may have one
        *_, (_, command) = [("", root), *_called(root, arguments)]
        name = getattr(wrong, "option_name", "") or " "
        example = example_of(command)
        hint = example if name in example else hint
        return UsageError(message[:1].lower() + message[1:], hint)
    word, words = _mistyped(wrong, arguments)
    if isinstance(wrong, NoSuchOption) and (flag := _option_below(root, word, arguments)):
        message = f"{word} is an option of `{path_of(root, arguments)}`, and goes behind it"
        return UsageError(message, moved_behind(word, arguments, flag=flag == "flag"))
    if isinstance(wrong, NoSuchOption) and word == "--store":
        return UsageError(f"{word} goes before the command", moved_before(word, arguments))
    if wrong.message.startswith("Got unexpected extra argument"):
        hint = _without_extra(wrong.message, root, arguments)
    meant = (_synonym(word, words) or nearest(word, words)) if word else ""
    if isinstance(wrong, NoSuchOption):
        message = f"there is no option {word}"
    elif isinstance(context.command, TyperGroup) and word:
        message = f"there is no command {word!r}"
    elif isinstance(wrong, MissingParameter):
        hint = _completed(wrong, root, arguments) or example_of(context.command) or hint
    message = message[:1].lower() + message[1:]
    if isinstance(wrong, BadParameter):
        message = _number_in_words(message)
    if meant:
        return UsageError(
            f"{message}; did you mean {meant}?", corrected(word, meant, arguments, hint)
        )
    return UsageError(message, hint)


def _without_extra(message: str, root: Command, arguments: Sequence[str]) -> str:
    """Return the command line without what is too much, or with the option that it is for."""
    listed = message.partition(" (")[2].rstrip(".").removesuffix(")")
    rest: list[str] = []
    word = ""
    for argument in reversed(arguments):  # as they are listed, with blanks in them and between
        if listed and f" {listed}".endswith(f" {argument}"):
            listed, word = listed[: -len(argument) - 1], argument
        elif argument != "--" or rest:
            rest.insert(0, argument)
    option = _NAMED.get(path_of(root, arguments).removeprefix("sestrack "), "")
    if option and option not in {word.partition("=")[0] for word in rest}:
        rest += [option, word]
    return line_of(rest)


_NAMED = {
    "init": "--edge", "serve": "--bind", "stats": "--message", "settings show": "--sender",
}  # fmt: skip
"""Commands without arguments, and the option that one may be meant for."""


def _completed(wrong: MissingParameter, root: Command, arguments: Sequence[str]) -> str:
    """Return the command line with what is missing; "" where its example does as well.

    The example of a command that takes something away would take another thing away: what was
    typed where it does not belong is meant, or else the name of what is wanted stands there.
    """
    path = path_of(root, arguments)
    if path.split()[-1] not in _TAKING or wrong.param is None:
        return ""
    *_, (_, command) = [("", root), *_called(root, arguments)]
    name = wrong.param.opts[0] if wrong.param.param_type_name == "option" else ""
    called = [word for word, _ in _called(root, arguments)]
    words = arguments[arguments.index(called[-1]) + 1 :]
    rest = [word for word in words if not word.startswith("-")]
    value = quote(rest[-1]) if rest and name else wrong.param.make_metavar(Context(command))
    return " ".join([path, *[name] * bool(name), value])


_TAKING = {"purge", "forget", "delete", "remove"}
_SYNONYMS = (
    {"add", "create", "new", "register"}, {"remove", "delete", "rm", "del"},
    {"show", "get", "info"}, {"list", "ls", "tail", "log"},
)  # fmt: skip
"""Commands that one might call by another's name: senders are added, trace domains created."""


def _synonym(word: str, commands: Sequence[str]) -> str:
    """Return the command, or option, that does what a word says, "" if there is none."""
    if re.fullmatch(r"-\d+", word) and "-n" in commands:  # as `tail` takes it
        return f"-n{word[1:]}"
    alike = next((words for words in _SYNONYMS if word in words), set())
    return next((command for command in commands if command in alike), "")


def _number_in_words(message: str) -> str:
    """Say what is wrong with a number as people do."""
    message = message.replace("is not a valid int range", "is not a whole number")
    message = re.sub(r"is not in the range (\d+)<=x<=(\d+)$", r"is not from \1 to \2", message)
    return re.sub(r"is not in the range x>=(\d+)$", r"is less than \1", message)


def path_of(root: Command, arguments: Sequence[str]) -> str:
    """Return the command of a line, as far as there is one."""
    return " ".join(["sestrack", *(name for name, _ in _called(root, arguments))])


def _called(command: Command, arguments: Sequence[str]) -> Iterator[tuple[str, Command]]:
    """Give the command of a line, as far as there is one, and before it those it belongs to."""
    for word in arguments:
        if isinstance(command, TyperGroup) and (
            inner := command.get_command(Context(command), word)
        ):
            yield word, inner
            command = inner


def swallowed(root: Command, arguments: Sequence[str]) -> UsageError | None:
    """Return what is to be said of an option that took the next word of a line as its value.

    That is another option, or the command: its own is not there, as of a variable that is not set.
    """
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    commands = root.list_commands(Context(root)) if isinstance(root, TyperGroup) else []
    for place, (option, value) in enumerate(pairwise(words)):
        if option == "--store":
            lost = value in commands and {*words[place + 2 : place + 3]}.isdisjoint(commands)
        else:
            lost = value.startswith("-") and _option_below(root, option, words) == "value"
            lost = lost and bool(_option_below(root, value, words))
        if lost:
            msg = f"{option} took {value!r} as its value; is a variable not set?"
            return UsageError(msg, f"{path_of(root, arguments)} --help")
    return None


def _option_below(root: Command, name: str, arguments: Sequence[str]) -> str:
    """Say of an option that the command of a line has: "flag" or "value"; "" if it has none."""
    for _, command in _called(root, arguments):
        for option in command.get_params(Context(command)):
            if option.param_type_name == "option" and name in (
                *option.opts,
                *option.secondary_opts,
            ):
                return "flag" if getattr(option, "is_flag", False) else "value"
    return ""


def _mistyped(wrong: ClickException, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the word that is none, and those that it could have been."""
    context = getattr(wrong, "ctx", None)
    if context is None:
        return "", []
    if isinstance(wrong, NoSuchOption):
        # of `-edge` click names `-e`
        word = next((w for w in arguments if w.startswith(wrong.option_name)), wrong.option_name)
        options = [p for p in context.command.get_params(context) if p.param_type_name == "option"]
        return word.partition("=")[0], [
            name for option in options for name in (*option.opts, *option.secondary_opts)
        ]
    if isinstance(context.command, TyperGroup) and (found := _NO_COMMAND.search(wrong.message)):
        return found[1], context.command.list_commands(context)
    if isinstance(wrong, BadParameter) and (found := _NO_CHOICE.search(wrong.message)):
        choices = getattr(getattr(wrong.param, "type", None), "choices", ())
        return found[1], [str(choice) for choice in choices]
    return "", []
