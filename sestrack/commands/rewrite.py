"""`sestrack rewrite`: a filter from HTML to tracked HTML.

A mail server's pipe starts it once per message, so its start counts.  `OPTIONS` is the one
table of its options, with two readers: `light` takes command lines that are plainly
right, without importing Typer; all others, and `--help`, go to Typer, whose parameters
are made from the same table.  `tests/test_cli.py` holds the two equal.

`rewrite_run` carries it out.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Option(NamedTuple):
    """An option of `rewrite`, for both readers."""

    flags: tuple[str, ...]
    metavar: str
    """What its value is called; "" for a switch."""
    help: str
    choices: tuple[str, ...] = ()

    @property
    def wanted(self) -> bool:
        """Is an empty value a mistake, as of a variable that is not set?

        A copy for nobody is better than a mail that is not sent: of that a warning tells.
        """
        return bool(self.metavar) and self.name not in _TAKEN_EMPTY

    @property
    def name(self) -> str:
        """The field of `Request` that it fills."""
        return self.flags[-1].removeprefix("--").replace("-", "_")


_TAKEN_EMPTY = {"sender", "recipient", "message", "output"}

OPTIONS = (
    Option(("--sender",), "DOMAIN", "The sender domain, or an address in it."),
    Option(("--recipient",), "ID", "Whom the copy is for: an address or any id."),
    Option(("--recipient-field",), "TEXT", "A merge field to stand in its place."),
    Option(("--recipient-header",), "NAME", "The header of a message that names the recipient."),
    Option(("--recipients",), "FILE", "A CSV file: make a copy for each of its lines."),
    Option(("--column",), "NAME", "The column of the recipients."),
    Option(("--message",), "LABEL", "What opens and clicks are counted under."),
    Option(("--message-header",), "NAME", "The header of a message that names the label."),
    Option(
        ("--type",),
        "TYPE",
        "What the input is: html, message or mbox; else it is recognised.",
        ("auto", "html", "message", "mbox"),
    ),
    Option(("--plain",), "", "Wrap the URLs of a message's text parts too."),
    Option(("--jsonl",), "", "A filter: JSON objects with `html` and `recipient`, one a line."),
    Option(
        ("-o", "--output"),
        "FILE",
        "Write here; several files into a folder, out/ (made if need be).",
    ),
    Option(("--in-place",), "", "Change the files themselves."),
    Option(("--diff",), "", "Show what would change, and change nothing."),
    Option(("--check",), "", "Change nothing; exit with 1 if something would."),
    Option(("--report",), "FILE", "Write one JSON object a link."),
    Option(("--at",), "TIME", "The minting time; default now."),
    Option(("--pixel",), "PLACE", "Where the pixel goes: bottom or top.", ("bottom", "top")),
    Option(("--strict",), "", "Exit with 1 if a mail goes out untracked."),
    Option(("--wrap-unsubscribe",), "", "Wrap links that unsubscribe too."),
    Option(("--verify",), "", "Compare before and after with a second parser."),
    Option(("--count",), "", "Count the copy, so that `stats` can show rates."),
    Option(("--jobs",), "N", "Processes that make the copies for --recipients."),
    Option(("--resume",), "", "Go on with --recipients where it was interrupted."),
)


class Request(NamedTuple):
    """A command line of `rewrite`."""

    files: tuple[str, ...] = ()
    sender: str = ""
    recipient: str = ""
    recipient_field: str = ""
    recipient_header: str = ""
    recipients: str = ""
    column: str = ""
    message: str = ""
    message_header: str = ""
    type: str = "auto"
    plain: bool = False
    jsonl: bool = False
    output: str = ""
    in_place: bool = False
    diff: bool = False
    check: bool = False
    report: str = ""
    at: str = ""
    pixel: str = "bottom"
    strict: bool = False
    wrap_unsubscribe: bool = False
    verify: bool = False
    count: bool = False  # type: ignore[assignment]  # a tuple's own `count` is not needed
    jobs: str = "1"
    resume: bool = False

    def line(self, **changes: Any) -> str:
        """Return the command line as it would be typed, with some options or files changed."""
        from sestrack.files import quoted, typed

        changed = self._replace(**changes)
        words = ["sestrack", "rewrite", *map(typed, changed.files)]
        for option in OPTIONS:
            value = getattr(changed, option.name)
            if value != self._field_defaults[option.name]:
                words += [option.flags[-1], *map(quoted, [value] * bool(option.metavar))]
        return " ".join(words)

    def run(self, store: str) -> int:
        """Carry it out; return the exit code."""
        from sestrack.commands.rewrite_run import run

        return run(self, store)


def light(arguments: list[str]) -> Request | None:
    """Read a command line; None if it is better left to Typer."""
    values: dict[str, Any] = {}
    files: list[str] = []
    options = {flag: option for option in OPTIONS for flag in option.flags}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            files += arguments[position:]
            break
        if not argument.startswith("-") or argument == "-":
            files.append(argument)
            continue
        flag, equals, value = argument.partition("=")
        option = options.get(flag)
        if option is None or (equals and (not option.metavar or not flag.startswith("--"))):
            return None
        if not option.metavar:
            values[option.name] = True
            continue
        if not equals:
            if position == len(arguments):
                return None
            value = arguments[position]
            position += 1
        if (option.choices and value not in option.choices) or not value or value in options:
            return None
        values[option.name] = value
    if not values.get("sender"):
        return None
    return Request(files=tuple(files), **values)


def __getattr__(name: str) -> Any:
    """Make the Typer application when it is asked for."""
    if name == "app":
        from sestrack.commands.rewrite_options import application

        return application()
    raise AttributeError(name)


__all__ = ["OPTIONS", "Request", "light"]
