"""The schema of a store in SQLite, as the list of what made it (sqlite-utils' Migrations).

A migration that was released is never changed.  All that are pending run in the one
transaction of `store.initialise`; `PRAGMA user_version` counts them, so that a reader
knows at a glance.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, cast

from sqlite_utils import Database, Migrations

from sestrack.engines.sqlite import APPLICATION_ID, SCHEMA_VERSION
from sestrack.engines.url_numbers import number_by_url

if TYPE_CHECKING:
    from sestrack.engines.interface import Connection

migrations = Migrations("sestrack")


@migrations()
def m001_main_job(db: Database) -> None:
    """Make keys, sender domains, trace domains and settings."""
    # AUTOINCREMENT: the id of a key is never used again, it is in every token
    db.execute(
        "CREATE TABLE key (id INTEGER PRIMARY KEY AUTOINCREMENT, secret BLOB NOT NULL, "
        "created_at INTEGER NOT NULL)"
    )
    db.table("sender").create(
        {
            "domain": str, "primary": str, "proof": str, "status": str, "assumed": int,
            "created_at": int, "verified_at": int,
        },
        pk="domain", strict=True,
        not_null={"primary", "proof", "status", "assumed", "created_at", "verified_at"},
    )  # fmt: skip
    db.table("trace_domain").create(
        {
            "name": str, "prefix": str, "primary": str, "status": str, "plain_http": int,
            "port": int, "created_at": int, "verified_at": int, "checked_at": int,
            "last_ok_at": int, "last_state": str,
        },
        pk="name", strict=True, not_null={"prefix", "primary", "status", "created_at"},
    )  # fmt: skip
    # the one row of what there is once; `text` is what the administrator wrote, and
    # `enabled`, `dimension` and the table `entry` are what it says
    db.table("config").create(
        {
            "id": int, "edge": str, "enabled": int, "dimension": str, "text": str,
            "revision": int,
        },
        pk="id", strict=True, not_null={"edge", "enabled", "text", "revision"},
    )  # fmt: skip
    db.table("config").insert(
        {"id": 1, "edge": "", "enabled": 0, "dimension": None, "text": "", "revision": 1}
    )
    db.table("entry").create(
        {"sender": str, "trace_domain": str, "click": int, "open": int, "enabled": int},
        pk="sender", strict=True, not_null={"click", "open", "enabled"},
        foreign_keys=[("trace_domain", "trace_domain", "name")],
    )  # fmt: skip


@migrations()
def m002_tracking(db: Database) -> None:
    """Make events, what is made of them, and the figures."""
    for statement in _TRACKING:
        db.execute(statement)
    db.execute("INSERT INTO progress (id, who) VALUES (1, ?)", [os.urandom(32)])


_TRACKING = (
    # what an event's row would repeat
    """
    CREATE TABLE origin (
        id INTEGER PRIMARY KEY, sender TEXT NOT NULL, message TEXT NOT NULL,
        trace_domain TEXT NOT NULL, UNIQUE (sender, message, trace_domain)
    ) STRICT
    """,
    """
    CREATE TABLE link (
        id INTEGER PRIMARY KEY, origin INTEGER NOT NULL, number INTEGER NOT NULL, url TEXT NOT NULL,
        UNIQUE (origin, number, url)
    ) STRICT
    """,
    """
    CREATE TABLE agent (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT
    """,
    # facts, in the order they came: no other index, for each costs half of the speed
    """
    CREATE TABLE event (
        id INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind INTEGER NOT NULL, origin INTEGER NOT NULL,
        link INTEGER, recipient TEXT NOT NULL, minted INTEGER NOT NULL, ip TEXT NOT NULL,
        agent INTEGER NOT NULL, traits INTEGER NOT NULL
    ) STRICT
    """,
    # what is made of an event: where from, with what, by whom, why
    """
    CREATE TABLE place (
        id INTEGER PRIMARY KEY, country TEXT NOT NULL, region TEXT NOT NULL,
        UNIQUE (country, region)
    ) STRICT
    """,
    """
    CREATE TABLE program (
        id INTEGER PRIMARY KEY, device TEXT NOT NULL, client TEXT NOT NULL, system TEXT NOT NULL,
        UNIQUE (device, client, system)
    ) STRICT
    """,
    """
    CREATE TABLE visit (
        event INTEGER PRIMARY KEY, visitor INTEGER NOT NULL, place INTEGER NOT NULL,
        program INTEGER NOT NULL, reasons INTEGER NOT NULL, rules INTEGER NOT NULL
    ) STRICT
    """,
    # figures: per day and message, as a whole (dimension 0) and by one thing more
    """
    CREATE TABLE tally (
        origin INTEGER NOT NULL, dimension INTEGER NOT NULL, day INTEGER NOT NULL,
        value ANY NOT NULL, visitor INTEGER NOT NULL, opens INTEGER NOT NULL,
        openers INTEGER NOT NULL, readers INTEGER NOT NULL,
        clicks INTEGER NOT NULL, clickers INTEGER NOT NULL,
        PRIMARY KEY (dimension, day, origin, value, visitor)
    ) STRICT, WITHOUT ROWID
    """,
    # what a recipient did first, so that uniques are counted once: who is a keyed hash
    """
    CREATE TABLE first (
        origin INTEGER NOT NULL, who INTEGER NOT NULL, what INTEGER NOT NULL, day INTEGER NOT NULL,
        PRIMARY KEY (origin, who, what)
    ) STRICT, WITHOUT ROWID
    """,
    # copies made, where they were counted
    """
    CREATE TABLE copies (
        sender TEXT NOT NULL, message TEXT NOT NULL, number INTEGER NOT NULL,
        PRIMARY KEY (sender, message)
    ) STRICT, WITHOUT ROWID
    """,
    # the one row of how far everything is: events up to `judged` are in the figures, those up
    # to `purged` and before the day `purged_day` are gone
    """
    CREATE TABLE progress (
        id INTEGER PRIMARY KEY CHECK (id = 1), judged INTEGER NOT NULL DEFAULT 0,
        purged INTEGER NOT NULL DEFAULT 0, purged_day INTEGER NOT NULL DEFAULT 0,
        lost INTEGER NOT NULL DEFAULT 0, lost_at INTEGER NOT NULL DEFAULT 0, who BLOB NOT NULL
    ) STRICT
    """,
)


@migrations()
def m003_health(db: Database) -> None:
    """Make the health of trace domains: where they should lead, failures in a row, history."""
    for statement in _HEALTH:
        db.execute(statement)


_HEALTH = (
    "ALTER TABLE trace_domain ADD COLUMN target TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE trace_domain ADD COLUMN former_target TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE trace_domain ADD COLUMN dns_verified INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trace_domain ADD COLUMN dns_only INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trace_domain ADD COLUMN failures INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trace_domain ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trace_domain ADD COLUMN failing_since INTEGER NOT NULL DEFAULT 0",
    # until now there was no other target than the edge, and no other check than that of DNS
    "UPDATE trace_domain SET target = (SELECT edge FROM config)",
    "UPDATE trace_domain SET dns_verified = 1, dns_only = 1 WHERE last_ok_at > 0",
    # checks that found the same are one row
    """
    CREATE TABLE trace_check (
        id INTEGER PRIMARY KEY, trace_domain TEXT NOT NULL, state TEXT NOT NULL,
        found TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
        times INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX trace_check_of ON trace_check (trace_domain, id)",
)


@migrations()
def m004_campaigns(db: Database) -> None:
    """Make what keeps a campaign that goes on after an interruption from counting twice."""
    db.execute(
        """
        CREATE TABLE campaign (
            id TEXT PRIMARY KEY, number INTEGER NOT NULL, at INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """
    )


@migrations()
def m005_writers(db: Database) -> None:
    """Make how far each writer is; here there is one.  A visit has the time of its event."""
    for statement in _WRITERS:
        db.execute(statement)


_WRITERS = (
    "CREATE TABLE writer (id INTEGER PRIMARY KEY, judged INTEGER NOT NULL) STRICT",
    # ids go on behind whatever was judged or purged
    "INSERT INTO writer (id, judged) SELECT 0, max(judged, purged) FROM progress",
    "ALTER TABLE progress DROP COLUMN judged",
    "ALTER TABLE progress DROP COLUMN purged",
    # with it PostgreSQL keeps a visit beside its event, in the partition of the day
    "ALTER TABLE visit ADD COLUMN at INTEGER NOT NULL DEFAULT 0",
    "UPDATE visit SET at = coalesce((SELECT at FROM event WHERE event.id = visit.event), 0)",
    # a value is a text, whatever it is of: PostgreSQL has no column for any type
    (
        "UPDATE tally SET value = CASE WHEN dimension = 0 THEN '' ELSE CAST(value AS TEXT) END "
        "WHERE typeof(value) = 'integer'"
    ),
)


@migrations()
def m006_certificates(db: Database) -> None:
    """Keep when the certificate of a trace domain ends, as it was seen last."""
    db.execute("ALTER TABLE trace_domain ADD COLUMN certificate_ends INTEGER NOT NULL DEFAULT 0")


@migrations()
def m007_forgotten(db: Database) -> None:
    """Keep who was forgotten: `who` is the pseudonym, and copies minted up to `at` name nobody."""
    db.execute(
        "CREATE TABLE forgotten (who TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID"
    )


@migrations()
def m008_urls(db: Database) -> None:
    """Keep first clicks by the URL: one that stands in a mail twice is clicked by one reader."""
    number_by_url(cast("Connection", db.conn))


def apply(connection: sqlite3.Connection) -> bool:
    """Run what is pending; return whether anything was."""
    db = Database(connection)
    if not migrations.pending(db):
        return False
    migrations.apply(db)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return True
