"""An event loop: epoll, and a callback for each descriptor. One thread; a callback must never block."""

import select
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

Callback = Callable[[], None]


class Loop:
    """`run` until `stop`. Callbacks are called once for each report of readiness (level-triggered)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._running = False
        self._when_idle: Callback | None = None
        self._idle_s = 0.0

    def call_when_idle(self, idle_s: float, callback: Callback) -> None:
        """Call `callback` once, when nothing has happened for `idle_s`; it replaces one that still waits for that."""
        self._when_idle, self._idle_s = callback, idle_s

    def forget_idle(self) -> None:
        """Call nothing when idle after all."""
        self._when_idle = None

    def add(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is readable, at end of file, or in error."""
        self._epoll.register(fd, READ)
        self._callbacks[fd] = callback

    def set_writing(self, fd: int, wanted: bool) -> None:
        """Also call `fd`'s callback when it can be written."""
        self._epoll.modify(fd, READ | WRITE if wanted else READ)

    def remove(self, fd: int) -> None:
        """Forget `fd`; to be called before it is closed."""
        self._epoll.unregister(fd)
        del self._callbacks[fd]

    def run(self) -> None:
        self._running = True
        while self._running:
            ready = self._epoll.poll(self._idle_s if self._when_idle else None)
            if not ready and self._when_idle:
                callback, self._when_idle = self._when_idle, None
                callback()
            for fd, _ in ready:
                # An earlier callback of this round may have removed it.
                on_ready = self._callbacks.get(fd)
                if on_ready is not None:
                    on_ready()

    def stop(self) -> None:
        self._running = False

    def close(self) -> None:
        self._epoll.close()
