"""Lines of Docker's JSON message stream (moby pkg/jsonmessage)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runtime.engine.distribution.progress import Progress

_BAR_WIDTH = 50
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_WITHOUT_DETAIL = ("Pulling from", "Digest:", "Status:")


def message_line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\r\n"


def error_line(message: str) -> bytes:
    return message_line({"errorDetail": {"message": message}, "error": message})


def progress_lines(batch: Sequence[Progress]) -> bytes:
    return b"".join(message_line(_document(line)) for line in batch)


def _document(line: Progress) -> dict[str, Any]:
    if line.aux is not None:
        return {"progressDetail": {}, "aux": line.aux}
    document: dict[str, Any] = {"status": line.status}
    if line.total_bytes:
        document["progressDetail"] = {"current": line.current_bytes, "total": line.total_bytes}
        document["progress"] = _bar(line.current_bytes, line.total_bytes)
    elif line.id and not line.status.startswith(_WITHOUT_DETAIL):
        document["progressDetail"] = {}
    if line.id:
        document["id"] = line.id
    return document


def _bar(current: int, total: int) -> str:
    filled = min(_BAR_WIDTH, current * _BAR_WIDTH // total)
    head = ">" if filled < _BAR_WIDTH else ""
    bar = ("=" * filled + head).ljust(_BAR_WIDTH)
    return f"[{bar}] {_human(current):>7}/{_human(total)}"


def _human(size: float) -> str:
    """go-units' HumanSize: four significant digits."""
    for unit in _UNITS:
        if size < 1000:
            return f"{size:.4g}{unit}"
        size /= 1000
    return f"{size:.4g}EB"
