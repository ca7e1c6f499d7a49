"""Address management: which subnet a network gets, and which address a container gets in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from runtime.errors import Conflict, InvalidParameter
from runtime.linux.netlink import NetlinkSocket
from runtime.network.faults import kernel_faults_explained


def _candidate_subnets() -> Iterator[IPv4Network]:
    """Docker's default address pools, in its order."""
    for second_octet in range(17, 32):
        yield IPv4Network(f"172.{second_octet}.0.0/16")
    yield from IPv4Network("192.168.0.0/16").subnets(new_prefix=20)


def choose_subnet(in_use: Iterable[IPv4Network]) -> IPv4Network:
    """The first default subnet that overlaps none in use. Raises Conflict when all do."""
    taken = list(in_use)
    for candidate in _candidate_subnets():
        if not any(candidate.overlaps(network) for network in taken):
            return candidate
    raise Conflict("All predefined address pools have been fully subnetted: remove unused networks, or name a subnet.")


def host_networks() -> list[IPv4Network]:
    """Every network the host has a route to, default routes left out: what a new subnet must not hide.

    VPNs write their default route as 0.0.0.0/1 and 128.0.0.0/1; no network proper is larger than a /8.
    """
    with kernel_faults_explained("read the host's routes"), NetlinkSocket() as route:
        return [network for network in route.routed_networks() if network.prefixlen >= 8]


class AddressPool:
    """The addresses of one subnet. Pure bookkeeping, one caller at a time.

    Addresses are handed out in turn, not lowest first, so that one just released rests as long as possible:
    others may still have its last owner in their ARP caches.
    """

    def __init__(
        self,
        subnet: IPv4Network,
        gateway: IPv4Address,
        reserved: Iterable[IPv4Address] = (),
        ip_range: IPv4Network | None = None,
    ) -> None:
        """`ip_range` narrows what is handed out unasked; any address of the subnet may still be asked for."""
        if gateway not in subnet:
            raise InvalidParameter(f"The gateway {gateway} is outside the subnet {subnet}.")
        if ip_range is not None and not ip_range.subnet_of(subnet):
            raise InvalidParameter(f"The IP range {ip_range} is outside the subnet {subnet}.")
        self.subnet = subnet
        self._range = ip_range or subnet
        self._unusable = {gateway, *reserved}
        if subnet.prefixlen < 31:
            self._unusable |= {subnet.network_address, subnet.broadcast_address}
        self._allocated: set[IPv4Address] = set()
        self._next_offset = 0

    def allocate(self, wanted: IPv4Address | None = None) -> IPv4Address:
        """Raises Conflict if `wanted` is taken or nothing is left, InvalidParameter if it is elsewhere."""
        address = self._next_free() if wanted is None else self._check_wanted(wanted)
        self._allocated.add(address)
        return address

    def release(self, address: IPv4Address) -> None:
        """No error if it was not allocated."""
        self._allocated.discard(address)

    def _next_free(self) -> IPv4Address:
        size = self._range.num_addresses
        for step in range(size):
            offset = (self._next_offset + step) % size
            address = self._range[offset]
            if address not in self._allocated and address not in self._unusable:
                self._next_offset = offset + 1
                return address
        raise Conflict(
            f"No available IPv4 addresses in {self._range}: remove containers from the network, "
            "or make a network with a larger subnet."
        )

    def _check_wanted(self, wanted: IPv4Address) -> IPv4Address:
        if wanted not in self.subnet:
            raise InvalidParameter(f"The address {wanted} is outside the network's subnet {self.subnet}.")
        if wanted in self._unusable:
            raise Conflict(f"Address already in use: {wanted} is reserved in {self.subnet}; choose another.")
        if wanted in self._allocated:
            raise Conflict(f"Address already in use: {wanted} belongs to another container; choose another.")
        return wanted
