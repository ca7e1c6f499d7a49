"""Published ports of running containers: reserved on the host, translated by the packet rules, served to IPv6."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import Any, cast

from runtime.engine.networks.attachments import Published, PublishedPort
from runtime.engine.options import PortRequest
from runtime.errors import WherryError
from runtime.network.nat import ANY_ADDRESS, NatTable, PortBinding, Protocol
from runtime.network.ports import PortAllocator
from runtime.network.userland import serve_tcp

log = logging.getLogger(__name__)


class Publisher:
    """Owns the host ports of one engine. A `Published` is the caller's to keep, and to `withdraw` when all ends."""

    def __init__(self, nat: NatTable) -> None:
        self._nat = nat
        self._ports = PortAllocator()

    async def publish(
        self, published: Published, requests: Iterable[PortRequest], target: IPv4Address, default_host_ip: str = ""
    ) -> None:
        """Raises Conflict for a taken port; what was done until then is in `published`."""
        published.target = target
        for request in requests:
            protocol = cast(Protocol, request.protocol)
            host_ip = request.host_ip or default_host_ip
            host_address = ipaddress.ip_address(host_ip) if host_ip else ANY_ADDRESS
            reservation = self._ports.reserve(protocol, host_address, request.host_port, request.host_port_end or None)
            published.reservations.append(reservation)
            port = PublishedPort(protocol, host_address, reservation.host_port, request.container_port)
            if binding := port.binding:
                await _off_the_loop_if_udp(protocol, self._nat.publish, binding, target)
            published.ports.append(port)
        await self.serve(published)

    async def serve(self, published: Published) -> None:
        """Carry what comes to the IPv6 side of the TCP ports."""
        targets = {(port.protocol, port.host_address, port.host_port): port.container_port for port in published.ports}
        for held in published.reservations:
            port = targets.get((held.protocol, held.host_address, held.host_port))
            if held.ipv6_listener and port and published.target:
                published.servers.append(await serve_tcp(held.ipv6_listener, (published.target, port)))

    def restore(self, ports: list[PublishedPort], target: IPv4Address) -> Published:
        """Hold again the ports of a container that outlived the engine; `serve` and the packet rules come after."""
        published = Published(ports, target=target)
        for port in ports:
            try:
                held = self._ports.reserve(port.protocol, port.host_address, port.host_port)
            except WherryError as error:  # taken while no engine held it; the translation still wins
                log.warning("port %d of a running container is held by another program: %s", port.host_port, error)
            else:
                published.reservations.append(held)
        return published

    async def retarget(self, published: Published, target: IPv4Address | None) -> None:
        """The container's gateway is on another network now: same host ports, another address; None: nowhere."""
        if target == published.target:
            return
        await self._stop(published)
        published.target = target
        if target:
            for port in published.ports:
                if binding := port.binding:
                    await _off_the_loop_if_udp(port.protocol, self._nat.publish, binding, target)
            await self.serve(published)

    async def withdraw(self, published: Published) -> None:
        await self._stop(published)
        self.close(published)

    async def _stop(self, published: Published) -> None:
        while published.servers:
            published.servers.pop().close()
        if published.target:
            for port in published.ports:
                if binding := port.binding:
                    await _off_the_loop_if_udp(port.protocol, self._nat.unpublish, binding)

    def close(self, published: Published) -> None:
        """Let go of what this process holds; the packet rules stay."""
        while published.servers:
            published.servers.pop().close()
        while published.reservations:
            published.reservations.pop().close()

    def rules(self, all_published: Iterable[Published]) -> dict[PortBinding, IPv4Address]:
        """What the packet rules must hold for these."""
        return {
            binding: published.target
            for published in all_published
            if published.target
            for port in published.ports
            if (binding := port.binding)
        }


async def _off_the_loop_if_udp(protocol: Protocol, work: Callable[..., None], *arguments: Any) -> None:
    """For UDP the kernel walks its whole connection table, 10 ms; for TCP a thread would cost more than the work."""
    if protocol == "udp":
        await asyncio.to_thread(work, *arguments)
    else:
        work(*arguments)
