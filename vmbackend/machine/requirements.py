"""What has to be true, in this order, before a machine serves.

Each requirement has a deadline and a hint. One that is not met names itself and says where to look, instead of
leaving the machine "starting" for ever.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from vmbackend.errors import MachineError


@dataclass(frozen=True)
class Requirement:
    """`deadline_s` is for hardware acceleration; emulation gets `EMULATION_FACTOR` times as much."""

    name: str
    deadline_s: float
    hint: str


PREPARED = Requirement("prepared", 60, "the machine's folder must be writable and the disk must have room")
QEMU_STARTED = Requirement("qemu started", 10, "`{qemu_log}` has what QEMU said")
QMP = Requirement("qmp", 10, "`{qemu_log}` has what QEMU said")
KERNEL = Requirement("kernel", 2.5, "`{console_log}` is the guest's console; another accelerator may help")
SSH = Requirement("ssh", 20, "`{console_log}` is the guest's console")
ENGINE = Requirement("engine", 20, "`{console_log}` is the guest's console, and the engine writes its errors there")

# Of an image that is new to the machine: its engine may have a store to bring up to date.
NEW_IMAGE = Requirement("new guest image", 600, "the machine's folder must be writable and the disk must have room")
ENGINE_UPDATED = Requirement("engine", 120, ENGINE.hint)
# Of a guest that is saved on its way, and gets there after most of its boot.
HELD = Requirement("held", 40, "`{console_log}` is the guest's console")

# Of a saved guest: one that is not heard of soon is booted anew instead.
STATE_LOADED = Requirement("saved state loaded", 10, "`{qemu_log}` has what QEMU said")
SSH_RESUMED = Requirement("ssh", 10, "`{console_log}` is the guest's console")
ENGINE_RESUMED = Requirement("engine", 10, "`{console_log}` is the guest's console")

ORDER = (PREPARED, QEMU_STARTED, QMP, KERNEL, SSH, ENGINE)
EMULATION_FACTOR = 6


T = TypeVar("T")


class Unmet(Exception):
    """A requirement was not met; the text is a sentence with what to do about it."""

    def __init__(self, requirement: Requirement, reason: str) -> None:
        super().__init__(reason)
        self.requirement = requirement


async def meet(
    requirement: Requirement, work: Awaitable[T], emulated: bool, failed_tries: int = 0, /, **places: object
) -> T:
    """Await `work` within the requirement's deadline; `places` fill its hint. Raises Unmet.

    After each failed try the deadline is twice as long: a guest that hangs is found out soon, and one on a very busy
    computer gets there all the same.
    """
    deadline_s = requirement.deadline_s * (EMULATION_FACTOR if emulated else 1) * 2**failed_tries
    try:
        async with asyncio.timeout(deadline_s):
            return await work
    except TimeoutError:
        reason = f"The requirement `{requirement.name}` was not met within {deadline_s:.0f} s"
    except MachineError as error:
        raise Unmet(requirement, str(error)) from error  # it has its own remedy
    except OSError as error:
        reason = str(error)
    raise Unmet(requirement, f"{reason}; {requirement.hint.format_map(places)}.")
