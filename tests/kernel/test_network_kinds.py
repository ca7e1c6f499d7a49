"""IPv6, gateway modes, isolated ports, default routes, macvlan and ipvlan, with packets."""

import socket
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

import pytest
from network_lab import (
    BRIDGE,
    OUTSIDE,
    TABLE,
    Lab,
    as_a_host_of_its_own,
    in_sandbox,
    lab,
    link_names,
    set_bridge_netfilter,
    tcp_exchange,
    wherry_veths,
)

from runtime.errors import Conflict, InvalidParameter, NotSupported
from runtime.linux import netlink
from runtime.linux.netlink import NetlinkSocket, VethEnd
from runtime.linux.nftables import Nftables
from runtime.network.bridge import BridgeConfig, ensure_bridge
from runtime.network.nat import ANY_IPV6_ADDRESS, PortBinding, ReachablePort
from runtime.network.sandbox import Sandbox, VlanKind, create_sandbox
from runtime.network.sysctl import read_sysctl, write_sysctl

DUAL = BridgeConfig("wherrytest1", IPv4Interface("10.98.0.1/24"), address6=IPv6Interface("fd00:98::1/64"))
HOST_WAN6 = "2001:db8::1"
OUTSIDE6 = "2001:db8::2"


def give_ipv6_to_the_outside(net: Lab) -> None:
    with NetlinkSocket() as route:
        write_sysctl("ipv6/conf/wan0/disable_ipv6", 0)
        route.change(netlink.add_address(route.link("wan0").index, IPv6Interface(f"{HOST_WAN6}/64")))

    def configure() -> None:
        write_sysctl("ipv6/conf/eth0/disable_ipv6", 0)
        with NetlinkSocket() as route:
            index = route.link("eth0").index
            route.change(
                netlink.add_address(index, IPv6Interface(f"{OUTSIDE6}/64")),
                netlink.add_default_route(index, IPv6Address(HOST_WAN6)),
            )

    in_sandbox(net.outside, configure)


def dual_sandbox(net: Lab, number: int, bridge: BridgeConfig = DUAL, **more: object) -> Sandbox:
    sandbox = net.cleanup.enter_context(create_sandbox())
    address, address6 = IPv4Interface(f"10.98.0.{number}/24"), IPv6Interface(f"fd00:98::{number}/64")
    gateway, gateway6 = bridge.address and bridge.address.ip, bridge.address6 and bridge.address6.ip
    sandbox.attach(bridge.name, address, gateway, address6=address6, gateway6=gateway6, **more)
    return sandbox


def server6(net: Lab, where: Sandbox | None, port: int) -> socket.socket:
    return made6(net, where, lambda: socket.create_server(("::", port), family=socket.AF_INET6))


def client6(net: Lab, where: Sandbox | None) -> socket.socket:
    return made6(net, where, lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM))


def made6(net, where, make):
    made = net.cleanup.enter_context(make() if where is None else in_sandbox(where, make))
    made.settimeout(5)
    return made


@as_a_host_of_its_own
def test_ipv6_goes_out_masqueraded_and_comes_in_by_published_ports():
    with lab() as net:
        ensure_bridge(DUAL)
        give_ipv6_to_the_outside(net)
        write_sysctl("ipv6/conf/all/forwarding", 0)
        write_sysctl("ipv6/conf/wan0/accept_ra", 1)
        net.nat.add_bridge(DUAL)
        assert (read_sysctl("ipv6/conf/all/forwarding"), read_sysctl("ipv6/conf/wan0/accept_ra")) == ("1", "2")
        owner, neighbour = dual_sandbox(net, 2), dual_sandbox(net, 3)
        assert tcp_exchange(client6(net, owner), (OUTSIDE6, 80), server6(net, net.outside, 80)) == HOST_WAN6
        server = server6(net, owner, 80)
        net.nat.publish(PortBinding("tcp", ANY_IPV6_ADDRESS, 8080, 80), IPv6Address("fd00:98::2"))
        assert tcp_exchange(client6(net, net.outside), (HOST_WAN6, 8080), server) == OUTSIDE6
        tcp_exchange(client6(net, None), (HOST_WAN6, 8080), server)
        tcp_exchange(client6(net, neighbour), ("fd00:98::1", 8080), server)
        tcp_exchange(client6(net, neighbour), ("fd00:98::2", 80), server)
        direct = client6(net, net.outside)
        direct.settimeout(0.3)
        with pytest.raises(TimeoutError):
            direct.connect(("fd00:98::2", 80))
        net.nat.remove_bridge(DUAL.name)
        with Nftables() as nftables:
            assert f"table ip6 {TABLE}" not in nftables.run("list tables")


