"""The schema of the store, as the list of what made it (sqlite-utils' Migrations).

A migration that was released is never changed.  All that are pending run in the one
transaction of `store.initialise`; `PRAGMA user_version` counts them, so that a reader
knows at a glance.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from sestrack.store import APPLICATION_ID, SCHEMA_VERSION

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


def apply(db: Database) -> bool:
    """Run what is pending; return whether anything was."""
    if not migrations.pending(db):
        return False
    migrations.apply(db)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return True
