"""Ports of another computer, asked for over a channel: the engine's side, against a desktop of a few lines."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import InvalidParameter, PermissionDenied, Unavailable
from runtime.network import port_broker
from runtime.network.desktop_ports import DesktopPorts
from runtime.network.port_broker import PortBroker
from runtime.network.ports import PortTaken

LOCALHOST = IPv4Address("127.0.0.1")
LOCALHOST6 = IPv6Address("::1")


class Desktop:
    """Opens whatever `refusals` does not name by port; one that is silent answers nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open: dict[tuple[str, str, int], int] = {}
        self.refusals: dict[int, tuple[str, str]] = {}
        self.silent = False
        self.held: asyncio.Queue[list[dict[str, Any]]] = asyncio.Queue()
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while line := await reader.readline():
            if not line.strip():
                continue
            message = json.loads(line)
            self.heard.put_nowait(message)
            if self.silent:
                continue
            if message["op"] == "hello":
                self.say({"op": "hello", "default_addresses": ["127.0.0.1", "::1"]})
            elif message["op"] == "held":
                self.held.put_nowait(message["ports"])
            else:
                self.say({"id": message["id"], **self.change(message)})
        writer.close()

    def change(self, message: dict[str, Any]) -> dict[str, Any]:
        key = message["protocol"], message["address"], message["port"]
        if message["op"] == "close":
            self.open.pop(key, None)
        elif message["port"] in self.refusals:
            kind, reason = self.refusals[message["port"]]
            return {"refused": kind, "reason": reason}
        else:
            self.open[key] = message["guest_port"]
        return {}

    def say(self, message: dict[str, Any]) -> None:
        self.writers[-1].write(json.dumps(message).encode() + b"\n")

    async def wait_until(self, op: str) -> None:
        while (await self.heard.get())["op"] != op:
            pass


@asynccontextmanager
async def channel(path: Path) -> AsyncIterator[tuple[Desktop, PortBroker]]:
    desktop = Desktop(path)
    server = await asyncio.start_unix_server(desktop.serve, path)
    broker = PortBroker(path)
    broker.start()
    try:
        async with asyncio.timeout(30):
            yield desktop, broker
    finally:
        broker.stop()
        server.close()
        for writer in desktop.writers:
            writer.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def test_a_port_leads_to_the_same_one_of_this_kernel_from_every_address(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with channel(tmp_path / "ports") as (desktop, broker):
            ports, port = DesktopPorts(broker), free_port()
            held = await ports.reserve("tcp", None, port)
            assert [reservation.host_address for reservation in held] == [LOCALHOST, LOCALHOST6]
            assert desktop.open == {("tcp", "127.0.0.1", port): port, ("tcp", "::1", port): port}
            with pytest.raises(PortTaken, match=f"Bind for 127.0.0.1:{port} failed: port is already allocated$"):
                await ports.reserve("tcp", [LOCALHOST], port)
            for reservation in held:
                reservation.close()
            await broker.settled()
            assert desktop.open == {}

    asyncio.run(scenario())


def test_a_taken_port_is_refused_with_its_owner_and_leaves_nothing_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with channel(tmp_path / "ports") as (desktop, broker):
            ports, port = DesktopPorts(broker), free_port()
            desktop.refusals = {port: ("taken", "nginx (pid 7) uses it")}
            wanted = f"Bind for 127.0.0.1:{port} failed: port is already allocated; nginx \\(pid 7\\) uses it"
            with pytest.raises(PortTaken, match=wanted) as refused:
                await ports.reserve("tcp", None, port)
            assert not refused.value.by_us
            [held] = await ports.reserve("tcp", [LOCALHOST], port, port + 20)
            assert held.host_port > port
            held.close()
            await broker.settled()
            assert desktop.open == {}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "raised"),
    [("forbidden", PermissionDenied), ("no_address", InvalidParameter), ("unsupported", InvalidParameter)],
)
def test_other_refusals_are_what_they_are_on_this_computer(tmp_path: Path, kind: str, raised: type[Exception]) -> None:
    async def scenario() -> None:
        async with channel(tmp_path / "ports") as (desktop, broker):
            port = free_port()
            desktop.refusals = {port: (kind, "for a reason")}
            said = f"failed to bind host port for 127.0.0.1:{port}:172.17.0.2:80/tcp: for a reason"
            with pytest.raises(raised, match=said):
                await DesktopPorts(broker).reserve("tcp", [LOCALHOST], port, leads_to="172.17.0.2:80")

    asyncio.run(scenario())


