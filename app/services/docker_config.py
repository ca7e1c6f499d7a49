"""The docker CLI's configuration, ~/.docker/config.json, which several programs share."""

import json
import os
from pathlib import Path
from typing import Any

from app.core.errors import UserError


def config_directory() -> Path:
    """$DOCKER_CONFIG, or ~/.docker."""
    given = os.environ.get("DOCKER_CONFIG")
    return Path(given) if given else Path.home() / ".docker"


def read_document(path: Path) -> dict[str, Any]:
    """Empty when there is none. Raises UserError."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as failed:
        raise UserError(f"{path} cannot be read: {failed}.") from failed
    return document if isinstance(document, dict) else {}


def write_document(path: Path, document: dict[str, Any], indent: str | None = "\t") -> None:
    """Replace the file, so that a reader finds the old text or the new one; for this user alone. Raises UserError."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, not a path)
            json.dump(document, file, indent=indent, separators=None if indent else (",", ":"))
        unfinished.replace(path)
    except OSError as failed:
        raise UserError(f"{path} cannot be written: {failed}.") from failed
