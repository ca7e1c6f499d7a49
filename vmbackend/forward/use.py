"""Who uses the engine's socket: a machine nobody uses may be paused."""

import os
import threading
import time
from typing import Protocol

from vmbackend.forward.relay import LocalStream


class UseMeter:
    """Counts streams; any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams = 0
        self._last_use = time.monotonic()

    @property
    def in_use(self) -> bool:
        return self._streams > 0

    @property
    def idle_for_s(self) -> float:
        """Seconds since the last use; 0 during one."""
        with self._lock:
            return 0.0 if self._streams else time.monotonic() - self._last_use

    def note(self) -> None:
        """Something happened that counts as use."""
        with self._lock:
            self._last_use = time.monotonic()

    def begin(self) -> None:
        with self._lock:
            self._streams += 1

    def end(self) -> None:
        with self._lock:
            self._streams -= 1
            self._last_use = time.monotonic()


class _StreamOfProcess(LocalStream, Protocol):
    def peer_pid(self) -> int: ...


class _Listener(Protocol):
    def accept(self) -> _StreamOfProcess: ...
    def close(self) -> None: ...


class MeteredListener:
    """A relay's listener that counts the clients, other than this process itself."""

    def __init__(self, listener: _Listener, meter: UseMeter) -> None:
        self._listener = listener
        self._meter = meter

    def accept(self) -> LocalStream:
        stream = self._listener.accept()
        try:
            ours = stream.peer_pid() == os.getpid()
        except OSError:
            ours = False  # it is gone already
        return stream if ours else _MeteredStream(stream, self._meter)

    def close(self) -> None:
        self._listener.close()


class _MeteredStream:
    """Counts as one use until it is closed."""

    def __init__(self, stream: LocalStream, meter: UseMeter) -> None:
        meter.begin()
        self._stream = stream
        self._meter = meter
        self.recv = stream.recv
        self.sendall = stream.sendall
        self.shutdown_write = stream.shutdown_write
        self.wait_hangup = stream.wait_hangup
        self.hang_up = stream.hang_up

    def close(self) -> None:
        self._meter.end()
        self._stream.close()
