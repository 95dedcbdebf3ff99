"""Which module may import which, and what the pipe of `rewrite` may not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Program

import sestrack

PACKAGE = Path(sestrack.__file__).parent

# from the bottom up; a module imports from lower floors only
FLOORS = [
    {"sestrack", "errors", "mail", "engines.url_numbers"},
    {
        "model", "html.charrefs", "html.charset", "links", "html.scanner", "times", "html", "tracker", "tracker.events",
        "tracker.counts", "tracker.interning", "domains", "domains.challenge", "engines.interface", "engines.default", "engines.sqlite", "engines.versions", "terminal",
        "engines.postgresql_schema", "engines.addresses", "engines.postgresql_errors", "terminal.characters", "terminal.layout", "terminal.completion",
    },
    {
        "engines", "engines.tables", "engines.sqlite_lock", "engines.sqlite_health", "engines.sqlite_schema", "engines.partitions", "engines.postgresql_connection", "tracker.collector", "tracker.streams",
        "rules", "tokens", "rewrite", "files", "mail.mime", "mail.transfer", "domains.facts", "domains.findings", "tracker.visitors",
        "tracker.checkpoint", "tracker.clients", "tracker.names", "tracker.recorder", "terminal.drawing", "tracker.listening", "demo",
    },
    {
        "store", "copying", "settings", "output", "domains.resolver", "domains.probe",
        "domains.dns_judgement", "domains.https_judgement", "domains.frontends", "tracker.answers",
        "tracker.places", "tracker.rescue", "tracker.waiting",
        "mail.message", "mail.mailbox", "mail.recipients",
    },
    {"domains.judgement", "tracker.judge", "terminal.mistyped", "terminal.offers", "terminal.next_step", "demo.nameserver", "demo.visit", "demo.stage"},
    {"domains.survey", "terminal.helping", "tracking", "mail.audit"},
    {"mail.campaign"},
    {"keyfile", "tracker.ask", "tracker.certificate", "tracker.figures", "tracker.protocol", "tracker.writer", "tracker.ledger", "tracker.spool"},
    {"tracker.upkeep", "tracker.exports", "tracker.reports", "tracker.shipper", "engines.postgresql"},
    {"tracker.worker", "tracker.reclassify", "tracker.forwarder", "tracker.keeper", "tracker.metrics", "backups"},
    {"tracker.server", "demo.page"},
    {"demo.acts"},
    {"commands", "commands.*"},
    {"cli", "root", "__main__"},
    {"terminal.manual"},
]  # fmt: skip
# the ways up, each with its reason
EXCEPTIONS = {
    ("store", "settings"),  # a type only
    ("engines.sqlite", "engines.versions"),  # the least of the floor, and no reason for another
    ("engines.sqlite", "engines.sqlite_schema"),  # made when the store is, in one function
    ("engines.sqlite", "engines.sqlite_lock"),  # servers alone need it, in three functions
    ("engines.sqlite_health", "engines.sqlite_lock"),  # two views of what stands beside the file
    ("engines.sqlite", "engines.sqlite_health"),  # when something is wrong, or is looked for
    ("engines.sqlite", "engines.default"),
    ("engines.versions", "engines.default"),
    ("engines.default", "engines.addresses"),  # in the one function that needs it
    ("engines", "engines.interface"),  # a type only
    ("engines", "engines.postgresql"),  # chosen by the address, inside the function
    ("engines.postgresql_schema", "engines.interface"),
    ("engines.url_numbers", "engines.interface"),  # a type only
    ("engines.partitions", "engines.postgresql_connection"),  # a type only
    ("engines.postgresql_connection", "engines.partitions"),
    ("engines.sqlite", "engines.interface"),
    ("tracker.interning", "engines.interface"),
    ("tracker.counts", "tracker.collector"),  # types only
    ("tracker.names", "tracker.collector"),
    ("commands.rewrite", "commands.rewrite_options"),  # one command in two modules
    ("commands.rewrite_options", "commands.rewrite"),
    ("commands.rewrite", "commands.rewrite_run"),
    ("commands.rewrite_run", "commands.rewrite"),  # a type only
    ("commands.rewrite_run", "commands.rewrite_report"),
    ("commands.rewrite_run", "commands.rewrite_delivery"),
    ("commands.rewrite_delivery", "commands.rewrite"),  # a type only
    ("commands.rewrite_untouched", "commands.rewrite"),
    ("commands.rewrite_untouched", "commands.rewrite_delivery"),
    ("commands.rewrite_run", "commands.rewrite_lines"),
    ("commands.rewrite_run", "commands.rewrite_campaign"),
    ("commands.rewrite_run", "commands.rewrite_copies"),
    ("commands.rewrite_lines", "commands.rewrite_copies"),
    ("commands.rewrite_campaign", "commands.rewrite_copies"),
    ("commands.rewrite_lines", "commands.rewrite_run"),
    ("commands.rewrite_lines", "commands.rewrite"),
    ("commands.rewrite_campaign", "commands.rewrite_run"),
    ("commands.rewrite_campaign", "commands.rewrite"),
    ("sestrack", "tracking"),  # the names for programs: types, and imported when asked for
    ("sestrack", "mail.message"),
    ("sestrack", "errors"),
    ("commands.domain", "commands.domain_verify"),  # one noun in several modules
    ("commands.domain", "commands.domain_accelerate"),
    ("commands.settings", "commands.settings_edit"),
    ("cli", "root"),
    ("root", "cli"),
    ("__main__", "cli"),
    ("tracker.keeper", "cli"),
    ("tracker.worker", "cli"),  # a program of its own, with the same error boundary
}


def floor_of(module: str) -> int:
    """Return the floor a module is on."""
    for number, floor in enumerate(FLOORS):
        if module in floor or (module.startswith("commands.") and "commands.*" in floor):
            return number
    return pytest.fail(f"{module} has no floor")


def modules() -> list[str]:
    """Name every module of the package."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        names.append(name.removesuffix(".__init__").replace("__init__", "sestrack"))
    return names


@pytest.mark.parametrize("module", modules())
def test_every_import_points_down(module: str) -> None:
    """A module imports from lower floors only."""
    path = PACKAGE / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = PACKAGE / module.replace(".", "/").replace("sestrack", "") / "__init__.py"
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sestrack"):
            inner = (node.module or "").removeprefix("sestrack").removeprefix(".")
            names = [inner] if inner else [alias.name for alias in node.names]
        for name in names:
            target = name if (PACKAGE / (name.replace(".", "/") + ".py")).exists() else "sestrack"
            if (module, target) not in EXCEPTIONS:
                assert floor_of(target) < floor_of(module), f"{module} imports {target}"


@pytest.mark.sqlite
def test_the_pipe_imports_little(tracking: Program) -> None:
    """`rewrite` in a pipe loads none of the heavy packages."""
    heavy = "typer rich dns tomlkit sqlite_utils lxml dataclasses argparse hashlib json pathlib"
    heavy += " difflib"
    code = (
        "import sys, os; sys.argv = ['sestrack', 'rewrite', '--sender', 'news.example.com', "
        "'--recipient', 'ada@example.org', '--message', 'june']\n"
        "os._exit = lambda code: print(code, sorted(set(sys.argv[0:0]) | "
        f"set('{heavy}'.split()) & set(sys.modules)), file=sys.stderr)\n"
        "from sestrack.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=b'<p><a href="https://example.com/">x</a></p>',
        capture_output=True, check=False, env=tracking.environment, timeout=60,
    )  # fmt: skip
    assert b"https://trace.example.com/Q" in done.stdout, done.stderr
    assert done.stderr.splitlines()[0] == b"0 []"
