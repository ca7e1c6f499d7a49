"""TLS in front of the plain HTTP server, as a relay of its own.

asyncio's TLS streams cannot be half-closed: they end both ways when the client says that it will send no more, which
is how `docker run -i` says that its input has ended. Here that becomes a half-closed socket pair, and the HTTP server
sees what it sees on a unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 10
READ_BYTES = 1 << 16

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def terminate(
    context: ssl.SSLContext, connected: Connected, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one TLS connection by `connected`, which gets it decrypted; closes everything at the end."""
    session = _Session(context, reader, writer)
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            await session.handshake()
        await _relay(session, connected)
    except (ssl.SSLError, ConnectionError, TimeoutError) as error:
        log.info("a TLS client of %s was refused or went away: %s", writer.get_extra_info("peername"), error)
    except asyncio.CancelledError:
        pass  # the engine ends; asyncio 3.11 logs a cancelled handler as an error
    finally:
        writer.close()


async def _relay(session: _Session, connected: Connected) -> None:
    ours, served = socket.socketpair()
    plain_reader, plain_writer = await asyncio.open_connection(sock=ours)
    serving = asyncio.ensure_future(connected(*await asyncio.open_connection(sock=served)))
    ways = {
        asyncio.ensure_future(session.decrypt_to(plain_writer)),
        asyncio.ensure_future(session.encrypt_from(plain_reader)),
    }
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        plain_writer.close()  # a request that is being carried out is carried out, as on a unix socket
        await serving


class _Session:
    """One TLS session over memory buffers; both directions run on the event loop, never inside OpenSSL at once."""

    def __init__(self, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)

    async def handshake(self) -> None:
        """Raises SSLError, after telling the client why, or ConnectionError."""
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                pass
            finally:
                await self._flush()
            if not await self._receive():
                raise ConnectionResetError("no handshake")

    async def decrypt_to(self, plain: asyncio.StreamWriter) -> None:
        """Until the client is gone; that it will send no more is passed on."""
        while data := await self._decrypted():
            plain.write(data)
            await plain.drain()
        plain.write_eof()
        while await self._reader.read(READ_BYTES):
            pass

    async def _decrypted(self) -> bytes:
        while True:
            try:
                return self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._receive():
                    raise ConnectionResetError("it closed without ending its TLS session") from None

    async def encrypt_from(self, plain: asyncio.StreamReader) -> None:
        while data := await plain.read(READ_BYTES):
            self._tls.write(data)
            await self._flush()
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()  # queues our "no more"; the client's answer need not come
        await self._flush()

    async def _receive(self) -> bool:
        data = await self._reader.read(READ_BYTES)
        self._received.write(data)
        return bool(data)

    async def _flush(self) -> None:
        if data := self._to_send.read():
            self._writer.write(data)
            await self._writer.drain()
