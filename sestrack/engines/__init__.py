"""The engines a store can live on, chosen by its address.

    /var/lib/sestrack/store.db               a file of SQLite: one machine
    postgresql://user@host:5432/database     PostgreSQL: many servers, whatever speaks its protocol

An engine is a module with the functions of `interface.Engine`; its connections do what
`interface.Connection` says.  SQL that both understand is written once, by whoever asks the
question (marks are `?`); what they do not share has a method here.  Nobody outside this
package asks which engine it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sestrack.errors import NotSetUp

if TYPE_CHECKING:
    from sestrack.engines.interface import Engine


def engine_of(address: str) -> Engine:
    """Return the engine of an address; a path is a file of SQLite.

    Raises `UsageError` for what can be neither.
    """
    if address.startswith(("postgresql://", "postgres://")):
        try:
            from sestrack.engines import postgresql
        except ImportError as error:
            msg = f"a store in PostgreSQL needs psycopg: {str(error).partition(chr(10))[0]}"
            raise NotSetUp(msg, "pip install 'psycopg[binary]'") from None
        return cast("Engine", postgresql)
    if ":" in address or "=" in address:
        from sestrack.engines.addresses import refuse_other

        refuse_other(address)
    from sestrack.engines import sqlite

    return cast("Engine", sqlite)
