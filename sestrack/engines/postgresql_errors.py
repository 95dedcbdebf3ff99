"""What PostgreSQL says, and what it means for whoever has typed a command.  Pure.

A statement that fails has a code (PostgreSQL's manual, appendix A).  A connection that never
was has none in libpq, and words alone tell.  Words that are not known, those of a server
that speaks another language among them, mean: try again later; so a mail pipe keeps the mail.
"""

from __future__ import annotations

import re
from shlex import quote
from typing import NamedTuple

from sestrack.errors import (
    BadInput,
    InputOutputError,
    NoPermission,
    NotSetUp,
    SestrackError,
    TryAgain,
    UsageError,
)


class Login(NamedTuple):
    """Where the store is, for messages and for commands that can be typed."""

    name: str
    """The address as it may be shown."""
    host: str
    port: str
    user: str
    database: str

    def tool(self, command: str) -> str:
        """Return how one of PostgreSQL's tools is called for it."""
        options = [("--host", self.host), ("--port", self.port)]
        if "," in self.host:  # that one which can be written to
            options = []
        return " ".join([command, *(f"{name} {quote(value)}" for name, value in options if value)])

    @property
    def creating(self) -> str:
        """How its database is made."""
        return f"{self.tool('createdb')} {_TEXTS} --owner {quote(self.user)} {quote(self.database)}"

    @property
    def elsewhere(self) -> str:
        """How a database beside it is made."""
        return f"{self.tool('createdb')} {_TEXTS} {quote(self.database + '_2')}"

    def granting(self, what: str) -> str:
        """Return how its user gets a right."""
        role = self.user
        if not re.fullmatch("[a-z_][a-z0-9_]*", role):
            role = '"' + role.replace('"', '""') + '"'
        connection = f"{self.tool('psql')} --username postgres --dbname {quote(self.database)}"
        return f"{connection} --command {quote(f'GRANT {what} TO {role}')}"

    @property
    def password(self) -> str:
        """Where its user's password belongs."""
        host, port = ("*", "*") if "," in self.host else (self.host or "*", self.port or "*")
        line = f"{host}:{port}:{self.database}:{self.user}:PASSWORD"
        return f"echo {quote(line)} >> ~/.pgpass; chmod 600 ~/.pgpass"

    def entry(self, words: str) -> str:
        """Return what lets its user in; a password helps no role that is not there."""
        if not re.search("role .* does not exist|no such user", words):
            return self.password
        return f"{self.tool('createuser')} --username postgres {quote(self.user)}"


_TEXTS = "--encoding UTF8 --template template0"
_AGAIN = "the same command again"
_BUSY = {"55P03", "40P01", "40001", "57014", "XX000"}
_LOST = re.compile("08|57P0|25P0[34]")
_FOREIGN = {"42P01", "42703", "42P07", "42809", "42710"}


def judge_code(code: str, words: str, login: Login) -> SestrackError | None:
    """Judge a statement that failed; None if it is a bug of ours."""
    name = login.name
    if code in _BUSY or (code == "23505" and '"pg_' in words):
        # two that make the same table at the same moment meet in PostgreSQL's own catalogue
        msg = f"the store {name} is busy: {words}"
        return TryAgain(msg, f"another sestrack is writing; {_AGAIN}")
    if code == "53300":
        msg = f"the store {name} has no connection left: {words}"
        return TryAgain(msg, f"max_connections, a limit of the role, or a pool; then {_AGAIN}")
    if code.startswith(("53", "58", "XX")):
        msg = f"the store {name} cannot be written: {words}"
        return InputOutputError(msg, "df -h  # on its machine: the space left")
    if code == "25006":
        msg = f"the store {name} takes no changes, as a standby does not: {words}"
        hint = "the primary, or all of them: --store postgresql://USER@HOST1,HOST2/DATABASE"
        return NoPermission(msg, hint)
    if code.startswith("28"):
        return NoPermission(f"the store {name} does not let us in: {words}", login.entry(words))
    if code in {"42501", "3F000"}:
        return NoPermission(f"no right in the store {name}: {words}", _right(code, words, login))
    if code == "3D000":
        return NotSetUp(f"there is no database for the store {name}: {words}", login.creating)
    if code in _FOREIGN:
        msg = f"{name} is a database, but not a store of sestrack: {words}"
        return BadInput(msg, f"a database of its own: {login.elsewhere}")
    return lost(words, name) if _LOST.match(code) else None


def _right(code: str, words: str, login: Login) -> str:
    """Say how the right is had.  What is not understood may need all of it."""
    if "must be owner" in words:
        return "name the user that ran sestrack init: postgresql://USER@HOST/DATABASE"
    if "for database" in words:
        return login.granting(f'CONNECT ON DATABASE "{login.database}"')
    if code == "3F000" or "for schema" in words:
        return login.granting("ALL ON SCHEMA public")
    reading = login.granting("SELECT ON ALL TABLES IN SCHEMA public")
    return f"name the user that ran sestrack init; to read only: {reading}"


