"""config.json and host facts, compiled into the ordered phases `init` applies.

Order is the design here; each line says why it stands where it stands if that is not plain. Everything that touches
mounts happens before pivot_root, through descriptors, with the host's /proc still in place.
"""

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from runtime.container import mount_options
from runtime.container.facts import HostFacts
from runtime.container.hooks import RunHooks
from runtime.container.ids import Ids, ids_of
from runtime.container.init import Plan, Program
from runtime.container.op import Op, Phase, Refused
from runtime.container.ops_console import OpenConsole, OwnStdio, UseStdio
from runtime.container.ops_mount import (
    BindMount,
    BindRoot,
    IsolateMounts,
    LinkInDev,
    MakeDevice,
    MakeDirectory,
    MaskPaths,
    MountCgroupV1,
    MountFilesystem,
    MountOverlayRoot,
    OpenTree,
    PivotRoot,
    ReadonlyPaths,
    ReadonlyRoot,
    SetRootPropagation,
    UseCurrentRoot,
)
from runtime.container.ops_process import (
    AwaitStart,
    BecomeUndumpable,
    BecomeUser,
    ChangeDirectory,
    DropBoundingCapabilities,
    EnterContainer,
    EnterNamespace,
    InstallSeccomp,
    JoinCgroup,
    NewCgroupNamespace,
    NewSessionKeyring,
    RuntimeHooks,
    SetApparmorProfile,
    SetCapabilities,
    SetDomainname,
    SetHome,
    SetHostname,
    SetNoNewPrivileges,
    SetOomScore,
    SetRlimit,
    SetSelinuxLabel,
    Sysctl,
)
from runtime.container.ops_user_namespace import (
    EnterUserNamespace,
    MakeFilesAsItsRoot,
    MakeUserNamespace,
    OpenUserNamespace,
)
from runtime.linux import mounts, namespaces
from runtime.oci.sysctl import sysctl_namespace

if TYPE_CHECKING:
    from runtime.oci.spec import Device, Linux, Mount, Namespace, Process, Spec, User

NAMESPACE_FLAGS = {
    "cgroup": namespaces.CLONE_NEWCGROUP,
    "ipc": namespaces.CLONE_NEWIPC,
    "mount": namespaces.CLONE_NEWNS,
    "network": namespaces.CLONE_NEWNET,
    "pid": namespaces.CLONE_NEWPID,
    "time": namespaces.CLONE_NEWTIME,
    "uts": namespaces.CLONE_NEWUTS,
}

_DEFAULT_DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
"""runtime-spec config-linux.md "Default Devices"; the console and ptmx are made differently."""

_DEV_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)

_ROOT_USER: "User" = {"uid": 0, "gid": 0}

_DEVICE_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class Stdio(NamedTuple):
    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None


class Launch(NamedTuple):
    """What a start is given besides config.json.

    `overlay` ({lower, upper, work}) replaces root.path as what is mounted as the root. `join` are cgroup.procs
    files. `netns` replaces a new network namespace. `start_fifo` makes init wait for `start`; `runtime_hooks` says
    that the parent answers when init asks for the hooks of the runtime namespace. `ids` are the maps of the user
    namespace of the container an exec goes to, if it has one.
    """

    id: str
    bundle: str
    stdio: Stdio
    overlay: Mapping[str, Any] | None = None
    join: Sequence[str] = ()
    netns: int | None = None
    seccomp: bytes | None = None
    seccomp_flags: int = 0
    start_fifo: int | None = None
    runtime_hooks: bool = False
    ids: Ids | None = None


def clone_flags(spec: "Spec", netns: int | None) -> int:
    """The namespaces the child is born with; those with a path are joined, and cgroup's is made later."""
    flags = 0
    for namespace in spec.get("linux", {}).get("namespaces", ()):
        kind = namespace["type"]
        if kind == "user":
            continue  # made and entered by init
        if kind not in NAMESPACE_FLAGS:
            raise Refused(errno.ENOTSUP, f'a container with a namespace of type "{kind}" cannot be started here')
        if not namespace.get("path") and kind != "cgroup" and not (kind == "network" and netns is not None):
            flags |= NAMESPACE_FLAGS[kind]
    if not flags & namespaces.CLONE_NEWNS:
        raise Refused(errno.EINVAL, 'linux.namespaces in config.json needs a new "mount" namespace')
    return flags


def pid_namespace_path(spec: "Spec") -> str | None:
    """The PID namespace to be born in, if config.json names one: joining it later would move only children."""
    for namespace in spec.get("linux", {}).get("namespaces", ()):
        if namespace["type"] == "pid":
            return namespace.get("path")
    return None


