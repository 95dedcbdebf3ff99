"""Write the tables in the README and in docs/ anew from the program.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`; whatever is there is
replaced.  `tests/test_documents_tables.py` fails while a table is not what this would write.

    python docs/tables.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer._click import Context

from sestrack import errors
from sestrack.domains.findings import State
from sestrack.links import REASON_WORDS
from sestrack.root import app
from sestrack.settings import ENTRY_KEYS, TOP_KEYS
from sestrack.terminal import manual
from sestrack.terminal.helping import example_of
from sestrack.tracker.visitors import REASON_WORDS as VISITOR_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).resolve().parents[1]
_PLACE = re.compile(
    r"(?P<head><!-- table: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end of table -->)", re.DOTALL
)


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table in Markdown."""
    lines = [list(headings)]
    lines += [[cell.replace("|", r"\|") for cell in row] for row in rows]
    written = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([written[0], "|" + "---|" * len(lines[0]), *written[1:], ""])


def _tree() -> Iterator[tuple[str, Any]]:
    """Go through the commands and their subcommands, by the words that call them."""
    root = typer.main.get_command(app)
    for context, command in manual.commands(root, Context(root, info_name="")):
        yield context.command_path.strip(), command


def _paragraph(command: Any) -> str:
    """Return the first paragraph of a help text: a sentence or two."""
    return " ".join((command.help or "").partition("\n\n")[0].split()).rstrip(".")


def commands() -> str:
    """Every command with what it does."""
    return table(
        ("command", "what it does"),
        ((f"`{name}`", _paragraph(one)) for name, one in _tree()),
    )


def options() -> str:
    """Every option of every command."""
    parts = []
    for name, one in _tree():
        usage = " ".join(
            parameter.human_readable_name
            for parameter in one.params
            if parameter.param_type_name == "argument"
        )
        parts.append(f"### `sestrack {name}{' ' + usage if usage else ''}`\n")
        parts.append(f"{_paragraph(one)}.\n")
        if example := example_of(one):
            parts.append(f"```sh\n{example}\n```\n")
        rows = [
            (
                ", ".join(f"`{text}`" for text in (*one_option.opts, *one_option.secondary_opts))
                + (f" {one_option.make_metavar(None)}" if not one_option.is_flag else ""),
                one_option.help or "",
            )
            for one_option in one.params
            if one_option.param_type_name == "option" and not one_option.hidden
            and one_option.name != "help"
        ]  # fmt: skip
        if rows:
            parts.append(table(("option", "meaning"), rows))
    return "\n".join(parts)


def exit_codes() -> str:
    """Every exit code, by the errors that have it."""
    rows = (
        (str(code), "; ".join(sentence.rstrip(".") for sentence in sentences))
        for code, sentences in errors.meanings().items()
    )
    return table(("exit", "meaning"), rows)


def settings() -> str:
    """Every key of the settings."""
    kinds = {bool: "`true`, `false`", str: "a text", dict: "a table"}
    words = {
        "dimension": "`account`: all sender domains as the account; `account+domain`: those with a "
        "table of their own by that, all others as the account; `domain`: those with a table alone",
        "account": "the account's table",
        "sender": 'a table for each sender domain, `[sender."shop.example.com"]`',
        "domain": "the verified trace domain that tracking URLs are made under",
        "click": "wrap links",
        "open": "add the pixel",
        "enabled": "`false` switches this table off and keeps its other choices",
    }
    top = {"enabled": "tracking as a whole, on or off"}
    rows = [(f"`{key}`", kinds[kind], top.get(key, words[key])) for key, kind in TOP_KEYS.items()]
    rows += [(f"`{key}` in a table", kinds[kind], words[key]) for key, kind in ENTRY_KEYS.items()]
    return table(("key", "value", "meaning"), rows)


def links() -> str:
    """Why a link is wrapped or left."""
    return table(
        ("reason", "meaning"), ((f"`{reason}`", words) for reason, words in REASON_WORDS.items())
    )


def visitors() -> str:
    """Why a visit is not, or not surely, a person's."""
    rows = ((f"`{reason.codes[0]}`", words) for reason, words in VISITOR_WORDS.items())
    return table(("reason", "meaning"), rows)


def states() -> str:
    """Every state of a check of a trace domain, and how much it weighs."""
    weights = {
        "ok": "usable", "warning": "usable; worth a look", "later": "could not be told, or not yet",
        "no": "a definite no",
    }  # fmt: skip
    return table(
        ("state", "what it means for the domain"),
        ((f"`{state}`", weights[state.level]) for state in State),
    )


TABLES: dict[str, Callable[[], str]] = {
    "commands": commands, "options": options, "exit-codes": exit_codes, "settings": settings,
    "links": links, "visitors": visitors, "states": states,
}  # fmt: skip


def renewed(text: str) -> str:
    """Return a document with its tables written anew."""
    return _PLACE.sub(lambda place: f"{place['head']}{TABLES[place['name']]()}{place['end']}", text)


def documents() -> list[Path]:
    """Return the documents that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    """Write all of them."""
    for path in documents():
        text = path.read_text(encoding="utf-8")
        path.write_text(renewed(text), encoding="utf-8")


if __name__ == "__main__":
    main()
