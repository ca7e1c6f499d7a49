"""The lines of a log that have no end yet, held back until it comes; in a file as well, for a killed engine's heir."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

_LENGTHS = struct.Struct("=II")  # of what stdout and stderr said, which follow


class Unfinished:
    """By stream (1 and 2), b"" where there is nothing. The file is made when there first is something."""

    def __init__(self, log_path: Path) -> None:
        """Take over what is there; raises OSError."""
        self._path = f"{log_path}.unfinished"
        self._lines = [b"", b"", b""]
        self._fd = -1
        with contextlib.suppress(FileNotFoundError):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            self._read()

    def _read(self) -> None:
        content = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        if len(content) >= _LENGTHS.size:
            out, err = _LENGTHS.unpack_from(content)
            text = content[_LENGTHS.size :]
            self._lines = [b"", text[:out], text[out : out + err]]

    def __getitem__(self, stream: int) -> bytes:
        return self._lines[stream]

    def __bool__(self) -> bool:
        return any(self._lines)

    def keep(self, stream: int, line: bytes) -> None:
        """Hold `line` in place of what was held; a full disk keeps it from a killed engine's heir only."""
        if line == self._lines[stream]:
            return
        self._lines[stream] = line
        with contextlib.suppress(OSError):
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            _, out, err = self._lines
            os.pwrite(self._fd, _LENGTHS.pack(len(out), len(err)) + out + err, 0)

    def remove(self) -> None:
        """Nothing is held any more."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
