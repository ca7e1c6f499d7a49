"""The files of one log: the one being written, and older ones as `PATH.1`, `PATH.2`, perhaps with `.gz`.

The event loop alone renames them, so what it opens in one step belongs together.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

UNFINISHED_SUFFIX = ".compressing"
GZIP_LEVEL = 1  # logs are repetitive: more costs time only


def rotated(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _compressed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def shift(path: Path, max_files: int) -> None:
    """Make room at PATH: every older file moves up by one, the oldest goes."""
    for number in range(max_files - 1, -1, -1):
        for name in (lambda path: path, _compressed):
            source = name(rotated(path, number))
            with contextlib.suppress(FileNotFoundError):
                if number == max_files - 1:
                    source.unlink()
                else:
                    source.rename(name(rotated(path, number + 1)))


def remove_unfinished(path: Path) -> None:
    """What a killed engine was compressing."""
    for left in path.parent.glob(f"{path.name}.*{UNFINISHED_SUFFIX}"):
        left.unlink()


def compress(path: Path) -> Callable[[Path], None]:
    """Gzip the file at `path`, wherever it is renamed to meanwhile: for a worker thread.

    Returns what puts the result in the place of the file, given the name it has by then.
    """
    temporary = path.with_name(f"{path.name}{UNFINISHED_SUFFIX}")
    with path.open("rb") as source, gzip.open(temporary, "wb", GZIP_LEVEL) as target:
        shutil.copyfileobj(source, target, 1 << 18)

    def settle(current: Path) -> None:
        if current.exists():
            temporary.rename(_compressed(current))
            current.unlink()
        else:
            temporary.unlink()

    return settle


class LogFile:
    """One file opened for reading; compressed ones are unpacked into an unnamed file when they are first read."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError."""
        self._directory = path.parent
        try:
            self._file: IO[bytes] = path.open("rb", buffering=0)
            self._packed = False
        except FileNotFoundError:
            self._file = _compressed(path).open("rb", buffering=0)
            self._packed = True

    def unpacked(self) -> IO[bytes]:
        """Perhaps slow: for a worker thread."""
        if self._packed:
            plain = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - this object closes it
            with contextlib.suppress(EOFError, gzip.BadGzipFile), gzip.open(self._file) as source:
                shutil.copyfileobj(source, plain, 1 << 18)
            plain.seek(0)
            self._file.close()
            self._file, self._packed = plain, False
        return self._file

    def unread_bytes(self) -> int | None:
        """None for what is not unpacked yet."""
        return None if self._packed else os.fstat(self._file.fileno()).st_size - self._file.tell()

    def close(self) -> None:
        self._file.close()


def open_all(path: Path, max_files: int) -> list[LogFile]:
    """Every file there is, the oldest first."""
    files = []
    for number in range(max_files - 1, -1, -1):
        with contextlib.suppress(FileNotFoundError):
            files.append(LogFile(rotated(path, number)))
    return files
