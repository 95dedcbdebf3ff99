"""What goes wrong with a store in PostgreSQL: real servers, and what the program says of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from certificates import Authority
from conftest import Program, Server
from postgresql import (
    HOST,
    QUICK,
    Cluster,
    QuickServer,
    binaries,
    cluster,
    free_port,
    quick_server,
    until,
)
from services import missing

from sestrack.engines.postgresql_schema import apply
from sestrack.store import Store

SECRET = "geheim"  # noqa: S105
LETTER = b'<html><body><a href="https://example.com/?a=1&amp;b=2">x</a></body></html>\n'
SEND = ("rewrite", "--sender", "news.example.com", "--recipient", "ada@example.org")


class Says(NamedTuple):
    """An exit code, what the line of the error has in it, and what its hint has."""

    code: int
    words: str
    hint: str


def fails(program: Program, says: Says, *arguments: str, stdin: bytes = b"") -> str:
    """Run a command that fails as it should; return its hint.

    Two lines on stderr, no traceback, nowhere a password.  stdout has what stdin had.
    """
    done = program(*arguments, stdin=stdin, SESTRACK_TRACEBACK="1")
    talk = done.stderr.decode()
    assert (done.returncode, done.stdout) == (says.code, stdin), talk
    error, hint, *more = talk.splitlines()
    assert not more, talk
    assert error.startswith("sestrack: error: ")
    assert says.words in error, talk
    assert hint.startswith("hint: ")
    assert says.hint in hint, talk
    assert SECRET not in talk
    return hint.removeprefix("hint: ")


def fails_and_mail_goes_out(program: Program, says: Says) -> str:
    """See a command fail, and `rewrite` give back the mail; return the hint."""
    fails(program, says, *SEND, stdin=LETTER)
    return fails(program, says, "keys", "list")


def typed(hint: str, folder: Path) -> None:
    """Type a hint into a shell."""
    environment = {**os.environ, "HOME": str(folder), "PGUSER": "postgres"}
    subprocess.run(["bash", "-ec", hint], check=True, env=environment, timeout=30)


@pytest.fixture(scope="module")
def server(quick: QuickServer) -> QuickServer:
    """Give a server with roles of all kinds."""
    quick.query(f"CREATE ROLE secured LOGIN PASSWORD '{SECRET}'")
    quick.query("CREATE ROLE plain LOGIN")
    quick.query("CREATE ROLE few LOGIN CONNECTION LIMIT 1")
    quick.query("CREATE ROLE nologin")
    return quick


@pytest.fixture
def database(server: QuickServer) -> Iterator[str]:
    """Give the name of an empty database."""
    name = server.fresh_database().rpartition("/")[2]
    yield name
    server.drop(name)


def store(folder: Path, address: str) -> Program:
    """Give a program with a store that is set up."""
    program = Program(folder, address)
    program.ok("init", "--edge", "edge.example.net")
    return program


# -- addresses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "words", "hint"),
    [
        pytest.param(f"postgresql://u:{SECRET}@[::1/db", "postgresql://…@[::1/db is not an address", "%40", id="a bracket that is open"),
        pytest.param(f"postgresql://u:x@{SECRET}@host/db", "postgresql://…@host/db is not an address", "%40", id="an @ in the password"),
        pytest.param(f"postgresql://u:x/{SECRET}@host/db", "postgresql://…@host/db is not an address", "%2F", id="a slash in the password"),
        pytest.param(f"postgresql://u:x@?/{SECRET}@host/db", "postgresql://… is not an address", "~/.pgpass", id="everything in the password"),
        pytest.param(f"postgresql://u:{SECRET}/db", "postgresql://… is not an address", "USER@HOST", id="no host"),
        pytest.param(f"postgresql://u:{SECRET}%ZZ@host/db", "postgresql://u@host/db is not an address", "USER@HOST", id="a bad escape in the password"),
        pytest.param(f"postgresql://u@host/db?password=x&{SECRET}", "postgresql://…@host/db is not an address", "USER@HOST", id="an & in the password"),
        pytest.param(f"postgresql://u:{SECRET} x@host/db", "postgresql://u@host/db is not an address", "USER@HOST", id="a space in the password"),
        pytest.param("postgresql://u@host/db?nonsense=1", 'parameter: "nonsense"', "USER@HOST", id="an option that is none"),
        pytest.param("postgresql://u@host:http/db", "postgresql://…@host:http/db is not an address", "USER@HOST:5432", id="a port that is no number"),
        pytest.param(f"postgresql://u@{HOST}:99999/db", 'invalid port number: "99999"', "libpq-connect", id="a port that cannot be"),
        pytest.param(f"postgresql://u@{HOST}/db?connect_timeout=soon", "bad value for connect_timeout: 'soon'", "libpq-connect", id="a time that is no number"),
        pytest.param(f"postgresql://u@{HOST}/db?sslmode=perhaps", 'invalid sslmode value: "perhaps"', "libpq-connect", id="a mode that is none"),
        pytest.param(f"mysql://u:{SECRET}@host/db", "mysql://…@host/db is not a path, and not PostgreSQL", "--store FILE", id="another engine"),
        pytest.param(f"postgresql+psycopg://u:{SECRET}@host/db", "is not a path, and not PostgreSQL", "postgresql://USER@HOST", id="SQLAlchemy's way"),
        pytest.param("sqlite:///var/lib/store.db", "sqlite:///var/lib/store.db is not a path", "--store FILE", id="a URL of SQLite"),
        pytest.param(f"postgresql:u:{SECRET}@host/db", "postgresql:… is not an address", "postgresql://USER@HOST", id="no slashes"),
        pytest.param(f"host=db password={SECRET}", "host=… is not an address", "postgresql://USER@HOST", id="libpq's other way"),
    ],
)  # fmt: skip
def test_what_is_no_address(tmp_path: Path, address: str, words: str, hint: str) -> None:
    """A mistyped address is the command line's fault; no file is made of it, no password shown."""
    program = Program(tmp_path, address)
    fails(program, Says(2, words, hint), *SEND, stdin=LETTER)
    fails(program, Says(2, words, hint), "init")
    assert list(tmp_path.iterdir()) == []


