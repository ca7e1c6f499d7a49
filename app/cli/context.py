"""What every command needs: which engine, and a way to it."""

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from app.engine.client import EngineClient
from app.services.engines import BackendChoice, EngineBackend, RemoteBackend, choose_backend
from app.services.locations import NativeLocations
from app.services.vm_engine import DEFAULT_MACHINE

if TYPE_CHECKING:
    from vmbackend import MachineManager


@dataclass(frozen=True)
class Context:
    """The global options; `host` wins over `backend`. `given_machine` is None when none was named."""

    backend_choice: BackendChoice
    given_host: str | None
    locations: NativeLocations
    given_machine: str | None = None

    @property
    def machine(self) -> str:
        """What commands about machines mean when they name none."""
        return self.given_machine or DEFAULT_MACHINE

    @cached_property
    def machines(self) -> "MachineManager":
        from vmbackend import MachineManager

        return MachineManager()

    @cached_property
    def backend(self) -> EngineBackend:
        if self.given_host:
            return RemoteBackend(self.given_host)
        return choose_backend(self.backend_choice, self.locations, self.given_machine)

    @cached_property
    def client(self) -> EngineClient:
        return EngineClient(self.backend.host())

    def start_engine(self) -> None:
        """Start the engine because a command needs it, saying so. Raises UserError."""
        from app.cli.progress import Activity

        sys.stderr.write("wherry: no engine is running; starting one\n")
        with Activity() as activity:
            self.backend.up(activity.phase)
