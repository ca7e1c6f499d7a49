"""Reading a log back: across its files, from a time or the last lines on, to the end or as long as it grows.

The files themselves are followed, block by block, so that a slow client costs no memory; large blocks are taken in a
worker thread, so that others are served meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import repeat
from operator import add
from pathlib import Path
from typing import IO
from urllib.parse import quote_plus

from runtime.engine.logs.batches import Batch, batches, line_ends, time_of
from runtime.engine.logs.files import LogFile, open_all, rotated
from runtime.engine.logs.records import rfc3339_nano
from runtime.engine.logs.writer import LogWriter

BLOCK_BYTES = 1 << 20
INLINE_BYTES = 1 << 16  # less than this is not worth a thread
TAIL_BLOCK_BYTES = 1 << 16
SEEK_BYTES = 1 << 17  # of a block that may be passed over, as much as holds its last record
LAST_NS = 253402300799_999_999_999  # of the year 9999


@dataclass(frozen=True)
class LogQuery:
    """What of a log is wanted; times are in ns, `tail` is a number of lines (None: all)."""

    stdout: bool = True
    stderr: bool = True
    since_ns: int = 0
    until_ns: int = 0
    tail: int | None = None
    timestamps: bool = False
    details: bool = False
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of one stream, to be shown as prefix, line, newline each; `newline` is empty for a part of a line.

    There are as many prefixes as lines, or none.
    """

    stream: int
    prefixes: list[bytes]
    lines: list[bytes]
    newline: bytes


Render = Callable[[Lines], bytes]


async def read_log(
    path: Path, max_files: int, writer: LogWriter | None, query: LogQuery, render: Render
) -> AsyncIterator[bytes]:
    """What `render` makes of the wanted lines; with `follow` until the writer closes."""
    writer = writer if query.follow else None
    changed = writer.watch() if writer else None
    scan = _Scan(path, max_files, writer, query, render)
    try:
        if query.tail is not None:
            await asyncio.to_thread(scan.skip_to_tail, query.tail)
        if query.since_ns:
            await asyncio.to_thread(scan.skip_to_since)
        while True:
            if changed:
                changed.clear()
            finished = writer is None or writer.closed
            newest = writer.generation if writer else 0
            output = await asyncio.to_thread(scan.step) if scan.is_large() else scan.step()
            if output:
                yield output
            elif scan.over:
                return
            elif output is None and not scan.next_file(newest):
                if finished or changed is None:
                    return
                try:
                    async with asyncio.timeout(_seconds_until(query.until_ns)):
                        await changed.wait()
                except TimeoutError:
                    return
    finally:
        scan.close()
        if changed and writer:
            writer.unwatch(changed)


def _seconds_until(until_ns: int) -> float | None:
    return max(0.0, (until_ns - time.time_ns()) / 1e9) if until_ns else None


def _time_text(time_ns: int) -> bytes:
    """As records have it, so that they compare; nothing for 0."""
    return rfc3339_nano(min(max(time_ns, 1), LAST_NS)).encode() if time_ns else b""


