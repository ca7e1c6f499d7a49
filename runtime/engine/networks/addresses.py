"""Which addresses of every network are in use."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from runtime.engine.networks.model import Network
from runtime.errors import Conflict, InvalidParameter
from runtime.linux.netlink import IpAddress, IpInterface
from runtime.network.ipam import AddressPool


class AddressBook:
    """The address pools of all networks, one for each of their subnets. One caller at a time."""

    def __init__(self) -> None:
        self._pools: dict[str, list[AddressPool]] = {}  # by network id

    def add(self, network: Network) -> None:
        self._pools[network.id] = [
            AddressPool(subnet.subnet, subnet.gateway, subnet.auxiliary.values(), subnet.ip_range)
            for subnet in network.subnets
        ]

    def forget(self, network: Network) -> None:
        self._pools.pop(network.id, None)

    def allocate(self, network: Network, version: int, wanted: str = "") -> IpInterface:
        """The wanted address or the next free one; raises Conflict, InvalidParameter for one of no subnet."""
        pools = [pool for pool in self._pools[network.id] if pool.subnet.version == version]
        if wanted:
            address = ipaddress.ip_address(wanted)
            for pool in pools:
                if address in pool.subnet:
                    return _interface(pool, pool.allocate(address))
            raise InvalidParameter(f"invalid endpoint settings: no configured subnet contains IP address {wanted}")
        full = Conflict(f"network {network.name} has no IPv{version} subnet")
        for pool in pools:
            try:
                return _interface(pool, pool.allocate())
            except Conflict as conflict:
                full = conflict
        raise full

    def keep(self, network: Network, address: IpAddress) -> None:
        """Note an address that a running container has."""
        for pool in self._pools[network.id]:
            if address in pool.subnet:
                pool.keep(address)

    def release(self, network: Network, addresses: Iterable[IpAddress]) -> None:
        for address in addresses:
            for pool in self._pools.get(network.id, []):
                if address in pool.subnet:
                    pool.release(address)


def _interface(pool: AddressPool, address: IpAddress) -> IpInterface:
    return ipaddress.ip_interface((address, pool.subnet.prefixlen))