def compile_container(spec: "Spec", launch: Launch, facts: HostFacts) -> Plan:
    """The plan of a container's own process; raises Refused for what cannot be done."""
    linux = spec.get("linux", {})
    process = spec["process"]
    hooks = spec.get("hooks", {})
    state = {
        "ociVersion": spec["ociVersion"],
        "id": launch.id,
        "status": "creating",
        "bundle": launch.bundle,
        "annotations": spec.get("annotations", {}),
    }
    has_runtime_hooks = bool(hooks.get("prestart") or hooks.get("createRuntime"))
    if has_runtime_hooks and not launch.runtime_hooks:
        raise Refused(
            errno.ENOTSUP,
            "prestart and createRuntime hooks are not run here: start the bundle with `python -m runtime oci`",
        )

    prepare = [
        Phase("stdio", [UseStdio(*launch.stdio)]),
        Phase("namespaces", _user_namespace(linux)),
        # Through the host's /proc and cgroupfs, and before anything is counted: so first.
        Phase("cgroup", _group(process, launch.join, facts)),
        Phase("namespaces", _namespaces(linux, launch)),
        Phase("root", _root(spec, launch)),
        Phase("hooks", [RuntimeHooks()] if has_runtime_hooks else []),
        Phase("mounts", _mounts(spec, launch, facts)),
        Phase("devices", _devices(spec, facts)),
        Phase("console", _console(process, mount=True)),
        Phase("hooks", _hooks("createContainer", hooks, state)),
        # Written through the host's /proc: the container's may be anything.
        Phase("sysctls", _sysctls(linux)),
        Phase("identity", _names(spec)),
        Phase("paths", _paths(spec)),
        Phase("security", _labels(process, facts)),
        Phase("root", _enter_root(linux)),
        Phase("rlimits", _rlimits(process, facts)),
        *_user(process, launch, user_namespace_ids(spec)),
    ]
    commit = [
        Phase("start", [AwaitStart(launch.start_fifo)] if launch.start_fifo is not None else []),
        *_last(process, launch.seccomp, launch.seccomp_flags),
        Phase("hooks", _hooks("startContainer", hooks, {**state, "status": "created", "pid": 1})),
    ]
    return Plan(_program(process), prepare, commit)


def mount_ops(spec: "Spec", launch: Launch, facts: HostFacts) -> list[Op]:
    """What of `compile_container` makes the tree of mounts, in order."""
    return [
        *_root(spec, launch),
        *_mounts(spec, launch, facts),
        *_devices(spec, facts),
        *_paths(spec),
    ]


def compile_exec(
    process: "Process",
    launch: Launch,
    container: int,
    facts: HostFacts,
    pid_namespace: int = 0,
) -> Plan:
    """The plan of another process in the container whose init is open at `container`, a pidfd.

    With CLONE_NEWPID as `pid_namespace`, whoever applies it is not in the container's yet: its children are to be.
    """
    prepare = [
        Phase("stdio", [UseStdio(*launch.stdio)]),
        Phase("cgroup", _group(process, launch.join, facts)),
        # The profile is written before our /proc is the container's.
        Phase("security", [BecomeUndumpable(), *_labels(process, facts)]),
        Phase(
            "namespaces",
            [EnterContainer(container, _JOINED | pid_namespace, launch.ids), NewSessionKeyring(launch.id)],
        ),
        Phase("root", [UseCurrentRoot()]),
        Phase("console", _console(process, mount=False)),
        Phase("rlimits", _rlimits(process, facts)),
        *_user(process, launch, launch.ids),
    ]
    return Plan(_program(process), prepare, _last(process, launch.seccomp, launch.seccomp_flags))


_JOINED = (
    namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWUTS
    | namespaces.CLONE_NEWIPC
    | namespaces.CLONE_NEWNET
    | namespaces.CLONE_NEWCGROUP
)
"""Joining a namespace one is in already changes nothing, so the kinds a container shares need no exception."""


def _program(process: "Process") -> Program:
    args = process.get("args")
    if not args:
        raise Refused(errno.EINVAL, "process.args in config.json is empty: there is nothing to run")
    environment = {}
    for entry in process.get("env", ()):
        name, equals, value = entry.partition("=")
        if equals and name:
            environment[name] = value
    return Program(args, environment)


def _group(process: "Process", join: Sequence[str], facts: HostFacts) -> list[Op]:
    ops: list[Op] = [JoinCgroup(path) for path in join]
    # The default, not what the launcher was given: a service manager may shield it from the OOM killer.
    adjustment = process.get("oomScoreAdj", 0)
    if adjustment != facts.oom_score_adj:
        ops.append(SetOomScore(adjustment))
    return ops