def test_no_command_takes_what_is_no_address(tmp_path: Path) -> None:
    """They say the same."""
    program = Program(tmp_path, "postgresql://u@host/db?nonsense=1")
    says = Says(2, 'parameter: "nonsense"', "USER@HOST")
    fails(program, says, "keys", "list")
    fails(program, says, "serve", "--bind", "127.0.0.1:0")


def test_what_is_in_a_password_is_not_shown(tmp_path: Path) -> None:
    """Passwords that urllib takes for a query or a fragment are none of it."""
    for password in (f"a?{SECRET}", f"a#{SECRET}", f"[{SECRET}", f"a:{SECRET}", f"a%40{SECRET}"):
        program = Program(tmp_path, f"postgresql://u:{password}@{HOST}:1/db?sslmode=disable")
        shown = f"the store postgresql://u@{HOST}:1/db?sslmode=disable cannot be reached"
        fails(program, Says(75, shown, "pg_isready"), "keys", "list")


# -- a server that is away -----------------------------------------------------------------


@pytest.fixture(scope="module")
def mute() -> Iterator[int]:
    """Give a port that takes connections and says nothing."""
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


REFUSED = f'connection to server at "{HOST}", port 1 failed: Connection refused'
AWAY = [
    pytest.param("nosuch.invalid", "failed to resolve host 'nosuch.invalid'", id="no such host"),
    pytest.param(f"{HOST}:1", f"cannot be reached: {REFUSED}", id="nobody listens"),
    pytest.param(f"{HOST}:1,{HOST}:2", f"{REFUSED}; connection to", id="nobody on two hosts"),
    pytest.param("%2Fnosuch", "No such file or directory", id="no such socket"),
    pytest.param(f"{HOST}:MUTE", "connection timeout expired", id="nobody answers"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "words"), AWAY)
def test_a_server_that_is_away(tmp_path: Path, mute: int, host: str, words: str) -> None:
    """What time may mend is 75: a mail pipe keeps the mail."""
    host = host.replace("MUTE", str(mute))
    program = Program(tmp_path, f"postgresql://u:{SECRET}@{host}/db?connect_timeout=2")
    hint = fails_and_mail_goes_out(program, Says(75, words, "then the same command again"))
    assert hint.startswith("pg_isready")
    fails(program, Says(75, words, "pg_isready"), "serve", "--bind", "127.0.0.1:0")


