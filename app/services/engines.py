"""Where the engine runs, and how to start and stop it: one protocol, a backend for each answer.

`native` runs it on this Linux, `vm` in a virtual machine, `remote` is an address somebody else looks after.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from app.core.errors import UserError
from app.engine.client import EngineClient
from app.engine.errors import EngineUnreachable
from app.services.locations import NativeLocations

BackendChoice = Literal["auto", "native", "vm"]
BACKEND_CHOICES: tuple[BackendChoice, ...] = ("auto", "native", "vm")

# In "running" the engine answers and all of it works; in "degraded" it answers, but a part does not work;
# "unreachable" means that something is there which does not answer us. A machine that is "idle" answers as soon as it
# is asked, one that is "paused" not before it is resumed; a "saved" one is off and goes on where it was when started.
EngineState = Literal[
    "absent",
    "stopped",
    "saved",
    "starting",
    "running",
    "degraded",
    "idle",
    "paused",
    "stopping",
    "broken",
    "unreachable",
]

OnPhase = Callable[[str], None]
PROBE_TIMEOUT_S = 3.0


def silent(phase: str) -> None:
    """For callers who do not watch the phases of a start."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Where an engine stands.

    `reasons` are sentences that explain a state other than running; `detail` holds facts by name, such as
    "accelerator", "accelerator_reason", "cpus", "memory_mib", "data_root".
    """

    backend: str
    state: EngineState
    host: str
    reasons: tuple[str, ...] = ()
    detail: Mapping[str, str] = field(default_factory=dict)


class EngineBackend(Protocol):
    """One way to have an engine. All methods block; they raise UserError."""

    @property
    def name(self) -> str: ...

    def host(self) -> str:
        """The engine's address, running or not."""

    def status(self) -> EngineStatus:
        """By a real request, never from memory."""

    def up(self, on_phase: OnPhase = silent) -> EngineStatus:
        """Start the engine unless it runs; returns when it answers. `on_phase` hears what is being done."""

    def down(self, on_phase: OnPhase = silent) -> EngineStatus:
        """Stop it if it runs."""


def choose_backend(
    choice: BackendChoice = "auto", locations: NativeLocations | None = None, machine: str | None = None
) -> EngineBackend:
    """`auto` is native on Linux and a virtual machine elsewhere, or where a `machine` is named; `locations` matter to
    native only.
    """
    if choice == "native" and machine is not None:
        raise UserError("The native engine has no machines.", "Leave out --machine, or --backend native.")
    if choice == "native" and sys.platform != "linux":
        raise UserError("The native engine needs Linux.", "Leave out --backend native.")
    if sys.platform == "linux" and choice != "vm" and machine is None:
        from app.services.native_engine import NativeBackend

        return NativeBackend(locations or NativeLocations.from_environment())
    from app.services.vm_engine import DEFAULT_MACHINE, VmBackend

    return VmBackend(machine or DEFAULT_MACHINE)


def probe(host: str, backend: str, detail: Mapping[str, str] | None = None) -> EngineStatus:
    """The status that a request to `host` shows."""
    try:
        with EngineClient(host) as client:
            client.ping(timeout_s=PROBE_TIMEOUT_S)
    except EngineUnreachable as failure:
        state: EngineState = "stopped" if failure.cause == "absent" else "unreachable"
        return EngineStatus(backend, state, host, (str(failure),), detail or {})
    return EngineStatus(backend, "running", host, (), detail or {})


class RemoteBackend:
    """An engine at an address the user named; Wherry talks to it and does not manage it."""

    name = "remote"

    def __init__(self, host: str) -> None:
        self._host = host

    def host(self) -> str:
        return self._host

    def status(self) -> EngineStatus:
        return probe(self._host, self.name)

    def up(self, on_phase: OnPhase = silent) -> EngineStatus:
        return self._answering()

    def down(self, on_phase: OnPhase = silent) -> EngineStatus:
        raise UserError(
            f"The engine at {self._host} was not started by Wherry.",
            "Stop it where it runs, or leave out --host.",
        )

    def _answering(self) -> EngineStatus:
        status = self.status()
        if status.state != "running":
            raise UserError(
                f"The engine at {self._host} does not answer.", "Start it where it runs, or leave out --host."
            )
        return status
