"""The tables in the documents are what the program says, and their links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import tables


@pytest.mark.parametrize("path", tables.documents(), ids=lambda path: path.name)
def test_tables_are_what_the_program_says(path: Path) -> None:
    """`python docs/tables.py` would change nothing."""
    text = path.read_text(encoding="utf-8")
    assert tables.renewed(text) == text


def test_every_table_stands_somewhere() -> None:
    """No table is made for nobody."""
    texts = "".join(path.read_text(encoding="utf-8") for path in tables.documents())
    assert set(re.findall(r"<!-- table: ([a-z-]+) -->", texts)) == set(tables.TABLES)


@pytest.mark.parametrize("path", tables.documents(), ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    """A document that is named is there."""
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
