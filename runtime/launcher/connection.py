"""The one connection to the engine: messages out are queued rather than waited for."""

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from runtime.launcher import protocol
from runtime.launcher.loop import Loop


class Connection:
    """Owns `sock`. `on_message(message, fds)` takes over the fds; `on_closed()` is called once, on end or error."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_message: Callable[[protocol.Message, dict[str, int]], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._on_message = on_message
        self._on_closed = on_closed
        self._queue: deque[tuple[Mapping[str, Any], dict[str, int]]] = deque()
        sock.setblocking(False)
        loop.add(sock.fileno(), self._ready)

    def send(self, message: Mapping[str, Any], fds: Mapping[str, int] | None = None) -> None:
        """Send now or, to a peer that is not reading, later; `fds` stay the caller's (they are duplicated)."""
        if self._socket.fileno() < 0:
            return
        fds = fds or {}
        if not self._queue:
            try:
                protocol.send(self._socket, message, fds)
                return
            except BlockingIOError:
                self._loop.set_writing(self._socket.fileno(), True)
            except OSError:
                self.close()
                return
        self._queue.append((message, {name: os.dup(fd) for name, fd in fds.items()}))

    def close(self) -> None:
        """Close the connection and drop what was not sent; exits are sent again to the next one."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        for _, fds in self._queue:
            protocol.close_all(fds.values())
        self._queue.clear()
        self._on_closed()

    def _ready(self) -> None:
        self._flush()
        try:
            received = protocol.receive(self._socket)
        except BlockingIOError:
            return
        except (OSError, protocol.ProtocolError):
            received = None
        if received is None:
            self.close()
            return
        self._on_message(*received)

    def _flush(self) -> None:
        if not self._queue:
            return
        with contextlib.suppress(BlockingIOError):
            while self._queue:
                message, fds = self._queue[0]
                protocol.send(self._socket, message, fds)
                protocol.close_all(fds.values())
                self._queue.popleft()
            self._loop.set_writing(self._socket.fileno(), False)
