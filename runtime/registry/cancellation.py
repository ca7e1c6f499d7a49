"""Stopping work in a thread that waits for a peer: what it waits for is closed under it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runtime.errors import Cancelled


class Cancellation:
    """Set once; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._closers: dict[int, Callable[[], None]] = {}

    def __bool__(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        if self._event.is_set():
            raise Cancelled("the client went away")

    def wait(self, timeout_s: float) -> None:
        """Raises Cancelled as soon as it is."""
        self._event.wait(timeout_s)
        self.check()

    def watch(self, owner: object, close: Callable[[], None]) -> None:
        """`close()` is called on cancellation, until `unwatch`."""
        with self._lock:
            self._closers[id(owner)] = close
        if self:
            close()

    def unwatch(self, owner: object) -> None:
        with self._lock:
            self._closers.pop(id(owner), None)

    def cancel(self) -> None:
        self._event.set()
        with self._lock:
            closers = list(self._closers.values())
        for close in closers:
            close()
