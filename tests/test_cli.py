"""The program as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Program, Server, as_nobody
from postgresql import until

from sestrack.cli import COMMANDS
from sestrack.commands.rewrite import OPTIONS, Request, light
from sestrack.commands.rewrite_delivery import inputs
from sestrack.demo.nameserver import NameServer
from sestrack.errors import NoPermission, Refused
from sestrack.model import Dimension
from sestrack.settings import enable, parse
from sestrack.store import Store

LETTER = b'<html><body><a href="https://example.com/?a=1&amp;b=2">x</a></body></html>\n'
SEND = ("rewrite", "--sender", "news.example.com")
FULL = (*SEND, "--recipient", "ada@example.org", "--message", "june")


def test_init_twice_changes_nothing(program: Program) -> None:
    """A second `init` leaves the key and the edge; a file is its owner's alone."""
    program.ok("init", "--edge", "edge.example.net")
    if program.store.exists():
        assert stat.S_IMODE(program.store.stat().st_mode) == 0o600
    before = json.loads(program.ok("keys", "list", "--json"))
    program.ok("init")
    assert json.loads(program.ok("keys", "list", "--json")) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["sender", "show", "no.example.com"], 66, id="unknown sender domain"),
        pytest.param(["domain", "show", "no.example.com"], 66, id="unknown trace domain"),
        pytest.param(["domain", "create", "ab"], 1, id="a bad prefix"),
        pytest.param(["domain", "create", "trace"], 1, id="the same one twice"),
        pytest.param(["sender", "add", "news.example.com"], 1, id="the same sender twice"),
        pytest.param(["sender", "add", "co.uk"], 1, id="a public suffix"),
        pytest.param(["sender", "remove", "news.example.com"], 1, id="a trace domain rests on it"),
        pytest.param(["settings", "enable"], 1, id="enabling without a dimension"),
        pytest.param(["settings", "apply", "missing.toml"], 66, id="no such file"),
        pytest.param(["inspect", "https://trace.example.com/Qabc"], 65, id="a forged URL"),
        pytest.param(["inspect", "hello"], 65, id="no URL"),
        pytest.param(["nonsense"], 2, id="no such command"),
        pytest.param(["rewrite"], 2, id="a missing option"),
        pytest.param(["rewrite", "--sender", "-bad-", "x.html"], 66, id="no such mail"),
        pytest.param(["domain", "verify", "--resolver", "x"], 2, id="a resolver that is none"),
        pytest.param(["domain", "verify", "trace", "--all"], 2, id="one and all"),
        pytest.param(["domain", "show", "nosuch"], 66, id="a prefix nobody has"),
    ],
)
def test_errors_have_a_code_and_leave_stdout_empty(
    ready: Program, arguments: list[str], code: int
) -> None:
    """Each error has its exit code, one line of words, and nothing on stdout."""
    done = ready(*arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.startswith(b"sestrack: error: ")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.sqlite
def test_every_command_has_help_with_an_example(program: Program, command: str) -> None:
    """Help teaches."""
    text = program.ok(command, "--help")
    for line in text.partition("Commands:\n")[2].splitlines():
        if not line.startswith("   "):  # a help of two lines
            text += program.ok(command, line.split()[0], "--help")
    assert "Example: " in text
    assert text.isascii()


def test_no_store_is_not_set_up(program: Program) -> None:
    """Without a store every command says what to type; a mail goes out as it came."""
    done = program(*SEND, stdin=LETTER)
    assert (done.returncode, done.stdout) == (78, LETTER)
    assert program("sender", "list").returncode == 78


@pytest.mark.sqlite
def test_a_file_that_is_no_store(program: Program) -> None:
    """Another file is not touched."""
    program.store.write_bytes(b"hello, this is no database at all" * 200)
    done = program("sender", "list")
    assert done.returncode == 65
    assert b"not a store" in done.stderr


def test_a_sender_domain_from_its_record_to_its_loss(program: Program) -> None:
    """One record in text and JSON; what is verified stays so without it, and that is said."""
    program.ok("init")
    added = json.loads(program.ok("sender", "add", "news.example.com", "--json"))
    assert (added["domain"], added["status"], added["verified_at"]) == (
        "news.example.com", "pending", None,
    )  # fmt: skip
    record = f'_sestrack.news.example.com. 3600 IN TXT "{added["proof"]}"'
    assert added["record"] == record
    assert f"record\t{record}\n" in program.ok("sender", "show", "news.example.com")
    assumed = program.ok("sender", "add", "shop.example.com", "--assume-verified", "--json")
    assert json.loads(assumed)["status"] == "verified"
    verify = ("sender", "verify", "news.example.com", "--resolver")
    with NameServer({".": "example.com. 60 IN A 192.0.2.1"}) as dns:
        done = program(*verify, dns.address)
        assert done.returncode == 75
        assert b"stays" not in done.stderr
        dns.add(record)
        program.ok(*verify, dns.address)
        del dns.records[next(key for key in dns.records if "_sestrack" in str(key[0]))]
        done = program(*verify, dns.address)
    assert done.returncode == 1
    assert b"does not exist; it stays verified\n" in done.stderr
    shown = json.loads(program.ok("sender", "show", "news.example.com", "--json"))
    assert shown["status"] == "verified"


def test_a_mail_is_rewritten_and_inspected(tracking: Program) -> None:
    """The pipe wraps the link and adds the pixel; inspect reads both; again changes nothing."""
    mail = tracking.ok(*FULL, stdin=LETTER)
    urls = [part.split('"')[0] for part in mail.split('"https://')[1:]]
    click = json.loads(tracking.ok("inspect", "https://" + urls[0], "--json"))
    assert click["destination"] == "https://example.com/?a=1&b=2"
    assert (click["recipient"], click["message"]) == ("ada@example.org", "june")
    assert json.loads(tracking.ok("inspect", "https://" + urls[1], "--json"))["kind"] == "open"
    assert tracking.ok(*FULL, stdin=mail.encode()) == mail


@pytest.mark.sqlite
def test_the_same_time_gives_the_same_bytes(tracking: Program) -> None:
    """Sealing is deterministic."""
    first, second = (
        tracking.ok(*FULL, "--at", "2026-06-01T08:00:00Z", stdin=LETTER) for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("sender", "reason"),
    [("other.example.com", b"not a sender domain"), ("shop.example.org", b"not verified")],
)
def test_untracked_mail_goes_out_as_it_came(tracking: Program, sender: str, reason: bytes) -> None:
    """An unknown or pending sender domain is no failure, but with --strict."""
    tracking.ok("sender", "add", "shop.example.org")
    for strict, code in (([], 0), (["--strict"], 1)):
        done = tracking("rewrite", "--sender", sender, *strict, stdin=LETTER)
        assert (done.returncode, done.stdout) == (code, LETTER)
        assert reason in done.stderr


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", 65, id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(100), 65, id="a picture"),
    ],
)
@pytest.mark.sqlite
def test_what_is_not_html_goes_out_as_it_came(tracking: Program, data: bytes, code: int) -> None:
    """The original bytes, one line on stderr, a status that is not zero."""
    done = tracking(*FULL, stdin=data)
    assert (done.returncode, done.stdout) == (code, data)
    assert done.stderr


@pytest.mark.sqlite
def test_plain_text_goes_out_as_it_came(tracking: Program) -> None:
    """Without a tag there is no HTML that a pixel could stand in; who says that it is, is believed."""
    data = b"Hello,\nvisit https://example.com/ now\n"
    done = tracking(*FULL, stdin=data)
    assert (done.returncode, done.stdout) == (0, data)
    assert b"untracked: it has no tag" in done.stderr
    assert b"<img src=" in tracking(*FULL, "--type", "html", stdin=data).stdout


@pytest.mark.sqlite
def test_files_folders_and_in_place(tracking: Program) -> None:
    """--check tells, --in-place changes and keeps the mode, and again changes nothing."""
    folder = tracking.folder / "mails" / "deep"
    folder.mkdir(parents=True)
    for name in ("one.html", "two.HTM", "not.txt"):
        (folder / name).write_bytes(LETTER)
    (folder / "one.html").chmod(0o640)
    assert tracking(*FULL, "--check", "mails").returncode == 1
    assert b"+<html>" in tracking(*FULL, "--diff", "mails").stdout
    assert (folder / "one.html").read_bytes() == LETTER
    tracking.ok(*FULL, "--in-place", "mails")
    assert b"trace.example.com" in (folder / "one.html").read_bytes()
    assert b"trace.example.com" in (folder / "two.HTM").read_bytes()
    assert (folder / "not.txt").read_bytes() == LETTER
    assert stat.S_IMODE((folder / "one.html").stat().st_mode) == 0o640
    assert tracking(*FULL, "--check", "mails").returncode == 0
    assert len(list(folder.iterdir())) == 3


