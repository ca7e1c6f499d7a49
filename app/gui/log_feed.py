"""From a blocking log stream to the Qt thread: a bounded queue with one wake-up per batch."""

import threading
from collections import deque
from dataclasses import dataclass

from app.gui.qt import QObject, Signal

QUEUE_LINES = 10_000


@dataclass(frozen=True, slots=True)
class LogLine:
    """`time` is RFC 3339 as the engine gave it, or "" when it gave none; `text` may hold terminal colours."""

    time: str
    text: str


class LogFeed(QObject):
    """Lines between the reader thread, which calls `put`, and the view, which calls `take`.

    `ready` is emitted once when lines appear in an empty queue; `ended(problem)` once, with "" for a log that simply
    ended. A subclass or owner says what `open` and `close` do.
    """

    ready = Signal()
    ended = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._queue: deque[LogLine] = deque(maxlen=QUEUE_LINES)
        self._dropped = 0

    def put(self, lines: list[LogLine]) -> None:
        """Any thread. The oldest lines fall out of a full queue and are counted."""
        with self._lock:
            was_empty = not self._queue
            self._dropped += max(0, len(self._queue) + len(lines) - QUEUE_LINES)
            self._queue.extend(lines)
        if was_empty and lines:
            self.ready.emit()

    def take(self, most: int) -> tuple[list[LogLine], bool, int]:
        """(up to `most` lines, whether more wait, how many were dropped since the last call)."""
        with self._lock:
            lines = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
            dropped, self._dropped = self._dropped, 0
            return lines, bool(self._queue), dropped

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
