"""What has left a container's pipe and is not in its log yet: pages shared with a file, which a kill leaves there.

Output is read straight into these pages and written to the log from them, so no line is lost or written twice
wherever in between the engine is killed. There is one journal for all containers: the engine handles one read at a
time. The file is in memory (tmpfs), and nothing here is a system call but the read itself.

Layout: a state byte (0: nothing is pending, else which of two slots describes it), two slots, the unfinished line that
came before, and what was read. Free room for what is read is filled with 0xff, which no UTF-8 text contains: where it
begins, what was read ends. (Bytes 0xff at the very end of a read are lost by a kill at that moment.)
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

from runtime.engine.stdio import READ_BYTES

log = logging.getLogger(__name__)

UNFINISHED_BYTES = 1 << 14  # the longest line that is held back

_SLOT = struct.Struct("=64sBQQIII")
_SLOTS_AT = (0, 64, 192)  # by state
_UNFINISHED_AT = 512
_READ_AT = mmap.PAGESIZE + UNFINISHED_BYTES
_SIZE_BYTES = _READ_AT + READ_BYTES
_FREE = b"\xff" * READ_BYTES


class Mark(NamedTuple):
    """Where a log ends: by these two a killed engine's last write is known to have happened, or not."""

    inode: int
    size_bytes: int


class Pending(NamedTuple):
    """What a killed engine was doing. `output` is the unfinished line and what was read after it."""

    owner: str
    stream: int
    output: bytes
    before: Mark  # where the log ended before the last write
    stored_bytes: int  # how much of `output` was in the log before that
    storing_bytes: int  # and how much the last write was to add


class Journal:
    """Use as `begin`, `read`, any number of `storing`, each followed by one write to the log, then `end`."""

    def __init__(self, path: Path | None = None) -> None:
        """Open what a killed engine left. Without `path`, or room for it, this process alone knows."""
        self._pages = _map(path)
        self._view = memoryview(self._pages)
        self._room = self._view[_READ_AT:]
        self.pending = self._left()
        self._begun: tuple[bytes, int, int] = (b"", 0, 0)
        if not self.pending:
            self._room[:] = _FREE

    def begin(self, owner: str, stream: int, unfinished: bytes) -> None:
        """Output of `owner`'s `stream` is about to be read, or written after it was held back."""
        self._pages[0] = 0  # a read that had nothing has not come to its end
        if unfinished:
            self._view[_UNFINISHED_AT : _UNFINISHED_AT + len(unfinished)] = unfinished
        self._begun = owner.encode(), stream, len(unfinished)
        self._describe(Mark(0, 0), 0, 0)

    def read(self, fd: int) -> bytes:
        """At most READ_BYTES; raises what read(2) does."""
        count = os.readv(fd, [self._room])
        return bytes(self._room[:count])

    def storing(self, mark: Mark, stored_bytes: int, storing_bytes: int) -> None:
        """The next write adds `storing_bytes` behind the output's first `stored_bytes`; the log ends at `mark`."""
        self._describe(mark, stored_bytes, storing_bytes)

    def end(self, read_bytes: int) -> None:
        """All of it is in the log, or held back where it will be found."""
        self._pages[0] = 0
        self._room[:read_bytes] = _FREE[:read_bytes]

    def forget(self) -> None:
        """What was pending has been dealt with."""
        self.pending = None
        self.end(READ_BYTES)

    def _describe(self, mark: Mark, stored_bytes: int, storing_bytes: int) -> None:
        state = 1 if self._pages[0] != 1 else 2
        owner, stream, unfinished_bytes = self._begun
        _SLOT.pack_into(
            self._view, _SLOTS_AT[state], owner, stream, *mark, unfinished_bytes, stored_bytes, storing_bytes
        )
        self._pages[0] = state

    def _left(self) -> Pending | None:
        state = self._pages[0]
        if state not in (1, 2):
            return None
        owner, stream, inode, size_bytes, unfinished_bytes, stored, storing = _SLOT.unpack_from(
            self._view, _SLOTS_AT[state]
        )
        unfinished = bytes(self._view[_UNFINISHED_AT : _UNFINISHED_AT + unfinished_bytes])
        output = unfinished + bytes(self._room).rstrip(b"\xff")
        return Pending(owner.rstrip(b"\0").decode(), stream, output, Mark(inode, size_bytes), stored, storing)


def _map(path: Path | None) -> mmap.mmap:
    if path:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _SIZE_BYTES)  # a page without room would end the engine by SIGBUS
                return mmap.mmap(fd, _SIZE_BYTES)
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("%s cannot be made: a killed engine may lose lines of logs: %s", path, error.strerror)
    return mmap.mmap(-1, _SIZE_BYTES)