@pytest.mark.sqlite
def test_results_keep_their_places(tracking: Program) -> None:
    """Two files of one name are two results; what is hidden or lies elsewhere is not meant."""
    tree = tracking.folder / "tree"
    for name in ("a/x.html", "b/x.html", ".git/x.html", "a/.x.html"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(LETTER)
    outside = tracking.folder / "outside.html"
    outside.write_bytes(LETTER)
    (tree / "link.html").symlink_to(outside)
    out = tracking.folder / "out"
    out.mkdir()
    at = ("--at", "2026-06-01T08:00:00Z")  # the same octets in whatever second
    tracking.ok(*FULL, *at, "tree", "-o", "out")
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == ["a/x.html", "b/x.html"]
    tracking.ok(*FULL, *at, "tree", "--in-place")
    assert outside.read_bytes() == (tree / ".git/x.html").read_bytes() == LETTER
    tracking.ok(*FULL, *at, "tree", "-o", "made/")
    assert (tracking.folder / "made/a/x.html").read_bytes() == (out / "a/x.html").read_bytes()
    done = tracking(*FULL, "-o", "nobody/", stdin=LETTER)  # no name to have there
    assert (done.returncode, done.stdout) == (2, LETTER)
    assert not (tracking.folder / "nobody").exists()
    done = tracking(*FULL, "tree/a/x.html", "tree/b/x.html", "-o", "out")
    assert done.returncode == 2
    assert b"tree/a/x.html and tree/b/x.html would both become out/x.html" in done.stderr
    (tracking.folder / "empty").mkdir()
    assert tracking(*FULL, "empty", "--in-place").returncode == 66


@pytest.mark.sqlite
def test_a_missing_file_stops_no_other(tracking: Program) -> None:
    """The rest is rewritten, and what was made is counted."""
    for name in ("a.html", "z.html"):
        (tracking.folder / name).write_bytes(LETTER)
    done = tracking(*FULL, "--in-place", "--count", "a.html", "nothere.html", "z.html")
    assert done.returncode == 66
    assert b"nothere.html" in done.stderr
    assert b"trace.example.com" in (tracking.folder / "z.html").read_bytes()
    assert json.loads(tracking.ok("stats", "--json"))[0]["copies"] == 2


@pytest.mark.parametrize(
    "command",
    [
        (*FULL, "--bogus"),
        ("rewrite", "--recipient", "a"),
        (*FULL, "--type", "foo"),
        (*FULL, "--recipient-field", "{{x}}"),
        (*FULL, "--in-place"),
        (*FULL, "--resume"),
        (*FULL, "--at", "yesterday"),
        (*FULL, "--report", "-"),
        (*FULL, "-o", "."),
        (*SEND, "--jsonl", "-o", "x.jsonl", "--check"),
    ],
)
@pytest.mark.sqlite
def test_a_wrong_command_line_lets_the_mail_through(
    tracking: Program, command: tuple[str, ...]
) -> None:
    """A mail that is piped through goes out as it came, once, whatever was typed."""
    done = tracking(*command, stdin=LETTER)
    assert done.returncode == 2
    assert done.stdout == (b"" if "--check" in command else LETTER)
    assert done.stderr.count(b"sestrack: error:") == 1


@pytest.mark.parametrize(
    ("command", "passes"),
    [
        pytest.param(("--stor", "x", *FULL), True, id="an option before it is none"),
        pytest.param(("rewrit", *FULL[1:]), True, id="the command itself is mistyped"),
        pytest.param((*FULL, "--bogus"), True, id="a folder has the name of a value"),
        pytest.param((*FULL, "--recipent", "note"), True, id="a file has that of a near one's"),
        pytest.param((*FULL, "--plian", "note"), False, id="a file behind a mistyped switch"),
        pytest.param((*FULL, "--bogus", "--", "note"), False, id="a file behind --"),
        pytest.param(("events", "--bogus", "rewrite"), False, id="another command"),
        pytest.param(("bogus",), False, id="no command at all"),
        pytest.param(("--stor", "restore.db", *FULL), True, id="a value like a command before it"),
        pytest.param(("stats", "--bogus", "rewrite"), False, id="another command, and a value"),
        pytest.param(("rewrit", "--message", "check"), True, id="a value that is a command"),
    ],
)
@pytest.mark.sqlite
def test_what_was_meant_to_be_rewrite(
    tracking: Program, command: tuple[str, ...], *, passes: bool
) -> None:
    """The mail goes out as it came, too, if the words before it, or `rewrite`, are mistyped."""
    (tracking.folder / "news.example.com").mkdir()
    (tracking.folder / "note").write_bytes(b"")
    done = tracking(*command, stdin=LETTER)
    assert (done.returncode, done.stdout) == (2, LETTER if passes else b"")


@pytest.mark.sqlite
def test_no_result_takes_the_place_of_what_it_is_made_of(tracking: Program) -> None:
    """A template that was written over would be lost, and its copies somebody's."""
    (tracking.folder / "letter.html").write_bytes(LETTER)
    (tracking.folder / "list.csv").write_text("recipient\nada@example.org\n")
    for more in ((), ("--recipients", "list.csv")):
        done = tracking(*FULL[:3], "letter.html", *more, "-o", "letter.html")
        assert done.returncode == 2, done.stderr
        assert (tracking.folder / "letter.html").read_bytes() == LETTER
    done = tracking(*FULL[:3], "letter.html", "--recipients", "list.csv", "-o", "list.csv")
    assert done.returncode == 2
    (tracking.folder / "empty.html").write_bytes(b"")
    assert b"error: empty.html: the input is empty" in tracking(*FULL[:3], "empty.html").stderr


@pytest.mark.sqlite
@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
def test_what_is_rewritten_in_place_stays_its_owners(tracking: Program) -> None:
    """Root rewrites the mail of a user, who reads it afterwards."""
    inbox = tracking.folder / "md"
    for name in ("cur", "new", "tmp"):
        (inbox / name).mkdir(parents=True)
    for path in (tracking.folder / "letter.html", inbox / "cur/1:2,S"):
        path.write_bytes(
            LETTER if path.suffix else b"To: a@b.c\nContent-Type: text/html\n\n" + LETTER
        )
        os.chown(path, 65534, 65534)
        path.chmod(0o600)
        tracking.ok(*FULL[:3], "--in-place", str(path))
        state = path.stat()
        assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (65534, 65534, 0o600)
        assert b"trace.example.com" in path.read_bytes()


@pytest.mark.sqlite
def test_a_filter_that_cannot_begin_answers_line_by_line(tracking: Program) -> None:
    """Whoever keeps it open waits for an answer, and would for ever."""
    for options in (("--bogus",), ("--recipient", "x"), ("--at", "never")):
        with subprocess.Popen(
            [sys.executable, "-m", "sestrack", *FULL[:3], "--jsonl", *options],
            cwd=tracking.folder, env=tracking.environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as child:  # fmt: skip
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(b'{"html": "<p>"}\n')
            child.stdin.flush()
            assert child.stdout.readline() == b'{"html": "<p>"}\n'
            child.stdin.close()
            assert child.wait(60) == 2


@pytest.mark.sqlite
def test_a_store_that_may_not_be_looked_for(tracking: Program) -> None:
    """It is not said that there is none: a second one would be made."""
    private = tracking.folder / "private"
    private.mkdir(mode=0o700)
    shutil.copy(tracking.store, private / "store.db")
    with as_nobody(), pytest.raises(NoPermission) as failure, Store(str(private / "store.db")):
        pass
    assert failure.value.hint.startswith("ls -ld ")


@pytest.mark.sqlite
def test_nobody_hears_of_an_error(program: Program) -> None:
    """The exit code is that of the error, though its words could not be written."""
    done = shell(program, "$S nonono 2>&1 | true; exit ${PIPESTATUS[0]}")
    assert done.returncode == 2


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[sender.news.example.com]\nclick = true\n", '[sender."news.example.com"]'),
        ("enabled = yes\n", "values are true or false, names stand in quotes"),
        ("enabled = True # on\n", "values are true or false, names stand in quotes"),
        ("enabled\n", "sestrack settings export  # those that are in force"),
    ],
)
def test_settings_that_are_nearly_right(program: Program, text: str, hint: str) -> None:
    """What people write who know YAML, or no quotes in TOML."""
    done = program("settings", "apply", "-", stdin=text.encode())
    assert (done.returncode, done.stderr.decode().splitlines()[1]) == (65, f"hint: {hint}")