@as_a_host_of_its_own
def test_a_sandbox_has_ipv6_on_the_interfaces_that_have_an_address_only():
    with lab() as net:
        ensure_bridge(DUAL)
        sandbox = net.sandbox("10.99.0.2")
        sandbox.attach(DUAL.name, None, None, ifname="eth1", address6=IPv6Interface("fd00:98::2/64"))
        lines = in_sandbox(sandbox, Path("/proc/thread-self/net/if_inet6").read_text).splitlines()
        assert {line.split()[-1] for line in lines} == {"lo", "eth1"}


@as_a_host_of_its_own
def test_a_routed_network_is_reached_at_opened_ports_and_not_masqueraded():
    routed = BridgeConfig(DUAL.name, DUAL.address, mode="routed")
    with lab() as net:
        ensure_bridge(routed)
        net.nat.add_bridge(routed)
        sandbox = net.sandbox("10.98.0.2", routed)
        assert tcp_exchange(net.tcp_client(sandbox), (OUTSIDE, 80), net.tcp_server(net.outside, 80)) == "10.98.0.2"
        server = net.tcp_server(sandbox, 80)
        port = ReachablePort("tcp", IPv4Address("10.98.0.2"), 80)
        net.nat.open(port)
        tcp_exchange(net.tcp_client(net.outside), ("10.98.0.2", 80), server)
        net.nat.close(port)
        net.nat.close(port)
        closed = net.tcp_client(net.outside)
        closed.settimeout(0.3)
        with pytest.raises(TimeoutError):
            closed.connect(("10.98.0.2", 80))


@as_a_host_of_its_own
def test_an_unprotected_network_is_reached_at_any_port_but_not_from_other_networks():
    unprotected = BridgeConfig(DUAL.name, DUAL.address, mode="nat-unprotected")
    with lab() as net:
        ensure_bridge(unprotected)
        net.nat.add_bridge(unprotected)
        server = net.tcp_server(net.sandbox("10.98.0.2", unprotected), 80)
        tcp_exchange(net.tcp_client(net.outside), ("10.98.0.2", 80), server)
        stranger = net.tcp_client(net.sandbox("10.99.0.2"))
        stranger.settimeout(0.3)
        with pytest.raises(TimeoutError):
            stranger.connect(("10.98.0.2", 80))


@as_a_host_of_its_own
def test_isolated_ports_reach_the_host_and_published_ports_but_no_sibling():
    set_bridge_netfilter(False)
    with lab() as net:
        ensure_bridge(DUAL)
        net.nat.add_bridge(DUAL)
        one, two = dual_sandbox(net, 2, isolated=True), dual_sandbox(net, 3, isolated=True)
        server = net.tcp_server(two, 80)
        sibling = net.tcp_client(one)
        sibling.settimeout(0.3)
        with pytest.raises(OSError):
            sibling.connect(("10.98.0.3", 80))
        tcp_exchange(net.tcp_client(one), ("10.98.0.1", 8000), net.tcp_server(None, 8000))
        net.nat.publish(PortBinding("tcp", IPv4Address("0.0.0.0"), 8080, 80), IPv4Address("10.98.0.3"))
        tcp_exchange(net.tcp_client(one), ("10.98.0.1", 8080), server)


