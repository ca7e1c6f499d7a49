"""Netlink: the socket protocol by which the kernel's network configuration is read and changed.

Sources: netlink(7), rtnetlink(7), linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.

Three parts, top to bottom: the attribute codec, requests as plain data (`create_veth`, `add_address`, ...),
and `NetlinkSocket`, which sends them. A socket belongs for life to the network namespace of the thread that
opened it, so one opened inside a namespace configures that namespace from anywhere.

Failures are `OSError` with the kernel's errno, its extended acknowledgement text when it gave one, and the
object the request was about as `filename`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from types import TracebackType
from typing import Self

IpAddress = IPv4Address | IPv6Address
IpInterface = IPv4Interface | IPv6Interface
IpNetwork = IPv4Network | IPv6Network

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

NLMSGERR_ATTR_MSG = 1

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26

IFF_UP = 0x1

IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_AF_SPEC = 26
IFLA_NET_NS_FD = 28
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_INFO_SLAVE_KIND = 4
IFLA_INFO_SLAVE_DATA = 5
IFLA_BRPORT_MODE = 4
IFLA_BRPORT_ISOLATED = 33
IFLA_MACVLAN_MODE = 1
IFLA_IPVLAN_MODE = 1
IFLA_IPVLAN_FLAGS = 2
IFLA_VLAN_ID = 1
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
VETH_INFO_PEER = 1

IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_BROADCAST = 4
IFA_F_NODAD = 0x02

RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RT_SCOPE_NOWHERE = 255
RTN_UNICAST = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_U32 = struct.Struct("=I")
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, device type, index, flags, change mask
_IFADDR = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags

# The kernel fills dump datagrams up to 32 KiB (netlink_dump()).
_RECEIVE_SIZE_BYTES = 64 * 1024


# --- attributes --------------------------------------------------------------------------------


def attribute(kind: int, value: bytes) -> bytes:
    """One nlattr with its padding to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attribute_u32(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value))


def attribute_text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """Attribute type (flags taken off) to value; of several with one type the last counts (nla_parse())."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            raise OSError(errno.EBADMSG, "a netlink attribute is shorter than its own header")
        found[kind & NLA_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + (-length % 4)
    return found


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _u32(value: bytes) -> int:
    return int(_U32.unpack(value)[0])


# --- requests --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One netlink message to be: `kind` is the message type (RTM_*), `subject` names the object in errors."""

    kind: int
    body: bytes
    flags: int
    subject: str


@dataclass(frozen=True, slots=True)
class VethEnd:
    """One end of a veth pair. `netns_fd` None means the namespace of the socket the request is sent on."""

    name: str
    netns_fd: int | None = None
    mtu: int | None = None
    master_index: int | None = None


def create_veth(near: VethEnd, far: VethEnd) -> Request:
    """A veth pair, each end made in its own namespace from the start (VETH_INFO_PEER, linux/veth.h).

    Both come down: no end can be brought up before the pair is complete (ENOTCONN from veth_open()).
    """
    peer = nested(VETH_INFO_PEER, _veth_end(far))
    body = _veth_end(near) + nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "veth"), nested(IFLA_INFO_DATA, peer))
    return Request(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, f"veth {near.name}")


def _veth_end(end: VethEnd) -> bytes:
    body = _link_named(end.name)
    if end.netns_fd is not None:
        body += attribute_u32(IFLA_NET_NS_FD, end.netns_fd)
    if end.mtu is not None:
        body += attribute_u32(IFLA_MTU, end.mtu)
    if end.master_index is not None:
        body += attribute_u32(IFLA_MASTER, end.master_index)
    return body


def create_bridge(name: str, mac: str) -> Request:
    """A bridge with a fixed MAC address: otherwise it changes with every port that comes and goes."""
    body = (
        _link_named(name)
        + attribute(IFLA_ADDRESS, _mac_bytes(mac))
        + nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "bridge"))
    )
    return Request(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, f"bridge {name}")


def set_link(name: str, *, up: bool | None = None, mtu: int | None = None, mac: str | None = None) -> Request:
    """Change what is given, leave the rest."""
    body = _link_named(name, flags=IFF_UP if up else 0, change=IFF_UP if up is not None else 0)
    if mtu is not None:
        body += attribute_u32(IFLA_MTU, mtu)
    if mac is not None:
        body += attribute(IFLA_ADDRESS, _mac_bytes(mac))
    return Request(RTM_SETLINK, body, 0, f"link {name}")