@pytest.mark.sqlite
def test_an_output_that_cannot_be_costs_no_mail(tracking: Program) -> None:
    """Nobody else has what came from a pipe."""
    done = tracking(*FULL, "-o", "nowhere/x", stdin=LETTER)
    assert (done.returncode, done.stdout) == (73, LETTER)
    (tracking.folder / "letter.html").write_bytes(LETTER)
    assert tracking(*FULL, "letter.html", "-o", "nowhere/x").stdout == b""


@pytest.mark.sqlite
def test_where_standard_input_is_not_ours(tracking: Program) -> None:
    """In `while read`, it is the list: with a file named, nothing of it is taken."""
    (tracking.folder / "letter.html").write_bytes(LETTER)
    assert tracking(*FULL, "--bogus", "letter.html", stdin=b"a list").stdout == b""


@pytest.mark.sqlite
def test_the_store_is_no_place_for_an_output(tracking: Program) -> None:
    """Tab offers it; a report, which was emptied first, took all keys with it."""
    before = tracking.store.read_bytes()
    (tracking.folder / "list.csv").write_text("recipient\nada@example.org\n")
    (tracking.folder / "letter.html").write_bytes(LETTER)
    for output in (
        (*FULL, "--report", tracking.store),
        (*FULL, "-o", tracking.store),
        (*SEND, "letter.html", "--recipients", "list.csv", "-o", tracking.store),
        ("events", "export", "-o", tracking.store),
    ):
        done = tracking(*map(str, output), stdin=LETTER)
        assert done.returncode in {1, 2, 73}
        assert tracking.store.read_bytes() == before
    (tracking.folder / "old.jsonl").write_text("old\n")
    assert tracking(*FULL, "--report", "old.jsonl", "no.html").returncode == 66
    assert (tracking.folder / "old.jsonl").read_text() == "old\n"
    both = tracking(*FULL, "--report", "one", "-o", "one", stdin=LETTER)
    assert both.returncode == 2
    assert (tracking.folder / "one").read_bytes() == LETTER


@pytest.mark.sqlite
def test_a_report_into_a_pipe(tracking: Program) -> None:
    """It is opened once, and not read: what reads it has all of it, and the mail goes out."""
    line = "$S rewrite --sender news.example.com --report >(cat > got) 2> said; wait; sleep 0.5"
    done = shell(tracking, line, LETTER)
    assert b"trace.example.com" in done.stdout
    assert json.loads((tracking.folder / "got").read_text())["wrapped"]
    done = shell(tracking, "$S rewrite --sender news.example.com --report /dev/stderr", LETTER)
    assert (b"trace.example.com" in done.stdout, b"wrapped" in done.stderr) == (True, True)
    null = ("-o", "/dev/null", "--report", "/dev/null")
    assert tracking(*FULL, *null, stdin=LETTER).returncode == 0


@pytest.mark.sqlite
def test_json_is_no_html(tracking: Program) -> None:
    """Without --jsonl a pixel went into the last string of JSON Lines, and its quotes ended it."""
    lines = b'{"html": "<html><body><a href=\\"https://example.com/\\">x</a></body></html>"}\n'
    done = tracking(*FULL, stdin=lines)
    assert (done.returncode, done.stdout) == (65, lines)
    assert b"is JSON" in done.stderr
    assert b"--jsonl\n" in done.stderr
    liquid = b'{% if x %}<a href="https://example.com/">x</a>{% endif %}'
    assert b"trace.example.com" in tracking(*FULL, stdin=liquid).stdout


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"<!-- july -->\n<mjml><mj-body><a href='https://example.com/'>x</a></mj-body></mjml>", b"mjml letter.mjml"),
        (b'<?xml version="1.0"?>\n<rss version="2.0"><channel></channel></rss>', b"is no HTML"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><a href="https://example.com/"/></svg>', b"is no HTML"),
        (b'<!DOCTYPE svg PUBLIC "x" "y.dtd"><svg><a href="https://example.com/"/></svg> <!-- z -->', b"is no HTML"),
    ],
)  # fmt: skip
def test_other_markup_is_no_html(tracking: Program, data: bytes, word: bytes) -> None:
    """A pixel would be no picture in it; `check` says so before the mail goes out."""
    done = tracking(*FULL, stdin=data)
    assert (done.returncode, done.stdout) == (65, data)
    assert word in done.stderr
    assert tracking("check", "-", stdin=data).returncode == 65
    for page in (
        b"<?xml version='1.0'?><!DOCTYPE html><html><body><svg></svg></body></html>",
        b"<svg></svg><p>A fragment</p>",
        b"<SVG><circle/></SVG ><p>A fragment</p>",
        b'<svg width="1"/><p>A fragment</p>',
        b"<svg></svg><p>A fragment</p><svg></svg>",
        b"\n".join([b"<!-- == -->"] * 90) + b"<html><body><p>In no time</p></body></html>",
    ):
        assert b"trace.example.com" in tracking(*FULL, stdin=page).stdout


@pytest.mark.sqlite
def test_plain_text_in_utf_16(tracking: Program) -> None:
    """It is as plain as in UTF-8, and gets no pixel."""
    for text, tracked in (("no tag, x < 3, http://a.example/", False), ("<p>a tag</p>", True)):
        data = text.encode("utf-16")
        done = tracking(*FULL, stdin=data)
        assert (done.returncode, done.stdout != data) == (0, tracked)


@pytest.mark.sqlite
def test_one_recipient_for_mails_to_several(tracking: Program) -> None:
    """The hint for one mail is for that mail alone: all others would count as its recipient."""
    folder = tracking.folder / "mails"
    folder.mkdir()
    for name, to in (("a", "ada@example.org"), ("b", "x@example.org, y@example.org")):
        head = f"From: n@news.example.com\nTo: {to}\nContent-Type: text/html\n\n"
        (folder / f"{name}.eml").write_bytes(head.encode() + LETTER)
    done = tracking(*SEND, "mails", "-o", "out/")
    assert done.returncode == 2
    hint = "sestrack rewrite mails/b.eml --sender news.example.com --recipient ID --output out/  # for that mail alone"
    assert done.stderr.decode().endswith(f"hint: {hint}\n")
    done = tracking(*SEND, "mails", "-o", "out/", "--recipient", "ID")
    assert done.returncode == 0
    assert b"mails to several addresses are all made copies for ID" in done.stderr


@pytest.mark.sqlite
def test_what_is_in_a_folder_and_is_no_mail(tracking: Program) -> None:
    """A pipe is not waited for; a link that leads out is not followed, and both are said."""
    folder = tracking.folder / "mails"
    folder.mkdir()
    (folder / "a.html").write_bytes(LETTER)
    os.mkfifo(folder / "b.html")
    (tracking.folder / "letter.html").write_bytes(LETTER)
    (folder / "c.html").symlink_to("../letter.html")
    (folder / "d.html").write_bytes(LETTER)
    done = tracking(*SEND, "mails", "-o", "out/")
    assert done.returncode == 0
    assert sorted(os.listdir(tracking.folder / "out")) == ["a.html", "d.html"]
    assert b"mails/b.html is left" in done.stderr
    with tempfile.TemporaryDirectory() as name:  # where another user may look, too
        Path(name).chmod(0o755)
        (Path(name) / "a.html").write_bytes(LETTER)
        (Path(name) / "locked").mkdir(mode=0)
        with as_nobody(), pytest.raises(NoPermission, match="locked"):
            inputs(Request(files=(name,)))
    assert b"mails/c.html is left" in done.stderr


@pytest.mark.sqlite
def test_a_variable_that_is_not_set(tracking: Program) -> None:
    """The mail goes out, for nobody; what names a file or a header is refused."""
    done = tracking("rewrite", "--sender", "", stdin=LETTER)
    assert (done.returncode, done.stdout) == (2, LETTER)
    assert b"--sender is empty; is a variable not set?" in done.stderr
    done = tracking(*SEND, "--recipient", "", "--message", "", stdin=LETTER)
    assert done.returncode == 0
    assert b"trace.example.com" in done.stdout
    assert done.stderr.count(b"is empty; is a variable not set?") == 2
    assert tracking(*FULL, "-o", "", stdin=LETTER).stdout != LETTER
    for option in ("--report", "--recipient-header", "--at", "--recipient-field"):
        done = tracking(*FULL[:3], option, "", stdin=LETTER)
        assert (done.returncode, done.stdout) == (2, LETTER)
    for words in (
        ("--store", *FULL), (*FULL[:3], "--recipient", "--message", "june"),
        (*FULL[:3], "--message", "--recipient", "ada@example.org"),
    ):  # fmt: skip
        done = tracking(*words, stdin=LETTER)
        assert (done.returncode, done.stdout) == (2, LETTER)
        assert re.search(rb"took '[a-z-]+' as its value; is a variable not set\?", done.stderr)
    mail = b"Subject:\nTo: a@example.org\nContent-Type: text/html\n\n" + LETTER
    done = tracking(*SEND, "--message-header", "Subject", stdin=mail)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout != mail


