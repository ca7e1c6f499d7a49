"""What an engine says, as frozen values. Field names are ours and carry units; `from_json` reads Docker's.

Shapes: the Engine API's ContainerSummary, ContainerInspectResponse, ImageSummary, ImageInspect,
SystemVersion, SystemInfo, EventMessage, ContainerStatsResponse and the exec inspect answer. Optional values
an engine left out are empty strings, zeros or empty tuples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of a container; `host_port` is 0 when it is only exposed."""

    container_port: int
    protocol: str
    host_ip: str = ""
    host_port: int = 0

    @classmethod
    def from_json(cls, value: Json) -> "PortMapping":
        return cls(
            container_port=value["PrivatePort"],
            protocol=value.get("Type", "tcp"),
            host_ip=value.get("IP") or "",
            host_port=value.get("PublicPort") or 0,
        )


@dataclass(frozen=True, slots=True)
class Container:
    """A container in a list. `created_at` is in seconds since the epoch; `status` says "Up 2 hours"."""

    id: str
    name: str
    image: str
    image_id: str
    command: str
    state: str
    status: str
    created_at: int
    ports: tuple[PortMapping, ...]
    labels: Mapping[str, str]

    @classmethod
    def from_json(cls, value: Json) -> "Container":
        names = value.get("Names") or [""]
        return cls(
            id=value["Id"],
            name=names[0].removeprefix("/"),
            image=value.get("Image", ""),
            image_id=value.get("ImageID", ""),
            command=value.get("Command", ""),
            state=value.get("State", ""),
            status=value.get("Status", ""),
            created_at=value.get("Created", 0),
            ports=tuple(PortMapping.from_json(port) for port in value.get("Ports") or ()),
            labels=value.get("Labels") or {},
        )


@dataclass(frozen=True, slots=True)
class ContainerDetail:
    """One container, inspected. Times are RFC 3339; `raw` is the whole answer."""

    id: str
    name: str
    image: str
    state: str
    exit_code: int
    error: str
    oom_killed: bool
    pid: int
    created: str
    started: str
    finished: str
    tty: bool
    open_stdin: bool
    raw: Json

    @property
    def is_running(self) -> bool:
        return self.state in ("running", "paused", "restarting")

    @classmethod
    def from_json(cls, value: Json) -> "ContainerDetail":
        state = value.get("State") or {}
        config = value.get("Config") or {}
        return cls(
            id=value["Id"],
            name=value.get("Name", "").removeprefix("/"),
            image=config.get("Image", ""),
            state=state.get("Status", ""),
            exit_code=state.get("ExitCode", 0),
            error=state.get("Error", ""),
            oom_killed=state.get("OOMKilled", False),
            pid=state.get("Pid", 0),
            created=value.get("Created", ""),
            started=state.get("StartedAt", ""),
            finished=state.get("FinishedAt", ""),
            tty=config.get("Tty", False),
            open_stdin=config.get("OpenStdin", False),
            raw=value,
        )


@dataclass(frozen=True, slots=True)
class CreatedContainer:
    """The answer to a create: the id, and what the engine did differently from what was asked."""

    id: str
    warnings: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Json) -> "CreatedContainer":
        return cls(value["Id"], tuple(value.get("Warnings") or ()))


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a list. `tags` are familiar references ("alpine:3.23"); a dangling image has none."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size_bytes: int
    created_at: int

    @classmethod
    def from_json(cls, value: Json) -> "Image":
        return cls(
            id=value["Id"],
            tags=tuple(tag for tag in value.get("RepoTags") or () if tag != "<none>:<none>"),
            digests=tuple(value.get("RepoDigests") or ()),
            size_bytes=value.get("Size", 0),
            created_at=value.get("Created", 0),
        )


@dataclass(frozen=True, slots=True)
class ImageDetail:
    """One image, inspected; `raw` is the whole answer."""

    id: str
    tags: tuple[str, ...]
    size_bytes: int
    architecture: str
    os: str
    raw: Json

    @classmethod
    def from_json(cls, value: Json) -> "ImageDetail":
        return cls(
            id=value["Id"],
            tags=tuple(value.get("RepoTags") or ()),
            size_bytes=value.get("Size", 0),
            architecture=value.get("Architecture", ""),
            os=value.get("Os", ""),
            raw=value,
        )


