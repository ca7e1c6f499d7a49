"""The user's settings: one versioned JSON file, written whole or not at all.

Keys this version does not know are kept, so that going back to an older Wherry loses nothing.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from app.core.errors import UserError

VERSION = 1


class Settings:
    """A mapping of names to JSON values in `path`. `set` writes at once."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self._path = path
        self._values = values

    @classmethod
    def load(cls, path: Path) -> "Settings":
        """The settings in `path`; none if there is no such file. Raises UserError when it makes no sense."""
        try:
            document = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return cls(path, {})
        except (OSError, ValueError) as failed:
            raise UserError(
                f"The settings in {path} cannot be read: {failed}.",
                "Mend the file, or move it away to start afresh.",
            ) from failed
        if not isinstance(document, dict) or not isinstance(document.get("settings"), dict):
            raise UserError(f"The file {path} does not hold settings.", "Move it away to start afresh.")
        if document.get("version", 0) > VERSION:
            raise UserError(f"The settings in {path} were written by a newer Wherry.", "Update Wherry.")
        return cls(path, document["settings"])

    def get(self, name: str, default: Any) -> Any:
        """The value, or `default` if there is none or it is of another type."""
        value = self._values.get(name, default)
        return value if isinstance(value, type(default)) else default

    def set(self, name: str, value: Any) -> None:
        """Raises UserError when the file cannot be written; the old one is then still whole."""
        self._values = {**self._values, name: value}
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        document = {"version": VERSION, "settings": self._values}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(document, file, indent=2, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as failed:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise UserError(f"The settings cannot be written to {self._path}: {failed.strerror}.") from failed