@pytest.mark.sqlite
def test_a_report_that_cannot_be_costs_no_mail(tracking: Program) -> None:
    """Nor is it made of what is to be rewritten."""
    (tracking.folder / "same.html").write_bytes(LETTER)
    done = tracking(*FULL, "--report", "same.html", "same.html")
    assert (done.returncode, done.stdout) == (2, LETTER)
    assert (tracking.folder / "same.html").read_bytes() == LETTER
    busy = tracking.folder / "busy"
    shutil.copy(shutil.which("sleep") or "", busy)
    with subprocess.Popen([busy, "30"]) as process:  # a program that runs cannot be written
        done = tracking(*FULL, "--report", str(busy), stdin=LETTER)
        process.kill()
    assert (done.returncode, done.stdout) == (73, LETTER)


@pytest.mark.parametrize(
    "command",
    [
        (*FULL, "-o"),
        (*FULL[:-4], "--message", "june", "letter.html", "--recipients", "list.csv", "-o"),
        ("events", "export", "--output"),
        ("backup", "--force"),
        ("keys", "export"),
    ],
    ids=["rewrite", "campaign", "events export", "backup", "keys export"],
)
@pytest.mark.sqlite
def test_nothing_takes_the_place_of_a_pipe(tracking: Program, command: tuple[str, ...]) -> None:
    """What a pipe or a device is told goes into it, or it is refused: /dev/null stays a device."""
    (tracking.folder / "letter.html").write_bytes(LETTER)
    (tracking.folder / "list.csv").write_text("recipient\nada@example.org\n")
    pipe = tracking.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    done = tracking(*command, str(pipe), stdin=LETTER)
    text = os.read(reader, 65_536)
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    if command[-1] == "-o":
        assert done.returncode == 0, done.stderr
        assert b"https://trace.example.com/" in text
    elif done.returncode:
        assert done.returncode == 73
        assert str(pipe).encode() in done.stderr
        assert text == b""
    assert {path.name for path in tracking.folder.iterdir()} >= {"letter.html", "list.csv", "pipe"}
    assert not [path for path in tracking.folder.iterdir() if path.name.startswith("pipe.")]


