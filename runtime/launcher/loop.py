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
            for fd, _ in self._epoll.poll():
                # An earlier callback of this round may have removed it.
                callback = self._callbacks.get(fd)
                if callback is not None:
                    callback()

    def stop(self) -> None:
        self._running = False

    def close(self) -> None:
        self._epoll.close()