def set_master(name: str, master_index: int) -> Request:
    return Request(RTM_SETLINK, _link_named(name) + attribute_u32(IFLA_MASTER, master_index), 0, f"link {name}")


def rename_link(index: int, name: str) -> Request:
    """EBUSY while the link is up, EEXIST if the name is taken."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute_text(IFLA_IFNAME, name)
    return Request(RTM_SETLINK, body, 0, f"link {name}")


def set_hairpin(name: str) -> Request:
    """Let a bridge send a frame back out of the port it came in by (IFLA_BRPORT_MODE)."""
    body = _link_named(name) + nested(
        IFLA_LINKINFO,
        attribute_text(IFLA_INFO_SLAVE_KIND, "bridge"),
        nested(IFLA_INFO_SLAVE_DATA, attribute(IFLA_BRPORT_MODE, b"\x01")),
    )
    return Request(RTM_NEWLINK, body, 0, f"bridge port {name}")


def set_isolated_port(name: str) -> Request:
    """Let a bridge port exchange frames with the bridge itself only (IFLA_BRPORT_ISOLATED, Linux 4.18)."""
    body = _link_named(name) + nested(
        IFLA_LINKINFO,
        attribute_text(IFLA_INFO_SLAVE_KIND, "bridge"),
        nested(IFLA_INFO_SLAVE_DATA, attribute(IFLA_BRPORT_ISOLATED, b"\x01")),
    )
    return Request(RTM_NEWLINK, body, 0, f"bridge port {name}")


# linux/if_link.h: enum macvlan_mode, enum ipvlan_mode and the IPVLAN_F_ flags.
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


def create_macvlan(name: str, parent_index: int, mode: str, netns_fd: int | None = None, mtu: int = 0) -> Request:
    """`mode` is a key of MACVLAN_MODES; the link is made in the namespace of `netns_fd`, if one is given."""
    data = attribute_u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
    return _create_on_parent("macvlan", name, parent_index, data, netns_fd, mtu)


def create_ipvlan(
    name: str, parent_index: int, mode: str, flag: str = "bridge", netns_fd: int | None = None, mtu: int = 0
) -> Request:
    """`mode` is a key of IPVLAN_MODES, `flag` one of IPVLAN_FLAGS."""
    data = attribute(IFLA_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[mode]))
    data += attribute(IFLA_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[flag]))
    return _create_on_parent("ipvlan", name, parent_index, data, netns_fd, mtu)


def create_vlan(name: str, parent_index: int, vlan_id: int) -> Request:
    """An 802.1Q sub-interface."""
    data = attribute(IFLA_VLAN_ID, struct.pack("=H", vlan_id))
    return _create_on_parent("vlan", name, parent_index, data, None, 0)


def _create_on_parent(kind: str, name: str, parent_index: int, data: bytes, netns_fd: int | None, mtu: int) -> Request:
    body = _link_named(name) + attribute_u32(IFLA_LINK, parent_index)
    if netns_fd is not None:
        body += attribute_u32(IFLA_NET_NS_FD, netns_fd)
    if mtu:
        body += attribute_u32(IFLA_MTU, mtu)
    body += nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, kind), nested(IFLA_INFO_DATA, data))
    return Request(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, f"{kind} {name}")


def create_dummy(name: str) -> Request:
    """An interface that reaches nothing: the parent of a network that has none."""
    body = _link_named(name) + nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "dummy"))
    return Request(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, f"dummy {name}")


def set_no_ipv6_link_local(name: str) -> Request:
    """Give the link no fe80:: address when it comes up. EAFNOSUPPORT where the kernel has no IPv6."""
    body = _link_named(name) + nested(
        IFLA_AF_SPEC,
        nested(socket.AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))),
    )
    return Request(RTM_SETLINK, body, 0, f"link {name}")


def delete_link(name: str) -> Request:
    body = _link_named(name)
    return Request(RTM_DELLINK, body, 0, f"link {name}")


def add_address(link_index: int, address: IpInterface) -> Request:
    """EEXIST if the link has it already. An IPv6 address is used at once: nobody else is asked (IFA_F_NODAD)."""
    flags = IFA_F_NODAD if address.version == 6 else 0
    body = (
        _IFADDR.pack(_family(address), address.network.prefixlen, flags, RT_SCOPE_UNIVERSE, link_index)
        + attribute(IFA_LOCAL, address.ip.packed)
        + attribute(IFA_ADDRESS, address.ip.packed)
    )
    if address.version == 4:
        body += attribute(IFA_BROADCAST, address.network.broadcast_address.packed)
    return Request(RTM_NEWADDR, body, NLM_F_CREATE | NLM_F_EXCL, f"address {address}")


def delete_address(link_index: int, address: IpInterface) -> Request:
    body = _IFADDR.pack(_family(address), address.network.prefixlen, 0, RT_SCOPE_UNIVERSE, link_index) + attribute(
        IFA_LOCAL, address.ip.packed
    )
    return Request(RTM_DELADDR, body, 0, f"address {address}")


def add_default_route(link_index: int, gateway: IPv4Address | IPv6Address) -> Request:
    """EEXIST if the main table has a default route of the same metric already."""
    body = _default_route(_family(gateway), link_index) + attribute(RTA_GATEWAY, gateway.packed)
    return Request(RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_EXCL, f"default route via {gateway}")


def add_default_route_by_link(link_index: int, version: int) -> Request:
    """A default route with no gateway: everything is asked for on the link itself (ipvlan in mode l3)."""
    body = _default_route(socket.AF_INET6 if version == 6 else socket.AF_INET, link_index, RT_SCOPE_LINK)
    return Request(RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_EXCL, f"default route by link {link_index}")


def delete_default_route(link_index: int, version: int) -> Request:
    """The link's default route of IP version 4 or 6; ESRCH if it has none."""
    body = _default_route(socket.AF_INET6 if version == 6 else socket.AF_INET, link_index, RT_SCOPE_NOWHERE)
    return Request(RTM_DELROUTE, body, 0, f"default route by link {link_index}")


