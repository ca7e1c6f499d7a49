"""A small internet for the network tests, in namespaces that die with the test.

    outside (198.51.100.2) --- wan0 (198.51.100.1) "host" bridge (10.99.0.1/24) --- sandboxes (10.99.0.2, ...)

The "host" is the network namespace of a forked child, so nothing a test does reaches the machine's own
network. One thread plays everybody: a socket stays in the namespace it was made in, whoever uses it later.
"""

import functools
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TypeVar

import pytest

from runtime.linux import netlink
from runtime.linux.namespaces import CLONE_NEWNET, setns, unshare
from runtime.linux.netlink import NetlinkSocket, VethEnd
from runtime.network.bridge import BridgeConfig, ensure_bridge
from runtime.network.nat import NatTable
from runtime.network.sandbox import Sandbox, create_sandbox
from runtime.network.sysctl import write_sysctl

TIMEOUT_S = 5.0
BRIDGE = BridgeConfig("wherrytest0", IPv4Interface("10.99.0.1/24"))
TABLE = "wherry_test"
SKIPPED = "skipped: "
HOST_WAN = "198.51.100.1"
OUTSIDE = "198.51.100.2"

Result = TypeVar("Result")


def as_a_host_of_its_own(test: Callable[..., None]) -> Callable[..., None]:
    """Run the test in a forked child with its own network namespace; it must leave no descriptor open."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.write(writing, _run_in_child(lambda: test(*args, **kwargs)).encode()[-60_000:])
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            complaint = pipe.read()
        _, status = os.waitpid(child, 0)
        if complaint.startswith(SKIPPED):
            pytest.skip(complaint.removeprefix(SKIPPED))
        if complaint or status:
            pytest.fail(f"in the forked child (status {status}):\n{complaint}", pytrace=False)

    return run


def _run_in_child(test: Callable[[], None]) -> str:
    """What went wrong, empty if nothing; after SKIPPED, why the test cannot be run here."""
    try:
        unshare(CLONE_NEWNET)
        with NetlinkSocket() as route:
            route.change(netlink.set_link("lo", up=True))
        before = open_descriptors()
        test()
        assert open_descriptors() == before, "the test left descriptors open"
    except pytest.skip.Exception as skipped:
        return f"{SKIPPED}{skipped.msg}"
    except BaseException:  # noqa: BLE001  the parent raises it
        return traceback.format_exc()
    return ""


def open_descriptors() -> set[str]:
    """Descriptor numbers, without the one that lists them."""
    with os.scandir("/proc/self/fd") as entries:
        return {entry.name for entry in entries if "/fd" not in os.readlink(entry.path)}


def link_names() -> set[str]:
    with NetlinkSocket() as route:
        return {link.name for link in route.links()}


def wherry_veths() -> set[str]:
    with NetlinkSocket() as route:
        return {link.name for link in route.links() if link.kind == "veth" and link.name.startswith("wherry")}


def in_sandbox(sandbox: Sandbox, work: Callable[[], Result]) -> Result:
    def entered() -> Result:
        setns(sandbox.fd, CLONE_NEWNET)
        return work()

    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(entered).result()


@dataclass
class Lab:
    """The "host" with a bridge, its NAT table, and the outside; sandboxes are made as tests need them."""

    nat: NatTable
    outside: Sandbox
    cleanup: ExitStack

    def sandbox(self, address: str, bridge: BridgeConfig = BRIDGE) -> Sandbox:
        sandbox = self.cleanup.enter_context(create_sandbox())
        interface = IPv4Interface((address, bridge.address.network.prefixlen))
        sandbox.attach(bridge.name, interface, bridge.address.ip)
        return sandbox

    def tcp_server(self, where: Sandbox | None, port: int) -> socket.socket:
        server = self._socket(where, socket.SOCK_STREAM)
        server.bind(("0.0.0.0", port))
        server.listen()
        return server

    def tcp_client(self, where: Sandbox | None) -> socket.socket:
        return self._socket(where, socket.SOCK_STREAM)

    def udp(self, where: Sandbox | None, port: int = 0) -> socket.socket:
        made = self._socket(where, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", port))
        return made

    def packet_socket(self, where: Sandbox) -> socket.socket:
        """Sends whole Ethernet frames by the sandbox's eth0."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            made.bind(("eth0", 0))
            return made

        return self.cleanup.enter_context(in_sandbox(where, make))

    def raw_sctp(self, where: Sandbox | None) -> socket.socket:
        """Sends and receives SCTP packets, the received ones with their IP headers."""
        return self._socket(where, socket.SOCK_RAW, socket.IPPROTO_SCTP)

    def _socket(self, where: Sandbox | None, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
        def make() -> socket.socket:
            return socket.socket(socket.AF_INET, kind, protocol)

        made = self.cleanup.enter_context(make() if where is None else in_sandbox(where, make))
        made.settimeout(TIMEOUT_S)
        return made


def tcp_exchange(client: socket.socket, address: tuple[str, int], server: socket.socket) -> str:
    """Connect, send a word each way; returns the client's address as the server sees it."""
    client.connect(address)
    served, peer = server.accept()
    with served:
        served.settimeout(TIMEOUT_S)
        client.sendall(b"ask")
        assert served.recv(16) == b"ask"
        served.sendall(b"answer")
        assert client.recv(16) == b"answer"
    return peer[0]


def udp_exchange(client: socket.socket, address: tuple[str, int], server: socket.socket) -> str:
    client.sendto(b"ask", address)
    asked, peer = server.recvfrom(16)
    assert asked == b"ask"
    server.sendto(b"answer", peer)
    answer, answered_by = client.recvfrom(16)
    assert (answer, answered_by) == (b"answer", address), "the answer must come from where the question went"
    return peer[0]


@contextmanager
def lab() -> Iterator[Lab]:
    with ExitStack() as cleanup:
        ensure_bridge(BRIDGE)
        write_sysctl("ipv4/ip_forward", 0)  # a new namespace inherits the machine's
        nat = NatTable(TABLE, [BRIDGE])
        cleanup.callback(nat.remove)
        nat.ensure()
        outside = cleanup.enter_context(create_sandbox())
        _connect_outside(outside)
        yield Lab(nat, outside, cleanup)


def _connect_outside(outside: Sandbox) -> None:
    with NetlinkSocket() as route:
        route.change(netlink.create_veth(VethEnd("wan0"), VethEnd("eth0", netns_fd=outside.fd)))
        route.change(
            netlink.set_link("wan0", up=True),
            netlink.add_address(route.link("wan0").index, IPv4Interface(f"{HOST_WAN}/24")),
        )

    def configure() -> None:
        with NetlinkSocket() as route:
            index = route.link("eth0").index
            route.change(
                netlink.set_link("eth0", up=True),
                netlink.add_address(index, IPv4Interface(f"{OUTSIDE}/24")),
                # Lets the outside try to reach sandboxes directly, as a neighbour on the host's LAN could.
                netlink.add_default_route(index, IPv4Address(HOST_WAN)),
            )

    in_sandbox(outside, configure)


def set_bridge_netfilter(on: bool) -> None:
    """Whether br_netfilter shows bridged packets to the IP rules; skips where the kernel lacks it."""
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not setting.exists():
        if on:
            pytest.skip("this kernel has no br_netfilter")
        return
    setting.write_text("1" if on else "0")
