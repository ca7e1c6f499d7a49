"""Reserves ports of the desktop, for an engine in a virtual machine.

What `ports.PortAllocator` does for the computer the engine runs on. Every port leads to one of this kernel, its entry:
of the same number where that is free, so that both sides look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from socket import socket

from runtime.network.nat import ANY_ADDRESS, Protocol
from runtime.network.port_broker import DesktopPort, PortBroker
from runtime.network.ports import Address, PortReservation, PortTable, PortTaken, hold


class DesktopPorts:
    """`broker` has been started."""

    def __init__(self, broker: PortBroker) -> None:
        self._broker = broker
        self._table = PortTable()

    async def reserve(
        self,
        protocol: Protocol,
        addresses: Sequence[Address] | None,
        host_port: int = 0,
        last_host_port: int | None = None,
        leads_to: str = "",
    ) -> list[PortReservation]:
        """As `PortAllocator.reserve`; `addresses` None: those the desktop has for this. Raises Unavailable too."""
        addresses = addresses or await self._broker.default_addresses()
        taken: PortTaken | None = None
        for port in self._table.candidates(host_port, last_host_port):
            try:
                return await self._reserve(protocol, addresses, port, leads_to)
            except PortTaken as conflict:
                taken = conflict
        assert taken is not None, "there was a candidate"
        raise taken

    def restore(
        self, protocol: Protocol, address: Address, host_port: int, entry_port: int, with_entry: bool
    ) -> PortReservation:
        """Take over what an engine before this one reserved. Raises what `hold` raises; the desktop's port is ours."""
        self._table.claim(protocol, address, host_port)
        self._broker.keep(DesktopPort(protocol, str(address), host_port, entry_port))
        holder = hold(protocol, ANY_ADDRESS, entry_port, str(entry_port)) if with_entry else None
        return PortReservation(protocol, address, host_port, holder, self, entry_port)

    def forget(self, reservation: PortReservation) -> None:
        protocol, address, port = reservation.protocol, reservation.host_address, reservation.host_port
        self._table.forget(protocol, address, port)
        self._broker.close(DesktopPort(protocol, str(address), port, reservation.entry_port))

    async def _reserve(
        self, protocol: Protocol, addresses: Sequence[Address], port: int, leads_to: str
    ) -> list[PortReservation]:
        with ExitStack() as undo:
            for address in addresses:
                self._table.claim(protocol, address, port)
                undo.callback(self._table.forget, protocol, address, port)
            holder, entry_port = _entry(protocol, port)
            if holder:
                undo.callback(holder.close)
            reservations: list[PortReservation] = []
            for address in addresses:
                desktop_port = DesktopPort(protocol, str(address), port, entry_port)
                await self._broker.open(desktop_port, leads_to)
                undo.callback(self._broker.close, desktop_port)
                # The first has the entry, for all of them.
                reservations.append(
                    PortReservation(protocol, address, port, None if reservations else holder, self, entry_port)
                )
            undo.pop_all()
        return reservations


def _entry(protocol: Protocol, port: int) -> tuple[socket | None, int]:
    try:
        holder = hold(protocol, ANY_ADDRESS, port, str(port))
    except PortTaken:  # by somebody in this kernel; the desktop's port is what counts
        holder = hold(protocol, ANY_ADDRESS, 0, "any port")
    return holder, holder.getsockname()[1] if holder else port
