"""Bridges and sandboxes in a real kernel."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from network_lab import (
    BRIDGE,
    TIMEOUT_S,
    as_a_host_of_its_own,
    in_sandbox,
    lab,
    link_names,
    tcp_exchange,
    wherry_veths,
)

from runtime.errors import Conflict, InvalidParameter, SystemFault
from runtime.linux.netlink import NetlinkSocket
from runtime.network.bridge import BridgeConfig, ensure_bridge, remove_bridge
from runtime.network.ipam import choose_subnet, host_networks
from runtime.network.sandbox import SandboxPool, create_sandbox, open_sandbox

GATEWAY = BRIDGE.address.ip
ADDRESS = IPv4Interface("10.99.0.2/24")


def this_threads_netns() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


@as_a_host_of_its_own
def test_a_bridge_is_made_changed_and_removed():
    ensure_bridge(BRIDGE)
    ensure_bridge(BRIDGE)
    moved = BridgeConfig(BRIDGE.name, IPv4Interface("10.98.0.1/16"), mtu=1400)
    ensure_bridge(moved)
    with NetlinkSocket() as route:
        link = route.link(BRIDGE.name)
        assert (link.kind, link.up, link.mtu) == ("bridge", True, 1400)
        assert route.addresses(link.index) == [moved.address]
    remove_bridge(BRIDGE.name)
    remove_bridge(BRIDGE.name)
    assert BRIDGE.name not in link_names()


@as_a_host_of_its_own
def test_a_bridge_that_cannot_be_finished_is_not_left_behind():
    with pytest.raises(SystemFault, match="wherrytest0"):
        ensure_bridge(BridgeConfig(BRIDGE.name, BRIDGE.address, mtu=7))
    assert BRIDGE.name not in link_names()


@as_a_host_of_its_own
def test_an_interface_of_another_kind_is_not_taken_for_a_bridge():
    with pytest.raises(Conflict, match="lo exists and is no bridge"):
        ensure_bridge(BridgeConfig("lo", BRIDGE.address))
    with pytest.raises(Conflict, match="lo exists and is no bridge"):
        remove_bridge("lo")


@as_a_host_of_its_own
def test_a_new_subnet_hides_no_network_of_the_host():
    ensure_bridge(BridgeConfig("wherrytest0", IPv4Interface("172.17.3.1/24")))
    ensure_bridge(BridgeConfig("wherrytest1", IPv4Interface("172.18.0.1/16")))
    half_the_default_route = IPv4Interface("130.0.0.1/1")  # as VPNs have it
    ensure_bridge(BridgeConfig("wherrytest2", half_the_default_route))
    assert str(choose_subnet(host_networks())) == "172.19.0.0/16"


@as_a_host_of_its_own
def test_creating_a_sandbox_leaves_the_calling_thread_where_it_was():
    here = this_threads_netns()
    with create_sandbox() as sandbox:
        assert os.fstat(sandbox.fd).st_ino != here
        assert this_threads_netns() == here
    with ThreadPoolExecutor(max_workers=1) as worker:
        worker.submit(create_sandbox).result().close()
        assert worker.submit(this_threads_netns).result() == here


@as_a_host_of_its_own
def test_a_sandbox_has_what_a_container_expects():
    with lab() as net:
        sandbox = net.cleanup.enter_context(create_sandbox())
        endpoint = sandbox.attach(BRIDGE.name, ADDRESS, GATEWAY, mtu=1400)
        assert endpoint.mac == "02:42:0a:63:00:02"

        def look_around() -> None:
            with NetlinkSocket() as route:
                eth0, lo = route.link("eth0"), route.link("lo")
                assert (eth0.up, eth0.mtu, eth0.mac) == (True, 1400, endpoint.mac)
                assert lo.up
                assert route.addresses(eth0.index) == [ADDRESS]
            assert Path("/proc/thread-self/net/if_inet6").read_text().split()[-1] == "lo", "IPv6 on lo only"
            with socket.create_server(("::1", 0), family=socket.AF_INET6):
                pass

        in_sandbox(sandbox, look_around)
        assert endpoint.host_ifname not in Path("/proc/thread-self/net/if_inet6").read_text()


@as_a_host_of_its_own
def test_sandboxes_of_one_bridge_reach_each_other_and_the_host():
    with lab() as net:
        one, two = net.sandbox("10.99.0.2"), net.sandbox("10.99.0.3")
        server = net.tcp_server(two, 80)
        assert tcp_exchange(net.tcp_client(one), ("10.99.0.3", 80), server) == "10.99.0.2"
        assert tcp_exchange(net.tcp_client(None), ("10.99.0.3", 80), server) == "10.99.0.1"
        on_host = net.tcp_server(None, 8000)
        assert tcp_exchange(net.tcp_client(one), ("10.99.0.1", 8000), on_host) == "10.99.0.2"


@as_a_host_of_its_own
def test_a_sandbox_on_two_networks():
    with lab() as net:
        other = BridgeConfig("wherrytest1", IPv4Interface("10.98.0.1/24"))
        ensure_bridge(other)
        sandbox = net.sandbox("10.99.0.2")
        second = sandbox.attach(other.name, IPv4Interface("10.98.0.2/24"), None, ifname="eth1")
        server = net.tcp_server(sandbox, 80)
        assert tcp_exchange(net.tcp_client(None), ("10.98.0.2", 80), server) == "10.98.0.1"
        sandbox.detach(second.ifname)
        sandbox.detach(second.ifname)
        assert second.host_ifname not in link_names()
        assert tcp_exchange(net.tcp_client(None), ("10.99.0.2", 80), server) == "10.99.0.1"


@as_a_host_of_its_own
def test_a_running_containers_sandbox_can_be_opened_again():
    ensure_bridge(BRIDGE)
    with create_sandbox() as sandbox, open_sandbox(Path(f"/proc/self/fd/{sandbox.fd}")) as again:
        assert os.path.sameopenfile(again.fd, sandbox.fd)
        again.attach(BRIDGE.name, ADDRESS, GATEWAY)
        assert "eth0" in in_sandbox(sandbox, link_names)


@as_a_host_of_its_own
def test_a_failed_attach_leaves_no_interface():
    ensure_bridge(BRIDGE)
    with create_sandbox() as sandbox:
        with pytest.raises(SystemFault, match="wherryabsent"):
            sandbox.attach("wherryabsent", ADDRESS, GATEWAY)
        with pytest.raises(SystemFault, match=r"default route via 192\.0\.2\.1"):
            sandbox.attach(BRIDGE.name, ADDRESS, IPv4Address("192.0.2.1"))
        with pytest.raises(SystemFault):
            sandbox.attach(BRIDGE.name, ADDRESS, GATEWAY, mtu=7)
        with pytest.raises(InvalidParameter, match="'02:42'"):
            sandbox.attach(BRIDGE.name, ADDRESS, GATEWAY, mac="02:42")
        assert wherry_veths() == set()
        sandbox.attach(BRIDGE.name, ADDRESS, GATEWAY)
        with pytest.raises(Conflict, match="eth0"):
            sandbox.attach(BRIDGE.name, ADDRESS, GATEWAY)
        assert len(wherry_veths()) == 1


@as_a_host_of_its_own
def test_pooled_sandboxes_work_as_fresh_ones_do():
    with lab() as net:
        pool = SandboxPool(BRIDGE.name, size=2)
        net.cleanup.callback(pool.close)
        assert pool.wait_full(TIMEOUT_S)
        prepared = wherry_veths()
        sandbox = net.cleanup.enter_context(pool.take())
        endpoint = sandbox.attach(BRIDGE.name, ADDRESS, GATEWAY)
        assert endpoint.host_ifname in prepared
        server = net.tcp_server(sandbox, 80)
        assert tcp_exchange(net.tcp_client(None), ("10.99.0.2", 80), server) == "10.99.0.1"


@as_a_host_of_its_own
def test_a_pooled_sandbox_may_be_attached_otherwise_than_prepared():
    ensure_bridge(BRIDGE)
    other = BridgeConfig("wherrytest1", IPv4Interface("10.98.0.1/24"))
    ensure_bridge(other)
    with create_sandbox() as sandbox:
        sandbox.prepare(BRIDGE.name)
        endpoint = sandbox.attach(other.name, IPv4Interface("10.98.0.2/24"), other.address.ip)
        assert wherry_veths() == {endpoint.host_ifname}


@as_a_host_of_its_own
def test_an_address_taken_over_at_once_reaches_its_new_owner():
    """The bridge must not go on sending to the last owner's port, which the kernel removes when it likes."""
    with lab() as net:
        first, second = create_sandbox(), create_sandbox()
        second.prepare(BRIDGE.name)
        net.cleanup.enter_context(second)
        with first:
            first.attach(BRIDGE.name, ADDRESS, GATEWAY)
            tcp_exchange(net.tcp_client(None), ("10.99.0.2", 80), net.tcp_server(first, 80))
            second.attach(BRIDGE.name, ADDRESS, GATEWAY)
            server = net.tcp_server(second, 80)
            tcp_exchange(net.tcp_client(None), ("10.99.0.2", 80), server)


