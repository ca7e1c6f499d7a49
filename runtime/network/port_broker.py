"""The channel on which an engine in a virtual machine asks for ports of the computer the machine runs on: the desktop.

JSON, one object a line, over a stream: a virtio port, or a unix socket. The engine asks, the desktop answers by id:

- `{"id", "op": "open", "protocol", "address", "port", "guest_port"}`: offer a port, leading to one of this kernel →
  `{"id"}`, or `{"id", "refused", "reason"}`: "taken", "no_address", "forbidden" or "unsupported", and a part of a
  sentence.
- `{"id", "op": "close", ...}` → `{"id"}`. One that is not open is fine.
- `{"op": "hello"}`, said by either side when it comes; the desktop's has its `"default_addresses"`, where ports are
  published that name none. The engine answers that with `{"op": "held", "ports"}`, all it has, which the desktop then
  makes true: so neither a lost message nor a new process on either side leaves a port open or closed by mistake.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import logging
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.errors import InvalidParameter, PermissionDenied, Unavailable, WherryError
from runtime.network.nat import Protocol
from runtime.network.ports import Address, PortTaken, already_allocated, where_bound

ANSWER_TIMEOUT_S = 30.0  # a desktop that is asleep, or starting
_CLOSE_TIMEOUT_S = 2.0
_RETRY_S = 1.0
_CHUNK_BYTES = 65536

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DesktopPort:
    """A port of the desktop, and the port of this kernel it leads to."""

    protocol: Protocol
    address: str
    port: int
    guest_port: int


class PortBroker:
    """For one event loop, between `start` and `stop`."""

    def __init__(self, path: Path) -> None:
        """`path` of a character device or a unix socket."""
        self._path = path
        self._held: set[DesktopPort] = set()
        self._ids = itertools.count(1)
        self._pending: dict[int, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = {}
        self._defaults: list[Address] = []
        self._greeted = asyncio.Event()
        self._fd = -1
        self._incoming = b""
        self._outgoing = bytearray()
        self._loop: asyncio.AbstractEventLoop
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Raises InvalidParameter when there is no such channel."""
        self._loop = asyncio.get_running_loop()
        try:
            self._connect()
        except OSError as error:
            raise InvalidParameter(f"--port-broker {self._path}: {error.strerror or error}") from error

    def stop(self) -> None:
        """Go away; what is open stays open, for the engine that comes next."""
        if self._retry:
            self._retry.cancel()
        self._disconnect()

    async def default_addresses(self) -> Sequence[Address]:
        """Where ports are published that name no address. Raises Unavailable."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._greeted.wait()
        except TimeoutError:
            raise Unavailable(_SILENT) from None
        return self._defaults

    async def open(self, port: DesktopPort, leads_to: str = "") -> None:
        """`leads_to` is for the message.

        Raises PortTaken, InvalidParameter if the desktop has no such address, PermissionDenied, Unavailable.
        """
        try:
            answer = await self._ask("open", port)
        except BaseException:
            self.close(port)  # it may have been opened all the same
            raise
        if "refused" in answer:
            raise _refusal(port, answer, leads_to)
        self._held.add(port)

    def close(self, port: DesktopPort) -> None:
        """Begin to give it back; `settled` waits for the end of that."""
        self._held.discard(port)
        self._send_request("close", port)

    async def settled(self) -> None:
        """Until the desktop has closed what was given back; a silent one is waited for no longer than a moment."""
        if closing := [answer for message, answer in self._pending.values() if message["op"] == "close"]:
            await asyncio.wait(closing, timeout=_CLOSE_TIMEOUT_S)

    def keep(self, port: DesktopPort) -> None:
        """It was opened by an engine before this one."""
        self._held.add(port)

    async def _ask(self, op: str, port: DesktopPort) -> Mapping[str, Any]:
        answer = self._send_request(op, port)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise Unavailable(_SILENT) from None

    def _send_request(self, op: str, port: DesktopPort) -> asyncio.Future[dict[str, Any]]:
        message = {"id": next(self._ids), "op": op, **asdict(port)}
        answer = self._loop.create_future()
        self._pending[message["id"]] = message, answer
        answer.add_done_callback(lambda _: self._pending.pop(message["id"], None))
        self._send(message)
        return answer

    # --- the stream

    def _connect(self) -> None:
        self._fd = _open(self._path)
        self._incoming, self._outgoing = b"", bytearray(b"\n")  # ends what an engine before this one began to say
        self._loop.add_reader(self._fd, self._readable)
        self._send({"op": "hello"})

    def _disconnect(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _lost(self) -> None:
        self._disconnect()
        self._retry = self._loop.call_later(_RETRY_S, self._reconnect)

    def _reconnect(self) -> None:
        try:
            self._connect()
        except OSError:
            self._lost()

    def _send(self, message: dict[str, Any]) -> None:
        if self._fd >= 0:  # else it is repeated once the desktop is there again
            self._outgoing += json.dumps(message).encode() + b"\n"
            self._writable()

    def _writable(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: os.write(self._fd, self._outgoing)]
        except BlockingIOError:
            self._loop.add_writer(self._fd, self._writable)
            return
        except OSError:
            self._lost()
            return
        self._loop.remove_writer(self._fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        for line in lines:
            try:
                self._receive(json.loads(line))
            except (ValueError, LookupError, AttributeError):
                continue  # the end of what was said to an engine before this one

    def _receive(self, message: dict[str, Any]) -> None:
        if message.get("op") == "hello":
            self._defaults = [ipaddress.ip_address(text) for text in message["default_addresses"]]
            self._greeted.set()
            self._send({"op": "held", "ports": [asdict(port) for port in self._held]})
            for request, _ in list(self._pending.values()):  # asked before, and perhaps never heard
                self._send(request)
        elif (pending := self._pending.get(message.get("id", 0))) and not pending[1].done():
            pending[1].set_result(message)


_SILENT = (
    f"The computer that this machine runs on has not said within {ANSWER_TIMEOUT_S:.0f} s whether it has the port; "
    "its `wherry machine status` may say why."
)


def _refusal(port: DesktopPort, answer: Mapping[str, Any], leads_to: str) -> WherryError:
    address, reason = ipaddress.ip_address(port.address), answer["reason"]
    failed = f"failed to bind host port for {where_bound(port.protocol, address, port.port, leads_to)}: {reason}"
    match answer["refused"]:
        case "taken":
            return PortTaken(f"{already_allocated(address, port.port)}; {reason}", by_us=False)
        case "forbidden":
            return PermissionDenied(failed)
        case _:
            return InvalidParameter(failed)


def _open(path: Path) -> int:
    if not stat.S_ISSOCK(path.stat().st_mode):
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as stream:
        stream.connect(os.fspath(path))
        return stream.detach()
