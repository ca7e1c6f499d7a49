"""WebSockets (RFC 6455), the server's side, with the methods of an asyncio reader and writer.

Messages are taken as a stream of bytes: whether a client sends one in fragments or many whole makes no difference.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from collections.abc import Mapping

from runtime.errors import InvalidParameter

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL, PROTOCOL_ERROR = 1000, 1002
CONTROL_BYTES_MAX = 125
CHUNK_BYTES = 1 << 16


def handshake(headers: Mapping[str, str]) -> list[bytes]:
    """The head of the answer, line by line (§4.2); raises InvalidParameter when this is no WebSocket handshake."""
    key = headers.get("sec-websocket-key", "")
    connection = [word.strip().lower() for word in headers.get("connection", "").split(",")]
    if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in connection or not key:
        raise InvalidParameter("a WebSocket handshake is needed: Upgrade: websocket and a Sec-WebSocket-Key (RFC 6455)")
    if headers.get("sec-websocket-version") != "13":
        raise InvalidParameter("only version 13 of WebSocket is spoken here (RFC 6455)")
    accept = base64.b64encode(hashlib.sha1(key.strip().encode("latin-1") + _GUID, usedforsecurity=False).digest())
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
    lines.append(b"Sec-WebSocket-Accept: " + accept)
    protocols = headers.get("sec-websocket-protocol", "")
    if protocols and "," not in protocols:
        lines.append(b"Sec-WebSocket-Protocol: " + protocols.encode("latin-1"))
    return lines


def frame(opcode: int, data: bytes) -> bytes:
    """One whole unmasked frame (§5.2)."""
    size = len(data)
    if size < 126:
        return bytes((0x80 | opcode, size)) + data
    if size < 1 << 16:
        return struct.pack(">BBH", 0x80 | opcode, 126, size) + data
    return struct.pack(">BBQ", 0x80 | opcode, 127, size) + data


def unmask(data: bytes, mask: bytes) -> bytes:
    """§5.3; `data` begins where the mask does."""
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


class WebSocket:
    """One connection after its handshake."""

    def __init__(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opcode: int = BINARY
    ) -> None:
        """`first` had been read behind the handshake; what is written is sent in frames of `opcode`."""
        self._first = first
        self._reader = reader
        self._writer = writer
        self._opcode = opcode
        self._left_bytes = 0  # of the frame being read
        self._mask = b""
        self._closed = False

    # --- as a reader

    async def read(self, size: int = -1) -> bytes:
        """The next bytes of any message; b"" once the client has closed, or broken the protocol."""
        try:
            while not self._left_bytes:
                if not await self._next_frame():
                    return b""
            data = await self._some(min(self._left_bytes, CHUNK_BYTES))
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        plain = unmask(data, self._mask)
        turn = len(data) % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        self._left_bytes -= len(data)
        return plain

    async def _next_frame(self) -> bool:
        """False at the end. Control frames are answered here; they may stand between a message's fragments."""
        head = await self._exactly(2)
        opcode, size = head[0] & 0x0F, head[1] & 0x7F
        control = opcode >= CLOSE
        wrong = head[0] & 0x70 or not head[1] & 0x80 or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
        if wrong or (control and (size > CONTROL_BYTES_MAX or not head[0] & 0x80)):
            self.close(PROTOCOL_ERROR)
            return False
        if size == 126:
            size = int.from_bytes(await self._exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self._exactly(8), "big")
        self._mask = await self._exactly(4)
        if not control:
            self._left_bytes = size
            return True
        payload = unmask(await self._exactly(size), self._mask)
        if opcode == CLOSE:
            self.close(int.from_bytes(payload[:2], "big") if len(payload) >= 2 else NORMAL)
            return False
        if opcode == PING:
            self._writer.write(frame(PONG, payload))
        return True

    async def _some(self, size: int) -> bytes:
        if self._first:
            data, self._first = self._first[:size], self._first[size:]
            return data
        data = await self._reader.read(size)
        if not data:
            raise asyncio.IncompleteReadError(b"", size)
        return data

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += await self._some(size - len(data))
        return data

    # --- as a writer

    def write(self, data: bytes) -> None:
        if not self._closed:
            self._writer.write(frame(self._opcode, data))

    async def drain(self) -> None:
        await self._writer.drain()

    def close(self, status: int = NORMAL) -> None:
        """Say that nothing more comes (§5.5.1)."""
        if not self._closed:
            self._closed = True
            self._writer.write(frame(CLOSE, struct.pack(">H", status)))
