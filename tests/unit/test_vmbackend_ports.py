"""Published ports of a machine: what QEMU is told, what is relayed, what the guest's engine hears."""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from vmbackend import host
from vmbackend.forward.port_channel import PortChannel
from vmbackend.forward.ports import PortForwards, PortRefused, PublishedPort, default_addresses

GUEST = "10.0.2.15"


class Monitor:
    """QEMU's human monitor, as far as forwarding goes; a picked port is `picks`."""

    def __init__(self, picks: int = 5) -> None:
        self.rules: dict[str, str] = {}
        self.refused = ""
        self.picks = picks

    async def human(self, line: str) -> str:
        if line == "info usernet":
            return "\r\n".join(self._table())
        verb, _, rule = line.split()
        if verb == "hostfwd_remove":
            del self.rules[rule]
            return f"host forwarding rule for {rule} removed"
        if self.refused and self.refused in rule:
            return f"Could not set up host forwarding rule '{rule}'"
        listening, _, target = rule.partition("-")
        self.rules[listening.replace(":0", f":{self.picks}") if listening.endswith(":0") else listening] = target
        return ""

    def _table(self) -> list[str]:
        lines = ["Hub -1 (net0):", "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ"]
        for listening, target in self.rules.items():
            protocol, address, port = listening.split(":")
            lines.append(
                f"  {protocol.upper()}[HOST_FORWARD]  12 {address:>15} {port:>5} {target.replace(':', ' ')}     0     0"
            )
        return [*lines, ""]


def forwards_of(monitor: Monitor) -> PortForwards:
    return PortForwards(monitor, "net0", GUEST)


def free_port(address: str = "127.0.0.1") -> int:
    with host.listen_tcp(address, 0) as probe:
        return int(probe.getsockname()[1])


def test_forwards_are_made_and_taken_back() -> None:
    monitor = Monitor()
    one = PublishedPort("tcp", "127.0.0.1", 8001, 8001)
    two = PublishedPort("udp", "192.168.7.7", 8002, 40000)

    async def scenario() -> None:
        forwards = forwards_of(monitor)
        await forwards.open(one)
        await forwards.open(one)
        await forwards.open(two)
        assert monitor.rules == {"tcp:127.0.0.1:8001": f"{GUEST}:8001", "udp:192.168.7.7:8002": f"{GUEST}:40000"}
        await forwards.close(one)
        await forwards.close(one)
        assert monitor.rules.keys() == {"udp:192.168.7.7:8002"} and forwards.active == [two]
        await forwards.replace({one})
        assert monitor.rules.keys() == {"tcp:127.0.0.1:8001"} and forwards.active == [one]

    asyncio.run(scenario())


def test_a_taken_port_names_its_owner() -> None:
    monitor = Monitor()

    async def scenario() -> None:
        forwards = forwards_of(monitor)
        with host.listen_tcp("127.0.0.1", 0) as taken:
            port = PublishedPort("tcp", "127.0.0.1", taken.getsockname()[1], 80)
            monitor.refused = f":{port.port}-"
            with pytest.raises(PortRefused, match=rf"\(pid {os.getpid()}\) uses it") as refused:
                await forwards.open(port)
        assert refused.value.kind == "taken" and forwards.problems == [] and forwards.active == []

    asyncio.run(scenario())


def test_what_cannot_be_had_again_is_a_problem_until_it_can() -> None:
    monitor = Monitor()

    async def scenario() -> None:
        forwards = forwards_of(monitor)
        with host.listen_tcp("127.0.0.1", 0) as taken:
            port = PublishedPort("tcp", "127.0.0.1", taken.getsockname()[1], 80)
            monitor.refused = f":{port.port}-"
            await forwards.replace({port})
            (problem,) = forwards.problems
            assert f"Port {port.port}/tcp cannot be offered on 127.0.0.1: " in problem
            assert f"(pid {os.getpid()}) uses it" in problem
        monitor.refused = ""
        await forwards.retry()
        assert forwards.problems == [] and forwards.active == [port]

    asyncio.run(scenario())


def test_an_address_that_is_not_this_computers_and_a_protocol_that_is_not_carried() -> None:
    monitor = Monitor()
    monitor.refused = ":80-"

    async def scenario() -> None:
        with pytest.raises(PortRefused, match="this computer has no such address") as refused:
            await forwards_of(monitor).open(PublishedPort("udp", "192.0.2.77", 80, 80))
        assert refused.value.kind == "no_address"

    asyncio.run(scenario())
    with pytest.raises(PortRefused, match="SCTP ports of a machine cannot be offered; publish TCP or UDP"):
        PublishedPort.from_json({"protocol": "sctp", "address": "127.0.0.1", "port": 1, "guest_port": 1})


