"""A container: what was asked for, what state it is in, and how the two are kept on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from runtime.engine.options import Options, parse
from runtime.engine.stdio import OutputHub
from runtime.errors import Conflict

Status = Literal["created", "running", "exited", "removing"]
Trigger = Literal["start", "exit", "remove"]

# The one place that says what may follow what.
TRANSITIONS: Mapping[tuple[Status, Trigger], Status] = {
    ("created", "start"): "running",
    ("exited", "start"): "running",
    ("running", "exit"): "exited",
    ("created", "remove"): "removing",
    ("exited", "remove"): "removing",
}


@dataclass
class State:
    """Durable, volatile facts; times are ns since the epoch, 0 for never."""

    status: Status = "created"
    pid: int = 0
    start_time: int = 0  # clock ticks since boot; with the pid it names one process for ever (proc(5))
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0


@dataclass
class Container:
    """One container. `config`, `host_config` and `networking` are Docker's documents as they came."""

    id: str
    name: str
    created_ns: int
    image_id: str
    image_name: str
    config: dict[str, Any]
    host_config: dict[str, Any]
    networking: dict[str, Any]
    image_config: dict[str, Any]
    directory: Path
    state: State = field(default_factory=State)
    volumes: dict[str, str] = field(default_factory=dict)  # mount target → volume name
    # By network id: {name, config (EndpointConfig), endpoint (Attachment; None while it does not run)}.
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: list[list[Any]] = field(default_factory=list)  # PublishedPort documents, while it runs
    execs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.options: Options = parse(self.config, self.host_config, self.networking, self.image_config)
        self.hub = OutputHub()
        self.changing = asyncio.Lock()  # held by whoever starts, stops or removes it
        self._started: list[asyncio.Future[State]] = []
        self._ended: list[asyncio.Future[State]] = []
        self._removed: list[asyncio.Future[State]] = []

    @property
    def log_path(self) -> Path:
        return self.directory / f"{self.id}-json.log"

    @property
    def hostname(self) -> str:
        return self.options.hostname or self.id[:12]

    def move(self, trigger: Trigger) -> None:
        """Take the transition, or raise Conflict when the present status has none."""
        try:
            self.state.status = TRANSITIONS[self.state.status, trigger]
        except KeyError:
            raise Conflict(f"cannot {trigger} container {self.id}: it is {self.state.status}") from None
        self._resolve({"start": self._started, "exit": self._ended}.get(trigger, []))

    def gone(self) -> None:
        """Nothing of it is left: whoever waits for that, or for an exit that will not come, is told."""
        for waiters in (self._removed, self._ended, self._started):
            self._resolve(waiters)
        self.hub.end()

    def next_start(self) -> asyncio.Future[State]:
        """Resolves with the state at the next start, or at the removal."""
        return self._waiter(self._started)

    def next_exit(self) -> asyncio.Future[State]:
        """Resolves with the state at the next exit."""
        return self._waiter(self._ended)

    def removal(self) -> asyncio.Future[State]:
        return self._waiter(self._removed)

    def _resolve(self, waiters: list[asyncio.Future[State]]) -> None:
        while waiters:
            waiter = waiters.pop()
            if not waiter.done():
                waiter.set_result(self.state)

    def _waiter(self, waiters: list[asyncio.Future[State]]) -> asyncio.Future[State]:
        future: asyncio.Future[State] = asyncio.get_running_loop().create_future()
        waiters.append(future)
        return future

    def to_document(self) -> dict[str, Any]:
        names = [item.name for item in fields(self) if item.name not in ("directory", "state", "execs")]
        return {name: getattr(self, name) for name in names} | {"state": asdict(self.state)}

    @classmethod
    def from_document(cls, document: dict[str, Any], directory: Path) -> Container:
        values = {**document, "state": State(**document["state"]), "directory": directory}
        return cls(**values)
