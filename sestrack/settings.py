"""The settings as text: TOML that an administrator edits, comments and all.

    enabled = true
    dimension = "account+domain"      # account | account+domain | domain

    [account]
    domain = "trace.example.com"
    click = true
    open = true

    [sender."shop.example.com"]
    domain = "trace.shop-example.com"
    click = true
    open = false

`enabled = false` in a table switches that table off and keeps its other choices.  The
text is what is kept; `Settings` is what it says.  Commands change the text in place.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, NamedTuple

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Table

from sestrack.errors import BadInput, SestrackError
from sestrack.model import Dimension, Entry, Settings
from sestrack.rules import check_name

START = """\
# The tracking settings.  A change takes effect when it is saved.

enabled = false
# dimension = "account"   # account | account+domain | domain

# [account]
# domain = "trace.example.com"
# click = true
# open = true

# [sender."shop.example.com"]
# domain = "trace.example.com"
# click = true
# open = false
"""

ENTRY_KEYS: dict[str, type] = {"domain": str, "click": bool, "open": bool, "enabled": bool}
TOP_KEYS: dict[str, type] = {"enabled": bool, "dimension": str, "account": dict, "sender": dict}
_TYPE_WORDS = {bool: "true or false", str: "a text in quotes", dict: "a table"}


class Text(NamedTuple):
    """Settings, and the text that says them."""

    text: str
    settings: Settings


def parse(text: str) -> Text:
    """Read settings.  Raises `BadInput` that names the line, or the key and its value."""
    try:
        document = tomlkit.parse(text or START).unwrap()
    except RecursionError:
        msg = "the settings are not TOML that anybody meant: nested too deep"
        raise BadInput(msg, "sestrack settings export  # those that are in force") from None
    except TOMLKitError as error:
        msg = f"the settings are not TOML: {error}"
        hint = "sestrack settings export  # those that are in force"
        if re.search(
            r"=\s*(?:yes|no|on|off|true|false)\s*(?:#|$)", text, re.IGNORECASE | re.MULTILINE
        ):
            hint = "values are true or false, names stand in quotes"
        raise BadInput(msg, hint) from None
    _check_keys("the settings", document, TOP_KEYS)
    dimension = document.get("dimension")
    if dimension is not None and dimension not in set(Dimension):
        msg = f"dimension = {dimension!r} is not one of account, account+domain, domain"
        raise BadInput(msg, _meant(str(dimension), list(Dimension)))
    senders: dict[str, Entry] = {}
    for name, table in document.get("sender", {}).items():
        if "." not in name and (whole := _unquoted(name, table)):
            msg = f"[sender.{whole}] is a table in tables: the name of a sender domain has dots"
            raise BadInput(msg, f'[sender."{whole}"]')
        domain = _name(f'[sender."{name}"]', name)
        if domain in senders:
            msg = f'[sender."{name}"] stands twice'
            raise BadInput(msg, "one table a sender domain")
        senders[domain] = _entry(f'[sender."{name}"]', table)
    account = document.get("account")
    return Text(
        text or START,
        Settings(
            enabled=document.get("enabled", False),
            dimension=Dimension(dimension) if dimension is not None else None,
            account=_entry("[account]", account) if account is not None else None,
            senders=senders,
        ),
    )


def enable(
    text: str,
    *,
    sender: str = "",
    dimension: Dimension | None = None,
    choices: dict[str, str | bool],
) -> Text:
    """Switch tracking on, for the account or one sender domain, and set `choices`.

    With `sender`, the account's tables stay as they are, and tracking as a whole is
    switched on only if `dimension` is given too.  A new entry begins with the choices of the
    account where those held for the sender domain so far.
    """
    text = text or START
    held = parse(text).settings.dimension
    if not sender or dimension is not None:
        text = _set_top(text, "enabled", True)  # noqa: FBT003
    if dimension is not None:
        text = _set_top(text, "dimension", str(dimension))
    if sender:
        tables = tomlkit.parse(text).get("sender", {})
        written = _written(tables, sender)
        if written is None or tables[written].keys() == {"enabled"}:
            choices = _begun(parse(text).settings, held, choices)
    document = tomlkit.parse(text)
    if choices or (sender and _written(document.get("sender", {}), sender) is not None):
        document, table = _table(text, sender)
        for key, value in choices.items():
            table[key] = value
        if len(table) > 1 and _comment_of("enabled", table):
            table["enabled"] = True  # so that the comment stays
        elif table.pop("enabled", None) is not None and not table and sender:
            # all it said was no: the account's settings hold again
            del document["sender"][_written(document["sender"], sender)]
    return parse(tomlkit.dumps(document))


def _begun(
    settings: Settings, held: Dimension | None, choices: dict[str, str | bool]
) -> dict[str, str | bool]:
    """Return the choices of a sender's entry that is begun: first those of the account.

    `held` is the dimension before the change.  Where the account's settings hold as they are,
    there is no need of an entry, and so no choices.
    """
    needed = choices or settings.dimension is Dimension.DOMAIN
    if needed and held in _OF_ACCOUNT and settings.account is not None:
        account = settings.account
        begun: dict[str, str | bool] = {
            "domain": account.domain, "click": account.click, "open": account.open,
        }  # fmt: skip
        return begun | choices
    return choices


_OF_ACCOUNT = {Dimension.ACCOUNT, Dimension.ACCOUNT_DOMAIN}
"""Where the account's settings hold for sender domains without an entry."""


