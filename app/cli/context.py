"""What every command needs: which engine, and a way to it."""

import sys
from dataclasses import dataclass
from functools import cached_property

from app.engine.client import EngineClient
from app.services.engines import BackendChoice, EngineBackend, RemoteBackend, choose_backend
from app.services.locations import NativeLocations


@dataclass(frozen=True)
class Context:
    """The global options; `host` wins over `backend`."""

    backend_choice: BackendChoice
    given_host: str | None
    locations: NativeLocations

    @cached_property
    def backend(self) -> EngineBackend:
        if self.given_host:
            return RemoteBackend(self.given_host)
        return choose_backend(self.backend_choice, self.locations)

    @cached_property
    def client(self) -> EngineClient:
        return EngineClient(self.backend.host())

    def start_engine(self) -> None:
        """Start the engine because a command needs it, saying so. Raises UserError."""
        from app.cli.progress import Activity

        sys.stderr.write("wherry: no engine is running; starting one\n")
        with Activity() as activity:
            self.backend.up(activity.phase)
