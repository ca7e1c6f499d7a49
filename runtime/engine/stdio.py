"""A container process's standard streams: pumped into a log and to whoever is attached.

The pump reads only as fast as the slowest attached client takes; with nobody attached the log alone sets the pace. A
client that takes nothing at all for a minute is let go, so that it does not hold the container for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import struct
import termios
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

STDOUT, STDERR = 1, 2
BEHIND_BYTES = 1 << 20  # how far an attached client may lag before the container has to wait
STALLED_S = 60  # how long it waits for a client that takes nothing

# Reads what a stream's descriptor has, keeps it, and returns it: b"" at its end. Raises what read(2) does.
Take = Callable[[int, int], bytes]
READ_BYTES = 1 << 16


def taking(sink: Callable[[int, bytes], None]) -> Take:
    """Read, and give it to `sink`, which takes the stream's number and the bytes."""

    def take(stream: int, fd: int) -> bytes:
        if data := os.read(fd, READ_BYTES):
            sink(stream, data)
        return data

    return take


def discard(stream: int, fd: int) -> bytes:
    """Read for those who are attached; nobody else wants it."""
    return os.read(fd, READ_BYTES)


class Listener:
    """One attached client's view: iterate for `(stream, data)` until the process's output ends."""

    def __init__(self, hub: OutputHub) -> None:
        self._hub = hub
        self._chunks: deque[tuple[int, bytes]] = deque()
        self._wake = asyncio.Event()
        self.behind_bytes = 0
        self.taken_bytes = 0
        self.dropped = asyncio.Event()  # it was let go; what it has not taken is lost to it
        self._ended = False

    def push(self, stream: int, data: bytes) -> None:
        self._chunks.append((stream, data))
        self.behind_bytes += len(data)
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    def drop(self) -> None:
        self._chunks.clear()
        self.behind_bytes = 0
        self.dropped.set()
        self.end()
        self.close()

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        while not self._chunks:
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        stream, data = self._chunks.popleft()
        self.behind_bytes -= len(data)
        self.taken_bytes += len(data)
        self._hub.caught_up()
        return stream, data

    def close(self) -> None:
        self._hub.leave(self)


class OutputHub:
    """Gives output to every listener; outlives a stopped process, so that clients attach before the start."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self.resume: Callable[[], None] | None = None
        self._patience: asyncio.TimerHandle | None = None

    def listen(self) -> Listener:
        listener = Listener(self)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        self.caught_up()

    def publish(self, stream: int, data: bytes) -> None:
        for listener in self._listeners:
            listener.push(stream, data)

    def congested(self) -> bool:
        return any(listener.behind_bytes > BEHIND_BYTES for listener in self._listeners)

    def wait_for_slowest(self) -> None:
        """The container has to wait: from here on those it waits for have STALLED_S to take something."""
        if self._patience is None:
            taken = {listener: listener.taken_bytes for listener in self._listeners}
            self._patience = asyncio.get_running_loop().call_later(STALLED_S, self._drop_stalled, taken)

    def _drop_stalled(self, taken: dict[Listener, int]) -> None:
        self._patience = None
        for listener in list(self._listeners):
            if listener.behind_bytes > BEHIND_BYTES and listener.taken_bytes == taken.get(listener):
                log.warning("an attached client took no output for %s seconds and was let go", STALLED_S)
                listener.drop()
        if self.congested():
            self.wait_for_slowest()

    def caught_up(self) -> None:
        if self.resume and not self.congested():
            self.resume()

    def end(self) -> None:
        """The process is gone and its output delivered: every present listener ends."""
        for listener in self._listeners:
            listener.end()
        self._listeners.clear()


class InputPipe:
    """The engine's end of a process's stdin (or of its terminal): writes wait while the pipe is full."""

    def __init__(self, fd: int, on_finish: Callable[[], None]) -> None:
        self._fd = fd
        self._on_finish = on_finish
        self._order = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Write all; raises BrokenPipeError when the reader is gone."""
        async with self._order:
            view = memoryview(data)
            while view:
                if self._fd < 0:
                    raise BrokenPipeError(errno.EPIPE, "stdin is closed")
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await self._writable()

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_writer(self._fd, _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_writer(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def finish(self) -> None:
        """Let the process read end-of-file: every copy of this end has to go, the launcher's too."""
        self.close()
        self._on_finish()


class Stdio:
    """The engine's ends of one process's streams. Takes ownership of every fd it is given."""

    def __init__(
        self,
        take: Take,
        hub: OutputHub,
        outputs: dict[int, int],
        stdin: int | None = None,
        console: int | None = None,
        on_stdin_finish: Callable[[], None] = lambda: None,
    ) -> None:
        """`outputs` maps STDOUT and STDERR to read ends; `console` (a pty master) stands for all of them."""
        self._take = take
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._console = console
        self._outputs = {console: STDOUT} if console is not None else {fd: n for n, fd in outputs.items()}
        self._paused = False
        self._patient = True
        self.drained: asyncio.Future[None] = self._loop.create_future()
        writable = stdin if console is None else os.dup(console)
        self.stdin = InputPipe(writable, on_stdin_finish) if writable is not None else None
        for fd in (*self._outputs, *(() if writable is None else (writable,))):
            os.set_blocking(fd, False)
        hub.resume = self._resume
        for fd in self._outputs:
            self._loop.add_reader(fd, self._readable, fd)
        self._check_drained()

    def _readable(self, fd: int) -> None:
        stream = self._outputs[fd]
        try:
            data = self._take(stream, fd)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: the last slave of the terminal was closed (pty(7))
                raise
            data = b""
        if not data:
            self._close_output(fd)
            return
        self._hub.publish(stream, data)
        if self._patient and self._hub.congested():
            self._paused = True
            self._hub.wait_for_slowest()
            for other in self._outputs:
                self._loop.remove_reader(other)

    def take_rest(self) -> None:
        """The process is gone: what it left in the pipes is taken, however far behind the clients are."""
        self._patient = False
        self._resume()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            for fd in self._outputs:
                self._loop.add_reader(fd, self._readable, fd)

    def _close_output(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        del self._outputs[fd]
        if fd == self._console:
            self._console = None
        os.close(fd)
        self._check_drained()

    def _check_drained(self) -> None:
        if not self._outputs and not self.drained.done():
            self.drained.set_result(None)

    def resize(self, rows: int, columns: int) -> None:
        """TIOCSWINSZ on the terminal; nothing without one (ioctl_tty(2))."""
        if self._console is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._console, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def drain_now(self) -> None:
        """Take what is in the pipes and close them: for a process whose children still hold them open."""
        for fd in list(self._outputs):
            while fd in self._outputs and not self._hub.congested():
                try:
                    data = self._take(self._outputs[fd], fd)
                except OSError:
                    data = b""
                if not data:
                    self._close_output(fd)
                else:
                    self._hub.publish(self._outputs[fd], data)
        self.close()

    def close(self) -> None:
        for fd in list(self._outputs):
            self._close_output(fd)
        if self.stdin:
            self.stdin.close()
        if self._hub.resume == self._resume:
            self._hub.resume = None


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
