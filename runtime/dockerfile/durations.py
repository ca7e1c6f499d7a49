"""Durations as Go writes them: `1m30s`."""

import re

from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.wording import quoted

_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_MAX_NS = 2**63 - 1


def parse_ns(text: str) -> int:
    """Nanoseconds. Raises DockerfileError."""
    unsigned = text[1:] if text[:1] in ("-", "+") else text
    if unsigned == "0":
        return 0
    if not unsigned or _PART.sub("", unsigned):
        bare = unsigned.replace(".", "", 1).isascii() and unsigned.replace(".", "", 1).isdigit()
        problem = "missing unit in duration" if bare else "invalid duration"
        raise DockerfileError(f"time: {problem} {quoted(text)}")
    total = sum(_exact(number, _NANOSECONDS[unit]) for number, unit in _PART.findall(unsigned))
    if total > _MAX_NS:
        raise DockerfileError(f"time: invalid duration {quoted(text)}")
    return -total if text.startswith("-") else total


def _exact(number: str, unit_ns: int) -> int:
    whole, _, fraction = number.partition(".")
    fraction = fraction[:18]
    scale = int("1" + "0" * len(fraction))
    return int(whole[:30] or "0") * unit_ns + int(fraction or "0") * unit_ns // scale
