"""The engine in a virtual machine, looked after by `vmbackend`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from app.core.errors import UserError
from app.services.engines import EngineState, EngineStatus, OnPhase, silent

if TYPE_CHECKING:
    from vmbackend import Finding

DEFAULT_MACHINE = "default"


class VmBackend:
    name = "vm"

    def __init__(self, machine: str = DEFAULT_MACHINE) -> None:
        from vmbackend import MachineManager

        self._machine = machine
        self._manager = MachineManager()

    def host(self) -> str:
        return str(self._manager.engine_host(self._machine))

    def findings(self) -> "Sequence[Finding]":
        """What may keep the machine from working."""
        return self._manager.examine(self._machine)

    def status(self) -> EngineStatus:
        return _status_of(self._manager.status(self._machine), self.host())

    def up(self, on_phase: OnPhase = silent) -> EngineStatus:
        from vmbackend import MachineError

        try:
            return _status_of(self._manager.start(self._machine, on_phase=on_phase), self.host())
        except MachineError as failure:
            raise UserError(str(failure)) from failure

    def down(self, on_phase: OnPhase = silent) -> EngineStatus:
        from vmbackend import MachineError

        on_phase("Saving the machine")
        try:
            note = self._manager.save(self._machine)
        except MachineError as failure:
            raise UserError(str(failure)) from failure
        status = self.status()
        return status if note is None else replace(status, reasons=(*status.reasons, note))


def _status_of(machine: Any, host: str) -> EngineStatus:
    facts = {
        "machine": machine.name,
        "accelerator": machine.accelerator,
        "accelerator_reason": machine.accelerator_reason,
        "cpus": machine.cpus,
        "memory_mib": machine.memory_mib,
        "pid": machine.pid,
        "started_at": machine.started_at,
        "phase": machine.phase,
        "cold_boot_reason": machine.cold_boot_reason,
        "image_version": machine.image_version,
        "available_version": machine.available_version,
        "update_note": machine.update_note,
    }
    state: EngineState = machine.state if machine.state in get_args(EngineState) else "broken"
    detail = {name: str(value) for name, value in facts.items() if value not in (None, "")}
    return EngineStatus("vm", state, host, tuple(machine.reasons), detail)
