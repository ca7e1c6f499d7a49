"""A container's root file system as its processes see it, for reading and writing files in it.

A running container is entered through /proc/PID/root, so that its volumes, binds and tmpfs are there. A stopped one is
mounted, with its volumes and binds, in a mount namespace that a single thread has to itself: nothing of it can be seen
or be left behind. Either way paths are resolved by the kernel below a descriptor of the root (openat2(2)).
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar, cast

from runtime.container.ids import Ids
from runtime.container.op import Init
from runtime.container.ops_mount import MountOverlayRoot
from runtime.container.plan import mount_op
from runtime.container.report import Report
from runtime.container.rootpath import open_in
from runtime.content.snapshots import OverlayRootfs, Snapshots
from runtime.engine.container import Container
from runtime.engine.containers import ContainerService
from runtime.engine.processes import start_time_of
from runtime.engine.spec_gen import HostMount
from runtime.engine.threads import to_the_end
from runtime.linux import mounts, namespaces
from runtime.linux.user_namespaces import IdRange, act_on_files_as

Result = TypeVar("Result")
Work = Callable[[int, Ids | None], Result]


class Roots:
    def __init__(self, containers: ContainerService, snapshots: Snapshots) -> None:
        self._containers = containers
        self._snapshots = snapshots

    async def visit(self, container: Container, work: Work[Result]) -> Result:
        """Run `work` in a thread, given a descriptor of the root directory; raises what it raises.

        It is also given the maps of the container's user namespace, if files there have the host's ids: not in a
        stopped one. A stopped container cannot be started or removed meanwhile.
        """
        root_fd = self._running_root(container)
        if root_fd is None:
            async with container.changing:
                root_fd = self._running_root(container)
                if root_fd is None:
                    return await self._visit_stopped(container, work)
        try:
            if (ids := _ids_of(container)) is None:
                return await to_the_end(asyncio.ensure_future(asyncio.to_thread(work, root_fd, None)))
            own_thread = ThreadPoolExecutor(1)  # whose identity need not be given back
            try:
                loop = asyncio.get_running_loop()
                return await to_the_end(loop.run_in_executor(own_thread, _as_its_root, root_fd, ids, work))
            finally:
                own_thread.shutdown(wait=False)
        finally:
            os.close(root_fd)

    def _running_root(self, container: Container) -> int | None:
        state = container.state
        if not state.has_process or not state.pid:
            return None
        try:
            root_fd = os.open(f"/proc/{state.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            return None
        if start_time_of(state.pid) != state.start_time:
            os.close(root_fd)
            return None
        return root_fd

    async def _visit_stopped(self, container: Container, work: Work[Result]) -> Result:
        rootfs = self._snapshots.describe(container.id, self._containers.image_of(container))
        target = str(container.directory / "rootfs")
        own_thread = ThreadPoolExecutor(1)  # which ends, and its namespace with it
        try:
            loop = asyncio.get_running_loop()
            async with self._containers.mounts.visited(container) as host_mounts:
                return await to_the_end(
                    loop.run_in_executor(own_thread, _in_own_namespace, rootfs, target, host_mounts, work)
                )
        finally:
            own_thread.shutdown(wait=False)


def _ids_of(container: Container) -> Ids | None:
    """The maps of a running container's user namespace, None if that is the host's.

    Read from the kernel: an engine before this one may have started it with other options.
    """
    process = f"/proc/{container.state.pid}"
    try:
        if os.readlink(f"{process}/ns/user") == os.readlink("/proc/self/ns/user"):
            return None
        return Ids(*(_ranges(Path(process, name).read_text()) for name in ("uid_map", "gid_map")))
    except OSError:  # it has just ended
        return None


def _ranges(text: str) -> tuple[IdRange, ...]:
    return tuple(IdRange(*map(int, line.split())) for line in text.splitlines())


def _as_its_root(root_fd: int, ids: Ids, work: Work[Result]) -> Result:
    act_on_files_as(ids.uid_on_host(0), ids.gid_on_host(0))
    return work(root_fd, ids)


def _in_own_namespace(rootfs: OverlayRootfs, target: str, host_mounts: list[HostMount], work: Work[Result]) -> Result:
    namespaces.unshare(namespaces.CLONE_NEWNS)  # of this thread alone
    mounts.mount("none", "/", None, mounts.MS_REC | mounts.MS_SLAVE)
    with ExitStack() as opened:

        def kept(fd: int) -> int:
            opened.callback(os.close, fd)
            return fd

        state = Init(cast(Report, None), {})
        MountOverlayRoot(rootfs.lower, rootfs.upper, rootfs.work, target).apply(state)
        root_fd = kept(state.root)
        for mount in host_mounts:
            op = mount_op(
                {
                    "destination": mount.target,
                    "type": mount.type,
                    "source": mount.source,
                    "options": list(mount.options),
                },
                target,
            )
            op.apply(state)
        return work(root_fd, None)


def split(path: str) -> tuple[str, str]:
    """Directory and last name of a container's path, as Docker cuts it: `/a/b/` and `/a/b/.` mean what b leads to."""
    absolute = "/" + path.lstrip("/")
    cleaned = posixpath.normpath(absolute)
    if cleaned == "/" or absolute.endswith(("/", "/.")):
        return cleaned, "."
    return posixpath.split(cleaned)


def base_name(path: str) -> str:
    """What Docker calls a path's file in archives: `.` for `/a/.`, `/` for the root."""
    absolute = "/" + path.lstrip("/")
    return (
        "." if absolute != "/." and absolute.endswith("/.") else posixpath.basename(posixpath.normpath(absolute)) or "/"
    )


def resolved_path(root_fd: int, path: str) -> str:
    """The path inside the root after every symlink of it; raises OSError."""
    fd = open_in(root_fd, path)
    try:
        top = os.readlink(f"/proc/thread-self/fd/{root_fd}")
        found = os.readlink(f"/proc/thread-self/fd/{fd}")
    finally:
        os.close(fd)
    return found if top == "/" else found.removeprefix(top) or "/"