def test_random_ports_are_free_on_the_desktop(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with channel(tmp_path / "ports") as (desktop, broker):
            ports = DesktopPorts(broker)
            [first] = await ports.reserve("tcp", [LOCALHOST])
            desktop.refusals = {first.host_port + step: ("taken", "") for step in range(1, 4)}
            [second] = await ports.reserve("tcp", [LOCALHOST])
            assert second.host_port > first.host_port + 3
            for reservation in (first, second):
                reservation.close()

    asyncio.run(scenario())


def test_a_port_in_use_in_this_kernel_is_entered_elsewhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with channel(tmp_path / "ports") as (desktop, broker):
            with socket.create_server(("", 0)) as other:
                port = other.getsockname()[1]
                [held] = await DesktopPorts(broker).reserve("tcp", [LOCALHOST], port)
                assert held.host_port == port and held.entry_port not in (0, port)
                assert desktop.open == {("tcp", "127.0.0.1", port): held.entry_port}
                held.close()

    asyncio.run(scenario())


def test_the_desktop_hears_all_there_is_whenever_it_asks(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with channel(tmp_path / "ports") as (desktop, broker):
            ports = DesktopPorts(broker)
            assert await desktop.held.get() == []
            [held] = await ports.reserve("udp", [LOCALHOST])
            known = {
                "protocol": "udp",
                "address": "127.0.0.1",
                "port": held.host_port,
                "guest_port": held.entry_port,
            }
            desktop.say({"op": "hello", "default_addresses": ["127.0.0.1"]})
            assert await desktop.held.get() == [known]
            desktop.writers[-1].close()  # another hostagent
            assert await desktop.held.get() == [known]
            broker.stop()
            held.close()  # by an engine that ends: its containers run on

            after = PortBroker(desktop.path)
            restored = DesktopPorts(after).restore("udp", LOCALHOST, held.host_port, held.entry_port, with_entry=True)
            after.start()
            assert await desktop.held.get() == [known]
            restored.close()
            await after.settled()
            assert desktop.open == {}
            after.stop()

    asyncio.run(scenario())


def test_what_was_asked_of_a_desktop_that_went_is_asked_of_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with channel(tmp_path / "ports") as (desktop, broker):
            await desktop.held.get()
            desktop.silent = True
            asking = asyncio.create_task(DesktopPorts(broker).reserve("tcp", [LOCALHOST]))
            await desktop.wait_until("open")
            desktop.silent = False
            desktop.writers[-1].close()
            [held] = await asking
            assert ("tcp", "127.0.0.1", held.host_port) in desktop.open
            held.close()

    asyncio.run(scenario())


def test_a_silent_desktop_is_given_up_and_told_to_close_what_it_may_have_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_broker, "ANSWER_TIMEOUT_S", 0.02)

    async def scenario() -> None:
        async with channel(tmp_path / "ports") as (desktop, broker):
            await desktop.held.get()
            desktop.silent = True
            with pytest.raises(Unavailable, match="has not said"):
                await DesktopPorts(broker).reserve("tcp", [LOCALHOST])
            await desktop.wait_until("close")

    asyncio.run(scenario())


def test_a_channel_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(InvalidParameter, match=r"--port-broker .*/nothing: No such file"):
            PortBroker(tmp_path / "nothing").start()

    asyncio.run(scenario())
