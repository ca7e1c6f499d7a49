"""Writing a log: lines as they come from the pipes, in as few writes as possible, in files of a limited size.

Nothing here keeps a container waiting or fails it: what a full disk refuses is lost, and the engine's log says so,
as does the container's state.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from runtime.engine.logs import records
from runtime.engine.logs.files import compress, remove_unfinished, rotated, shift
from runtime.engine.logs.journal import UNFINISHED_BYTES, Journal, Mark, Pending
from runtime.engine.logs.unfinished import Unfinished
from runtime.engine.options import LogOptions
from runtime.engine.stdio import discard

log = logging.getLogger(__name__)

MAX_PIECE_BYTES = UNFINISHED_BYTES  # a line longer than this is written in pieces, as Docker does
IDLE_S = 0.5  # an unfinished line is written after this long, so that readers see it


class Log(Protocol):
    """What takes a container's output."""

    def take(self, stream: int, fd: int) -> bytes:
        """Read what `fd` has and keep it; raises what read(2) does."""

    def close(self) -> None: ...


class NoLog:
    """The driver `none`."""

    def take(self, stream: int, fd: int) -> bytes:
        return discard(stream, fd)

    def close(self) -> None: ...


class LogWriter:
    """Appends to a log; those that `watch` are told whenever there is more to read or the log is finished."""

    def __init__(
        self,
        path: Path,
        options: LogOptions,
        attributes: Mapping[str, str],
        journal: Journal,
        owner: str,
        on_fault: Callable[[str], None] = lambda fault: None,
    ) -> None:
        """`owner` is the container's id. `on_fault` is told why the log cannot be written, and "" when it can again."""
        self.path = path
        self._journal = journal
        self._owner = owner
        self._on_fault = on_fault
        self.generation = 0  # how many files have been begun since this writer was made
        self.closed = False
        self._options = options
        self._attributes = records.attributes_json(attributes)
        self._lossless = options.driver != "json-file"  # the format's readers elsewhere expect plain UTF-8
        self._unfinished = Unfinished(path)
        self._idle: asyncio.TimerHandle | None = None
        self._written_at_s = 0.0
        self._waiters: set[asyncio.Event] = set()
        self._last_ns = 0
        self._lost_bytes = 0
        self._compressing: asyncio.Task[None] | None = None
        self._to_compress: list[int] = []
        if options.compress:
            remove_unfinished(path)
        self._limit_bytes = options.max_size_bytes
        self._fd, self._inode, self._size_bytes = _open(path)
        self._torn = self._size_bytes > 0 and not _ends_with_newline(path)

    # --- taking output

    def take(self, stream: int, fd: int) -> bytes:
        """Read what `fd` has and write its whole lines; raises what read(2) does."""
        held = self._unfinished[stream]
        self._journal.begin(self._owner, stream, held)
        data = self._journal.read(fd)
        if data:
            self._write(stream, held + data)
            self._journal.end(len(data))
        return data

    def restore(self, pending: Pending) -> None:
        """Finish what a killed engine was writing here."""
        stored_bytes = pending.stored_bytes
        if self._mark() != pending.before:  # its last write did happen
            stored_bytes += pending.storing_bytes
        self._write(pending.stream, pending.output, stored_bytes)

    def _write(self, stream: int, output: bytes, done: int = 0) -> None:
        """Write whole lines of `output` from `done` on, and hold the rest back."""
        end = output.rfind(b"\n", done) + 1
        for piece in _pieces(output[done:end]) if end else ():
            self._append(stream, piece, done)
            done += len(piece)
        while len(output) - done >= MAX_PIECE_BYTES:
            piece = output[done : done + MAX_PIECE_BYTES]
            piece = piece[: whole_characters(piece)]
            self._append(stream, piece, done)
            done += len(piece)
        self._unfinished.keep(stream, output[done:])
        if done < len(output):
            self._written_at_s = time.monotonic()
            if self._idle is None:
                self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._check_idle)
        self._wake()

    def _check_idle(self) -> None:
        self._idle = None
        left_s = self._written_at_s + IDLE_S - time.monotonic()
        if self._unfinished and left_s > 0.01:
            self._idle = asyncio.get_running_loop().call_later(left_s, self._check_idle)
            return
        self._write_unfinished(whole_characters)
        self._wake()

    def _write_unfinished(self, length: Callable[[bytes], int]) -> None:
        """Write what is held back, of each line as much as `length` says."""
        for stream in records.STREAM_NAMES:
            if held := self._unfinished[stream]:
                cut = length(held)
                self._journal.begin(self._owner, stream, held)
                self._append(stream, held[:cut], 0)
                self._unfinished.keep(stream, held[cut:])
                self._journal.end(0)

    def _append(self, stream: int, text: bytes, done: int) -> None:
        """Whole lines, or a piece of one without its newline; `done` bytes of the output are in the log already."""
        if not text:
            return
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        end = records.record_end(stream, self._attributes, self._last_ns)
        encode = records.encode_lines if text.endswith(b"\n") else records.encode_piece
        self._store(encode(text, end, self._lossless), text, done)

    # --- files

    def _store(self, data: bytes, text: bytes, done: int) -> None:
        """`data` is the records of `text`."""
        while data:
            cut = len(data)
            if self._limit_bytes is not None:
                room = self._limit_bytes - self._size_bytes
                if room <= 0:
                    self._rotate()
                    continue
                cut = data.find(b"\n", room - 1) + 1 or cut  # a file is full when it has reached its size
            length = len(text) if cut == len(data) else _length_of_lines(text, data.count(b"\n", 0, cut))
            self._journal.storing(self._mark(), done, length)
            self._put(data[:cut])
            data, text, done = data[cut:], text[length:], done + length

    def _mark(self) -> Mark:
        return Mark(self._inode, self._size_bytes)

    def _put(self, data: bytes) -> None:
        if self._torn:
            data = b"\n" + data
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._fail(error, len(data))
            return
        self._size_bytes += written
        self._torn = not data.endswith(b"\n", 0, written)
        if written < len(data):
            self._fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), len(data) - written)
        elif self._lost_bytes:
            log.warning("%s is written again; %d bytes of it were lost", self.path, self._lost_bytes)
            self._lost_bytes = 0
            self._on_fault("")

    def _fail(self, error: OSError, lost_bytes: int) -> None:
        if not self._lost_bytes:
            log.warning("%s cannot be written, output is lost until it can: %s", self.path, error.strerror)
            self._on_fault(f"its log cannot be written, output is lost until it can: {error.strerror}")
        self._lost_bytes += lost_bytes

    def _rotate(self) -> None:
        try:
            if self._options.max_files > 1:
                shift(self.path, self._options.max_files)
            else:
                self.path.unlink(missing_ok=True)
            fd, inode, size_bytes = _open(self.path)
        except OSError as error:
            self._fail(error, 0)
            assert self._limit_bytes is not None
            self._limit_bytes *= 2  # goes on in the old file, and tries again when that has doubled
            return
        os.close(self._fd)
        self._fd, self._inode, self._size_bytes, self._torn = fd, inode, size_bytes, False
        self._limit_bytes = self._options.max_size_bytes
        if self._options.compress:
            self._to_compress.append(self.generation)
            if self._compressing is None or self._compressing.done():
                self._compressing = asyncio.ensure_future(self._compress())
        self.generation += 1

    async def _compress(self) -> None:
        while self._to_compress:
            generation = self._to_compress.pop(0)
            number = self.generation - generation
            if number >= self._options.max_files:
                continue
            try:
                settle = await asyncio.to_thread(compress, rotated(self.path, number))
                settle(rotated(self.path, self.generation - generation))
            except FileNotFoundError:
                continue  # the container is gone
            except OSError as error:
                log.warning("an old file of %s stays as it is, compressing it failed: %s", self.path, error)

    # --- readers

    def watch(self) -> asyncio.Event:
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        return waiter

    def unwatch(self, waiter: asyncio.Event) -> None:
        self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.set()

    def close(self) -> None:
        """Write what is left of unfinished lines, and let followers finish."""
        if self.closed:
            return
        self._write_unfinished(len)
        self._unfinished.remove()
        self.release()
        self._wake()

    def release(self) -> None:
        """Leave the files as they are, for the next writer."""
        if self._idle:
            self._idle.cancel()
        self.closed = True
        self._unfinished.close()
        os.close(self._fd)


