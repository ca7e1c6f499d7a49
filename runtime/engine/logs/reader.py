"""Reading a log back: across its files, from a time or the last lines on, to the end or as long as it grows.

The files themselves are followed, block by block, so that a slow client costs no memory; large blocks are taken in a
worker thread, so that others are served meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote_plus

from runtime.engine.logs.files import LogFile, open_all, rotated
from runtime.engine.logs.records import Run, ends_line, parse_time_ns, runs
from runtime.engine.logs.writer import LogWriter

BLOCK_BYTES = 1 << 20
INLINE_BYTES = 1 << 16  # less than this is not worth a thread
TAIL_BLOCK_BYTES = 1 << 16


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
    """Lines of one stream, to be shown as prefix, line, newline each; `newline` is empty for a part of a line."""

    stream: int
    prefix: bytes
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
        for run in runs(block[:whole]):
            output += [self._render(lines) for lines in self._select(run) if lines.lines]
            if self.over:
                break
        return b"".join(output)

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

    def _select(self, run: Run) -> list[Lines]:
        query = self._query
        if query.since_ns or query.until_ns:
            at_ns = parse_time_ns(run.time_text)
            if query.until_ns and at_ns > query.until_ns:
                self.over = True
                return []
            if at_ns < query.since_ns:
                return []
        if not (query.stdout if run.stream == 1 else query.stderr):
            return []
        prefix, newline = self._prefix(run), b"\n" if run.ended else b""
        if not prefix:
            return [Lines(run.stream, b"", run.lines, newline)]
        continues = run.stream in self._within_line  # a line that has got its prefix already
        (self._within_line.discard if run.ended else self._within_line.add)(run.stream)
        if not continues:
            return [Lines(run.stream, prefix, run.lines, newline)]
        first = Lines(run.stream, b"", run.lines[:1], newline)
        return [first, Lines(run.stream, prefix, run.lines[1:], newline)]

    def _prefix(self, run: Run) -> bytes:
        prefix = b""
        if self._query.timestamps:
            prefix = run.time_text.encode() + b" "
        if self._query.details:
            shown = (f"{quote_plus(name)}={quote_plus(value)}" for name, value in sorted(run.attributes.items()))
            prefix += ",".join(shown).encode() + b" "
        return prefix

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


def tail_offset(file: IO[bytes], lines: int) -> tuple[int, int]:
    """Where the last `lines` lines of output in the file begin, and how many there are, at most `lines`."""
    position = size = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return size, 0
    found = 0
    rest = b""
    last = True
    while position > 0:
        step = min(TAIL_BLOCK_BYTES, position)
        position -= step
        file.seek(position)
        block = file.read(step) + rest
        begin = block.find(b"\n") + 1 if position else 0  # the record before that begins in the block before
        end = block.rfind(b"\n") + 1
        while end > begin:
            start = max(block.rfind(b"\n", begin, end - 1) + 1, begin)
            if last or ends_line(block[start:end]):
                if found == lines:
                    return position + end, found
                found += 1
            last = False
            end = start
        rest = block[:begin]
    return 0, found
