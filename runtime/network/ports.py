"""Reserves host ports for containers, so that nothing else takes them and a taken one is an error at once.

A reservation is a socket bound to the port, listening if TCP. Packets for a published port mostly never reach it:
`NatTable` sends them on before the host looks for a socket. Where that cannot be, between IPv6 and IPv4, the socket is
a real one, for `userland`. A kernel without SCTP sockets still translates SCTP; there, our own table is all.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Self

from runtime.errors import Conflict, InvalidParameter, PermissionDenied, SystemFault, WherryError
from runtime.network.nat import Protocol
from runtime.network.port_owner import owner_of_port

Address = IPv4Address | IPv6Address

# Linux's default net.ipv4.ip_local_port_range, and Docker's fallback.
EPHEMERAL_PORTS = range(32768, 61000)

_LOCAL_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SOCKET_KINDS: dict[Protocol, tuple[socket.SocketKind, int]] = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


class PortTaken(Conflict):
    """`by_us`: a container of this engine has the port."""

    def __init__(self, message: str, by_us: bool) -> None:
        super().__init__(message)
        self.by_us = by_us


@dataclass(frozen=True, slots=True)
class PortReservation:
    """A host port held until `close`. A context manager. `holder` is None where the kernel has no such sockets."""

    protocol: Protocol
    host_address: Address
    host_port: int
    holder: socket.socket | None
    allocator: PortAllocator

    def close(self) -> None:
        if self.holder is not None:
            self.holder.close()
        self.allocator.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PortAllocator:
    """Reserves ports in the calling thread's network namespace. One caller at a time.

    Ephemeral ports are handed out in turn, so that whoever still calls one just released meets nobody else
    there.
    """

    def __init__(self, ephemeral: range | None = None) -> None:
        """`ephemeral` None: the host's own range."""
        self._ephemeral = ephemeral or _local_port_range()
        self._next_offset = 0
        self._held: dict[tuple[Protocol, int], set[Address]] = {}

    def reserve(
        self,
        protocol: Protocol,
        addresses: Sequence[Address],
        host_port: int = 0,
        last_host_port: int | None = None,
        leads_to: str = "",
    ) -> list[PortReservation]:
        """Reserve `host_port`, or the first up to `last_host_port`, that is free on all of the addresses.

        Port 0 is any ephemeral one. `leads_to` is for the message. Raises PortTaken, InvalidParameter if an address
        is not the host's, PermissionDenied.
        """
        if host_port == 0:
            reservations = self._first_free(protocol, addresses, self._ephemeral_in_turn(), leads_to)
            self._next_offset = reservations[0].host_port - self._ephemeral.start + 1
            return reservations
        ports = range(host_port, (last_host_port or host_port) + 1)
        return self._first_free(protocol, addresses, ports, leads_to)

    def forget(self, reservation: PortReservation) -> None:
        key = (reservation.protocol, reservation.host_port)
        addresses = self._held.get(key, set())
        addresses.discard(reservation.host_address)
        if not addresses:
            self._held.pop(key, None)

    def _ephemeral_in_turn(self) -> Iterable[int]:
        size = len(self._ephemeral)
        return (self._ephemeral[(self._next_offset + step) % size] for step in range(size))

    def _first_free(
        self, protocol: Protocol, addresses: Sequence[Address], ports: Iterable[int], leads_to: str
    ) -> list[PortReservation]:
        taken: PortTaken | None = None
        port = 0
        for port in ports:
            try:
                with ExitStack() as undo:
                    reservations = [
                        undo.enter_context(self._reserve(protocol, address, port, leads_to)) for address in addresses
                    ]
                    undo.pop_all()
                return reservations
            except PortTaken as conflict:
                taken = conflict
        if taken is None:
            raise InvalidParameter("The range of host ports is empty: its last port is below its first.")
        if not taken.by_us and (owner := owner_of_port(protocol, port)):
            raise PortTaken(f"{taken}; {owner} has it", by_us=False)
        raise taken

    def _reserve(self, protocol: Protocol, address: Address, port: int, leads_to: str) -> PortReservation:
        held = self._held.get((protocol, port), set())
        if any(_overlap(address, other) for other in held):
            raise PortTaken(f"Bind for {address}:{port} failed: port is already allocated", by_us=True)
        where = ":".join(filter(None, (socket_address(address, port), leads_to))) + f"/{protocol}"
        reservation = PortReservation(protocol, address, port, _hold(protocol, address, port, where), self)
        self._held.setdefault((protocol, port), set()).add(address)
        return reservation


def socket_address(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _overlap(one: Address, other: Address) -> bool:
    return one.version == other.version and (one == other or one.is_unspecified or other.is_unspecified)


def _local_port_range() -> range:
    try:
        first, last = map(int, _LOCAL_PORT_RANGE.read_text().split())
    except (OSError, ValueError):
        return EPHEMERAL_PORTS
    return range(first, last + 1)


def _hold(protocol: Protocol, address: Address, port: int, where: str) -> socket.socket | None:
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    kind, number = _SOCKET_KINDS[protocol]
    try:
        with ExitStack() as undo:
            holder = undo.enter_context(socket.socket(family, kind, number))
            if family == socket.AF_INET6:
                holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol == "tcp":
                # Allows for connections of an earlier owner in TIME_WAIT; a listening one still conflicts.
                # For UDP it would allow two owners.
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((str(address), port))
            if protocol != "udp":
                holder.listen()
            undo.pop_all()
    except OSError as error:
        if protocol == "sctp" and error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            return None
        raise _explained(error, where) from error
    return holder


def _explained(error: OSError, where: str) -> WherryError:
    """Docker's phrases, which tools look for, with the remedy."""
    failed = f"failed to bind host port for {where}"
    match error.errno:
        case errno.EADDRINUSE:
            return PortTaken(f"{failed}: address already in use", by_us=False)
        case errno.EADDRNOTAVAIL:
            return InvalidParameter(f"{failed}: cannot assign requested address; this host has no such address.")
        case errno.EACCES:
            return PermissionDenied(f"{failed}: permission denied; ports below 1024 need CAP_NET_BIND_SERVICE.")
        case _:
            return SystemFault(f"{failed}: {error.strerror}.")
