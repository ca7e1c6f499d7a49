"""The forwarder of IPv6 clients."""

import asyncio
import socket
from ipaddress import IPv4Address

from runtime.network.userland import serve_tcp

LOCALHOST = IPv4Address("127.0.0.1")


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers only once the client has finished sending, so half-closed connections must work."""
    writer.write((await reader.read()).upper())
    await writer.drain()
    writer.close()


def test_bytes_and_half_closes_are_carried_both_ways():
    async def scenario() -> bytes:
        container = await asyncio.start_server(shout, "127.0.0.1", 0)
        target = (LOCALHOST, container.sockets[0].getsockname()[1])
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
            forwarder = await serve_tcp(listener, target)
            async with container, forwarder:
                reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
                writer.write(b"ahoy " * 50_000)
                writer.write_eof()
                answer = await reader.read()
                writer.close()
                await writer.wait_closed()
            return answer

    assert asyncio.run(scenario()) == b"AHOY " * 50_000


def test_a_client_of_a_target_that_does_not_answer_is_hung_up_on():
    async def scenario() -> None:
        with socket.socket() as closed, socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
            closed.bind(("127.0.0.1", 0))
            forwarder = await serve_tcp(listener, (LOCALHOST, closed.getsockname()[1]))
            async with forwarder:
                reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
                try:
                    assert await reader.read() == b""
                except ConnectionResetError:
                    pass
                writer.close()

    asyncio.run(scenario())


def test_the_listener_stays_the_callers():
    async def scenario(listener: socket.socket) -> None:
        forwarder = await serve_tcp(listener, (LOCALHOST, 9))
        forwarder.close()
        await forwarder.wait_closed()

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        asyncio.run(scenario(listener))
        with socket.create_connection(listener.getsockname()[:2]):
            pass
