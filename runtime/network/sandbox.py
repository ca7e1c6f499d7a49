"""Network sandboxes: a network namespace held by a descriptor, and its interfaces.

Nothing below /run/netns keeps a sandbox alive: only descriptors and the container's processes do. When the last is
gone, also by SIGKILL of the engine, the kernel dismantles the namespace and every veth pair with an end in it, in
the background. Deleting a veth takes the kernel 19-33 ms, so nobody here waits for that except `Sandbox.detach`.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar

from runtime.errors import Conflict, InvalidParameter, WherryError
from runtime.linux import netlink
from runtime.linux.namespaces import CLONE_NEWNET, enter_path, setns, unshare
from runtime.linux.netlink import NetlinkSocket, VethEnd
from runtime.network.bridge import DEFAULT_MTU
from runtime.network.faults import kernel_faults_explained
from runtime.network.sysctl import has_ipv6, write_sysctl

DEFAULT_IFNAME = "eth0"
PAUSE_S = 0.005  # whoever has just taken a sandbox is starting a container, and needs the interpreter's lock more

_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A sandbox's interface. `gateway` None: no default route of that version by this interface.

    `master` is the bridge, or the parent of a macvlan or ipvlan, which has no `host_ifname`.
    """

    master: str
    ifname: str
    host_ifname: str
    address: IPv4Interface | None
    address6: IPv6Interface | None
    mac: str


@dataclass(frozen=True, slots=True)
class VlanKind:
    """A macvlan or ipvlan on a parent: `mode` and `flag` are keys of netlink.MACVLAN_MODES, IPVLAN_MODES, ..."""

    kind: Literal["macvlan", "ipvlan"]
    mode: str
    flag: str = "bridge"


@dataclass(frozen=True, slots=True)
class _Link:
    """A veth pair from sandbox to bridge, up on both sides, with no address yet."""

    bridge: str
    ifname: str
    host_ifname: str
    mtu: int


def mac_of(address: IPv4Address) -> str:
    """Docker's derivation: an address always has the same MAC, so no neighbour's ARP cache goes stale."""
    return "02:42:" + address.packed.hex(":")


def _checked_mac(mac: str | None, address: IPv4Interface | None, address6: IPv6Interface | None) -> str:
    if mac is None and address is None:
        return "02:42:" + (address6.ip.packed[-4:] if address6 else secrets.token_bytes(4)).hex(":")
    if mac is None:
        assert address
        return mac_of(address.ip)
    if not _MAC.fullmatch(mac):
        raise InvalidParameter(f"invalid MAC address {mac!r}: write six bytes as in 02:42:ac:11:00:02.")
    return mac.lower()


class Closeable(Protocol):
    def close(self) -> None: ...