@dataclass(frozen=True, slots=True)
class EngineVersion:
    version: str
    api_version: str
    min_api_version: str
    os: str
    architecture: str
    kernel: str

    @classmethod
    def from_json(cls, value: Json) -> "EngineVersion":
        return cls(
            version=value.get("Version", ""),
            api_version=value.get("ApiVersion", ""),
            min_api_version=value.get("MinAPIVersion", ""),
            os=value.get("Os", ""),
            architecture=value.get("Arch", ""),
            kernel=value.get("KernelVersion", ""),
        )


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """`raw` is the whole answer of /info."""

    id: str
    name: str
    version: str
    kernel: str
    operating_system: str
    architecture: str
    cpus: int
    memory_bytes: int
    containers: int
    containers_running: int
    images: int
    data_root: str
    warnings: tuple[str, ...]
    raw: Json

    @classmethod
    def from_json(cls, value: Json) -> "EngineInfo":
        return cls(
            id=value.get("ID", ""),
            name=value.get("Name", ""),
            version=value.get("ServerVersion", ""),
            kernel=value.get("KernelVersion", ""),
            operating_system=value.get("OperatingSystem", ""),
            architecture=value.get("Architecture", ""),
            cpus=value.get("NCPU", 0),
            memory_bytes=value.get("MemTotal", 0),
            containers=value.get("Containers", 0),
            containers_running=value.get("ContainersRunning", 0),
            images=value.get("Images", 0),
            data_root=value.get("DockerRootDir", ""),
            warnings=tuple(value.get("Warnings") or ()),
            raw=value,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to an object: `type` container, image, network, volume; `action` start, die, tag, …"""

    type: str
    action: str
    id: str
    attributes: Mapping[str, str]
    time_ns: int

    @classmethod
    def from_json(cls, value: Json) -> "Event":
        actor = value.get("Actor") or {}
        return cls(
            type=value.get("Type", ""),
            action=value.get("Action", ""),
            id=actor.get("ID", ""),
            attributes=actor.get("Attributes") or {},
            time_ns=value.get("timeNano", 0),
        )


@dataclass(frozen=True, slots=True)
class Stats:
    """One reading of what a container uses. `cpu_percent` is of one processor: 200 means two are busy."""

    read: str
    cpu_percent: float
    memory_bytes: int
    memory_limit_bytes: int
    pids: int
    network_received_bytes: int
    network_sent_bytes: int

    @classmethod
    def from_json(cls, value: Json) -> "Stats":
        """Docker's own formulas, from the description of /containers/{id}/stats in the API reference."""
        memory = value.get("memory_stats") or {}
        details = memory.get("stats") or {}
        file_cache = details.get("inactive_file", details.get("total_inactive_file", details.get("cache", 0)))
        networks = (value.get("networks") or {}).values()
        return cls(
            read=value.get("read", ""),
            cpu_percent=_cpu_percent(value.get("cpu_stats") or {}, value.get("precpu_stats") or {}),
            memory_bytes=max(0, memory.get("usage", 0) - file_cache),
            memory_limit_bytes=memory.get("limit", 0),
            pids=(value.get("pids_stats") or {}).get("current", 0),
            network_received_bytes=sum(network.get("rx_bytes", 0) for network in networks),
            network_sent_bytes=sum(network.get("tx_bytes", 0) for network in networks),
        )


def _cpu_percent(now: Json, before: Json) -> float:
    if not before.get("system_cpu_usage"):
        return 0.0
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    system = now.get("system_cpu_usage", 0) - before["system_cpu_usage"]
    processors = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or [0])
    return float(used / system * processors * 100) if system > 0 and used > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ExecState:
    """`exit_code` is None while the command runs."""

    id: str
    running: bool
    exit_code: int | None
    pid: int

    @classmethod
    def from_json(cls, value: Json) -> "ExecState":
        return cls(value["ID"], value.get("Running", False), value.get("ExitCode"), value.get("Pid", 0))


@dataclass(frozen=True, slots=True)
class Progress:
    """A message of a long operation (load, pull, push); `total_bytes` is 0 where nothing is counted."""

    text: str
    id: str = ""
    current_bytes: int = 0
    total_bytes: int = 0

    @classmethod
    def from_json(cls, value: Json) -> "Progress":
        text = value.get("stream") or value.get("status") or ""
        detail = value.get("progressDetail") or {}
        return cls(text.rstrip("\n"), value.get("id") or "", detail.get("current") or 0, detail.get("total") or 0)


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes a container wrote."""

    stream: Literal["stdout", "stderr"]
    data: bytes
