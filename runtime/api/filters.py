"""The `filters` parameter where it means the same for every kind of object: labels, booleans, `until`.

Reading and refusing as moby's api/types/filters and api/types/time do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence

from runtime.api.http1 import Query
from runtime.api.wire.times import parse_timestamp
from runtime.errors import InvalidParameter

Filters = Mapping[str, Sequence[str]]

TRUE = ("1", "t", "T", "true", "True", "TRUE")
FALSE = ("0", "f", "F", "false", "False", "FALSE")

_DURATION_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION_PART = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)"


def read(query: Query, known: Collection[str]) -> dict[str, list[str]]:
    """The filters given; raises InvalidParameter for one that this endpoint does not have."""
    filters = query.filters()
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")
    return filters


def boolean(filters: Filters, name: str, default: bool) -> bool:
    """As filters.Args.GetBoolOrDefault."""
    values = filters.get(name)
    if not values:
        return default
    if len(values) != 1 or values[0] not in (*TRUE, *FALSE):
        raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")
    return values[0] in TRUE


def has_labels(filters: Filters, labels: Mapping[str, str]) -> bool:
    """Whether labels meet every `label` and not every `label!`."""
    wanted, unwanted = filters.get("label", ()), filters.get("label!", ())
    if not all(_has_label(labels, label) for label in wanted):
        return False
    return not (unwanted and all(_has_label(labels, label) for label in unwanted))


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def until_ns(filters: Filters) -> int | None:
    """`until` as ns since the epoch: a time, or a duration such as `10m` or `1h30m` before now."""
    values = filters.get("until")
    if not values:
        return None
    if len(values) > 1:
        raise InvalidParameter("more than one until filter specified")
    duration_ns = parse_duration(values[0])
    if duration_ns is not None:
        return time.time_ns() - duration_ns
    try:
        return parse_timestamp(values[0])
    except InvalidParameter:
        raise InvalidParameter(f'failed to parse value as time or duration: "{values[0]}"') from None


def parse_duration(text: str) -> int | None:
    """Go's time.ParseDuration in ns; None for what is no duration."""
    if not re.fullmatch(f"({_DURATION_PART})+", text):
        return None
    return round(sum(float(number) * _DURATION_UNITS_NS[unit] for number, unit in re.findall(_DURATION_PART, text)))
