"""`domain verify --all` over 1,000 domains beside a serial loop and `dig -f`, 20 ms away.

knot serves the records; dnsdist in front of it holds each answer back.  All three ask it for
the same names, and each outcome is checked.  Ours asks twice for each domain (its address, and
a name that nobody made), reads the store before and writes 1,000 results to it afterwards;
`dig` and the loop ask once and keep nothing.

    apt install knot dnsdist bind9-dnsutils
    python benchmarks/domains.py [MILLISECONDS] [ROUNDS] [DOMAINS]
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import dns.nameserver
import dns.resolver

from sestrack.model import DomainStatus, Sender, SenderStatus, TraceDomain
from sestrack.store import Store, initialise

if TYPE_CHECKING:
    from collections.abc import Callable

EDGE = "edge.test"
KNOT, DNSDIST = 5391, 5392


def names(domains: int) -> list[str]:
    """Name the trace domains, each under a primary domain of its own."""
    return [f"trace.customer{number:05}.test" for number in range(domains)]


def start_servers(stack: ExitStack, folder: Path, domains: int, milliseconds: int) -> None:
    """Start knot with the zone, and dnsdist, which delays it."""
    records = "".join(f"{name}. CNAME {EDGE}.\n" for name in names(domains))
    (folder / "test.zone").write_text(
        f"$ORIGIN test.\n$TTL 60\n@ SOA ns admin 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n"
        f"edge A 127.0.0.1\n{records}"
    )
    (folder / "knot.conf").write_text(
        f"server:\n  listen: 127.0.0.1@{KNOT}\n  rundir: {folder}\n  udp-workers: 1\n"
        f"database:\n  storage: {folder}\n"
        f"zone:\n  - domain: test\n    storage: {folder}\n    zonefile-sync: -1\n"
    )
    delay = f"addAction(AllRule(), DelayAction({milliseconds}))\n" if milliseconds else ""
    (folder / "dnsdist.conf").write_text(
        f"setLocal('127.0.0.1:{DNSDIST}')\nnewServer({{address='127.0.0.1:{KNOT}'}})\n{delay}"
    )
    path = f"{os.environ['PATH']}:/usr/sbin"
    for command in (
        ["knotd", "-c", str(folder / "knot.conf")],
        ["dnsdist", "--supervised", "--disable-syslog", "-C", str(folder / "dnsdist.conf")],
    ):
        program = shutil.which(command[0], path=path)
        assert program, f"{command[0]} is not installed"
        process = subprocess.Popen(
            [program, *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
    resolver = serial_resolver()
    for _ in range(100):
        try:
            resolver.resolve(names(domains)[-1], "A", lifetime=0.5)
            break
        except Exception:  # noqa: BLE001 - until it answers
            time.sleep(0.1)


def serial_resolver() -> dns.resolver.Resolver:
    """Return a resolver that asks dnsdist."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [dns.nameserver.Do53Nameserver("127.0.0.1", DNSDIST)]
    return resolver


def fill(path: str, domains: int) -> None:
    """Make a store with the domains."""
    initialise(path, EDGE, 1)
    senders = [
        Sender(
            name[6:], name[6:], "proof", SenderStatus.VERIFIED, assumed=True, created_at=1,
            verified_at=1,
        )
        for name in names(domains)
    ]  # fmt: skip
    traces = [
        TraceDomain(
            name, "trace", name[6:], DomainStatus.PENDING, plain_http=False, port=0, created_at=1,
            verified_at=0, checked_at=0, last_ok_at=0, last_state="", target=EDGE,
        )
        for name in names(domains)
    ]  # fmt: skip
    with Store(path) as store, store.change() as db:
        # quoted, for `primary` is a word of SQL
        db.insert("sender", [f'"{name}"' for name in Sender._fields], senders)
        db.insert("trace_domain", [f'"{name}"' for name in TraceDomain._fields], traces)


def ours(path: str, domains: int) -> None:
    """Run the command, as it is typed."""
    done = subprocess.run(
        [sys.executable, "-m", "sestrack", "--store", path, "domain", "verify", "--all", "--no-http",
         "--resolver", f"127.0.0.1:{DNSDIST}", "--json"],
        capture_output=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert [one["state"] for one in found] == ["ok"] * domains


def dig(folder: Path, domains: int) -> None:
    """Ask for the same names with dig, in one process."""
    (folder / "names").write_text("".join(f"{name} A\n" for name in names(domains)))
    done = subprocess.run(
        ["dig", "@127.0.0.1", "-p", str(DNSDIST), "-f", str(folder / "names"), "+noall", "+answer"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert done.stdout.count("CNAME\tedge.test.") == domains


def serial(domains: int) -> None:
    """Ask for the same names one after another, with dnspython."""
    resolver = serial_resolver()
    for name in names(domains):
        answer = resolver.resolve(name, "A")
        assert answer.canonical_name.to_text() == f"{EDGE}."


def measure(run: Callable[[], None], rounds: int) -> float:
    """Return the median of several runs, in seconds."""
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def main() -> None:
    """Measure the three."""
    milliseconds, rounds, domains = [int(n) for n in sys.argv[1:]] + [20, 5, 1000][
        len(sys.argv) - 1 :
    ]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        start_servers(stack, folder, domains, milliseconds)
        path = str(folder / "store.db")
        fill(path, domains)
        ours(path, domains)
        results = {
            "sestrack domain verify --all": measure(lambda: ours(path, domains), rounds),
            "dig -f": measure(lambda: dig(folder, domains), 1),
            "one after another": measure(lambda: serial(domains), 1),
        }
    print(f"{domains} domains, answers after {milliseconds} ms")
    for who, seconds in results.items():
        print(
            f"{who:<32}{seconds:8.2f} s  {seconds / results['sestrack domain verify --all']:6.1f}"
        )


if __name__ == "__main__":
    main()
