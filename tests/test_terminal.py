"""What a person at a terminal meets: help, completion, guesses, colours, widths, encodings."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import services
import typer
from conftest import Program
from shells import Shell
from typer._click import Command, Context
from typer.core import TyperGroup

from sestrack.root import app
from sestrack.terminal import layout, manual
from sestrack.terminal.completion import read_line
from sestrack.terminal.helping import example_of
from sestrack.terminal.mistyped import nearest, with_option
from sestrack.terminal.offers import FileName

LETTER = b'<p><a href="https://example.com/">x</a></p>'
LABEL = "Grüße: $(touch x) it's 20 %"


# -- help ------------------------------------------------------------------------------------


def commands(
    command: Command | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, Command]]:
    """Walk the command tree, groups too."""
    command = command or typer.main.get_command(app)
    yield " ".join(path), command
    if isinstance(command, TyperGroup):
        context = Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*path, name))


TREE = dict(commands())


@pytest.mark.parametrize("path", TREE)
def test_an_example_is_a_command_line(path: str) -> None:
    """Each command has an example, of itself or of one within, and it can be typed."""
    example = example_of(TREE[path])
    line = re.sub(r"\$\(.*?\)", "x", re.split(r"\bsestrack ", example, maxsplit=1)[1])
    words = shlex.split(re.split(r" (?:<|>|>>|\|) |\)$", line)[0])
    assert " ".join(words).startswith(path)
    command, context = TREE[""], None
    while isinstance(command, TyperGroup):
        context = Context(command, parent=context, info_name=command.name)
        _, inner, words = command.resolve_command(context, words)
        assert inner is not None
        command = inner
    assert command.make_context(command.name, words, parent=context).args == []


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize("path", ["", "rewrite", "domain verify", "stats"])
@pytest.mark.sqlite
def test_help_fits(program: Program, path: str, columns: int) -> None:
    """And an example, which breaks before an option, can be copied with its breaks."""
    done = program(*path.split(), "--help", COLUMNS=str(columns))
    text = done.stdout.decode()
    for line in text.splitlines():
        assert len(line) <= columns or "Example: " in line
    joined = re.sub(r" \\\n +", " ", text)
    assert f"Example: {example_of(TREE[path])}\n" in joined


# -- completion --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words", "quote", "kept"),
    [
        ("sestrack ", ["sestrack", ""], "", 0),
        ("sestrack  sender sh", ["sestrack", "sender", "sh"], "", 0),
        ("s --message=a", ["s", "--message=a"], "", 10),
        ("s ada@ex", ["s", "ada@ex"], "", 3),
        ("s in:v", ["s", "in:v"], "", 3),
        ("s 'it is", ["s", "it is"], "'", 0),
        ('s --m="a b', ["s", "--m=a b"], '"', 4),
        ("s a\\ b", ["s", "a b"], "", 0),
        ("s 'a b' c", ["s", "a b", "c"], "", 0),
        ("s '' ", ["s", "", ""], "", 0),
        ("s \\", ["s", ""], "", 0),
    ],
)
def test_a_line_is_read_as_the_shell_reads_it(
    line: str, words: list[str], quote: str, kept: int
) -> None:
    """Words, the open quote, and what readline will leave standing."""
    assert read_line(line, " \t\n\"'@><=;|&(:") == (words, quote, kept)


def tab(program: Program, line: str, shell: str = "fish") -> list[str]:
    """Ask as the script of a shell does; return what it would be told."""
    done = program(_SESTRACK_COMPLETE=f"complete_{shell}", COMP_LINE=line)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().split("\n")[:-1]


def offered(program: Program, line: str) -> list[str]:
    """Return the words that are offered."""
    return [line.split("\t")[1] for line in tab(program, line) if line]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sestrack se", ["sender", "settings", "serve"]),
        ("sestrack domain d", ["delete"]),
        ("sestrack sender show ", ["news.example.com"]),
        ("sestrack sender add ", []),
        ("sestrack domain verify --all ", ["trace.example.com"]),
        ("sestrack domain create x --primary ", ["example.com"]),
        ("sestrack settings enable --domain ", ["trace.example.com"]),
        ("sestrack settings enable --dimension acc", ["account", "account+domain"]),
        ("sestrack rewrite --sender=ada@n", ["--sender=ada@news.example.com"]),
        ("sestrack rewrite --pixel ", ["bottom", "top"]),
        ("sestrack stats --message ", [LABEL]),
        ("sestrack stats --message x", []),
        ("sestrack stats --si", ["--since"]),
        ("sestrack stats --since ", []),
        ("sestrack completion ", ["bash", "fish", "zsh"]),
    ],
)
def test_tab_offers(tracking: Program, line: str, words: list[str]) -> None:
    """Commands, options, choices, and names from the store."""
    if "--message" in line:
        label = ("--message", LABEL, "--count")
        tracking.ok("rewrite", "--sender", "news.example.com", *label, stdin=LETTER)
    assert sorted(offered(tracking, line)) == sorted(words)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("sestrack rewrite le", "file\tle\t"),
        ("sestrack rewrite --report=le", "file\tle\t--report="),
        ("sestrack settings apply ", "file\t\t"),
        ("sestrack keys export k", "file\tk\t"),
        ("sestrack --store s", "file\ts\t"),
        ("sestrack serve --spool s", "dir\ts\t"),
    ],
)
@pytest.mark.sqlite
def test_files_are_the_shells_own(program: Program, line: str, answer: str) -> None:
    """The shell is told that a file, or a folder, stands there; no store is needed."""
    assert tab(program, line) == [answer]


@pytest.mark.parametrize("path", TREE)
def test_where_a_file_goes_files_are_offered(path: str) -> None:
    """Every option and argument that takes a file says so to the shell."""
    for parameter in TREE[path].params:
        if re.search("FILE|FOLDER|LIST|PATH", str(parameter.metavar)):
            assert isinstance(parameter.type, FileName), parameter.name


def test_a_tab_never_talks(ready: Program) -> None:
    """No store, a file that is none, a busy one: nothing is said, and nothing made."""
    assert tab(ready, "sestrack --store /no/such.db sender show ") == [""]
    assert not Path("/no").exists()
    other = ready.folder / "other.db"
    other.write_bytes(b"no store at all " * 100)
    assert tab(ready, f"sestrack --store {other} sender show ") == [""]
    assert other.read_bytes() == b"no store at all " * 100
    with ready.blocked():
        assert offered(ready, "sestrack sender show ") == ["news.example.com"]


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, tracking: Program) -> Iterator[Shell]:
    """Give a real shell with completion, in a folder with some files."""
    services.program(request.param)
    for message in (LABEL, "june:2026"):
        tracking.ok(
            "rewrite", "--sender", "news.example.com", "--message", message, "--count", stdin=LETTER
        )
    for name in ("letter.html", "my list.csv"):
        (tracking.folder / name).write_bytes(LETTER)
    opened = Shell(request.param, tracking.folder, tracking.environment)
    yield opened
    opened.close()


@pytest.mark.sqlite
def test_real_shells_complete(shell: Shell) -> None:
    """What stands in the line after Tab, dots, at-signs, quotes and all, is what was meant."""
    for typed, last in (
        ("sestrack compl", "completion"),
        ("sestrack domain show t", "trace.example.com"),
        ("sestrack rewrite --sender ada@n", "ada@news.example.com"),
        ("sestrack rewrite --sender=ada@n", "--sender=ada@news.example.com"),
        ("sestrack stats --message june", "june:2026"),
        ("sestrack stats --message june:", "june:2026"),
        ("sestrack stats --message=june", "--message=june:2026"),
        ("sestrack stats --message Gr", LABEL),
        ('sestrack stats --message "Gr', LABEL),
        ("sestrack stats --by=cou", "--by=country"),
        ("sestrack settings enable --dimension account+", "account+domain"),
        ("sestrack rewrite le", "letter.html"),
        ("sestrack rewrite --recipients my", "my list.csv"),
        ("sestrack rewrite --report=le", "--report=letter.html"),
        ("sestrack sender show zz", "zz"),
    ):
        assert shell.completed(typed)[-1] == last, typed
    assert not (shell.folder / "x").exists()


# -- did you mean --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "code", "hint"),
    [
        ("doman list", 2, "sestrack domain list"),
        ("domain verfy trace", 2, "sestrack domain verify trace"),
        ("domain verify --wiat 10m", 2, "sestrack domain verify --wait 10m"),
        ("domain verify --wiat=10m", 2, "sestrack domain verify --wait=10m"),
        ("stats --by mesage", 2, "sestrack stats --by message"),
        ("stats --by=mesage", 2, "sestrack stats --by=message"),
        ("zzz", 2, "sestrack --help"),
        ("--json stats", 2, "sestrack stats --json"),
        ("--by=link stats --json", 2, "sestrack stats --json --by=link"),
        ("domain --primary example.com create trace", 2, "sestrack domain create trace --primary example.com"),
        ("--no-click settings enable", 2, "sestrack settings enable --no-click"),
        ("domain --json", 2, "sestrack domain --help"),
        ("rewrite --bogus", 2, "sestrack rewrite --help"),
        ("sender show new.example.com", 66, "sestrack sender show news.example.com"),
        ("sender remove news.exmaple.com", 66, "sestrack sender list"),
        ("sender remove shop.example.com", 66, "sestrack sender list"),
        ("sender verify shop.example.com", 66, "sestrack sender add shop.example.com"),
        ("domain show trcae.example.com", 66, "sestrack domain show trace.example.com"),
        ("domain verify trcae.example.com", 66, "sestrack domain verify trace.example.com"),
        ("domain delete other.example.net", 66, "sestrack domain list"),
        ("domain accelerate trac.example.com --off", 66, "sestrack domain accelerate trace.example.com --off"),
        ("domain show", 2, "sestrack domain show trace.example.com"),
        ("domain verify --resolver x", 2, "sestrack domain verify --resolver 192.0.2.53"),
        ("domain accelerate trace --via edge.example.net", 1, "sestrack domain accelerate trace.example.com --via example.cdn.example.net"),
        ("rewrite --sender d --jobs x", 2, "sestrack rewrite --sender d --jobs x --recipients list.csv"),
        ("recipients list.csv", 2, "sestrack recipients list.csv --sender news.example.com --message june > merged.csv"),
        ("settings enable --domain trcae.example.com", 66, "sestrack settings enable --domain trace.example.com"),
        ("settings show --sender", 2, "sestrack settings show --sender news.example.com"),
        ("stats --until", 2, "sestrack stats --help"),
        ("sender delete shop.example.com", 2, "sestrack sender remove shop.example.com"),
        ("domain add track", 2, "sestrack domain create track"),
        ("domain create tr.ck", 1, "sestrack domain create trace --primary example.com  # or sestrack sender add tr.ck"),
        ("domain create click.example.net", 1, "sestrack domain create click --primary example.com  # or sestrack sender add example.net"),
        ("domain create click --primary news.example.net", 1, "sestrack domain create click --primary example.com"),
        ("events export -o x.xlsx", 2, "sestrack events export --output x.csv"),
        ("stats --mmdb nowhere/x", 66, "ls nowhere"),
        ("backup nowhere/x", 73, "mkdir -p nowhere"),
        ("init edge.acme.test", 2, "sestrack init --edge edge.acme.test"),
        ("init --edge edge.acme.test extra", 2, "sestrack init --edge edge.acme.test"),
        ("serve 127.0.0.1:1", 2, "sestrack serve --bind 127.0.0.1:1"),
        ("sender add a.acme.test b.acme.test", 2, "sestrack sender add a.acme.test"),
        ("rewrite a.html b.html --sender d.example.com -o x", 2, "sestrack rewrite a.html b.html --sender d.example.com --output x/"),
        ("rewrite a.html b.html --sender d.example.com --recipients l.csv --message j", 2, "sestrack rewrite a.html --sender d.example.com --recipients l.csv --message j"),
        ("stats --store x", 2, "sestrack --store x stats"),
        ("stats --store=x --json", 2, "sestrack --store=x stats --json"),
        ("init edge.example.net", 2, "sestrack init --edge edge.example.net"),
        ("settings enable", 1, "sestrack domain verify trace.example.com"),
        ("settings enable --sender x.example.com --dimension account", 1, "sestrack domain verify trace.example.com"),
        ("check .", 66, "ls ."),
        ("recipients list.csv --sender nws.example.com --message june", 66, "sestrack recipients list.csv --sender news.example.com --message june"),
        ("domain create news", 1, "sestrack domain create trace --primary example.com"),
        ("rewrite letter.html --sender news.example.com --recipients= -o x.jsonl", 2, "sestrack rewrite --help"),
        ("rewrite letter.html --sender news.example.com --recipient-field=", 2, "sestrack rewrite --help"),
        ("init --edge other.example.net", 1, "edge.example.net. 3600 IN CNAME other.example.net.  # moves it for all of them; if it was mistyped: sestrack domain delete trace.example.com, and init again"),
        ("init -edge edge.example.net", 2, "sestrack init --edge edge.example.net"),
        ("init --edge edge", 65, "sestrack init --edge edge.example.net"),
        ("domain create click --primary exmple.com", 1, "sestrack domain create click --primary example.com"),
        ("settings enable --dimension account", 1, "sestrack domain verify trace.example.com"),
        ("check letter.htm", 66, "ls ."),
        ("events purge 800d", 2, "sestrack events purge --before 800d"),
        ("events purge", 2, "sestrack events purge --before TIME"),
        ("events forget bob@x.de", 2, "sestrack events forget --recipient bob@x.de"),
        ("domain delete", 2, "sestrack domain delete NAME"),
        ("rewrite letter.html --sender d.example.com --recipient a --in-place -o x", 2, "sestrack rewrite letter.html --sender d.example.com --recipient a --in-place"),
        ("events tail -5", 2, "sestrack events tail -n5"),
        ("settings disable --sender nws.example.com", 66, "sestrack settings disable --sender news.example.com"),
        ("rewrite letter.html --sender d --jsonl", 2, "sestrack rewrite letter.html --sender d"),
        ("rewrite in.jsonl --sender d --jsonl", 2, "sestrack rewrite --sender d --jsonl < in.jsonl > out.jsonl"),
    ],
)  # fmt: skip
@pytest.mark.sqlite
def test_a_hint_is_what_was_meant(ready: Program, typed: str, code: int, hint: str) -> None:
    """The command line as it should have been, or the next command; to be typed as it is."""
    done = ready(*typed.split())
    assert done.returncode == code
    given = done.stderr.decode().splitlines()[1].removeprefix("hint: ")
    assert given == hint


@pytest.mark.parametrize(
    "line",
    ["settings disable --sender", "settings enable --sender", "stats --message", "serve --keep"],
)
@pytest.mark.sqlite
def test_an_option_whose_variable_is_not_set(tracking: Program, line: str) -> None:
    """What was meant for one sender would be done to all."""
    before = tracking.ok("settings", "export")
    option = line.rpartition(" ")[2]
    for words in ([*line.split(), ""], [*line.split()[:-1], f"{option}="]):
        done = tracking(*words)
        assert done.returncode == 2
        assert f"{option} is empty; is a variable not set?".encode() in done.stderr
        assert f"hint: sestrack {line.rpartition(' ')[0]} --help".encode() in done.stderr
    assert tracking.ok("settings", "export") == before


@pytest.mark.sqlite
def test_a_value_that_ends_like_base64(tracking: Program) -> None:
    """It is not empty."""
    assert tracking("events", "forget", "--recipient=dXNlcjE=").returncode == 0
    assert tracking("stats", "--message=june=").returncode != 2


@pytest.mark.sqlite
def test_an_empty_value_before_and_behind_rewrite(tracking: Program) -> None:
    """What is read by the light reader and by Typer is refused and allowed alike."""
    rewrite = ("rewrite", "--sender", "news.example.com", "--recipient", "")
    for store in ((), ("--store", str(tracking.store)), (f"--store={tracking.store}",)):
        for name in (("-o", "o.html"), ("-oo.html",)):
            assert tracking(*store, *rewrite, *name, stdin=b"<p>").returncode == 0, (store, name)
    for command in (rewrite, ("sender", "list")):
        done = tracking("--store", "", *command, stdin=b"<p>")
        assert done.returncode == 2
        assert b"--store is empty; is a variable not set?" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "backup",
        "keys export",
        "sender add",
        "domain verify",
        "restore --force",
        "check --",
        "inspect",
    ],
)
@pytest.mark.sqlite
def test_an_argument_whose_variable_is_not_set(tracking: Program, line: str) -> None:
    """It names no file and no domain, whatever the command would make of it."""
    done = tracking(*line.split(), "")
    assert done.returncode == 2
    assert b"is empty; is a variable not set?\nhint: sestrack " in done.stderr


@pytest.mark.parametrize("before", [(), ("--store", "x")])
@pytest.mark.sqlite
def test_no_command_at_all(program: Program, before: tuple[str, ...]) -> None:
    """The help, or where it is."""
    done = program(*before)
    assert done.returncode == 2
    assert b"bug" not in done.stderr
    assert b"Commands:" in done.stdout + done.stderr or b"hint: sestrack --help" in done.stderr


@pytest.mark.sqlite
def test_another_name_with_the_same_ending_is_not_meant(ready: Program) -> None:
    """What is typed from a hint would change the settings to those of another file."""
    (ready.folder / "one.toml").write_text("")
    done = ready("settings", "apply", "nope.toml")
    assert (done.returncode, b"one.toml" in done.stderr) == (66, False)


@pytest.mark.sqlite
def test_an_empty_list_says_so(program: Program) -> None:
    """Beside its heading, on stderr."""
    program.ok("init", "--edge", "edge.example.net")
    for command, words in (
        ("sender list", b"no sender domains; the first: sestrack sender add DOMAIN"),
        ("domain list", b"no trace domains; the first: sestrack domain create trace"),
        ("events tail", b"no opens or clicks"),
    ):
        done = program(*command.split())
        assert (done.stdout.count(b"\n"), words in done.stderr) == (1, True), command


@pytest.mark.sqlite
def test_what_comes_next_is_for_the_store_that_was_named(ready: Program) -> None:
    """Typed without it, the command would act on another one."""
    ready.ok("--store", "my own.db", "init", "--edge", "edge.example.net")
    done = ready("--store", "my own.db", "sender", "add", "shop.example.com")
    assert b"then: sestrack --store 'my own.db' sender verify shop.example.com\n" in done.stderr


_WRONG = """\
init --edge
sender add news.example.com
sender verify
sender verify shop.example.com
sender delete shop.example.com
domain create t
domain create -track
domain create example.com
domain create track.example.net
domain create track --port x
domain verify tracee --no-http --resolver 127.0.0.1:9
domain accelerate trace --for apache
domain accelerate trace --for nginx --ask 127.0.0.1:1
domain delete nothing
settings enable
settings enable --sender news.example.com
settings edit
settings apply letter.html
settings apply nothing.toml
settings show news.example.com
rewrite letter.html
rewrite letter.html list.csv --sender news.example.com
rewrite letter.html --sender news.example.com --in-place -o x
rewrite letter.html --sender news.example.com -o nowhere/x
rewrite letter.html --sender news.example.com --recipients list.csv --diff
rewrite letter.html --sender news.example.com --recipients list.csv --resume
rewrite letter.html --sender news.example.com --recipients letter.html
rewrite list.csv --type mbox --sender news.example.com
check lettr.html
check /bin/ls
recipients list.csv --sender news.example.com --message june --name recipient
inspect letter.html
stats june
stats --mmdb nothing
stats --mmdb letter.html
stats --since 2026-11-20 --until 2026-11-10
events list
events export -o x.xlsx
events purge --before 2999-01-01
events forget ada@example.org
keys export letter.html
copy nothing.db new.db
copy store.db letter.html
backup store.db
backup .
restore letter.html
--store nothing.db stats
--store letter.html stats
serve --tls-cert letter.html --tls-key letter.html
serve --keys letter.html
"""


@pytest.mark.sqlite
def test_hints_do_not_lead_in_a_circle(ready: Program) -> None:
    """Whoever types what is told, and what is told then, comes to an end; and never to a usage."""
    (ready.folder / "letter.html").write_bytes(LETTER)
    (ready.folder / "list.csv").write_text("recipient\nada@example.org\n")

    def typed(line: str) -> tuple[int, str, str]:
        done = subprocess.run(
            ["bash", "-c", f'sestrack() {{ "{sys.executable}" -m sestrack "$@"; }}; {line}'],
            cwd=ready.folder, env=ready.environment, stdin=subprocess.DEVNULL, capture_output=True,
            check=False, timeout=60,
        )  # fmt: skip
        *_, error, hint = ["", "", *done.stderr.decode().splitlines()]
        return done.returncode, error, hint.removeprefix("hint: ") if "hint: " in hint else ""

    for wrong in _WRONG.splitlines():
        code, error, hint = typed(f"sestrack {wrong}")
        assert code not in {0, 70}, wrong
        seen = [(error, hint)]
        while re.match(r"sestrack |mkdir |ls |grep ", hint):
            code, error, hint = typed(hint)
            assert code not in {70, 127}, (wrong, seen, error)
            assert (error, hint) not in seen, (wrong, seen)
            if seen[-1][1].startswith("sestrack") and "--help" not in seen[-1][1]:
                assert code != 2 or "EDITOR=" in hint, (wrong, seen, error)
            seen.append((error, hint))


@pytest.mark.sqlite
def test_what_is_not_there_yet_is_made(program: Program) -> None:
    """The first trace domain is created; a sender domain that waits for DNS is taken on trust."""
    program.ok("init", "--edge", "edge.example.net")
    program.ok("sender", "add", "news.example.com")
    again = ("sender", "add", "news.example.com", "--assume-verified")
    for words, hint in (
        (("domain", "verify", "trace.example.com"), "sestrack domain create trace.example.com"),
        (("domain", "show", "trace"), "sestrack domain create trace"),
        (again, f"sestrack sender remove news.example.com && sestrack {' '.join(again)}"),
    ):
        done = program(*words)
        assert done.stderr.decode().splitlines()[-1] == f"hint: {hint}", words
    program.ok("sender", "remove", "news.example.com")
    program.ok(*again)
    program.ok("domain", "create", "trace.example.com")
    assert b"hint: sestrack domain list" in program("domain", "show", "trce2").stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("stats", "June offer"), "sestrack stats --message 'June offer'"),
        (("stats", "--", "-x"), "sestrack stats --message -x"),
        (("stats", "june", "--json", "july"), "sestrack stats --json --message june"),
        (("keys", "list", "all", "(of them)"), "sestrack keys list"),
    ],
)
@pytest.mark.sqlite
def test_a_word_too_many(program: Program, words: tuple[str, ...], hint: str) -> None:
    """Whatever it has in it, it goes, or gets the option that it is for."""
    done = program(*words)
    assert (done.returncode, done.stderr.decode().splitlines()[-1]) == (2, f"hint: {hint}")


def test_what_was_meant_by_a_file_or_a_sender(tracking: Program) -> None:
    """The mail of a mistyped sender domain goes out untracked, and the reason has a guess."""
    (tracking.folder / "letter.html").write_text("<p>")
    done = tracking("check", "leter.html")
    assert (
        b"no file leter.html; did you mean letter.html?\nhint: sestrack check letter.html"
        in done.stderr
    )
    done = tracking("rewrite", "--sender", "nws.example.com", stdin=b"<p>")
    assert b"not a sender domain of this store; did you mean news.example.com?" in done.stderr
    tracking.ok("settings", "disable")
    done = tracking("rewrite", "--sender", "nws.example.com", stdin=b"<p>")
    assert b"did you mean" not in done.stderr


def test_a_sender_of_its_own_is_switched_off_and_on(tracking: Program) -> None:
    """What had no entry before has none afterwards; a domain that fails is warned of."""
    tracking.ok("settings", "enable", "--dimension", "account+domain")
    before = tracking.ok("settings", "show", "--json")
    tracking.ok("settings", "disable", "--sender", "news.example.com")
    tracking.ok("settings", "enable", "--sender", "news.example.com")
    assert tracking.ok("settings", "show", "--json") == before
    with tracking.connection() as connection, connection.transaction():
        connection.execute("UPDATE trace_domain SET status = 'failing'")
    done = tracking("settings", "enable")
    assert b"is failing, so mail goes out untracked: sestrack domain verify " in done.stderr


def test_a_message_is_guessed(tracking: Program, serve: object) -> None:
    """A label that is near to one that has events."""
    (path,) = tracking.paths("<p>x</p>", message="june-newsletter")
    serve().ask(path)  # type: ignore[operator]
    done = tracking("stats", "--message", "june-newsleter")
    assert done.returncode == 66
    assert done.stderr.decode().splitlines()[1] == "hint: sestrack stats --message june-newsletter"
    (tracking.folder / "list.csv").write_text("recipient\nada@example.org\n")
    (tracking.folder / "letter.html").write_text("<p>x</p>")
    done = tracking(
        "rewrite", "letter.html", "--sender", "news.example.com", "--recipients", "list.csv",
        "--message", "the 2nd", "-o", "copies.jsonl",
    )  # fmt: skip
    assert done.stderr == (
        b"1 copy of the 2nd in copies.jsonl; when they are sent: "
        b"sestrack stats --message 'the 2nd'\n"
    )
    done = tracking("stats", "--message", "the 2n")  # it has copies, and no event yet
    assert done.stderr.decode().splitlines()[1] == "hint: sestrack stats --message 'the 2nd'"


def test_only_what_is_near_is_guessed() -> None:
    """Two words that are both right are not taken for one another."""
    assert nearest("shop.example.com", ["news.example.com"], 0.85) == ""
    assert nearest("settngs", ["sender", "settings"]) == "settings"
    assert nearest("ls", ["list", "show"]) == "list"
    assert nearest("--bogus", ["--jobs", "--json"]) == ""
    assert nearest("--json", ["--version", "--store"]) == ""
    assert nearest("--jsn", ["--version", "--json"]) == "--json"


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("--trust-proxy 127.0.0.1 --trust-proxy 10.0.0.1/8", "--trust-proxy 127.0.0.1 --trust-proxy 10.0.0.0/8"),
        ("--trust-proxy=127.0.0.1 --trust-proxy=10.0.0.1/8", "--trust-proxy=127.0.0.1 --trust-proxy 10.0.0.0/8"),
        ("--trust-proxy 10.0.0.1/8 --trust-proxy 10.0.0.1", "--trust-proxy 10.0.0.0/8 --trust-proxy 10.0.0.1"),
        ("--trust-proxy 192.0.2.1 --trust-proxy 192.0.2.2", ""),
    ],
)  # fmt: skip
def test_of_several_values_the_bad_one_is_replaced(line: str, whole: str) -> None:
    """The message quotes it; where none of them is quoted, the option alone is said."""
    hint = "--trust-proxy 10.0.0.0/8"
    message = "--trust-proxy '10.0.0.1/8': 10.0.0.1/8 has host bits set"
    found = with_option(hint, ["serve", *line.split()], message)
    assert found == (f"sestrack serve {whole}" if whole else hint)
    assert with_option(hint, ["serve", *line.split()]) == hint


@pytest.mark.parametrize(
    ("hint", "line", "whole"),
    [
        ("--wait 10m", "domain verify --wait x", "sestrack domain verify --wait 10m"),
        ("--wait 10m", "domain verify --wait=x", "sestrack domain verify --wait 10m"),
        ("--keep 400d", "serve", "sestrack serve --keep 400d"),
        ("--jobs 1", "rewrite --jobs 0 a b", "sestrack rewrite --jobs 1 a b"),
        ("--type message, or without --type", "rewrite x", "sestrack rewrite x --type message"),
        ("--tls-cert c --tls-key k", "serve --tls-cert k --bind :1 --tls-key=c", "sestrack serve --tls-cert c --bind :1 --tls-key k"),
        ("--primary a.example|b.example", "domain create x", "--primary a.example|b.example"),
        ("--name 'a b'", "x", "sestrack x --name 'a b'"),
        ("--in-place", "rewrite -- a", "--in-place"),
    ],
)  # fmt: skip
def test_an_option_becomes_a_command_line(hint: str, line: str, whole: str) -> None:
    """A hint that is one option is shown as the command with it."""
    assert with_option(hint, line.split()) == whole


# -- terminals -----------------------------------------------------------------------------------


def on_terminal(program: Program, *arguments: str, columns: int = 80, **environment: str) -> str:
    """Run it on a terminal of so many columns; return what appeared."""
    terminal, other = pty.openpty()
    termios.tcsetwinsize(other, (24, columns))
    process = subprocess.Popen(
        [sys.executable, "-m", "sestrack", *arguments], stdin=other, stdout=other, stderr=other,
        env={"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | program.environment | environment,
        cwd=program.folder,
    )  # fmt: skip
    os.close(other)
    seen = b""
    try:
        while part := os.read(terminal, 65536):
            seen += part
    except OSError:  # Linux says so when the other side is closed
        pass
    process.wait(timeout=60)
    os.close(terminal)
    return seen.decode().replace("\r\n", "\n")


TABLES = [
    ("sender", "list"), ("domain", "list"), ("settings", "show"), ("keys", "list"),
    ("stats",), ("stats", "--by", "link"), ("events", "tail"), ("doctor", "--offline"),
]  # fmt: skip


@pytest.fixture
def busy(tracking: Program, serve: object) -> Program:
    """Give a store with long names and some events."""
    tracking.ok("sender", "add", "newsletter.of-a-company-with-a-long-name.example.co.uk")
    server = serve()  # type: ignore[operator]
    long = "https://www.example.com/shop/shoes?utm_source=newsletter&amp;utm_campaign=june-2026"
    for message in ("june", "A long label of a message: 20 percent off all summer shoes", "Grüße"):
        for path in tracking.paths(
            f'<p><a href="{long}">x</a></p>',
            "grace.hopper@a-long-name.example.org",
            message=message,
        ):
            server.ask(path)
    server.stop()
    return tracking


@pytest.mark.sqlite
def test_tables_fit_every_terminal(busy: Program) -> None:
    """At 40, 80 and 160 columns no line of a table is wider than the terminal, or nearly empty."""
    for arguments in TABLES:
        for columns in (40, 80, 160):
            text = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(busy, *arguments, columns=columns))
            product = [
                line
                for line in text.splitlines()
                if not line.startswith(("sestrack:", "hint:", "too narrow", "readers opened"))
            ]
            wide = [line for line in product if layout.cells(line) > columns]
            # a word that no break can be made in is the terminal's to break
            assert all(len(line.split()) <= 3 for line in wide), (arguments, columns, text)
            assert len(product) < 90, (arguments, columns, text)


@pytest.mark.sqlite
def test_what_checks_found_is_broken_between_words(tracking: Program) -> None:
    """A record beside it is whole, for it is copied."""
    tracking("domain", "verify", "trace.example.com", "--resolver", "127.0.0.1:9", "--no-http")
    shown = on_terminal(tracking, "domain", "show", "trace.example.com", columns=50)
    found = json.loads(tracking.ok("domain", "show", "trace.example.com", "--json"))
    past = [line.strip() for line in shown.partition("history")[2].splitlines()]
    assert max(map(len, past)) <= 50
    assert f"timeout: {found['history'][0]['found']} history" in " ".join(past)
    assert found["record"] in shown


@pytest.mark.sqlite
def test_events_are_followed_in_lines_of_one_width(busy: Program) -> None:
    """`tail -f` on a terminal is a list with columns, not tabs."""
    text = on_terminal(busy, "events", "tail", columns=100)
    assert "\t" not in text
    lines = [line for line in text.splitlines() if "Z  " in line]
    assert len(lines) == 6
    assert {line.index("grace") for line in lines} == {lines[0].index("grace")}


@pytest.mark.parametrize("arguments", [("doctor", "--offline"), ("sender", "list")])
@pytest.mark.sqlite
def test_colours(tracking: Program, arguments: tuple[str, ...]) -> None:
    """None with NO_COLOR, on a dumb terminal, or on a pipe."""
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]m")
    if arguments[0] == "doctor":
        assert colour.search(on_terminal(tracking, *arguments))
    assert not colour.search(on_terminal(tracking, *arguments, NO_COLOR="1"))
    assert "\x1b" not in on_terminal(tracking, *arguments, TERM="dumb")
    piped = tracking(*arguments, TERM="xterm-256color", FORCE_COLOR="1", CLICOLOR_FORCE="1")
    assert b"\x1b" not in piped.stdout + piped.stderr


LOCALES = [
    pytest.param({"PYTHONIOENCODING": "cp1252"}, "cp1252", id="Windows-1252"),
    pytest.param({"PYTHONIOENCODING": "ascii"}, "ascii", id="ASCII"),
    pytest.param(
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "ascii", id="C locale"
    ),
]


@pytest.mark.parametrize(("environment", "encoding"), LOCALES)
@pytest.mark.sqlite
def test_other_encodings(tracking: Program, environment: dict[str, str], encoding: str) -> None:
    """What cannot be written is written otherwise; nothing fails, and JSON loses nothing."""
    label = "Grüße → Łódź…"
    tracking.ok(
        "rewrite", "--sender", "news.example.com", "--message", label, "--count", stdin=LETTER
    )
    for path in ("", "rewrite", "domain verify"):
        done = tracking(*path.split(), "--help", **environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
    done = tracking("sender", "show", label, **environment)
    assert done.returncode == 65
    assert "Traceback" not in done.stderr.decode(encoding)
    url = tracking.paths("<p>x</p>", message=label)[0]
    seen = tracking("inspect", f"https://trace.example.com{url}", "--json", **environment)
    assert json.loads(seen.stdout.decode(encoding))["message"] == label
    shown = tracking("inspect", f"https://trace.example.com{url}", **environment)
    line = next(x for x in shown.stdout.decode(encoding).splitlines() if x.startswith("message"))
    umlauts = "Grüße" if encoding == "cp1252" else r"Gr\xfc\xdfe"
    dots = "…" if encoding == "cp1252" else "..."
    assert line == rf"message	{umlauts} -> \u0141\xf3d\u017a{dots}".replace(
        r"\xf3", "ó" if encoding == "cp1252" else r"\xf3"
    )


# -- layout ---------------------------------------------------------------------------------------


def test_room_goes_where_it_is_wanted() -> None:
    """Least widths first, then cells, then headings; spare columns go before a table is given up."""
    headings = ("name", "", "opens by people", "reason")
    rows = [["news.example.com", "##", "1", "because of the settings of the account"]]
    wide = layout.fitting(headings, rows, (2,), 200)
    assert wide == ([0, 1, 2, 3], [16, 2, 15, 38])
    middle = layout.fitting(headings, rows, (2,), 60)
    assert middle == ([0, 1, 2, 3], [16, 2, 6, 30])
    assert layout.fitting(headings, rows, (2,), 33) == ([0, 1, 3], [16, 2, 11])
    assert layout.fitting(headings, rows, (2,), 20) is None


def test_cells_of_wide_characters() -> None:
    """A character of two columns is not cut in half, and counts as two."""
    assert layout.shorten("日本語", 6, "…") == "日本語"
    assert layout.shorten("日本語", 5, "…") == "日本…"
    assert layout.shorten("日本語", 4, "…") == "日… "
    assert layout.shorten("abc", 5, "…") == "abc  "


# -- the manual -----------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "man" / "sestrack.1"


def test_the_manual_is_what_the_program_says() -> None:
    """The page in the repository is made from the command tree of today."""
    assert PAGE.read_text(encoding="ascii") == manual.page(), (
        "python -m sestrack.terminal.manual > man/sestrack.1"
    )


@pytest.mark.parametrize(
    "judge", [["mandoc", "-Tlint", "-Wwarning"], ["groff", "-ww", "-man", "-Tutf8"]]
)
def test_the_manual_is_good_roff(judge: list[str]) -> None:
    """But for its date, which would differ from day to day."""
    if shutil.which(judge[0]) is None:
        pytest.skip(f"{judge[0]} is not installed")
    done = subprocess.run([*judge, str(PAGE)], capture_output=True, text=True, check=False)
    said = done.stderr + (done.stdout if judge[0] == "mandoc" else "")
    assert [line for line in said.splitlines() if "missing date" not in line] == []


@pytest.mark.parametrize(
    "store",
    [
        ["--store", "postgresql://u:hunter2@127.0.0.1:1/x"],
        ["--store=postgresql://u:hunter2@127.0.0.1:1/x"],
    ],
)
@pytest.mark.parametrize("words", [["stat"], ["stats", "--by", "mesage"], ["serve", "--bind", "x"]])
@pytest.mark.sqlite
def test_a_corrected_line_has_no_password(
    program: Program, store: list[str], words: list[str]
) -> None:
    """What was typed is shown again, but for a password in it."""
    done = program(*store, *words)
    assert done.returncode == 2
    assert b"hint: sestrack --store" in done.stderr.replace(b"'", b"")
    assert b"hunter2" not in done.stderr
