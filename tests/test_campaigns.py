"""Campaigns: a template, a list, and what comes of an interruption."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import awake
import pytest
from conftest import Program
from postgresql import until

from sestrack.mail.recipients import open_list
from sestrack.store import count_copies

AT = "2026-06-01T08:00:00Z"
PAGE = '<p>Grüße "<a href="https://example.com/?a=1&amp;b=2">x</a>\t</p></body>'
SEND = ("rewrite", "letter.html", "--sender", "news.example.com", "--message", "june")


@pytest.fixture
def campaign(tracking: Program) -> Program:
    """Give a template and a list of 3,000."""
    (tracking.folder / "letter.html").write_text(PAGE, encoding="utf-8")
    rows = [f'"Ada, {number}";ada{number}@example.org\n' for number in range(3000)]
    (tracking.folder / "list.csv").write_text("name;email\n" + "".join(rows))
    return tracking


def copies(program: Program) -> dict[str, int]:
    """Return the copies that were counted."""
    with program.connection() as store:
        return dict(store.execute("SELECT message, number FROM copies").fetchall())


def test_json_lines_are_what_a_pipe_gives(campaign: Program) -> None:
    """Each copy has the bytes that a single `rewrite` makes; they are counted."""
    out = campaign.ok(*SEND, "--recipients", "list.csv", "--at", AT)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["number"] for line in lines] == list(range(1, 3001))
    assert lines[1234]["recipient"] == "ada1234@example.org"
    one = campaign.ok(*SEND, "--recipient", "ada1234@example.org", "--at", AT)
    assert lines[1234]["html"] == one
    assert copies(campaign) == {"june": 3000}
    line = campaign.ok("stats", "--json")
    assert (
        json.loads(line)[0] | {"message": "june", "copies": 3000, "open_rate": 0.0}
        == json.loads(line)[0]
    )


def test_jobs_and_files_are_the_same(campaign: Program) -> None:
    """Two processes, and a folder, give the same bytes."""
    plan = (*SEND, "--recipients", "list.csv", "--at", AT)
    campaign.ok(*plan, "-o", "one.jsonl")
    campaign.ok(*plan, "-o", "two.jsonl", "--jobs", "2")
    assert (campaign.folder / "one.jsonl").read_bytes() == (
        campaign.folder / "two.jsonl"
    ).read_bytes()
    campaign.ok(*plan, "-o", "copies/", "--jobs", "2")
    folder = campaign.folder / "copies"
    index = (folder / "index.csv").read_text().splitlines()
    lines = (campaign.folder / "one.jsonl").read_text().splitlines()
    assert len(index) == 3000
    for entry, line in zip(index, lines, strict=True):
        name, recipient = entry.split(",")
        copy = json.loads(line)
        assert recipient == copy["recipient"]
        assert (folder / name).read_text(encoding="utf-8") == copy["html"]
    assert {path.name for path in campaign.folder.iterdir()} >= {"one.jsonl", "copies"}
    assert not list(campaign.folder.glob("*.partial*"))


def test_the_merge_gives_the_same_urls(campaign: Program) -> None:
    """A template with the merge field and the column make what a campaign makes."""
    merged = campaign.ok(*SEND, "--recipient-field", "{{sestrack}}")
    column = campaign.ok(
        "recipients", "list.csv", "--sender", "news.example.com", "--message", "june", "--at", AT
    ).splitlines()
    assert column[0] == "name;email;sestrack"
    assert column[8].startswith('"Ada, 7";ada7@example.org;Q')
    token = column[8].rpartition(";")[2]
    out = campaign.ok(*SEND, "--recipients", "list.csv", "--at", AT)
    assert json.loads(out.splitlines()[7])["html"] == merged.replace("{{sestrack}}", token)
    assert copies(campaign) == {"june": 3000}


def size_of(path: Path) -> int:
    """Return how large a file is; 0 if it is not there, or not any more."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("form", ["out.jsonl", "out/"])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_campaign_goes_on(campaign: Program, form: str, jobs: str) -> None:
    """Killed at any moment and gone on with: the bytes, and the count, of one go."""
    many = 20_000 if form == "out.jsonl" else 4_000  # files take longer
    rows = "".join(f"ada{number}@example.org\n" for number in range(many))
    (campaign.folder / "long.csv").write_text("recipient\n" + rows)
    plan = (*SEND, "--recipients", "long.csv", "--jobs", jobs, "-o", form)
    kills = 0
    for _ in range(20):
        child = subprocess.Popen(
            [sys.executable, "-m", "sestrack", *plan, *(["--resume"] if kills else [])],
            env=campaign.environment, cwd=campaign.folder, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        result = campaign.folder / f"{form.rstrip('/')}.partial"
        growing = result / "index.csv" if form == "out/" else result
        before = size_of(growing)
        while child.poll() is None:
            time.sleep(0.01)
            if size_of(growing) > before and kills < 3:
                os.killpg(child.pid, signal.SIGKILL)
                kills += 1
                break
        child.communicate()
        if child.returncode == 0:
            break
    assert child.returncode == 0
    assert kills
    assert copies(campaign) == {"june": many}
    if form == "out.jsonl":
        lines = (campaign.folder / form).read_text().splitlines()
        assert [json.loads(line)["number"] for line in lines] == list(range(1, many + 1))
        htmls = {json.loads(line)["html"] for line in lines}
        first = json.loads(lines[0])["html"]
        facts = json.loads(
            campaign.ok("inspect", first.partition('href="')[2].partition('"')[0], "--json")
        )
        whole = campaign.ok(*SEND, "--recipients", "long.csv", "--at", facts["minted_at"])
        assert whole.splitlines() == lines
        assert len(htmls) == many
    else:
        assert len((campaign.folder / "out" / "index.csv").read_text().splitlines()) == many
        assert sum(1 for _ in (campaign.folder / "out").glob("*/*.html")) == many
    assert not list(campaign.folder.glob("*.partial*"))


@pytest.mark.sqlite
@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_campaign_is_made_by_one(campaign: Program, jobs: str) -> None:
    """Another one keeps out while it is made; when it is killed, its processes end with it."""
    rows = "".join(f"ada{number}@example.org\n" for number in range(60_000))
    (campaign.folder / "long.csv").write_text("recipient\n" + rows)
    plan = (*SEND, "--recipients", "long.csv", "--jobs", jobs, "-o", "out.jsonl")
    partial = campaign.folder / "out.jsonl.partial"
    with subprocess.Popen(
        [sys.executable, "-m", "sestrack", *plan], env=campaign.environment, cwd=campaign.folder,
        stderr=subprocess.PIPE,
    ) as first:  # fmt: skip
        assert until(lambda: size_of(partial) > 0)
        os.kill(first.pid, signal.SIGSTOP)
        for again in ((), ("--resume",)):
            done = campaign(*plan, *again)
            assert done.returncode in ({1} if not again else {75}), done.stderr
        os.kill(first.pid, signal.SIGKILL)
    assert until(lambda: campaign(*plan, "--resume").returncode == 0, 20)
    lines = (campaign.folder / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(1, 60_001))
    assert copies(campaign) == {"june": 60_000}


def test_what_would_not_be_the_same_is_refused(campaign: Program) -> None:
    """An unfinished campaign is neither overwritten nor gone on with as another."""
    plan = (*SEND, "--recipients", "list.csv", "-o", "out.jsonl")
    campaign.ok(*plan)
    (campaign.folder / "out.jsonl").rename(campaign.folder / "out.jsonl.partial")
    facts = {"id": "x", "minted": 1780300800, "sender": "news.example.com", "message": "june", "trace_domain": "trace.example.com", "key": 1, "template": "other", "recipients": str(campaign.folder / "list.csv"), "column": ""}  # fmt: skip
    (campaign.folder / "out.jsonl.partial.json").write_text(json.dumps(facts))
    done = campaign(*plan)
    assert done.returncode == 1
    assert b"was interrupted" in done.stderr
    done = campaign(*plan, "--resume")
    assert done.returncode == 1
    assert b"the template, --pixel or the settings were changed" in done.stderr
    (campaign.folder / "out.jsonl.partial.json").unlink()
    done = campaign(*plan, "--resume")
    assert done.returncode == 1
    assert b"no journal" in done.stderr
    (campaign.folder / "out.jsonl.partial.json").write_text("{")
    assert campaign(*plan, "--resume").returncode == 65


def test_going_on_with_another_list_is_refused(campaign: Program) -> None:
    """One more at the top: somebody would be left out, and somebody mailed twice."""
    (campaign.folder / "few.csv").write_text("recipient\na@example.org\nb@example.org\n")
    plan = (*SEND, "--recipients", "few.csv", "-o", "out.jsonl")
    campaign.ok(*plan)
    done = campaign(*plan, "--resume")
    assert done.returncode == 1
    assert b"out.jsonl is finished" in done.stderr
    assert copies(campaign) == {"june": 2}
    interrupt(campaign, plan)
    (campaign.folder / "few.csv").write_text("recipient\nnew@example.org\na@example.org\n")
    done = campaign(*plan, "--resume")
    assert done.returncode == 1
    assert b"the list was changed" in done.stderr


def test_a_campaign_that_cannot_go_on_says_what_would(campaign: Program) -> None:
    """No hint destroys what was made while something milder lets it go on."""
    (campaign.folder / "few.csv").write_text("recipient\na@example.org\nb@example.org\n")
    plan = (*SEND, "--recipients", "few.csv", "-o", "out.jsonl")
    interrupt(campaign, plan)
    other = campaign(*plan[:5], "july", *plan[6:], "--resume")
    assert other.returncode == 1
    assert b"had another message: june, and now it is july" in other.stderr
    assert b"--message june" in other.stderr
    campaign.ok("settings", "disable")
    untracked = campaign(*plan, "--resume")
    assert untracked.returncode == 1
    assert b"now it is not: tracking is not enabled" in untracked.stderr
    assert b"settings show --sender news.example.com" in untracked.stderr
    campaign.ok("settings", "enable")
    campaign.ok(*plan, "--resume")
    assert copies(campaign) == {"june": 2}


def test_the_same_campaign_again(campaign: Program) -> None:
    """Its copies are not written over, and that they count twice is said."""
    (campaign.folder / "few.csv").write_text("recipient\na@example.org\nb@example.org\n")
    plan = (*SEND, "--recipients", "few.csv", "-o", "out.jsonl")
    campaign.ok(*plan)
    before = (campaign.folder / "out.jsonl").read_bytes()
    again = campaign(*plan)
    assert again.returncode == 1
    assert b"out.jsonl is there already" in again.stderr
    assert b"--output out-2.jsonl" in again.stderr or b"-o out-2.jsonl" in again.stderr
    assert (campaign.folder / "out.jsonl").read_bytes() == before
    assert copies(campaign) == {"june": 2}
    for more in (("-o", "out-2.jsonl"), ()):
        done = campaign(*SEND, "--recipients", "few.csv", *more)
        assert done.returncode == 0
        assert b"copies now, with those of before" in done.stderr
    assert copies(campaign) == {"june": 6}


def test_a_template_that_was_rewritten_before(campaign: Program) -> None:
    """All readers would be counted as the one that it was tried with."""
    letter = (campaign.folder / "letter.html").read_bytes()
    trial = ("--recipient", "trial@example.org", "--in-place")
    campaign.ok(*SEND, *trial)
    tried = (campaign.folder / "letter.html").read_bytes()
    assert tried != letter
    for many in (("--recipients", "list.csv"), ("--recipient-field", "{{x}}")):
        done = campaign(*SEND, *many)
        assert done.returncode == 65
        assert b"rewritten before, for trial@example.org (message june)" in done.stderr
    assert copies(campaign) == {}
    assert campaign(*SEND, *trial).stderr == b""
    other = campaign(*SEND, "--recipient", "ada@example.org")
    assert (other.returncode, other.stdout) == (0, tried)
    assert b"unchanged: it is a copy made for trial@example.org already" in other.stderr
    line = json.dumps({"html": tried.decode(), "recipient": "ada@example.org"}).encode() + b"\n"
    filtered = campaign("rewrite", "--sender", "news.example.com", "--jsonl", stdin=line)
    assert b"line 1: unchanged: it is a copy made for trial@example.org" in filtered.stderr
    said = campaign("check", "letter.html", "--sender", "news.example.com")
    assert b"1 link is of a copy that was made before" in said.stdout
    more = tried.replace(b"</body>", b'<a href="https://example.com/new">new</a></body>')
    mixed = campaign(*SEND[:1], *SEND[2:], "--count", "--recipient", "ada@example.org", stdin=more)
    assert b"only what is new was rewritten: it is a copy made for trial" in mixed.stderr
    assert copies(campaign) == {}
    shouted = tried.replace(b"https://trace", b"HTTPS://trace")
    for form in (tried.decode().encode("utf-16"), shouted):
        (campaign.folder / "letter.html").write_bytes(form)
        assert campaign(*SEND, "--recipients", "list.csv").returncode == 65


@pytest.mark.parametrize("output", ["out.jsonl", "out/"])
def test_a_campaign_killed_when_all_is_done(campaign: Program, output: str) -> None:
    """Only its journal is left: it is finished, and nothing is made again."""
    plan = (*SEND, "--recipients", "list.csv", "-o", output)
    campaign.ok(*plan)
    before = copies(campaign)
    journal = (
        campaign.folder / "out.jsonl.partial.json"
        if output == "out.jsonl"
        else campaign.folder / "out.partial.json"
    )
    facts = {"id": "x", "minted": 1, "sender": "news.example.com", "message": "june", "key": 1}
    for more, words in (((), b"out"), (("--resume",), b"is finished: there is nothing")):
        journal.write_text(json.dumps(facts))
        done = campaign(*plan, *more)
        assert (done.returncode, words in done.stderr, b"--resume" in done.stderr) == (
            1,
            True,
            False,
        )
        assert not journal.exists()
    assert copies(campaign) == before


def test_only_copies_that_go_out_are_counted(campaign: Program) -> None:
    """Not what is only shown, cannot be written, or was a copy before."""
    one = (*SEND[:1], *SEND[2:], "--recipient", "ada@example.org", "--count")
    letter = (campaign.folder / "letter.html").read_bytes()
    for words, code in (
        (("letter.html", "--check"), 1),
        (("letter.html", "--diff"), 0),
        (("letter.html", "-o", "nofolder/x.html"), 73),
    ):
        assert campaign(*one, *words).returncode == code, words
    assert copies(campaign) == {}
    for _ in range(3):
        campaign.ok(*one, "letter.html", "--in-place")
    assert copies(campaign) == {"june": 1}
    campaign.ok(*one, stdin=letter)
    line = json.dumps({"html": letter.decode()}).encode() + b"\n"
    filtered = campaign(*SEND[:1], *SEND[2:], "--jsonl", "--count", stdin=line)
    assert copies(campaign) == {"june": 3}
    campaign(*SEND[:1], *SEND[2:], "--jsonl", "--count", stdin=filtered.stdout)
    more = '<a href="https://example.com/more">more</a></body>'
    file = campaign.folder / "letter.html"
    file.write_text(file.read_text().replace("</body>", more))
    assert b"trace.example.com" in campaign(*one, "letter.html", "--diff").stdout
    campaign.ok(*one, "letter.html", "--in-place")
    full = [sys.executable, "-m", "sestrack", *SEND[:1], *SEND[2:], "--jsonl", "--count"]
    with open("/dev/full", "wb") as nowhere:
        done = subprocess.run(
            full, input=line, stdout=nowhere, stderr=subprocess.PIPE, check=False,
            env=campaign.environment,
        )  # fmt: skip
    assert done.returncode == 74
    assert copies(campaign) == {"june": 3}
    # the next letter, with a link of this one
    old = file.read_text().partition('href="')[2].partition('"')[0]
    letter = f'<a href="{old}">the last one</a><a href="https://example.com/">new</a>'.encode()
    july = (*SEND[:1], "--sender", "news.example.com", "--message", "july", "--count")
    campaign.ok(*july, "--recipient", "ada@example.org", stdin=letter)
    campaign.ok(*july, "--jsonl", stdin=json.dumps({"html": letter.decode()}).encode() + b"\n")
    assert copies(campaign) == {"june": 3, "july": 2}


def test_doubts_about_a_list_are_said(campaign: Program) -> None:
    """Names twice, several addresses in one, fields that nothing fills in, a list as template."""
    (campaign.folder / "odd.csv").write_text(
        'recipient\na@example.org\n"b@example.org,c@example.org"\na@example.org\n'
    )
    (campaign.folder / "named.html").write_text(f"<p>Dear {{{{name}}}},</p>{PAGE}")
    done = campaign(*SEND[:1], "named.html", *SEND[2:], "--recipients", "odd.csv")
    assert len(done.stdout.splitlines()) == 3
    said = done.stderr.decode()
    assert "recipient 3, a@example.org: stands in the list before" in said
    assert "recipient 2, b@example.org,c@example.org: is taken as it stands" in said
    assert "the copies have {{name}} as it stands" in said
    assert b"{{name}}" in campaign("check", "named.html").stdout
    swapped = campaign("rewrite", "list.csv", *SEND[2:], "--recipients", "letter.html")
    assert b"hint: sestrack rewrite letter.html --sender news.example.com" in swapped.stderr
    assert b"--recipients list.csv --message june\n" in swapped.stderr
    (campaign.folder / "ids.csv").write_text("name,town\nAda,London\n")
    assert (
        b"recipient 1, Ada: is no address, nor is any other"
        in campaign(*SEND, "--recipients", "ids.csv").stderr
    )
    (campaign.folder / "ids.csv").write_text("recipient,town\n4711,London\n")
    assert b"no address" not in campaign(*SEND, "--recipients", "ids.csv").stderr
    one = campaign(*SEND, "--recipient", "list.csv")
    assert one.returncode == 0
    assert b"was --recipients list.csv meant?" in one.stderr


def interrupt(campaign: Program, plan: tuple[str, ...]) -> None:
    """Begin it anew, and end before it is counted, as a kill would."""
    code = (
        "import sestrack.commands.rewrite_campaign as c, sys, os\n"
        "def die(*a): os._exit(9)\nc.count_copies = die\n"
        "from sestrack.cli import main\nsys.argv[1:] = sys.argv[1:]\nmain()"
    )
    command = [sys.executable, "-c", code, *plan]
    (campaign.folder / "out.jsonl").unlink(missing_ok=True)
    done = subprocess.run(command, env=campaign.environment, cwd=campaign.folder, check=False)
    assert done.returncode == 9


@pytest.mark.parametrize("charset", ["utf-16", "hex"])
@pytest.mark.sqlite
def test_a_meta_that_cannot_be_true(campaign: Program, charset: str) -> None:
    """What .NET writes into UTF-8: it is read as UTF-8."""
    (campaign.folder / "letter.html").write_text(
        f"<meta charset={charset}>{PAGE}", encoding="utf-8"
    )
    campaign.ok(*SEND, "--recipients", "list.csv", "-o", "out.jsonl")
    line = (campaign.folder / "out.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(line)["html"].startswith(f"<meta charset={charset}><p>Grüße ")


@pytest.mark.sqlite
def test_utf_16_of_an_untracked_sender(campaign: Program) -> None:
    """It goes out as it came, as it does when the sender is tracked."""
    campaign.ok("settings", "disable")
    data = PAGE.encode("utf-16")
    (campaign.folder / "letter.html").write_bytes(data)
    done = campaign(*SEND)
    assert (done.returncode, done.stdout) == (0, data)
    campaign.ok(*SEND, "--recipients", "list.csv", "-o", "out.jsonl")
    line = (campaign.folder / "out.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(line)["html"] == PAGE


def test_a_campaign_goes_on_under_its_key(campaign: Program) -> None:
    """Rotating between interruption and going on changes no copy."""
    plan = (*SEND, "--recipients", "list.csv", "-o", "out.jsonl")
    campaign.ok(*plan, "--at", AT)
    whole = (campaign.folder / "out.jsonl").read_bytes()
    (campaign.folder / "out.jsonl").unlink()
    # as a kill would leave it
    code = (
        "import sestrack.commands.rewrite_campaign as c, sys, os\n"
        "def die(*a): os._exit(9)\nc.count_copies = die\n"
        f"sys.argv = ['sestrack', *{list(plan)!r}, '--at', {AT!r}]\n"
        "from sestrack.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=campaign.environment, cwd=campaign.folder, check=False
    )
    assert done.returncode == 9
    campaign.ok("keys", "rotate")
    partial = campaign.folder / "out.jsonl.partial"
    partial.write_bytes(partial.read_bytes()[: len(whole) // 2])
    campaign.ok(*plan, "--resume")
    assert (campaign.folder / "out.jsonl").read_bytes() == whole
    assert copies(campaign) == {"june": 6000}


def test_counting_twice_counts_once(campaign: Program) -> None:
    """A campaign says how many there are by now."""
    for number in (10, 10, 25):
        count_copies(campaign.address, "news.example.com", {"may": number}, "id")
    assert copies(campaign)["may"] == 25


def test_a_single_pipe_counts_when_told(campaign: Program) -> None:
    """--count counts; a store that is busy does not hold the mail up."""
    for _ in range(3):
        campaign.ok(*SEND, "--count")
    assert copies(campaign) == {"june": 3}
    with campaign.blocked():
        begun = awake.seconds()
        done = campaign(*SEND, "--count")
        assert done.returncode == 0
        assert b"1 copy is not counted" in done.stderr
        assert awake.seconds() - begun < 4


@pytest.mark.parametrize(
    ("text", "column", "recipients"),
    [
        ("recipient,email\na,b\n", "", ["a"]),
        ("name,Email\na,b\n", "", ["b"]),
        ("id;name\r\n1;x\r\n\r\n2;y\r\n", "", ["1", "2"]),
        ("a@example.org\nb@example.org\n", "", ["a@example.org", "b@example.org"]),
        ("x,a@example.org\ny,b@example.org", "", ["a@example.org", "b@example.org"]),
        ('\ufeffname,email\n"two\nlines",b@example.org\n', "", ["b@example.org"]),
        ("a\tb\n1\t2\n", "b", ["2"]),
        ("\r\n\r\nemail\r\na\r\n", "", ["a"]),
        ("First Name,Email Address\nAda,a@example.org\n", "", ["a@example.org"]),
        ("Name;E-Mail\nAda;a@example.org\n", "", ["a@example.org"]),
        ("name,contact\nAda,a@example.org\n", "", ["a@example.org"]),
        ("sep=;\r\nName;E-Mail\r\nA, B;a@example.org\r\n", "", ["a@example.org"]),
        ("recipient,twitter @handle\n1,@ada\n", "", ["1"]),
        ("work,email\na@x.org,b@x.org\n", "", ["b@x.org"]),
        ("work,home\na@x.org,b@x.org\n", "home", ["b@x.org"]),
        ("mail,contact\nyes,a@x.org\n", "", ["a@x.org"]),
        ("name|email\nAda|a@x.org\n", "", ["a@x.org"]),
        ('recipient,"x;y;z"\n1,2\n', "", ["1"]),
        ("E-Mail;Name, Vorname\na@x.org;King, Ada\n", "", ["a@x.org"]),
        ("contact;Name, Vorname\na@x.org;King, Ada\n", "", ["a@x.org"]),
        ("id;Name, Vorname\n1;King, Ada\n", "id", ["1"]),
        ("a@x.org;King, Ada\n", "", ["a@x.org"]),
    ],
)
def test_lists(tmp_path: Path, text: str, column: str, recipients: list[str]) -> None:
    """Comma, semicolon, tab; a mark; with and without a heading; nothing of a line is lost."""
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8", newline="")
    with open_list(str(path), column, raw=True) as found:
        rows = list(found.rows)
    assert [row.recipient for row in rows] == recipients
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    joined = found.mark + found.heading + "".join(row.raw for row in rows)
    assert joined.replace("\r\n", "") == text.replace("\r\n", "")


def test_a_list_that_is_made_after_the_template(campaign: Program) -> None:
    """Its tokens open the template's links though tracking was switched off meanwhile."""
    html = b'<a href="https://example.com/">x</a>'
    done = campaign("rewrite", *SEND[2:4], "--recipient-field", "{{s}}", stdin=html)
    label = done.stderr.decode().split("--message ")[1].split()[0]
    campaign.ok("settings", "disable")
    done_list = campaign(
        "recipients", "-", *SEND[2:4], "--message", label, stdin=b"email\nada@example.org\n"
    )
    assert b"untracked: tracking is not enabled; the tokens are for templates" in done_list.stderr
    token = done_list.stdout.decode().splitlines()[1].split(",")[1]
    url = done.stdout.decode().replace("{{s}}", token).split('"')[1]
    facts = json.loads(campaign.ok("inspect", url, "--json"))
    assert (facts["recipient"], facts["destination"]) == ("ada@example.org", "https://example.com/")


@pytest.mark.sqlite
def test_a_file_where_a_folder_is_wanted(campaign: Program) -> None:
    """It is said before a copy is made."""
    (campaign.folder / "copies").write_text("")
    done = campaign(*SEND, "--recipients", "list.csv", "-o", "copies/")
    assert (done.returncode, b"--output copies.copies/" in done.stderr) == (1, True)
    assert not (campaign.folder / "copies.partial").exists()


@pytest.mark.sqlite
def test_no_tokens_for_a_sender_that_is_none(campaign: Program) -> None:
    """They would open nothing: each link of the merged template would be dead."""
    send = ("--sender", "nws.example.com", "--message", "june")
    done = campaign("recipients", "-", *send, stdin=b"email\na@b.c\n")
    assert (done.returncode, done.stdout) == (66, b"")
    assert b"recipients - --sender news.example.com --message june" in done.stderr


@pytest.mark.sqlite
def test_the_name_of_the_column_is_quoted(campaign: Program) -> None:
    """As the list parts its values; an empty one names nothing."""
    command = ("recipients", "-", *SEND[2:4], "--message", "june", "--name")
    out = campaign.ok(*command, 'a;"b', stdin=b"email;x\na@b.c;y\n")
    assert next(csv.reader([out.splitlines()[0]], delimiter=";")) == ["email", "x", 'a;"b']
    assert campaign(*command, " ", stdin=b"email\na@b.c\n").returncode == 2


@pytest.mark.sqlite
def test_a_reader_that_goes_is_told_of_as_it_is(campaign: Program) -> None:
    """Copies of a block may have been taken: nobody may think that none was."""
    people = "".join(f"r{number}@example.org\n" for number in range(9000))
    (campaign.folder / "long.csv").write_text(f"email\n{people}")
    line = (
        f"{sys.executable} -m sestrack {' '.join(SEND)} --recipients long.csv | head -1 > /dev/null"
    )
    done = subprocess.run(
        ["bash", "-c", line], cwd=campaign.folder, env=campaign.environment,
        capture_output=True, check=False,
    )  # fmt: skip
    assert re.search(rb"hint: \d+ copies are out, and up to 256 more may be", done.stderr)


@pytest.mark.sqlite
def test_a_name_that_promises_another_kind_of_file(campaign: Program) -> None:
    """A campaign writes JSON Lines, or a folder."""
    done = campaign(*SEND, "--recipients", "list.csv", "-o", "out.html")
    assert (done.returncode, (campaign.folder / "out.html").exists()) == (2, False)
    assert b"letter.html --sender" in done.stderr
    assert b"--output out.jsonl" in done.stderr


@pytest.mark.sqlite
def test_half_a_list_is_no_list(campaign: Program) -> None:
    """What is wrong far down is said before the first line is out."""
    (campaign.folder / "long.csv").write_text("email\n" + "a@x.org\n" * 5000 + "a,b\n")
    done = campaign("recipients", "long.csv", "--sender", "news.example.com", "--message", "june")
    assert (done.returncode, done.stdout) == (65, b"")
    assert b"long.csv, line 5002: it has 2 values" in done.stderr


@pytest.mark.parametrize(
    "lines",
    [
        "Name;Adresse\n\nKing;ada@x.org\n", "Name;Adresse\n;\nKing;ada@x.org\n",
        'Name|Stadt|mail\n"Ada\nKing"|Köln|ada@x.org\n', "Name, Vorname\tKontakt\n\tada@x.org\n",
        "mail;kontakt\n\nyes;ada@x.org\n", "Name, Vorname;Adresse\n\nKing, Ada;ada@x.org\n",
    ],
)  # fmt: skip
@pytest.mark.sqlite
def test_which_column_has_the_addresses(campaign: Program, lines: str) -> None:
    """It is seen in the rows below the heading, and so is what parts them; not in empty lines."""
    (campaign.folder / "list.csv").write_text(lines)
    (copy,) = campaign.ok(*SEND, "--recipients", "list.csv").splitlines()
    assert json.loads(copy)["recipient"] == "ada@x.org"


@pytest.mark.sqlite
def test_the_new_column_stands_under_its_name(campaign: Program) -> None:
    """Short lines are filled up, long ones refused; a heading may go on in the next line."""
    command = ("recipients", "-", "--sender", "news.example.com", "--message", "june")
    out = campaign.ok(*command, stdin=b'email,"no\nte"\r\na@b.c\r\nd@e.f,"x, y"\r\n')
    rows = list(csv.reader(io.StringIO(out, newline=""), strict=True))
    assert [row[:2] for row in rows] == [["email", "no\nte"], ["a@b.c", ""], ["d@e.f", "x, y"]]
    assert rows[0][2:] == ["sestrack"]
    assert [len(row) for row in rows] == [3, 3, 3]
    for heading in ("\ufeffemail;Straße\r\n", "\ufeff"):  # Excel takes it for windows-1252 without
        out = campaign.ok(*command, stdin=f"{heading}a@b.c;Öde\r\n".encode())
        assert out.startswith(heading.rstrip() + ";sestrack" * (len(heading) > 1))
    done = campaign(*command, stdin=b"email,name\na@b.c,Ada, Countess\n")
    assert (done.returncode, b"line 2: it has 3 values" in done.stderr) == (65, True)


@pytest.mark.parametrize(
    ("data", "words", "code"),
    [
        (b"", "is empty", 65),
        (b"email\na@example.org\n\xff\n", "not UTF-8", 65),
        (b"\n \n", "is empty", 65),
        (b'"email"x,y\na,b\n', "line 1: ", 65),
        pytest.param(b"x" * 140_000 + b"\na\n", "line 1: field larger", 65, id="a long field"),
        (b"\n\nemail\n\n,1\n", "line 5: the recipient is empty", 65),
        (b"email,x\n,1\n", "line 2: the recipient is empty", 65),
        (b"email\n" + b"a" * 300 + b"\n", "line 2: the recipient", 65),
        (b'email\n"a\n', "line 2: unexpected end", 65),
        (b'email,x\nb,1\n"a,1\nc,1\nd,1\n', "lines 3 to 5: unexpected end", 65),
        (b"name,email\nKing, Ada,ada@x.org\n", "line 2: it has 3 values, and the list 2", 65),
        (b"recipient\nKing, Ada\n", "line 2: it has 2 values, and the list 1 column", 65),
        (b"email,name\nada@x.org;Ada\n", "line 2: it has 1 value, and the list 2", 65),
        (b"recipient\n{{email}}\n", "line 2: the recipient '{{email}}' is a merge field", 65),
        (b"name,x\n1,2\n", "no column 'email'; it has name, x", 66),
        (b"name,e-mail\n1,2\n", "--column e-mail", 66),
        (b"<html>\n<p>\n", "begins like HTML", 65),
        (b"name,work,home\nA,a@x.org,b@x.org\n", "2 columns of addresses: work, home", 65),
        (b"a@x.org,b@x.org\n", "no heading, and 2 columns of addresses", 65),
        (
            "email\na@x.org\n".encode("utf-16"),
            "hint: iconv -f utf-16 -t utf-8 bad.csv > bad-utf8.csv",
            65,
        ),
        (b"\x80\0\0", "hint: file bad.csv", 65),
        (b"PK\x03\x04\0\0,x\n", "is binary", 65),
        (b"Subject: June\nTo: a@x.org\n\nx\n", "begins like a mail", 65),
    ],
)
@pytest.mark.sqlite
def test_bad_lists_are_found_before_a_copy_is_made(
    campaign: Program, data: bytes, words: str, code: int
) -> None:
    """The line is named; no output appears."""
    (campaign.folder / "bad.csv").write_bytes(data)
    column = ["--column", "email"] if code == 66 else []
    done = campaign(*SEND, "--recipients", "bad.csv", *column, "-o", "out.jsonl")
    assert (done.returncode, done.stdout) == (code, b"")
    assert words in done.stderr.decode()
    assert not list(campaign.folder.glob("out.jsonl*"))
    assert copies(campaign) == {}


@pytest.mark.parametrize(
    "options",
    [
        ["--recipients", "list.csv", "--recipient", "x"],
        ["--recipients", "list.csv", "--recipient-field", "x"],
        ["--recipients", "list.csv", "--jsonl"],
        ["--recipients", "list.csv", "--in-place"],
        ["--recipients", "list.csv", "--resume"],
        ["--recipients", "list.csv", "--jobs", "many"],
        ["--recipients", "list.csv", "other.html"],
        ["--resume"],
        ["--jobs", "2"],
        ["--jsonl"],
    ],
)
@pytest.mark.sqlite
def test_what_does_not_go_together(campaign: Program, options: list[str]) -> None:
    """It is said, with what to type instead."""
    done = campaign(*SEND, *options)
    assert done.returncode == 2, done
    assert b"hint: " in done.stderr


def test_a_process_that_is_killed(campaign: Program) -> None:
    """The others do not wait for it for ever; what there is can be gone on with."""
    rows = "".join(f"ada{number}@example.org\n" for number in range(100_000))
    (campaign.folder / "long.csv").write_text("recipient\n" + rows)
    plan = (*SEND, "--recipients", "long.csv", "-o", "out.jsonl", "--jobs", "2")
    with subprocess.Popen(
        [sys.executable, "-m", "sestrack", *plan], env=campaign.environment, cwd=campaign.folder,
        stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        while not size_of(campaign.folder / "out.jsonl.partial"):
            assert child.poll() is None
            time.sleep(0.01)
        tasks = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        os.kill(int(tasks.read_text().split()[0]), signal.SIGKILL)
        _, words = child.communicate(timeout=30)
    assert child.returncode == 74
    assert b"was killed" in words
    campaign.ok(*plan, "--resume")
    assert copies(campaign) == {"june": 100_000}


def test_an_output_that_cannot_be(campaign: Program) -> None:
    """A folder that is not there is not made: it may be a slip of the pen."""
    done = campaign(*SEND, "--recipients", "list.csv", "-o", "nowhere/out.jsonl")
    assert done.returncode == 73
    assert not (campaign.folder / "nowhere").exists()


def test_a_full_disk_can_be_gone_on_with(campaign: Program) -> None:
    """What is written stays, and the rest comes when there is room."""
    words = f"ulimit -f 200; exec {sys.executable} -m sestrack {' '.join(SEND)} --recipients list.csv -o out.jsonl"
    done = subprocess.run(
        ["bash", "-c", words], env=campaign.environment, cwd=campaign.folder,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 74, done.stderr
    assert b"--resume" in done.stderr
    assert not (campaign.folder / "out.jsonl").exists()
    campaign.ok(*SEND, "--recipients", "list.csv", "-o", "out.jsonl", "--resume")
    assert len((campaign.folder / "out.jsonl").read_text().splitlines()) == 3000
    assert copies(campaign) == {"june": 3000}


def test_untracked_campaigns(campaign: Program) -> None:
    """The copies are the original, and nothing is counted."""
    campaign.ok("settings", "disable")
    done = campaign(*SEND, "--recipients", "list.csv")
    assert done.returncode == 0
    assert {json.loads(line)["html"] for line in done.stdout.splitlines()} == {PAGE}
    assert b"untracked" in done.stderr
    assert copies(campaign) == {}
    assert campaign(*SEND, "--recipients", "list.csv", "--strict").returncode == 1


def test_jsonl_is_a_filter_kept_open(campaign: Program) -> None:
    """A line is answered before the next is asked; settings are seen; a bad line stays."""
    command = [
        sys.executable,
        "-m",
        "sestrack",
        "rewrite",
        "--jsonl",
        "--sender",
        "news.example.com",
        "--count",
    ]
    with subprocess.Popen(
        command, env=campaign.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, bufsize=0,
    ) as child:  # fmt: skip
        assert child.stdin
        assert child.stdout

        def ask(line: str) -> str:
            child.stdin.write(line.encode() + b"\n")
            return child.stdout.readline().decode()

        first = json.loads(
            ask(json.dumps({"html": PAGE, "recipient": "ada@example.org", "more": [1]}))
        )
        assert "https://trace.example.com/" in first["html"]
        assert (first["recipient"], first["more"]) == ("ada@example.org", [1])
        assert ask("{nonsense") == "{nonsense\n"
        rest = '"n": 1e400 , "x": 1.10, "y": "\\u00e9", "x": [{"html": 2}]}'
        again = ask('{"html" : "<p>" ,' + rest)
        assert again.startswith('{"html" : "<p>')
        assert again.endswith(" ," + rest + "\n")
        twice = '{"html": "<p>", "html": "<b>"}\n'
        assert ask(twice.strip()) == twice
        assert ask('{"html": 1}') == '{"html": 1}\n'
        campaign.ok("settings", "disable")
        time.sleep(0.3)
        assert json.loads(ask(json.dumps({"html": PAGE})))["html"] == PAGE
        child.stdin.close()
        assert child.stderr
        words = child.stderr.read().decode()
    assert "line 2: it is not JSON" in words
    assert "untracked" in words
    assert child.returncode == 65
    assert sum(copies(campaign).values()) == 2


def test_a_filter_that_is_told_to_end(campaign: Program) -> None:
    """Its supervisor ends it so: what went out is counted."""
    with subprocess.Popen(
        [sys.executable, "-m", "sestrack", *SEND[:1], *SEND[2:], "--jsonl", "--count"],
        env=campaign.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    ) as child:  # fmt: skip
        assert child.stdin
        assert child.stdout
        for _ in range(3):
            child.stdin.write(json.dumps({"html": PAGE}).encode() + b"\n")
            assert b"trace.example.com" in child.stdout.readline()
        child.terminate()
        assert child.wait(20) == 143
    assert copies(campaign) == {"june": 3}


@pytest.mark.sqlite
def test_a_line_for_a_merge_field(campaign: Program) -> None:
    """A template that was not filled in would make all readers one; the line goes out as it came."""
    field = b'{"html": "<p>x", "recipient": "*|EMAIL|*"}\n'
    done = campaign("rewrite", "--jsonl", "--sender", "news.example.com", stdin=field)
    assert (done.returncode, done.stdout) == (65, field)
    assert b"line 1: the recipient '*|EMAIL|*' is a merge field" in done.stderr
