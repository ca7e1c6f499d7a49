"""A container: what was asked for, what state it is in, and how the two are kept on disk."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from runtime.engine.oom import OomWatch
from runtime.engine.options import MountRequest, Options, merged_mounts, parse
from runtime.engine.restarts import Backoff
from runtime.engine.stdio import OutputHub
from runtime.errors import Conflict

Status = Literal["created", "running", "paused", "restarting", "exited", "removing", "dead"]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
Trigger = Literal["start", "pause", "unpause", "exit", "back off", "remove", "fail"]

# The one place that says what may follow what.
TRANSITIONS: Mapping[tuple[Status, Trigger], Status] = {
    ("created", "start"): "running",
    ("exited", "start"): "running",
    ("restarting", "start"): "running",
    ("running", "pause"): "paused",
    ("paused", "unpause"): "running",
    ("running", "exit"): "exited",
    ("paused", "exit"): "exited",
    ("restarting", "exit"): "exited",
    ("running", "back off"): "restarting",
    ("paused", "back off"): "restarting",
    ("created", "remove"): "removing",
    ("exited", "remove"): "removing",
    ("dead", "remove"): "removing",
    ("removing", "fail"): "dead",
}


@dataclass
class Probe:
    """One run of a health check; -1 is the exit code of one that timed out or could not be run."""

    started_ns: int
    ended_ns: int
    exit_code: int
    output: str


@dataclass
class Health:
    """What the probes since the last start have found."""

    status: Literal["starting", "healthy", "unhealthy"] = "starting"
    failing_streak: int = 0
    log: list[Probe] = field(default_factory=list)


@dataclass
class State:
    """Durable, volatile facts; times are ns since the epoch, 0 for never."""

    status: Status = "created"
    pid: int = 0
    start_time: int = 0  # clock ticks since boot; with the pid it names one process for ever (proc(5))
    output_inodes: Sequence[int] = ()  # of the pipes that are its stdout and stderr
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0  # by its policy, since a person started it
    stopped_by_user: bool = False  # since the last start
    health: Health | None = None

    @property
    def has_process(self) -> bool:
        return self.status in ("running", "paused")

    @property
    def up_s(self) -> float:
        """How long ago its process began, by a clock that nobody sets."""
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_time / TICKS_PER_S)

    @property
    def is_up(self) -> bool:
        """What Docker calls Running: also while it waits to be restarted."""
        return self.status in ("running", "paused", "restarting")

    def to_document(self) -> dict[str, Any]:
        # By hand: asdict(), which copies every value, would take longer than all else about noting a change.
        return {**vars(self), "health": asdict(self.health) if self.health else None}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> State:
        health = document.get("health")
        if health:
            health = Health(health["status"], health["failing_streak"], [Probe(**probe) for probe in health["log"]])
        return cls(**{**document, "health": health})


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
    image_mounts: dict[str, str] = field(default_factory=dict)  # mount target → image id
    inherited: list[dict[str, Any]] = field(default_factory=list)  # mounts of --volumes-from: ContainerMounts.inherited
    # By network id: {name, config (EndpointConfig), endpoint (Attachment; None while it does not run)}.
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: list[list[Any]] = field(default_factory=list)  # PublishedPort documents, while it runs
    links: dict[str, str] = field(default_factory=dict)  # alias → container id (engine.links)
    link_env: list[str] = field(default_factory=list)  # what links put into its environment at its last start
    execs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.options: Options = parse(self.config, self.host_config, self.networking, self.image_config)
        self.mounts = merged_mounts(self.options.mounts, [_inherited(document) for document in self.inherited])
        self.hub = OutputHub()
        self.changing = asyncio.Lock()  # held by whoever starts, pauses or removes it
        self.backoff = Backoff()
        self.no_restart = False  # a signal told it to end: its restart policy has no say until the next start
        self.restarted_by_user = False  # between the stop and the start of a restart: not to be removed
        self.retry: asyncio.TimerHandle | None = None  # while it waits to be restarted
        self.cleanup: asyncio.Task[None] | None = None  # of its last run; the next has to wait for it
        self.pids_shared = False  # its PID namespace is another container's too
        self.oom_watch: OomWatch | None = None
        self.oom_kills = 0  # noticed since its start
        self.log_fault = ""  # why its log cannot be written at the moment
        self.is_gone = False
        self._started: list[asyncio.Future[State]] = []
        self._ended: list[asyncio.Future[State]] = []
        self._removed: list[asyncio.Future[State]] = []

    @property
    def hostname(self) -> str:
        shares_host = "host" in (self.options.network_mode, self.options.uts_mode)
        return self.options.hostname or (os.uname().nodename if shares_host else self.id[:12])

    def move(self, trigger: Trigger) -> None:
        """Take the transition, or raise Conflict when the present status has none."""
        try:
            self.state.status = TRANSITIONS[self.state.status, trigger]
        except KeyError:
            raise Conflict(f"cannot {trigger} container {self.id}: it is {self.state.status}") from None
        self._resolve({"start": self._started, "exit": self._ended, "back off": self._ended}.get(trigger, []))

    def gone(self) -> None:
        """Nothing of it is left: whoever waits for that, or for an exit that will not come, is told."""
        self.is_gone = True
        for waiters in (self._removed, self._ended, self._started):
            self._resolve(waiters)
        self.hub.end()

    def removal_failed(self) -> None:
        """Whoever waits for its removal is told that it stays; `state.error` says why."""
        self._resolve(self._removed)

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
        return {name: getattr(self, name) for name in _DURABLE} | {"state": self.state.to_document()}

    @classmethod
    def from_document(cls, document: dict[str, Any], directory: Path) -> Container:
        values = {**document, "state": State.from_document(document["state"]), "directory": directory}
        return cls(**values)


_DURABLE = [item.name for item in fields(Container) if item.name not in ("directory", "state", "execs")]


def _inherited(document: dict[str, Any]) -> MountRequest:
    known = {item.name for item in fields(MountRequest)}
    values = {name: value for name, value in document.items() if name in known}
    return MountRequest(**{**values, "options": tuple(values["options"])})
