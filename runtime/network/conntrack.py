"""Deletes entries of the connection tracking table, by ctnetlink (linux/netfilter/nfnetlink_conntrack.h).

A flow is translated as its first packet was: with no entry deleted, UDP senders that keep their source port
go on to reach the old target of an unpublished port, and never reach one published while they were sending.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from runtime.linux.netlink import (
    NETLINK_NETFILTER,
    IpAddress,
    IpNetwork,
    NetlinkSocket,
    Request,
    attribute,
    attribute_u32,
    nested,
    parse_attributes,
)

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET = NFNL_SUBSYS_CTNETLINK << 8 | 1
IPCTNL_MSG_CT_DELETE = NFNL_SUBSYS_CTNETLINK << 8 | 2

CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_ID = 12
CTA_FILTER = 25
CTA_TUPLE_IP = 1
CTA_TUPLE_PROTO = 2
CTA_IP_V4_SRC = 1
CTA_IP_V4_DST = 2
CTA_IP_V6_SRC = 3
CTA_IP_V6_DST = 4
CTA_PROTO_NUM = 1
CTA_PROTO_DST_PORT = 3
CTA_FILTER_ORIG_FLAGS = 1
CTA_FILTER_F_CTA_PROTO_NUM = 1 << 3
CTA_FILTER_F_CTA_PROTO_DST_PORT = 1 << 5

_NFGENMSG = struct.Struct("=BBH")  # nfgenmsg: family, version, resource id

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class _Flow:
    """A table entry: what names it to the kernel, the port that was asked, who asked whom, and who answers whom."""

    tuple_orig: bytes
    entry_id: bytes
    host_port: int
    asked: tuple[IpAddress, IpAddress]
    answered: tuple[IpAddress, IpAddress]

    @property
    def translated(self) -> bool:
        return self.answered != (self.asked[1], self.asked[0])


def forget_untranslated_udp_flows(host_port: int, version: int = 4) -> None:
    """For a port just published: its senders' next packet is translated."""
    _delete_udp_flows(_FAMILIES[version], host_port, lambda flow: not flow.translated)


def forget_udp_flows_answered_by(target: IpAddress, host_port: int) -> None:
    """For a port no longer published at `target`: its senders' next packet is not sent there."""
    _delete_udp_flows(_FAMILIES[target.version], host_port, lambda flow: flow.answered[0] == target)


def forget_stale_udp_flows(subnets: Collection[IpNetwork], published: Mapping[int, Collection[IpAddress]]) -> None:
    """For ports that are all published anew: flows that began under other rules begin again.

    `subnets` are those ports lead to, `published` the addresses that each UDP port of the host leads to, all of one
    IP version.
    """

    def is_stale(flow: _Flow) -> bool:
        if not flow.translated:
            return flow.host_port in published
        answering = flow.answered[0]
        return answering not in published.get(flow.host_port, ()) and any(answering in subnet for subnet in subnets)

    for version in {subnet.version for subnet in subnets}:
        _delete_udp_flows(_FAMILIES[version], None, is_stale)


def _delete_udp_flows(family: int, host_port: int | None, unwanted: Callable[[_Flow], bool]) -> None:
    with NetlinkSocket(NETLINK_NETFILTER) as conntrack:
        for flow in _udp_flows(conntrack, family, host_port):
            if unwanted(flow):
                _delete(conntrack, family, flow)


def _udp_flows(conntrack: NetlinkSocket, family: int, host_port: int | None) -> list[_Flow]:
    """Those to a port, or to any."""
    wanted = attribute(CTA_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
    flags = CTA_FILTER_F_CTA_PROTO_NUM
    if host_port is not None:
        wanted += attribute(CTA_PROTO_DST_PORT, host_port.to_bytes(2, "big"))
        flags |= CTA_FILTER_F_CTA_PROTO_DST_PORT
    body = (
        _NFGENMSG.pack(family, 0, 0)
        + nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_PROTO, wanted))
        + nested(CTA_FILTER, attribute_u32(CTA_FILTER_ORIG_FLAGS, flags))
    )
    entries = [
        parse_attributes(answer[_NFGENMSG.size :])
        for answer in conntrack.dump(Request(IPCTNL_MSG_CT_GET, body, 0, "conntrack entries"))
    ]
    # Kernels before 5.8 know no CTA_FILTER and send the whole table.
    flows = [_parse_flow(entry) for entry in entries if _protocol(entry)[CTA_PROTO_NUM][0] == socket.IPPROTO_UDP]
    return [flow for flow in flows if host_port in (None, flow.host_port)]


def _protocol(entry: dict[int, bytes]) -> dict[int, bytes]:
    return parse_attributes(parse_attributes(entry[CTA_TUPLE_ORIG])[CTA_TUPLE_PROTO])


def _parse_flow(entry: dict[int, bytes]) -> _Flow:
    return _Flow(
        tuple_orig=entry[CTA_TUPLE_ORIG],
        entry_id=entry[CTA_ID],
        host_port=int.from_bytes(_protocol(entry)[CTA_PROTO_DST_PORT], "big"),
        asked=_parse_addresses(entry[CTA_TUPLE_ORIG]),
        answered=_parse_addresses(entry[CTA_TUPLE_REPLY]),
    )


def _parse_addresses(conntrack_tuple: bytes) -> tuple[IpAddress, IpAddress]:
    """Source and destination."""
    found = parse_attributes(parse_attributes(conntrack_tuple)[CTA_TUPLE_IP])
    if CTA_IP_V6_SRC in found:
        return IPv6Address(found[CTA_IP_V6_SRC]), IPv6Address(found[CTA_IP_V6_DST])
    return IPv4Address(found[CTA_IP_V4_SRC]), IPv4Address(found[CTA_IP_V4_DST])


def _delete(conntrack: NetlinkSocket, family: int, flow: _Flow) -> None:
    body = _NFGENMSG.pack(family, 0, 0) + nested(CTA_TUPLE_ORIG, flow.tuple_orig) + attribute(CTA_ID, flow.entry_id)
    try:
        conntrack.change(Request(IPCTNL_MSG_CT_DELETE, body, 0, "conntrack entry"))
    except OSError as error:
        if error.errno != errno.ENOENT:  # expired meanwhile
            raise
