r"""The manual page, `man/sestrack.1`, made from the command tree.

    python -m sestrack.terminal.manual > man/sestrack.1

makes it anew; `tests/test_terminal.py` holds the two equal.  The wheel brings it to
`share/man/man1`, where `man` looks for what is in the `PATH`.

It is written in the macros of man(7), which groff and mandoc both know.  Whatever is not
ASCII is a `\[uXXXX]`, and every hyphen a minus, so that options can be copied.
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import typer
from typer._click import Context
from typer.core import TyperGroup

import sestrack
from sestrack import errors, output
from sestrack.root import app
from sestrack.terminal.helping import EXAMPLE, range_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer._click import Command

_DESCRIPTION = """\
An administrator's tool: it registers and verifies trace domains, holds the tracking settings,
rewrites HTML mail so that its links and a pixel lead to a trace domain, answers the opens and
clicks, and counts them.  It does not send mail.

What a command is for goes to standard output, all other talk to standard error; on a pipe
tables are tabs, nothing cut off.  Every error names the thing, and what to type next.

Example: sestrack init --edge edge.example.net
"""
_ENVIRONMENT = {
    "SESTRACK_STORE": "The store: a file, or the postgresql:// URL of a database.",
    "XDG_DATA_HOME": "Where sestrack/store.db is, if no store is named; else ~/.local/share.",
    "VISUAL, EDITOR": "What `sestrack settings edit` opens.",
    "NO_COLOR": "If set to anything, nothing is coloured; nothing ever is on a pipe.",
    "COLUMNS": "The width of tables and help, if not the terminal's.",
    "SSL_CERT_FILE": "The authorities that `sestrack domain verify` trusts.",
    "SESTRACK_TRACEBACK": "If set, a bug of ours shows where it is.",
}


def page() -> str:
    """Return the page in roff."""
    root = typer.main.get_command(app)
    context = Context(root, info_name="sestrack")
    lines = [
        f'.TH SESTRACK 1 "" "sestrack {sestrack.__version__}" "User Commands"',
        ".SH NAME",
        r"sestrack \- open and click tracking for e\-mail under your own domain",
        ".SH SYNOPSIS",
        r".B sestrack",
        r"[\fB\-\-store\fR \fIPATH\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        *_prose(_DESCRIPTION),
        ".SH OPTIONS",
        *_parameters(root, context),
        ".SH COMMANDS",
    ]
    for inner, command in commands(root, context):
        lines += _command(inner, command)
    lines += [".SH ENVIRONMENT"]
    for name, words in _ENVIRONMENT.items():
        lines += [".TP", rf"\fB{_text(name)}\fR", *_prose(words)]
    lines += [".SH EXIT STATUS"]
    for code, sentences in errors.meanings().items():
        words = " ".join(sentences)
        lines += [".TP", rf"\fB{code}\fR", *_prose(words[:1].upper() + words[1:])]
    return "\n".join(lines) + "\n"


def commands(group: Command, context: Context) -> Iterator[tuple[Context, Command]]:
    """Give the commands that do something, each in its context, whose path calls it."""
    assert isinstance(group, TyperGroup)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = Context(command, info_name=name, parent=context)
        if isinstance(command, TyperGroup):
            yield from commands(command, inner)
        else:
            yield inner, command


def _command(context: Context, command: Command) -> list[str]:
    pieces = re.sub(r"\{(.+?)\}", r"\1", " ".join(command.collect_usage_pieces(context)))
    return [
        f".SS {_text(context.command_path)}",
        rf"\fB{_text(context.command_path)}\fR {_text(pieces)}",
        ".PP",
        *_prose(command.help or ""),
        *_parameters(command, context),
    ]


def _parameters(command: Command, context: Context) -> list[str]:
    lines = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        name, words = record
        lines += [".TP", rf"\fB{_text(name)}\fR", *_prose(range_in_words(words or ""))]
    return lines


def _prose(text: str) -> list[str]:
    r"""Write paragraphs; what stands under a `\b`, and examples, line by line as it is."""
    lines: list[str] = []
    for paragraph in re.split(r"\n{2,}", text.strip("\n")):
        if lines:
            lines.append(".PP")
        if paragraph.startswith("\b"):
            lines += [".nf", *map(_text, paragraph.splitlines()[1:]), ".fi"]
        elif found := EXAMPLE.match(paragraph):
            lines += ["Example:", ".PP", ".RS 4", ".nf", rf"\fB{_text(found[1])}\fR", ".fi", ".RE"]
        else:
            # a sentence a line, as man(7) wants it
            words = re.sub(r"\s*\n\s*", " ", paragraph.strip())
            for sentence in re.split(r"(?<=[.;:])\s{1,2}(?=[A-Z`])", words):
                lines += map(_text, textwrap.wrap(sentence, 72, break_on_hyphens=False))
    return lines


def _text(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("`", "")
    text = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in text)
    return rf"\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    output.product(page())
