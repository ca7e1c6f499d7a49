"""The way to the shares' agent in the guest: requests by TCP, FUSE messages over a virtio port.

QEMU's user network takes 13 seconds of a processor for 100 MB from an emulated guest and 7.5 for as much to it, its
virtio port 1 and 3.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from vmbackend.errors import GuestUnreachable
from vmbackend.share import wire

_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 20.0
_MARK_BYTES = 32
_CHUNK_BYTES = 1 << 18

_NUMBER = struct.Struct("<I")
_HEAD = struct.Struct("<II")  # a share's number, its message's size

# What a share is sent; None ends it.
Messages = SimpleQueue[memoryview | None]

_log = logging.getLogger(__name__)


class AgentAddress:
    """Where the agent is reached on this computer. Methods raise GuestUnreachable."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token

    def ask(self, op: str, **arguments: object) -> dict[str, Any]:
        """One request that ends with its answer."""
        stream, answer = self.begin(op, **arguments)
        stream.close()
        return answer

    def begin(self, op: str, **arguments: object) -> tuple[socket.socket, dict[str, Any]]:
        """A connection after its first answer, which is returned too."""
        stream: socket.socket | None = None
        try:
            stream = socket.create_connection(("127.0.0.1", self._port), _CONNECT_TIMEOUT_S)
            stream.settimeout(_ANSWER_TIMEOUT_S)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.sendall(json.dumps({"token": self._token, "op": op, **arguments}).encode() + b"\n")
            line = bytearray()
            while not line.endswith(b"\n"):
                byte = stream.recv(1)
                if not byte:
                    raise OSError("it hung up")
                line += byte
            answer: dict[str, Any] = json.loads(line)
            if not answer["ok"]:
                raise OSError(answer["error"])
        except (OSError, ValueError, KeyError) as error:
            if stream is not None:
                stream.close()
            raise GuestUnreachable(f"The shares' agent in the guest did not {op} ({error})") from error
        stream.settimeout(None)
        return stream, answer


class AgentChannel:
    """Carries the messages of all shares; `stream` leads to the virtio port and becomes the channel's.

    `begin` may be called again for an agent that came after another. Thread-safe.
    """

    def __init__(self, stream: socket.socket) -> None:
        stream.setblocking(True)
        self._stream = stream
        self._sending = threading.Lock()
        self._changing = threading.Lock()
        self._shares: dict[int, Messages] = {}
        self._last = 0
        self._holding: socket.socket | None = None
        self._mark = b""
        self._mark_seen = threading.Event()
        self._reader = threading.Thread(target=self._read, name="shares-channel", daemon=True)
        self._reader.start()

    @property
    def begun(self) -> bool:
        return self._holding is not None

    def begin(self, address: AgentAddress, on_lost: Callable[[], None]) -> None:
        """Have the agent listen to this channel; `on_lost` is called when it ends. Raises GuestUnreachable."""
        mark = secrets.token_bytes(_MARK_BYTES)
        holding, self._holding = self._holding, None
        self._hang_up(holding)
        self._end_shares()
        with self._changing:
            self._mark_seen.clear()
            self._mark = mark
        holding, answer = address.begin("begin", mark=mark.hex())
        try:
            self._send(bytes(answer["filler"]) + mark)
            if not self._mark_seen.wait(_ANSWER_TIMEOUT_S):
                raise GuestUnreachable("The shares' agent in the guest is not heard on its channel")
        except OSError as error:
            holding.close()
            raise GuestUnreachable(f"The channel of the guest's shares has ended ({error})") from error
        except GuestUnreachable:
            holding.close()
            raise
        self._holding = holding
        threading.Thread(target=self._wait_lost, args=(holding, on_lost), name="shares-agent", daemon=True).start()

    def open(self) -> tuple[int, Messages]:
        """A number for a share, and what the guest sends by it."""
        with self._changing:
            self._last += 1
            messages = self._shares[self._last] = SimpleQueue()
            return self._last, messages

    def close_share(self, number: int) -> None:
        with self._changing:
            messages = self._shares.pop(number, None)
        if messages is not None:
            messages.put(None)

    def send(self, number: int, messages: list[bytes]) -> None:
        """Raises OSError."""
        prefix = _NUMBER.pack(number)
        self._send(b"".join(part for message in messages for part in (prefix, message)))

    def close(self) -> None:
        holding, self._holding = self._holding, None
        self._hang_up(holding)
        self._hang_up(self._stream)
        self._reader.join()
        self._stream.close()

    @staticmethod
    def _hang_up(stream: socket.socket | None) -> None:
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._stream.sendall(data)

    def _wait_lost(self, holding: socket.socket, on_lost: Callable[[], None]) -> None:
        with holding:
            with contextlib.suppress(OSError):
                while holding.recv(4096):
                    pass
            if self._holding is holding:
                self._holding = None
                self._end_shares()
                on_lost()

    def _end_shares(self) -> None:
        with self._changing:
            shares, self._shares = self._shares, {}
        for messages in shares.values():
            messages.put(None)

    def _read(self) -> None:
        unread = bytearray()
        try:
            while True:
                if self._mark:
                    self._skip_to_mark(unread)
                self._pass_on_next(unread)
        except OSError as error:
            _log.info("the channel of the guest's shares ended: %s", error)
        self._end_shares()

    def _receive(self, unread: bytearray) -> None:
        data = self._stream.recv(_CHUNK_BYTES)
        if not data:
            raise OSError("QEMU hung up")
        unread += data

    def _skip_to_mark(self, unread: bytearray) -> None:
        """What comes before the mark was said by another agent, or to another hostagent."""
        while (found := unread.find(mark := self._mark)) < 0:
            del unread[:-_MARK_BYTES]
            self._receive(unread)
        del unread[: found + _MARK_BYTES]
        with self._changing:
            if self._mark is mark:
                self._mark = b""
                self._mark_seen.set()

    def _pass_on_next(self, unread: bytearray) -> None:
        """Give the next message to its share; nothing when a mark is awaited now."""
        while len(unread) < _HEAD.size:
            self._receive(unread)
            if self._mark:
                return
        number, size = _HEAD.unpack_from(unread)
        end = _NUMBER.size + size
        if not wire.IN_HEADER.size <= size <= wire.MAX_MESSAGE_BYTES:
            _log.warning("the shares' agent in the guest says what nobody understands (%d bytes): once more", size)
            self._mark = secrets.token_bytes(_MARK_BYTES)
            self._hang_up(self._holding)
            return
        if len(unread) >= end:
            message = memoryview(bytes(memoryview(unread)[_NUMBER.size : end]))
            del unread[:end]
        else:
            # A large one is received where it stays.
            whole = memoryview(bytearray(end))
            got = len(unread)
            whole[:got] = unread
            unread.clear()
            while got < end:
                count = self._stream.recv_into(whole[got:])
                if not count:
                    raise OSError("QEMU hung up")
                got += count
                if self._mark:
                    unread += whole[:got]
                    return
            message = whole[_NUMBER.size :]
        messages = self._shares.get(number)
        if messages is not None:
            messages.put(message)
