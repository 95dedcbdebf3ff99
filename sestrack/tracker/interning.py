"""Small numbers that stand in rows for texts that come again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sestrack.engines.interface import Connection


def intern(
    connection: Connection, table: str, columns: tuple[str, ...], values: tuple[Any, ...]
) -> int:
    """Return the number of a row of `table`, which is written if the store has none."""
    find = f"SELECT id FROM {table} WHERE {' AND '.join(f'{column} = ?' for column in columns)}"
    row = connection.execute(find, values).fetchone()
    if row is None:
        marks = ", ".join("?" for _ in columns)
        row = connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) "
            "ON CONFLICT DO NOTHING RETURNING id",
            values,
        ).fetchone()
    if row is None:  # another server has written it in the meantime
        row = connection.execute(find, values).fetchone()
    return int(row[0])
