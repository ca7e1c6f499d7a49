"""From what was asked for to an OCI `config.json`: pure, so that a test can read every line of it.

https://github.com/opencontainers/runtime-spec/blob/main/config.md
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.container.ids import Ids, documents
from runtime.content.users import ResolvedUser
from runtime.engine import cdi, devices
from runtime.engine.options import Options
from runtime.engine.options.resources import with_block_devices
from runtime.errors import InvalidParameter
from runtime.linux import capabilities
from runtime.oci import defaults

OCI_VERSION = "1.2.0"
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT_PATH = "/sbin/docker-init"  # where Docker puts it; programs look for it there


@dataclass(frozen=True)
class HostMount:
    """A mount with everything about it decided: its source exists, its options are those of config.json.

    `stored`: the engine keeps what is bound, with the owners containers see, whatever user namespace they have.
    """

    source: str
    target: str
    options: tuple[str, ...] = ("rbind", "rprivate")
    type: str = "bind"
    stored: bool = False


@dataclass(frozen=True)
class Place:
    """Facts of this container on this host that the options cannot know."""

    rootfs: str
    hostname: str
    cgroups_path: str
    user: ResolvedUser
    mounts: list[HostMount]
    host_network: bool
    init_program: str | None
    link_env: list[str] = field(default_factory=list)
    joined_namespaces: Mapping[str, str] = field(default_factory=dict)  # kind → path of another container's
    shm_source: str = ""  # a directory that is /dev/shm for several containers
    cdi_spec_dirs: Sequence[Path] = ()
    user_ids: Ids | None = None  # of a user namespace


def check(options: Options) -> None:
    """Raises InvalidParameter for capabilities or a seccomp profile that no start could use."""
    bounding = effective_capabilities(options, options.privileged)
    if isinstance(options.seccomp, dict):
        _seccomp(options, bounding)


def effective_capabilities(options: Options, privileged: bool) -> list[str]:
    """The bounding set: Docker's defaults, with additions and removals (`ALL` may stand in either)."""
    every = _held_capabilities()
    for field_name, names in (("CapAdd", options.cap_add), ("CapDrop", options.cap_drop)):
        for name in names:
            if name != "ALL" and name not in capabilities.NAMES:
                raise InvalidParameter(f'invalid {field_name}: unknown capability: "{name}"')
    for name in options.cap_add:
        if name != "ALL" and name not in every:
            raise InvalidParameter(
                "invalid CapAdd: capability not supported by your kernel or not available in the current "
                f'environment: "{name}"'
            )
    if privileged:
        return list(every)
    base = every if "ALL" in options.cap_add else list(defaults.DEFAULT_CAPABILITIES)
    if "ALL" in options.cap_drop:
        base = [] if "ALL" not in options.cap_add else base
    kept = {name for name in base if name not in options.cap_drop} | (set(options.cap_add) - {"ALL"})
    return [name for name in every if name in kept]


@functools.cache
def _held_capabilities() -> list[str]:
    """What this engine can give: in a container of its own, not every capability there is."""
    held = capabilities.get().bounding
    return [name for name in capabilities.NAMES if name in held]


def generate(options: Options, place: Place) -> dict[str, Any]:
    """The whole spec as a JSON-ready dictionary."""
    bounding = effective_capabilities(options, options.privileged)
    nodes, allowed = devices.for_container(options.devices, options.device_rules, options.privileged)
    linux: dict[str, Any] = {
        "cgroupsPath": place.cgroups_path,
        "namespaces": _namespaces(options, place),
        "resources": _resources(options, allowed),
        "maskedPaths": _paths(options.masked_paths, defaults.masked_paths(), options.privileged),
        "readonlyPaths": _paths(options.readonly_paths, defaults.READONLY_PATHS, options.privileged),
        "devices": [*_default_devices(nodes), *nodes],
        "sysctl": _sysctls(options, place.host_network),
        "rootfsPropagation": _root_propagation(place),
    }
    if place.user_ids:
        linux["uidMappings"] = documents(place.user_ids.uids)
        linux["gidMappings"] = documents(place.user_ids.gids)
    if seccomp := _seccomp(options, bounding):
        linux["seccomp"] = seccomp
    spec: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": process(options, place, bounding),
        "root": {"path": place.rootfs, "readonly": options.read_only_root},
        "mounts": _mounts(options, place),
        "linux": linux,
    }
    if options.annotations:
        spec["annotations"] = options.annotations
    if options.uts_mode != "host":
        spec["hostname"] = place.hostname
        if options.domainname:
            spec["domainname"] = options.domainname
    cdi.inject(spec, options.device_requests, place.cdi_spec_dirs)
    return spec


def _default_devices(others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    replaced = {device["path"] for device in others}
    return [dict(device) for device in defaults.DEFAULT_DEVICES if device["path"] not in replaced]


def process(options: Options, place: Place, bounding: list[str]) -> dict[str, Any]:
    """The OCI process object of the container's own process."""
    args = [INIT_PATH, "--", *options.args] if place.init_program else options.args
    result: dict[str, Any] = {
        "terminal": options.tty,
        "user": oci_user(place.user),
        "args": args,
        "env": environment(options.env, options.tty, place.hostname, place.user.home, place.link_env),
        "cwd": options.working_dir,
        "capabilities": capability_sets(bounding, place.user.uid),
        "noNewPrivileges": options.no_new_privileges,
        "rlimits": options.rlimits,
    }
    if options.oom_score_adj is not None:
        result["oomScoreAdj"] = options.oom_score_adj
    if profile := apparmor_profile(options):
        result["apparmorProfile"] = profile
    if any(options.console_size):
        rows, columns = options.console_size
        result["consoleSize"] = {"height": rows, "width": columns}
    return result


def oci_user(user: ResolvedUser) -> dict[str, Any]:
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids)}


