"""Serves one container's two sockets: what is known is answered at once, the rest forwarded without holding it up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, cast

from runtime.network.dns.message import (
    MAX_SIZE_BYTES,
    NOTIMP,
    REFUSED,
    SERVFAIL,
    FormatError,
    Query,
    build_format_error,
    build_reply,
    parse_query,
    truncated,
)
from runtime.network.dns.sockets import ServerSockets
from runtime.network.dns.upstream import MAX_PENDING_PER_CLIENT
from runtime.network.dns.view import TTL_S, Local

TCP_IDLE_S = 10.0
MAX_CONNECTIONS = 64
MAX_QUERIES_PER_CONNECTION = 16  # unanswered at a time

Send = Callable[[bytes], None]


class Resolver(Protocol):
    """Who knows the answers."""

    def answer(self, query: Query) -> Local | None:
        """None for a question to forward."""
        ...

    @property
    def is_full(self) -> bool:
        """Too many questions are being forwarded already."""
        ...

    async def forward(self, data: bytes, query: Query, over_tcp: bool) -> bytes | None: ...


class ContainerServer:
    """Answers on `sockets`, which it takes over, from `start` until `close`."""

    def __init__(self, sockets: ServerSockets, resolver: Resolver) -> None:
        self._sockets = sockets
        self._resolver = resolver
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=self._sockets.udp)
        self._tcp = await asyncio.start_server(self._serve_connection, sock=self._sockets.tcp, limit=MAX_SIZE_BYTES)

    def close(self) -> None:
        if self._udp:
            self._udp.close()
        if self._tcp:
            self._tcp.close()
        self._sockets.close()
        for task in self._tasks:
            task.cancel()

    def answer_datagram(self, data: bytes, address: tuple[str, int]) -> None:
        def send(reply: bytes) -> None:
            if self._udp and not self._udp.is_closing():
                self._udp.sendto(reply, address)

        if forwarding := self._answer(data, send, over_tcp=False):
            self._spawn(forwarding)

    def _answer(self, data: bytes, send: Send, over_tcp: bool) -> Coroutine[Any, Any, None] | None:
        """Send the answer, or return what will."""
        try:
            query = parse_query(data)
        except FormatError:
            if refusal := build_format_error(data):
                send(refusal)
            return None
        if not query.is_standard:
            send(build_reply(query, NOTIMP))
            return None
        local = self._resolver.answer(query)
        if local is not None:
            limit_bytes = MAX_SIZE_BYTES if over_tcp else query.udp_size_bytes
            send(build_reply(query, local.rcode, local.answers, TTL_S, limit_bytes))
            return None
        if self._resolver.is_full or len(self._tasks) >= MAX_PENDING_PER_CLIENT:
            send(build_reply(query, REFUSED))
            return None
        return self._forward(data, query, send, over_tcp)

    async def _forward(self, data: bytes, query: Query, send: Send, over_tcp: bool) -> None:
        reply = await self._resolver.forward(data, query, over_tcp)
        if reply is None:
            reply = build_reply(query, SERVFAIL)
        elif not over_tcp and len(reply) > query.udp_size_bytes:
            reply = truncated(reply, query)
        send(reply)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, any number of queries, each behind its length (RFC 7766); answers in any order."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks.add(task)
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                with suppress(OSError, EOFError, TimeoutError, asyncio.CancelledError):
                    await self._serve_queries(reader, writer)
        finally:
            self._connections -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve_queries(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client hangs up, is idle or reads nothing of what it asked for."""
        slots = asyncio.Semaphore(MAX_QUERIES_PER_CONNECTION)

        def send(reply: bytes) -> None:
            if not writer.is_closing():
                writer.write(len(reply).to_bytes(2, "big") + reply)

        with suppress(asyncio.IncompleteReadError):
            while True:
                async with asyncio.timeout(TCP_IDLE_S):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    data = await reader.readexactly(size)
                    await slots.acquire()
                    await writer.drain()
                if forwarding := self._answer(data, send, over_tcp=True):
                    self._spawn(forwarding).add_done_callback(lambda _: slots.release())
                else:
                    slots.release()
        async with asyncio.timeout(TCP_IDLE_S):  # a client may have closed its side only
            for _ in range(MAX_QUERIES_PER_CONNECTION):
                await slots.acquire()
            writer.close()
            await writer.wait_closed()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: ContainerServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._server.answer_datagram(data, address)