@as_a_host_of_its_own
def test_the_default_route_moves_and_goes():
    with lab() as net:
        ensure_bridge(DUAL)
        net.nat.add_bridge(DUAL)
        sandbox = net.sandbox("10.99.0.2")
        sandbox.attach(
            DUAL.name, IPv4Interface("10.98.0.2/24"), None, ifname="eth1", address6=IPv6Interface("fd00:98::2/64")
        )

        def ways_out() -> list[str]:
            table = Path("/proc/thread-self/net/route").read_text().splitlines()[1:]
            return [line.split()[0] for line in table if line.split()[1] == "00000000"]

        assert in_sandbox(sandbox, ways_out) == ["eth0"]
        sandbox.set_default_route("eth1", 4, IPv4Address("10.98.0.1"))
        sandbox.set_default_route("eth1", 6, IPv6Address("fd00:98::1"))
        assert in_sandbox(sandbox, ways_out) == ["eth1"]
        sandbox.unset_default_route(4)
        sandbox.unset_default_route(6)
        assert in_sandbox(sandbox, ways_out) == []
        sandbox.set_default_route("eth0", 4, None)
        assert in_sandbox(sandbox, ways_out) == ["eth0"]


@as_a_host_of_its_own
def test_a_macvlan_has_a_mac_of_its_own_on_its_parents_wire():
    with lab() as net:
        with NetlinkSocket() as route:
            route.change(netlink.create_veth(VethEnd("lan0"), VethEnd("lan1")))
            route.change(netlink.set_link("lan0", up=True), netlink.set_link("lan1", up=True))
            route.change(netlink.add_address(route.link("lan1").index, IPv4Interface("10.97.0.9/24")))
        sandboxes = []
        for number in (2, 3):
            sandbox = net.cleanup.enter_context(create_sandbox())
            vlan = VlanKind("macvlan", "bridge")
            sandbox.attach_vlan(vlan, "lan0", IPv4Interface(f"10.97.0.{number}/24"), None, None, "eth0")
            sandboxes.append(sandbox)
        server = net.tcp_server(sandboxes[1], 80)
        assert tcp_exchange(net.tcp_client(sandboxes[0]), ("10.97.0.3", 80), server) == "10.97.0.2"
        assert tcp_exchange(net.tcp_client(None), ("10.97.0.3", 80), server) == "10.97.0.9"
        with pytest.raises(Conflict, match="eth0"):
            sandboxes[0].attach_vlan(vlan, "lan0", IPv4Interface("10.97.0.4/24"), None, None, "eth0")
        with pytest.raises(InvalidParameter, match="invalid MAC"):
            sandboxes[0].attach_vlan(vlan, "lan0", IPv4Interface("10.97.0.4/24"), None, "zz", "eth1")
        assert in_sandbox(sandboxes[0], link_names) == {"lo", "eth0"}
        sandboxes[0].detach("eth0")
        assert in_sandbox(sandboxes[0], link_names) == {"lo"}


@as_a_host_of_its_own
def test_an_ipvlan_shares_its_parents_mac():
    with lab() as net:
        with NetlinkSocket() as route:
            route.change(netlink.create_veth(VethEnd("lan0"), VethEnd("lan1")))
            route.change(netlink.set_link("lan0", up=True), netlink.set_link("lan1", up=True))
            parent_mac = route.link("lan0").mac
        one, two = (net.cleanup.enter_context(create_sandbox()) for _ in range(2))
        vlan = VlanKind("ipvlan", "l3")
        try:
            endpoint = one.attach_vlan(vlan, "lan0", IPv4Interface("10.97.0.2/24"), None, None, "eth0")
        except NotSupported as refusal:
            assert "built without it" in str(refusal)
            pytest.skip("this kernel has no ipvlan")
        assert endpoint.mac == parent_mac
        two.attach_vlan(vlan, "lan0", IPv4Interface("10.97.0.3/24"), None, None, "eth0")
        tcp_exchange(net.tcp_client(one), ("10.97.0.3", 80), net.tcp_server(two, 80))


@as_a_host_of_its_own
def test_sysctls_of_an_interface():
    with lab() as net:
        sandbox = net.sandbox("10.99.0.2")
        sandbox.write_sysctls({"net.ipv4.conf.eth0.log_martians": "1"})
        assert in_sandbox(sandbox, lambda: read_sysctl("ipv4/conf/eth0/log_martians")) == "1"
        with pytest.raises(InvalidParameter, match=r"net\.ipv4\.conf\.eth0\.nosuch"):
            sandbox.write_sysctls({"net.ipv4.conf.eth0.nosuch": "1"})
        assert wherry_veths()
        assert BRIDGE.name in link_names()
