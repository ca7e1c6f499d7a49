"""Published ports: what containers publish in the guest is offered on this computer.

QEMU's own forwarding carries the bytes, in C, from an IPv4 address of this computer to the guest's network address. It
knows no IPv6: a port on such an address is relayed to a forward of QEMU's on a loopback port of its own choice.
"""

import asyncio
import errno
import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

from vmbackend import host
from vmbackend.forward.local_relay import TcpRelay, UdpRelay
from vmbackend.qemu.qmp import MonitorError

Protocol_ = Literal["tcp", "udp"]

# Why a port cannot be had; the words of the channel's protocol (port_channel.py).
Refusal = Literal["taken", "no_address", "forbidden", "unsupported"]

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, order=True)
class PublishedPort:
    """A port of this computer, and the guest's port that it leads to."""

    protocol: Protocol_
    address: str
    port: int
    guest_port: int

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "PublishedPort":
        """Raises PortRefused for what no port can be."""
        protocol, address = document["protocol"], document["address"]
        if protocol not in get_args(Protocol_):
            raise PortRefused(
                "unsupported", f"{protocol.upper()} ports of a machine cannot be offered; publish TCP or UDP"
            )
        return cls(protocol, str(ipaddress.ip_address(address)), int(document["port"]), int(document["guest_port"]))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


class PortRefused(Exception):
    """The port cannot be offered; the text is the reason, a part of a sentence."""

    def __init__(self, kind: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def default_addresses(publish_address: str) -> list[str]:
    """Where ports are published that name no address: the setting's, and its like in IPv6 where there is one."""
    twin = {_LOOPBACK: "::1", "0.0.0.0": "::"}.get(publish_address)
    return [publish_address, *([twin] if twin and host.has_ipv6() else [])]


class HumanMonitor(Protocol):
    """QEMU's human monitor. Raises MonitorError."""

    async def human(self, line: str) -> str: ...


@dataclass
class _Offered:
    """`forwarded` is where QEMU listens; `relay` is what leads there from an IPv6 address."""

    forwarded: tuple[str, int]
    relay: TcpRelay | UdpRelay | None = None


class PortForwards:
    """The forwards of one running machine, for one event loop. `on_change` is called when `active` may have changed."""

    def __init__(self, monitor: HumanMonitor, netdev: str, guest_address: str) -> None:
        self._monitor = monitor
        self._netdev = netdev
        self._guest_address = guest_address
        self._offered: dict[PublishedPort, _Offered] = {}
        self._wanted: set[PublishedPort] = set()
        self._refused: dict[PublishedPort, str] = {}
        self._changing = asyncio.Lock()
        self.on_change: Callable[[], None] = lambda: None

    @property
    def active(self) -> list[PublishedPort]:
        return sorted(self._offered)

    @property
    def problems(self) -> list[str]:
        """A sentence for each wanted port which is not offered."""
        return [
            f"Port {port} cannot be offered on {port.address}: {reason}; stop that, or publish another port."
            for port, reason in sorted(self._refused.items())
        ]

    async def open(self, port: PublishedPort) -> None:
        """Offer one more port. Raises PortRefused; MonitorError when QEMU is gone."""
        async with self._changing:
            if port not in self._offered:
                self._offered[port] = await self._offer(port)
            self._wanted.add(port)
            self._refused.pop(port, None)
            self.on_change()

    async def close(self, port: PublishedPort) -> None:
        """Take a port back, with the connections through it; one that is not offered is fine. Raises MonitorError."""
        async with self._changing:
            self._wanted.discard(port)
            self._refused.pop(port, None)
            await self._withdraw(port)
            self.on_change()

    async def replace(self, wanted: set[PublishedPort]) -> None:
        """Offer these and no others. What cannot be had is a problem, for `retry`. Raises MonitorError."""
        async with self._changing:
            self._wanted = set(wanted)
            await self._reconcile()

    async def retry(self) -> None:
        """Offer what could not be had before. Raises MonitorError."""
        async with self._changing:
            await self._reconcile()

    async def stop(self) -> None:
        """End what this process serves; QEMU's forwards end with QEMU."""
        async with self._changing:
            for offered in self._offered.values():
                if offered.relay:
                    offered.relay.close()
            self._offered = {}

    async def _reconcile(self) -> None:
        for port in sorted(self._offered.keys() - self._wanted):
            await self._withdraw(port)
        self._refused = {}
        for port in sorted(self._wanted - self._offered.keys()):
            try:
                self._offered[port] = await self._offer(port)
            except PortRefused as refusal:
                self._refused[port] = str(refusal)
        self.on_change()

    async def _offer(self, port: PublishedPort) -> _Offered:
        if port.family == socket.AF_INET:
            return _Offered(await self._forward(port, port.address, port.port))
        try:
            bound = (host.listen_tcp if port.protocol == "tcp" else host.bind_udp)(port.address, port.port)
        except OSError as error:
            raise await asyncio.to_thread(_refusal, port, error) from error
        try:
            forwarded = await self._forward(port, _LOOPBACK, 0)
        except (PortRefused, MonitorError):
            bound.close()
            raise
        relay = TcpRelay if port.protocol == "tcp" else UdpRelay
        return _Offered(forwarded, await relay.serve(bound, forwarded))

    async def _withdraw(self, port: PublishedPort) -> None:
        offered = self._offered.pop(port, None)
        if offered is None:
            return
        if offered.relay:
            offered.relay.close()
        address, number = offered.forwarded
        await self._monitor.human(f"hostfwd_remove {self._netdev} {port.protocol}:{address}:{number}")

    async def _forward(self, port: PublishedPort, address: str, number: int) -> tuple[str, int]:
        """A forward of QEMU's from there to the guest's port; from number 0, one that QEMU picks."""
        before = await self._picked(port) if number == 0 else set()
        rule = f"{port.protocol}:{address}:{number}-{self._guest_address}:{port.guest_port}"
        if complaint := await self._monitor.human(f"hostfwd_add {self._netdev} {rule}"):
            raise await asyncio.to_thread(_why_refused, port, complaint)
        if number == 0:
            [number] = await self._picked(port) - before
        return address, number

    async def _picked(self, port: PublishedPort) -> set[int]:
        """Loopback ports that QEMU forwards to the guest's port."""
        line = re.compile(
            rf"{port.protocol.upper()}\[HOST_FORWARD\]\s+\d+\s+{re.escape(_LOOPBACK)}\s+(\d+)"
            rf"\s+{re.escape(self._guest_address)}\s+{port.guest_port}\s"
        )
        return {int(number) for number in line.findall(await self._monitor.human("info usernet"))}


def _why_refused(port: PublishedPort, complaint: str) -> PortRefused:
    """QEMU does not say why it could not listen; trying it ourselves does."""
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(port.family, kind) as attempt:
        try:
            attempt.bind((port.address, port.port))
            if port.protocol == "tcp":
                attempt.listen()
        except OSError as error:
            return _refusal(port, error)
    return PortRefused("taken", f"QEMU says {re.sub(r'[.]$', '', complaint)}")


def _refusal(port: PublishedPort, error: OSError) -> PortRefused:
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.EADDRNOTAVAIL:
        return PortRefused("no_address", f"{reason}; this computer has no such address")
    # A port held exclusively is forbidden rather than taken on Windows.
    if owner := host.port_owner(port.protocol, port.port):
        return PortRefused("taken", f"{owner} uses it")
    if error.errno == errno.EACCES:
        return PortRefused("forbidden", f"{reason}; {host.FORBIDDEN_PORT_HINT}")
    return PortRefused("taken", reason)
