"""A network's durable facts."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.linux.netlink import IpAddress, IpNetwork

BRIDGE, HOST, NULL, MACVLAN, IPVLAN = "bridge", "host", "null", "macvlan", "ipvlan"
DRIVERS = (BRIDGE, MACVLAN, IPVLAN)  # of networks that users make
_SUBNETS = ("subnets", "unused_subnets")
PREDEFINED = {"bridge": BRIDGE, "host": HOST, "none": NULL}  # name -> driver


@dataclass(frozen=True)
class Subnet:
    """One range of addresses of a network; `gateway` None where there is none (internal macvlan and the like).

    `auxiliary` are addresses in use by others, by name. `chosen`: by the engine, nobody asked for it.
    """

    subnet: IpNetwork
    gateway: IpAddress | None
    ip_range: IpNetwork | None = None
    auxiliary: dict[str, IpAddress] = field(default_factory=dict)
    chosen: bool = False

    @property
    def version(self) -> int:
        return self.subnet.version

    def to_document(self) -> dict[str, Any]:
        return {
            "subnet": str(self.subnet),
            "gateway": str(self.gateway) if self.gateway else None,
            "ip_range": str(self.ip_range) if self.ip_range else None,
            "auxiliary": {name: str(address) for name, address in self.auxiliary.items()},
            "chosen": self.chosen,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Subnet:
        gateway, ip_range = document["gateway"], document["ip_range"]
        return cls(
            ipaddress.ip_network(document["subnet"]),
            ipaddress.ip_address(gateway) if gateway else None,
            ipaddress.ip_network(ip_range) if ip_range else None,
            {name: ipaddress.ip_address(address) for name, address in document["auxiliary"].items()},
            document["chosen"],
        )


@dataclass(frozen=True)
class Network:
    """`subnets` is empty for `host` and `none`. `interface` is the bridge, or the parent of macvlan and ipvlan.

    `unused_subnets` were asked for without IPv6 (or IPv4) being enabled: Docker shows them, and takes an endpoint's
    address in one without giving it to anybody.
    """

    id: str
    name: str
    driver: str
    created_ns: int
    subnets: tuple[Subnet, ...] = ()
    interface: str = ""
    owns_interface: bool = True  # made with the network, and removed with it
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    config_only: bool = False
    config_from: str = ""
    unused_subnets: tuple[Subnet, ...] = ()

    @property
    def predefined(self) -> bool:
        return self.name in PREDEFINED

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def user_defined(self) -> bool:
        """Its containers find each other by name."""
        return not self.predefined

    @property
    def has_interfaces(self) -> bool:
        """Its containers get an interface each."""
        return self.driver not in (HOST, NULL)

    def subnets_of(self, version: int) -> list[Subnet]:
        return [subnet for subnet in self.subnets if subnet.version == version]

    def gateway(self, version: int) -> IpAddress | None:
        """The gateway of the first subnet of IP version 4 or 6."""
        return next((subnet.gateway for subnet in self.subnets if subnet.version == version), None)

    def to_document(self) -> dict[str, Any]:
        document = {name: value for name, value in asdict(self).items() if name not in ("id", *_SUBNETS)}
        return document | {name: [subnet.to_document() for subnet in getattr(self, name)] for name in _SUBNETS}

    @classmethod
    def from_document(cls, id: str, document: dict[str, Any]) -> Network:
        subnets = {name: tuple(map(Subnet.from_document, document.get(name, []))) for name in _SUBNETS}
        return cls(**{**document, "id": id, **subnets})
