"""Who is called what on which network. Names are compared in lower case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class NamedEndpoint:
    """A container on a network; the first of its names is the one its addresses have (PTR)."""

    names: tuple[str, ...]
    addresses: tuple[Address, ...]


class _NetworkNames:
    def __init__(self) -> None:
        self.endpoints: dict[str, NamedEndpoint] = {}  # by container id, as they came
        self.by_name: defaultdict[str, dict[str, NamedEndpoint]] = defaultdict(dict)
        self.by_address: dict[Address, NamedEndpoint] = {}


class NameTable:
    """The names on every network, by network and container id. Cost does not grow with the number of containers."""

    def __init__(self) -> None:
        self._networks: defaultdict[str, _NetworkNames] = defaultdict(_NetworkNames)

    def add(self, network_id: str, container_id: str, names: Sequence[str], addresses: Sequence[Address]) -> None:
        """A container has one set of names on a network: these replace any it had."""
        self.remove(network_id, container_id)
        network = self._networks[network_id]
        endpoint = NamedEndpoint(tuple(names), tuple(addresses))
        network.endpoints[container_id] = endpoint
        for name in names:
            network.by_name[name.lower()][container_id] = endpoint
        for address in addresses:
            network.by_address[address] = endpoint

    def remove(self, network_id: str, container_id: str) -> None:
        """No error if it is not there."""
        network = self._networks.get(network_id)
        endpoint = network.endpoints.pop(container_id, None) if network else None
        if network is None or endpoint is None:
            return
        for name in endpoint.names:
            namesakes = network.by_name[name.lower()]
            namesakes.pop(container_id, None)
            if not namesakes:
                del network.by_name[name.lower()]
        for address in endpoint.addresses:
            if network.by_address.get(address) is endpoint:
                del network.by_address[address]
        if not network.endpoints:
            del self._networks[network_id]

    def addresses(self, network_id: str, name: str) -> list[Address] | None:
        """Of all who share the name; None if nobody has it."""
        network = self._networks.get(network_id)
        namesakes = network.by_name.get(name) if network else None
        if namesakes is None:
            return None
        return [address for endpoint in namesakes.values() for address in endpoint.addresses]

    def name(self, network_id: str, address: Address) -> str | None:
        network = self._networks.get(network_id)
        endpoint = network.by_address.get(address) if network else None
        return endpoint.names[0] if endpoint and endpoint.names else None
