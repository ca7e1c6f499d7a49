"""One engine's packet rules: an nftables table of its own, for its bridges and published ports.

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
from ipaddress import IPv4Address
from typing import Literal

from runtime.linux.nftables import Nftables
from runtime.network.bridge import BridgeConfig
from runtime.network.conntrack import forget_udp_flows_answered_by, forget_untranslated_udp_flows
from runtime.network.faults import kernel_faults_explained
from runtime.network.sysctl import write_sysctl

Protocol = Literal["tcp", "udp"]

ANY_ADDRESS = IPv4Address("0.0.0.0")

_ON_ADDRESS = "published_on_address"
_ON_ANY_ADDRESS = "published_on_any_address"


@dataclass(frozen=True, slots=True)
class PortBinding:
    """`host_address` 0.0.0.0 stands for every address of the host."""

    protocol: Protocol
    host_address: IPv4Address
    host_port: int
    container_port: int

    def __str__(self) -> str:
        return f"{self.host_address}:{self.host_port}/{self.protocol}"


# The doubled table lines make "delete if it exists" of one transaction.
# Priorities are those of iptables' own tables, so Docker's rules and these see a packet at the same stages;
# whichever translates a connection first wins, and a host port has one owner only (ports.py).
_TABLE = """\
table ip {name}
delete table ip {name}
table ip {name} {{
    set bridges {{ type ifname; {bridges} }}
    set internal_bridges {{ type ifname; {internal_bridges} }}
    set within_bridge {{ type ifname . ifname; {within_bridge} }}
    set masqueraded {{ type ipv4_addr; flags interval; {masqueraded} }}
    set within_subnet {{ type ipv4_addr . ipv4_addr; flags interval; {within_subnet} }}
    map published_on_address {{
        type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; {published_on_address}
    }}
    map published_on_any_address {{
        type inet_proto . inet_service : ipv4_addr . inet_service; {published_on_any_address}
    }}

    # route_localnet on the bridges lets the host reach ports published on 127.0.0.1. Without this chain it
    # would also let containers reach what listens on the host's loopback.
    chain guard_loopback {{
        type filter hook prerouting priority raw; policy accept;
        iifname @bridges ip daddr 127.0.0.0/8 drop
    }}

    chain translate {{
        meta l4proto {{ tcp, udp }} dnat ip to ip daddr . meta l4proto . th dport map @published_on_address
        meta l4proto {{ tcp, udp }} fib daddr type local \\
            dnat ip to meta l4proto . th dport map @published_on_any_address
    }}

    # Packets for 127.0.0.0/8 that come in by a wire are forged: what is published there stays unreachable.
    chain arriving {{
        type nat hook prerouting priority dstnat; policy accept;
        ip daddr 127.0.0.0/8 return
        jump translate
    }}

    chain sent_by_host {{
        type nat hook output priority -100; policy accept;
        jump translate
    }}

    # Replies must come back through the host: for senders on its loopback, for containers talking to the
    # outside, and for containers that reach a neighbour by a published port (hairpin).
    chain leaving {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 127.0.0.0/8 oifname @bridges masquerade
        ip saddr @masqueraded oifname != @bridges masquerade
        ip saddr . ip daddr @within_subnet ct status dnat masquerade
    }}

    # Into a network go its own containers, replies, and what came by a published port.
    chain forwarded {{
        type filter hook forward priority filter; policy accept;
        iifname . oifname @within_bridge accept
        iifname @internal_bridges drop
        oifname @internal_bridges drop
        oifname @bridges ct state established,related accept
        oifname @bridges ct status dnat accept
        oifname @bridges drop
    }}
}}
"""


class NatTable:
    """Thread-safe. All methods raise SystemFault, NotSupported or PermissionDenied if the kernel refuses."""

    def __init__(self, name: str, bridges: Iterable[BridgeConfig] = ()) -> None:
        """`name` of the table, "wherry_" and the engine's id: one table per engine. Touches nothing yet."""
        self._name = name
        self._bridges = {bridge.name: bridge for bridge in bridges}
        self._published: dict[PortBinding, IPv4Address] = {}
        self._nftables: Nftables | None = None
        self._lock = threading.Lock()

    def ensure(self) -> None:
        """Make the kernel's table what this object says, whatever was there, and switch IPv4 forwarding on.

        net.ipv4.ip_forward stays on for good: others may come to rely on it.
        """
        with self._lock:
            self._replace_table(self._bridges, self._published)

    def replace_all(self, bindings: Mapping[PortBinding, IPv4Address]) -> None:
        """`ensure`, with these and no other ports published.

        For an engine that finds its containers again: instead of `ensure`, so that no port is closed meanwhile.
        """
        with self._lock:
            self._replace_table(self._bridges, dict(bindings))

    def add_bridge(self, bridge: BridgeConfig) -> None:
        with self._lock:
            self._replace_table(self._bridges | {bridge.name: bridge}, self._published)

    def remove_bridge(self, name: str) -> None:
        """No error if the table does not know it."""
        with self._lock:
            others = {other: bridge for other, bridge in self._bridges.items() if other != name}
            self._replace_table(others, self._published)

    def publish(self, binding: PortBinding, target: IPv4Address) -> None:
        """Send what arrives at the binding to its container port at `target`."""
        element = f"element ip {self._name} {_element(binding, target)}"
        with self._lock, ExitStack() as undo:
            self._run(f"add {element}", f"publish {binding}")
            undo.callback(self._run, f"delete {element}", f"unpublish {binding}")
            if binding.protocol == "udp":
                with kernel_faults_explained(f"redirect the UDP flows to {binding}"):
                    forget_untranslated_udp_flows(binding.host_port)
            self._published[binding] = target
            undo.pop_all()

    def unpublish(self, binding: PortBinding) -> None:
        """No error if it is not published. TCP connections already made last as long as their container."""
        with self._lock:
            target = self._published.get(binding)
            if target is None:
                return
            self._run(f"delete element ip {self._name} {_element(binding, target)}", f"unpublish {binding}")
            del self._published[binding]
            if binding.protocol == "udp":
                with kernel_faults_explained(f"end the UDP flows to {binding}"):
                    forget_udp_flows_answered_by(target, binding.host_port)

    def remove(self) -> None:
        """Take the table out of the kernel, if it is there, and let go of libnftables."""
        with self._lock:
            self._run(f"table ip {self._name}\ndelete table ip {self._name}", "remove the packet rules")
            self._published.clear()
            if self._nftables is not None:
                self._nftables.close()
                self._nftables = None

    def _replace_table(self, bridges: dict[str, BridgeConfig], published: dict[PortBinding, IPv4Address]) -> None:
        """On success these are the object's own."""
        with kernel_faults_explained("switch on IPv4 forwarding"):
            write_sysctl("ipv4/ip_forward", 1)
        self._run(_render(self._name, bridges.values(), published), "set up the packet rules")
        self._bridges, self._published = bridges, published

    def _run(self, commands: str, doing: str) -> None:
        with kernel_faults_explained(f"{doing} (nftables table {self._name})"):
            if self._nftables is None:
                self._nftables = Nftables()
            self._nftables.run(commands)


