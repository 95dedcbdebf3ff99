"""Times as people and programs write them: ISO 8601, UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime

from sestrack.errors import UsageError


def utc(seconds: int) -> str:
    """Write seconds since 1970 as `2026-06-01T08:00:00Z`; "" for 0, which is never."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(time: str) -> int:
    """Read a time: `2026-06-01T08:00:00Z`, another offset, a day, or seconds since 1970.

    Without an offset it is UTC.  Raises `UsageError`.
    """
    if time.isdigit() and len(time) > 8:  # noqa: PLR2004 - eight digits are a day
        return int(time)
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        msg = f"--at {time!r} is not a time"
        raise UsageError(msg, "a time like 2026-06-01T08:00:00Z") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
