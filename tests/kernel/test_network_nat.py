"""Masquerading, published ports and isolation, with packets."""

import struct
from ipaddress import IPv4Address, IPv4Interface

import pytest
from network_lab import (
    BRIDGE,
    HOST_WAN,
    OUTSIDE,
    TABLE,
    Lab,
    as_a_host_of_its_own,
    lab,
    set_bridge_netfilter,
    tcp_exchange,
    udp_exchange,
)

from runtime.linux.netlink import NetlinkSocket
from runtime.linux.nftables import Nftables
from runtime.network.bridge import BridgeConfig, ensure_bridge
from runtime.network.nat import NatTable, PortBinding
from runtime.network.sandbox import mac_of
from runtime.network.sysctl import write_sysctl

ANYWHERE = IPv4Address("0.0.0.0")
LOCALHOST = IPv4Address("127.0.0.1")
FIRST, SECOND = IPv4Address("10.99.0.2"), IPv4Address("10.99.0.3")
OTHER_BRIDGE = BridgeConfig("wherrytest1", IPv4Interface("10.98.0.1/24"))

EXCHANGES = {"tcp": tcp_exchange, "udp": udp_exchange}


def server_in(net: Lab, where, protocol: str, port: int):
    return net.tcp_server(where, port) if protocol == "tcp" else net.udp(where, port)


def client_in(net: Lab, where, protocol: str):
    return net.tcp_client(where) if protocol == "tcp" else net.udp(where)


@as_a_host_of_its_own
def test_containers_reach_the_outside_by_the_hosts_address():
    with lab() as net:
        sandbox = net.sandbox("10.99.0.2")
        web, dns = net.tcp_server(net.outside, 80), net.udp(net.outside, 53)
        assert tcp_exchange(net.tcp_client(sandbox), (OUTSIDE, 80), web) == HOST_WAN
        assert udp_exchange(net.udp(sandbox), (OUTSIDE, 53), dns) == HOST_WAN


@pytest.mark.parametrize("bridge_netfilter", [False, True])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@as_a_host_of_its_own
def test_a_port_published_everywhere_is_reached_from_everywhere(protocol, bridge_netfilter):
    set_bridge_netfilter(bridge_netfilter)
    exchange = EXCHANGES[protocol]
    with lab() as net:
        owner, neighbour = net.sandbox("10.99.0.2"), net.sandbox("10.99.0.3")
        server = server_in(net, owner, protocol, 80)
        net.nat.publish(PortBinding(protocol, ANYWHERE, 8080, 80), FIRST)
        assert exchange(client_in(net, net.outside, protocol), (HOST_WAN, 8080), server) == OUTSIDE
        exchange(client_in(net, None, protocol), ("127.0.0.1", 8080), server)
        exchange(client_in(net, None, protocol), (HOST_WAN, 8080), server)
        exchange(client_in(net, neighbour, protocol), (HOST_WAN, 8080), server)
        exchange(client_in(net, neighbour, protocol), ("10.99.0.1", 8080), server)
        exchange(client_in(net, owner, protocol), (HOST_WAN, 8080), server)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@as_a_host_of_its_own
def test_a_port_published_on_one_address_is_reached_there(protocol):
    exchange = EXCHANGES[protocol]
    with lab() as net:
        server = server_in(net, net.sandbox("10.99.0.2"), protocol, 80)
        net.nat.publish(PortBinding(protocol, IPv4Address(HOST_WAN), 8080, 80), FIRST)
        exchange(client_in(net, net.outside, protocol), (HOST_WAN, 8080), server)
        if protocol == "tcp":
            with pytest.raises(ConnectionRefusedError):
                net.tcp_client(None).connect(("127.0.0.1", 8080))


@as_a_host_of_its_own
def test_a_port_published_on_localhost_is_not_reached_from_outside():
    with lab() as net:
        owner, neighbour = net.sandbox("10.99.0.2"), net.sandbox("10.99.0.3")
        server = net.tcp_server(owner, 80)
        net.nat.publish(PortBinding("tcp", LOCALHOST, 8080, 80), FIRST)
        tcp_exchange(net.tcp_client(None), ("127.0.0.1", 8080), server)
        for elsewhere in (net.outside, neighbour, None):
            with pytest.raises(ConnectionRefusedError):
                net.tcp_client(elsewhere).connect((HOST_WAN, 8080))


@as_a_host_of_its_own
def test_a_container_cannot_reach_the_hosts_loopback():
    """The bridge's route_localnet would let it, and a container with NET_RAW can send any packet."""
    with lab() as net:
        forger = net.sandbox(str(FIRST))
        on_host = net.udp(None)
        with NetlinkSocket() as route:
            bridge_mac = route.link(BRIDGE.name).mac
        wire = net.packet_socket(forger)
        port = on_host.getsockname()[1]
        wire.send(udp_frame(bridge_mac, FIRST, LOCALHOST, port, b"forged"))
        wire.send(udp_frame(bridge_mac, FIRST, BRIDGE.address.ip, port, b"honest"))
        assert on_host.recv(16) == b"honest"


