"""Addresses of stores as text: what of them may be shown, and what is none.

A URL is taken apart as libpq does it (fe-connect.c, conninfo_uri_parse_options; PostgreSQL's
manual, 34.1.1.2), but for one thing: an @ or a / that belongs to a password, and is not
written as %40 or %2F, makes of its rest a host or a database for libpq.  Such an address is
none here, for it would be shown, and asked of name servers.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from sestrack.errors import UsageError

_HOST = r"(?:\[[^]@/?]*\]|[^][:,@/?]*)(?::\d*)?"
_PAIR = r"[\w%]+=[^&@]*"
_URL = re.compile(
    r"(postgres(?:ql)?://)(?:([^:@/?#]*)(:[^@/]*)?@)?"
    rf"({_HOST}(?:,{_HOST})*)(/[^@?]*)?(?:\?({_PAIR}(?:&{_PAIR})*)?)?",
    re.ASCII,
)
_PASSWORDS = {
    "password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key",
}  # fmt: skip
_PRIVATE = {"passfile", "sslkey"}
_KEYWORDS = {"host", "hostaddr", "port", "dbname", "user", "password", "service"}
_URL_HINT = "--store postgresql://USER@HOST:5432/DATABASE"


def is_plain(address: str) -> bool:
    """Is the URL one whose parts are certain?"""
    return _URL.fullmatch(address) is not None


def shown(address: str) -> str:
    """Return a URL without what is secret, or is nobody's business, in it."""
    match = _URL.fullmatch(address)
    if match is None:
        return _blurred(address)
    scheme, user, _, hosts, path, query = match.groups()
    kept = []
    for pair in (query or "").split("&"):
        name = unquote(pair.partition("=")[0])
        if name in _PASSWORDS:
            break  # what comes behind may be of it still: nobody must write & as %26
        if pair and name not in _PRIVATE:
            kept.append(pair)
    who = f"{user}@" if user is not None else ""
    return f"{scheme}{who}{hosts}{path or ''}{'?' if kept else ''}{'&'.join(kept)}"


def _blurred(address: str) -> str:
    """Show of a URL that is none what cannot be a part of a password."""
    scheme, _, rest = address.partition("://")
    front, at, behind = rest.rpartition("@")
    if at and "?" not in front:
        return f"{scheme}://…@{behind.partition('?')[0]}"
    return f"{scheme}://{rest if not at and ':' not in rest and '?' not in rest else '…'}"


def has_password(address: str) -> bool:
    """May a password stand in it?"""
    _, _, rest = address.partition("://")
    return ":" in rest.rpartition("@")[0] or any(f"{name}=" in rest for name in _PASSWORDS)


def refuse_other(address: str) -> None:
    """Raise `UsageError` for what is neither PostgreSQL's URL nor meant as a path."""
    scheme, colon, _ = address.partition("://")
    if colon:
        msg = f"{_blurred(address)} is not a path, and not PostgreSQL"
    elif address.startswith(("postgresql:", "postgres:")):
        msg = f"{address.partition(':')[0]}:… is not an address of PostgreSQL: it has no //"
    elif "=" in address and address.partition("=")[0].strip() in _KEYWORDS:
        msg = f"{scheme.partition('=')[0].strip()}=… is not an address: PostgreSQL's is a URL here"
    else:
        return
    raise UsageError(msg, f"{_URL_HINT}, or --store FILE")


def not_postgresql(address: str, why: str = "") -> UsageError:
    """Say that a URL is none, without quoting what may be a password."""
    detail = f": {' '.join(why.split())}" if why and not has_password(address) else ""
    msg = f"{shown(address)} is not an address of PostgreSQL{detail}"
    if is_plain(address):
        return UsageError(msg, _URL_HINT)
    hint = f"{_URL_HINT}; a password goes into ~/.pgpass, or has %40 for @ and %2F for /"
    return UsageError(msg, hint)