class _Scan:
    """One reader's place in a log."""

    def __init__(self, path: Path, max_files: int, writer: LogWriter | None, query: LogQuery, render: Render) -> None:
        self._path = path
        self._max_files = max_files
        self._writer = writer
        self._generation = writer.generation if writer else 0
        self._query = query
        self._render = render
        self._files = deque(open_all(path, max_files))
        self._rest = b""
        self._within_line: set[int] = set()
        self._since = _time_text(query.since_ns)
        self._until = _time_text(query.until_ns)
        self.over = False  # the wanted end has been passed

    def close(self) -> None:
        for file in self._files:
            file.close()

    def is_large(self) -> bool:
        unread = self._files[0].unread_bytes() if self._files else 0
        return unread is None or unread > INLINE_BYTES

    def step(self) -> bytes | None:
        """The output of the next block, which may be none of it (b""); None at the end of the file."""
        if not self._files:
            return None
        block = self._files[0].unpacked().read(BLOCK_BYTES)
        if not block:
            return None
        if self._rest:
            block = self._rest + block
        whole = block.rfind(b"\n") + 1
        self._rest = block[whole:]
        output = []
        for batch in batches(block[:whole]):
            if lines := self._select(batch):
                output.append(self._render(lines))
            if self.over:
                break
        return b"".join(output) if len(output) != 1 else output[0]

    def next_file(self, newest: int) -> bool:
        """Go on behind a file read to its end; False when that is the newest.

        `newest` is the writer's generation from before the end was seen: after it, more may have been written.
        """
        if len(self._files) > 1:
            self._files.popleft().close()
        elif self._writer and newest > self._generation:
            self._open_following(self._writer.generation)
        else:
            return False
        self._rest = b""
        return True

    def _open_following(self, newest: int) -> None:
        """A reader that fell far behind finds the oldest file there is."""
        self.close()
        self._files.clear()
        first = max(self._generation + 1, newest - self._max_files + 1)
        for generation in range(first, newest + 1):
            self._generation = generation
            with contextlib.suppress(FileNotFoundError):
                self._files.append(LogFile(rotated(self._path, newest - generation)))
                return

    def _select(self, batch: Batch) -> Lines | None:
        query = self._query
        if self._since or self._until:
            batch = self._between(batch)
        if not batch.texts or not (query.stdout if batch.stream == 1 else query.stderr):
            return None
        prefixes: list[bytes] = []
        if query.timestamps or query.details:
            prefixes = self._prefixes(batch)
            if batch.stream in self._within_line:  # a line that has got its prefix already
                prefixes[0] = b""
            (self._within_line.discard if batch.ended else self._within_line.add)(batch.stream)
        return Lines(batch.stream, prefixes, batch.texts, b"\n" if batch.ended else b"")

    def _between(self, batch: Batch) -> Batch:
        """From the first record at or after `since` on (clocks can be set back), up to the first after `until`."""
        times = batch.times()
        start = bisect_left(times, self._since) if self._since else 0
        stop = bisect_right(times, self._until, start) if self._until else len(times)
        if start < len(times):
            self._since = b""
        self.over = stop < len(times)
        return batch.part(start, stop)

    def _prefixes(self, batch: Batch) -> list[bytes]:
        shown = (f"{quote_plus(name)}={quote_plus(value)}" for name, value in sorted(batch.attributes.items()))
        details = ",".join(shown).encode() + b" " if self._query.details else b""
        if not self._query.timestamps:
            return [details] * len(batch.texts)
        return list(map(add, batch.times(), repeat(b" " + details)))

    def skip_to_tail(self, lines: int) -> None:
        """Begin with the last `lines` lines of all files together."""
        for number in range(len(self._files) - 1, -1, -1):
            file = self._files[number].unpacked()
            offset, found = tail_offset(file, lines)
            lines -= found
            file.seek(offset)
            if lines <= 0:
                for _ in range(number):
                    self._files.popleft().close()
                return

    def skip_to_since(self) -> None:
        """Pass over the blocks that end before the wanted time."""
        while self._files and not find_time(self._files[0].unpacked(), self._since) and len(self._files) > 1:
            self._files.popleft().close()


def find_time(file: IO[bytes], time: bytes) -> bool:
    """From where it stands, pass over blocks whose last record is before `time`; False if that was all of the file."""
    position, size = file.tell(), file.seek(0, os.SEEK_END)
    while position < size:
        stop = min(position + BLOCK_BYTES, size)
        start = max(position, stop - SEEK_BYTES)
        file.seek(start)
        block = file.read(stop - start)
        end = block.rfind(b"\n") + 1
        begin = block.rfind(b"\n", 0, max(end - 1, 0)) + 1
        last = time_of(block[begin:end]) if begin or start == position else b""
        if not last or last >= time:
            break
        position = start + end
    file.seek(position)
    return position < size


def tail_offset(file: IO[bytes], lines: int) -> tuple[int, int]:
    """Where the last `lines` lines of output in the file begin, and how many there are, at most `lines`."""
    position = size = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return size, 0
    found = 0
    rest = b""
    while position > 0:
        step = min(TAIL_BLOCK_BYTES, position)
        position -= step
        file.seek(position)
        block = file.read(step) + rest
        begin = block.find(b"\n") + 1 if position else 0  # the record before that begins in the block before
        end = block.rfind(b"\n") + 1
        if end > begin:
            ends = line_ends(block[begin:end])
            if not found and end - begin not in ends[-1:]:
                ends.append(end - begin)  # the last line of all, though it has no end yet
            if found + len(ends) > lines:
                return position + begin + ends[found - lines - 1], lines
            found += len(ends)
        rest = block[:begin]
    return 0, found
