"""The benchmarks start: what they import is there, and what they fill stores with goes in."""

from __future__ import annotations

import asyncio
from contextlib import closing
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from sestrack.engines import engine_of
from sestrack.store import Store

FOLDER = Path(__file__).parents[1] / "benchmarks"
PEERS = {"lolhtml", "pytracking"}
"""Installed with `.[bench]` alone."""
ROWS = 3


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the benchmarks as Python does that runs one."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_every_benchmark_can_be_imported(name: str) -> None:
    """No name has moved away from under it."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in PEERS:
            raise
        pytest.skip(f"{error.name} is not installed")


def count(address: str, table: str) -> int:
    """Count the rows of a table."""
    with closing(engine_of(address).connect(address, writing=True, wait=5)) as connection:
        ((rows,),) = connection.execute(f"SELECT count(*) FROM {table}")
    return int(rows)


def test_domains_fills_a_store(address: str) -> None:
    """As many trace domains as are to be verified, each of a sender domain of its own."""
    domains = import_module("domains")
    domains.fill(address, ROWS)
    with Store(address) as store:
        assert [domain.name for domain in store.trace_domains()] == domains.names(ROWS)
        assert [sender.domain for sender in store.senders()] == [n[6:] for n in domains.names(ROWS)]


def test_figures_fills_a_store(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Events are written, judged and counted, and every report is made."""
    figures = import_module("figures")
    figures.measure(address, ROWS)
    assert "3 events judged and counted" in capsys.readouterr().out
    assert count(address, "event") == ROWS


@pytest.mark.sqlite
def test_granian_records(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers as ours, after the same commit."""
    server, shared = import_module("server"), import_module("shared")
    shared.prepare(address)
    monkeypatch.setattr(server, "COPIES", ROWS)
    paths, _ = server.urls(shared.SECRET)
    monkeypatch.setenv("STORE", address)
    answered = []

    async def ask() -> None:
        app = import_module("granian_app").App()
        app.__rsgi_init__(asyncio.get_running_loop())
        protocol = SimpleNamespace(response_bytes=lambda *answer: answered.append(answer))
        for path in paths:
            scope = SimpleNamespace(headers={"host": server.HOST}, path=path, client="192.0.2.1:1")
            await app.__rsgi__(scope, protocol)
        app.__rsgi_del__(asyncio.get_running_loop())

    asyncio.run(ask())
    assert [status for status, _, _ in answered] == [200] * ROWS
    assert count(address, "event") == ROWS