@as_a_host_of_its_own
def test_localhost_ports_stay_closed_where_others_set_route_localnet():
    """Kubernetes does so on every interface; then the kernel takes in packets for 127.0.0.0/8 by the wire."""
    with lab() as net:
        server = net.udp(net.sandbox(str(FIRST)), 80)
        net.nat.publish(PortBinding("udp", LOCALHOST, 8080, 80), FIRST)
        write_sysctl("ipv4/conf/wan0/route_localnet", 1)
        with NetlinkSocket() as route:
            wan_mac = route.link("wan0").mac
        net.packet_socket(net.outside).send(udp_frame(wan_mac, IPv4Address(OUTSIDE), LOCALHOST, 8080, b"forged"))
        net.udp(None).sendto(b"honest", ("127.0.0.1", 8080))
        assert server.recv(16) == b"honest"


def udp_frame(to_mac: str, source: IPv4Address, target: IPv4Address, port: int, payload: bytes) -> bytes:
    """Ethernet, IPv4 without options, UDP without checksum."""
    udp = struct.pack("!HHHH", 1024, port, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, source.packed, target.packed)
    total = sum(struct.unpack("!10H", ip))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    ip = ip[:10] + checksum.to_bytes(2, "big") + ip[12:]
    ethernet = bytes.fromhex((to_mac + mac_of(source)).replace(":", "")) + b"\x08\x00"
    return ethernet + ip + udp


@as_a_host_of_its_own
def test_the_outside_cannot_reach_a_container_but_by_its_published_port():
    with lab() as net:
        server = net.udp(net.sandbox("10.99.0.2"), 80)
        net.nat.publish(PortBinding("udp", ANYWHERE, 8080, 80), FIRST)
        sender = net.udp(net.outside)
        sender.sendto(b"direct", ("10.99.0.2", 80))
        sender.sendto(b"published", (HOST_WAN, 8080))
        assert server.recv(16) == b"published"


@as_a_host_of_its_own
def test_networks_are_isolated_except_for_published_ports():
    with lab() as net:
        ensure_bridge(OTHER_BRIDGE)
        net.nat.add_bridge(OTHER_BRIDGE)
        server = net.udp(net.sandbox("10.99.0.2"), 80)
        stranger = net.udp(net.sandbox("10.98.0.2", OTHER_BRIDGE))
        net.nat.publish(PortBinding("udp", ANYWHERE, 8080, 80), FIRST)
        stranger.sendto(b"direct", ("10.99.0.2", 80))
        assert udp_exchange(stranger, ("10.98.0.1", 8080), server) == "10.98.0.2"
        net.nat.remove_bridge(OTHER_BRIDGE.name)


@as_a_host_of_its_own
def test_an_internal_network_reaches_itself_and_nothing_else():
    internal = BridgeConfig("wherrytest1", IPv4Interface("10.98.0.1/24"), internal=True)
    with lab() as net:
        ensure_bridge(internal)
        net.nat.add_bridge(internal)
        one, two = net.sandbox("10.98.0.2", internal), net.sandbox("10.98.0.3", internal)
        open_one = net.sandbox("10.99.0.2")
        tcp_exchange(net.tcp_client(one), ("10.98.0.3", 80), net.tcp_server(two, 80))
        outside = net.udp(net.outside, 53)
        net.udp(one).sendto(b"internal", (OUTSIDE, 53))
        net.udp(open_one).sendto(b"open", (OUTSIDE, 53))
        assert outside.recv(16) == b"open"
        server = net.udp(two, 80)
        net.nat.publish(PortBinding("udp", ANYWHERE, 8080, 80), IPv4Address("10.98.0.3"))
        net.udp(net.outside).sendto(b"outside", (HOST_WAN, 8080))
        net.udp(None).sendto(b"host", ("127.0.0.1", 8080))
        assert server.recv(16) == b"host"


@as_a_host_of_its_own
def test_an_unpublished_port_is_closed_and_can_be_published_again():
    with lab() as net:
        first, second = net.sandbox("10.99.0.2"), net.sandbox("10.99.0.3")
        net.tcp_server(first, 80)
        server = net.tcp_server(second, 81)
        binding = PortBinding("tcp", ANYWHERE, 8080, 80)
        net.nat.publish(binding, FIRST)
        net.nat.unpublish(binding)
        net.nat.unpublish(binding)
        with pytest.raises(ConnectionRefusedError):
            net.tcp_client(net.outside).connect((HOST_WAN, 8080))
        net.nat.publish(PortBinding("tcp", ANYWHERE, 8080, 81), SECOND)
        tcp_exchange(net.tcp_client(net.outside), (HOST_WAN, 8080), server)


