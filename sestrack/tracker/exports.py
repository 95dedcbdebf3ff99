"""Events as files: JSON Lines, CSV, Parquet.

A file is written beside and renamed, so that it is whole or not there.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from sestrack import output
from sestrack.errors import UsageError
from sestrack.files import beside
from sestrack.tracker.ledger import FIELDS
from sestrack.tracker.visitors import FORMULA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Rows = Iterator[dict[str, Any]]

_CHUNK = 1_000
_ROW_GROUP = 50_000


def write_jsonl(rows: Rows, to: str) -> int:
    """Write one JSON object a line; return how many."""
    count = 0
    with _open(to) as put:
        while chunk := list(islice(rows, _CHUNK)):
            put("".join(map(output.json_text, chunk)))
            count += len(chunk)
    return count


def write_csv(rows: Rows, to: str) -> int:
    """Write comma-separated values with a heading; return how many lines of values."""
    count = 0
    with _open(to) as put:
        put(output.csv_lines([FIELDS]))
        while chunk := list(islice(rows, _CHUNK)):
            put(output.csv_lines([_inert(_flat(row)).values() for row in chunk]))
            count += len(chunk)
    return count


def write_parquet(rows: Rows, to: str) -> int:
    """Write Parquet; return how many rows.  Raises `UsageError` without pyarrow."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        msg = "Parquet needs pyarrow, which is not installed"
        raise UsageError(msg, "pip install pyarrow") from None
    whole = {"id", "link", "age", "rules"}
    schema = pa.schema([(name, pa.int64() if name in whole else pa.string()) for name in FIELDS])
    count = 0
    with beside(to, private=True) as name, parquet.ParquetWriter(name, schema) as writer:
        while chunk := list(islice(rows, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist([_flat(row) for row in chunk], schema))
            count += len(chunk)
    return count


WRITERS: dict[str, Callable[[Rows, str], int]] = {
    "jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet,
}  # fmt: skip
"""What writes each format."""


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"reasons": ",".join(row["reasons"])}


def _inert(row: dict[str, Any]) -> dict[str, Any]:
    """Let no spreadsheet take what a stranger wrote for a formula: `=HYPERLINK(…)`.

    A user agent alone is a stranger's text; all others are ours, and stay exact.
    """
    return row | {"agent": f"'{row['agent']}"} if row["agent"].startswith(FORMULA) else row


@contextmanager
def _open(to: str) -> Iterator[Callable[[str], object]]:
    """Give what writes text: to stdout, or to a file that is there when all is."""
    if to in {"", "-"}:
        yield output.product
        return
    with beside(to, private=True) as name, open(name, "w", encoding="utf-8", newline="") as stream:
        yield stream.write