class Sandbox:
    """A network namespace and the means to configure it. One caller at a time; a context manager."""

    def __init__(self, netns_fd: int, route_inside: NetlinkSocket) -> None:
        """Takes both over. `route_inside` was opened within the namespace, and works on it from anywhere."""
        self._netns_fd = netns_fd
        self._route_inside = route_inside
        self._prepared: _Link | None = None
        self.furniture: Closeable | None = None  # what a pool made ahead within it

    @property
    def fd(self) -> int:
        """For setns(2); the sandbox owns it."""
        return self._netns_fd

    def prepare(self, bridge: str, ifname: str = DEFAULT_IFNAME, mtu: int = DEFAULT_MTU) -> None:
        """Do ahead the slow part of `attach`: all that needs no address."""
        with kernel_faults_explained(f"connect a sandbox to the bridge {bridge}"):
            self._prepared = self._connect(bridge, ifname, mtu)

    def attach(
        self,
        bridge: str,
        address: IPv4Interface | None,
        gateway: IPv4Address | None,
        mac: str | None = None,
        ifname: str = DEFAULT_IFNAME,
        mtu: int = DEFAULT_MTU,
        *,
        address6: IPv6Interface | None = None,
        gateway6: IPv6Address | None = None,
        isolated: bool = False,
    ) -> Endpoint:
        """Give the sandbox an interface on the bridge. `mac` None means `mac_of` the address.

        `isolated`: it reaches the bridge, but no other isolated port of it; where br_netfilter bridges what was
        translated, not by a port published on the host either. Raises Conflict if it has an interface
        of that name, InvalidParameter if `mac` is none; leaves no interface behind when it fails.
        """
        mac = _checked_mac(mac, address, address6)
        with kernel_faults_explained(f"connect a sandbox to the bridge {bridge} as {address or address6}"):
            link = self._take_prepared(bridge, ifname, mtu) or self._connect(bridge, ifname, mtu)
            with ExitStack() as undo:
                undo.callback(self._delete_link, ifname)
                if isolated:
                    with NetlinkSocket() as route:
                        route.change(netlink.set_isolated_port(link.host_ifname))
                self._configure(ifname, address, address6, mac, [gateway, gateway6])
                undo.pop_all()
        return Endpoint(bridge, ifname, link.host_ifname, address, address6, mac)

    def attach_vlan(
        self,
        vlan: VlanKind,
        parent: str,
        address: IPv4Interface | None,
        address6: IPv6Interface | None,
        mac: str | None,
        ifname: str,
        mtu: int = 0,
    ) -> Endpoint:
        """Give the sandbox a macvlan or ipvlan on an interface of the host; its routes come by `set_default_route`.

        An ipvlan has its parent's MAC address. Raises Conflict, InvalidParameter, NotSupported as `attach`.
        """
        with kernel_faults_explained(f"connect a sandbox to {parent} by {vlan.kind}"), ExitStack() as undo:
            parent_index = socket.if_nametoindex(parent)
            temporary = "wherry" + secrets.token_hex(5)[:9]  # no name of the host's namespace, where it is checked
            if vlan.kind == "macvlan":
                mac = _checked_mac(mac, address, address6)
                create = netlink.create_macvlan(temporary, parent_index, vlan.mode, self._netns_fd, mtu)
            else:
                mac = None
                create = netlink.create_ipvlan(temporary, parent_index, vlan.mode, vlan.flag, self._netns_fd, mtu)
            with NetlinkSocket() as route:
                route.change(create)
            undo.callback(self._delete_link, temporary)
            try:
                self._route_inside.change(netlink.rename_link(self._route_inside.link(temporary).index, ifname))
            except FileExistsError as error:
                raise Conflict(f"The sandbox has an interface {ifname} already; disconnect it first.") from error
            undo.callback(self._delete_link, ifname)
            self._route_inside.change(netlink.set_link(ifname, up=True))
            self._configure(ifname, address, address6, mac, [])
            mac = self._route_inside.link(ifname).mac
            undo.pop_all()
        return Endpoint(parent, ifname, "", address, address6, mac)

    def detach(self, ifname: str) -> None:
        """Take an interface from a sandbox that lives on; no error if gone. Takes the kernel 20-30 ms."""
        with kernel_faults_explained(f"disconnect the interface {ifname} of a sandbox"):
            self._delete_link(ifname)

    def interfaces(self) -> set[str]:
        """Their names, lo among them."""
        with kernel_faults_explained("list the interfaces of a sandbox"):
            return {link.name for link in self._route_inside.links()}

    def set_default_route(self, ifname: str, version: int, gateway: IPv4Address | IPv6Address | None) -> None:
        """Make `ifname` the way out for IP version 4 or 6; `gateway` None: everything is on the link itself."""
        with kernel_faults_explained(f"set the default route of a sandbox to {gateway or ifname}"):
            for link in self._route_inside.links():
                self._delete_default_route(link.index, version)
            index = self._route_inside.link(ifname).index
            if gateway is None:
                self._route_inside.change(netlink.add_default_route_by_link(index, version))
            else:
                self._route_inside.change(netlink.add_default_route(index, gateway))

    def unset_default_route(self, version: int) -> None:
        with kernel_faults_explained("remove the default route of a sandbox"):
            for link in self._route_inside.links():
                self._delete_default_route(link.index, version)

    def _delete_default_route(self, index: int, version: int) -> None:
        try:
            self._route_inside.change(netlink.delete_default_route(index, version))
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.ENODEV, errno.ENETDOWN):
                raise

    def close(self) -> None:
        """Let go of the namespace: it dies now, or with the last process in it."""
        if self.furniture:
            self.furniture.close()
            self.furniture = None
        self._route_inside.close()
        if self._netns_fd >= 0:
            os.close(self._netns_fd)
            self._netns_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_prepared(self, bridge: str, ifname: str, mtu: int) -> _Link | None:
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            return None
        if (prepared.bridge, prepared.ifname, prepared.mtu) == (bridge, ifname, mtu):
            return prepared
        self._delete_link(prepared.ifname)
        return None

    def _connect(self, bridge: str, ifname: str, mtu: int) -> _Link:
        host_ifname = "wherry" + secrets.token_hex(5)[:9]
        near = VethEnd(host_ifname, mtu=mtu, master_index=socket.if_nametoindex(bridge))
        far = VethEnd(ifname, mtu=mtu, netns_fd=self._netns_fd)
        with NetlinkSocket() as route, ExitStack() as undo:
            try:
                route.change(netlink.create_veth(near, far))
            except FileExistsError as error:
                raise Conflict(f"The sandbox has an interface {ifname} already; disconnect it first.") from error
            undo.callback(route.change, netlink.delete_link(host_ifname))
            # In this order: IPv6 makes its address when the link comes up. Hairpin: with br_netfilter a container's
            # packet to its own published port is bridged, not routed.
            no_ipv6 = [netlink.set_no_ipv6_link_local(host_ifname)] if has_ipv6() else []
            route.change(*no_ipv6, netlink.set_hairpin(host_ifname), netlink.set_link(host_ifname, up=True))
            self._route_inside.change(netlink.set_link(ifname, up=True))
            undo.pop_all()
        return _Link(bridge, ifname, host_ifname, mtu)

    def _configure(
        self,
        ifname: str,
        address: IPv4Interface | None,
        address6: IPv6Interface | None,
        mac: str | None,
        gateways: Iterable[IPv4Address | IPv6Address | None],
    ) -> None:
        index = self._route_inside.link(ifname).index
        requests = []
        if address6:
            self.run_inside(lambda: write_sysctl(f"ipv6/conf/{ifname}/disable_ipv6", 0))
            requests.append(netlink.add_address(index, address6))
        if address:
            requests.append(netlink.add_address(index, address))
        if mac:
            # After the address: setting the MAC announces both to the bridge (arp_notify), which may still
            # send to the port of the address's last owner.
            requests.append(netlink.set_link(ifname, mac=mac))
        requests += [netlink.add_default_route(index, gateway) for gateway in gateways if gateway is not None]
        self._route_inside.change(*requests)

    def add_addresses(self, ifname: str, addresses: Iterable[IPv4Interface | IPv6Interface]) -> None:
        with kernel_faults_explained(f"add addresses to the interface {ifname} of a sandbox"):
            index = self._route_inside.link(ifname).index
            self._route_inside.change(*(netlink.add_address(index, address) for address in addresses))

    def run_inside(self, work: Callable[[], _Result]) -> _Result:
        """In a thread that enters the namespace: for what netlink cannot do."""

        def entered() -> _Result:
            setns(self._netns_fd, CLONE_NEWNET)
            return work()

        return _in_own_thread(entered)

    def write_sysctls(self, settings: Mapping[str, str]) -> None:
        """Kernel settings below net, by dotted name: "net.ipv4.conf.eth0.forwarding". Raises InvalidParameter."""

        def write() -> None:
            for name, value in settings.items():
                path = Path("/proc/sys") / name.replace(".", "/")
                try:
                    path.write_text(value)
                except OSError as error:
                    raise InvalidParameter(f"cannot set sysctl {name} to {value}: {error.strerror}") from error

        self.run_inside(write)

    def _delete_link(self, ifname: str) -> None:
        try:
            self._route_inside.change(netlink.delete_link(ifname))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def create_sandbox() -> Sandbox:
    """A new network namespace with its loopback up (127.0.0.1 and ::1)."""
    with kernel_faults_explained("create a network namespace"):
        return _in_own_thread(_new_sandbox)