@as_a_host_of_its_own
def test_a_udp_sender_that_never_pauses_follows_the_published_port():
    with lab() as net:
        first, second = net.udp(net.sandbox("10.99.0.2"), 80), net.udp(net.sandbox("10.99.0.3"), 80)
        on_host = net.udp(None, 8080)
        sender = net.udp(net.outside)
        binding = PortBinding("udp", ANYWHERE, 8080, 80)
        for publish, receiver in (
            (lambda: None, on_host),
            (lambda: net.nat.publish(binding, FIRST), first),
            (lambda: net.nat.unpublish(binding), on_host),
            (lambda: net.nat.publish(binding, SECOND), second),
        ):
            publish()
            udp_exchange(sender, (HOST_WAN, 8080), receiver)


@as_a_host_of_its_own
def test_udp_senders_follow_ports_that_changed_while_no_engine_ran():
    with lab() as net:
        first, second = net.udp(net.sandbox("10.99.0.2"), 80), net.udp(net.sandbox("10.99.0.3"), 80)
        on_host = net.udp(None, 8081)
        moved, ended, begun = net.udp(net.outside), net.udp(net.outside), net.udp(net.outside)
        net.nat.publish(PortBinding("udp", ANYWHERE, 8080, 80), FIRST)
        net.nat.publish(PortBinding("udp", ANYWHERE, 8082, 80), FIRST)
        on_host_2 = net.udp(None, 8082)
        udp_exchange(moved, (HOST_WAN, 8080), first)
        udp_exchange(ended, (HOST_WAN, 8082), first)
        udp_exchange(begun, (HOST_WAN, 8081), on_host)
        net.nat.replace_all({PortBinding("udp", ANYWHERE, port, 80): SECOND for port in (8080, 8081)})
        udp_exchange(moved, (HOST_WAN, 8080), second)
        udp_exchange(ended, (HOST_WAN, 8082), on_host_2)
        udp_exchange(begun, (HOST_WAN, 8081), second)


@pytest.mark.parametrize("from_where", ["outside", "host", "neighbour"])
@as_a_host_of_its_own
def test_a_published_sctp_port_leads_to_its_container(from_where):
    """With packets made by hand: kernels without SCTP sockets translate SCTP all the same."""
    with lab() as net:
        owner, neighbour = net.sandbox("10.99.0.2"), net.sandbox("10.99.0.3")
        net.nat.publish(PortBinding("sctp", ANYWHERE, 8080, 80), FIRST)
        server = net.raw_sctp(owner)
        client = net.raw_sctp({"outside": net.outside, "host": None, "neighbour": neighbour}[from_where])
        client.sendto(sctp_init(4000, 8080), (HOST_WAN if from_where != "host" else "127.0.0.1", 0))
        packet = server.recv(2048)
        assert packet[20:24] == struct.pack("!HH", int.from_bytes(packet[20:22], "big"), 80)


def sctp_init(source: int, target: int) -> bytes:
    """An INIT chunk (RFC 9260, 3.3.2) with its CRC32c, without which connection tracking drops it."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x01020304, 65536, 10, 10, 1)
    packet = struct.pack("!HHII", source, target, 0, 0) + chunk
    return packet[:8] + struct.pack("<I", crc32c(packet)) + packet[12:]


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@as_a_host_of_its_own
def test_an_engine_that_comes_back_takes_its_table_over():
    with lab() as net:
        sandbox = net.sandbox("10.99.0.2")
        net.nat.publish(PortBinding("tcp", ANYWHERE, 8080, 80), FIRST)
        restarted = NatTable(TABLE, [BRIDGE])
        restarted.ensure()
        kept = PortBinding("tcp", LOCALHOST, 8081, 80)
        restarted.replace_all({kept: FIRST})
        server = net.tcp_server(sandbox, 80)
        tcp_exchange(net.tcp_client(None), ("127.0.0.1", 8081), server)
        with pytest.raises(ConnectionRefusedError):
            net.tcp_client(None).connect(("127.0.0.1", 8080))
        restarted.remove()


@as_a_host_of_its_own
def test_removing_leaves_nothing_and_may_be_done_twice():
    with Nftables() as nftables:
        before = nftables.run("list ruleset")
        table = NatTable(TABLE, [BRIDGE])
        table.ensure()
        assert TABLE in nftables.run("list ruleset")
        table.remove()
        table.remove()
        assert nftables.run("list ruleset") == before