def _render(name: str, bridges: Collection[BridgeConfig], published: Mapping[PortBinding, IPv4Address]) -> str:
    outgoing = [bridge for bridge in bridges if not bridge.internal]
    elements: dict[str, list[str]] = {_ON_ADDRESS: [], _ON_ANY_ADDRESS: []}
    for binding, target in published.items():
        elements[_map_of(binding)].append(_key_and_target(binding, target))
    return _TABLE.format(
        name=name,
        bridges=_elements(f'"{bridge.name}"' for bridge in bridges),
        internal_bridges=_elements(f'"{bridge.name}"' for bridge in bridges if bridge.internal),
        within_bridge=_elements(f'"{bridge.name}" . "{bridge.name}"' for bridge in bridges),
        masqueraded=_elements(str(bridge.subnet) for bridge in outgoing),
        within_subnet=_elements(f"{bridge.subnet} . {bridge.subnet}" for bridge in outgoing),
        published_on_address=_elements(elements[_ON_ADDRESS]),
        published_on_any_address=_elements(elements[_ON_ANY_ADDRESS]),
    )


def _elements(elements: Iterable[str]) -> str:
    listed = ", ".join(elements)
    return f"elements = {{ {listed} }};" if listed else ""


def _element(binding: PortBinding, target: IPv4Address) -> str:
    return f"{_map_of(binding)} {{ {_key_and_target(binding, target)} }}"


def _map_of(binding: PortBinding) -> str:
    return _ON_ANY_ADDRESS if binding.host_address == ANY_ADDRESS else _ON_ADDRESS


def _key_and_target(binding: PortBinding, target: IPv4Address) -> str:
    key = f"{binding.protocol} . {binding.host_port}"
    if binding.host_address != ANY_ADDRESS:
        key = f"{binding.host_address} . {key}"
    return f"{key} : {target} . {binding.container_port}"