@pytest.mark.sqlite
def test_the_report_says_what_became_of_each_link(tracking: Program) -> None:
    """One JSON object a link, with its place and the reason."""
    data = LETTER.replace(b"</body>", b'<a href="mailto:x@example.com">m</a></body>')
    tracking.ok(*FULL, "--report", "report.jsonl", stdin=data)
    rows = [json.loads(r) for r in (tracking.folder / "report.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in rows] == ["wrapped", "other-scheme"]
    assert data[rows[0]["start"] : rows[0]["end"]] == b"https://example.com/?a=1&amp;b=2"
    (tracking.folder / "in").mkdir()
    (tracking.folder / "in/one.html").write_bytes(data)
    os.link(tracking.folder / "in/one.html", tracking.folder / "linked")
    assert tracking(*SEND, "in/one.html", "-o", "x", "--report", "linked").returncode == 2
    assert (tracking.folder / "in/one.html").read_bytes() == data
    mixed = tracking(*SEND, "in", "-o", "out/", "--report", "out/one.html")
    assert mixed.returncode == 2
    assert b"comes of it" in mixed.stderr


@pytest.mark.sqlite
def test_a_full_disk_and_a_closed_pipe(tracking: Program) -> None:
    """Writing that fails leaves with 74, buffered or not."""
    for unbuffered in ("", "1"):
        environment = tracking.environment | {"PYTHONUNBUFFERED": unbuffered}
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [sys.executable, "-m", "sestrack", *FULL], input=LETTER, stdout=full,
                stderr=subprocess.PIPE, check=False, env=environment, timeout=60,
            )  # fmt: skip
        assert done.returncode == 74
        assert b"Traceback" not in done.stderr


TALK = """
import sys
import tempfile
from sestrack import output
for number in range(40):
    output.warn(f"{number} " + "x" * 60)
sys.stdin.readline()
output.warn("there is room again")
"""


@pytest.mark.sqlite
def test_a_log_on_a_disk_that_was_full_goes_on(tracking: Program) -> None:
    """What could not be written is left out; it fails nothing at the end."""
    log = tracking.folder / "log"
    command = f"ulimit -f 1; exec {shlex.quote(sys.executable)} -c {shlex.quote(TALK)} 2>> log"
    with subprocess.Popen(
        ["bash", "-c", command], cwd=tracking.folder, stdin=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin
        assert until(lambda: log.exists() and log.stat().st_size == 1024)
        time.sleep(0.5)
        os.truncate(log, 0)
        child.stdin.write("\n")
    assert child.returncode == 0
    assert log.read_text() == "\nsestrack: warning: there is room again\n"


@pytest.mark.sqlite
def test_no_output_takes_the_place_of_the_store(tracking: Program) -> None:
    """With it all keys would be gone, and with them each link that was ever sent."""
    before = tracking.ok("keys", "export", "-")
    (tracking.folder / "link.csv").symlink_to(tracking.store)
    for words in (
        ("events", "export", "--format", "csv", "-o", str(tracking.store)),
        ("events", "export", "-o", "link.csv"),
        (*FULL, "-o", f"{tracking.store}-wal"),
        (*FULL, "-o", "out.html", "--report", f"{tracking.store}-wal"),
        (*FULL, "-o", str(tracking.store)),
    ):
        done = tracking(*words, stdin=LETTER)
        assert done.returncode == 73, words
        assert b"may be the store" in done.stderr
    assert tracking.ok("keys", "export", "-") == before


@pytest.mark.sqlite
def test_a_file_limit_leaves_the_old_file(tracking: Program) -> None:
    """With `ulimit -f` in the way, --in-place leaves the file as it was."""
    mail = tracking.folder / "mail.html"
    data = LETTER * 100
    mail.write_bytes(data)
    command = (
        f"ulimit -f 2; exec {sys.executable} -m sestrack {' '.join(FULL)} --in-place mail.html"
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=False, cwd=tracking.folder,
        env=tracking.environment, timeout=60,
    )  # fmt: skip
    assert done.returncode == 74, done.stderr
    assert mail.read_bytes() == data
    assert [p.name for p in tracking.folder.glob("mail*")] == ["mail.html"]


def test_deleting_is_refused_while_settings_use_the_domain(tracking: Program) -> None:
    """A retired domain makes mail go out untracked; its links still open."""
    url = tracking.ok(*FULL, stdin=LETTER).split('"')[1]
    assert tracking("domain", "delete", "trace.example.com").returncode == 1
    tracking.ok("settings", "apply", "-", stdin=b"enabled = false\n")
    tracking.ok("domain", "delete", "trace.example.com")
    assert json.loads(tracking.ok("domain", "list", "--json"))[0]["status"] == "retired"
    tracking.ok("keys", "rotate")
    assert json.loads(tracking.ok("inspect", url, "--json"))["message"] == "june"


def test_disabling_keeps_every_choice(tracking: Program) -> None:
    """Enabling again needs no choice."""
    before = tracking.ok("settings", "export")
    tracking.ok("settings", "disable")
    assert tracking(*FULL, stdin=LETTER).stdout == LETTER
    tracking.ok("settings", "enable")
    assert tracking.ok("settings", "export") == before


def test_apply_shows_and_keeps_comments(tracking: Program) -> None:
    """--check and --dry-run change nothing; comments come back."""
    text = tracking.ok("settings", "export") + "# mine\n"
    assert tracking("settings", "apply", "-", "--check", stdin=text.encode()).returncode == 1
    assert "+# mine" in tracking.ok("settings", "apply", "-", "--dry-run", stdin=text.encode())
    assert "# mine" not in tracking.ok("settings", "export")
    tracking.ok("settings", "apply", "-", stdin=text.encode())
    tracking.ok("settings", "disable")
    assert "# mine" in tracking.ok("settings", "export")


def editor(program: Program, code: str) -> str:
    """Make a real editor: a program that changes the file it is given."""
    script = program.folder / "editor.py"
    script.write_text(f"import sys, pathlib\nfile = pathlib.Path(sys.argv[1])\n{code}\n")
    return f"{sys.executable} {script}"


def test_edit_reopens_with_the_error_on_top(tracking: Program) -> None:
    """Invalid text comes back with its error; once valid it is saved."""
    code = (
        "text = file.read_text()\n"
        "if text.startswith('#! error'):\n"
        "    (file.parent / 'seen.txt').write_text(text)\n"
        "    file.write_text(text.replace('clikc', 'click'))\n"
        "else:\n"
        "    file.write_text(text.replace('click = true', 'clikc = false'))\n"
    )
    done = tracking("settings", "edit", EDITOR=editor(tracking, code), TMPDIR=str(tracking.folder))
    assert done.returncode == 0, done.stderr
    assert "clikc" in (tracking.folder / "seen.txt").read_text().splitlines()[0]
    assert "click = false" in tracking.ok("settings", "export")
    assert "#!" not in tracking.ok("settings", "export")


@pytest.mark.sqlite
def test_edit_numbers_lines_as_the_editor_does(tracking: Program) -> None:
    """The error stands above the text, and its own lines are counted."""
    code = (
        "text = file.read_text()\n"
        "(file.parent / 'seen.txt').write_text(text)\n"
        "file.write_text(text.replace('click = true', 'click = maybe') if '#!' not in text else '')\n"
    )
    tracking("settings", "edit", EDITOR=editor(tracking, code), TMPDIR=str(tracking.folder))
    first, *rest = (tracking.folder / "seen.txt").read_text().splitlines()
    found = re.search(r"line (\d+)", first)
    assert found
    assert [first, *rest][int(found[1]) - 1] == "click = maybe"


@pytest.mark.sqlite
def test_apply_names_the_file(tracking: Program) -> None:
    """The settings alone might be those in force."""
    (tracking.folder / "dup.toml").write_text("enabled = true\nenabled = false\n")
    done = tracking("settings", "apply", "dup.toml")
    assert done.returncode == 65
    assert b"error: dup.toml: the settings are not TOML" in done.stderr


@pytest.mark.parametrize("code", ["", "file.write_text('')"])
@pytest.mark.sqlite
def test_edit_is_cancelled(tracking: Program, code: str) -> None:
    """Unchanged or emptied text changes nothing."""
    before = tracking.ok("settings", "export")
    done = tracking("settings", "edit", EDITOR=editor(tracking, code))
    assert (done.returncode, b"cancelled" in done.stderr) == (0, True)
    assert tracking.ok("settings", "export") == before


@pytest.mark.sqlite
def test_a_sender_that_is_switched_off_while_all_is_off(tracking: Program) -> None:
    """Under the dimension account its entry is not used: it is not said to be off."""
    tracking.ok("settings", "disable")
    done = tracking("settings", "disable", "--sender", "news.example.com")
    assert done.returncode == 0
    assert b"the entry of news.example.com is kept but not used" in done.stderr
    assert b"Not Enabled" not in done.stderr
    assert b"settings enable" not in done.stderr  # which would switch all others on
    done = tracking("settings", "enable", "--sender", "nws.example.com")
    assert (done.returncode, b"did you mean news.example.com?" in done.stderr) == (66, True)


@pytest.mark.sqlite
def test_what_is_removed_is_typed_by_hand(tracking: Program) -> None:
    """A name that is near is the right one of another: no hint removes it."""
    done = tracking("sender", "remove", "news.exmaple.com")
    assert (done.returncode, b"did you mean news.example.com?" in done.stderr) == (66, True)
    assert done.stderr.endswith(b"hint: sestrack sender list\n")
    done = tracking("domain", "delete", "trace.exmaple.com")
    assert (done.returncode, b"did you mean trace.example.com?" in done.stderr) == (66, True)
    assert done.stderr.endswith(b"hint: sestrack domain list\n")


@pytest.mark.sqlite
def test_odd_places_for_a_store(program: Program) -> None:
    """`~` that no shell expands is the home; a device is none, and nothing appears beside it."""
    home = str(program.folder / "home")
    assert program("--store=~/x.db", "init", HOME=home).returncode == 0
    assert (program.folder / "home/x.db").exists()
    assert program("keys", "list", HOME=home, SESTRACK_STORE="~/x.db").returncode == 0
    assert (
        program(
            "rewrite", "--sender", "a.example.com", HOME=home, SESTRACK_STORE="~/x.db", stdin=LETTER
        ).stdout
        == LETTER
    )
    before = sorted(Path("/dev").glob("null*"))
    done = program("--store", "/dev/null", "init")
    assert (done.returncode, b"it is a device or a pipe" in done.stderr) == (73, True)
    assert sorted(Path("/dev").glob("null*")) == before


@pytest.mark.sqlite
def test_too_few_files_may_be_open(tracking: Program) -> None:
    """It is no bug of ours, and says what helps."""
    for number, command, code in (
        (12, "serve --bind 127.0.0.1:0", 78),
        (64, "serve", 78),
        (8, "demo", 74),
    ):
        done = shell(tracking, f"ulimit -n {number}; $S {command}")
        assert (done.returncode, b"hint: ulimit -n 65536" in done.stderr) == (code, True)


@pytest.mark.sqlite
def test_comments_stay_as_they_are(tracking: Program) -> None:
    """One that begins like our error, like an example, or behind a switch that is turned."""
    mine = "#! do not touch: legal\n# enabled = false until Bob signs off\n"
    text = (
        f'{mine}dimension = "account"\n[account]\nenabled = false  # until 2027\n'
        'domain = "trace.example.com"\nclick = true\n'
    )
    tracking.ok("settings", "apply", "-", stdin=text.encode())
    done = tracking("settings", "edit", EDITOR=editor(tracking, ""))
    assert b"cancelled" in done.stderr
    tracking.ok("settings", "enable", "--click")
    after = tracking.ok("settings", "export")
    assert mine in after
    assert "enabled = true  # until 2027\n" in after
    tracking.ok("settings", "disable")
    assert mine in tracking.ok("settings", "export")


@pytest.mark.sqlite
def test_an_editor_that_does_not_write_utf_8(tracking: Program) -> None:
    """The text is kept, and nothing saved: what could not be read would be lost for good."""
    tracking.ok("settings", "apply", "-", stdin=b"# f\xc3\xbcr\nenabled = false\n")
    before = tracking.ok("settings", "export")
    code = "file.write_bytes(file.read_text('utf-8').replace('f', 'F').encode('latin-1'))"
    done = tracking("settings", "edit", EDITOR=editor(tracking, code))
    assert done.returncode == 65
    kept = Path(done.stderr.decode().rsplit("your text is in ", 1)[1].strip())
    assert f"iconv -f windows-1252 -t utf-8 {kept} |" in done.stderr.decode()
    assert kept.read_bytes().startswith(b"# F\xfcr")
    kept.unlink()
    assert tracking.ok("settings", "export") == before
    code = "file.write_bytes(file.read_text('utf-8').replace('f', 'F').encode('utf-16'))"
    folder = tracking.folder / "with space"
    folder.mkdir()
    done = tracking("settings", "edit", EDITOR=editor(tracking, code), TMPDIR=str(folder))
    (kept,) = folder.iterdir()
    assert f"iconv -f utf-16 -t utf-8 '{kept}' |" in done.stderr.decode()
    code = "file.unlink(); file.mkdir()"
    done = tracking("settings", "edit", EDITOR=editor(tracking, code), TMPDIR=str(folder))
    assert (done.returncode, b"cannot be read: Is a directory" in done.stderr) == (74, True)


@pytest.mark.sqlite
def test_an_editor_that_works_by_itself(tracking: Program) -> None:
    """Where it changes the words of the error, too, it is over the second time."""
    code = "file.write_text(''.join(line.replace('open', 'opne', 1) for line in file.open()))"
    tracking.ok("settings", "enable", "--open")
    command = f"{sys.executable} -m sestrack settings edit"
    environment = tracking.environment | {"EDITOR": editor(tracking, code)}
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], cwd=tracking.folder, env=environment,
        capture_output=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert b"the text was left as it was, and is still invalid" in done.stdout
    assert done.returncode == 65


@pytest.mark.sqlite
def test_senders_in_dotted_keys(tracking: Program) -> None:
    """A new table between them would have cut one in two."""
    text = (
        'enabled = true\ndimension = "account+domain"\naccount.domain = "trace.example.com"\n'
        'account.click = true\nsender."shop.example.com".domain = "trace.example.com"\n'
        'sender."shop.example.com".click = true\n'
    )
    tracking.ok("settings", "apply", "-", stdin=text.encode())
    tracking.ok("settings", "disable", "--sender", "news.example.com")
    assert tracking.ok("settings", "export") == (
        f'{text}\n[sender."news.example.com"]\nenabled = false\n'
    )
    tracking.ok("settings", "enable", "--sender", "news.example.com", "--open")
    entries = json.loads(tracking.ok("settings", "show", "--json"))["entries"]
    assert set(entries) == {"news.example.com", "shop.example.com"}


@pytest.mark.sqlite
def test_a_trace_domain_that_is_deleted_meanwhile(tracking: Program) -> None:
    """Both commands ended with 0, and tracking was off; then it could not be disabled."""
    tracking.ok("settings", "disable")
    with Store(tracking.address) as opened:
        text, revision = opened.settings_text()
        new = parse(text.replace("enabled = false", "enabled = true"))
        with opened.change() as db:
            db.execute("UPDATE trace_domain SET status = 'retired'")
            db.execute("DELETE FROM entry")
        with pytest.raises(Refused, match="is retired"):
            opened.save_settings(new, revision)
    with tracking.connection() as store:
        store.execute(
            "INSERT INTO entry (sender, trace_domain, click, open, enabled) VALUES ('', 'trace.example.com', 1, 1, 1)"
        )
    tracking.ok("settings", "disable")


@pytest.mark.sqlite
def test_a_store_is_not_copied_onto_itself(tracking: Program) -> None:
    """By another name it was busy for ever; a folder and a device have hints that can be typed."""
    (tracking.folder / "here").symlink_to(tracking.store)
    done = tracking("copy", str(tracking.store), "here")
    assert (done.returncode, b"both stores are" in done.stderr) == (2, True)
    (tracking.folder / "d").mkdir()
    assert b"hint: sestrack copy d/store.db new.db\n" in tracking("copy", "d", "new.db").stderr
    (tracking.folder / "-k").touch()
    hints = {"d": b"d/sestrack.keys", "/dev/stdout": b"-", "-k": b"./-k.new"}
    for file, hint in hints.items():
        done = tracking("keys", "export", "--", file)
        assert done.returncode == 73
        assert b"hint: sestrack keys export " + hint + b"\n" in done.stderr


def test_edit_does_not_overwrite_another(tracking: Program) -> None:
    """A change made meanwhile stays, and the edited text is kept."""
    code = (
        "import subprocess\n"
        f"subprocess.run([{sys.executable!r}, '-m', 'sestrack', 'settings', 'disable'])\n"
        "file.write_text(file.read_text() + '# mine\\n')\n"
    )
    done = tracking("settings", "edit", EDITOR=editor(tracking, code))
    assert done.returncode == 75
    kept = Path(done.stderr.decode().rsplit("your text is in ", 1)[1].strip())
    assert "# mine" in kept.read_text()
    kept.unlink()
    assert "enabled = false" in tracking.ok("settings", "export")


def test_a_busy_store_is_tried_later(ready: Program) -> None:
    """A lock that is not given back in time becomes 75; reading goes on."""
    with ready.blocked():
        assert ready("keys", "rotate").returncode == 75
        ready.ok("keys", "list")


def test_killing_any_command_leaves_the_old_state_or_the_new(program: Program) -> None:
    """`kill -9` at any moment: the store opens, and has all of a change or nothing of it."""
    program.ok("init", "--edge", "edge.example.net")
    for step in range(12):
        child = subprocess.Popen(
            [sys.executable, "-m", "sestrack", "sender", "add", f"n{step}.example.com"],
            env=program.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.15 + step * 0.04)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        for row in json.loads(program.ok("sender", "list", "--json")):
            assert row["proof"].startswith("sestrack-verify=")
    if program.store.exists():
        with program.connection() as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_light_reader_knows_every_option() -> None:
    """Both readers are made from one table; the light one fills the same fields."""
    for option in OPTIONS:
        value = option.choices[0] if option.choices else "x"
        for flag in option.flags:
            words = [flag, value] if option.metavar else [flag]
            request = light(["--sender", "example.com", *words, "file.html"])
            assert request is not None
            wanted = value if option.metavar else True
            assert getattr(request, option.name) == wanted
            assert request.files == ("file.html",)


@pytest.mark.parametrize(
    "words",
    [["--nonsense"], ["--help"], ["--sender"], [], ["--sender=x", "--pixel", "left"], ["-ox"]],
)
def test_the_light_reader_leaves_the_rest_to_typer(words: list[str]) -> None:
    """What is not plainly right is not read."""
    assert light(words) is None


# -- what is printed, and where it goes ------------------------------------------------------------

ODD = "a\u00ad\U0001fae8\u2028z"
"""A soft hyphen, a character of this Python's future, a line separator: none is printable."""


@pytest.mark.sqlite
def test_json_is_json_whatever_stands_in_it(
    tracking: Program, serve: Callable[..., Server]
) -> None:
    """What a terminal could not show is an escape of JSON's own, in reports and exports too."""
    (path,) = tracking.paths("<p>x</p>", recipient=ODD, message=ODD)
    server = serve()
    server.ask(path)
    server.stop()
    url = f"https://trace.example.com{path}"
    values = [json.loads(tracking.ok("inspect", url, "--json"))]
    values.append(json.loads(tracking.ok("inspect", "-", "--json", stdin=url.encode())))
    values += [json.loads(line) for line in tracking.ok("events", "tail", "--json").splitlines()]
    values += tracking.events()
    tracking.ok("events", "export", "-o", "events.jsonl")
    values.append(json.loads((tracking.folder / "events.jsonl").read_text()))
    values += json.loads(tracking.ok("stats", "--by", "recipient", "--json"))
    assert [value["recipient"] for value in values] == [ODD] * 6
    letter = f'<a href="https://example.com/?{ODD}">x</a>'.encode()
    report = tracking.ok(*SEND, "--report", "-", "-o", "out.html", stdin=letter)
    assert json.loads(report)["destination"] == f"https://example.com/?{ODD}"


@pytest.mark.sqlite
def test_exported_settings_are_those_applied(tracking: Program) -> None:
    """To the octet: ends of lines, characters that cannot be shown; and they can be edited so."""
    text = (
        tracking.ok("settings", "export").replace("\n", "\r\n")
        + "# Grüße\u00a0\u00ad\U0001fae8\r\n"
    )
    tracking.ok("settings", "apply", "-", stdin=text.encode())
    for environment in ({}, {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}):
        assert tracking("settings", "export", **environment).stdout == text.encode()
    tracking.ok("settings", "apply", "-", stdin=text.encode())
    done = tracking("settings", "edit", EDITOR=editor(tracking, ""))
    assert b"cancelled" in done.stderr


@pytest.mark.sqlite
@pytest.mark.parametrize("text", [b"", b" \r\n\n", b"# only a comment\r\n  # another\n"])
def test_empty_input_is_no_settings(tracking: Program, text: bytes) -> None:
    """`ssh host sestrack settings export | sestrack settings apply -` takes nothing away."""
    before = tracking.ok("settings", "export")
    done = tracking("settings", "apply", "-", stdin=text)
    assert (done.returncode, b"sestrack settings disable" in done.stderr) == (65, True)
    assert tracking.ok("settings", "export") == before


def shell(program: Program, line: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash, in which $S is the program."""
    return subprocess.run(
        ["bash", "-c", line], input=stdin, capture_output=True, check=False, cwd=program.folder,
        env=program.environment | {"S": f"{sys.executable} -m sestrack"}, timeout=60,
    )  # fmt: skip


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "command",
    [
        "rewrite --sender news.example.com", "rewrite --jsonl --sender news.example.com",
        "settings apply -", "check -", "inspect -",
        "recipients - --sender news.example.com --message m",
    ],
)  # fmt: skip
def test_standard_input_that_is_closed(tracking: Program, command: str) -> None:
    """`<&-` is not an empty input, and no bug of ours."""
    done = shell(tracking, f"$S {command} <&-")
    assert (done.returncode, done.stdout) == (74, b"")
    assert b"standard input is closed" in done.stderr


@pytest.mark.sqlite
def test_standard_output_and_error_that_are_closed(tracking: Program) -> None:
    """What has a product fails; what only talks goes on; no file gets the number of a stream."""
    for line in ("sender list", "settings export", "stats --json", "--help", "--version"):
        done = shell(tracking, f"$S {line} >&-")
        assert done.returncode == 74, (line, done.stderr)
        assert b"standard output failed" in done.stderr
    assert shell(tracking, "$S keys rotate >&-").returncode == 0
    done = shell(tracking, f"$S {' '.join(FULL)} 2>&-", LETTER)
    assert (done.returncode, done.stdout.count(b"https://trace.example.com/")) == (0, 2)
    done = shell(tracking, "$S keys rotate 2>&- >&- <&-; $S keys export sestrack.keys 2>&- >&- <&-")
    assert done.returncode == 0
    assert len(json.loads((tracking.folder / "sestrack.keys").read_text())["keys"]) == 3


@pytest.mark.sqlite
def test_serving_with_standard_error_closed(tracking: Program) -> None:
    """A server whose talk nobody wants serves."""
    done = shell(tracking, "timeout 3 $S serve --bind 127.0.0.1:0 2>&-")
    assert done.returncode == 124


@pytest.mark.sqlite
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_on_a_full_disk(program: Program, unbuffered: str) -> None:
    """Help and the version are products too."""
    for words in ("--help", "--version", "stats --help"):
        done = shell(program, f"PYTHONUNBUFFERED={unbuffered} $S {words} > /dev/full")
        assert (done.returncode, b"No space left" in done.stderr) == (74, True), words


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("stats", -signal.SIGPIPE), ("events tail -f", -signal.SIGPIPE),
        ("events export", -signal.SIGPIPE), ("inspect -", -signal.SIGPIPE),
        ("stats --json", -signal.SIGPIPE), ("--help", -signal.SIGPIPE),
        ("sender show news.example.com", -signal.SIGPIPE),
        ("domain accelerate trace --for nginx", -signal.SIGPIPE),
        (" ".join(FULL), 74), ("sender add shop.example.com", 74),
    ],
)  # fmt: skip
def test_a_reader_that_has_gone(
    tracking: Program, serve: Callable[..., Server], command: str, status: int
) -> None:
    """A report ends quietly, as with `| head`; a mail that nobody took is a failure."""
    mail = tracking.ok(*FULL, stdin=LETTER)
    url = mail.split('"')[1]
    if command.startswith("events"):
        server = serve()
        server.ask(url.removeprefix("https://trace.example.com"))
        server.stop()
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "sestrack", *command.split()], stdout=write, check=False,
        stderr=subprocess.PIPE, env=tracking.environment, timeout=60,
        input=url.encode() if command == "inspect -" else LETTER,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == status
    assert (done.stderr == b"") == (status < 0), done.stderr


INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv[1:] = {words!r}
{before}
from sestrack.cli import main
main()
"""


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("typer", ["stats"]), ("sestrack.root", ["stats"]), ("sestrack.commands.stats", ["stats"]),
        ("sestrack.tracker.reports", ["stats"]), ("sestrack.commands.rewrite", list(FULL)),
    ],
)  # fmt: skip
def test_an_interrupt_at_any_time_is_quiet(
    tracking: Program, module: str, words: list[str]
) -> None:
    """Ctrl-C while modules are still imported: no traceback."""
    # however the tests were started: in the background a shell has it ignored
    told = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = INTERRUPTED.format(module=module, words=words, before=told)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, input=LETTER,
        env=tracking.environment, timeout=60,
    )  # fmt: skip
    assert done.returncode in {130, -signal.SIGINT}, done.stderr
    assert done.stderr.strip() == b""


