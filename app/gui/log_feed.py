"""A container's output on its way from a blocking stream to the Qt thread: lines in a bounded queue.

The reader thread wakes the Qt thread once per batch, not once per line, and never waits for it: when lines come
faster than they are taken, the oldest are dropped and counted.
"""

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.core.background import Background, Job
from app.engine.streams import OutputStream
from app.gui.failures import explain
from app.gui.qt import QObject, Signal

QUEUE_LINES = 10_000

# The engine puts RFC 3339 with nanoseconds before each line it was asked to stamp.
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)(?:Z|[+-]\d\d:\d\d) ")


@dataclass(frozen=True, slots=True)
class LogLine:
    """`time` is RFC 3339 in UTC without the zone, or "" if the engine gave none; `text` may hold terminal colours."""

    time: str
    text: str

    @classmethod
    def parse(cls, line: str) -> "LogLine":
        stamp = _STAMP.match(line)
        return cls(stamp[1], line[stamp.end() :]) if stamp else cls("", line)


class LineQueue:
    """Lines between two threads: at most `QUEUE_LINES`, the newest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[LogLine] = deque(maxlen=QUEUE_LINES)
        self._dropped = 0

    def put(self, lines: list[LogLine]) -> bool:
        """Append; whether the queue was empty before, so that the taker has to be woken."""
        with self._lock:
            was_empty = not self._lines
            self._dropped += max(0, len(self._lines) + len(lines) - QUEUE_LINES)
            self._lines.extend(lines)
        return was_empty and bool(lines)

    def take(self, most: int) -> tuple[list[LogLine], bool, int]:
        """(up to `most` lines, whether more wait, how many were dropped since the last call)."""
        with self._lock:
            lines = [self._lines.popleft() for _ in range(min(most, len(self._lines)))]
            dropped, self._dropped = self._dropped, 0
            return lines, bool(self._lines), dropped


class LineStream:
    """Reads an `OutputStream` into a queue. Iterating yields None whenever the queue ceases to be empty."""

    def __init__(self, output: OutputStream, queue: LineQueue) -> None:
        self._output = output
        self._queue = queue

    def __iter__(self) -> Iterator[None]:
        unfinished = {"stdout": b"", "stderr": b""}
        for piece in self._output:
            *lines, unfinished[piece.stream] = (unfinished[piece.stream] + piece.data).split(b"\n")
            if self._put(lines):
                yield None
        if self._put([rest for rest in unfinished.values() if rest]):
            yield None

    def close(self) -> None:
        self._output.close()

    def _put(self, lines: list[bytes]) -> bool:
        return self._queue.put([LogLine.parse(line.decode("utf-8", "replace").rstrip("\r")) for line in lines])


class LogFeed(QObject):
    """One following of one log. `ready`: lines wait to be taken; `ended(problem)`: no more come ("": it is over)."""

    ready = Signal()
    ended = Signal(str)

    def __init__(self, background: Background, open_output: Callable[[], OutputStream]) -> None:
        """`open_output` is called on a worker thread by `open`."""
        super().__init__()
        self._background = background
        self._open_output = open_output
        self._queue = LineQueue()
        self._job: Job | None = None

    def open(self) -> None:
        self._job = self._background.follow(
            lambda: LineStream(self._open_output(), self._queue),
            on_item=lambda _: self.ready.emit(),
            on_end=lambda: self.ended.emit(""),
            on_error=lambda error: self.ended.emit(explain(error).sentence),
        )

    def take(self, most: int) -> tuple[list[LogLine], bool, int]:
        """(up to `most` lines, whether more wait, how many were dropped since the last call)."""
        return self._queue.take(most)

    def close(self) -> None:
        """End the following; no signal comes after this."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
