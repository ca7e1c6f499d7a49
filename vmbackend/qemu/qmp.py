"""QEMU's monitor. QEMU connects to a listener of ours, which closes after the first connection, and listens for the
hostagent that may come after us.
"""

import asyncio
import os
import re
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, QMPClient, QMPError, Runstate

from vmbackend.errors import MachineError, StartFailed

_SSH_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)\s")


class MonitorError(MachineError):
    """QEMU refused a command, or is gone."""


class Monitor:
    """A QMP session. Methods raise MonitorError."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    @property
    def version(self) -> tuple[int, ...]:
        """QEMU's version, such as (7, 2, 22)."""
        assert self._client.greeting is not None, "a monitor is made of a client that was greeted"
        numbers: Any = self._client.greeting.QMP.version["qemu"]
        return (numbers["major"], numbers["minor"], numbers["micro"])

    @classmethod
    async def accept(cls, listener: socket.socket) -> "Monitor":
        """Wait for QEMU on `listener` and negotiate; the listener stays the caller's. Raises StartFailed."""
        stream = await accept_once(listener)
        client = QMPClient("wherry")
        try:
            await client.connect(stream)
        except QMPError as error:
            raise StartFailed(f"QEMU's monitor did not answer as it should ({error})") from error
        return cls(client)

    @classmethod
    async def connect(cls, path: Path) -> "Monitor":
        """Connect to a socket on which QEMU listens. Raises StartFailed."""
        client = QMPClient("wherry")
        try:
            await client.connect(os.fspath(path))
        except QMPError as error:
            raise StartFailed(f"QEMU's monitor did not answer as it should ({error})") from error
        return cls(client)

    async def wait_lost(self) -> None:
        """Until the session has ended, most often because QEMU has."""
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()

    def events(self, name: str) -> AbstractContextManager[EventListener]:
        """The events of that name while inside the block."""
        return self._client.listener(name)

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        try:
            return await self._client.execute(command, arguments)
        except QMPError as error:
            raise MonitorError(f"QEMU refused `{command}` ({error})") from error

    async def human(self, line: str) -> str:
        """Run a command of the human monitor, for what QMP has no command of its own; returns its output."""
        try:
            answer = await self._client.execute("human-monitor-command", {"command-line": line})
        except QMPError as error:
            raise MonitorError(f"QEMU refused `{line}` ({error})") from error
        return str(answer).strip()

    async def forwarded_port(self, guest_port: int) -> int:
        """The host port QEMU picked for a guest port forwarded from the start."""
        table = await self.human("info usernet")
        for host_port, port in _SSH_FORWARD.findall(table):
            if int(port) == guest_port:
                return int(host_port)
        raise MonitorError(f"QEMU forwards no port to the guest's port {guest_port}")

    async def open_loopback_port(self, netdev: str, guest_address: str, guest_port: int) -> int:
        """A port on this computer's loopback that leads to a port of the guest; one that is there already is kept."""
        try:
            return await self.forwarded_port(guest_port)
        except MonitorError:
            complaint = await self.human(f"hostfwd_add {netdev} tcp:127.0.0.1:0-{guest_address}:{guest_port}")
            if complaint:
                raise MonitorError(f"QEMU does not forward a port to the guest's {guest_port} ({complaint})") from None
            return await self.forwarded_port(guest_port)

    async def close(self) -> None:
        """End the session; QEMU may be gone already."""
        try:
            await self._client.disconnect()
        except (QMPError, OSError, EOFError):
            pass


async def accept_once(listener: socket.socket) -> socket.socket:
    """One connection from a listening socket, as a non-blocking socket."""
    listener.setblocking(False)
    stream, _ = await asyncio.get_running_loop().sock_accept(listener)
    stream.setblocking(False)
    return stream
