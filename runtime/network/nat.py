"""One engine's packet rules: an nftables table of its own per IP version, for its bridges and published ports.

What the table does, chain by chain, is in `_TABLE`. Publishing a port adds one element to a map, whatever the number
of ports; every other change renders the table anew and replaces it in one transaction, so a packet sees the old
rules or the new, never half.

Other firewalls keep their say: nftables asks every table, and a drop anywhere is final. Where Docker, ufw or
firewalld drop forwarded packets by policy, they must be told to accept those of our bridges; no table of ours can.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from runtime.linux.netlink import IpAddress
from runtime.linux.nftables import Nftables
from runtime.network.bridge import BridgeConfig
from runtime.network.conntrack import (
    forget_stale_udp_flows,
    forget_udp_flows_answered_by,
    forget_untranslated_udp_flows,
)
from runtime.network.faults import kernel_faults_explained
from runtime.network.sysctl import has_ipv6, interfaces_with_sysctls, read_sysctl, write_sysctl

Protocol = Literal["tcp", "udp", "sctp"]

ANY_ADDRESS = IPv4Address("0.0.0.0")
ANY_IPV6_ADDRESS = IPv6Address("::")

_ON_ADDRESS = "published_on_address"
_ON_ANY_ADDRESS = "published_on_any_address"


@dataclass(frozen=True, slots=True)
class PortBinding:
    """`host_address` 0.0.0.0 or :: stands for every address of the host of that version."""

    protocol: Protocol
    host_address: IpAddress
    host_port: int
    container_port: int

    def __str__(self) -> str:
        return f"{self.host_address}:{self.host_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class ReachablePort:
    """A container's port that the outside reaches at the container's own address."""

    protocol: Protocol
    address: IpAddress
    port: int

    def __str__(self) -> str:
        return f"{self.address} . {self.protocol} . {self.port}"


# The doubled table lines make "delete if it exists" of one transaction.
# Priorities are those of iptables' own tables, so Docker's rules and these see a packet at the same stages;
# whichever translates a connection first wins, and a host port has one owner only (ports.py).
_TABLE = """\
table {family} {name}
delete table {family} {name}
table {family} {name} {{
    set bridges {{ type ifname; {bridges} }}
    set internal_bridges {{ type ifname; {internal_bridges} }}
    set unprotected_bridges {{ type ifname; {unprotected_bridges} }}
    set within_bridge {{ type ifname . ifname; {within_bridge} }}
    set masqueraded {{ type {address}; flags interval; {masqueraded} }}
    set within_subnet {{ type {address} . {address}; flags interval; {within_subnet} }}
    set reachable {{ type {address} . inet_proto . inet_service; {reachable} }}
    map published_on_address {{
        type {address} . inet_proto . inet_service : {address} . inet_service; {published_on_address}
    }}
    map published_on_any_address {{
        type inet_proto . inet_service : {address} . inet_service; {published_on_any_address}
    }}

    # route_localnet on the bridges lets the host reach ports published on 127.0.0.1. Without this chain it
    # would also let containers reach what listens on the host's loopback.
    chain guard_loopback {{
        type filter hook prerouting priority raw; policy accept;
        iifname @bridges {family} daddr {loopback} drop
    }}

    chain translate {{
        meta l4proto {{ tcp, udp, sctp }} \\
            dnat {family} to {family} daddr . meta l4proto . th dport map @published_on_address
        meta l4proto {{ tcp, udp, sctp }} fib daddr type local \\
            dnat {family} to meta l4proto . th dport map @published_on_any_address
    }}

    # Packets for the loopback that come in by a wire are forged: what is published there stays unreachable.
    chain arriving {{
        type nat hook prerouting priority dstnat; policy accept;
        {family} daddr {loopback} return
        jump translate
    }}

    chain sent_by_host {{
        type nat hook output priority -100; policy accept;
        {untranslated_by_host}
        jump translate
    }}

    # Replies must come back through the host: for senders on its loopback, for containers talking to the
    # outside, and for containers that reach a neighbour by a published port (hairpin).
    chain leaving {{
        type nat hook postrouting priority srcnat; policy accept;
        {family} saddr {loopback} oifname @bridges masquerade
        {family} saddr @masqueraded oifname != @bridges masquerade
        {family} saddr . {family} daddr @within_subnet ct status dnat masquerade
    }}

    # Into a network go its own containers, replies, what came by a published port, and what its gateway mode lets in.
    chain forwarded {{
        type filter hook forward priority filter; policy accept;
        iifname . oifname @within_bridge accept
        iifname @internal_bridges drop
        oifname @internal_bridges drop
        oifname @bridges ct state established,related accept
        oifname @bridges ct status dnat accept
        oifname @bridges {family} daddr . meta l4proto . th dport @reachable accept
        iifname != @bridges oifname @unprotected_bridges accept
        oifname @bridges drop
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class _Family:
    """How a table of one IP version differs from the other's."""

    version: int
    name: str
    address: str
    loopback: str
    any_address: IpAddress
    untranslated_by_host: str


_FAMILIES = {
    4: _Family(4, "ip", "ipv4_addr", "127.0.0.0/8", ANY_ADDRESS, ""),
    # No packet from ::1 can leave the loopback, translated or not: what the host sends there is for the port's holder.
    6: _Family(6, "ip6", "ipv6_addr", "::1", ANY_IPV6_ADDRESS, "ip6 daddr ::1 return"),
}


class NatTable:
    """Thread-safe. All methods raise SystemFault, NotSupported or PermissionDenied if the kernel refuses.

    There is a table for IPv6 as long as a bridge has an IPv6 network.
    """

    def __init__(self, name: str, bridges: Iterable[BridgeConfig] = ()) -> None:
        """`name` of the table, "wherry_" and the engine's id: one table per engine. Touches nothing yet."""
        self._name = name
        self._bridges = {bridge.name: bridge for bridge in bridges}
        self._published: dict[PortBinding, IpAddress] = {}
        self._reachable: set[ReachablePort] = set()
        self._nftables: Nftables | None = None
        self._lock = threading.Lock()

    def ensure(self) -> None:
        """Make the kernel's table what this object says, whatever was there, and switch forwarding on.

        net.ipv4.ip_forward stays on for good: others may come to rely on it.
        """
        with self._lock:
            self._replace_table(self._bridges, self._published, self._reachable)

    def replace_all(
        self,
        bindings: Mapping[PortBinding, IpAddress],
        reachable: Iterable[ReachablePort] = (),
        bridges: Iterable[BridgeConfig] | None = None,
    ) -> None:
        """`ensure`, with these and no other ports published; `bridges` None means those it knows.

        For an engine that finds its containers again: instead of `ensure`, so that no port is closed meanwhile.
        """
        with self._lock:
            known = self._bridges if bridges is None else {bridge.name: bridge for bridge in bridges}
            self._replace_table(known, dict(bindings), set(reachable))
            with kernel_faults_explained("end UDP flows of earlier rules"):
                self._forget_stale_udp_flows()

    def add_bridge(self, bridge: BridgeConfig) -> None:
        with self._lock:
            self._replace_table(self._bridges | {bridge.name: bridge}, self._published, self._reachable)

    def remove_bridge(self, name: str) -> None:
        """No error if the table does not know it."""
        with self._lock:
            others = {other: bridge for other, bridge in self._bridges.items() if other != name}
            self._replace_table(others, self._published, self._reachable)

    def publish(self, binding: PortBinding, target: IpAddress) -> None:
        """Send what arrives at the binding to its container port at `target`, an address of the same version.

        No error if that is so already.
        """
        element = self._element(binding, target)
        with self._lock, ExitStack() as undo:
            if self._published.get(binding) == target:
                return
            self._run(f"add {element}", f"publish {binding}")
            undo.callback(self._run, f"delete {element}", f"unpublish {binding}")
            if binding.protocol == "udp":
                with kernel_faults_explained(f"redirect the UDP flows to {binding}"):
                    forget_untranslated_udp_flows(binding.host_port, target.version)
            self._published[binding] = target
            undo.pop_all()

    def unpublish(self, binding: PortBinding) -> None:
        """No error if it is not published. TCP connections already made last as long as their container."""
        with self._lock:
            target = self._published.get(binding)
            if target is None:
                return
            self._run(f"delete {self._element(binding, target)}", f"unpublish {binding}")
            del self._published[binding]
            if binding.protocol == "udp":
                with kernel_faults_explained(f"end the UDP flows to {binding}"):
                    forget_udp_flows_answered_by(target, binding.host_port)

    def open(self, port: ReachablePort) -> None:
        """Let the outside reach a container's port at the container's own address (gateway mode "routed")."""
        with self._lock:
            self._run(f"add {self._reachable_element(port)}", f"open {port}")
            self._reachable.add(port)

    def close(self, port: ReachablePort) -> None:
        """No error if it is not open."""
        with self._lock:
            if port in self._reachable:
                self._run(f"delete {self._reachable_element(port)}", f"close {port}")
                self._reachable.discard(port)

    def remove(self) -> None:
        """Take the tables out of the kernel, if they are there, and let go of libnftables."""
        with self._lock:
            self._run("".join(map(self._deletion, _families_of_kernel())), "remove the packet rules")
            self._published.clear()
            self._reachable.clear()
            if self._nftables is not None:
                self._nftables.close()
                self._nftables = None

    def _replace_table(
        self,
        bridges: dict[str, BridgeConfig],
        published: dict[PortBinding, IpAddress],
        reachable: set[ReachablePort],
    ) -> None:
        """On success these are the object's own."""
        commands = ""
        for family in _families_of_kernel():
            if family.version == 6 and not any(bridge.address6 for bridge in bridges.values()):
                commands += self._deletion(family)
                continue
            with kernel_faults_explained(f"switch on IPv{family.version} forwarding"):
                _switch_on_forwarding(family.version)
            commands += _render(self._name, family, bridges.values(), published, reachable)
        self._run(commands, "set up the packet rules")
        self._bridges, self._published, self._reachable = bridges, published, reachable

    def _forget_stale_udp_flows(self) -> None:
        for version in _FAMILIES:
            subnets = [subnet for bridge in self._bridges.values() if (subnet := bridge.subnet(version))]
            published: dict[int, set[IpAddress]] = {}
            for binding, target in self._published.items():
                if binding.protocol == "udp" and target.version == version:
                    published.setdefault(binding.host_port, set()).add(target)
            forget_stale_udp_flows(subnets, published)

    def _deletion(self, family: _Family) -> str:
        return f"table {family.name} {self._name}\ndelete table {family.name} {self._name}\n"

    def _element(self, binding: PortBinding, target: IpAddress) -> str:
        element = f"{_map_of(binding)} {{ {_key_and_target(binding, target)} }}"
        return f"element {_FAMILIES[target.version].name} {self._name} {element}"

    def _reachable_element(self, port: ReachablePort) -> str:
        return f"element {_FAMILIES[port.address.version].name} {self._name} reachable {{ {port} }}"

    def _run(self, commands: str, doing: str) -> None:
        with kernel_faults_explained(f"{doing} (nftables table {self._name})"):
            if self._nftables is None:
                self._nftables = Nftables()
            self._nftables.run(commands)


def _families_of_kernel() -> list[_Family]:
    return [family for family in _FAMILIES.values() if family.version == 4 or has_ipv6()]


def _switch_on_forwarding(version: int) -> None:
    if version == 4:
        write_sysctl("ipv4/ip_forward", 1)
        return
    if read_sysctl("ipv6/conf/all/forwarding") == "1":
        return
    # A router takes no other router's word, and would lose its own way out, unless told so first (accept_ra 2).
    for link in interfaces_with_sysctls("ipv6"):
        if read_sysctl(f"ipv6/conf/{link}/accept_ra") == "1":
            write_sysctl(f"ipv6/conf/{link}/accept_ra", 2)
    write_sysctl("ipv6/conf/all/forwarding", 1)


def _render(
    name: str,
    family: _Family,
    bridges: Collection[BridgeConfig],
    published: Mapping[PortBinding, IpAddress],
    reachable: Collection[ReachablePort],
) -> str:
    version = family.version
    outgoing = {bridge.name: subnet for bridge in bridges if not bridge.internal and (subnet := bridge.subnet(version))}
    masqueraded = [
        outgoing[bridge.name]
        for bridge in bridges
        if bridge.name in outgoing and bridge.masquerade and bridge.gateway_mode(version) != "routed"
    ]
    unprotected = [bridge.name for bridge in bridges if bridge.gateway_mode(version) == "nat-unprotected"]
    elements: dict[str, list[str]] = {_ON_ADDRESS: [], _ON_ANY_ADDRESS: []}
    for binding, target in published.items():
        if target.version == version:
            elements[_map_of(binding)].append(_key_and_target(binding, target))
    return _TABLE.format(
        name=name,
        family=family.name,
        address=family.address,
        loopback=family.loopback,
        untranslated_by_host=family.untranslated_by_host,
        bridges=_elements(f'"{bridge.name}"' for bridge in bridges),
        internal_bridges=_elements(f'"{bridge.name}"' for bridge in bridges if bridge.internal),
        unprotected_bridges=_elements(f'"{name}"' for name in unprotected),
        within_bridge=_elements(f'"{bridge.name}" . "{bridge.name}"' for bridge in bridges),
        masqueraded=_elements(map(str, masqueraded)),
        within_subnet=_elements(f"{subnet} . {subnet}" for subnet in outgoing.values()),
        reachable=_elements(str(port) for port in reachable if port.address.version == version),
        published_on_address=_elements(elements[_ON_ADDRESS]),
        published_on_any_address=_elements(elements[_ON_ANY_ADDRESS]),
    )


def _elements(elements: Iterable[str]) -> str:
    listed = ", ".join(elements)
    return f"elements = {{ {listed} }};" if listed else ""


def _map_of(binding: PortBinding) -> str:
    return _ON_ANY_ADDRESS if binding.host_address in (ANY_ADDRESS, ANY_IPV6_ADDRESS) else _ON_ADDRESS


def _key_and_target(binding: PortBinding, target: IpAddress) -> str:
    key = f"{binding.protocol} . {binding.host_port}"
    if _map_of(binding) == _ON_ADDRESS:
        key = f"{binding.host_address} . {key}"
    return f"{key} : {target} . {binding.container_port}"
