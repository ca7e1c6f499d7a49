"""Networks as the engine sees them: the default bridge, `host` and `none`, and who is connected to which.

Everything a container gets here is undone by `release`, whether its start failed or it has ended.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, cast

from runtime.engine.options import Options, PortRequest
from runtime.engine.settings import EngineSettings
from runtime.engine.store import Store
from runtime.errors import NotFound, NotSupported, WherryError
from runtime.network.bridge import BridgeConfig, ensure_bridge, remove_bridge
from runtime.network.ipam import AddressPool, choose_subnet, host_networks
from runtime.network.nat import ANY_ADDRESS, NatTable, PortBinding, Protocol
from runtime.network.ports import PortAllocator, PortReservation
from runtime.network.sandbox import Sandbox, SandboxPool, create_sandbox
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


@dataclass
class Attachment:
    """What one running container holds of its network; `bindings` are its published ports."""

    network: Network
    endpoint_id: str = ""
    address: IPv4Address | None = None
    mac: str = ""
    sandbox: Sandbox | None = None
    bindings: list[PortBinding] = field(default_factory=list)
    _reservations: list[PortReservation] = field(default_factory=list)
    _servers: list[asyncio.Server] = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        return {
            "network": self.network.id,
            "endpoint_id": self.endpoint_id,
            "address": str(self.address) if self.address else None,
            "mac": self.mac,
            "bindings": [
                [bound.protocol, str(bound.host_address), bound.host_port, bound.container_port]
                for bound in self.bindings
            ],
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
        self._pool: SandboxPool | None = None

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
            if attachment.address:
                published.update(dict.fromkeys(attachment.bindings, attachment.address))
        self._nat.replace_all(published)
        self._pool = SandboxPool(self.default.bridge, SANDBOXES_AHEAD)

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
        for protocol, host_address, host_port, container_port in document["bindings"]:
            binding = PortBinding(protocol, IPv4Address(host_address), host_port, container_port)
            attachment.bindings.append(binding)
            try:
                attachment._reservations.append(
                    self._ports.reserve(binding.protocol, binding.host_address, binding.host_port)
                )
            except WherryError as error:  # taken while no engine held it; the translation still wins
                log.warning("port %s of a running container is held by another program: %s", binding, error)
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
        with ExitStack() as undo:
            attachment = Attachment(network, secrets.token_hex(32))
            undo.callback(self._let_go, attachment)
            if network.driver == "null":
                attachment.sandbox = create_sandbox()
            elif network.driver == "bridge":
                self._connect_bridge(attachment, options)
                await self._serve_ipv6(attachment)
            self._attached[container_id] = attachment
            undo.pop_all()
        return attachment

    def _connect_bridge(self, attachment: Attachment, options: Options) -> None:
        assert self._pool and self.default.subnet
        wanted = IPv4Address(options.static_ip) if options.static_ip else None
        attachment.address = self._addresses.allocate(wanted)
        attachment.sandbox = self._pool.take()
        endpoint = attachment.sandbox.attach(
            self.default.bridge,
            IPv4Interface(f"{attachment.address}/{self.default.subnet.prefixlen}"),
            self.default.gateway,
            options.mac_address or None,
        )
        attachment.mac = endpoint.mac
        for request in options.ports:
            self._publish(attachment, request)

    def _publish(self, attachment: Attachment, request: PortRequest) -> None:
        assert attachment.address
        protocol = cast(Protocol, request.protocol)
        host_address = ipaddress.ip_address(request.host_ip) if request.host_ip else ANY_ADDRESS
        reservation = self._ports.reserve(protocol, host_address, request.host_port, request.host_port_end or None)
        attachment._reservations.append(reservation)
        if isinstance(host_address, IPv4Address):
            binding = PortBinding(protocol, host_address, reservation.host_port, request.container_port)
            self._nat.publish(binding, attachment.address)
            attachment.bindings.append(binding)

    async def _serve_ipv6(self, attachment: Attachment) -> None:
        targets = {(bound.protocol, bound.host_port): bound.container_port for bound in attachment.bindings}
        for reservation in attachment._reservations:
            port = targets.get((reservation.protocol, reservation.host_port))
            if reservation.ipv6_listener and port and attachment.address:
                server = await serve_tcp(reservation.ipv6_listener, (attachment.address, port))
                attachment._servers.append(server)

    def release(self, container_id: str) -> None:
        """Undo `connect`; nothing if there is nothing to undo."""
        attachment = self._attached.pop(container_id, None)
        if attachment:
            self._let_go(attachment)

    def _let_go(self, attachment: Attachment) -> None:
        for server in attachment._servers:
            server.close()
        for binding in attachment.bindings:
            self._nat.unpublish(binding)
        for reservation in attachment._reservations:
            reservation.close()
        if attachment.sandbox:
            attachment.sandbox.close()
        if attachment.address:
            self._addresses.release(attachment.address)

    def close(self) -> None:
        """Let go of what this process holds; running containers keep their network."""
        if self._pool:
            self._pool.close()
            self._pool = None
        for attachment in self._attached.values():
            for server in attachment._servers:
                server.close()
            for reservation in attachment._reservations:
                reservation.close()
            if attachment.sandbox:
                attachment.sandbox.close()

    def remove_everything(self) -> None:
        """Take the bridge and the packet rules out of the kernel: the end of `wherryd shutdown`."""
        self.close()  # nothing may be prepared for a bridge that goes
        self._nat.remove()
        remove_bridge(self.default.bridge)