def _default_route(family: int, link_index: int, scope: int = RT_SCOPE_UNIVERSE) -> bytes:
    header = _RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
    return header + attribute_u32(RTA_OIF, link_index)


def _family(address: IpAddress | IpInterface) -> int:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def _link_named(name: str, flags: int = 0, change: int = 0) -> bytes:
    """Index 0 makes the kernel look for the name."""
    return _IFINFO.pack(socket.AF_UNSPEC, 0, 0, flags, change) + attribute_text(IFLA_IFNAME, name)


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


# --- answers --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """`kind` is rtnetlink's ("bridge", "veth"), empty for hardware and lo; `master_index` 0 means none."""

    index: int
    name: str
    kind: str
    up: bool
    mtu: int
    mac: str
    master_index: int


def _parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    found = parse_attributes(body[_IFINFO.size :])
    info = parse_attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=_text(found[IFLA_IFNAME]),
        kind=_text(info.get(IFLA_INFO_KIND, b"")),
        up=bool(flags & IFF_UP),
        mtu=_u32(found[IFLA_MTU]),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        master_index=_u32(found.get(IFLA_MASTER, bytes(4))),
    )


class NetlinkSocket:
    """A netlink socket in the calling thread's network namespace; not for use by two threads at once."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            # Errors then carry the kernel's sentence, and acknowledgements do not repeat the whole request.
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        except OSError:
            self._socket.close()
            raise
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def change(self, *requests: Request) -> None:
        """Send all requests in one datagram; the kernel applies them in order.

        A failing request does not stop those after it. Raises the first failure, once all are answered.
        """
        if not requests:
            return
        awaited = {self._next_sequence(): request for request in requests}
        self._socket.send(b"".join(_message(request, NLM_F_ACK, sequence) for sequence, request in awaited.items()))
        failures: dict[int, OSError] = {}
        while awaited:
            for kind, flags, sequence, body in self._receive():
                if kind == NLMSG_ERROR and sequence in awaited:
                    failure = _failure(flags, body, awaited.pop(sequence).subject)
                    if failure is not None:
                        failures[sequence] = failure
        if failures:
            raise failures[min(failures)]

    def dump(self, request: Request) -> list[bytes]:
        """The bodies of all objects of the request's kind; asked again if they changed under the dump."""
        while True:
            bodies, consistent = self._dump_once(request)
            if consistent:
                return bodies

    def links(self) -> list[Link]:
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        return [_parse_link(found) for found in self.dump(Request(RTM_GETLINK, body, 0, "links"))]

    def link(self, name: str) -> Link:
        """ENODEV if there is none."""
        body = _link_named(name)
        return _parse_link(self._get(Request(RTM_GETLINK, body, 0, f"link {name}")))

    def addresses(self, link_index: int) -> list[IPv4Interface]:
        return [IPv4Interface(found) for found in self._addresses(socket.AF_INET, link_index)]

    def ipv6_addresses(self, link_index: int) -> list[IPv6Interface]:
        return [IPv6Interface(found) for found in self._addresses(socket.AF_INET6, link_index)]

    def _addresses(self, family: int, link_index: int) -> Iterator[tuple[bytes, int]]:
        """Packed address and prefix length; IPv6 has no IFA_LOCAL."""
        for body in self.dump(Request(RTM_GETADDR, _IFADDR.pack(family, 0, 0, 0, 0), 0, "addresses")):
            _, prefix_length, _, _, index = _IFADDR.unpack_from(body)
            if index == link_index:
                found = parse_attributes(body[_IFADDR.size :])
                yield found.get(IFA_LOCAL) or found[IFA_ADDRESS], prefix_length

    def routed_networks(self) -> list[IPv4Network]:
        """Destinations of all IPv4 unicast routes, of whatever table; 0.0.0.0/0 is left out."""
        return [IPv4Network(found) for found in self._destinations(socket.AF_INET)]

    def routed_ipv6_networks(self) -> list[IPv6Network]:
        return [IPv6Network(found) for found in self._destinations(socket.AF_INET6)]

    def _destinations(self, family: int) -> Iterator[tuple[bytes, int]]:
        wanted = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        for body in self.dump(Request(RTM_GETROUTE, wanted, 0, "routes")):
            _, prefix_length, _, _, _, _, _, kind, _ = _RTMSG.unpack_from(body)
            destination = parse_attributes(body[_RTMSG.size :]).get(RTA_DST)
            if kind == RTN_UNICAST and destination is not None:
                yield destination, prefix_length

    def _get(self, request: Request) -> bytes:
        sequence = self._next_sequence()
        self._socket.send(_message(request, 0, sequence))
        while True:
            for kind, flags, answered, body in self._receive():
                if answered != sequence:
                    continue
                if kind == NLMSG_ERROR:
                    failure = _failure(flags, body, request.subject)
                    raise failure or OSError(errno.EBADMSG, "no answer", request.subject)
                return body

    def _dump_once(self, request: Request) -> tuple[list[bytes], bool]:
        sequence = self._next_sequence()
        self._socket.send(_message(request, NLM_F_DUMP, sequence))
        bodies: list[bytes] = []
        consistent = True
        while True:
            for kind, flags, answered, body in self._receive():
                if answered != sequence:
                    continue
                consistent = consistent and not flags & NLM_F_DUMP_INTR
                if kind == NLMSG_DONE:
                    return bodies, consistent
                if kind == NLMSG_ERROR:
                    raise _failure(flags, body, request.subject) or OSError(errno.EBADMSG, "no answer", request.subject)
                bodies.append(body)

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The messages of one datagram: type, flags, sequence, body."""
        data = self._socket.recv(_RECEIVE_SIZE_BYTES)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                raise OSError(errno.EBADMSG, "a netlink message is shorter than its own header")
            yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
            offset += length + (-length % 4)


def _message(request: Request, flags: int, sequence: int) -> bytes:
    length = _HEADER.size + len(request.body)
    header = _HEADER.pack(length, request.kind, NLM_F_REQUEST | request.flags | flags, sequence, 0)
    return header + request.body + bytes(-length % 4)


def _failure(flags: int, body: bytes, subject: str) -> OSError | None:
    """The error in an nlmsgerr, None for an acknowledgement.

    Layout: int error, the request's header, its body too unless NLM_F_CAPPED, then attributes if
    NLM_F_ACK_TLVS.
    """
    number = -int(struct.unpack_from("=i", body)[0])
    if number == 0:
        return None
    sentence = os.strerror(number)
    if flags & NLM_F_ACK_TLVS:
        echoed_length = _HEADER.unpack_from(body, 4)[0]
        attributes_at = 4 + (_HEADER.size if flags & NLM_F_CAPPED else echoed_length + (-echoed_length % 4))
        explained = parse_attributes(body[attributes_at:]).get(NLMSGERR_ATTR_MSG)
        if explained is not None:
            sentence = f"{sentence} ({_text(explained)})"
    return OSError(number, sentence, subject)
