"""A guest saved just before it reads its data disk: later starts go on from there.

Up to that point all boots of an image with the same settings are the same, and under emulation that is nine tenths of a
boot. Other than a saved machine's state this one is good any number of times: it knows nothing of the disk. What must
not be the same each time, the clock and randomness, the guest is told when it is let go on.
"""

import asyncio
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping

from vmbackend.errors import MachineError
from vmbackend.machine import saved
from vmbackend.machine.guest import Guest, Start, facts_to_resume
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.prepare import Prepared
from vmbackend.machine.store import write_atomically
from vmbackend.qemu.migration import can_migrate, read_state, write_state

_SCHEMA = 1
_RANDOM_BYTES = 32
# The state takes a fifth of that.
_WANTED_FREE_BYTES = 1 << 30

_log = logging.getLogger(__name__)


def plan(paths: MachinePaths, prepared: Prepared) -> Start:
    """How a machine that was switched off starts best. Raises OSError."""
    if not (prepared.accelerator.emulated and prepared.image.hold_cmdline):
        return "boot"
    try:
        record = json.loads(paths.held_record.read_text(encoding="utf-8"))
        same = record["schema"] == _SCHEMA and record["facts"] == _facts(paths, prepared)
        if same and record["obstacle"]:
            return "boot"
        if same and paths.held_state.exists():
            return "held"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    discard(paths)
    return "hold" if shutil.disk_usage(paths.directory).free >= _WANTED_FREE_BYTES else "boot"


def discard(paths: MachinePaths) -> None:
    """Raises OSError."""
    for path in (paths.held_record, paths.held_state, saved.draft(paths.held_state)):
        path.unlink(missing_ok=True)


def give_up(paths: MachinePaths, prepared: Prepared, obstacle: str) -> None:
    """A guest that did not go on will not the next time: from now on it boots. Raises OSError."""
    discard(paths)
    _write(paths, _facts(paths, prepared), obstacle)


async def hold(guest: Guest, paths: MachinePaths) -> None:
    """Save the guest once it waits, and let it go on whatever comes of that. Raises OSError."""
    await guest.held.wait()
    draft = saved.draft(paths.held_state)
    obstacle = "QEMU is older than 8.2" if not can_migrate(guest.monitor.version) else None
    if obstacle is None:
        try:
            await guest.monitor.execute("stop")
            await write_state(guest.monitor, draft)
        except MachineError as error:
            obstacle = str(error)
        await guest.monitor.execute("cont")
    await let_go_on(guest)
    if obstacle is not None:
        _log.warning("every start will boot the guest anew: %s", obstacle)
        await asyncio.to_thread(discard, paths)
    else:
        await asyncio.to_thread(_keep, paths, guest.prepared)


async def go_on(guest: Guest, paths: MachinePaths) -> None:
    """Put the held guest into this QEMU, which was started for that, and let it go on. Raises MonitorError, OSError."""
    await read_state(guest.monitor, paths.held_state)
    await guest.monitor.execute("cont")
    await let_go_on(guest)


async def let_go_on(guest: Guest) -> None:
    await guest.console.say(f"{time.time():.0f} {os.urandom(_RANDOM_BYTES).hex()}")


def _keep(paths: MachinePaths, prepared: Prepared) -> None:
    draft = saved.draft(paths.held_state)
    try:
        saved.make_durable(draft)
        draft.replace(paths.held_state)
        _write(paths, _facts(paths, prepared), "")
    except OSError as error:
        _log.warning("the next start will boot the guest anew: %s", error)
        discard(paths)


def _facts(paths: MachinePaths, prepared: Prepared) -> dict[str, str]:
    settings = prepared.settings
    return {
        **facts_to_resume(paths, prepared),
        "the disk's size": str(settings.disk_gib),
        "the shares": json.dumps(settings.shares),
    }


def _write(paths: MachinePaths, facts: Mapping[str, str], obstacle: str) -> None:
    document = {"schema": _SCHEMA, "facts": facts, "obstacle": obstacle}
    write_atomically(paths.held_record, json.dumps(document), durable=True)
