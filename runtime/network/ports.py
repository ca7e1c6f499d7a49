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
from typing import Protocol as Interface
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


class ReservationKeeper(Interface):
    def forget(self, reservation: PortReservation, /) -> None: ...


@dataclass(frozen=True, slots=True)
class PortReservation:
    """A host port held until `close`. A context manager. `holder` is None where the kernel has no such sockets.

    Where the host's ports are another computer's (`desktop_ports`), it leads from there to `entry_port` of this kernel,
    which is what `holder` holds; else that is 0.
    """

    protocol: Protocol
    host_address: Address
    host_port: int
    holder: socket.socket | None
    keeper: ReservationKeeper
    entry_port: int = 0

    def hang_up(self) -> None:
        """On the clients that came before packets were translated: `holder` took them, and would never answer."""
        if self.holder is not None and self.protocol == "tcp":
            self.holder.shutdown(socket.SHUT_RDWR)  # resets also those whose handshake has only begun; stays bound
            self.holder.listen()

    def close(self) -> None:
        if self.holder is not None:
            self.holder.close()
        self.keeper.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PortTable:
    """Which ports an engine's containers have, and which one comes next.

    Ephemeral ports are handed out in turn, so that whoever still calls one just released meets nobody else there.
    """

    def __init__(self, ephemeral: range | None = None) -> None:
        """`ephemeral` None: the kernel's own range."""
        self._ephemeral = ephemeral or _local_port_range()
        self._next_offset = 0
        self._held: dict[tuple[Protocol, int], set[Address]] = {}

    def candidates(self, host_port: int, last_host_port: int | None) -> Iterable[int]:
        """`host_port` and on, up to `last_host_port`; for port 0 all ephemeral ones. Raises InvalidParameter."""
        if host_port == 0:
            return self._ephemeral_in_turn()
        ports = range(host_port, (last_host_port or host_port) + 1)
        if not ports:
            raise InvalidParameter("The range of host ports is empty: its last port is below its first.")
        return ports

    def claim(self, protocol: Protocol, address: Address, port: int) -> None:
        """Raises PortTaken."""
        held = self._held.setdefault((protocol, port), set())
        if any(_overlap(address, other) for other in held):
            raise PortTaken(already_allocated(address, port), by_us=True)
        held.add(address)

    def forget(self, protocol: Protocol, address: Address, port: int) -> None:
        addresses = self._held.get((protocol, port), set())
        addresses.discard(address)
        if not addresses:
            self._held.pop((protocol, port), None)

    def _ephemeral_in_turn(self) -> Iterable[int]:
        size, start = len(self._ephemeral), self._next_offset
        for step in range(size):
            offset = (start + step) % size
            self._next_offset = offset + 1
            yield self._ephemeral[offset]


class PortAllocator:
    """Reserves ports in the calling thread's network namespace. One caller at a time."""

    def __init__(self, ephemeral: range | None = None) -> None:
        """`ephemeral` None: the host's own range."""
        self._table = PortTable(ephemeral)

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
        taken: PortTaken | None = None
        port = 0
        for port in self._table.candidates(host_port, last_host_port):
            try:
                with ExitStack() as undo:
                    reservations = [
                        undo.enter_context(self._reserve(protocol, address, port, leads_to)) for address in addresses
                    ]
                    undo.pop_all()
                return reservations
            except PortTaken as conflict:
                taken = conflict
        assert taken is not None, "there was a candidate"
        if not taken.by_us and (owner := owner_of_port(protocol, port)):
            raise PortTaken(f"{taken}; {owner} has it", by_us=False)
        raise taken

    def forget(self, reservation: PortReservation) -> None:
        self._table.forget(reservation.protocol, reservation.host_address, reservation.host_port)

    def _reserve(self, protocol: Protocol, address: Address, port: int, leads_to: str) -> PortReservation:
        with ExitStack() as undo:
            self._table.claim(protocol, address, port)
            undo.callback(self._table.forget, protocol, address, port)
            where = where_bound(protocol, address, port, leads_to)
            reservation = PortReservation(protocol, address, port, hold(protocol, address, port, where), self)
            undo.pop_all()
        return reservation


def already_allocated(address: Address, port: int) -> str:
    """Docker's phrase, which tools look for."""
    return f"Bind for {address}:{port} failed: port is already allocated"


def where_bound(protocol: Protocol, address: Address, port: int, leads_to: str) -> str:
    return ":".join(filter(None, (socket_address(address, port), leads_to))) + f"/{protocol}"


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


def hold(protocol: Protocol, address: Address, port: int, where: str) -> socket.socket | None:
    """A socket that has the port, 0 for any; `where` is for the message. None for SCTP where there are no such sockets.

    Raises PortTaken, InvalidParameter, PermissionDenied, SystemFault.
    """
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
                # `PortReservation.hang_up` would give back one that the kernel chose for this socket.
                port = port or _free_port(family, str(address))
            holder.bind((str(address), port))
            if protocol != "udp":
                holder.listen()
            undo.pop_all()
    except OSError as error:
        if protocol == "sctp" and error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            return None
        raise _explained(error, where) from error
    return holder


def _free_port(family: socket.AddressFamily, address: str) -> int:
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


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
