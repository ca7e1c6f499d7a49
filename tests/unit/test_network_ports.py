"""Reserving host ports, with sockets on this host's loopback."""

import os
import socket
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from runtime.errors import InvalidParameter
from runtime.network.ports import PortAllocator, PortReservation, PortTaken, hold

ANYWHERE = IPv4Address("0.0.0.0")
LOCALHOST = IPv4Address("127.0.0.1")
ANYWHERE6 = IPv6Address("::")


@pytest.fixture
def ports():
    return PortAllocator()


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_a_reserved_port_is_not_given_again_until_closed(ports, protocol):
    [reserved] = ports.reserve(protocol, [LOCALHOST])
    with reserved:
        phrase = f"Bind for {{}}:{reserved.host_port} failed: port is already allocated"
        for address in (LOCALHOST, ANYWHERE):
            with pytest.raises(PortTaken, match=phrase.format(address)) as refused:
                ports.reserve(protocol, [address], reserved.host_port)
            assert refused.value.by_us
    [again] = ports.reserve(protocol, [LOCALHOST], reserved.host_port)
    again.close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_what_another_program_has_is_refused_with_its_name_and_leaves_nothing_held(ports, protocol):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6, kind) as other:
        other.bind(("::1", 0))
        if protocol == "tcp":
            other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken) as refused:
            ports.reserve(protocol, [ANYWHERE, ANYWHERE6], port, leads_to="172.17.0.2:80")
        assert not refused.value.by_us
        start = f"failed to bind host port for [::]:{port}:172.17.0.2:80/{protocol}: address already in use"
        assert str(refused.value).startswith(start)
        assert f"(pid {os.getpid()})" in str(refused.value)
        [free] = ports.reserve(protocol, [ANYWHERE], port)
        free.close()


def test_protocols_have_ports_of_their_own(ports):
    [tcp] = ports.reserve("tcp", [LOCALHOST])
    with tcp:
        for protocol in ("udp", "sctp"):
            [other] = ports.reserve(protocol, [LOCALHOST], tcp.host_port)
            other.close()


def test_all_addresses_get_the_same_port(ports):
    for protocol in ("tcp", "udp"):
        both = ports.reserve(protocol, [ANYWHERE, ANYWHERE6])
        assert [held.host_address for held in both] == [ANYWHERE, ANYWHERE6]
        assert len({held.host_port for held in both}) == 1
        for held in both:
            held.close()


def test_ephemeral_ports_are_handed_out_in_turn_from_the_hosts_range(ports):
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    [one] = ports.reserve("tcp", [LOCALHOST])
    one.close()
    [two] = ports.reserve("tcp", [LOCALHOST])
    two.close()
    assert first <= one.host_port < two.host_port <= last


def test_the_first_free_port_of_a_range_is_taken(ports):
    [taken] = ports.reserve("tcp", [LOCALHOST])
    with taken:
        start = taken.host_port
        [reserved] = ports.reserve("tcp", [LOCALHOST], start, start + 20)
        with reserved:
            assert start < reserved.host_port <= start + 20
        with pytest.raises(PortTaken, match=f":{start} failed"):
            ports.reserve("tcp", [LOCALHOST], start, start)


def test_an_empty_range_and_a_foreign_address_are_refused(ports):
    with pytest.raises(InvalidParameter, match="range of host ports is empty"):
        ports.reserve("tcp", [LOCALHOST], 8001, 8000)
    with pytest.raises(InvalidParameter, match=r"192\.0\.2\.77:50123/tcp: cannot assign"):
        ports.reserve("tcp", [IPv4Address("192.0.2.77")], 50123)


def test_who_came_before_the_translation_is_hung_up_on_and_the_port_stays_held(ports):
    """Nobody accepts what reaches a holder: such a client would wait for ever."""
    [reserved] = ports.reserve("tcp", [LOCALHOST])
    with reserved, socket.create_connection(("127.0.0.1", reserved.host_port), 30) as early:
        early.sendall(b"is anybody there?")
        reserved.hang_up()
        with pytest.raises(ConnectionResetError):
            early.recv(1)
        with pytest.raises(OSError, match="Address already in use"), socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", reserved.host_port))
        socket.create_connection(("127.0.0.1", reserved.host_port), 30).close()


def test_a_port_of_the_kernels_choice_stays_held_after_a_hangup(ports):
    with hold("tcp", LOCALHOST, 0, "any port") as holder:
        port = holder.getsockname()[1]
        PortReservation("tcp", LOCALHOST, port, holder, ports).hang_up()
        assert holder.getsockname()[1] == port