def _open(path: Path) -> tuple[int, int, int]:
    """A descriptor for appending, the file's inode number and its size in bytes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    status = os.fstat(fd)
    return fd, status.st_ino, status.st_size


def _ends_with_newline(path: Path) -> bool:
    """False for a file whose last record a power cut or a full disk has torn."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _pieces(lines: bytes) -> Iterator[bytes]:
    """Whole lines together; those longer than MAX_PIECE_BYTES in pieces, the last of which has the newline."""
    start = position = 0
    while len(lines) - position > MAX_PIECE_BYTES:
        newline = lines.rfind(b"\n", position, position + MAX_PIECE_BYTES + 1)
        if newline >= 0:
            position = newline + 1
            continue
        yield lines[start:position]
        cut = position + whole_characters(lines[position : position + MAX_PIECE_BYTES])
        yield lines[position:cut]
        start = position = cut
    yield lines[start:]


def _length_of_lines(text: bytes, count: int) -> int:
    """How long the first `count` lines of `text` are."""
    return len(text) - len(text.split(b"\n", count)[count])


def whole_characters(text: bytes) -> int:
    """The length of `text` without a UTF-8 character at its end that is not all there."""
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte & 0xC0 != 0x80:  # ASCII or the first byte of a character
            length = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(text) - back if length > back and len(text) > back else len(text)
    return len(text)