def test_ports_without_an_address_are_offered_in_both_versions_of_ip() -> None:
    assert host.has_ipv6(), "these tests need an IPv6 loopback"
    assert default_addresses("127.0.0.1") == ["127.0.0.1", "::1"]
    assert default_addresses("0.0.0.0") == ["0.0.0.0", "::"]
    assert default_addresses("192.168.7.7") == ["192.168.7.7"]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers once the client has sent all, so half-closed connections must work."""
    writer.write(await reader.read())
    await writer.drain()
    writer.close()


def test_a_tcp_port_on_ipv6_is_relayed_to_where_qemu_listens() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        monitor = Monitor(picks=server.sockets[0].getsockname()[1])
        forwards, number = forwards_of(monitor), free_port("::1")
        port = PublishedPort("tcp", "::1", number, 80)
        await forwards.open(port)
        assert monitor.rules == {f"tcp:127.0.0.1:{monitor.picks}": f"{GUEST}:80"}
        reader, writer = await asyncio.open_connection("::1", number)
        writer.write(b"ahoy " * 200_000)
        writer.write_eof()
        async with asyncio.timeout(30):
            assert await reader.read() == b"ahoy " * 200_000
        writer.close()

        _, open_writer = await asyncio.open_connection("::1", number)
        waiting, second = await asyncio.open_connection("::1", number)
        await forwards.close(port)
        assert monitor.rules == {}
        async with asyncio.timeout(30):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await waiting.readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("::1", number)
        for left in (open_writer, second):
            left.close()
        server.close()

    asyncio.run(scenario())


def test_a_udp_port_on_ipv6_answers_each_client() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with host.bind_udp("127.0.0.1", 0) as guest:
            guest.setblocking(False)
            monitor = Monitor(picks=guest.getsockname()[1])
            forwards = forwards_of(monitor)
            with host.bind_udp("::1", 0) as probe:
                number = probe.getsockname()[1]
            await forwards.open(PublishedPort("udp", "::1", number, 53))
            clients = [host.bind_udp("::1", 0) for _ in range(3)]
            for index, one in enumerate(clients):
                one.setblocking(False)
                one.sendto(b"who %d" % index, ("::1", number))
            async with asyncio.timeout(30):
                for _ in clients:
                    data, peer = await loop.sock_recvfrom(guest, 100)
                    guest.sendto(data.upper(), peer)
                for index, one in enumerate(clients):
                    assert await loop.sock_recv(one, 100) == b"WHO %d" % index
                    one.close()
            await forwards.stop()
        await asyncio.sleep(0)  # transports close in the loop's next round

    asyncio.run(scenario())


Talk = Callable[[asyncio.StreamReader, Callable[[dict[str, Any]], None]], Awaitable[None]]


def talk_to_channel(monitor: Monitor, talk: Talk) -> None:
    """Be the guest's engine."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        forwards = forwards_of(monitor)
        serving = asyncio.create_task(PortChannel(forwards, ["127.0.0.1"]).run(ours))
        reader, writer = await asyncio.open_connection(sock=theirs)
        async with asyncio.timeout(30):
            await talk(reader, lambda message: writer.write(json.dumps(message).encode() + b"\n"))
            writer.close()
            await serving

    asyncio.run(scenario())


def test_the_channel_greets_opens_closes_and_survives_nonsense() -> None:
    monitor = Monitor()
    port = {"protocol": "tcp", "address": "127.0.0.1", "port": 8001, "guest_port": 8001}

    async def talk(reader: asyncio.StreamReader, say: Callable[[Any], None]) -> None:
        async def hear() -> Any:
            return json.loads(await reader.readline())

        hello = {"op": "hello", "default_addresses": ["127.0.0.1"]}
        assert await hear() == hello
        say("half a mess")
        say({"op": "hello"})
        assert await hear() == hello
        say({"id": 1, "op": "open", **port})
        assert await hear() == {"id": 1}
        say({"id": 2, "op": "open", **port, "protocol": "sctp"})
        assert (await hear())["refused"] == "unsupported"
        say({"id": 3, "op": "close", **port})
        assert await hear() == {"id": 3}
        assert monitor.rules == {}
        say({"op": "held", "ports": [port, {**port, "port": 8002}]})
        say({"id": 4, "op": "close", **port})
        assert await hear() == {"id": 4}
        assert monitor.rules.keys() == {"tcp:127.0.0.1:8002"}

    talk_to_channel(monitor, talk)
