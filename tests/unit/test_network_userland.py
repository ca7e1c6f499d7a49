"""What carries published ports between IP versions, on this host's loopback."""

import asyncio
import os
import socket
from contextlib import contextmanager
from ipaddress import IPv4Address

from runtime.network import userland
from runtime.network.userland import TcpRelay, UdpRelay

LOCALHOST = IPv4Address("127.0.0.1")


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers only once the client has finished sending, so half-closed connections must work."""
    writer.write((await reader.read()).upper())
    await writer.drain()
    writer.close()


@contextmanager
def relaying(relay, holder: socket.socket, port: int):
    running = relay(holder, (LOCALHOST, port))
    try:
        yield holder.getsockname()[:2]
    finally:
        running.close()


def test_bytes_and_half_closes_are_carried_both_ways():
    async def scenario() -> bytes:
        container = await asyncio.start_server(shout, "127.0.0.1", 0)
        async with container:
            with (
                socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
                relaying(TcpRelay, listener, container.sockets[0].getsockname()[1]) as address,
            ):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"ahoy " * 500_000)
                writer.write_eof()
                answer = await reader.read()
                writer.close()
                await writer.wait_closed()
            return answer

    assert asyncio.run(scenario()) == b"AHOY " * 500_000


def test_a_client_of_a_target_that_does_not_answer_is_hung_up_on():
    async def scenario() -> None:
        with (
            socket.socket() as closed,
            socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
        ):
            closed.bind(("127.0.0.1", 0))
            with relaying(TcpRelay, listener, closed.getsockname()[1]) as address:
                reader, writer = await asyncio.open_connection(*address)
                try:
                    assert await reader.read() == b""
                except ConnectionResetError:
                    pass
                writer.close()

    asyncio.run(scenario())


def test_the_listener_stays_the_callers_and_nothing_else_stays():
    async def scenario(listener: socket.socket) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with socket.create_server(("127.0.0.1", 0)) as container:
            with relaying(TcpRelay, listener, container.getsockname()[1]) as address:
                reader, writer = await asyncio.open_connection(*address)
                served, _ = await asyncio.to_thread(container.accept)
            assert await reader.read() == b""
            writer.close()
            served.close()
        await writer.wait_closed()
        assert len(os.listdir("/proc/self/fd")) <= before + 1  # the event loop's own

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        asyncio.run(scenario(listener))
        with socket.create_connection(listener.getsockname()[:2]):
            pass


@contextmanager
def udp(address: str):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.bind((address, 0))
        made.settimeout(5)
        yield made


def exchange(client: socket.socket, container: socket.socket, address: tuple[str, int], text: bytes) -> int:
    """The port the container sees the client at."""
    client.sendto(text, address)
    data, peer = container.recvfrom(100)
    assert data == text
    container.sendto(text.upper(), peer)
    answer, answered_by = client.recvfrom(100)
    assert (answer, answered_by[:2]) == (text.upper(), address)
    return peer[1]


def test_datagrams_are_carried_for_several_clients_and_answered_from_where_they_were_sent(monkeypatch):
    monkeypatch.setattr(userland, "MAX_UDP_CLIENTS", 2)

    async def scenario() -> None:
        async def ask(client: socket.socket, text: bytes) -> int:
            return await asyncio.to_thread(exchange, client, container, ("::1", bound.getsockname()[1]), text)

        with (
            udp("127.0.0.1") as container,
            udp("::") as bound,
            udp("::1") as one,
            udp("::1") as two,
            relaying(UdpRelay, bound, container.getsockname()[1]),
        ):
            first = await ask(one, b"one")
            assert await ask(two, b"two") != first
            assert await ask(one, b"again") == first, "a client keeps its port"
            with udp("::1") as three:
                await ask(three, b"three")
            await ask(two, b"after the limit")

    asyncio.run(scenario())


def test_an_idle_client_is_forgotten(monkeypatch):
    monkeypatch.setattr(userland, "UDP_IDLE_S", 0.01)

    async def scenario() -> None:
        with udp("127.0.0.1") as container, udp("::1") as bound, udp("::1") as client:
            relay = UdpRelay(bound, (LOCALHOST, container.getsockname()[1]))
            client.sendto(b"x", bound.getsockname()[:2])
            await asyncio.to_thread(container.recvfrom, 10)
            while relay._flows:
                await asyncio.sleep(0.005)
            relay.close()

    asyncio.run(scenario())