def user_namespace_ids(spec: "Spec") -> Ids | None:
    """The maps of the container's user namespace, None if it is in the host's."""
    linux = spec.get("linux", {})
    if not any(namespace["type"] == "user" for namespace in linux.get("namespaces", ())):
        return None
    ids = ids_of(linux.get("uidMappings", ()), linux.get("gidMappings", ()))
    if not ids.uids or not ids.gids:
        raise Refused(errno.EINVAL, "a user namespace in config.json needs linux.uidMappings and linux.gidMappings")
    return ids


def _user_namespace(linux: "Linux") -> list[Op]:
    ids = user_namespace_ids({"ociVersion": "", "linux": linux})
    if ids is None:
        return []
    path = next(namespace.get("path") for namespace in linux["namespaces"] if namespace["type"] == "user")
    return [OpenUserNamespace(path, ids) if path else MakeUserNamespace(ids)]


def _namespaces(linux: "Linux", launch: Launch) -> list[Op]:
    listed: Sequence[Namespace] = linux.get("namespaces", ())
    ops: list[Op] = [BecomeUndumpable()]
    for namespace in listed:
        kind = namespace["type"]
        path = namespace.get("path")
        if kind == "network" and launch.netns is not None and not path:
            ops.append(EnterNamespace(kind, launch.netns, NAMESPACE_FLAGS[kind]))
        elif path and kind not in ("pid", "user"):
            ops.append(EnterNamespace(kind, path, NAMESPACE_FLAGS[kind]))
        elif kind == "cgroup":
            ops.append(NewCgroupNamespace())
    ops.append(NewSessionKeyring(launch.id))
    return ops


def _root(spec: "Spec", launch: Launch) -> list[Op]:
    propagation = spec.get("linux", {}).get("rootfsPropagation", "")
    # A slave sees later mounts of the host, for bind mounts that ask for it; the root's own setting comes at the end.
    private = propagation in ("private", "rprivate")
    ops: list[Op] = [*_shared_sources(spec, launch)]
    if ids := user_namespace_ids(spec):
        ops.append(MakeFilesAsItsRoot(ids))
    ops.append(IsolateMounts(mounts.MS_PRIVATE if private else mounts.MS_SLAVE))
    target = os.path.join(launch.bundle, spec.get("root", {"path": "rootfs"})["path"])
    overlay = launch.overlay
    if overlay is None:
        ops.append(BindRoot(target))
    else:
        ops.append(MountOverlayRoot(overlay["lower"], overlay.get("upper"), overlay.get("work"), target))
    return ops


def _shared_sources(spec: "Spec", launch: Launch) -> list[Op]:
    """What mounts of the host are to be seen in, or from, is taken hold of before the namespace is isolated."""
    ops: list[Op] = []
    for mount in spec.get("mounts", ()):
        if not _SHARING.isdisjoint(mount.get("options", ())):
            op = _bind_mount(mount, launch.bundle)
            ops.append(OpenTree(op.source, op.recursive, op.subpath))
    return ops


_SHARING = frozenset(("shared", "rshared", "slave", "rslave"))


def _mounts(spec: "Spec", launch: Launch, facts: HostFacts) -> list[Op]:
    return [op for mount in spec.get("mounts", ()) for op in _mount(mount, launch, facts)]


def _mount(mount: "Mount", launch: Launch, facts: HostFacts) -> list[Op]:
    options = mount.get("options", ())
    fstype = mount.get("type", "")
    if fstype == "cgroup" and "bind" not in options and "rbind" not in options:
        return _cgroup_mount(os.path.join("/", mount["destination"]), mount_options.parse(options), facts)
    return [mount_op(mount, launch.bundle)]


def mount_op(mount: "Mount", bundle: str) -> BindMount | MountFilesystem:
    """What makes one mount of config.json, but for cgroup file systems; raises Refused."""
    options = mount.get("options", ())
    fstype = mount.get("type", "")
    if fstype == "bind" or "bind" in options or "rbind" in options:
        return _bind_mount(mount, bundle)
    destination = os.path.join("/", mount["destination"])
    attributes, subpath = _subpath(mount_options.parse(options))
    return MountFilesystem(fstype, mount.get("source", fstype), destination, attributes, subpath)