@pytest.mark.sqlite
def test_an_interrupt_that_is_ignored_stays_so(tracking: Program) -> None:
    """What `nohup`, or a script's `&`, has us ignore, we ignore."""
    code = INTERRUPTED.format(module="typer", words=["keys", "list"], before="")
    line = f"trap '' INT; exec {sys.executable} -c {shlex.quote(code)}"
    assert shell(tracking, line).returncode == 0


# -- times and numbers -----------------------------------------------------------------------------


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("stats --since 99999999d", 2), ("stats --until 999999999999", 2),
        ("stats --since 99999999999999999999d", 2), (f"stats --since {'9' * 5000}", 2),
        ("stats --since ²d", 2), ("stats --since 0001-01-01 --until 9999-12-31", 0),
        ("stats --since 0001-01-01T00:00:00+23:00", 2), ("events export --until 999999999999", 2),
        ("events tail -n 99999999999999999999", 0), ("stats --limit 99999999999999999999", 0),
        ("domain verify trace --wait ²", 2), (f"domain verify trace --wait {'9' * 5000}d", 2),
    ],
)  # fmt: skip
def test_times_and_numbers_out_of_bounds(ready: Program, command: str, code: int) -> None:
    """Times are of the years 1 to 9999; whatever else is wrong is said, and no bug of ours."""
    done = ready(*command.split())
    assert done.returncode == code, done.stderr


