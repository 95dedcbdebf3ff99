"""What Tab offers for the value of an option or argument: names from the store, files.

The store is read, never made or changed.  Whatever is wrong with it, nothing is offered and
nothing is said: a person who presses Tab did not ask for an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from typer._click import Context  # the click that Typer carries with it
from typer._click.core import Parameter
from typer._click.shell_completion import CompletionItem
from typer._click.types import StringParamType

if TYPE_CHECKING:
    from collections.abc import Callable

    from sestrack.store import Store

    Offers = list[tuple[str, str]]

MOST = 200
"""Messages offered at once, those that began last first."""


class FileName(StringParamType):
    """Text that names a file, or with `folder` a folder."""

    def __init__(self, *, folder: bool = False) -> None:
        self.kind = "dir" if folder else "file"

    def shell_complete(
        self,
        ctx: Context,  # noqa: ARG002
        param: Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Leave it to the shell, which knows its files."""
        return [CompletionItem(incomplete, type=self.kind)]


def sender_domains(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer the sender domains; after an at-sign too, where an address may stand."""
    local, at, _ = incomplete.rpartition("@")
    offers = _look(ctx, lambda opened: [(s.domain, str(s.status)) for s in opened.senders()])
    return [(f"{local}{at}{name}", help_) for name, help_ in offers]


def primary_domains(ctx: typer.Context) -> list[tuple[str, str]]:
    """Offer the primary domains of the sender domains."""
    offers = _look(ctx, lambda opened: [(s.primary, "") for s in opened.senders()])
    return list(dict.fromkeys(offers))


def trace_domains(ctx: typer.Context) -> list[tuple[str, str]]:
    """Offer the trace domains that are not retired."""
    offers = _look(ctx, lambda opened: [(d.name, str(d.status)) for d in opened.trace_domains()])
    return [(name, status) for name, status in offers if status != "retired"]


def messages(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer the labels of messages that have events, or counted copies."""

    def ask(opened: Store) -> Offers:
        rows: list[tuple[str, str]] = []
        for table, order in (("origin", "max(id) DESC"), ("copies", "message")):
            sql = (
                f"SELECT message, min(sender) FROM {table} WHERE substr(message, 1, ?) = ? "
                f"GROUP BY message ORDER BY {order} LIMIT {MOST}"
            )
            rows += opened.connection.execute(sql, (len(incomplete), incomplete)).fetchall()
        return list({name: (name, sender) for name, sender in reversed(rows)}.values())[::-1]

    return [offer for offer in _look(ctx, ask) if offer[0].isprintable()]


def _look(ctx: Context, question: Callable[[Store], Offers]) -> Offers:
    from sestrack import store
    from sestrack.engines.default import default_address, expanded

    try:
        path = expanded(ctx.find_root().params.get("store") or "") or default_address()
        with store.Store(path) as opened, store.errors_of(path):
            return question(opened)
    except Exception:  # noqa: BLE001 - see above
        return []
