"""Request and response bodies for work in threads: the body as a file to read, and as a file to write."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from runtime.errors import WherryError

log = logging.getLogger(__name__)

READ_BYTES = 1 << 18
WRITE_BYTES = 1 << 18
CHUNKS_AHEAD = 4  # what a slow client may be behind before the writer has to wait


class BodyReader(io.RawIOBase):
    """The request's body as a file for a worker thread, fetched from the event loop chunk by chunk."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            future = asyncio.run_coroutine_threadsafe(_gathered(self._chunks), self._loop)
            self._rest = future.result()
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


async def _gathered(chunks: AsyncIterator[bytes]) -> bytes:
    """A good piece: clients send little at a time, and going from one thread to another costs more than copying."""
    parts, size = [], 0
    while size < READ_BYTES and (chunk := await anext(chunks, b"")):
        parts.append(chunk)
        size += len(chunk)
    return b"".join(parts)


def body_file(chunks: AsyncIterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(BodyReader(chunks), READ_BYTES)


class _BodyWriter:
    """Collects what a thread writes into chunks; waits while the client is behind, fails when it is gone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue(CHUNKS_AHEAD)
        self._buffer = bytearray()
        self.gone = asyncio.Event()

    def write(self, data: bytes, /) -> None:
        self._buffer += data
        if len(self._buffer) >= WRITE_BYTES:
            asyncio.run_coroutine_threadsafe(self._hand_over(), self._loop).result()

    async def _hand_over(self) -> None:
        chunk, self._buffer = bytes(self._buffer), bytearray()
        putting = asyncio.ensure_future(self.chunks.put(chunk))
        leaving = asyncio.ensure_future(self.gone.wait())
        await asyncio.wait((putting, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in (putting, leaving):
            task.cancel()
        if self.gone.is_set():
            raise BrokenPipeError("the client is gone")

    async def finish(self) -> None:
        if self._buffer:
            await self._hand_over()
        await self.chunks.put(b"")


async def produced(work: Callable[[_BodyWriter], Awaitable[None]]) -> AsyncIterator[bytes]:
    """The chunks `work` writes from its threads; a failure breaks the connection off, for the status is sent."""
    writer = _BodyWriter()

    async def run() -> None:
        try:
            await work(writer)
        finally:
            if not writer.gone.is_set():
                await writer.finish()

    running = asyncio.ensure_future(run())
    try:
        while chunk := await writer.chunks.get():
            yield chunk
        await running
    except (WherryError, OSError) as error:
        log.warning("a response was broken off: %s", error)
        raise ConnectionResetError(str(error)) from error
    finally:
        writer.gone.set()
        running.cancel()
        with contextlib.suppress(BaseException):
            await running
