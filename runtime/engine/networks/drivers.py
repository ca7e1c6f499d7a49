"""What each kind of network is in the kernel: its interface on the host, and its containers' interfaces on that."""

from __future__ import annotations

import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Protocol, cast

from runtime.engine.networks import definition
from runtime.engine.networks.attachments import Attachment
from runtime.engine.networks.model import BRIDGE, IPVLAN, MACVLAN, Network
from runtime.errors import Conflict, InvalidParameter
from runtime.linux import netlink
from runtime.linux.netlink import IpAddress, NetlinkSocket
from runtime.network.bridge import BridgeConfig, ensure_bridge, remove_bridge
from runtime.network.faults import kernel_faults_explained
from runtime.network.nat import NatTable
from runtime.network.sandbox import Endpoint, Sandbox, VlanKind


class Driver(Protocol):
    """All may raise SystemFault, NotSupported, PermissionDenied, Conflict, InvalidParameter."""

    def name_interface(self, network: Network, free: str) -> tuple[str, bool]:
        """Its host interface and whether it is to be made for it; `free` is a name nobody has."""

    def ensure(self, network: Network) -> None:
        """Make the interface, or what is missing of it."""

    def remove(self, network: Network) -> None:
        """No error if it is gone."""

    def plug(self, sandbox: Sandbox, attachment: Attachment, ifname: str, routes: Collection[int]) -> Endpoint:
        """Give the sandbox its interface, with the default routes of the IP versions in `routes`."""

    def next_hop(self, network: Network, version: int) -> IpAddress | None:
        """What the default route leads to; None: the link itself."""


class BridgeDriver:
    def __init__(self, nat: NatTable) -> None:
        self._nat = nat

    def name_interface(self, network: Network, free: str) -> tuple[str, bool]:
        name = network.options.get(definition.BRIDGE_NAME) or free
        if _exists(name):
            raise Conflict(
                f"the interface {name} exists already, and Wherry changes none that it has not made: give another "
                f"--opt {definition.BRIDGE_NAME}, or none"
            )
        bridge_config(network, name)  # raises InvalidParameter for no name of a bridge
        return name, True

    def ensure(self, network: Network) -> None:
        config = bridge_config(network)
        ensure_bridge(config)
        self._nat.add_bridge(config)

    def remove(self, network: Network) -> None:
        self._nat.remove_bridge(network.interface)
        remove_bridge(network.interface)

    def plug(self, sandbox: Sandbox, attachment: Attachment, ifname: str, routes: Collection[int]) -> Endpoint:
        network = attachment.network
        if not network.predefined and not _exists(network.interface):  # deleted by hand
            ensure_bridge(bridge_config(network))
        return sandbox.attach(
            network.interface,
            attachment.ipv4,
            cast(IPv4Address | None, network.gateway(4) if 4 in routes else None),
            attachment.config.mac_address or None,
            ifname,
            definition.mtu(network),
            address6=attachment.ipv6,
            gateway6=cast(IPv6Address | None, network.gateway(6) if 6 in routes else None),
            isolated=not definition.flag(network, definition.ICC, True),
        )

    def next_hop(self, network: Network, version: int) -> IpAddress | None:
        return network.gateway(version)


class VlanDriver:
    """macvlan and ipvlan: on a parent that is there, on an 802.1Q sub-interface `parent.ID`, or on a dummy."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def name_interface(self, network: Network, free: str) -> tuple[str, bool]:
        parent = network.options.get(definition.PARENT) or ""
        if not parent or (network.internal and not _exists(parent)):
            return f"dm-{network.short_id}", True
        if _exists(parent):
            return parent, False
        if _vlan_id(parent) and _exists(parent.rpartition(".")[0]):
            return parent, True
        raise InvalidParameter(
            f"invalid subinterface vlan name {parent}: the parent interface was not found on the host"
        )

    def ensure(self, network: Network) -> None:
        name = network.interface
        if not network.owns_interface or _exists(name):
            return
        with kernel_faults_explained(f"make the parent interface {name}"), NetlinkSocket() as route:
            if name.startswith("dm-"):
                route.change(netlink.create_dummy(name))
            else:
                parent = socket.if_nametoindex(name.rpartition(".")[0])
                route.change(netlink.create_vlan(name, parent, _vlan_id(name)))
            route.change(netlink.set_link(name, up=True))

    def remove(self, network: Network) -> None:
        if network.owns_interface and _exists(network.interface):
            with kernel_faults_explained(f"remove {network.interface}"), NetlinkSocket() as route:
                route.change(netlink.delete_link(network.interface))

    def plug(self, sandbox: Sandbox, attachment: Attachment, ifname: str, routes: Collection[int]) -> Endpoint:
        network, config = attachment.network, attachment.config
        if self._kind == IPVLAN and config.mac_address:
            raise InvalidParameter("ipvlan interfaces do not support custom mac address assignment")
        options = network.options
        if self._kind == MACVLAN:
            vlan = VlanKind("macvlan", options.get(definition.MACVLAN_MODE) or "bridge")
        else:
            flag = options.get(definition.IPVLAN_FLAG) or "bridge"
            vlan = VlanKind("ipvlan", options.get(definition.IPVLAN_MODE) or "l2", flag)
        mtu = int(options.get(definition.MTU) or 0)
        mac = config.mac_address or None
        endpoint = sandbox.attach_vlan(vlan, network.interface, attachment.ipv4, attachment.ipv6, mac, ifname, mtu)
        for version in routes:
            sandbox.set_default_route(ifname, version, self.next_hop(network, version))
        return endpoint

    def next_hop(self, network: Network, version: int) -> IpAddress | None:
        if self._kind == IPVLAN and network.options.get(definition.IPVLAN_MODE, "l2") != "l2":
            return None
        return network.gateway(version)


def drivers(nat: NatTable) -> dict[str, Driver]:
    return {BRIDGE: BridgeDriver(nat), MACVLAN: VlanDriver(MACVLAN), IPVLAN: VlanDriver(IPVLAN)}


def bridge_config(network: Network, name: str = "") -> BridgeConfig:
    """Raises InvalidParameter when the name is none for a bridge."""
    return BridgeConfig(
        name=name or network.interface,
        address=cast(IPv4Interface | None, _gateway_interface(network, 4)),
        address6=cast(IPv6Interface | None, _gateway_interface(network, 6)),
        mtu=definition.mtu(network),
        internal=network.internal,
        masquerade=definition.flag(network, definition.MASQUERADE, True),
        mode=definition.gateway_mode(network, 4),
        mode6=definition.gateway_mode(network, 6),
    )


def _gateway_interface(network: Network, version: int) -> IPv4Interface | IPv6Interface | None:
    for subnet in network.subnets_of(version):
        if isinstance(subnet.gateway, IPv4Address):
            return IPv4Interface((subnet.gateway, subnet.subnet.prefixlen))
        if isinstance(subnet.gateway, IPv6Address):
            return IPv6Interface((subnet.gateway, subnet.subnet.prefixlen))
    return None


def _vlan_id(name: str) -> int:
    """The ID in `parent.ID`, 0 if there is none (1 to 4094)."""
    number = name.rpartition(".")[2] if "." in name else ""
    return int(number) if number.isdigit() and 0 < int(number) < 4095 else 0


def _exists(interface: str) -> bool:
    try:
        socket.if_nametoindex(interface)
    except OSError:
        return False
    return True
