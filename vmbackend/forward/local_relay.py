"""Carry what reaches a port of this computer to another of its ports.

For IPv6, which QEMU does not forward: on loopback addresses hardly anybody notices, for `localhost` mostly means
127.0.0.1, which QEMU serves.
"""

import asyncio
import contextlib
import socket
from collections import OrderedDict
from typing import Any, Self, cast

_CHUNK_BYTES = 256 * 1024
_UDP_IDLE_S = 90.0  # as Docker's proxy
_MAX_UDP_CLIENTS = 1024  # of one port; who has been silent longest makes room

Address = tuple[str, int]


class TcpRelay:
    """Serves every client of a listener until `close`, which drops them."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    async def serve(cls, listener: socket.socket, target: Address) -> Self:
        """The listener is the relay's from now on."""
        relay = cls(target)
        relay._server = await asyncio.start_server(relay._carry, sock=listener, limit=_CHUNK_BYTES)
        return relay

    def close(self) -> None:
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target, limit=_CHUNK_BYTES)
            try:
                async with asyncio.TaskGroup() as both_ways:
                    both_ways.create_task(_pump(reader, target_writer))
                    both_ways.create_task(_pump(target_reader, writer))
            finally:
                target_writer.transport.abort()
        except* (OSError, asyncio.CancelledError):
            pass  # one side is gone, or we are
        finally:
            writer.transport.abort()
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
        await writer.drain()


class UdpRelay(asyncio.DatagramProtocol):
    """Carries the datagrams of every client, and the answers back, until `close`."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._transport: asyncio.DatagramTransport | None = None
        self._clients: OrderedDict[Any, _Answers] = OrderedDict()  # the most silent first
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._sweep = self._loop.call_later(_UDP_IDLE_S, self._forget_silent)

    @classmethod
    async def serve(cls, bound: socket.socket, target: Address) -> Self:
        """The socket is the relay's from now on."""
        bound.setblocking(False)
        _, relay = await asyncio.get_running_loop().create_datagram_endpoint(lambda: cls(target), sock=bound)
        return relay

    def close(self) -> None:
        self._sweep.cancel()
        if self._transport:
            self._transport.abort()
        for task in self._tasks:
            task.cancel()
        while self._clients:
            self._clients.popitem()[1].close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, client: Any) -> None:
        answers = self._clients.get(client)
        if answers is None:
            if len(self._clients) >= _MAX_UDP_CLIENTS:
                self._clients.popitem(last=False)[1].close()
            answers = self._clients[client] = _Answers(self, client)
            task = self._loop.create_task(self._connect(answers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._clients.move_to_end(client)
        answers.send(data)

    def answer(self, data: bytes, client: Any) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.sendto(data, client)

    async def _connect(self, answers: "_Answers") -> None:
        with contextlib.suppress(OSError):
            await self._loop.create_datagram_endpoint(lambda: answers, remote_addr=self._target)

    def _forget_silent(self) -> None:
        now = self._loop.time()
        for client, answers in list(self._clients.items()):
            if now - answers.last_s >= _UDP_IDLE_S:
                self._clients.pop(client).close()
        self._sweep = self._loop.call_later(_UDP_IDLE_S, self._forget_silent)


class _Answers(asyncio.DatagramProtocol):
    """One client's socket to the target."""

    def __init__(self, relay: UdpRelay, client: Any) -> None:
        self._relay = relay
        self._client = client
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: list[bytes] = []
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self.last_s = self._loop.time()

    def send(self, data: bytes) -> None:
        self.last_s = self._loop.time()
        if self._transport:
            self._transport.sendto(data)
        else:
            self._waiting.append(data)

    def close(self) -> None:
        self._closed = True
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        if self._closed:
            self._transport.abort()
        for data in self._waiting:
            self._transport.sendto(data)
        self._waiting = []

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.last_s = self._loop.time()
        self._relay.answer(data, self._client)
