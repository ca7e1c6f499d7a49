"""Serves a published TCP port to IPv6 clients, such as those of `localhost` on a host that prefers ::1.

Containers have IPv4 only and the kernel translates no IPv6 address into an IPv4 one, so these connections,
and no others, are carried through the engine.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from ipaddress import IPv4Address

_CHUNK_SIZE_BYTES = 64 * 1024


async def serve_tcp(listener: socket.socket, target: tuple[IPv4Address, int]) -> asyncio.Server:
    """Carry every connection to `listener` to the target until the returned server is closed.

    The server works on a duplicate of `listener`, which stays the caller's. A client whose target does not
    answer is hung up on.
    """
    address, port = str(target[0]), target[1]

    async def carry(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            container, to_container = await asyncio.open_connection(address, port)
        except OSError:
            to_client.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(_pump(client, to_container))
                both_ways.create_task(_pump(container, to_client))
        except* OSError:
            to_client.transport.abort()
            to_container.transport.abort()
        finally:
            to_client.close()
            to_container.close()

    return await asyncio.start_server(carry, sock=listener.dup())


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK_SIZE_BYTES):
        sink.write(chunk)
        await sink.drain()
    with suppress(OSError):  # the other side may have hung up for good already
        sink.write_eof()
