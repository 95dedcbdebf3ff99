"""Times as people and programs write them: ISO 8601, UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime

from sestrack.errors import UsageError

FIRST, LAST = -62_135_596_800, 253_402_300_799
"""The seconds of the years 1 to 9999, which `datetime` and ISO 8601 can write."""


def utc(seconds: int) -> str:
    """Write seconds since 1970 as `2026-06-01T08:00:00Z`; "" for 0, which is never."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(time: str, option: str = "--at", now: int | None = None) -> int:
    """Read a time in seconds since 1970, as `milliseconds_of` does."""
    return milliseconds_of(time, option, now) // 1000


def milliseconds_of(time: str, option: str, now: int | None = None) -> int:
    """Read a time: `2026-06-01T08:00:00Z`, another offset, a day, or seconds since 1970.

    Without an offset it is UTC.  With `now` (seconds) also what is so long ago: `7d`, `12h`, `30m`.
    Raises `UsageError` that names the option.
    """
    try:
        if time.isdecimal() and len(time) > 8:  # noqa: PLR2004 - eight digits are a day
            milliseconds = int(time) * 1000
        elif now is not None and time[:-1].isdecimal() and time[-1:] in _UNITS:
            milliseconds = (now - int(time[:-1]) * _UNITS[time[-1]]) * 1000
        else:
            moment = datetime.fromisoformat(time)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            milliseconds = round(moment.timestamp() * 1000)
        if not FIRST * 1000 <= milliseconds <= LAST * 1000:
            raise ValueError
    except (ValueError, OverflowError):  # int() takes some thousand digits, and no more
        msg = f"{option} {time!r} is not a time"
        if now is not None and time.isdecimal():
            raise UsageError(msg, f"{option} {time}d") from None
        ago = ", or 7d" if now is not None else ""
        raise UsageError(
            msg, f"a time like 2026-06-01T08:00:00Z, a day like 2026-06-01{ago}"
        ) from None
    return milliseconds


def duration(text: str, option: str) -> int:
    """Read a span of time in seconds: `30s`, `10m`, `2h`, or a number of seconds.

    Raises `UsageError` that names the option.
    """
    number, unit = (text, "s") if text.isdecimal() else (text[:-1], text[-1:])
    if not number.isdecimal() or len(number) > _DIGITS or unit not in _UNITS:
        msg = f"{option} {text!r} is not a span of time"
        raise UsageError(msg, f"{option} 10m")
    return int(number) * _UNITS[unit]


_DIGITS = 9
"""What a span may have: thirty years of seconds."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