def disable(text: str, *, sender: str = "") -> Text:
    """Switch tracking off and keep every other choice."""
    text = text or START
    if not sender:
        return parse(_set_top(text, "enabled", False))  # noqa: FBT003
    document, table = _table(text, sender)
    table["enabled"] = False
    return parse(tomlkit.dumps(document))


def _set_top(text: str, key: str, value: str | bool) -> str:  # noqa: FBT001
    """Set a key of the document itself, which stands before its tables.

    A new one takes the place of its commented example, else that below the other key, or below
    the first comment.
    """
    document = tomlkit.parse(text)
    if key in document:
        document[key] = value
        return tomlkit.dumps(document)
    end = "\r\n" if "\r\n" in text else "\n"
    new = tomlkit.dumps({key: value}).rstrip("\n")
    lines = re.findall("[^\n]*\n|[^\n]+", text)  # splitlines splits comments at U+2028 and more
    head = list(takewhile(lambda line: not _TABLE.match(line), lines))
    for number, line in enumerate(head):
        if example := re.match(rf"#\s*{key}\s*=\s*{_VALUE}(\s*#.*)?$", line.rstrip("\r\n")):
            lines[number] = f"{new}{example[1] or ''}{end}"
            return "".join(lines)
    place = next((n + 1 for n, line in enumerate(head) if _KEY.match(line)), 0)
    if not place:
        place = len(list(takewhile(lambda line: line.startswith("#"), head)))
        while place < len(head) and not head[place].strip():
            place += 1
    before = "".join(lines[:place])
    if before and not before.endswith("\n"):
        before += end
    apart = end if place == len(head) < len(lines) else ""
    return f"{before}{new}{end}{apart}{''.join(lines[place:])}"


_VALUE = r'(?:true|false|"[^"]*")'
"""Of an example; what goes on otherwise is somebody's comment."""
_KEY = re.compile(r"(?:enabled|dimension)\s*=")
_TABLE = re.compile(r"[#\s]*\[")
"""The line that a table, or the example of one, begins with."""


def _unquoted(name: str, table: object) -> str:
    """Return the whole of a name whose dots made tables of its labels, "" if none did."""
    labels = [name]
    while isinstance(table, dict) and len(table) == 1:
        ((label, inner),) = table.items()
        if not isinstance(inner, dict):
            break
        labels.append(label)
        table = inner
    return ".".join(labels) if len(labels) > 1 else ""


def _table(text: str, sender: str) -> tuple[tomlkit.TOMLDocument, Any]:
    """Return a text as a document, and in it the table of a sender or the account, made if need be.

    A new one stands at the end: what tomlkit puts between dotted keys cuts them in two.
    """
    document = tomlkit.parse(text)
    tables = document.get("sender", {})
    if not sender:
        if "account" not in document:
            document["account"] = tomlkit.table()
        return document, document["account"]
    written = _written(tables, sender)
    if written is None and isinstance(tables, InlineTable):
        written = sender
        tables[sender] = tomlkit.inline_table()
    elif written is None:
        end = "\r\n" if "\r\n" in text else "\n"
        apart = end if text.endswith("\n") else end + end
        return _table(f'{text}{apart}[sender."{sender}"]{end}', sender)
    return document, tables[written]


def _comment_of(key: str, table: Any) -> str:
    """Return the comment behind a key of a table, "" if there is none."""
    is_whole = isinstance(table, Table) and key in table
    return str(table.value.item(key).trivia.comment) if is_whole else ""


def _written(tables: Any, sender: str) -> str | None:
    """Return how the table of a sender domain is written: it may be Shop.Example.com."""
    return next((name for name in tables if _name("", name) == sender), None)


def _entry(where: str, table: object) -> Entry:
    if not isinstance(table, dict):
        msg = f"{where} is not a table"
        raise BadInput(msg, f"{where} stands alone on its line")
    _check_keys(where, table, ENTRY_KEYS)
    entry = Entry(**table)
    return (
        entry._replace(domain=_name(f"domain in {where}", entry.domain)) if entry.domain else entry
    )


def _name(where: str, name: str) -> str:
    try:
        return check_name("domain", name)
    except SestrackError as error:
        msg = f"{where}: {error.message}"
        raise BadInput(msg, error.hint) from None


def _check_keys(where: str, table: dict[str, object], keys: dict[str, type]) -> None:
    for key, value in table.items():
        if key not in keys:
            msg = f"{key!r} is no key of {where}"
            raise BadInput(msg, _meant(key, list(keys)))
        if not isinstance(value, keys[key]):
            msg = f"{where}: {key} = {value!r} is not {_TYPE_WORDS[keys[key]]}"
            raise BadInput(msg, f"for example: {key} = {_example(keys[key])}")


def _example(kind: type) -> str:
    return "true" if kind is bool else '"…"'


def _meant(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, 1)
    return f"did you mean {close[0]}?" if close else "known: " + ", ".join(known)