# -- who may come in -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "words"),
    [
        pytest.param(f"secured:{SECRET}x", 'password authentication failed for user "secured"', id="a wrong password"),
        pytest.param("secured", "no password supplied", id="no password"),
        pytest.param("stranger", 'role "stranger" does not exist', id="nobody of that name"),
        pytest.param("nologin", 'role "nologin" is not permitted to log in', id="a role that is a group"),
    ],
)  # fmt: skip
def test_who_is_not_let_in(
    server: QuickServer, database: str, tmp_path: Path, user: str, words: str
) -> None:
    """Who is not let in is told where a password belongs; but that helps no role that is none."""
    helps = "--username postgres stranger" if user == "stranger" else "~/.pgpass"
    program = Program(tmp_path, f"postgresql://{user}@{HOST}:{server.port}/{database}")
    fails_and_mail_goes_out(program, Says(77, f"does not let us in: {words}", helps))


def test_a_password_as_the_hint_says(server: QuickServer, database: str, tmp_path: Path) -> None:
    """The hint can be typed: then the password is in ~/.pgpass, and found there."""
    program = Program(tmp_path, f"postgresql://secured@{HOST}:{server.port}/{database}")
    program.environment["HOME"] = str(tmp_path)
    hint = fails(program, Says(77, "no password supplied", "~/.pgpass"), "init")
    typed(hint.replace("PASSWORD", SECRET), tmp_path)
    fails(program, Says(78, "is not set up", "sestrack init"), "keys", "list")


def test_a_database_that_is_not_there(server: QuickServer, tmp_path: Path) -> None:
    """The hint makes it, for the user that was named."""
    program = Program(tmp_path, server.address("not there", "plain"))
    hint = fails_and_mail_goes_out(program, Says(78, 'database "not there" does not', "createdb"))
    typed(hint, tmp_path)
    program.ok("init")
    server.drop(server.address("not there").replace("%20", " "))


def test_no_right_to_make_tables(server: QuickServer, database: str, tmp_path: Path) -> None:
    """Since PostgreSQL 15 the schema `public` is its owner's; the hint gives the right."""
    program = Program(tmp_path, server.address(database, "plain"))
    fails_and_mail_goes_out(program, Says(78, "is not set up", "sestrack init"))
    says = Says(77, "permission denied for schema public", "GRANT ALL ON SCHEMA public TO plain")
    hint = fails(program, says, "init")
    typed(hint, tmp_path)
    program.ok("init")


def test_no_schema_to_make_tables_in(server: QuickServer, database: str, tmp_path: Path) -> None:
    """Who may not even see the schema gets the same hint."""
    server.query("REVOKE ALL ON SCHEMA public FROM PUBLIC", database=database)
    program = Program(tmp_path, server.address(database, "plain"))
    hint = fails(program, Says(77, "no schema has been selected", "GRANT ALL ON SCHEMA"), "init")
    typed(hint, tmp_path)
    program.ok("init")


def test_no_right_to_read(server: QuickServer, database: str, tmp_path: Path) -> None:
    """Another role reads when it was told so, and changes nothing."""
    store(tmp_path, server.address(database))
    program = Program(tmp_path, server.address(database, "plain"))
    says = Says(77, "permission denied for table sestrack", "to read only: psql")
    hint = fails_and_mail_goes_out(program, says)
    typed(hint.partition("to read only: ")[2], tmp_path)
    program.ok("keys", "list")
    fails(program, Says(77, "permission denied for table", "ran sestrack init"), "keys", "rotate")


def test_no_right_to_connect(server: QuickServer, database: str, tmp_path: Path) -> None:
    """A database that is closed to the role."""
    server.query(f'REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC')
    program = Program(tmp_path, server.address(database, "plain"))
    says = Says(77, "permission denied for database", "GRANT CONNECT ON DATABASE")
    typed(fails_and_mail_goes_out(program, says), tmp_path)
    fails(program, Says(78, "is not set up", "sestrack init"), "keys", "list")


