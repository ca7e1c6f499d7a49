"""The engine on this computer."""

import sys

from app.core.errors import UserError
from app.services.engines import EngineStatus, OnPhase, probe, silent
from app.services.locations import NativeLocations

assert sys.platform == "linux"


class NativeBackend:
    """`wherryd`, started as root and left running. Starting it is `app.services.wherryd`, imported when needed."""

    name = "native"

    def __init__(self, locations: NativeLocations) -> None:
        self._locations = locations

    def host(self) -> str:
        return self._locations.host

    def status(self) -> EngineStatus:
        detail = {
            "data_root": str(self._locations.data_root),
            "run_dir": str(self._locations.run_dir),
            "accelerator": "native",
            "accelerator_reason": "the engine uses this computer's kernel",
        }
        return probe(self.host(), self.name, detail)

    def up(self, on_phase: OnPhase = silent) -> EngineStatus:
        from app.services import wherryd

        status = self.status()
        if status.state == "running":
            return status
        if status.state == "unreachable":
            raise UserError(" ".join(status.reasons))
        on_phase("Starting the engine")
        wherryd.start(self._locations)
        status = self.status()
        if status.state != "running":
            raise UserError("The engine started and ended again at once.", f"Its log is {wherryd.log_file()}.")
        return status

    def down(self, on_phase: OnPhase = silent) -> EngineStatus:
        from app.services import wherryd

        status = self.status()
        # An engine that was killed leaves containers, and its record, behind: there is something to stop.
        if status.state == "stopped" and not self._locations.record.exists():
            return status
        on_phase("Stopping the engine")
        wherryd.shut_down(self._locations)
        return self.status()
