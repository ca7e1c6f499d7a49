"""What a client asked for, read from Docker's `Config` and `HostConfig` documents once and checked.

The documents themselves are stored and shown as they came; this module and `spec_gen` are the only readers of their
PascalCase fields. Whatever an engine cannot honour is refused here with a sentence that names the option.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from runtime.engine.options.devices import device_mapping, device_request, device_rule
from runtime.engine.options.fields import ip
from runtime.engine.options.lifetime import healthcheck, restart_policy
from runtime.engine.options.links import PREDEFINED, links, with_links
from runtime.engine.options.logs import log_options
from runtime.engine.options.model import Document, Options
from runtime.engine.options.mounts import mounts
from runtime.engine.options.namespaces import namespace_mode
from runtime.engine.options.networks import check_mode, endpoints, network_mode
from runtime.engine.options.ports import ports
from runtime.engine.options.resources import block_devices, resources, rlimit
from runtime.engine.options.security import capabilities, security_options
from runtime.engine.options.signals import parse_signal
from runtime.errors import InvalidParameter, NotSupported

DEFAULT_SHM_BYTES = 64 << 20
DEFAULT_STOP_TIMEOUT_S = 10

# Fields with a default that changes nothing: any other value is refused by name.
ONLY_VALUES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "Cgroup": ("Cgroup", (None, "")),
}
RUNTIMES = ("wherry", "runc", "io.containerd.runc.v2")  # other names for what is here


def parse(config: Document, host: Document, networking: Document, image: Document) -> Options:
    """Merge a create request with its image's config; raises InvalidParameter or NotSupported."""
    _refuse(config, host)
    env = _merge_env(image.get("Env") or [], config.get("Env") or [])
    mode = network_mode(host)
    check_mode(config, host, mode)
    security = security_options(host.get("SecurityOpt") or [])
    rows, columns = (host.get("ConsoleSize") or [0, 0])[:2]
    labels = {**(image.get("Labels") or {}), **(config.get("Labels") or {})}
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
        labels=labels,
        network_mode=mode,
        endpoints=with_links(endpoints(config, networking, mode), mode, links(host, mode)),
        links=links(host, mode) if mode in PREDEFINED else [],
        ports=ports(config, host, image),
        exposed=sorted({*(image.get("ExposedPorts") or {}), *(config.get("ExposedPorts") or {})}),
        mounts=mounts(config, host, image),
        resources=resources(host),
        block_devices=block_devices(host),
        read_only_root=bool(host.get("ReadonlyRootfs")),
        init=bool(host.get("Init")),
        auto_remove=bool(host.get("AutoRemove")),
        restart=restart_policy(host),
        healthcheck=healthcheck(config, image),
        privileged=bool(host.get("Privileged")),
        cap_add=capabilities(host.get("CapAdd") or []),
        cap_drop=capabilities(host.get("CapDrop") or []),
        no_new_privileges=security.no_new_privileges,
        seccomp=security.seccomp,
        apparmor=security.apparmor,
        writable_cgroups=security.writable_cgroups,
        masked_paths=[] if security.unmasked else host.get("MaskedPaths"),
        readonly_paths=[] if security.unmasked else host.get("ReadonlyPaths"),
        stop_signal=parse_signal(config.get("StopSignal") or image.get("StopSignal") or "SIGTERM"),
        stop_timeout_s=_stop_timeout(config.get("StopTimeout")),
        shm_bytes=host.get("ShmSize") or DEFAULT_SHM_BYTES,
        sysctls=dict(host.get("Sysctls") or {}),
        rlimits=[rlimit(limit) for limit in host.get("Ulimits") or []],
        devices=[device_mapping(document) for document in host.get("Devices") or []],
        device_rules=[device_rule(text) for text in host.get("DeviceCgroupRules") or []],
        device_requests=[device_request(document) for document in host.get("DeviceRequests") or []],
        oom_score_adj=host.get("OomScoreAdj") or None,
        pid_mode=namespace_mode("PidMode", host),
        ipc_mode=namespace_mode("IpcMode", host),
        uts_mode=namespace_mode("UTSMode", host),
        cgroupns_mode=namespace_mode("CgroupnsMode", host),
        userns_mode=namespace_mode("UsernsMode", host),
        cgroup_parent=host.get("CgroupParent") or "",
        annotations=_annotations(host),
        dns=[ip("--dns", address) for address in host.get("Dns") or []],
        dns_search=list(host.get("DnsSearch") or []),
        dns_options=list(host.get("DnsOptions") or []),
        extra_hosts=list(host.get("ExtraHosts") or []),
        log=log_options(host, labels, env),
        console_size=(int(rows), int(columns)),
    )


def _refuse(config: Document, host: Document) -> None:
    for name, (option, allowed) in ONLY_VALUES.items():
        if host.get(name) not in allowed:
            raise NotSupported(f"{option} {host[name]!r} is not supported by this version of Wherry: leave it out")
    if host.get("StorageOpt"):
        raise InvalidParameter("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    if (runtime := host.get("Runtime") or RUNTIMES[0]) not in RUNTIMES:
        raise InvalidParameter(f"unknown or invalid runtime name: {runtime}")
    if (isolation := host.get("Isolation") or "default") != "default":
        raise InvalidParameter(f"invalid isolation '{isolation}' on linux")
    if host.get("UTSMode") == "host" and config.get("Hostname"):
        raise InvalidParameter("conflicting options: hostname and the UTS mode")


def _annotations(host: Document) -> dict[str, str]:
    annotations = {str(name): str(value) for name, value in (host.get("Annotations") or {}).items()}
    if "" in annotations:
        raise InvalidParameter("invalid Annotations: the empty string is not permitted as an annotation key")
    return annotations


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
    """The request's variables and the image's others, as inspect shows them; `NAME` without `=` unsets at the start."""
    merged = list(own)
    for entry in merged:
        name = entry.partition("=")[0]
        if not name:
            raise InvalidParameter(f"invalid environment variable {entry!r}: a name is needed before the =")
        if "\0" in entry:
            raise InvalidParameter(f"invalid environment variable {name!r}: it holds a NUL byte")
    named = {entry.partition("=")[0] for entry in merged}
    return merged + [entry for entry in image if entry.partition("=")[0] not in named]


def _working_dir(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    return path


def _hostname(name: str) -> str:
    """What sethostname(2) takes, as in Docker, unless it would break the lines of /etc/hosts."""
    if len(name.encode()) > 64 or not name.isprintable() or re.search(r"\s", name):
        raise InvalidParameter(f"invalid hostname {name!r}: up to 64 bytes without spaces are allowed")
    return name


def _stop_timeout(value: Any) -> int:
    return DEFAULT_STOP_TIMEOUT_S if value is None else int(value)