def apparmor_profile(options: Options) -> str:
    """ "" leaves the program with the engine's own."""
    return options.apparmor or ("unconfined" if options.privileged else "")


def capability_sets(bounding: list[str], uid: int) -> dict[str, list[str]]:
    """As Docker: another user than root has them in its bounding set only (capabilities(7))."""
    held = bounding if uid == 0 else []
    return {"bounding": bounding, "effective": held, "permitted": held}


def environment(asked: Sequence[str], tty: bool, hostname: str, home: str, link_env: Sequence[str] = ()) -> list[str]:
    """`asked` by image and user, behind PATH, HOSTNAME, TERM and links', which it overrides; HOME in any case."""
    term = ["TERM=xterm"] if tty else []
    ours = [DEFAULT_PATH, f"HOSTNAME={hostname}", *term, *link_env]
    variables: dict[str, str] = {}
    for entry in [*ours, *asked]:
        name, equals, _ = entry.partition("=")
        if equals:
            variables[name] = entry
        else:  # a name alone unsets it
            variables.pop(name, None)
    variables.setdefault("HOME", f"HOME={home}")
    return list(variables.values())


def _namespaces(options: Options, place: Place) -> list[dict[str, str]]:
    unshared = {
        "mount": True,
        "pid": options.pid_mode != "host",
        "uts": options.uts_mode != "host",
        "ipc": options.ipc_mode != "host",
        "network": not place.host_network,
        "cgroup": options.cgroupns_mode != "host",
        "user": place.user_ids is not None,
    }
    listed = [{"type": kind} for kind, wanted in unshared.items() if wanted]
    for namespace in listed:
        if path := place.joined_namespaces.get(namespace["type"]):
            namespace["path"] = path
    return listed


def _paths(own: list[str] | None, default: tuple[str, ...], privileged: bool) -> list[str]:
    if own is not None:
        return own
    return [] if privileged else list(default)


def _sysctls(options: Options, host_network: bool) -> dict[str, str]:
    """Docker's defaults: low ports and ping need no privilege inside a network namespace of one's own."""
    ours = {} if host_network else {"net.ipv4.ip_unprivileged_port_start": "0"}
    if not host_network and not options.privileged:
        ours["net.ipv4.ping_group_range"] = "0 2147483647"
    return {**ours, **options.sysctls}


def _seccomp(options: Options, bounding: list[str]) -> Any:
    if options.seccomp == "unconfined" or (options.privileged and options.seccomp == "default"):
        return None
    if options.seccomp == "default":
        return defaults.default_seccomp(bounding)
    return defaults.load_seccomp_profile(options.seccomp, bounding)


_SHARING = frozenset(("shared", "rshared", "slave", "rslave"))


def _root_propagation(place: Place) -> str:
    """What is mounted below is private already, but for the mounts that asked to share or follow the host's."""
    return "rprivate" if all(_SHARING.isdisjoint(mount.options) for mount in place.mounts) else "private"


def _mounts(options: Options, place: Place) -> list[dict[str, Any]]:
    own_targets = {mount.target for mount in place.mounts}
    mounts: list[dict[str, Any]] = [
        dict(mount)
        for mount in defaults.default_mounts(options.shm_bytes)
        if mount["destination"] not in own_targets
        and not ("/dev" in own_targets and mount["destination"].startswith("/dev/"))
    ]
    if options.ipc_mode == "none":
        mounts = [mount for mount in mounts if mount["destination"] != "/dev/shm"]
    rw_cgroups = options.privileged if options.writable_cgroups is None else options.writable_cgroups
    for mount in mounts:
        if place.shm_source and mount["destination"] == "/dev/shm":
            shifted = ["idmap"] if place.user_ids and options.ipc_mode != "host" else []
            mount.update(type="bind", source=place.shm_source, options=["rbind", "rprivate", *shifted])
        if (options.privileged and mount["destination"] == "/sys") or (
            rw_cgroups and mount["destination"] == "/sys/fs/cgroup"
        ):
            mount["options"] = [option for option in mount["options"] if option != "ro"] + ["rw"]
    for own in place.mounts:
        shifted = ["idmap"] if own.stored and place.user_ids else []
        mounts.append(_mount(own.type, own.source, own.target, [*own.options, *shifted]))
    if place.init_program:
        mounts.append(_mount("bind", place.init_program, INIT_PATH, ["bind", "ro"]))
    return mounts


def _mount(type: str, source: str, destination: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": type, "source": source, "options": options}


def _resources(options: Options, allowed: list[dict[str, Any]]) -> dict[str, Any]:
    limits = with_block_devices(options.resources, options.block_devices)
    rules: list[dict[str, Any]] = [dict(rule) for rule in defaults.DEFAULT_DEVICE_RULES]
    return {**limits, "devices": [*rules, *allowed]}
