"""A running container's part in its networks: one attachment each, one sandbox and one set of published ports."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any

from runtime.engine.container import Container
from runtime.engine.networks.model import BRIDGE, HOST, Network
from runtime.engine.options import EndpointConfig
from runtime.linux.netlink import IpAddress
from runtime.network.nat import ANY_ADDRESS, PortBinding, Protocol
from runtime.network.ports import PortReservation
from runtime.network.sandbox import Sandbox
from runtime.network.userland import TcpRelay, UdpRelay


@dataclass(frozen=True)
class PublishedPort:
    """A container's port that clients reach at one address of the host.

    `entry_port`: the port of this kernel that leads there, if the host's ports are another computer's, else 0.
    """

    protocol: Protocol
    host_address: IPv4Address | IPv6Address
    host_port: int
    container_port: int
    entry_port: int = 0

    @property
    def binding(self) -> PortBinding:
        """What the packet rules know of it."""
        if self.entry_port:
            return PortBinding(self.protocol, ANY_ADDRESS, self.entry_port, self.container_port)
        return PortBinding(self.protocol, self.host_address, self.host_port, self.container_port)

    def to_document(self) -> list[Any]:
        return [self.protocol, str(self.host_address), self.host_port, self.container_port, self.entry_port]

    @classmethod
    def from_document(cls, document: list[Any]) -> PublishedPort:
        protocol, host_address, *ports = document
        return cls(protocol, ipaddress.ip_address(host_address), *ports)


@dataclass
class Attachment:
    """One endpoint: a running container's interface on one network. Empty on `host` and `none`."""

    network: Network
    config: EndpointConfig
    endpoint_id: str
    ifname: str = ""
    ipv4: IPv4Interface | None = None
    ipv6: IPv6Interface | None = None
    mac: str = ""
    host_ifname: str = ""  # the other end, on the bridge

    @property
    def addresses(self) -> tuple[IpAddress, ...]:
        return tuple(interface.ip for interface in (self.ipv4, self.ipv6) if interface)

    def dns_names(self, container: Container) -> tuple[str, ...]:
        return dns_names(container, self.config)

    def to_document(self) -> dict[str, Any]:
        return {
            "id": self.endpoint_id,
            "ifname": self.ifname,
            "ipv4": str(self.ipv4) if self.ipv4 else None,
            "ipv6": str(self.ipv6) if self.ipv6 else None,
            "mac": self.mac,
            "host_ifname": self.host_ifname,
        }

    @classmethod
    def from_document(cls, network: Network, config: EndpointConfig, document: dict[str, Any]) -> Attachment:
        ipv4, ipv6 = document["ipv4"], document["ipv6"]
        return cls(
            network,
            config,
            document["id"],
            document["ifname"],
            IPv4Interface(ipv4) if ipv4 else None,
            IPv6Interface(ipv6) if ipv6 else None,
            document["mac"],
            document["host_ifname"],
        )


@dataclass
class Published:
    """The ports of one container: what is promised, what holds it on the host, and where it leads now."""

    ports: list[PublishedPort] = field(default_factory=list)
    reservations: list[PortReservation] = field(default_factory=list)  # one for each port
    relays: list[TcpRelay | UdpRelay] = field(default_factory=list)
    routed: frozenset[int] = frozenset()  # IP versions whose ports are reached at the container's own address
    targets: Mapping[int, IpAddress] = field(default_factory=dict)  # the container's addresses by IP version


@dataclass
class Membership:
    """Everything a running container holds of its networks.

    `sandbox` is open from the set-up to the start only: then the container's processes hold the namespace.
    `joined` is the membership whose sandbox this one shares (`--network container:`), which then has all the rest.
    """

    container: Container
    attachments: dict[str, Attachment] = field(default_factory=dict)  # by network id, in the order of interfaces
    default_gateway: str = ""  # the host's address on the default bridge
    sandbox: Sandbox | None = None
    resolver_address: str | None = None  # what its resolv.conf names, when the resolver serves it
    published: Published = field(default_factory=Published)
    joined: Membership | None = None

    @property
    def named(self) -> bool:
        """It asks the resolver: some network of it is user-defined."""
        return any(attachment.network.user_defined for attachment in self.attachments.values())

    @property
    def addresses(self) -> list[IpAddress]:
        return [address for attachment in self.attachments.values() for address in attachment.addresses]

    @property
    def own_gateway(self) -> str:
        """The host's address on the network with the default route, "" if none."""
        attachment = self.gateway(4)
        return str(attachment.network.gateway(4)) if attachment and attachment.network.driver == BRIDGE else ""

    @property
    def host_gateway(self) -> str:
        """What `host-gateway` in `--add-host` stands for."""
        return self.own_gateway or self.default_gateway

    def note(self) -> None:
        """Write what it holds into the container's document, for an engine that finds it running."""
        for id, attachment in self.attachments.items():
            self.container.networks[id]["endpoint"] = attachment.to_document()
        self.container.published = [port.to_document() for port in self.published.ports]

    def forget(self) -> None:
        for document in self.container.networks.values():
            document["endpoint"] = None
        self.container.published = []

    @property
    def shares_host(self) -> bool:
        if self.joined:
            return self.joined.shares_host
        return any(attachment.network.driver == HOST for attachment in self.attachments.values())

    def gateway(self, version: int) -> Attachment | None:
        """The endpoint with the default route of IP version 4 or 6: Docker's choice (libnetwork, `Endpoint.Less`)."""
        able = [attachment for attachment in self.attachments.values() if provides_gateway(attachment, version)]
        return min(able, key=_gateway_order, default=None)


def provides_gateway(attachment: Attachment, version: int) -> bool:
    network = attachment.network
    interface = attachment.ipv4 if version == 4 else attachment.ipv6
    return interface is not None and not network.internal and network.gateway(version) is not None


def _gateway_order(attachment: Attachment) -> tuple[int, bool, str]:
    """Priority, then both versions before one, then the network's name."""
    both = provides_gateway(attachment, 4) and provides_gateway(attachment, 6)
    return -attachment.config.gw_priority, not both, attachment.network.name


def dns_names(container: Container, config: EndpointConfig) -> tuple[str, ...]:
    """What a container is called on a user-defined network: its name, aliases, short id and hostname."""
    names = (container.name, *config.aliases, container.id[:12], container.hostname)
    return tuple(dict.fromkeys(names))
