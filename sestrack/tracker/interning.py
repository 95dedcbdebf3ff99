"""Small numbers that stand in rows for texts that come again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3


def intern(  # noqa: PLR0913 - the last two are for a look only
    connection: sqlite3.Connection,
    table: str,
    columns: tuple[str, ...],
    values: tuple[Any, ...],
    *,
    schema: str = "main",
    number: int | None = None,
) -> int:
    """Return the number of a row of `table`, which is written if the store has none.

    It is written into `schema`, as `number` if one is given.
    """
    where = " AND ".join(f"{column} = ?" for column in columns)
    row = connection.execute(f"SELECT id FROM main.{table} WHERE {where}", values).fetchone()
    if row is not None:
        return int(row[0])
    marks = ", ".join("?" for _ in columns)
    cursor = connection.execute(
        f"INSERT INTO {schema}.{table} (id, {', '.join(columns)}) VALUES (?, {marks})",
        (number, *values),
    )
    return int(cursor.lastrowid or 0)
