"""What stands for a URL in `first`, where it is kept who clicked it before.

A URL often stands in a mail twice, behind a picture and behind a button, and who clicks both is
one who clicked it.  So a link's first click is kept by its URL, and not by its place in the mail,
as it was in the schemas before; in any store a URL has the same number.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sestrack.engines.interface import Connection

FIRST_URL = 16
"""In the column `act` of `first`, `FIRST_URL + 4 * url_number(url) + visitor` is the first click
of a URL; what is below it, is about the message."""
_PIECE = 20_000


def url_number(url: str) -> int:
    """Return 56 bits of a hash."""
    digest = blake2b(url.encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def number_by_url(connection: Connection) -> None:
    """Bring `first` and the tallies of links (dimension 5) there from the schemas before.

    Of the first clicks that a recipient made at several places of a URL, the earliest stays.
    """
    # in PostgreSQL servers of the version before go on: their keeper, which would count by places,
    # waits here, fails without the column it knows, and is not let in again
    connection.execute("ALTER TABLE first RENAME COLUMN what TO act")
    connection.execute("CREATE TEMP TABLE numbered (link bigint PRIMARY KEY, url bigint NOT NULL)")
    last = 0
    while rows := connection.execute(
        f"SELECT id, url FROM link WHERE id > ? ORDER BY id LIMIT {_PIECE}", [last]
    ).fetchall():
        numbers = [(link, url_number(url)) for link, url in rows]
        connection.executemany("INSERT INTO numbered VALUES (?, ?)", numbers)
        last = rows[-1][0]
    for statement in _NUMBER_BY_URL:
        connection.execute(statement)


_NUMBER_BY_URL = (
    f"""
    CREATE TEMP TABLE clicked AS
    SELECT origin, who, day, link, url, (act - {FIRST_URL}) % 4 AS visitor, row_number() OVER (
        PARTITION BY origin, who, url, (act - {FIRST_URL}) % 4 ORDER BY day, act
    ) AS number
    FROM first JOIN numbered ON link = (act - {FIRST_URL}) / 4 WHERE act >= {FIRST_URL}
    """,
    """
    UPDATE tally SET clickers = tally.clickers - again.times FROM (
        SELECT origin, day, CAST(link AS text) AS value, visitor, count(*) AS times
        FROM clicked WHERE number > 1 GROUP BY origin, day, link, visitor
    ) AS again
    WHERE dimension = 5 AND tally.day = again.day AND tally.origin = again.origin
    AND tally.value = again.value AND tally.visitor = again.visitor
    """,
    f"DELETE FROM first WHERE act >= {FIRST_URL}",
    f"""
    INSERT INTO first (origin, who, act, day)
    SELECT origin, who, {FIRST_URL} + 4 * url + visitor, day FROM clicked WHERE number = 1
    """,
    "DROP TABLE clicked",
    "DROP TABLE numbered",
)
