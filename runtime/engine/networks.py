"""Networks as the engine sees them: the default bridge, `host` and `none`, and who is connected to which.

Everything a container gets here is undone by `release`, whether its start failed or it has ended.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from typing import Any, cast

from runtime.engine.options import Options, PortRequest
from runtime.engine.settings import EngineSettings
from runtime.engine.store import Store
from runtime.errors import NotFound, NotSupported, WherryError
from runtime.network.bridge import BridgeConfig, ensure_bridge, remove_bridge
from runtime.network.ipam import AddressPool, choose_subnet, host_networks
from runtime.network.nat import ANY_ADDRESS, NatTable, PortBinding, Protocol
from runtime.network.ports import PortAllocator, PortReservation
from runtime.network.sandbox import Sandbox, SandboxPool
from runtime.network.userland import serve_tcp

log = logging.getLogger(__name__)

SANDBOXES_AHEAD = 4


@dataclass(frozen=True)
class Network:
    """A network's durable facts; `subnet` is None for `host` and `none`."""

    id: str
    name: str
    driver: str
    created_ns: int
    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    bridge: str = ""

    def to_document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "driver": self.driver,
            "created_ns": self.created_ns,
            "subnet": str(self.subnet) if self.subnet else None,
            "gateway": str(self.gateway) if self.gateway else None,
            "bridge": self.bridge,
        }

    @classmethod
    def from_document(cls, id: str, document: dict[str, Any]) -> Network:
        subnet, gateway = document["subnet"], document["gateway"]
        return cls(
            id,
            document["name"],
            document["driver"],
            document["created_ns"],
            IPv4Network(subnet) if subnet else None,
            IPv4Address(gateway) if gateway else None,
            document["bridge"],
        )


@dataclass(frozen=True)
class PublishedPort:
    """A container's port that the host's clients reach; IPv4 through the packet rules, IPv6 through the engine."""

    protocol: Protocol
    host_address: IPv4Address | IPv6Address
    host_port: int
    container_port: int

    @property
    def binding(self) -> PortBinding | None:
        """What the packet rules know of it; None for an IPv6 address."""
        if isinstance(self.host_address, IPv6Address):
            return None
        return PortBinding(self.protocol, self.host_address, self.host_port, self.container_port)

    def to_document(self) -> list[Any]:
        return [self.protocol, str(self.host_address), self.host_port, self.container_port]

    @classmethod
    def from_document(cls, document: list[Any]) -> PublishedPort:
        protocol, host_address, host_port, container_port = document
        return cls(protocol, ipaddress.ip_address(host_address), host_port, container_port)


@dataclass
class Attachment:
    """What one running container holds of its network."""

    network: Network
    endpoint_id: str = ""
    address: IPv4Address | None = None
    mac: str = ""
    sandbox: Sandbox | None = None
    ports: list[PublishedPort] = field(default_factory=list)
    reservations: list[PortReservation] = field(default_factory=list)
    servers: list[asyncio.Server] = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        return {
            "network": self.network.id,
            "endpoint_id": self.endpoint_id,
            "address": str(self.address) if self.address else None,
            "mac": self.mac,
            "ports": [port.to_document() for port in self.ports],
        }


