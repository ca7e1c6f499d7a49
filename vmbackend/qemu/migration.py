"""A guest's state written to a file and read back; QEMU calls that migration."""

import shlex
import sys
from pathlib import Path
from typing import Any

from vmbackend.qemu.qmp import Monitor, MonitorError

# QEMU writes and reads files by itself from 8.2 on; before, through a program.
_FILES_SINCE = (8, 2)
_BYTES_PER_S = 1 << 40  # in practice no limit; QEMU's own is for networks


def can_migrate(version: tuple[int, ...]) -> bool:
    """Whether this QEMU can write its state to a file here: an older one needs a shell and `cat`."""
    return version >= _FILES_SINCE or sys.platform != "win32"


async def write_state(monitor: Monitor, path: Path) -> None:
    """Write the state of a paused guest. Raises MonitorError; what was written so far stays.

    The guest's disk is closed by QEMU when this returns.
    """
    await monitor.execute("migrate-set-parameters", {"max-bandwidth": _BYTES_PER_S})
    await _migrate(monitor, "migrate", _uri(monitor.version, path, f"cat > {shlex.quote(str(path))}"))


async def read_state(monitor: Monitor, path: Path) -> None:
    """Give a QEMU that was started with `-incoming defer` its state; the guest is paused then.

    Raises MonitorError. QEMU ends when it cannot use the state, which the caller has to watch.
    """
    await _migrate(monitor, "migrate-incoming", _uri(monitor.version, path, f"cat {shlex.quote(str(path))}"))


async def _migrate(monitor: Monitor, command: str, uri: str) -> None:
    await monitor.execute("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    with monitor.events("MIGRATION") as events:
        await monitor.execute(command, {"uri": uri})
        while True:
            event: Any = await events.get()
            status = event["data"]["status"]
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise MonitorError(f"QEMU says that `{command}` {status}")


def _uri(version: tuple[int, ...], path: Path, command: str) -> str:
    return f"file:{path}" if version >= _FILES_SINCE else f"exec:{command}"
