"""What the engine acts on, in its own words: read from Docker's documents, checked, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Document = Mapping[str, Any]
MountKind = Literal["bind", "volume", "tmpfs", "image"]
LogDriver = Literal["json-file", "local", "none"]


@dataclass(frozen=True)
class MountRequest:
    """One `-v`, `--mount`, `--tmpfs` or VOLUME.

    `source` is a host path, a volume's name (empty: anonymous), or an image; `mode` is how `-v` wrote it.
    """

    kind: MountKind
    target: str
    source: str = ""
    read_only: bool = False
    mode: str = ""
    propagation: str = ""  # of bind mounts; "" is rprivate
    create_source: bool = False  # `-v` makes a missing directory, `--mount` refuses
    recursive: bool = True  # the mounts below the source too
    read_only_below: Literal["if possible", "never", "always"] = "if possible"
    options: tuple[str, ...] = ()  # tmpfs mount options
    subpath: str = ""  # inside the volume or image
    no_copy: bool = False
    driver: str = ""
    driver_options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    declared: bool = False  # by VOLUME or Config.Volumes: anything else at the target goes before
    inherited: bool = False  # by --volumes-from
    shown: bool = True  # among the container's Mounts


@dataclass(frozen=True)
class PortRequest:
    """One published port; `host_port` 0 asks for a free one, `host_ip` "" for every address."""

    container_port: int
    protocol: str
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


@dataclass(frozen=True)
class EndpointConfig:
    """What a container wants on one network; kept while it is stopped. Empty: the network chooses."""

    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    ipv4: str = ""
    ipv6: str = ""
    link_local: tuple[str, ...] = ()
    ipam: dict[str, Any] | None = None  # IPAMConfig as it was sent, which inspect shows
    mac_address: str = ""
    driver_opts: dict[str, str] = field(default_factory=dict)
    gw_priority: int = 0

    def to_document(self) -> dict[str, Any]:
        """Only what is set: most containers ask for nothing."""
        return {
            name: dict(value) if isinstance(value, dict) else value
            for name, value in vars(self).items()
            if value or (name == "ipam" and value is not None)
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> EndpointConfig:
        tuples: dict[str, Any] = {
            name: tuple(document[name]) for name in ("aliases", "links", "link_local") if name in document
        }
        return cls(**{**document, **tuples})


@dataclass(frozen=True)
class RestartPolicy:
    """`max_retries` is for on-failure alone; 0 is no limit."""

    name: Literal["no", "always", "unless-stopped", "on-failure"] = "no"
    max_retries: int = 0


@dataclass(frozen=True)
class Healthcheck:
    """`args` is what is executed in the container; times in seconds."""

    args: list[str]
    interval_s: float = 30.0
    timeout_s: float = 30.0
    start_period_s: float = 0.0
    start_interval_s: float = 5.0
    retries: int = 3


@dataclass(frozen=True)
class LogOptions:
    """Where output is kept; `max_size_bytes` None: one file without end. `attributes` go into every record."""

    driver: LogDriver
    max_size_bytes: int | None = None
    max_files: int = 1
    compress: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    tag: str = ""  # a template, see options.logs.expand_tag


@dataclass(frozen=True)
class DeviceMapping:
    """One `--device`; `access` is some of "rwm"."""

    on_host: str
    in_container: str
    access: str


@dataclass(frozen=True)
class DeviceRequest:
    """One of Docker's DeviceRequests; `count` -1 stands for all. `capabilities` are alternatives of sets."""

    driver: str
    count: int
    ids: tuple[str, ...]
    capabilities: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Options:
    """Everything the engine acts on, in its own words."""

    args: list[str]
    env: list[str]
    working_dir: str
    user: str
    groups: list[str]
    tty: bool
    open_stdin: bool
    stdin_once: bool
    hostname: str
    domainname: str
    labels: dict[str, str]
    network_mode: str
    endpoints: dict[str, EndpointConfig]  # by the network's name or id as the client wrote it
    links: list[str]  # legacy ones, on the default bridge
    ports: list[PortRequest]
    exposed: list[str]
    mounts: list[MountRequest]
    resources: dict[str, Any]
    block_devices: list[tuple[str, str, dict[str, int]]]  # see `resources.block_devices`
    read_only_root: bool
    init: bool
    auto_remove: bool
    restart: RestartPolicy
    healthcheck: Healthcheck | None
    privileged: bool
    cap_add: list[str]
    cap_drop: list[str]
    no_new_privileges: bool
    seccomp: Literal["default", "unconfined"] | dict[str, Any]
    apparmor: str
    writable_cgroups: bool | None
    masked_paths: list[str] | None
    readonly_paths: list[str] | None
    stop_signal: int
    stop_timeout_s: int
    shm_bytes: int
    sysctls: dict[str, str]
    rlimits: list[dict[str, Any]]
    devices: list[DeviceMapping]
    device_rules: list[dict[str, Any]]  # OCI device rules
    device_requests: list[DeviceRequest]
    oom_score_adj: int | None
    pid_mode: str
    ipc_mode: str
    uts_mode: str
    cgroupns_mode: str
    userns_mode: str
    cgroup_parent: str
    annotations: dict[str, str]
    dns: list[str]
    dns_search: list[str]
    dns_options: list[str]
    extra_hosts: list[str]
    log: LogOptions
    console_size: tuple[int, int] = field(default=(0, 0))  # rows, columns
