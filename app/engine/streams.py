"""Answers that go on: log output, attached terminals, events. Each can be closed from another thread."""

import json
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from app.engine.errors import EngineError
from app.engine.models import Output
from app.engine.transport import Response

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

_HEADER_BYTES = 8
_STDERR = 2
_SYSTEM_ERROR = 3

Item = TypeVar("Item")


class FrameDecoder:
    """Docker's multiplexed stream, without I/O: bytes in, `Output` out (API reference, container attach).

    A frame is a header `{stream, 0, 0, 0, size as 4 bytes big endian}` and a payload. Payload is passed on as
    it arrives, not when its frame is complete.
    """

    def __init__(self) -> None:
        self._header = b""
        self._left = 0
        self._kind = 0

    def feed(self, data: bytes) -> Iterator[Output]:
        """Raises EngineError for a frame with which the engine reports its own failure."""
        view = memoryview(data)
        while view:
            if not self._left:
                missing = _HEADER_BYTES - len(self._header)
                self._header += bytes(view[:missing])
                view = view[missing:]
                if len(self._header) < _HEADER_BYTES:
                    return
                self._kind, self._left = self._header[0], int.from_bytes(self._header[4:], "big")
                self._header = b""
                continue
            payload, view = bytes(view[: self._left]), view[self._left :]
            self._left -= len(payload)
            if self._kind == _SYSTEM_ERROR:
                raise EngineError(500, payload.decode("utf-8", "replace"))
            yield Output("stderr" if self._kind == _STDERR else "stdout", payload)


class _Closable:
    """`close()` ends a read that waits in another thread; that thread's iteration then simply ends."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def close(self) -> None:
        self._response.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._response.close()


class OutputStream(_Closable):
    """What a container wrote, as `Output`s. Iterate once."""

    def __init__(self, response: Response, multiplexed: bool) -> None:
        super().__init__(response)
        self._multiplexed = multiplexed

    def __iter__(self) -> Iterator[Output]:
        decoder = FrameDecoder()
        try:
            while data := self._response.read_some():
                if self._multiplexed:
                    yield from decoder.feed(data)
                else:
                    yield Output("stdout", data)
        finally:
            self._response.close()


class AttachedStream(OutputStream):
    """A connection to a process: iterate for its output, write to its input.

    With a terminal (`tty`) all output is "stdout". One thread may write while another iterates.
    """

    def __init__(self, response: Response, tty: bool) -> None:
        super().__init__(response, multiplexed=not tty)

    def write(self, data: bytes) -> None:
        """Raises OSError when the process or the engine is gone."""
        self._response.stream.sendall(data)

    def close_write(self) -> None:
        """End of the process's input; its output goes on."""
        self._response.stream.close_write()


class JsonStream(_Closable, Generic[Item]):
    """JSON values, one after another, each turned into an `Item` as soon as it is complete."""

    def __init__(self, response: Response, decode: Callable[[Any], Item]) -> None:
        super().__init__(response)
        self._decode = decode

    def __iter__(self) -> Iterator[Item]:
        """Raises EngineError when a value is an error the engine met after it had begun to answer."""
        pending = b""
        try:
            while data := self._response.read_some():
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield self._item(line)
            if pending.strip():
                yield self._item(pending)
        finally:
            self._response.close()

    def _item(self, line: bytes) -> Item:
        value = json.loads(line)
        if "error" in value:
            raise EngineError(500, str(value["error"]))
        return self._decode(value)


class Wait(_Closable):
    """A wait for a container's end that the engine has already taken note of."""

    def result(self) -> int:
        """Block until the container ends; its exit code. Raises EngineError, EngineUnreachable."""
        answer = json.loads(self._response.read())
        failure = answer.get("Error")
        if failure and failure.get("Message"):
            raise EngineError(500, str(failure["Message"]))
        return int(answer["StatusCode"])
