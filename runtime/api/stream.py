"""Attached streams: Docker's framing, and carrying bytes between a client and a process (Engine API, "Attach")."""

from __future__ import annotations

import asyncio
import fcntl
import select
import struct
import termios
from collections.abc import AsyncIterable
from operator import add
from typing import Protocol

from runtime.engine.logs import Lines
from runtime.engine.stdio import STDERR, STDOUT, InputPipe
from runtime.errors import InvalidParameter

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
READ_BYTES = 1 << 16


def content_type(tty: bool, api_version: tuple[int, int]) -> str:
    return MULTIPLEXED if not tty and api_version >= (1, 42) else RAW


def frame(stream: int, data: bytes) -> bytes:
    """One frame: stream number, three zero bytes, big-endian length, data."""
    return _frame_head(stream, len(data)) + data


def render_raw(lines: Lines) -> bytes:
    """Log lines of a terminal: nothing but their text."""
    shown = map(add, lines.prefixes, lines.lines) if lines.prefixes else lines.lines
    return lines.newline.join(shown) + lines.newline


def render_frames(lines: Lines) -> bytes:
    """Log lines with a frame each, for a client may take each frame for a line."""
    if len(lines.lines) == 1:
        return frame(lines.stream, b"".join([*lines.prefixes, *lines.lines, lines.newline]))
    sizes = map(len, lines.lines)
    if lines.prefixes:
        sizes = map(add, sizes, map(len, lines.prefixes))
    heads = _Heads(lines.stream, lines.newline)
    columns = (list(map(heads.__getitem__, sizes)), lines.prefixes, lines.lines)
    columns[0][0] = columns[0][0].removeprefix(lines.newline)
    present = [column for column in columns if column]
    parts = [b""] * (len(lines.lines) * len(present))
    for number, column in enumerate(present):
        parts[number :: len(present)] = column
    parts.append(lines.newline)
    return b"".join(parts)


class _Heads(dict[int, bytes]):
    """By the size of prefix and line: the head of a frame behind the newline of the one before."""

    def __init__(self, stream: int, newline: bytes) -> None:
        self._stream = stream
        self._newline = newline

    def __missing__(self, size: int) -> bytes:
        head = self[size] = self._newline + _frame_head(self._stream, size + len(self._newline))
        return head


def _frame_head(stream: int, size_bytes: int) -> bytes:
    return struct.pack(">BxxxI", stream, size_bytes)


class DetachKeys:
    """Finds the key sequence by which a person leaves a terminal, and holds it back from the process."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """The bytes for the process, and whether the sequence is complete."""
        if not self._sequence:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == self._sequence[self._matched]:
                self._matched += 1
                if self._matched == len(self._sequence):
                    return bytes(out), True
                continue
            out += self._sequence[: self._matched]
            self._matched = 0
            if byte == self._sequence[0]:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out), False


CONTROL_KEYS = {f"ctrl-{key}": code for code, key in enumerate("@abcdefghijklmnopqrstuvwxyz[\\]^_")}


def parse_detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` → b"\\x10\\x11"; raises InvalidParameter."""
    keys = bytearray()
    for word in text.split(","):
        if len(word) == 1 and word.isascii():
            keys += word.encode()
        elif word in CONTROL_KEYS:
            keys.append(CONTROL_KEYS[word])
        elif word == "DEL":
            keys.append(127)
        else:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided")
    return bytes(keys)


class ByteSource(Protocol):
    async def read(self, size: int = -1, /) -> bytes: ...


class ByteSink(Protocol):
    def write(self, data: bytes, /) -> None: ...

    async def drain(self) -> None: ...


async def until_hung_up(writer: asyncio.StreamWriter) -> None:
    """Until the client has closed its end, not just its sending side: as far as a unix socket tells (poll(2), HUP)."""
    sock = writer.get_extra_info("socket")
    loop = asyncio.get_running_loop()
    hung_up = asyncio.Event()
    with select.epoll(1) as watch:
        watch.register(sock.fileno(), 0)
        loop.add_reader(watch.fileno(), hung_up.set)
        try:
            await hung_up.wait()
        finally:
            loop.remove_reader(watch.fileno())


HEAD_PATIENCE_S = 1.0


async def until_taken(writer: asyncio.StreamWriter) -> None:
    """Until the client has read the answer's head, or a moment has passed.

    docker-py reads the stream beside the buffer it read the head with, and loses what came along with the head.
    """
    sock = writer.get_extra_info("socket")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + HEAD_PATIENCE_S
    while loop.time() < deadline and not writer.is_closing():
        (untaken,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))  # unix(7), tcp(7)
        if not untaken:
            return
        await asyncio.sleep(0.001)


async def send_output(
    listener: AsyncIterable[tuple[int, bytes]],
    writer: ByteSink,
    *,
    tty: bool,
    stdout: bool,
    stderr: bool,
) -> None:
    """Until the process's output ends; raises ConnectionError when the client is gone."""
    async for stream, data in listener:
        if (stream == STDOUT and stdout) or (stream == STDERR and stderr):
            writer.write(data if tty else frame(stream, data))
            await writer.drain()


async def send_input(first: bytes, reader: ByteSource, stdin: InputPipe, keys: DetachKeys, close_at_end: bool) -> bool:
    """From the client to the process until the client half-closes; True when the detach keys came."""
    data = first or await reader.read(READ_BYTES)
    while data:
        out, detached = keys.feed(data)
        try:
            if out:
                await stdin.write(out)
        except BrokenPipeError:  # the process does not read on; its output may still come
            return False
        if detached:
            return True
        data = await reader.read(READ_BYTES)
    if close_at_end:
        stdin.finish()
    return False
