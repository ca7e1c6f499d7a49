"""The virtual machine in which the engine runs where there is no Linux to run it natively.

This facade is all that the application uses. Everything works without a window.
"""

from typing import TYPE_CHECKING

from vmbackend.errors import MachineError
from vmbackend.hostagent.client import MachineEvents
from vmbackend.machine.checks import Finding
from vmbackend.machine.config import MachineSettings
from vmbackend.machine.events import (
    ForwardAdded,
    ForwardRemoved,
    MachineEvent,
    PhaseEntered,
    StateChanged,
    UpdateEnded,
    UpdateStarted,
)
from vmbackend.machine.setting_keys import SETTING_KEYS, changed_settings, setting_texts
from vmbackend.machine.status import MachineStatus
from vmbackend.machine.usage import MachineUsage
from vmbackend.manager import MachineManager
from vmbackend.qemu.snapshots import DiskSnapshot

if TYPE_CHECKING:
    # At run time it would bring all of SSH; `MachineManager.open_session` makes them.
    from vmbackend.ssh.session import GuestSession as GuestSession

__all__ = [
    "SETTING_KEYS",
    "DiskSnapshot",
    "Finding",
    "ForwardAdded",
    "ForwardRemoved",
    "MachineError",
    "MachineEvent",
    "MachineEvents",
    "MachineManager",
    "MachineSettings",
    "MachineStatus",
    "MachineUsage",
    "PhaseEntered",
    "StateChanged",
    "UpdateEnded",
    "UpdateStarted",
    "changed_settings",
    "setting_texts",
]
