"""What a client asked for, read from Docker's `Config` and `HostConfig` documents once and checked.

The documents themselves are stored and shown as they came; this module and `spec_gen` are the only readers of their
PascalCase fields. Whatever an engine cannot honour is refused here with a sentence that names the option.
"""

from __future__ import annotations

import ipaddress
import json
import re
import signal
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from runtime.errors import InvalidParameter, NotSupported

Document = Mapping[str, Any]

MIN_MEMORY_BYTES = 6 << 20  # Docker's minimum
DEFAULT_SHM_BYTES = 64 << 20
DEFAULT_STOP_TIMEOUT_S = 10

# HostConfig fields that later versions will honour: any value but an empty one is refused by name.
REFUSED_HOST_FIELDS: dict[str, str] = {
    "BlkioWeight": "--blkio-weight",
    "BlkioWeightDevice": "--blkio-weight-device",
    "BlkioDeviceReadBps": "--device-read-bps",
    "BlkioDeviceWriteBps": "--device-write-bps",
    "BlkioDeviceReadIOps": "--device-read-iops",
    "BlkioDeviceWriteIOps": "--device-write-iops",
    "CgroupParent": "--cgroup-parent",
    "CpuRealtimePeriod": "--cpu-rt-period",
    "CpuRealtimeRuntime": "--cpu-rt-runtime",
    "DeviceCgroupRules": "--device-cgroup-rule",
    "DeviceRequests": "--gpus",
    "Links": "--link",
    "StorageOpt": "--storage-opt",
    "VolumeDriver": "--volume-driver",
    "VolumesFrom": "--volumes-from",
}
# Fields with a default that changes nothing: any other value is refused by name.
ONLY_VALUES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "Isolation": ("--isolation", (None, "", "default")),
    "Runtime": ("--runtime", (None, "", "runc", "wherry")),
    "UsernsMode": ("--userns", (None, "", "host")),
    "OomKillDisable": ("--oom-kill-disable", (None, False)),
    "MemorySwappiness": ("--memory-swappiness", (None, -1)),
    "Cgroup": ("Cgroup", (None, "")),
}
RESTART_POLICIES = ("", "no")
LOG_DRIVERS = ("", "json-file")

MountKind = Literal["bind", "volume", "tmpfs"]


@dataclass(frozen=True)
class MountRequest:
    """One `-v`, `--mount` or `--tmpfs`; `source` is a host path, a volume's name, or empty (anonymous volume)."""

    kind: MountKind
    target: str
    source: str = ""
    read_only: bool = False
    propagation: str = "rprivate"
    create_source: bool = False  # `-v` makes a missing directory, `--mount` refuses
    options: tuple[str, ...] = ()  # tmpfs mount options
    no_copy: bool = False


@dataclass(frozen=True)
class PortRequest:
    """One published port; `host_port` 0 asks for a free one, `host_ip` "" for every address."""

    container_port: int
    protocol: str
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


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
    static_ip: str
    mac_address: str
    ports: list[PortRequest]
    exposed: list[str]
    mounts: list[MountRequest]
    resources: dict[str, Any]
    read_only_root: bool
    init: bool
    auto_remove: bool
    privileged: bool
    cap_add: list[str]
    cap_drop: list[str]
    no_new_privileges: bool
    seccomp: Literal["default", "unconfined"] | dict[str, Any]
    masked_paths: list[str] | None
    readonly_paths: list[str] | None
    stop_signal: int
    stop_timeout_s: int
    shm_bytes: int
    sysctls: dict[str, str]
    rlimits: list[dict[str, Any]]
    devices: list[dict[str, str]]
    oom_score_adj: int | None
    pid_mode: str
    ipc_mode: str
    uts_mode: str
    cgroupns_mode: str
    dns: list[str]
    dns_search: list[str]
    dns_options: list[str]
    extra_hosts: list[str]
    console_size: tuple[int, int] = field(default=(0, 0))  # rows, columns


