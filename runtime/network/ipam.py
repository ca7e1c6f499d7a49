"""Address management: which subnet a network gets, and which address a container gets in it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

from runtime.errors import Conflict, InvalidParameter
from runtime.linux.netlink import IpAddress, IpNetwork, NetlinkSocket
from runtime.network.faults import kernel_faults_explained


def _candidate_subnets() -> Iterator[IPv4Network]:
    """Docker's default address pools, in its order."""
    for second_octet in range(17, 32):
        yield IPv4Network(f"172.{second_octet}.0.0/16")
    yield from IPv4Network("192.168.0.0/16").subnets(new_prefix=20)


def choose_subnet(in_use: Iterable[IpNetwork]) -> IPv4Network:
    """The first default subnet that overlaps none in use. Raises Conflict when all do."""
    taken = [network for network in in_use if isinstance(network, IPv4Network)]
    for candidate in _candidate_subnets():
        if not any(candidate.overlaps(network) for network in taken):
            return candidate
    raise Conflict("All predefined address pools have been fully subnetted: remove unused networks, or name a subnet.")


def host_networks() -> list[IpNetwork]:
    """Every network the host has a route to, default routes left out: what a new subnet must not hide.

    VPNs write their default route as 0.0.0.0/1 and 128.0.0.0/1; no network proper is larger than a /8.
    """
    with kernel_faults_explained("read the host's routes"), NetlinkSocket() as route:
        ipv4 = [network for network in route.routed_networks() if network.prefixlen >= 8]
        ipv6 = [network for network in route.routed_ipv6_networks() if network.prefixlen >= 16]
    return [*ipv4, *ipv6]


class AddressPool:
    """The addresses of one subnet. Pure bookkeeping, one caller at a time.

    The lowest free address is handed out, so a container that is restarted mostly gets its own again. Whoever gets
    an address that was another's a moment ago announces itself (sandbox.py), so no ARP cache goes stale.
    """

    def __init__(
        self,
        subnet: IpNetwork,
        gateway: IpAddress | None,
        reserved: Iterable[IpAddress] = (),
        ip_range: IpNetwork | None = None,
    ) -> None:
        """`ip_range` narrows what is handed out unasked; any address of the subnet may still be asked for."""
        if gateway is not None and gateway not in subnet:
            raise InvalidParameter(f"The gateway {gateway} is outside the subnet {subnet}.")
        if ip_range is not None and not _is_part(ip_range, subnet):
            raise InvalidParameter(f"The IP range {ip_range} is outside the subnet {subnet}.")
        self.subnet = subnet
        self._range = ip_range or subnet
        self._unusable: set[IpAddress] = set(reserved)
        if gateway is not None:
            self._unusable.add(gateway)
        if subnet.version == 6 and subnet.prefixlen < 127:
            self._unusable.add(subnet.network_address)  # the subnet-router anycast address
        elif subnet.version == 4 and subnet.prefixlen < 31:
            self._unusable |= {subnet.network_address, subnet.broadcast_address}
        self._allocated: set[IpAddress] = set()
        self._next_offset = 0  # every free address below it is in `_released`
        self._released: list[int] = []  # a heap of offsets; may hold some that were asked for since

    def allocate(self, wanted: IpAddress | None = None) -> IpAddress:
        """Raises Conflict if `wanted` is taken or nothing is left, InvalidParameter if it is elsewhere."""
        address = self._next_free() if wanted is None else self._check_wanted(wanted)
        self._allocated.add(address)
        return address

    def keep(self, address: IpAddress) -> None:
        """Note an address in use since before; no error if it is noted already."""
        self._allocated.add(address)

    def release(self, address: IpAddress) -> None:
        """No error if it was not allocated."""
        if address in self._allocated:
            self._allocated.discard(address)
            offset = int(address) - int(self._range.network_address)
            if 0 <= offset < self._next_offset:
                heapq.heappush(self._released, offset)

    def _next_free(self) -> IpAddress:
        while self._released:
            address = self._range[heapq.heappop(self._released)]
            if self._is_free(address):
                return address
        size = self._range.num_addresses
        while self._next_offset < size:
            address = self._range[self._next_offset]
            self._next_offset += 1
            if self._is_free(address):
                return address
        raise Conflict(
            f"no available IPv{self.subnet.version} addresses on this network's address pools: {self._range} is full; "
            "remove containers from the network, or make a network with a larger subnet"
        )

    def _is_free(self, address: IpAddress) -> bool:
        return address not in self._allocated and address not in self._unusable

    def _check_wanted(self, wanted: IpAddress) -> IpAddress:
        if wanted not in self.subnet:
            raise InvalidParameter(f"The address {wanted} is outside the network's subnet {self.subnet}.")
        if wanted in self._unusable:
            raise Conflict(f"Address already in use: {wanted} is reserved in {self.subnet}; choose another.")
        if wanted in self._allocated:
            raise Conflict(f"Address already in use: {wanted} belongs to another container; choose another.")
        return wanted


def _is_part(inner: IpNetwork, outer: IpNetwork) -> bool:
    return inner.version == outer.version and inner.network_address in outer and inner.prefixlen >= outer.prefixlen
