"""Times and durations as Docker writes them."""

from __future__ import annotations

import calendar
import re
from datetime import datetime

from runtime.engine.logs import rfc3339_nano
from runtime.errors import InvalidParameter

NEVER = "0001-01-01T00:00:00Z"


def timestamp(time_ns: int) -> str:
    return rfc3339_nano(time_ns) if time_ns else NEVER


def parse_timestamp(text: str) -> int:
    """A `since` or `until`: seconds with a fraction, or RFC 3339; ns since the epoch; raises InvalidParameter."""
    if re.fullmatch(r"\d+(\.\d{1,9})?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * 1_000_000_000 + int((fraction + "0" * 9)[:9])
    match = re.fullmatch(r"([^.]+?)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)?", text)
    try:
        if not match:
            raise ValueError
        moment = datetime.fromisoformat(match[1] + (match[3] or "+00:00").replace("Z", "+00:00"))
    except ValueError:
        raise InvalidParameter(f"invalid time {text!r}: give seconds since 1970 or an RFC 3339 time") from None
    seconds = calendar.timegm(moment.utctimetuple())
    return seconds * 1_000_000_000 + int(((match[2] or "") + "0" * 9)[:9])


def human_duration(seconds: float) -> str:
    """go-units' HumanDuration."""
    whole = int(seconds)
    minutes, hours = whole // 60, round(whole / 3600)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    for unit_hours, limit, name in (
        (24, 24 * 14, "days"),
        (24 * 7, 24 * 60, "weeks"),
        (24 * 30, 24 * 730, "months"),
    ):
        if hours < limit:
            return f"{hours // unit_hours} {name}"
    return f"{hours // 24 // 365} years"