def _bind_mount(mount: "Mount", bundle: str) -> BindMount:
    options = mount.get("options", ())
    destination = os.path.join("/", mount["destination"])
    attributes, subpath = _subpath(mount_options.parse(options))
    shifted = "idmap" in attributes.options
    if shifted:
        attributes = attributes._replace(options=tuple(one for one in attributes.options if one != "idmap"))
    if attributes.options:
        raise Refused(errno.EINVAL, f"a bind mount ({destination}) takes no option {attributes.options[0]!r}")
    # Private unless asked for: what the container mounts below must not show on the host.
    if not attributes.propagation:
        attributes = attributes._replace(propagation=mounts.MS_PRIVATE, propagation_recursive=True)
    source = os.path.join(bundle, mount.get("source", ""))
    return BindMount(source, destination, "rbind" in options, attributes, subpath, shifted)


SUBPATH_OPTION = "X-mount.subdir="
"""Mount only this part of the source; mount(8) knows it by this name."""


def _subpath(attributes: mount_options.Attributes) -> tuple[mount_options.Attributes, str]:
    for option in attributes.options:
        if option.startswith(SUBPATH_OPTION):
            rest = tuple(other for other in attributes.options if other != option)
            return attributes._replace(options=rest), option.removeprefix(SUBPATH_OPTION)
    return attributes, ""


def _cgroup_mount(destination: str, attributes: mount_options.Attributes, facts: HostFacts) -> list[Op]:
    if not facts.cgroup_v1:
        return [MountFilesystem("cgroup2", "cgroup", destination, attributes)]
    by_mount_point: dict[str, list[str]] = {}
    for name, mount_point in facts.cgroup_v1.items():
        by_mount_point.setdefault(mount_point, []).append(name)
    hierarchies = [
        ([name.removeprefix("name=") for name in names], mount_point, ",".join(names))
        for mount_point, names in by_mount_point.items()
    ]
    return [MountCgroupV1(destination, hierarchies, attributes)]


def _devices(spec: "Spec", facts: HostFacts) -> list[Op]:
    for mount in spec.get("mounts", ()):
        if os.path.normpath(mount["destination"]) == "/dev" and "bind" in (
            mount.get("type"),
            *(option.removeprefix("r") for option in mount.get("options", ())),
        ):
            return []  # the whole of another /dev was asked for
    ops: list[Op] = [_device(device) for device in spec.get("linux", {}).get("devices", ())]
    listed = {device["path"] for device in spec.get("linux", {}).get("devices", ())}
    ops += [
        MakeDevice(f"/dev/{name}", stat.S_IFCHR, os.makedev(major, minor), 0o666, 0, 0)
        for name, major, minor in _DEFAULT_DEVICES
        if f"/dev/{name}" not in listed
    ]
    ops += [LinkInDev(name, target) for name, target in _DEV_LINKS]
    if facts.kcore:
        ops.append(LinkInDev("core", "/proc/kcore"))
    return ops


def _device(device: "Device") -> MakeDevice:
    return MakeDevice(
        device["path"],
        _DEVICE_KINDS[device["type"]],
        os.makedev(device.get("major", 0), device.get("minor", 0)),
        device.get("fileMode", 0o666),
        device.get("uid", 0),
        device.get("gid", 0),
    )


def _console(process: "Process", *, mount: bool) -> list[Op]:
    if not process.get("terminal"):
        return []
    size = process.get("consoleSize", {"height": 0, "width": 0})
    return [OpenConsole(size["height"], size["width"], mount)]


def _names(spec: "Spec") -> list[Op]:
    listed = spec.get("linux", {}).get("namespaces", ())
    if not any(namespace["type"] == "uts" for namespace in listed):
        return []  # the host's names are not ours to change
    ops: list[Op] = []
    if hostname := spec.get("hostname"):
        ops.append(SetHostname(hostname))
    if domainname := spec.get("domainname"):
        ops.append(SetDomainname(domainname))
    return ops