# -- what is there already -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "reading", "making"),
    [
        pytest.param("CREATE TABLE other (id int)", Says(78, "is not set up", "sestrack init"), None, id="tables of another program"),
        pytest.param("CREATE TABLE sender (id int)", Says(78, "is not set up", "sestrack init"), Says(65, 'relation "sender" already exists', "createdb"), id="a table with a name of ours"),
        pytest.param("CREATE TABLE sestrack (id int)", Says(65, "not a store of sestrack", "createdb"), Says(65, "not a store of sestrack", "createdb"), id="a table with our name"),
        pytest.param("CREATE TABLE sestrack AS SELECT 99 AS version", Says(78, "made by a newer sestrack (schema 99)", "pip install --upgrade"), Says(78, "made by a newer sestrack (schema 99)", "pip install --upgrade"), id="a newer schema"),
        pytest.param("CREATE TABLE sestrack AS SELECT 0 AS version", Says(78, "has schema 0", "sestrack init"), None, id="an older schema"),
    ],
)  # fmt: skip
def test_a_database_of_another(
    server: QuickServer, database: str, tmp_path: Path, tables: str, reading: Says, making: Says | None
) -> None:  # fmt: skip
    """What is not ours stays as it was, and the database beside it that a hint names is good."""
    server.query(tables, database=database)
    program = Program(tmp_path, server.address(database))
    fails_and_mail_goes_out(program, reading)
    there = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    before = server.query(there, database=database)
    if making is None:
        program.ok("init")
        program.ok("keys", "list")
        return
    hint = fails(program, making, "init", "--edge", "edge.example.net")
    assert server.query(there, database=database) == before
    if "createdb" in hint:
        typed(hint.partition(": ")[2], tmp_path)
        Program(tmp_path, server.address(f"{database}_2")).ok("init")
        server.drop(f"{database}_2")