@as_a_host_of_its_own
def test_a_pool_furnishes_its_sandboxes_within_them():
    pool = SandboxPool(None, size=1, furnish=lambda: socket.create_server(("127.0.0.1", 80)))
    assert pool.wait_full(TIMEOUT_S)
    sandbox = pool.take()
    with socket.create_server(("127.0.0.1", 80)):
        pass
    with pytest.raises(OSError):
        in_sandbox(sandbox, lambda: socket.create_server(("127.0.0.1", 80)))
    sandbox.close()
    pool.close()


@as_a_host_of_its_own
def test_a_pool_that_cannot_prepare_still_serves():
    pool = SandboxPool("wherryabsent", size=1)
    with pool.take() as sandbox, pytest.raises(SystemFault, match="wherryabsent"):
        sandbox.attach("wherryabsent", ADDRESS, GATEWAY)
    pool.close()


@as_a_host_of_its_own
def test_nothing_is_left_when_the_engine_is_killed():
    ensure_bridge(BRIDGE)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link_events:
        link_events.settimeout(TIMEOUT_S)
        reading, writing = os.pipe()
        engine = os.fork()
        if engine == 0:
            pool = SandboxPool(BRIDGE.name, size=3)
            sandbox = create_sandbox()
            sandbox.attach(BRIDGE.name, ADDRESS, GATEWAY)
            pool.wait_full(TIMEOUT_S)
            os.write(writing, b"ready")
            signal.pause()
        os.read(reading, 5)
        os.close(reading)
        os.close(writing)
        assert len(wherry_veths()) == 4
        rtmgrp_link = 1
        link_events.bind((0, rtmgrp_link))
        os.kill(engine, signal.SIGKILL)
        os.waitpid(engine, 0)
        while wherry_veths():
            link_events.recv(65536)