def _sysctls(linux: "Linux") -> list[Op]:
    kinds = [namespace["type"] for namespace in linux.get("namespaces", ())]
    sysctls = linux.get("sysctl", {})
    for name in sysctls:
        needed = sysctl_namespace(name)
        if name == "kernel.hostname":
            raise Refused(errno.EPERM, f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field')
        if needed not in kinds:
            raise Refused(errno.EPERM, f'sysctl "{name}" {_FOREIGN_SYSCTLS.get(needed, _FOREIGN_SYSCTLS[None])}')
    return [Sysctl(name, value) for name, value in sysctls.items()]


# runc's words, by the namespace that is not the container's own.
_FOREIGN_SYSCTLS: Mapping[str | None, str] = {
    None: "is not in a separate kernel namespace",
    "network": "not allowed in host network namespace",
    "ipc": "is not allowed in the hosts ipc namespace",
}


def _paths(spec: "Spec") -> list[Op]:
    linux = spec.get("linux", {})
    ops: list[Op] = []
    # Made before the root becomes read-only; an image need not have its own working directory.
    if (cwd := spec["process"]["cwd"]) != "/":
        ops.append(MakeDirectory(cwd))
    # Those in /proc apart: `template` has them done ahead.
    ops += [ReadonlyPaths(paths) for paths in _by_tree(linux.get("readonlyPaths", ())) if paths]
    ops += [MaskPaths(paths) for paths in _by_tree(linux.get("maskedPaths", ())) if paths]
    if spec.get("root", {"path": ""}).get("readonly"):
        ops.append(ReadonlyRoot())
    return ops


def _by_tree(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    in_proc = [path for path in paths if path.startswith("/proc/")]
    return in_proc, [path for path in paths if not path.startswith("/proc/")]


def _labels(process: "Process", facts: HostFacts) -> list[Op]:
    ops: list[Op] = []
    profile = process.get("apparmorProfile", "")
    if profile and facts.apparmor:
        ops.append(SetApparmorProfile(profile))
    if label := process.get("selinuxLabel"):
        ops.append(SetSelinuxLabel(label))
    return ops


def _enter_root(linux: "Linux") -> list[Op]:
    ops: list[Op] = [PivotRoot()]
    if name := linux.get("rootfsPropagation"):
        recursive = name[:1] == "r" and name[1:] in mount_options.PROPAGATION
        kind = mount_options.PROPAGATION[name[1:] if recursive else name]
        ops.append(SetRootPropagation(kind | (mounts.MS_REC if recursive else 0)))
    return ops


def _rlimits(process: "Process", facts: HostFacts) -> list[Op]:
    limits = {limit["type"]: (limit["soft"], limit["hard"]) for limit in process.get("rlimits", ())}
    # The launcher raised its own; unless config.json says otherwise the program gets what the launcher was given.
    limits.setdefault("RLIMIT_NOFILE", facts.nofile)
    return [SetRlimit(name, soft, hard) for name, (soft, hard) in limits.items()]


def _user(process: "Process", launch: Launch, ids: Ids | None) -> list[Phase]:
    user = process.get("user", _ROOT_USER)
    seccomp, seccomp_flags = launch.seccomp, launch.seccomp_flags
    sets = process.get("capabilities")
    cwd = process["cwd"]
    identity: list[Op] = [SetHome(user["uid"])]
    if ids is None:
        identity += [OwnStdio(user["uid"])]
    else:
        mounting = "CAP_SYS_ADMIN" in (sets or {}).get("bounding", ())
        identity += [OwnStdio(_on_host(ids, user)), EnterUserNamespace(mounting), NewSessionKeyring(launch.id)]
    identity += bounding_ops(process)
    become = BecomeUser(user["uid"], user["gid"], user.get("additionalGids", ()), user.get("umask", 0o022))
    # Without no_new_privs a filter needs CAP_SYS_ADMIN, which is about to go; with it, it comes last (`_last`).
    early = seccomp is not None and not process.get("noNewPrivileges")
    return [
        Phase("user", identity),
        Phase("cwd", [ChangeDirectory(cwd, retried=True)]),
        Phase("seccomp", [InstallSeccomp(seccomp, seccomp_flags)] if early and seccomp else []),
        Phase("user", [become]),
        # Again, as the user: who may not enter it must not start in it.
        Phase("cwd", [ChangeDirectory(cwd, retried=False)]),
        Phase("capabilities", [SetCapabilities(cast("Mapping[str, Sequence[str]]", sets))] if sets is not None else []),
    ]


def _on_host(ids: Ids, user: "User") -> int:
    try:
        return ids.uid_on_host(user["uid"])
    except ValueError:
        raise Refused(errno.EINVAL, f"user {user['uid']} is outside of the container's user namespace") from None


def bounding_ops(process: "Process") -> list[Op]:
    """What limits the capabilities of whatever is executed from then on; those of this process stay."""
    sets = process.get("capabilities")
    return [] if sets is None else [DropBoundingCapabilities(sets.get("bounding", ()))]


def _last(process: "Process", seccomp: bytes | None, seccomp_flags: int) -> list[Phase]:
    if not process.get("noNewPrivileges"):
        return []
    ops: list[Op] = [SetNoNewPrivileges()]
    if seccomp is not None:
        ops.append(InstallSeccomp(seccomp, seccomp_flags))
    return [Phase("seccomp", ops)]


def _hooks(name: str, hooks: Mapping[str, Any], state: Mapping[str, Any]) -> list[Op]:
    listed = hooks.get(name)
    return [RunHooks(name, listed, state)] if listed else []
