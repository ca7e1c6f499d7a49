"""Asks other name servers, over UDP for a client that came by UDP and over TCP for one that came by TCP.

A query goes on as it came, EDNS and all, but for its id. A truncated answer goes back as it is: its client then asks
again by TCP.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Sequence

from runtime.network.dns.host_servers import Upstream
from runtime.network.dns.message import (
    MAX_SIZE_BYTES,
    REFUSED,
    SERVFAIL,
    FormatError,
    Query,
    reply_code,
    with_id,
)
from runtime.network.dns.sockets import NamespaceThread

PORT = 53
# The C libraries ask again after 5 s (glibc) or 2.5 s (musl): by then all servers have had their turn.
NEXT_SERVER_AFTER_S = 1.5
GIVE_UP_AFTER_S = 4.5
MAX_PENDING = 1024  # of all containers
MAX_PENDING_PER_CLIENT = 256


class Forwarder:
    """Forwards queries of every container; each takes a socket of its own, and so a source port nobody can guess."""

    def __init__(self, namespaces: NamespaceThread) -> None:
        self._namespaces = namespaces
        self._pending = 0

    @property
    def is_full(self) -> bool:
        return self._pending >= MAX_PENDING

    async def ask(
        self, data: bytes, query: Query, servers: Sequence[Upstream], netns_fd: int, over_tcp: bool
    ) -> bytes | None:
        """The first useful answer, with the client's id; None if there is none in time.

        Servers are asked in order: the next one when one fails, or has said nothing for a while. A late answer of an
        earlier one is still good.
        """
        self._pending += 1
        waiting = list(servers)
        asked: set[asyncio.Task[bytes | None]] = set()
        try:
            async with asyncio.timeout(GIVE_UP_AFTER_S):
                while waiting or asked:
                    if waiting:
                        exchange = self._exchange(data, query, waiting.pop(0), netns_fd, over_tcp)
                        asked.add(asyncio.create_task(exchange))
                    done, asked = await asyncio.wait(
                        asked,
                        timeout=NEXT_SERVER_AFTER_S if waiting else None,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    for task in done:
                        if reply := task.result():
                            return with_id(reply, query.id)
        except TimeoutError:
            pass
        finally:
            self._pending -= 1
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return None

    async def _exchange(
        self, data: bytes, query: Query, server: Upstream, netns_fd: int, over_tcp: bool
    ) -> bytes | None:
        """None for a server that cannot be asked, or that knows no better than to fail or refuse."""
        id = secrets.randbelow(1 << 16)
        sent = with_id(data, id)
        try:
            with await self._connect(server, netns_fd, over_tcp) as connection:
                exchange = _over_tcp if over_tcp else _over_udp
                reply = await exchange(connection, sent, query, id)
                useless = reply_code(reply, query, id) in (SERVFAIL, REFUSED)
        except (OSError, EOFError, FormatError):
            return None
        return None if useless else reply

    async def _connect(self, server: Upstream, netns_fd: int, over_tcp: bool) -> socket.socket:
        kind = (socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM) | socket.SOCK_NONBLOCK
        family, _, _, _, address = socket.getaddrinfo(
            server.address, PORT, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]

        def open_socket() -> socket.socket:
            return socket.socket(family, kind)

        connection = open_socket() if server.from_host else await self._namespaces.run(netns_fd, open_socket)
        try:
            await asyncio.get_running_loop().sock_connect(connection, address)
        except BaseException:
            connection.close()
            raise
        return connection


async def _over_udp(connection: socket.socket, sent: bytes, query: Query, id: int) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, sent)
    while True:
        reply = await loop.sock_recv(connection, MAX_SIZE_BYTES)
        try:
            reply_code(reply, query, id)
        except FormatError:
            continue  # forged, or meant for somebody who had the port before
        return reply


async def _over_tcp(connection: socket.socket, sent: bytes, query: Query, id: int) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, len(sent).to_bytes(2, "big") + sent)
    size = int.from_bytes(await _receive_exactly(connection, 2), "big")
    return await _receive_exactly(connection, size)


async def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = bytearray()
    while len(received) < size:
        chunk = await loop.sock_recv(connection, size - len(received))
        if not chunk:
            raise EOFError("the name server hung up")
        received += chunk
    return bytes(received)
