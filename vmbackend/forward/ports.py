"""Published ports: what containers publish in the guest is offered on this computer.

Reconciled, never set once: `reconcile` compares what should be with what is and repairs the difference, so lost
events and restarts heal by themselves.

Two ways lead into the guest. QEMU's own forwarding carries the bytes in C, but arrives at the guest's network
address; a port published on the guest's loopback is therefore reached through SSH, TCP only.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from vmbackend import host
from vmbackend.forward.relay import GuestStream, Relay
from vmbackend.forward.tcp import TcpListener

Protocol_ = Literal["tcp", "udp"]


@dataclass(frozen=True, order=True)
class PublishedPort:
    """A port some container publishes. `address` is the one asked for in the guest: "0.0.0.0" or a loopback one."""

    protocol: Protocol_
    address: str
    port: int

    @property
    def on_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


def published_ports(containers: Iterable[dict[str, Any]]) -> set[PublishedPort]:
    """What the entries of `GET /containers/json` publish.

    The IPv6 twin of an IPv4 entry is left out: QEMU's user network offers IPv4 here, and `localhost` falls back to it.
    """
    return {
        PublishedPort(port["Type"], port.get("IP") or "0.0.0.0", port["PublicPort"])
        for container in containers
        for port in container.get("Ports") or ()
        if port.get("PublicPort") and port["Type"] in get_args(Protocol_) and ":" not in (port.get("IP") or "")
    }


class PortRefused(Exception):
    """The port cannot be offered; the text is a sentence saying why."""


class HumanMonitor(Protocol):
    """QEMU's human monitor."""

    async def human(self, line: str) -> str: ...


class PortForwards:
    """The forwards of one running machine.

    `publish_address` is this computer's address for ports published on all of the guest's; `open_guest_tcp` opens a
    stream to (address, port) as the guest sees it.
    """

    def __init__(
        self,
        monitor: HumanMonitor,
        netdev: str,
        guest_address: str,
        publish_address: str,
        open_guest_tcp: Callable[[str, int], GuestStream],
    ) -> None:
        self._monitor = monitor
        self._netdev = netdev
        self._guest_address = guest_address
        self._publish_address = publish_address
        self._open_guest_tcp = open_guest_tcp
        self._active: dict[PublishedPort, Relay | None] = {}
        self._refused: dict[PublishedPort, str] = {}

    @property
    def active(self) -> list[PublishedPort]:
        return sorted(self._active)

    @property
    def problems(self) -> list[str]:
        """A sentence for each wanted port which is not offered."""
        return [self._refused[port] for port in sorted(self._refused)]

    async def reconcile(self, wanted: set[PublishedPort]) -> None:
        """Make the forwards match; refused ports are tried again each time. Raises MonitorError when QEMU is gone."""
        for port in sorted(self._active.keys() - wanted):
            await self._remove(port)
        self._refused = {}
        for port in sorted(wanted - self._active.keys()):
            try:
                self._active[port] = await self._add(port)
            except PortRefused as refusal:
                self._refused[port] = str(refusal)

    async def close(self) -> None:
        """Close the forwards of this process; QEMU's end with QEMU."""
        relays = [relay for relay in self._active.values() if relay]
        self._active = {}
        await asyncio.gather(*(asyncio.to_thread(relay.close) for relay in relays))

    async def _add(self, port: PublishedPort) -> Relay | None:
        if port.on_loopback:
            if port.protocol == "udp":
                raise PortRefused(
                    f"Port {port} is published on the guest's {port.address}, where only TCP can be reached; "
                    "publish it without an address."
                )
            try:
                listener = TcpListener("127.0.0.1", port.port)
            except OSError as error:
                raise PortRefused(await asyncio.to_thread(_why_taken, port, "127.0.0.1", error)) from error
            return Relay(listener, lambda: self._open_guest_tcp(port.address, port.port))
        rule = f"{port.protocol}:{self._publish_address}:{port.port}"
        complaint = await self._monitor.human(f"hostfwd_add {self._netdev} {rule}-{self._guest_address}:{port.port}")
        if complaint:
            raise PortRefused(await asyncio.to_thread(_why_refused, port, self._publish_address, complaint))
        return None

    async def _remove(self, port: PublishedPort) -> None:
        relay = self._active.pop(port)
        if relay is not None:
            await asyncio.to_thread(relay.close)
        else:
            await self._monitor.human(
                f"hostfwd_remove {self._netdev} {port.protocol}:{self._publish_address}:{port.port}"
            )


def _why_refused(port: PublishedPort, address: str, complaint: str) -> str:
    """QEMU does not say why it could not listen; trying it ourselves does."""
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as attempt:
        try:
            attempt.bind((address, port.port))
        except OSError as error:
            return _why_taken(port, address, error)
    return f"Port {port} cannot be offered on {address}: QEMU says {re.sub(r'[.]$', '', complaint)}."


def _why_taken(port: PublishedPort, address: str, error: OSError) -> str:
    owner = host.port_owner(port.protocol, port.port)
    reason = f"{owner} uses it" if owner else (error.strerror or str(error)).lower()
    return f"Port {port} cannot be offered on {address}: {reason}; stop that, or publish another port."