# -- what takes something away ---------------------------------------------------------------------


@pytest.mark.sqlite
def test_forget_and_purge_take_no_more_than_was_meant(
    tracking: Program, serve: Callable[..., Server]
) -> None:
    """Nobody is no recipient, though many events have none; no day to come is purged before."""
    (path,) = tracking.paths("<p>x</p>", recipient="")
    server = serve()
    server.ask(path)
    server.stop()
    before = tracking.events()
    assert before[0]["agent"]
    for words in (("forget", "--recipient", ""), ("forget", "--recipient", " "), ("purge", "--before", "2099-01-01")):  # fmt: skip
        done = tracking("events", *words)
        assert (done.returncode, b"hint: sestrack " in done.stderr) == (2, True)
    tracking.ok("events", "purge", "--before", "0d")
    assert tracking.events() == before


@pytest.mark.sqlite
def test_hints_name_the_store_that_was_named(ready: Program) -> None:
    """Typed as it stands, a hint acts on the store that the command was about."""
    other = "my other.db"
    ready.ok("--store", other, "init", "--edge", "edge.example.net")
    ready.ok("--store", other, "backup", "a.bak")
    for option in (("--store", other), (f"--store={other}",)):
        for command in ("backup", "restore"):
            done = ready(*option, command, "a.bak")
            words = f"hint: sestrack --store 'my other.db' {command} --force a.bak".encode()
            assert words in done.stderr
    ready.ok("backup", "b.bak")
    assert b"hint: sestrack backup --force b.bak" in ready("backup", "b.bak").stderr


@pytest.mark.sqlite
@pytest.mark.parametrize("command", ["backup", "keys export", "events export -o"])
def test_a_folder_that_is_not_there(ready: Program, command: str) -> None:
    """A name that ends in / is no file's: the file of that name stays."""
    (ready.folder / "there").write_text("kept")
    for name, hint in (("there/", "ls -ld there"), ("other/", "mkdir -p other")):
        done = ready(*command.split(), name)
        assert (done.returncode, f"hint: {hint}\n".encode() in done.stderr) == (73, True)
    assert (ready.folder / "there").read_text() == "kept"
    assert not (ready.folder / "other").exists()


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "command", ["stats --message", "stats --sender", "events forget --recipient"]
)
def test_names_that_are_no_text(ready: Program, command: str) -> None:
    """Octets that are not UTF-8 can name nothing."""
    done = ready(*command.split(), os.fsdecode(b"a\xff"))
    assert (done.returncode, b"not valid UTF-8" in done.stderr) == (65, True)


def test_another_edge_is_said(program: Program) -> None:
    """An edge is changed while no trace domain points to it, and both are named; "" is none."""
    assert program("init", "--edge", "").returncode == 2
    program.ok("init", "--edge", "one.example.net")
    done = program("init", "--edge", "two.example.net")
    assert done.returncode == 0
    assert b"the edge was one.example.net, and is two.example.net now" in done.stderr
    assert b"the edge was" not in program("init", "--edge", "two.example.net").stderr
    program.ok("sender", "add", "news.example.com", "--assume-verified")
    program.ok("domain", "create", "trace")
    assert program("init", "--edge", "one.example.net").returncode == 1


@pytest.mark.sqlite
def test_keys_on_a_full_disk(tracking: Program) -> None:
    """No empty file is left, which would be "there already"; a whole one is its owner's alone."""
    done = shell(tracking, "ulimit -f 0; exec $S keys export sestrack.keys")
    assert done.returncode == 74, done.stderr
    assert not list(tracking.folder.glob("sestrack.keys*"))
    done = tracking("keys", "export", "sestrack.keys")
    assert b"1 key is in sestrack.keys" in done.stderr
    assert stat.S_IMODE((tracking.folder / "sestrack.keys").stat().st_mode) == 0o600
    done = tracking("keys", "export", "sestrack.keys")
    assert (done.returncode, b"is there already" in done.stderr) == (73, True)


@pytest.mark.sqlite
def test_a_file_that_may_not_be_read(tracking: Program) -> None:
    """It is 77 for all who read files; the hint has the name as it must be typed."""
    if os.geteuid() == 0:
        lock = "chmod 0 'my file'; chown 1 'my file'; chmod 755 ."
        prefix = "setpriv --reuid 12345 --clear-groups"
        if subprocess.run([*prefix.split(), sys.executable, "-c", ""], check=False).returncode:
            pytest.skip("nobody else can run this Python")
    else:
        lock, prefix = "chmod 0 'my file'", ""
    (tracking.folder / "my file").write_text("x")
    for command in ("settings apply", "serve --keys", "check"):
        done = shell(
            tracking,
            f"{lock}; cd /; export PYTHONPATH={':'.join(sys.path)}; "
            f'{prefix} $S {command} "$OLDPWD/my file"',
        )
        assert done.returncode == 77, done.stderr
        assert b"hint: ls -ld '" in done.stderr


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_an_entry_that_says_no_alone_begins_anew(tracking: Program) -> None:
    """Switched off and on again, with one choice of its own, it has the account's others."""
    tracking.ok("settings", "enable", "--dimension", "account+domain")
    tracking.ok("settings", "disable", "--sender", "news.example.com")
    tracking.ok("settings", "enable", "--sender", "news.example.com", "--no-open")
    shown = tracking.ok("settings", "show", "--sender", "news.example.com")
    assert "click\tyes\nopen\tno\n" in shown
    assert "trace domain\ttrace.example.com" in shown


