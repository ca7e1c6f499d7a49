"""What a client is told while images travel: written by threads, read by the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

INTERVAL_S = 0.1  # between two counts of bytes of one layer


@dataclass(frozen=True, slots=True)
class Progress:
    """One line. `id`: what it is about, a tag or twelve digits of a layer; `total_bytes` 0: no count."""

    status: str
    id: str = ""
    current_bytes: int = 0
    total_bytes: int = 0
    aux: Any = None


class Feed:
    """Lines from any thread, in order; of a layer's counts a reader who is behind gets the last only."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._lines: list[Progress] = []
        self._counted_s: dict[str, float] = {}
        self._arrived = asyncio.Event()
        self._ended = False

    def say(self, status: str, id: str = "", *, aux: Any = None) -> None:
        self._put(Progress(status, id, aux=aux))

    def count(self, status: str, id: str, current_bytes: int, total_bytes: int) -> None:
        """At most one in INTERVAL_S, and the last."""
        now_s = time.monotonic()
        with self._lock:
            if current_bytes < total_bytes and now_s - self._counted_s.get(id, 0) < INTERVAL_S:
                return
            self._counted_s[id] = now_s
        self._put(Progress(status, id, current_bytes, total_bytes))

    def _put(self, line: Progress) -> None:
        with self._lock:
            if line.total_bytes:
                for number, waiting in enumerate(self._lines):
                    if waiting.total_bytes and (waiting.status, waiting.id) == (line.status, line.id):
                        self._lines[number] = line
                        return
            self._lines.append(line)
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:
            pass  # the engine has gone; nobody reads any more

    async def batches(self) -> AsyncIterator[list[Progress]]:
        """Until the end."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            ended = self._ended
            with self._lock:
                lines, self._lines = self._lines, []
            if lines:
                yield lines
            if ended:
                return
