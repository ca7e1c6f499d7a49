"""Namespaces and memory that containers share: `--pid container:X`, `--ipc container:X`, `--ipc shareable`."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from runtime.engine.container import Container
from runtime.engine.options.namespaces import CONTAINER_PREFIX, donor
from runtime.engine.processes import start_time_of
from runtime.errors import Conflict, InvalidParameter, NotFound
from runtime.linux import mounts

_HOST_SHM = "/dev/shm"
_NAMING = ("PidMode", "IpcMode", "NetworkMode")
_JOINABLE = (("PidMode", "pid_mode", "pid"), ("IpcMode", "ipc_mode", "ipc"))
Find = Callable[[str], Container]


@dataclass(frozen=True)
class Shared:
    """What a start gets from others: kind → path of a namespace, and the directory that is /dev/shm ("": its own)."""

    namespaces: dict[str, str] = field(default_factory=dict)
    shm_source: str = ""


def settled(host: dict[str, Any], find: Find, cgroup_version: str) -> dict[str, Any]:
    """HostConfig with Docker's default modes, and with ids for the containers its modes name, for names change.

    Raises InvalidParameter for one that is not there: with NotFound the CLI would go and pull the image.
    """
    try:
        named = {name: find(donor(host[name])).id for name in _NAMING if donor(str(host.get(name) or ""))}
    except NotFound as error:
        raise InvalidParameter(str(error)) from None
    # On v1 a privileged container is to see every cgroup of the host.
    cgroupns = "host" if host.get("Privileged") and cgroup_version == "1" else "private"
    defaults = {"IpcMode": host.get("IpcMode") or "private", "CgroupnsMode": host.get("CgroupnsMode") or cgroupns}
    return {**host, **defaults, **{name: CONTAINER_PREFIX + id for name, id in named.items()}}


@contextlib.contextmanager
def shared(container: Container, find: Find) -> Iterator[Shared]:
    """What `container` shares, for as long as it takes to start it.

    Raises Conflict if the other does not run, InvalidParameter if it shares nothing, NotFound.
    """
    options = container.options
    if not donor(options.pid_mode) and not donor(options.ipc_mode):
        yield Shared({}, shm_source(container, find))
        return
    with ExitStack() as open_fds:
        namespaces = {}
        for _, attribute, kind in _JOINABLE:
            if not donor(mode := getattr(options, attribute)):
                continue
            other = _running(donor(mode), find)
            if kind == "ipc" and not shm_source(other, find):
                raise InvalidParameter(
                    f"container {other.id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                )
            namespaces[kind] = _open_namespace(other, kind, open_fds)
            if kind == "pid":
                container.pids_shared = other.pids_shared = True
            namespaces["user"] = _open_namespace(other, "user", open_fds)  # if it is not the host's
        yield Shared(namespaces, shm_source(container, find))


def note_shared_pids(containers: Iterable[Container], find: Find) -> None:
    """What an engine before this one knew of those that run."""
    for container in containers:
        if container.state.has_process and (id := donor(container.options.pid_mode)):
            container.pids_shared = True
            with contextlib.suppress(NotFound):
                find(id).pids_shared = True


def network_donor(container: Container, find: Find) -> Container | None:
    """The running container whose network it shares (`--network container:X`). Raises Conflict, NotFound."""
    if not (id := donor(container.options.network_mode)):
        return None
    other = find(id)
    if other.state.status == "restarting":
        raise Conflict(f"Container {other.id} is restarting, wait until the container is running")
    if not other.state.has_process:
        raise Conflict(f"cannot join network of a non running container: {other.id}")
    return other


def _running(id: str, find: Find) -> Container:
    other = find(id)
    if not other.state.pid:
        raise Conflict(f"container {other.id} is not running")
    return other


def _open_namespace(other: Container, kind: str, open_fds: ExitStack) -> str:
    """A path by which the launcher reaches the namespace: ours, for the pid in /proc may be another's by then."""
    try:
        fd = os.open(f"/proc/{other.state.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise Conflict(f"container {other.id} is not running") from None
    open_fds.callback(os.close, fd)
    if start_time_of(other.state.pid) != other.state.start_time:
        raise Conflict(f"container {other.id} is not running")
    return f"/proc/{os.getpid()}/fd/{fd}"


# --- /dev/shm of several containers


def shm_source(container: Container, find: Find) -> str:
    """The directory others bind as their /dev/shm too; "" if it is the container's alone."""
    mode = container.options.ipc_mode
    if mode == "host":
        return _HOST_SHM
    if mode == "shareable":
        return str(container.directory / "shm")
    return shm_source(find(donor(mode)), find) if donor(mode) else ""


def mount_shm(container: Container) -> None:
    """A shareable container's /dev/shm is a mount on the host while it runs, in its directory."""
    if container.options.ipc_mode != "shareable":
        return
    unmount_shm(container)
    target = container.directory / "shm"
    target.mkdir(mode=0o700, exist_ok=True)
    flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
    mounts.mount("shm", str(target), "tmpfs", flags, f"mode=1777,size={container.options.shm_bytes}")


def unmount_shm(container: Container) -> None:
    """No error if it is not mounted; whoever joined it keeps it."""
    if container.options.ipc_mode != "shareable":
        return
    try:
        mounts.umount(str(container.directory / "shm"), mounts.MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