def test_a_database_of_another_encoding(server: QuickServer, tmp_path: Path) -> None:
    """What cannot keep all alphabets is refused before anything is made in it."""
    server.query("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    program = Program(tmp_path, server.address("latin"))
    hint = fails(program, Says(78, "has the encoding LATIN1, not UTF8", "createdb"), "init")
    fails_and_mail_goes_out(program, Says(78, "is not set up", "sestrack init"))
    typed(hint.partition(": ")[2], tmp_path)
    Program(tmp_path, server.address("latin_2")).ok("init")
    server.drop("latin")
    server.drop("latin_2")


# -- standbys ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """Give a primary with a store, and its standby."""
    if binaries() is None:
        missing("postgres", "postgresql")
    with cluster(2, synchronous_commit="remote_apply", **{k: v for k, v in QUICK.items() if k == "fsync"}) as servers:  # fmt: skip
        yield servers


@pytest.fixture
def replicated(pair: Cluster, tmp_path: Path) -> Program:
    """Give a program with a store on both."""
    program = store(tmp_path, pair.address())
    program("sender", "add", "news.example.com", "--assume-verified")
    return program


def test_a_standby_alone(pair: Cluster, replicated: Program) -> None:
    """A standby answers who reads, and refuses changes with the address that takes them."""
    standby = pair.nodes[1]
    program = Program(replicated.folder, standby.address())
    program.ok("keys", "list")
    assert program.ok(*SEND, stdin=LETTER) == LETTER.decode()  # untracked, as on the primary
    says = Says(77, "takes no changes, as a standby does not", "HOST1,HOST2")
    fails(program, says, "keys", "rotate")
    fails(program, says, "init", "--edge", "other.example.net")


def test_several_hosts_and_none_takes_writes(pair: Cluster, replicated: Program) -> None:
    """While no host takes writes, who reads is served, and who writes comes again."""
    standby = pair.nodes[1]
    program = Program(
        replicated.folder, f"postgresql://postgres@{HOST}:1,{HOST}:{standby.port}/sestrack"
    )
    program.ok("keys", "list")
    assert program.ok(*SEND, stdin=LETTER) == LETTER.decode()
    says = Says(75, f"can be written to now: {REFUSED}; ", "the same command again")
    fails(program, says, "keys", "rotate")


# -- certificates --------------------------------------------------------------------------


class Secured:
    """A server with TLS; its certificate can be changed."""

    def __init__(self, node: QuickServer, folder: Path) -> None:
        self.node = node
        self.ours = Authority(folder, "ours")
        self.other = Authority(folder, "other")

    def use(self, authority: Authority, name: str = "localhost", ends: float = 60) -> None:
        """Have the server use a certificate."""
        files = authority.issue(name, begins=-3, ends=ends)
        for source, kind in zip(files, ("crt", "key"), strict=True):
            target = self.node.folder / f"server.{kind}"
            shutil.copy(source, target)
            target.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(target, "postgres", "postgres")
        self.node.configure(
            ssl="on", ssl_cert_file=self.node.folder / "server.crt",
            ssl_key_file=self.node.folder / "server.key", ssl_ca_file=self._authority(),
        )  # fmt: skip
        serial = subprocess.run(
            ["openssl", "x509", "-in", files[0], "-noout", "-fingerprint"],
            check=True, capture_output=True,
        ).stdout  # fmt: skip
        assert until(lambda: self._fingerprint() == serial), self.node.log

    def _authority(self) -> Path:
        target = self.node.folder / "clients.crt"
        shutil.copy(self.ours.file, target)
        target.chmod(0o644)
        return target

    def _fingerprint(self) -> bytes:
        asked = subprocess.run(
            ["openssl", "s_client", "-starttls", "postgres", "-connect", f"{HOST}:{self.node.port}"],
            check=False, capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return subprocess.run(
            ["openssl", "x509", "-noout", "-fingerprint"],
            check=False, capture_output=True, input=asked.stdout,
        ).stdout  # fmt: skip

    def address(self, **query: object) -> str:
        """Return the address by the name that certificates have."""
        address = self.node.address(user="postgres", **{k: str(v) for k, v in query.items()})
        return address.replace(HOST, "localhost")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Give a server with TLS, and a store in it."""
    if binaries() is None:
        missing("postgres", "postgresql")
    with quick_server() as node:
        folder = tmp_path_factory.mktemp("certificates")
        server = Secured(node, folder)
        node.query("CREATE DATABASE sestrack")
        rules = node.data / "pg_hba.conf"
        rules.write_text(
            f"hostssl all certified {HOST}/32 cert\nhostssl all nobody {HOST}/32 reject\n"
            f"{rules.read_text()}"
        )
        node.query("CREATE ROLE certified LOGIN")
        store(folder, node.address())
        yield server


BAD = "certificate verify failed"


@pytest.mark.parametrize(
    ("authority", "name", "ends", "says"),
    [
        pytest.param("other", "localhost", 60, Says(78, BAD, "sslrootcert=FILE"), id="of another authority"),
        pytest.param("ours", "localhost", -1, Says(78, BAD, "sslrootcert=FILE"), id="ended"),
        pytest.param("ours", "db.example.net", 60, Says(78, 'for "db.example.net" does not match host name "localhost"', "sslmode=verify-ca"), id="of another host"),
        pytest.param("ours", "localhost", 60, None, id="good"),
    ],
)  # fmt: skip
def test_a_certificate_of_the_server(
    secured: Secured, tmp_path: Path, authority: str, name: str, ends: float, says: Says | None
) -> None:
    """A certificate that does not hold is no connection, whatever else would be right."""
    secured.use(getattr(secured, authority), name, ends)
    address = secured.address(sslmode="verify-full", sslrootcert=secured.ours.file)
    program = Program(tmp_path, address)
    if says is None:
        program.ok("keys", "list")
    else:
        fails_and_mail_goes_out(program, says)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        pytest.param({"sslmode": "verify-full", "sslrootcert": "/nosuch.crt"}, Says(78, 'root certificate file "/nosuch.crt" does not exist', "sslrootcert=FILE"), id="no file of the authority"),
        pytest.param({"sslmode": "require", "user": "certified"}, Says(78, "requires a valid client certificate", "sslcert=FILE&sslkey=FILE"), id="none of the client"),
    ],
)  # fmt: skip
def test_certificates_that_are_not_there(
    secured: Secured, tmp_path: Path, query: dict[str, str], says: Says
) -> None:
    """A file that is missing is named, and so is the option for it."""
    secured.use(secured.ours)
    user = query.pop("user", "postgres")
    address = secured.address(**query).replace("postgres@", f"{user}@")
    fails_and_mail_goes_out(Program(tmp_path, address), says)


def test_a_certificate_of_the_client(secured: Secured, tmp_path: Path) -> None:
    """With its certificate the client is let in; without rights, for it is another role."""
    secured.use(secured.ours)
    chain, key = secured.ours.issue("certified", of_client=True)
    key.chmod(0o600)
    address = secured.address(sslmode="verify-full", sslrootcert=secured.ours.file, sslcert=chain, sslkey=key)  # fmt: skip
    program = Program(tmp_path, address.replace("postgres@", "certified@"))
    fails(program, Says(77, "permission denied for table", "GRANT SELECT"), "keys", "list")
    key.chmod(0o644)
    says = Says(78, "has group or world access", "sslcert=FILE&sslkey=FILE")
    fails_and_mail_goes_out(program, says)


def test_no_tls_where_it_is_asked_for(server: QuickServer, database: str, tmp_path: Path) -> None:
    """A server without TLS is no place for a connection that must have it."""
    program = Program(tmp_path, server.address(database, sslmode="require"))
    says = Says(78, "has no TLS: server does not support SSL", "sslmode=prefer")
    fails_and_mail_goes_out(program, says)


def test_a_rule_that_lets_nobody_in(secured: Secured, tmp_path: Path) -> None:
    """What pg_hba.conf refuses says SSL among its words, and is no certificate's fault."""
    secured.use(secured.ours)
    rules = secured.node.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all postgres {HOST}/32 trust\n")
    secured.node.configure()
    program = Program(tmp_path, secured.address().replace("postgres@", "somebody@"))
    try:
        assert until(lambda: b"pg_hba.conf" in program("keys", "list").stderr)
        fails_and_mail_goes_out(program, Says(77, "no pg_hba.conf entry", "~/.pgpass"))
    finally:
        rules.write_text(before)
        secured.node.configure()


# -- what is used up -----------------------------------------------------------------------


@contextlib.contextmanager
def held(address: str, count: int) -> Iterator[None]:
    """Hold connections."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(psycopg.connect(address, autocommit=True))
        yield


def test_all_connections_are_taken(tmp_path: Path) -> None:
    """A server that has no room for another connection is asked again."""
    if binaries() is None:
        missing("postgres", "postgresql")
    with quick_server(max_connections=5, superuser_reserved_connections=1) as small:
        small.query("CREATE ROLE plain LOGIN")
        small.query("CREATE DATABASE sestrack OWNER plain")
        program = store(tmp_path, small.address(user="plain"))
        with held(small.address(user="plain"), 4):
            says = Says(75, "has no connection left: remaining connection slots", "the same")
            fails_and_mail_goes_out(program, says)
            with held(small.address(), 1):
                says = Says(75, "no connection left: sorry, too many clients", "max_connections")
                fails_and_mail_goes_out(program, says)
        assert until(lambda: program("keys", "list").returncode == 0)


def test_a_role_has_as_many_as_it_may(server: QuickServer, database: str, tmp_path: Path) -> None:
    """So is one that has no room for another connection of the role."""
    program = Program(tmp_path, server.address(database, "few"))
    with held(program.address, 1):
        says = Says(75, 'too many connections for role "few"', "a limit of the role")
        fails_and_mail_goes_out(program, says)


def test_a_lock_of_another(server: QuickServer, database: str, tmp_path: Path) -> None:
    """A lock is waited for five seconds, by `init` too; who reads does not wait."""
    program = store(tmp_path, server.address(database))
    with program.blocked():
        for arguments in (["keys", "rotate"], ["init"]):
            began = time.monotonic()
            fails(
                program, Says(75, "is busy: canceling statement due to lock", "again"), *arguments
            )
            assert 4 < time.monotonic() - began < 15
        program.ok("keys", "list")


def test_a_full_disk(server: QuickServer, tmp_path: Path) -> None:
    """A disk without room is told as such, and nothing of the change is there."""
    place = server.folder / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        place.rmdir()
        pytest.skip("no small disk can be mounted here")
    try:
        shutil.chown(place, "postgres", "postgres")
        server.query(f"CREATE TABLESPACE small LOCATION '{place}'")
        server.query("CREATE DATABASE small TABLESPACE small")
        program = store(tmp_path, server.address("small"))
        text = program.ok("settings", "export")
        (place / "ballast").write_bytes(bytes(os.statvfs(place).f_bavail * 4096))
        long = text + "".join(f"# {os.urandom(32).hex()}\n" for _ in range(10_000))
        done = program("settings", "apply", "-", stdin=long.encode())
        assert done.returncode == 74, done.stderr
        assert b"cannot be written: could not extend file" in done.stderr
        (place / "ballast").unlink()
        assert program.ok("settings", "export") == text
        server.drop("small")
        server.query("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


# -- in the middle -------------------------------------------------------------------------


def editor(program: Program, statement: str) -> str:
    """Make an editor that adds a comment, and runs a statement."""
    script = program.folder / "editor.py"
    script.write_text(
        "import pathlib, psycopg, sys\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "file.write_text(file.read_text() + '# mine\\n')\n"
        f"address = {program.address.rpartition('/')[0] + '/postgres'!r}\n"
        f"psycopg.connect(address, autocommit=True).execute({statement!r}).connection.close()\n"
    )
    return f"{sys.executable} {script}"


def test_all_connections_end_while_the_editor_is_open(
    server: QuickServer, database: str, tmp_path: Path
) -> None:
    """No connection is held open for an editor."""
    program = store(tmp_path, server.address(database))
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    done = program("settings", "edit", EDITOR=editor(program, end))
    assert (done.returncode, done.stderr) == (0, b"saved\n")
    assert "# mine" in program.ok("settings", "export")


def test_the_store_goes_away_while_the_editor_is_open(
    server: QuickServer, database: str, tmp_path: Path
) -> None:
    """The text is kept, and the editor does not open again: there is nothing wrong with it."""
    program = store(tmp_path, server.address(database))
    close = f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false'
    done = program("settings", "edit", EDITOR=editor(program, close), TMPDIR=str(tmp_path))
    assert done.returncode == 75, done.stderr
    assert b"not currently accepting connections" in done.stderr
    kept = Path(done.stderr.decode().rsplit("your text is in ", 1)[1].strip())
    assert kept.read_text().endswith("# mine\n")
    server.query(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    program.ok("settings", "apply", str(kept))


def test_a_connection_is_cut_in_the_middle(
    server: QuickServer, database: str, tmp_path: Path
) -> None:
    """A command that waits for a lock, and whose connection ends, can be given again."""
    program = store(tmp_path, server.address(database))
    command = [sys.executable, "-m", "sestrack", "keys", "rotate"]
    waiting = f"datname = '{database}' AND wait_event_type = 'Lock'"
    with program.blocked():
        child = subprocess.Popen(command, env=program.environment, stderr=subprocess.PIPE)
        ask = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {waiting}"
        assert until(lambda: server.query(ask), 20)
        _, talk = child.communicate(timeout=30)
    assert child.returncode == 75, talk
    assert b"was lost: terminating connection due to administrator command" in talk
    program.ok("keys", "rotate")


# -- the server ----------------------------------------------------------------------------


def test_serve_needs_keys(server: QuickServer, database: str, tmp_path: Path) -> None:
    """Without the store there are no keys, but for those in a file; with them links work."""
    program = store(tmp_path, server.address(database))
    keys = tmp_path / "keys"
    program.ok("keys", "export", str(keys))
    away = Program(tmp_path, f"postgresql://u:{SECRET}@{HOST}:{free_port()}/db")
    refused = Says(75, "Connection refused", "the same command again")
    fails(away, refused, "serve", "--bind", "127.0.0.1:0")
    running = Server(away, "--keys", str(keys))
    try:
        assert running.ask("/healthz").status == 200
        assert until(lambda: "Connection refused" in running.log.read_text())
    finally:
        assert running.stop() == 0
    assert SECRET not in running.log.read_text()


def test_no_password_is_seen_of_a_server(
    server: QuickServer, database: str, tmp_path: Path
) -> None:
    """Neither in its log when the store goes away, nor in the command lines of its processes."""
    server.query(f'ALTER DATABASE "{database}" OWNER TO secured')
    program = store(tmp_path, server.address(database, "secured", SECRET))
    done = program("init")
    assert SECRET.encode() not in done.stdout + done.stderr
    running = Server(program)
    try:
        pid = running.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        assert until(lambda: len(children.read_text().split()) == 2)
        for each in (str(pid), *children.read_text().split()):
            assert SECRET.encode() not in Path(f"/proc/{each}/cmdline").read_bytes()
        server.query("ALTER ROLE secured PASSWORD 'another'")
        server.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")  # fmt: skip
        assert until(lambda: "password authentication failed" in running.log.read_text())
    finally:
        server.query(f"ALTER ROLE secured PASSWORD '{SECRET}'")
        assert running.stop() == 0
    assert SECRET not in running.log.read_text()
    assert "Traceback" not in running.log.read_text()
    assert not [p for p in tmp_path.rglob("*") if SECRET in p.name]


def test_a_bug_shows_no_password(server: QuickServer, database: str, tmp_path: Path) -> None:
    """Where a traceback is asked for, the address is not in it."""
    server.query("CREATE VIEW sestrack AS SELECT 1 / 0 AS version", database=database)
    server.query("GRANT SELECT ON sestrack TO secured", database=database)
    program = Program(tmp_path, server.address(database, "secured", SECRET))
    done = program("keys", "list", SESTRACK_TRACEBACK="1")
    assert b"division by zero" in done.stderr
    assert b"Traceback" in done.stderr
    assert SECRET.encode() not in done.stderr
    done = program(*SEND, stdin=LETTER)
    assert (done.returncode, done.stdout) == (70, LETTER)


# -- the command line ----------------------------------------------------------------------


def test_without_psycopg(tmp_path: Path) -> None:
    """What is missing is named, with what installs it; a mail goes out."""
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "psycopg.py").write_text("raise ImportError(\"No module named 'psycopg'\")\n")
    program = Program(tmp_path, f"postgresql://u:{SECRET}@{HOST}/db")
    program.environment["PYTHONPATH"] = str(stub)
    says = Says(78, "needs psycopg: No module named", "pip install 'psycopg[binary]'")
    fails_and_mail_goes_out(program, says)
    fails(program, says, "serve")


@pytest.mark.parametrize("spelling", ["--store {}", "--store={}"])
def test_a_password_on_the_command_line(
    server: QuickServer, database: str, tmp_path: Path, spelling: str
) -> None:
    """Every process can read it there: a line on stderr says so, and mail goes out unharmed."""
    server.query(f'ALTER DATABASE "{database}" OWNER TO secured')
    program = store(tmp_path, server.address(database, "secured", SECRET))
    program.ok("sender", "add", "news.example.com", "--assume-verified")
    option = spelling.format(program.address).split(" ")
    for arguments in (SEND, (*SEND, "--help"), ("keys", "list")):
        done = program(*option, *arguments, stdin=LETTER)
        assert done.returncode == 0
        assert done.stderr.count(b"sestrack: warning: every process here can read a password") == 1
        assert b"~/.pgpass, PGPASSWORD or SESTRACK_STORE" in done.stderr
        assert SECRET.encode() not in done.stderr
        assert arguments is not SEND or done.stdout == LETTER
    for wrong in (("keys", "list", "it"), ("stats", "june"), ("kees", "list"), ("serve", "x")):
        done = program(*option, *wrong)
        assert (done.returncode, SECRET.encode() in done.stderr) == (2, False)
    for quiet in (server.address(database), str(tmp_path / "a:b@c.db")):
        assert b"warning" not in program("--store", quiet, "keys", "list").stderr
    assert b"warning" not in program(*SEND, stdin=LETTER).stderr
    done = program("keys", "list", SESTRACK_STORE=server.address(database, "secured"), PGPASSWORD=SECRET)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


# -- init ----------------------------------------------------------------------------------


def test_init_at_the_same_moment(server: QuickServer, tmp_path: Path) -> None:
    """Of those that make the store together one does, and the others wait and see it."""
    command = [sys.executable, "-m", "sestrack", "init", "--edge", "edge.example.net"]
    for _ in range(4):
        program = Program(tmp_path, server.fresh_database())
        children = [
            subprocess.Popen(command, env=program.environment, stderr=subprocess.PIPE)
            for _ in range(3)
        ]
        talks = [child.communicate(timeout=60)[1].decode() for child in children]
        for child, talk in zip(children, talks, strict=True):
            assert child.returncode == 0, talk
            assert "is ready" in talk or "nothing changed" in talk
        assert sum("is ready" in talk for talk in talks) == 1, talks
        assert b"nothing changed" in program("init").stderr
        assert program.ok("keys", "list").count("\n") == 2
        server.drop(program.address)


def test_init_while_another_one_makes_the_tables(
    server: QuickServer, database: str, tmp_path: Path
) -> None:
    """It waits for the other one, and makes what that has not."""
    program = Program(tmp_path, server.address(database))
    with Store(program.address, fresh=True) as first, first.change() as db:
        apply(db)
        late = subprocess.Popen(
            [sys.executable, "-m", "sestrack", "init", "--edge", "edge.example.net"],
            env=program.environment,
            stderr=subprocess.PIPE,
        )
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
        until(lambda: server.query(waiting) == [(1,)])
    assert b"is ready" in late.communicate(timeout=60)[1]  # it made the key
    assert late.returncode == 0


def test_init_is_killed(server: QuickServer, tmp_path: Path) -> None:
    """`kill -9` at any moment of `init` leaves no store or all of it; `init` makes the rest."""
    command = [sys.executable, "-m", "sestrack", "init", "--edge", "edge.example.net"]
    for step in range(6):
        program = Program(tmp_path, server.fresh_database())
        child = subprocess.Popen(command, env=program.environment, stderr=subprocess.PIPE)
        time.sleep(0.1 + step * 0.08)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        assert program("keys", "list").returncode in {0, 78}
        program.ok("init", "--edge", "edge.example.net")
        assert program.ok("keys", "list").count("\n") == 2
        server.drop(program.address)
