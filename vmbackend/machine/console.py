"""Follow the guest's serial console for the lines that announce something.

QEMU writes the console to a log file as well; this only reads along, so nothing is polled.
"""

import asyncio
import socket
from collections.abc import Callable

_MAX_LINE_BYTES = 64 * 1024


class Console:
    """`announcements` maps a piece of text to what to call when a line contains it."""

    def __init__(self, announcements: dict[str, Callable[[], None]]) -> None:
        self._announcements = announcements
        self._spoken = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    def spoke(self) -> None:
        """It is known that the guest has said something."""
        self._spoken.set()

    async def wait_first_output(self) -> None:
        """The guest's kernel or first program has said something."""
        await self._spoken.wait()

    async def say(self, line: str) -> None:
        """To whoever reads from the console in the guest. Raises OSError."""
        if self._writer is not None:
            self._writer.write(f"{line}\n".encode())
            await self._writer.drain()

    async def follow(self, stream: socket.socket) -> None:
        """Read until QEMU closes the stream."""
        reader, writer = await asyncio.open_connection(sock=stream, limit=_MAX_LINE_BYTES)
        self._writer = writer
        try:
            while line := await _read_line(reader):
                self.spoke()
                text = line.decode(errors="replace")
                for announcement, announce in self._announcements.items():
                    if announcement in text:
                        announce()
        finally:
            writer.close()


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        return b"\n"  # longer than any announcement; what was read of it is dropped
    except ConnectionError:
        return b""