def lost(words: str, name: str) -> TryAgain:
    """Say that a connection has ended."""
    return TryAgain(f"the connection to the store {name} was lost: {words}", _AGAIN)


# -- connections that never were ------------------------------------------------------------

_ATTEMPT = re.compile(r"- host: (.*?), port: (.*?), hostaddr: (?:'[^']*'|None): (.*)")
"""How psycopg lists them, when there were several."""
_NEVER_WAS = re.compile(
    "connection (?:failed|is bad|timeout)|failed to resolve|bad value|.*\nMultiple connection"
)
_BEFORE = re.compile(r"connection (?:failed|is bad): ")
_SERVER_SAYS = re.compile(r"(?:connection to server .*? failed: )?(?:FATAL:\s+|fe_sendauth: )?(.*)")

_INVALID = re.compile(r"(?:bad|invalid) (?:\w+ )?(?:value|port number)|.*\bsslmode\b")
_CODES = (
    (re.compile("too many c|remaining connection slots|no more connections"), "53300"),
    (
        re.compile(
            "password authentication failed|no password supplied|no pg_hba.conf entry"
            "|role .* does not exist|no such user|not permitted to log in"
        ),
        "28000",
    ),
    (re.compile("database .* does not exist|no such database"), "3D000"),
    (re.compile("permission denied for database"), "42501"),
)
_ROOT = "sslmode=verify-full&sslrootcert=FILE in the address, or PGSSLROOTCERT=FILE"
_CLIENT = "sslcert=FILE&sslkey=FILE in the address, or PGSSLCERT=FILE PGSSLKEY=FILE"
_CERTIFICATES = (
    (
        re.compile("client certificate|certificate required|certificate authentication failed"),
        "the store {} wants another certificate of its client", _CLIENT,
    ),
    (re.compile("private key|key file"), "the key for the store {} cannot be used", _CLIENT),
    (
        re.compile("does not match host name"), "the certificate of the store {} is not its own",
        "the name that is in it in the address, or sslmode=verify-ca; sslrootcert=FILE is right",
    ),
    (
        re.compile("does not support SSL"), "the store {} has no TLS",
        "ssl = on in its postgresql.conf, or sslmode=prefer in the address",
    ),
    (re.compile("certificate|SSL error"), "the certificate of the store {} does not hold", _ROOT),
)  # fmt: skip


def judge_words(text: str, login: Login) -> SestrackError:
    """Judge a connection that never was, or is no more, by what libpq and psycopg say."""
    if not _NEVER_WAS.match(text):
        return lost(_first_line(text), login.name)
    hosts: dict[tuple[str, str], list[str]] = {}
    for host, port, said in _ATTEMPT.findall(text):
        hosts.setdefault((host, port), []).append(said)
    tried = list(hosts.values()) or [[text]]
    # a host of several addresses: one of them may have said more than that it is not there
    verdicts = [
        _of_one_host([_judge_one(_first_line(said), login) for said in one]) for one in tried
    ]
    patient = next((each for each in verdicts if isinstance(each, TryAgain)), None)
    if patient is None or len(verdicts) == 1:
        return verdicts[0]
    lines = "; ".join(dict.fromkeys(_first_line(said) for one in tried for said in one))
    if "read-only" in lines or "hot standby" in lines:
        msg = f"none of the hosts of the store {login.name} can be written to now: {lines}"
        return TryAgain(msg, f"a standby is being promoted, perhaps; then {_AGAIN}")
    return _away(lines, login)


def _of_one_host(found: list[SestrackError]) -> SestrackError:
    return next((each for each in found if not isinstance(each, TryAgain)), found[0])


def _first_line(text: str) -> str:
    """Return the first sentence: what comes behind asks whether the server runs."""
    return " ".join(_BEFORE.sub("", text, count=1).strip().partition("\n")[0].split())


def _judge_one(words: str, login: Login) -> SestrackError:
    match = _SERVER_SAYS.fullmatch(words)
    said = match[1] if match else words
    if _INVALID.match(said):
        return UsageError(f"{login.name} is not an address of PostgreSQL: {said}", _MANUAL)
    for pattern, code in _CODES:
        if pattern.search(said) and (found := judge_code(code, said, login)):
            return found
    for pattern, trouble, hint in _CERTIFICATES:
        if pattern.search(said):
            return NotSetUp(f"{trouble.format(login.name)}: {said}", hint)
    if "authentication failed" in said:
        return NoPermission(f"the store {login.name} does not let us in: {said}", login.entry(said))
    return _away(words, login)


def _away(words: str, login: Login) -> TryAgain:
    msg = f"the store {login.name} cannot be reached: {words}"
    return TryAgain(msg, f"{login.tool('pg_isready')}  # then {_AGAIN}")


_MANUAL = "https://www.postgresql.org/docs/current/libpq-connect.html lists what it may hold"
