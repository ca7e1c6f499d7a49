"""The json-file log: one JSON object a line, `{"log", "stream", "time"}`, as Docker's driver of that name writes.

The reader follows the file itself, so that a slow client costs no memory.
"""

from __future__ import annotations

import asyncio
import calendar
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from runtime.engine.stdio import STDERR, STDOUT

STREAM_NAMES = {STDOUT: "stdout", STDERR: "stderr"}
STREAM_NUMBERS = {name: number for number, name in STREAM_NAMES.items()}
MAX_PARTIAL_BYTES = 1 << 14  # a line longer than this is written in pieces, as Docker does
TAIL_BLOCK_BYTES = 1 << 16


def rfc3339_nano(time_ns: int) -> str:
    """`2026-01-02T03:04:05.000000006Z`"""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


class LogWriter:
    """Appends to a log file; `changed` fires whenever there is more to read or the log is finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._partial = {STDOUT: b"", STDERR: b""}
        self._waiters: set[asyncio.Event] = set()
        self.closed = False
        self.failed: OSError | None = None

    def write(self, stream: int, data: bytes) -> None:
        *whole, rest = (self._partial[stream] + data).split(b"\n")
        lines = [line + b"\n" for line in whole]
        while len(rest) >= MAX_PARTIAL_BYTES:
            lines.append(rest[:MAX_PARTIAL_BYTES])
            rest = rest[MAX_PARTIAL_BYTES:]
        self._partial[stream] = rest
        self._append(stream, lines)

    def _append(self, stream: int, lines: list[bytes]) -> None:
        if not lines:
            return
        tail = f',"stream":"{STREAM_NAMES[stream]}","time":"{rfc3339_nano(time.time_ns())}"}}\n'
        records = ['{"log":' + json.dumps(line.decode("utf-8", "replace"), ensure_ascii=False) + tail for line in lines]
        try:
            os.write(self._fd, "".join(records).encode())
            self.failed = None
        except OSError as error:  # a full disk must not stop the container; `inspect` shows it
            self.failed = error
        for waiter in self._waiters:
            waiter.set()

    def watch(self) -> asyncio.Event:
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        return waiter

    def unwatch(self, waiter: asyncio.Event) -> None:
        self._waiters.discard(waiter)

    def close(self) -> None:
        """Write what is left of unfinished lines, and let followers finish."""
        if self.closed:
            return
        for stream, rest in self._partial.items():
            self._append(stream, [rest] if rest else [])
        self.closed = True
        os.close(self._fd)
        for waiter in self._waiters:
            waiter.set()


@dataclass(frozen=True)
class LogQuery:
    """What of a log is wanted; times are in ns, `tail` is a number of lines (None: all)."""

    stdout: bool = True
    stderr: bool = True
    since_ns: int = 0
    until_ns: int = 0
    tail: int | None = None
    timestamps: bool = False
    follow: bool = False


def parse_time_ns(text: str) -> int:
    """Nanoseconds since the epoch of a record's `time`."""
    head, _, fraction = text.rstrip("Z").partition(".")
    days_seconds = time.strptime(head, "%Y-%m-%dT%H:%M:%S")
    return calendar.timegm(days_seconds) * 1_000_000_000 + int((fraction + "000000000")[:9])


def tail_offset(path: Path, lines: int) -> int:
    """The offset in bytes at which the last `lines` lines of the file begin."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        found = 0
        while position > 0:
            step = min(TAIL_BLOCK_BYTES, position)
            position -= step
            file.seek(position)
            block = file.read(step)
            at = len(block)
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                found += 1
                if found > lines:
                    return position + at + 1
    return 0


async def read_log(path: Path, writer: LogWriter | None, query: LogQuery) -> AsyncIterator[tuple[int, bytes]]:
    """`(stream, line)` for every wanted record; with `follow` until the writer closes."""
    if not path.exists():
        return
    changed = writer.watch() if writer and query.follow else None
    try:
        with path.open("rb") as file:
            if query.tail is not None:
                file.seek(tail_offset(path, query.tail))
            rest = b""
            while True:
                if changed:
                    changed.clear()
                finished = writer is None or writer.closed
                block = await asyncio.to_thread(file.read, 1 << 18) if not changed else file.read(1 << 18)
                if block:
                    lines = (rest + block).split(b"\n")
                    rest = lines.pop()
                    for line in lines:
                        record = _select(line, query)
                        if record == "until":
                            return
                        if isinstance(record, tuple):
                            yield record
                elif not changed or finished:
                    return
                else:
                    await changed.wait()
    finally:
        if changed and writer:
            writer.unwatch(changed)


def _select(line: bytes, query: LogQuery) -> tuple[int, bytes] | str | None:
    """The record if it is wanted, "until" when it lies behind the wanted end, else None."""
    try:
        record = json.loads(line)
        stream = STREAM_NUMBERS[record["stream"]]
        if query.since_ns or query.until_ns:
            at_ns = parse_time_ns(record["time"])
            if query.until_ns and at_ns > query.until_ns:
                return "until"
            if at_ns < query.since_ns:
                return None
        text = record["log"].encode()
    except (ValueError, KeyError, TypeError):  # a line cut short by a full disk or a power cut
        return None
    if (stream == STDOUT and not query.stdout) or (stream == STDERR and not query.stderr):
        return None
    return stream, record["time"].encode() + b" " + text if query.timestamps else text