@pytest.mark.sqlite
def test_a_prefix_that_is_usually_taken(ready: Program) -> None:
    """It is made, and said."""
    assert b"often has records already" in ready("domain", "create", "www").stderr


@pytest.mark.sqlite
def test_a_table_is_found_however_it_is_spelt(tracking: Program) -> None:
    """In capitals, or in one line with others; an address is taken for its domain."""
    text = tracking.ok("settings", "export").replace('"account"', '"account+domain"')
    own = '[sender."News.Example.com"]\ndomain = "trace.example.com"\nclick = true\n'
    tracking.ok("settings", "apply", "-", stdin=(text + own).encode())
    tracking.ok("settings", "disable", "--sender", "ada@news.example.com")
    assert f"{own}enabled = false\n" in tracking.ok("settings", "export")
    line = 'sender = {"News.Example.com" = {domain = "trace.example.com", click = true}}\n'
    tracking.ok("settings", "apply", "-", stdin=(line + text).encode())
    tracking.ok(
        "settings", "enable", "--sender", "ada@shop.example.com", "--domain", "trace", "--open"
    )
    shown = json.loads(tracking.ok("settings", "show", "--json"))["entries"]
    assert shown["shop.example.com"]["domain"] == "trace.example.com"
    assert shown["news.example.com"]["click"]


@pytest.mark.sqlite
def test_the_hints_to_an_entry_of_its_own_lead_there(tracking: Program) -> None:
    """What is typed as it stands takes away what was in the way."""
    dimension = "sestrack settings enable --dimension account+domain"
    done = tracking("settings", "disable", "--sender", "news.example.com")
    hint = f"hint: {dimension} && sestrack settings disable --sender news.example.com\n"
    assert done.stderr.decode().endswith(hint)
    done = tracking("settings", "enable", "--sender", "news.example.com", "--no-open")
    assert done.stderr.decode().endswith(f"to use it: {dimension}\n")
    tracking.ok(*dimension.split()[1:])
    tracking.ok("settings", "disable", "--sender", "news.example.com")


@pytest.mark.sqlite
def test_a_new_entry_begins_with_what_held(tracking: Program) -> None:
    """The account's choices held so far; where they hold as they are, no entry is written."""
    tracking.ok("sender", "add", "shop.example.com", "--assume-verified")
    tracking.ok("settings", "enable", "--dimension", "account+domain")
    before = tracking.ok("settings", "export")
    done = tracking("settings", "enable", "--sender", "shop.example.com")
    assert b"shop.example.com has no entry of its own; the account's settings" in done.stderr
    assert tracking.ok("settings", "export") == before
    done = tracking("settings", "enable", "--sender", "newz.example.com", "--no-open")
    assert (
        b"newz.example.com has an entry, and is not a sender domain; did you mean news"
        in done.stderr
    )
    assert (
        '[sender."newz.example.com"]\ndomain = "trace.example.com"\nclick = true\nopen = false\n'
        in tracking.ok("settings", "export")
    )
    tracking.ok("settings", "enable", "--sender", "shop.example.com", "--dimension", "domain")
    shown = json.loads(tracking.ok("settings", "show", "--json"))["entries"]
    assert (shown["shop.example.com"]["click"], shown["shop.example.com"]["open"]) == (True, True)
    done = tracking("settings", "enable", "--sender", "other.example.net", "--click")
    hint = "sestrack settings enable --sender other.example.net --dimension domain"
    hint += " --domain trace.example.com --click"
    assert done.stderr.decode().splitlines()[-1] == f"hint: {hint}"
    tracking.ok(*hint.split()[1:])
    done = tracking("settings", "show", "--sender", "nws.example.com")
    assert b"did you mean news.example.com? sestrack settings show --sender news" in done.stderr


@pytest.mark.sqlite
def test_the_hint_of_enable_says_all_that_is_missing(tracking: Program) -> None:
    """With what was typed already; one command, and it is saved."""
    for line, missing in (
        ("", "--dimension account --domain trace.example.com --click --open  # or --dimension account+domain, domain"),
        ("--dimension account+domain --open", "--dimension account+domain --domain trace.example.com --open"),
        ("--dimension account --domain trace", "--dimension account --domain trace.example.com --click --open"),
        ("--sender shop.example.com --open", "--sender shop.example.com --domain trace.example.com --open"),
    ):  # fmt: skip
        tracking.ok("settings", "apply", "-", stdin=b"enabled = false\n")
        done = tracking("settings", "enable", *line.split())
        hint = done.stderr.decode().splitlines()[-1]
        assert hint == f"hint: sestrack settings enable {missing}"
        tracking.ok(*hint.partition("  #")[0].split()[2:])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", '# The tracking settings.  A change takes effect when it is saved.\n\nenabled = true\ndimension = "domain"   # account | account+domain | domain\n'),
        ("# mine\n# all\n\n[account]\n", '# mine\n# all\n\nenabled = true\ndimension = "domain"\n\n[account]\n'),
        ("# mine\nenabled = false # off\n", '# mine\nenabled = true # off\ndimension = "domain"\n'),
        ("# mine", '# mine\nenabled = true\ndimension = "domain"\n'),
        ("[account]\n# dimension = 1\n", 'enabled = true\ndimension = "domain"\n\n[account]\n# dimension = 1\n'),
        ("# mine\r\n\r\n[account]\r\n", '# mine\r\n\r\nenabled = true\r\ndimension = "domain"\r\n\r\n[account]\r\n'),
        ("# a\u2028# dimension = 1\nenabled = false\n", '# a\u2028# dimension = 1\nenabled = true\ndimension = "domain"\n'),
    ],
)  # fmt: skip
def test_where_a_new_key_stands(text: str, wanted: str) -> None:
    """Below the administrator's own first words, or in the place of its commented example."""
    new = enable(text, dimension=Dimension.DOMAIN, choices={}).text
    assert new.startswith(wanted)
    assert parse(new).settings.enabled


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("code", "status", "kept"),
    [
        pytest.param("file.unlink()", 0, False, id="the file is gone"),
        pytest.param("sys.exit(3)", 74, False, id="a failure, nothing typed"),
        pytest.param("file.write_text('x'); sys.exit(3)", 74, True, id="a failure"),
        pytest.param("file.write_text(file.read_text() + 'x\\n')", 65, True, id="ever more wrong"),
        pytest.param("if 'wrong' not in file.read_text(): file.write_text('wrong')", 65, True, id="left wrong"),
        pytest.param("import os, signal; os.kill(os.getppid(), signal.SIGINT)", 0, False, id="Ctrl-C in the editor"),
        pytest.param(None, 66, False, id="no such editor"),
        pytest.param("", 2, False, id="an open quotation mark"),
    ],
)  # fmt: skip
def test_an_edit_that_fails(
    tracking: Program, code: str | None, status: int, *, kept: bool
) -> None:
    """It ends, says where the text is, and leaves none that nobody wrote."""
    before = tracking.ok("settings", "export")
    command = "/no/such" if code is None else editor(tracking, code) + (" 'a" if not code else "")
    drafts = tracking.folder / "drafts"
    drafts.mkdir()
    done = tracking("settings", "edit", EDITOR=command, TMPDIR=str(drafts))
    assert done.returncode == status, done.stderr
    left = list(drafts.iterdir())
    assert bool(left) == kept
    assert [str(path) in done.stderr.decode() for path in left] == [True] * kept
    assert tracking.ok("settings", "export") == before


# -- tracking URLs and lists -------------------------------------------------------------------


@pytest.mark.sqlite
def test_urls_to_inspect(tracking: Program) -> None:
    """No line is bad input, no word a wrong command line; one that was altered is named."""
    assert tracking("inspect", "").returncode == 2
    assert tracking("inspect", "-", stdin=b"\n\n").returncode == 65
    url = tracking.ok(*FULL, stdin=LETTER).split('"')[1]
    done = tracking("inspect", "-", stdin=f"bad\n\n{url}\n{url}\n".encode())
    assert done.returncode == 65
    assert b"error: line 1: 'bad' is not a tracking URL" in done.stderr
    first, second = done.stdout.decode().split("\n\n")
    assert first == second.rstrip("\n")
    altered = url[:-3] + ("A" if url[-3] != "A" else "B") + url[-2:]
    done = tracking("inspect", "-", stdin=f"{url}\n{altered}\n".encode())
    assert done.returncode == 65
    assert altered[:80].encode() in done.stderr
