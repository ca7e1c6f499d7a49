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
from runtime.engine.options import LogOptions

log = logging.getLogger(__name__)

MAX_PIECE_BYTES = 1 << 14  # a line longer than this is written in pieces, as Docker does
IDLE_S = 0.5  # an unfinished line is written after this long, so that a killed engine loses none


class Log(Protocol):
    """What takes a container's output."""

    def write(self, stream: int, data: bytes) -> None: ...

    def close(self) -> None: ...


class NoLog:
    """The driver `none`."""

    def write(self, stream: int, data: bytes) -> None: ...

    def close(self) -> None: ...


class LogWriter:
    """Appends to a log; those that `watch` are told whenever there is more to read or the log is finished."""

    def __init__(
        self,
        path: Path,
        options: LogOptions,
        attributes: Mapping[str, str],
        on_fault: Callable[[str], None] = lambda fault: None,
    ) -> None:
        """`on_fault` is told why the log cannot be written, and "" when it can again."""
        self.path = path
        self._on_fault = on_fault
        self.generation = 0  # how many files have been begun since this writer was made
        self.closed = False
        self._options = options
        self._attributes = records.attributes_json(attributes)
        self._lossless = options.driver != "json-file"  # the format's readers elsewhere expect plain UTF-8
        self._partial: dict[int, bytes] = {}
        self._idle: asyncio.TimerHandle | None = None
        self._written_at_s = 0.0
        self._waiters: set[asyncio.Event] = set()
        self._last_ns = 0
        self._lost_bytes = 0
        self._compressing: asyncio.Task[None] | None = None
        self._to_compress: list[int] = []
        if options.compress:
            remove_unfinished(path)
        self._fd, self._size_bytes = _open(path)
        self._torn = self._size_bytes > 0 and not _ends_with_newline(path)

    # --- taking output

    def write(self, stream: int, data: bytes) -> None:
        if rest := self._partial.pop(stream, b""):
            data = rest + data
        whole = data.rfind(b"\n") + 1
        for piece in _pieces(data[:whole]):
            self._append(stream, piece)
        rest = data[whole:]
        while len(rest) >= MAX_PIECE_BYTES:
            cut = whole_characters(rest[:MAX_PIECE_BYTES])
            self._append(stream, rest[:cut])
            rest = rest[cut:]
        if rest:
            self._partial[stream] = rest
            self._written_at_s = time.monotonic()
            if self._idle is None:
                self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._check_idle)
        self._wake()

    def _check_idle(self) -> None:
        self._idle = None
        left_s = self._written_at_s + IDLE_S - time.monotonic()
        if self._partial and left_s > 0.01:
            self._idle = asyncio.get_running_loop().call_later(left_s, self._check_idle)
            return
        for stream, rest in list(self._partial.items()):
            cut = whole_characters(rest)
            self._append(stream, rest[:cut])
            self._partial[stream] = rest[cut:]
        self._wake()

    def _append(self, stream: int, text: bytes) -> None:
        """Whole lines, or a piece of one without its newline."""
        if not text:
            return
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        end = records.record_end(stream, self._attributes, self._last_ns)
        encode = records.encode_lines if text.endswith(b"\n") else records.encode_piece
        self._store(encode(text, end, self._lossless))

    # --- files

    def _store(self, data: bytes) -> None:
        limit_bytes = self._options.max_size_bytes
        while data:
            if limit_bytes is None:
                self._put(data)
                return
            room = limit_bytes - self._size_bytes
            if room <= 0:
                self._rotate()
                continue
            cut = data.find(b"\n", room - 1) + 1 or len(data)  # a file is full when it has reached its size
            self._put(data[:cut])
            data = data[cut:]

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
            fd, size_bytes = _open(self.path)
        except OSError as error:
            self._fail(error, 0)
            self._size_bytes = 0  # goes on in the old file, and tries again when that has doubled
            return
        os.close(self._fd)
        self._fd, self._size_bytes, self._torn = fd, size_bytes, False
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
        if self._idle:
            self._idle.cancel()
        for stream, rest in self._partial.items():
            self._append(stream, rest)
        self.closed = True
        os.close(self._fd)
        self._wake()


def _open(path: Path) -> tuple[int, int]:
    """A descriptor for appending, and the file's size in bytes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    return fd, os.fstat(fd).st_size


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


def whole_characters(text: bytes) -> int:
    """The length of `text` without a UTF-8 character at its end that is not all there."""
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte & 0xC0 != 0x80:  # ASCII or the first byte of a character
            length = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(text) - back if length > back and len(text) > back else len(text)
    return len(text)
