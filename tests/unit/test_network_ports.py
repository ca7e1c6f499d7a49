"""Reserving host ports, with sockets on this host's loopback."""

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest

from runtime.errors import Conflict, InvalidParameter
from runtime.network.ports import EPHEMERAL_PORTS, PortAllocator

ANYWHERE = IPv4Address("0.0.0.0")
LOCALHOST = IPv4Address("127.0.0.1")


@pytest.fixture
def ports():
    return PortAllocator()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_reserved_port_is_not_given_again_until_closed(ports, protocol):
    with ports.reserve(protocol, LOCALHOST) as reserved:
        phrase = f"Bind for 127.0.0.1:{reserved.host_port} failed: port is already allocated"
        with pytest.raises(Conflict, match=phrase):
            ports.reserve(protocol, LOCALHOST, reserved.host_port)
    ports.reserve(protocol, LOCALHOST, reserved.host_port).close()


def test_what_another_program_listens_on_is_a_conflict_and_leaves_nothing_held(ports):
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        with pytest.raises(Conflict, match=f"Bind for :::{port} failed: port is already allocated"):
            ports.reserve("tcp", ANYWHERE, port)
        socket.create_server(("127.0.0.1", port)).close()


def test_tcp_and_udp_have_ports_of_their_own(ports):
    with ports.reserve("tcp", LOCALHOST) as tcp, ports.reserve("udp", LOCALHOST, tcp.host_port) as udp:
        assert tcp.host_port == udp.host_port


def test_ephemeral_ports_are_handed_out_in_turn(ports):
    with ports.reserve("tcp", LOCALHOST) as first:
        pass
    with ports.reserve("tcp", LOCALHOST) as second:
        assert second.host_port in EPHEMERAL_PORTS
        assert second.host_port > first.host_port


def test_the_first_free_port_of_a_range_is_taken(ports):
    with ports.reserve("tcp", LOCALHOST) as taken:
        start = taken.host_port
        with ports.reserve("tcp", LOCALHOST, start, start + 20) as reserved:
            assert start < reserved.host_port <= start + 20
        with pytest.raises(Conflict, match=f":{start} failed"):
            ports.reserve("tcp", LOCALHOST, start, start)


def test_an_empty_range_and_a_foreign_address_are_refused(ports):
    with pytest.raises(InvalidParameter, match="range of host ports is empty"):
        ports.reserve("tcp", LOCALHOST, 8001, 8000)
    with pytest.raises(InvalidParameter, match=r"192\.0\.2\.77:50123 failed: cannot assign"):
        ports.reserve("tcp", IPv4Address("192.0.2.77"), 50123)


def test_tcp_everywhere_includes_ipv6_and_udp_does_not(ports):
    with ports.reserve("tcp", ANYWHERE) as everywhere:
        assert everywhere.ipv6_listener is not None
        assert everywhere.ipv6_listener.getsockname()[1] == everywhere.host_port
    with ports.reserve("udp", ANYWHERE) as everywhere:
        assert everywhere.ipv6_listener is None


def test_an_ipv6_address_is_for_tcp_only(ports):
    with ports.reserve("tcp", IPv6Address("::1")) as reserved:
        assert reserved.ipv6_listener is not None
    with pytest.raises(InvalidParameter, match="only TCP"):
        ports.reserve("udp", IPv6Address("::1"))
