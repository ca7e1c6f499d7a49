import re
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from datetime import UTC, datetime

from app.cli.context import Context

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on as more is written")
    parser.add_argument("-n", "--tail", type=line_count, metavar="N", help="the last N lines only")
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="from a time (2026-01-02T15:04:05) or age (10m) on"
    )
    parser.add_argument("-t", "--timestamps", action="store_true", help="with the time of each line")
    parser.add_argument("name", metavar="CONTAINER")


def run(context: Context, arguments: Namespace) -> int:
    stream = context.client.logs(
        arguments.name,
        follow=arguments.follow,
        timestamps=arguments.timestamps,
        tail=arguments.tail,
        since=arguments.since,
    )
    targets = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    with stream:
        for output in stream:
            targets[output.stream].write(output.data)
            targets[output.stream].flush()
    return 0


def line_count(text: str) -> int | None:
    if text == "all":
        return None
    if text.isdigit():
        return int(text)
    raise ArgumentTypeError(f"{text!r} is not a number of lines")


def moment(text: str, now_s: float | None = None) -> float:
    """Seconds since the epoch of an age ("1h30m"), such a number, or an ISO 8601 time (local if it has no zone)."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _DURATION_PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        age_s = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
        return (time.time() if now_s is None else now_s) - age_s
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a time nor an age like 10m") from None
    return parsed.astimezone(UTC).timestamp()
