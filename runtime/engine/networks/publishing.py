"""Published ports of running containers: reserved on the host, then translated by the packet rules or carried."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from runtime.engine.networks.attachments import Published, PublishedPort
from runtime.engine.options import PortRequest
from runtime.errors import Conflict, InvalidParameter, SystemFault, WherryError
from runtime.linux.netlink import IpAddress
from runtime.network.desktop_ports import DesktopPorts
from runtime.network.nat import ANY_ADDRESS, ANY_IPV6_ADDRESS, NatTable, PortBinding, Protocol, ReachablePort
from runtime.network.port_broker import PortBroker
from runtime.network.ports import PortAllocator, PortReservation, socket_address
from runtime.network.sysctl import has_ipv6
from runtime.network.userland import TcpRelay, UdpRelay

log = logging.getLogger(__name__)

RELAYS: Mapping[str, type[TcpRelay] | type[UdpRelay]] = {"tcp": TcpRelay, "udp": UdpRelay}

Targets = Mapping[int, IpAddress]  # a container's addresses by IP version


class Publisher:
    """Owns the host ports of one engine. A `Published` is the caller's to keep, and to `withdraw` when all ends."""

    def __init__(self, nat: NatTable, broker: PortBroker | None) -> None:
        """`broker`: the host's ports are those of the computer beyond it."""
        self._nat = nat
        self._ports = PortAllocator()
        self._broker = broker
        self._desktop_ports = DesktopPorts(broker) if broker else None

    async def publish(
        self,
        published: Published,
        requests: Iterable[PortRequest],
        targets: Targets,
        endpoint: str,
        default_host_ip: str = "",
    ) -> None:
        """`endpoint` is its name and id, for messages. What was done is in `published`, also when it fails.

        Raises SystemFault for a port that cannot be had, as Docker does.
        """
        published.targets = targets
        try:
            for request in requests:
                reserved = await self._reserve(request, targets, default_host_ip)
                published.reservations += reserved
                for reservation in reserved:
                    port = PublishedPort(
                        reservation.protocol,
                        reservation.host_address,
                        reservation.host_port,
                        request.container_port,
                        reservation.entry_port,
                    )
                    await self._translate(published, port)
                    published.ports.append(port)
        except (Conflict, InvalidParameter) as error:
            raise SystemFault(
                "failed to set up container networking: driver failed programming external connectivity on "
                f"endpoint {endpoint}: {error}"
            ) from error
        self.serve(published)

    async def _reserve(self, request: PortRequest, targets: Targets, default_host_ip: str) -> list[PortReservation]:
        protocol = cast(Protocol, request.protocol)
        host_ip = request.host_ip or default_host_ip
        target = next((targets[version] for version in (4, 6) if version in targets), None)
        leads_to = socket_address(target, request.container_port) if target else ""
        first, last = request.host_port, request.host_port_end or None
        if self._desktop_ports:
            given = [ipaddress.ip_address(host_ip)] if host_ip else None
            return await self._desktop_ports.reserve(protocol, given, first, last, leads_to)
        if host_ip:
            addresses: list[IpAddress] = [ipaddress.ip_address(host_ip)]
        else:
            addresses = [ANY_ADDRESS, *([ANY_IPV6_ADDRESS] if has_ipv6() else [])]
        if protocol not in RELAYS:
            reached = [address for address in addresses if address.version in targets]
            if not reached:
                raise InvalidParameter(
                    f"{protocol} port {request.container_port} cannot be published on {host_ip}: the container has "
                    f"no IPv{addresses[0].version} address"
                )
            addresses = reached
        return self._ports.reserve(protocol, addresses, first, last, leads_to)

    async def _translate(self, published: Published, port: PublishedPort) -> None:
        version = port.binding.host_address.version
        if not (target := published.targets.get(version)):
            return
        if version in published.routed:
            self._nat.open(ReachablePort(port.protocol, target, port.container_port))
        else:
            await _off_the_loop_if_udp(port.protocol, self._nat.publish, port.binding, target)

    def serve(self, published: Published) -> None:
        """Carry what reaches the holders of the ports: what cannot be translated, and what the host sends to ::1."""
        targets = published.targets
        for held, port in zip(published.reservations, published.ports, strict=True):
            version = port.binding.host_address.version
            target = targets.get(version) or next(iter(targets.values()), None)
            translated = (version == 4 and version in targets) or version in published.routed
            if translated:
                held.hang_up()
            if held.holder and target and not translated and (relay := RELAYS.get(held.protocol)):
                published.relays.append(relay(held.holder, (target, port.container_port)))

    def restore(self, ports: list[PublishedPort], targets: Targets) -> Published:
        """Hold again the ports of a container that outlived the engine; `serve` and the packet rules come after."""
        published = Published(targets=targets)
        for port in ports:
            try:
                first = all(port.binding != other.binding for other in published.ports)
                held = self._restore(port, with_entry=first)
            except WherryError as error:  # taken while no engine held it; the translation still wins
                log.warning("a port of a running container: %s", error)
                keeper = self._desktop_ports or self._ports
                held = PortReservation(port.protocol, port.host_address, port.host_port, None, keeper, port.entry_port)
            published.ports.append(port)
            published.reservations.append(held)
        return published

    def _restore(self, port: PublishedPort, with_entry: bool) -> PortReservation:
        if self._desktop_ports:
            return self._desktop_ports.restore(
                port.protocol, port.host_address, port.host_port, port.entry_port, with_entry
            )
        [held] = self._ports.reserve(port.protocol, [port.host_address], port.host_port)
        return held

    async def retarget(self, published: Published, targets: Targets, routed: frozenset[int]) -> None:
        """The container's gateway is on another network now: same host ports, other addresses; none: nowhere."""
        if targets == published.targets:
            return
        await self._stop(published)
        published.targets, published.routed = targets, routed
        for port in published.ports:
            await self._translate(published, port)
        self.serve(published)

    async def withdraw(self, published: Published) -> None:
        await self._stop(published)
        had_ports = bool(published.reservations)
        self.close(published)
        if self._broker and had_ports:
            await self._broker.settled()

    async def _stop(self, published: Published) -> None:
        while published.relays:
            published.relays.pop().close()
        for port in published.ports:
            version = port.binding.host_address.version
            if version in published.routed and (target := published.targets.get(version)):
                self._nat.close(ReachablePort(port.protocol, target, port.container_port))
            elif version in published.targets:
                await _off_the_loop_if_udp(port.protocol, self._nat.unpublish, port.binding)

    def close(self, published: Published) -> None:
        """Let go of what this process holds; the packet rules stay."""
        while published.relays:
            published.relays.pop().close()
        while published.reservations:
            published.reservations.pop().close()

    def rules(self, all_published: Iterable[Published]) -> dict[PortBinding, IpAddress]:
        """What the packet rules must hold for these."""
        return {
            port.binding: target
            for published in all_published
            for port in published.ports
            if (target := published.targets.get(port.binding.host_address.version))
            and port.binding.host_address.version not in published.routed
        }

    def reachable(self, all_published: Iterable[Published]) -> set[ReachablePort]:
        """Those of them that are reached at the containers' own addresses."""
        return {
            ReachablePort(port.protocol, target, port.container_port)
            for published in all_published
            for port in published.ports
            if (target := published.targets.get(port.binding.host_address.version))
            and port.binding.host_address.version in published.routed
        }


async def _off_the_loop_if_udp(protocol: Protocol, work: Callable[..., None], *arguments: Any) -> None:
    """For UDP the kernel walks its whole connection table, 10 ms; for TCP a thread would cost more than the work."""
    if protocol == "udp":
        await asyncio.to_thread(work, *arguments)
    else:
        work(*arguments)
