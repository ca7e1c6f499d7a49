"""Take over a QEMU whose hostagent was killed: its guest and its containers go on.

QEMU's first monitor was connected to that hostagent and takes no other. It listens with a second one on a socket in
the machine's private folder, and all else that a hostagent has to know is in QEMU's record.
"""

import asyncio
import logging
import re
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from vmbackend import host
from vmbackend.errors import MachineError
from vmbackend.machine import saved
from vmbackend.machine.guest import StartedQemu
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.prepare import Prepared
from vmbackend.machine.store import ProcessRecord
from vmbackend.qemu.argv import NETDEV, PORTS_CHARDEV, SHARES_CHARDEV
from vmbackend.qemu.process import AdoptedProcess
from vmbackend.qemu.qmp import Monitor, accept_once

_CONNECT_TIMEOUT_S = 5.0
# Of `info usernet`: a port of this computer led to one of the guest's, by us, and so ours to lead anew.
_FORWARD = re.compile(r"(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+\S+\s+(\d+)\s")

# QEMU's RunState, qapi/run-state.json.
_NEVER_RAN = ("prelaunch", "inmigrate")
_STANDING_STILL = ("paused", "finish-migrate", "postmigrate")

_log = logging.getLogger(__name__)


async def adopt_qemu(paths: MachinePaths, undo: AsyncExitStack) -> tuple[Prepared, StartedQemu] | None:
    """The recorded QEMU, if it lives and its monitor answers; None leaves everything as it is.

    `undo` ends the QEMU, as that of one started anew does.
    """
    record = ProcessRecord.read(paths.qemu_record)
    if record is None or not record.is_alive() or not paths.rescue_socket.exists():
        return None
    try:
        prepared = Prepared.from_json(record.details)
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            monitor = await Monitor.connect(paths.rescue_socket)
            undo.push_async_callback(monitor.close)
            await _settle(paths, monitor, prepared.image.ssh_port)
    except (MachineError, OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("QEMU %d runs without a hostagent and cannot be taken over: %r", record.pid, error)
        return None
    qemu = StartedQemu(
        AdoptedProcess(record, monitor),
        record.details,
        lambda: _now(monitor),
        None,
        lambda: _take_channel(monitor, PORTS_CHARDEV, paths.ports_socket),
        lambda: _take_channel(monitor, SHARES_CHARDEV, paths.shares_socket),
    )
    undo.callback(paths.qemu_record.unlink, missing_ok=True)
    undo.callback(paths.rescue_socket.unlink, missing_ok=True)
    undo.push_async_callback(qemu.kill)
    _log.warning("took over QEMU %d from a hostagent that had died", record.pid)
    return prepared, qemu


async def _settle(paths: MachinePaths, monitor: Monitor, ssh_port: int) -> None:
    """Undo what the last hostagent did and the next will do again. Raises MonitorError, OSError.

    ValueError for a guest whose saved state was not read in yet: it is better read in again.
    """
    for protocol, address, port, guest_port in _FORWARD.findall(await monitor.human("info usernet")):
        if int(guest_port) != ssh_port:
            await monitor.human(f"hostfwd_remove {NETDEV} {protocol.lower()}:{address}:{port}")
    await monitor.execute("migrate_cancel")  # it may have been saving the guest
    status: Any = await monitor.execute("query-status")
    if status["status"] in ("inmigrate", "prelaunch"):
        raise ValueError("it waits for its guest's state")
    if status["status"] in ("paused", "postmigrate"):
        # Before the guest runs: nobody may go on from its saved state afterwards.
        saved.discard(paths)
        await monitor.execute("cont")


async def _take_channel(monitor: Monitor, chardev: str, path: Path) -> socket.socket:
    """Have QEMU connect a channel of the guest's to us; the one it had ended with the last hostagent."""
    listener = host.bind_local(path)
    try:
        address = {"type": "unix", "data": {"path": str(path)}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        await monitor.execute("chardev-change", {"id": chardev, "backend": backend})
        return await accept_once(listener)
    finally:
        listener.close()
        path.unlink(missing_ok=True)


async def _now(monitor: Monitor) -> Monitor:
    return monitor