def open_sandbox(netns: Path) -> Sandbox:
    """The sandbox a running container is in, from /proc/PID/ns/net."""
    with kernel_faults_explained(f"open the network namespace {netns}"):
        return _in_own_thread(lambda: _existing_sandbox(netns))


def _in_own_thread(work: Callable[[], _Result]) -> _Result:
    """Run `work` in a thread that ends with it: no other thread ever sees the wrong network namespace."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="wherry-netns") as executor:
        return executor.submit(work).result()


def _new_sandbox() -> Sandbox:
    unshare(CLONE_NEWNET)
    # Inherited by the interfaces to come; lo exists already and keeps ::1.
    if has_ipv6():
        write_sysctl("ipv6/conf/default/disable_ipv6", 1)
    write_sysctl("ipv4/conf/default/arp_notify", 1)
    with NetlinkSocket() as route:
        route.change(netlink.set_link("lo", up=True))
    return _sandbox_of_this_thread()


def _existing_sandbox(netns: Path) -> Sandbox:
    enter_path(netns, CLONE_NEWNET)
    return _sandbox_of_this_thread()


def _sandbox_of_this_thread() -> Sandbox:
    with ExitStack() as undo:
        netns_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, netns_fd)
        sandbox = Sandbox(netns_fd, NetlinkSocket())
        undo.pop_all()
    return sandbox


class SandboxPool:
    """Keeps `size` sandboxes ready, made by a background thread. Thread-safe."""

    def __init__(
        self,
        bridge: str | None,
        size: int,
        mtu: int = DEFAULT_MTU,
        furnish: Callable[[], Closeable] | None = None,
    ) -> None:
        """They are connected to `bridge`, if one is given; `furnish`, called within them, makes their furniture."""
        self._bridge = bridge
        self._furnish = furnish
        self._size = size
        self._mtu = mtu
        self._ready: deque[Sandbox] = deque()
        self._changed = threading.Condition()
        self._wanted = True
        self._closing = False
        self._thread = threading.Thread(target=self._fill, name="wherry-sandboxes", daemon=True)
        self._thread.start()

    def take(self) -> Sandbox:
        """A sandbox, now the caller's: a ready one, or else a new one. `attach` it as any other."""
        with self._changed:
            sandbox = self._ready.popleft() if self._ready else None
            self._wanted = True
            self._changed.notify_all()
        return sandbox or create_sandbox()

    def wait_full(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self._ready) >= self._size, timeout_s)

    def close(self) -> None:
        """Stop the thread and free every sandbox not taken."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        while self._ready:
            self._ready.popleft().close()

    def _fill(self) -> None:
        while self._wait_until_wanted():
            try:
                sandbox = self._make()
            except (WherryError, OSError):
                # Whoever takes next makes its own and gets this error in its own words; then we try again.
                _log.warning("cannot prepare network sandboxes ahead", exc_info=True)
                with self._changed:
                    self._wanted = False
                continue
            with self._changed:
                self._ready.append(sandbox)
                self._changed.notify_all()

    def _wait_until_wanted(self) -> bool:
        """False when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or (self._wanted and len(self._ready) < self._size))
            if self._ready:
                self._changed.wait_for(lambda: self._closing, PAUSE_S)
            return not self._closing

    def _make(self) -> Sandbox:
        with ExitStack() as undo:
            sandbox = create_sandbox()
            undo.callback(sandbox.close)
            if self._bridge is not None:
                sandbox.prepare(self._bridge, mtu=self._mtu)
            if self._furnish is not None:
                with kernel_faults_explained("furnish a sandbox"):
                    sandbox.furniture = sandbox.run_inside(self._furnish)
            undo.pop_all()
        return sandbox
