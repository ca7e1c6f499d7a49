"""The bridge of a network: an Ethernet switch in the kernel, with the network's gateway address on it."""

from __future__ import annotations

import errno
import re
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Literal

from runtime.errors import Conflict, InvalidParameter
from runtime.linux import netlink
from runtime.linux.netlink import IpInterface, IpNetwork, NetlinkSocket
from runtime.network.faults import kernel_faults_explained
from runtime.network.sysctl import has_ipv6, write_sysctl

DEFAULT_MTU = 1500

# How the outside reaches containers: at published ports of the host (nat), besides that at any port (nat-unprotected),
# at published ports of their own addresses (routed), or not at all, not even from the host (isolated).
GatewayMode = Literal["nat", "nat-unprotected", "routed", "isolated"]

# What a router calls itself on its link. Without it the kernel asks for no neighbour it forwards to.
LINK_LOCAL_GATEWAY = IPv6Interface("fe80::1/64")

_INTERFACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
# /proc/sys/net/ipv4/conf has these beside the interfaces.
_SYSCTL_NAMES = {"all", "default"}


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """`name` is an interface name (15 characters at most); the addresses are the gateway's with the network's prefix.

    A bridge without address of a version still switches its packets. An `internal` network reaches the host and
    itself, nothing else, and nothing else reaches it. `masquerade`: its containers leave by the host's address.
    """

    name: str
    address: IPv4Interface | None
    mtu: int = DEFAULT_MTU
    internal: bool = False
    address6: IPv6Interface | None = None
    masquerade: bool = True
    mode: GatewayMode = "nat"
    mode6: GatewayMode = "nat"

    def __post_init__(self) -> None:
        """Raises InvalidParameter: the name becomes part of nftables commands and of paths below /proc/sys."""
        if not _INTERFACE_NAME.fullmatch(self.name) or self.name in _SYSCTL_NAMES:
            raise InvalidParameter(
                f"Invalid bridge name {self.name!r}: use up to 15 letters, digits, dots, dashes or underscores, "
                "beginning with a letter or digit."
            )

    def subnet(self, version: int) -> IpNetwork | None:
        """The network of IP version 4 or 6, if the bridge is in one."""
        address = self.address if version == 4 else self.address6
        return address.network if address else None

    def gateway_mode(self, version: int) -> GatewayMode:
        return self.mode if version == 4 else self.mode6


def ensure_bridge(config: BridgeConfig) -> None:
    """Make the bridge, or bring an existing one to this configuration.

    Raises Conflict if an interface of another kind has the name; on any failure a bridge made here is
    deleted.
    """
    with (
        kernel_faults_explained(f"set up the bridge {config.name}"),
        NetlinkSocket() as route,
        ExitStack() as undo,
    ):
        if not _bridge_exists(route, config.name):
            route.change(netlink.create_bridge(config.name, _random_mac()))
            undo.callback(route.change, netlink.delete_link(config.name))
            if has_ipv6():
                route.change(netlink.set_no_ipv6_link_local(config.name))
        _set_only_addresses(route, config)
        route.change(netlink.set_link(config.name, up=True, mtu=config.mtu))
        # Lets the host reach ports published on 127.0.0.1; nat.py drops what containers send to 127.0.0.0/8.
        write_sysctl(f"ipv4/conf/{config.name}/route_localnet", 1)
        if config.address6:
            write_sysctl(f"ipv6/conf/{config.name}/accept_ra", 0)
        undo.pop_all()


def reconnect(host_ifname: str, bridge: str, isolated: bool) -> None:
    """Put a container's link back on a bridge that was made anew; nothing if it is on it, or gone."""
    with kernel_faults_explained(f"connect {host_ifname} to the bridge {bridge}"), NetlinkSocket() as route:
        try:
            master, link = route.link(bridge), route.link(host_ifname)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            raise
        if link.master_index != master.index:
            route.change(netlink.set_master(host_ifname, master.index), netlink.set_hairpin(host_ifname))
            if isolated:
                route.change(netlink.set_isolated_port(host_ifname))
            route.change(netlink.set_link(host_ifname, up=True))


def remove_bridge(name: str) -> None:
    """Delete the bridge; no error if there is none."""
    with kernel_faults_explained(f"remove the bridge {name}"), NetlinkSocket() as route:
        if _bridge_exists(route, name):
            route.change(netlink.delete_link(name))


def _bridge_exists(route: NetlinkSocket, name: str) -> bool:
    try:
        link = route.link(name)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return False
        raise
    if link.kind != "bridge":
        raise Conflict(f"An interface named {name} exists and is no bridge; rename it or choose another name.")
    return True


def _set_only_addresses(route: NetlinkSocket, config: BridgeConfig) -> None:
    index = route.link(config.name).index
    wanted: list[IpInterface] = [config.address] if config.address else []
    present: list[IpInterface] = [*route.addresses(index)]
    if config.address6:
        write_sysctl(f"ipv6/conf/{config.name}/disable_ipv6", 0)
        wanted += [config.address6, LINK_LOCAL_GATEWAY]
    if has_ipv6():
        present += route.ipv6_addresses(index)
    route.change(*(netlink.delete_address(index, address) for address in present if address not in wanted))
    route.change(*(netlink.add_address(index, address) for address in wanted if address not in present))


def _random_mac() -> str:
    """A locally administered unicast address, with the prefix Docker's bridges have."""
    return "02:42:" + secrets.token_bytes(4).hex(":")
