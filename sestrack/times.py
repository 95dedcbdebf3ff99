"""Times as people and programs write them: ISO 8601, UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime

from sestrack.errors import UsageError


def utc(seconds: int) -> str:
    """Write seconds since 1970 as `2026-06-01T08:00:00Z`; "" for 0, which is never."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(time: str, option: str = "--at", now: int | None = None) -> int:
    """Read a time: `2026-06-01T08:00:00Z`, another offset, a day, or seconds since 1970.

    Without an offset it is UTC.  With `now` also what is so long ago: `7d`, `12h`, `30m`.
    Raises `UsageError` that names the option.
    """
    if time.isdigit() and len(time) > 8:  # noqa: PLR2004 - eight digits are a day
        return int(time)
    if now is not None and time[:-1].isdigit() and time[-1:] in _UNITS:
        return now - int(time[:-1]) * _UNITS[time[-1]]
    try:
        moment = datetime.fromisoformat(time)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        msg = f"{option} {time!r} is not a time"
        ago = ", or 7d" if now is not None else ""
        raise UsageError(msg, f"a time like 2026-06-01T08:00:00Z, a day{ago}") from None


def duration(text: str, option: str) -> int:
    """Read a span of time in seconds: `30s`, `10m`, `2h`, or a number of seconds.

    Raises `UsageError` that names the option.
    """
    number, unit = (text, "s") if text.isdigit() else (text[:-1], text[-1:])
    if not number.isdigit() or unit not in _UNITS:
        msg = f"{option} {text!r} is not a span of time"
        raise UsageError(msg, f"{option} 10m")
    return int(number) * _UNITS[unit]


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