class NetworkService:
    """Owns the bridge, the address pool, the packet rules and the host ports of one engine."""

    def __init__(self, settings: EngineSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._networks: dict[str, Network] = {}
        self._ports = PortAllocator()
        self._attached: dict[str, Attachment] = {}  # by container id
        for id, document in store.all("network"):
            self._networks[id] = Network.from_document(id, document)
        for name, driver in (("bridge", "bridge"), ("host", "host"), ("none", "null")):
            if not any(network.name == name for network in self._networks.values()):
                self._add_predefined(name, driver)
        self.default = self.find("bridge")
        assert self.default.subnet and self.default.gateway
        self._config = BridgeConfig(
            self.default.bridge, IPv4Interface(f"{self.default.gateway}/{self.default.subnet.prefixlen}")
        )
        self._addresses = AddressPool(self.default.subnet, self.default.gateway)
        self._nat = NatTable(settings.nft_table, [self._config])
        self._pools: dict[str, SandboxPool] = {}  # by network driver

    def _add_predefined(self, name: str, driver: str) -> None:
        subnet = choose_subnet(host_networks()) if driver == "bridge" else None
        network = Network(
            secrets.token_hex(32),
            name,
            driver,
            time.time_ns(),
            subnet,
            subnet[1] if subnet else None,
            self._settings.bridge_name if subnet else "",
        )
        self._networks[network.id] = network
        self._store.put("network", network.id, network.to_document())

    def start(self, kept: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Bring the kernel to what is wanted; `kept` are the attachments of containers that still run."""
        ensure_bridge(self._config)
        published: dict[PortBinding, IPv4Address] = {}
        for container_id, document in kept:
            attachment = self._restore(document)
            self._attached[container_id] = attachment
            for port in attachment.ports:
                if attachment.address and (binding := port.binding):
                    published[binding] = attachment.address
        self._nat.replace_all(published)
        self._pools = {
            "bridge": SandboxPool(self.default.bridge, SANDBOXES_AHEAD),
            "null": SandboxPool(None, SANDBOXES_AHEAD),
        }

    async def serve_ipv6(self) -> None:
        """Take up the IPv6 side of the ports that `start` restored."""
        for attachment in self._attached.values():
            await self._serve_ipv6(attachment)

    def _restore(self, document: dict[str, Any]) -> Attachment:
        network = self._networks[document["network"]]
        address = IPv4Address(document["address"]) if document["address"] else None
        attachment = Attachment(network, document["endpoint_id"], address, document["mac"])
        if address:
            self._addresses.allocate(address)
        for port in map(PublishedPort.from_document, document["ports"]):
            attachment.ports.append(port)
            try:
                attachment.reservations.append(self._ports.reserve(port.protocol, port.host_address, port.host_port))
            except WherryError as error:  # taken while no engine held it; the translation still wins
                log.warning("port %d of a running container is held by another program: %s", port.host_port, error)
        return attachment

    def all(self) -> list[Network]:
        return list(self._networks.values())

    def find(self, name: str) -> Network:
        """By name, id, or the beginning of an id; raises NotFound."""
        for network in self._networks.values():
            if name in (network.name, network.id):
                return network
        matches = [network for network in self._networks.values() if name and network.id.startswith(name)]
        if len(matches) != 1:
            raise NotFound(f"network {name} not found")
        return matches[0]

    def attachment(self, container_id: str) -> Attachment | None:
        return self._attached.get(container_id)

    def connected(self, network: Network) -> dict[str, Attachment]:
        return {id: attached for id, attached in self._attached.items() if attached.network is network}

    def check(self, options: Options) -> None:
        """Refuse at create what `connect` could not do; raises NotFound, NotSupported."""
        network = self.find(options.network_mode)
        if any(port.protocol == "sctp" for port in options.ports) and network.driver == "bridge":
            raise NotSupported("publishing SCTP ports is not supported by this version of Wherry: use tcp or udp")

    async def connect(self, container_id: str, options: Options) -> Attachment:
        """Give a starting container its network; raises Conflict for a taken port, NotFound, NotSupported."""
        network = self.find(options.network_mode)
        async with AsyncExitStack() as undo:
            attachment = Attachment(network, secrets.token_hex(32))
            undo.push_async_callback(self._let_go, attachment)
            if network.driver == "null":
                attachment.sandbox = self._pools["null"].take()
            elif network.driver == "bridge":
                self._connect_bridge(attachment, options)
                for request in options.ports:
                    await self._publish(attachment, request)
                await self._serve_ipv6(attachment)
            self._attached[container_id] = attachment
            undo.pop_all()
        return attachment

    def _connect_bridge(self, attachment: Attachment, options: Options) -> None:
        assert self.default.subnet
        wanted = IPv4Address(options.static_ip) if options.static_ip else None
        attachment.address = self._addresses.allocate(wanted)
        attachment.sandbox = self._pools["bridge"].take()
        endpoint = attachment.sandbox.attach(
            self.default.bridge,
            IPv4Interface(f"{attachment.address}/{self.default.subnet.prefixlen}"),
            self.default.gateway,
            options.mac_address or None,
        )
        attachment.mac = endpoint.mac

    async def _publish(self, attachment: Attachment, request: PortRequest) -> None:
        assert attachment.address
        protocol = cast(Protocol, request.protocol)
        host_address = ipaddress.ip_address(request.host_ip) if request.host_ip else ANY_ADDRESS
        reservation = self._ports.reserve(protocol, host_address, request.host_port, request.host_port_end or None)
        attachment.reservations.append(reservation)
        port = PublishedPort(protocol, host_address, reservation.host_port, request.container_port)
        if binding := port.binding:
            await _off_the_loop_if_udp(protocol, self._nat.publish, binding, attachment.address)
        attachment.ports.append(port)

    async def _serve_ipv6(self, attachment: Attachment) -> None:
        """Carry what comes to the IPv6 side of the attachment's TCP ports."""
        targets = {(port.protocol, port.host_address, port.host_port): port.container_port for port in attachment.ports}
        for held in attachment.reservations:
            port = targets.get((held.protocol, held.host_address, held.host_port))
            if held.ipv6_listener and port and attachment.address:
                attachment.servers.append(await serve_tcp(held.ipv6_listener, (attachment.address, port)))

    async def release(self, container_id: str) -> None:
        """Undo `connect`; nothing if there is nothing to undo."""
        attachment = self._attached.pop(container_id, None)
        if attachment:
            await self._let_go(attachment)

    async def _let_go(self, attachment: Attachment) -> None:
        for server in attachment.servers:
            server.close()
        for port in attachment.ports:
            if binding := port.binding:
                await _off_the_loop_if_udp(port.protocol, self._nat.unpublish, binding)
        for reservation in attachment.reservations:
            reservation.close()
        if attachment.sandbox:
            attachment.sandbox.close()
        if attachment.address:
            self._addresses.release(attachment.address)

    def close(self) -> None:
        """Let go of what this process holds; running containers keep their network."""
        while self._pools:
            self._pools.popitem()[1].close()
        for attachment in self._attached.values():
            for server in attachment.servers:
                server.close()
            for reservation in attachment.reservations:
                reservation.close()
            if attachment.sandbox:
                attachment.sandbox.close()

    def remove_everything(self) -> None:
        """Take the bridge and the packet rules out of the kernel: the end of `wherryd shutdown`."""
        self.close()  # nothing may be prepared for a bridge that goes
        self._nat.remove()
        remove_bridge(self.default.bridge)


async def _off_the_loop_if_udp(protocol: Protocol, work: Callable[..., None], *arguments: Any) -> None:
    """For UDP the kernel walks its whole connection table, 10 ms; for TCP a thread would cost more than the work."""
    if protocol == "udp":
        await asyncio.to_thread(work, *arguments)
    else:
        work(*arguments)