def parse(config: Document, host: Document, networking: Document, image: Document) -> Options:
    """Merge a create request with its image's config; raises InvalidParameter or NotSupported."""
    _refuse(config, host)
    env = _merge_env(image.get("Env") or [], config.get("Env") or [])
    endpoint = _endpoint(networking, host)
    security = _security(host.get("SecurityOpt") or [])
    rows, columns = (host.get("ConsoleSize") or [0, 0])[:2]
    return Options(
        args=_args(config, image),
        env=env,
        working_dir=_working_dir(config.get("WorkingDir") or image.get("WorkingDir") or "/"),
        user=config.get("User") or image.get("User") or "",
        groups=[str(group) for group in host.get("GroupAdd") or []],
        tty=bool(config.get("Tty")),
        open_stdin=bool(config.get("OpenStdin")),
        stdin_once=bool(config.get("StdinOnce")),
        hostname=_hostname(config.get("Hostname") or ""),
        domainname=config.get("Domainname") or "",
        labels={**(image.get("Labels") or {}), **(config.get("Labels") or {})},
        network_mode=_network_mode(host.get("NetworkMode") or ""),
        static_ip=((endpoint.get("IPAMConfig") or {}).get("IPv4Address")) or "",
        mac_address=endpoint.get("MacAddress") or config.get("MacAddress") or "",
        ports=_ports(config, host, image),
        exposed=sorted({*(image.get("ExposedPorts") or {}), *(config.get("ExposedPorts") or {})}),
        mounts=_mounts(config, host, image),
        resources=_resources(host),
        read_only_root=bool(host.get("ReadonlyRootfs")),
        init=bool(host.get("Init")),
        auto_remove=bool(host.get("AutoRemove")),
        privileged=bool(host.get("Privileged")),
        cap_add=_capabilities("--cap-add", host.get("CapAdd") or []),
        cap_drop=_capabilities("--cap-drop", host.get("CapDrop") or []),
        no_new_privileges=security.no_new_privileges,
        seccomp=security.seccomp,
        masked_paths=[] if security.unmasked else host.get("MaskedPaths"),
        readonly_paths=[] if security.unmasked else host.get("ReadonlyPaths"),
        stop_signal=parse_signal(config.get("StopSignal") or image.get("StopSignal") or "SIGTERM"),
        stop_timeout_s=_stop_timeout(config.get("StopTimeout")),
        shm_bytes=host.get("ShmSize") or DEFAULT_SHM_BYTES,
        sysctls=dict(host.get("Sysctls") or {}),
        rlimits=[_rlimit(limit) for limit in host.get("Ulimits") or []],
        devices=list(host.get("Devices") or []),
        oom_score_adj=host.get("OomScoreAdj") or None,
        pid_mode=_own_or("PidMode", "--pid", host, ("", "private", "host")),
        ipc_mode=_own_or("IpcMode", "--ipc", host, ("", "private", "shareable", "none", "host")),
        uts_mode=_own_or("UTSMode", "--uts", host, ("", "private", "host")),
        cgroupns_mode=_own_or("CgroupnsMode", "--cgroupns", host, ("", "private", "host")),
        dns=[_ip("--dns", address) for address in host.get("Dns") or []],
        dns_search=list(host.get("DnsSearch") or []),
        dns_options=list(host.get("DnsOptions") or []),
        extra_hosts=list(host.get("ExtraHosts") or []),
        console_size=(int(rows), int(columns)),
    )


def _refuse(config: Document, host: Document) -> None:
    for name, option in REFUSED_HOST_FIELDS.items():
        if host.get(name):
            raise NotSupported(f"{option} ({name}) is not supported by this version of Wherry: leave it out")
    for name, (option, allowed) in ONLY_VALUES.items():
        if host.get(name) not in allowed:
            raise NotSupported(f"{option} {host[name]!r} is not supported by this version of Wherry: leave it out")
    policy = (host.get("RestartPolicy") or {}).get("Name") or ""
    if policy not in RESTART_POLICIES:
        raise NotSupported(f"--restart {policy} is not supported by this version of Wherry: leave it out")
    driver = (host.get("LogConfig") or {}).get("Type") or ""
    if driver not in LOG_DRIVERS:
        raise NotSupported(f"--log-driver {driver} is not supported by this version of Wherry: use json-file")
    if (host.get("LogConfig") or {}).get("Config"):
        raise NotSupported("--log-opt is not supported by this version of Wherry: leave it out")
    health = (config.get("Healthcheck") or {}).get("Test") or []
    if health and health != ["NONE"]:
        raise NotSupported("--health-cmd is not supported by this version of Wherry: leave it out")


def _args(config: Document, image: Document) -> list[str]:
    entrypoint = _words("Entrypoint", config.get("Entrypoint"))
    command = _words("Cmd", config.get("Cmd"))
    if entrypoint is None:
        entrypoint = image.get("Entrypoint") or []
        if not command:
            command = image.get("Cmd") or []
    elif entrypoint == [""]:  # `--entrypoint ""` clears the image's
        entrypoint = []
    args = [*entrypoint, *(command or [])]
    if not args:
        raise InvalidParameter("no command specified: give one, or use an image that has a CMD or ENTRYPOINT")
    return args


