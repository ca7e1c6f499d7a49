"""One hash over everything a build reads, so that a second run with nothing changed does nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def hash_inputs(folders: Iterable[Path]) -> str:
    """sha256 in hex over the relative name, executable bit and content of every file below the folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                executable = b"x" if path.stat().st_mode & 0o100 else b"-"
                name = f"{folder.name}/{path.relative_to(folder).as_posix()}".encode()
                digest.update(name + b"\0" + executable + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
