"""A QEMU whose hostagent was killed.

One that cannot be adopted (see `adopt`), or is not wanted any more, is ended here. Its guest still answers SSH: it is
asked to power off, which keeps its data, and QEMU is killed only when that fails.
"""

import asyncio
import logging

from vmbackend import host
from vmbackend.errors import MachineError
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.store import ProcessRecord

_CONNECT_TIMEOUT_S = 10.0
_POWEROFF_TIMEOUT_S = 75.0  # the guest gives its engine 60 to end the containers
_KILL_TIMEOUT_S = 20.0
_LOOK_EVERY_S = 0.05

_log = logging.getLogger(__name__)


async def end_orphan(paths: MachinePaths) -> str | None:
    """End a recorded QEMU if it still runs; returns what was done, in a sentence, or None when there was none."""
    record = ProcessRecord.read(paths.qemu_record)
    if record is None or not record.is_alive():
        paths.qemu_record.unlink(missing_ok=True)
        return None
    try:
        await asyncio.to_thread(_ask_to_power_off, paths, record)
        gone = await _wait_gone(record, _POWEROFF_TIMEOUT_S)
    except (MachineError, OSError, KeyError) as error:
        _log.warning("orphaned QEMU %d cannot be powered off: %s", record.pid, error)
        gone = False
    if not gone:
        host.kill_process(record.pid)
        await _wait_gone(record, _KILL_TIMEOUT_S)
    paths.qemu_record.unlink(missing_ok=True)
    how = "powered off cleanly" if gone else "killed"
    return f"A QEMU (pid {record.pid}) left over from a hostagent that had died was {how}."


def _ask_to_power_off(paths: MachinePaths, record: ProcessRecord) -> None:
    # Imported here: it costs a fifth of a second, and there hardly ever is an orphan.
    from vmbackend.ssh.connection import GuestConnection
    from vmbackend.ssh.keys import load_keys

    details = record.details
    connection = GuestConnection.connect(
        details["ssh_port"], details["ssh_user"], load_keys(paths), _CONNECT_TIMEOUT_S, lambda: None
    )
    try:
        connection.run(details["poweroff_command"], _CONNECT_TIMEOUT_S)
    finally:
        connection.close()


async def _wait_gone(record: ProcessRecord, timeout_s: float) -> bool:
    # Not our child, so nobody tells us; a rare path, where looking again is good enough on every system.
    try:
        async with asyncio.timeout(timeout_s):
            while record.is_alive():
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        return False
    return True
