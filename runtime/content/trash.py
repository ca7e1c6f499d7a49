"""Removal in two steps: a rename at once, the deleting when there is time."""

import os
import secrets
from pathlib import Path

from runtime.content.tree import remove_children


class Trash:
    """A directory on the same file system as what is discarded into it. One thread empties it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)

    def discard(self, path: Path) -> None:
        """Takes `path` out of sight. Raises FileNotFoundError."""
        os.rename(path, f"{self._directory}/{path.name}.{secrets.token_hex(4)}")

    def empty(self) -> int:
        """Deletes everything discarded so far; returns how many trees that were. Raises OSError."""
        return remove_children(self._directory)
