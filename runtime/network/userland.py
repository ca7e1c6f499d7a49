"""Carries published ports through the engine where the kernel cannot translate: between IPv6 and IPv4.

A container with IPv4 only is reached this way by the IPv6 clients of its host's ports, such as those of `localhost` on
a host that prefers ::1; all others are served by the packet rules, at full speed and with their own address.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

PIPE_SIZE_BYTES = 256 * 1024
UDP_IDLE_S = 90.0  # as Docker's proxy
MAX_UDP_CLIENTS = 1024  # of one port; who has been silent longest makes room
MAX_DATAGRAM_BYTES = 65535

_NO_DESCRIPTORS_LEFT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RETRY_ACCEPT_S = 1.0
_DATAGRAMS_AT_A_TIME = 32
_IP_PKTINFO = 8  # linux/in.h
_HANG_UP = struct.pack("ii", 1, 0)  # SO_LINGER: with a reset, as the other side did

Target = tuple[IPv4Address | IPv6Address, int]


class TcpRelay:
    """Carries every connection to `listener`, which stays the caller's, to `target` until `close`.

    A client whose target does not answer is hung up on.
    """

    def __init__(self, listener: socket.socket, target: Target) -> None:
        self._listener = listener.dup()
        self._listener.setblocking(False)
        self._family = socket.AF_INET if target[0].version == 4 else socket.AF_INET6
        self._target = (str(target[0]), target[1])
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        if self._retry:
            self._retry.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS_LEFT:
                self._loop.remove_reader(self._listener)
                self._retry = self._loop.call_later(_RETRY_ACCEPT_S, self._listen)
            return
        client.setblocking(False)
        task = self._loop.create_task(self._carry(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, client: socket.socket) -> None:
        with client, socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as container:
            try:
                await self._loop.sock_connect(container, self._target)
                async with asyncio.TaskGroup() as both_ways:
                    both_ways.create_task(_pump(client, container))
                    both_ways.create_task(_pump(container, client))
            except* OSError:
                for one in (client, container):
                    with suppress(OSError):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HANG_UP)


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Move bytes until the source ends, then say so to the sink; by splice(2): no byte passes through Python."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a limit of the system may forbid a larger pipe
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE_BYTES)
        while count := await _splice(source.fileno(), writing, PIPE_SIZE_BYTES, source.fileno(), for_reading=True):
            while count:
                count -= await _splice(reading, sink.fileno(), count, sink.fileno(), for_reading=False)
            await asyncio.sleep(0)  # others have their turn
        with suppress(OSError):  # the other side may have hung up for good already
            sink.shutdown(socket.SHUT_WR)
    finally:
        os.close(reading)
        os.close(writing)


async def _splice(source: int, sink: int, count: int, waits_for: int, for_reading: bool) -> int:
    while True:
        try:
            return os.splice(source, sink, count)
        except BlockingIOError:
            await _ready(waits_for, for_reading)


async def _ready(fd: int, for_reading: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def now() -> None:
        if not ready.done():
            ready.set_result(None)

    add, remove = (loop.add_reader, loop.remove_reader) if for_reading else (loop.add_writer, loop.remove_writer)
    add(fd, now)
    try:
        await ready
    finally:
        remove(fd)


@dataclass
class _Flow:
    """One client's datagrams; `asked_at` is the packet information (ip(7), ipv6(7)) that answers are sent with."""

    client: tuple[Any, ...]
    asked_at: list[tuple[int, int, bytes]]
    container: socket.socket
    last_s: float = 0.0


class UdpRelay:
    """Carries datagrams from `bound`, which stays the caller's, to `target`, and answers back, until `close`."""

    def __init__(self, bound: socket.socket, target: Target) -> None:
        self._bound = bound.dup()
        self._bound.setblocking(False)
        if self._bound.family == socket.AF_INET6:
            self._bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            self._packet_info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
        else:
            self._bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            self._packet_info = (socket.IPPROTO_IP, _IP_PKTINFO)
        self._family = socket.AF_INET if target[0].version == 4 else socket.AF_INET6
        self._target = (str(target[0]), target[1])
        self._flows: OrderedDict[tuple[Any, ...], _Flow] = OrderedDict()  # the most silent first
        self._loop = asyncio.get_running_loop()
        self._sweep: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._bound, self._from_clients)

    def close(self) -> None:
        self._loop.remove_reader(self._bound)
        self._bound.close()
        while self._flows:
            self._forget(next(iter(self._flows.values())))
        if self._sweep:
            self._sweep.cancel()

    def _from_clients(self) -> None:
        for _ in range(_DATAGRAMS_AT_A_TIME):
            try:
                data, ancillary, _, client = self._bound.recvmsg(MAX_DATAGRAM_BYTES, socket.CMSG_SPACE(32))
            except OSError:  # nothing more, or the answer to a client that has gone
                return
            asked_at = [one for one in ancillary if one[:2] == self._packet_info]
            with suppress(OSError):
                self._flow(client, asked_at).container.send(data)

    def _flow(self, client: tuple[Any, ...], asked_at: list[tuple[int, int, bytes]]) -> _Flow:
        key = (client, *(data for _, _, data in asked_at))
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= MAX_UDP_CLIENTS:
                self._forget(next(iter(self._flows.values())))
            container = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            flow = self._flows[key] = _Flow(client, asked_at, container)
            container.connect(self._target)
            self._loop.add_reader(container, self._from_container, flow)
            if self._sweep is None:
                self._sweep = self._loop.call_later(UDP_IDLE_S, self._forget_silent)
        flow.last_s = self._loop.time()
        self._flows.move_to_end(key)
        return flow

    def _from_container(self, flow: _Flow) -> None:
        for _ in range(_DATAGRAMS_AT_A_TIME):
            try:
                data = flow.container.recv(MAX_DATAGRAM_BYTES)
            except OSError:  # nothing more, or nobody listens there
                return
            flow.last_s = self._loop.time()
            with suppress(OSError):
                self._bound.sendmsg([data], flow.asked_at, 0, flow.client)

    def _forget(self, flow: _Flow) -> None:
        del self._flows[(flow.client, *(data for _, _, data in flow.asked_at))]
        self._loop.remove_reader(flow.container)
        flow.container.close()

    def _forget_silent(self) -> None:
        now = self._loop.time()
        for flow in [flow for flow in self._flows.values() if now - flow.last_s >= UDP_IDLE_S]:
            self._forget(flow)
        self._sweep = self._loop.call_later(UDP_IDLE_S, self._forget_silent) if self._flows else None
