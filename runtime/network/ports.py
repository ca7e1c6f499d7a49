"""Reserves host ports for containers, so that nothing else takes them and a taken one is an error at once.

A reservation is a socket bound to the port, listening if TCP. Packets for a published port never reach it:
`NatTable` sends them on before the host looks for a socket. IPv6 is not translated; there the listening
socket is a real one, for `userland.serve_tcp`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from runtime.errors import Conflict, InvalidParameter, PermissionDenied, SystemFault, WherryError
from runtime.network.nat import ANY_ADDRESS, Protocol
from runtime.network.sysctl import has_ipv6

# Linux's default net.ipv4.ip_local_port_range, and Docker's fallback.
EPHEMERAL_PORTS = range(32768, 61000)

_ANY_IPV6_ADDRESS = IPv6Address("::")
_SOCKET_KINDS: dict[Protocol, socket.SocketKind] = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True, slots=True)
class PortReservation:
    """A host port held until `close`. A context manager.

    `ipv6_listener`, if any, is to be served by `userland.serve_tcp`. It stays the reservation's to close.
    """

    protocol: Protocol
    host_address: IPv4Address | IPv6Address
    host_port: int
    ipv4_holder: socket.socket | None
    ipv6_listener: socket.socket | None

    def close(self) -> None:
        for held in (self.ipv4_holder, self.ipv6_listener):
            if held is not None:
                held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PortAllocator:
    """Reserves ports in the calling thread's network namespace. Thread-safe: the kernel arbitrates.

    Ephemeral ports are handed out in turn, so that whoever still calls one just released meets nobody else
    there.
    """

    def __init__(self, ephemeral: range = EPHEMERAL_PORTS) -> None:
        self._ephemeral = ephemeral
        self._next_offset = 0

    def reserve(
        self,
        protocol: Protocol,
        host_address: IPv4Address | IPv6Address,
        host_port: int = 0,
        last_host_port: int | None = None,
    ) -> PortReservation:
        """Reserve `host_port`, or the first free one up to `last_host_port`; port 0 is any ephemeral one.

        On 0.0.0.0 a TCP port is reserved for IPv6 too, where the host has IPv6.
        Raises Conflict if taken, InvalidParameter if the address is not the host's, PermissionDenied.
        """
        if isinstance(host_address, IPv6Address) and protocol != "tcp":
            raise InvalidParameter(f"Cannot publish on {host_address}: over IPv6 only TCP ports can be published.")
        if host_port == 0:
            reservation = _first_free(protocol, host_address, self._ephemeral_in_turn())
            self._next_offset = reservation.host_port - self._ephemeral.start + 1
            return reservation
        return _first_free(protocol, host_address, range(host_port, (last_host_port or host_port) + 1))

    def _ephemeral_in_turn(self) -> Iterable[int]:
        size = len(self._ephemeral)
        return (self._ephemeral[(self._next_offset + step) % size] for step in range(size))


def _first_free(protocol: Protocol, host_address: IPv4Address | IPv6Address, ports: Iterable[int]) -> PortReservation:
    taken: Conflict | None = None
    for port in ports:
        try:
            return _reserve(protocol, host_address, port)
        except Conflict as conflict:
            taken = conflict
    raise taken or InvalidParameter("The range of host ports is empty: its last port is below its first.")


def _reserve(protocol: Protocol, host_address: IPv4Address | IPv6Address, port: int) -> PortReservation:
    if isinstance(host_address, IPv6Address):
        return PortReservation(protocol, host_address, port, None, _hold(protocol, host_address, port))
    with ExitStack() as undo:
        ipv4_holder = undo.enter_context(_hold(protocol, host_address, port))
        ipv6_listener = None
        if protocol == "tcp" and host_address == ANY_ADDRESS and has_ipv6():
            ipv6_listener = _hold(protocol, _ANY_IPV6_ADDRESS, port)
        undo.pop_all()
    return PortReservation(protocol, host_address, port, ipv4_holder, ipv6_listener)


def _hold(protocol: Protocol, address: IPv4Address | IPv6Address, port: int) -> socket.socket:
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    try:
        with ExitStack() as undo:
            holder = undo.enter_context(socket.socket(family, _SOCKET_KINDS[protocol]))
            if family == socket.AF_INET6:
                holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol == "tcp":
                # Allows for connections of an earlier owner in TIME_WAIT; a listening one still conflicts.
                # For UDP it would allow two owners.
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((str(address), port))
            if protocol == "tcp":
                holder.listen()
            undo.pop_all()
    except OSError as error:
        raise _explained(error, protocol, address, port) from error
    return holder


def _explained(error: OSError, protocol: Protocol, address: IPv4Address | IPv6Address, port: int) -> WherryError:
    """Docker's phrases, which tools look for, with the remedy."""
    failed = f"Bind for {address}:{port} failed"
    match error.errno:
        case errno.EADDRINUSE:
            return Conflict(
                "driver failed programming external connectivity: "
                f"{failed}: port is already allocated. Publish another host port, or stop what uses "
                f"{protocol} port {port} (`ss -l --{protocol} -np` shows it)."
            )
        case errno.EADDRNOTAVAIL:
            return InvalidParameter(f"{failed}: cannot assign requested address; this host has no such address.")
        case errno.EACCES:
            return PermissionDenied(f"{failed}: permission denied; ports below 1024 need CAP_NET_BIND_SERVICE.")
        case _:
            return SystemFault(f"{failed}: {error.strerror}.")
