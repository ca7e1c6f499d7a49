"""The virtual machine in which the engine runs where there is no Linux to run it natively.

This facade is all that the application uses. Everything works without a window.
"""

from vmbackend.errors import MachineError
from vmbackend.machine.config import MachineSettings
from vmbackend.machine.status import MachineStatus
from vmbackend.manager import MachineManager

__all__ = ["MachineError", "MachineManager", "MachineSettings", "MachineStatus"]