def _words(name: str, value: Any) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise InvalidParameter(f"invalid {name}: a list of strings is needed")
    return value


def _merge_env(image: Iterable[str], own: Iterable[str]) -> list[str]:
    """The image's variables, overridden by the request's; `NAME` without `=` unsets (Docker's semantics)."""
    merged: dict[str, str | None] = {}
    for entry in [*image, *own]:
        name, equals, value = entry.partition("=")
        if not name:
            raise InvalidParameter(f"invalid environment variable {entry!r}: a name is needed before the =")
        if "\0" in entry:
            raise InvalidParameter(f"invalid environment variable {name!r}: it holds a NUL byte")
        merged[name] = value if equals else None
    return [f"{name}={value}" for name, value in merged.items() if value is not None]


def _working_dir(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    return path


def _hostname(name: str) -> str:
    if len(name) > 63 or not re.fullmatch(r"[A-Za-z0-9]?[A-Za-z0-9._-]*", name):
        raise InvalidParameter(f"invalid hostname {name!r}: up to 63 letters, digits, '-' and '.' are allowed")
    return name


def _network_mode(mode: str) -> str:
    return "bridge" if mode in ("", "default") else mode


def _endpoint(networking: Document, host: Document) -> Document:
    endpoints = networking.get("EndpointsConfig") or {}
    mode = host.get("NetworkMode") or "default"
    if len(endpoints) > 1:
        raise NotSupported("more than one network at create is not supported by this version of Wherry")
    return endpoints.get(mode) or endpoints.get(_network_mode(mode)) or {}


def _ip(option: str, address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise InvalidParameter(f"{option} {address!r} is not an IP address") from None


def _own_or(name: str, option: str, host: Document, allowed: tuple[str, ...]) -> str:
    mode = host.get(name) or ""
    if mode not in allowed:
        raise NotSupported(f"{option} {mode} is not supported by this version of Wherry: use {allowed[1:]}")
    return str(mode)


# --- ports


def _ports(config: Document, host: Document, image: Document) -> list[PortRequest]:
    requests = []
    for key, bindings in (host.get("PortBindings") or {}).items():
        port, protocol = parse_port(key)
        for binding in bindings or [{}]:
            address = binding.get("HostIp") or ""
            first, last = _host_ports(binding.get("HostPort") or "")
            requests.append(PortRequest(port, protocol, _ip("-p", address) if address else "", first, last))
    if host.get("PublishAllPorts"):
        exposed = {*(image.get("ExposedPorts") or {}), *(config.get("ExposedPorts") or {})}
        published = {(request.container_port, request.protocol) for request in requests}
        requests += [PortRequest(*key) for key in sorted(map(parse_port, exposed)) if key not in published]
    return requests


def parse_port(text: str) -> tuple[int, str]:
    """`80/tcp` or `80` → (80, "tcp"); raises InvalidParameter."""
    number, _, protocol = text.partition("/")
    protocol = protocol or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidParameter(f"invalid port {text!r}: the protocol must be tcp, udp or sctp")
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise InvalidParameter(f"invalid port {text!r}: a number from 1 to 65535 is needed")
    return int(number), protocol


def _host_ports(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    try:
        numbers = int(first or 0), int(last or first or 0)
    except ValueError:
        raise InvalidParameter(f"invalid hostPort: {text}") from None
    if not 0 <= numbers[0] <= numbers[1] < 65536:
        raise InvalidParameter(f"invalid hostPort: {text}: ports go from 1 to 65535")
    return numbers


# --- mounts


def _mounts(config: Document, host: Document, image: Document) -> list[MountRequest]:
    """Every mount by its target: `-v` and `--mount` first, then tmpfs, then the image's volumes."""
    requests = [_bind(text) for text in host.get("Binds") or []]
    requests += [_mount(document) for document in host.get("Mounts") or []]
    for target, options in (host.get("Tmpfs") or {}).items():
        requests.append(MountRequest("tmpfs", _target(target), options=_tmpfs_options(options)))
    by_target: dict[str, MountRequest] = {}
    for request in requests:
        if request.target in by_target:
            raise InvalidParameter(f"Duplicate mount point: {request.target}")
        by_target[request.target] = request
    for target in {**(image.get("Volumes") or {}), **(config.get("Volumes") or {})}:
        by_target.setdefault(_target(target), MountRequest("volume", _target(target)))
    return [by_target[target] for target in sorted(by_target, key=lambda path: path.count("/"))]


def _target(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{path}' mount path must be absolute")
    normal = str(PurePosixPath(path))
    if normal == "/" or ".." in PurePosixPath(path).parts:
        raise InvalidParameter(f"invalid mount path: '{path}': destination can't be '/' and can't hold '..'")
    return normal


VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def _bind(text: str) -> MountRequest:
    """`source:target[:modes]` of `-v`; one part is an anonymous volume's target."""
    parts = text.split(":")
    if len(parts) == 1:
        return MountRequest("volume", _target(parts[0]))
    if len(parts) > 3 or not parts[0] or not parts[1]:
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    source, target = parts[0], _target(parts[1])
    read_only, propagation, no_copy = False, "rprivate", False
    for mode in filter(None, parts[2].split(",") if len(parts) == 3 else []):
        if mode in ("ro", "readonly"):
            read_only = True
        elif mode in PROPAGATIONS:
            propagation = mode
        elif mode == "nocopy":
            no_copy = True
        elif mode not in ("rw", "z", "Z", "cached", "delegated", "consistent"):
            raise InvalidParameter(f"invalid mode: {mode} in volume specification '{text}'")
    if source.startswith("/"):
        return MountRequest("bind", target, source, read_only, propagation, create_source=True)
    if not VOLUME_NAME.fullmatch(source):
        raise InvalidParameter(
            f'create {source}: "{source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    return MountRequest("volume", target, source, read_only, no_copy=no_copy)


def _mount(document: Document) -> MountRequest:
    kind, target = document.get("Type"), _target(document.get("Target") or "")
    source, read_only = document.get("Source") or "", bool(document.get("ReadOnly"))
    if kind == "bind":
        if not source.startswith("/"):
            raise InvalidParameter(
                f"invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
            )
        bind = document.get("BindOptions") or {}
        return MountRequest(
            "bind",
            target,
            source,
            read_only,
            bind.get("Propagation") or "rprivate",
            create_source=bool(bind.get("CreateMountpoint")),
        )
    if kind == "volume":
        volume = document.get("VolumeOptions") or {}
        if volume.get("Subpath") or (volume.get("DriverConfig") or {}).get("Options"):
            raise NotSupported("volume options in --mount are not supported by this version of Wherry")
        return MountRequest("volume", target, source, read_only, no_copy=bool(volume.get("NoCopy")))
    if kind == "tmpfs":
        options = document.get("TmpfsOptions") or {}
        words = [f"size={options['SizeBytes']}"] if options.get("SizeBytes") else []
        words += [f"mode={options['Mode']:o}"] if options.get("Mode") else []
        return MountRequest("tmpfs", target, options=_tmpfs_options(",".join(words)))
    raise NotSupported(f"--mount type={kind} is not supported by this version of Wherry: use bind, volume or tmpfs")


TMPFS_OPTIONS = re.compile(
    r"(ro|rw|exec|noexec|suid|nosuid|dev|nodev|(no|rel)?atime|size=\d+[kKmMgG%]?|mode=[0-7]+|uid=\d+|gid=\d+"
    r"|nr_inodes=\d+[kKmMgG]?)"
)


def _tmpfs_options(text: str) -> tuple[str, ...]:
    """Docker's defaults (noexec,nosuid,nodev) with the request's options behind them."""
    options = [option for option in text.split(",") if option]
    for option in options:
        if not TMPFS_OPTIONS.fullmatch(option):
            raise InvalidParameter(f'invalid tmpfs option ["{option}"]')
    return ("noexec", "nosuid", "nodev", *options)


# --- limits and security


def _resources(host: Document) -> dict[str, Any]:
    """The OCI `linux.resources` object of the request's limits, without device rules."""
    memory = _amount(host, "Memory", "--memory")
    if memory and memory < MIN_MEMORY_BYTES:
        raise InvalidParameter(f"Minimum memory limit allowed is 6MB: --memory {memory} is less, give at least 6m")
    reservation = _amount(host, "MemoryReservation", "--memory-reservation")
    if memory and reservation > memory:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit")
    swap = host.get("MemorySwap") or 0
    if swap > 0 and not memory:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit")
    if swap > 0 and swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit")
    limits = {
        "limit": memory,
        "reservation": reservation,
        "swap": swap,
    }
    cpu: dict[str, Any] = {
        "shares": _amount(host, "CpuShares", "--cpu-shares"),
        "quota": host.get("CpuQuota") or 0,
        "period": _amount(host, "CpuPeriod", "--cpu-period"),
        "cpus": host.get("CpusetCpus") or "",
        "mems": host.get("CpusetMems") or "",
    }
    nano_cpus = _amount(host, "NanoCpus", "--cpus")
    if nano_cpus:
        if cpu["quota"] or cpu["period"]:
            raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set")
        cpu["period"], cpu["quota"] = 100_000, nano_cpus // 10_000
        if cpu["quota"] < 1000:
            raise InvalidParameter("--cpus is too small: give at least 0.01")
    pids = host.get("PidsLimit") or 0
    resources: dict[str, Any] = {}
    for name, values in (("memory", limits), ("cpu", cpu)):
        if kept := {key: value for key, value in values.items() if value}:
            resources[name] = kept
    if pids > 0:
        resources["pids"] = {"limit": pids}
    return resources


def _amount(host: Document, name: str, option: str) -> int:
    value = host.get(name) or 0
    if not isinstance(value, int) or value < 0:
        raise InvalidParameter(f"invalid {option} ({name}): {value!r} is not a whole number of 0 or more")
    return value


def _rlimit(limit: Document) -> dict[str, Any]:
    name = str(limit.get("Name") or "").upper()
    hard, soft = limit.get("Hard", -1), limit.get("Soft", -1)
    if hard != -1 and (soft == -1 or soft > hard):
        raise InvalidParameter(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    infinite = 0xFFFFFFFFFFFFFFFF
    return {
        "type": name if name.startswith("RLIMIT_") else f"RLIMIT_{name}",
        "hard": infinite if hard == -1 else hard,
        "soft": infinite if soft == -1 else soft,
    }


def _capabilities(option: str, names: Iterable[str]) -> list[str]:
    result = []
    for name in names:
        upper = name.upper()
        if not re.fullmatch(r"[A-Z_]+", upper):
            raise InvalidParameter(f"invalid {option}: unknown capability: {name!r}")
        result.append(upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}")
    return result


@dataclass
class _Security:
    no_new_privileges: bool = False
    unmasked: bool = False
    seccomp: Literal["default", "unconfined"] | dict[str, Any] = "default"


def _security(options: Iterable[str]) -> _Security:
    security = _Security()
    for text in options:
        name, _, value = text.replace(":", "=", 1).partition("=") if "=" not in text else text.partition("=")
        if name == "no-new-privileges":
            security.no_new_privileges = value in ("", "true")
        elif name == "seccomp":
            security.seccomp = _seccomp(value)
        elif name == "systempaths" and value == "unconfined":
            security.unmasked = True
        elif name in ("label", "apparmor") and value in ("disable", "unconfined"):
            continue  # neither is in force here, so there is nothing to switch off
        else:
            raise NotSupported(f"--security-opt {text} is not supported by this version of Wherry: leave it out")
    return security


def _seccomp(value: str) -> Literal["default", "unconfined"] | dict[str, Any]:
    if value == "unconfined":
        return "unconfined"
    if value in ("", "builtin"):
        return "default"
    try:
        profile = json.loads(value)
    except ValueError as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from None
    if not isinstance(profile, dict):
        raise InvalidParameter("Decoding seccomp profile failed: a JSON object is needed")
    return profile


def parse_signal(text: str) -> int:
    """`SIGTERM`, `TERM` or `15` → 15; raises InvalidParameter (signal(7))."""
    upper = text.strip().upper()
    if upper.isdigit():
        number = int(upper)
    else:
        name = upper if upper.startswith("SIG") else f"SIG{upper}"
        if (match := re.fullmatch(r"SIGRTM(IN|AX)([+-]\d+)", name)) is not None:
            number = (signal.SIGRTMIN if match[1] == "IN" else signal.SIGRTMAX) + int(match[2])
        else:
            number = getattr(signal, name, 0) if name not in ("SIG_DFL", "SIG_IGN") else 0
    if not 0 < number <= signal.SIGRTMAX:
        raise InvalidParameter(f"invalid signal: {text}")
    return int(number)


def _stop_timeout(value: Any) -> int:
    return DEFAULT_STOP_TIMEOUT_S if value is None else int(value)


def anonymous_volume_name() -> str:
    return uuid.uuid4().hex + uuid.uuid4().hex
