"""Tables, JSON, ages and sizes, in the form `docker` prints them."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from typing import Any

_GAP = "   "
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_WEEK_S, _MONTH_S, _YEAR_S = 7 * _DAY_S, 30 * _DAY_S, 365 * _DAY_S


def add_format_option(parser: ArgumentParser) -> None:
    parser.add_argument("--format", choices=["table", "json"], default="table", help="table, or json for programs")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; an empty table still has its headings."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(_GAP.join(cells).rstrip() + "\n")


def print_json(value: Any) -> None:
    """Dataclasses become objects with their field names."""
    sys.stdout.write(json.dumps(value, default=_fields, indent=2, ensure_ascii=False) + "\n")


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def human_duration(seconds: float) -> str:
    """go-units' HumanDuration, so that ages read like `docker ps`."""
    whole_s = int(seconds)
    if whole_s < 1:
        return "Less than a second"
    if whole_s < _MINUTE_S:
        return _count(whole_s, "second")
    if whole_s < 2 * _MINUTE_S:
        return "About a minute"
    if whole_s < _HOUR_S:
        return f"{whole_s // _MINUTE_S} minutes"
    if whole_s < 1.5 * _HOUR_S:
        return "About an hour"
    if whole_s < 2 * _DAY_S:
        return f"{round(whole_s / _HOUR_S)} hours"
    if whole_s < 2 * _WEEK_S:
        return f"{whole_s // _DAY_S} days"
    if whole_s < 2 * _MONTH_S:
        return f"{whole_s // _WEEK_S} weeks"
    if whole_s < 2 * _YEAR_S:
        return f"{whole_s // _MONTH_S} months"
    return f"{whole_s // _YEAR_S} years"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def human_size(size_bytes: float) -> str:
    """Three digits and a decimal unit: 7.83MB."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}TB"


def short_id(identity: str) -> str:
    return identity.removeprefix("sha256:")[:12]


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
