"""RUN: a command on a snapshot, as a container that nobody sees.

It has everything a container of `docker run` has (defaults, limits, network, name files), but no name, no log, no entry
in the store: an engine that finds its cgroup, snapshot or bundle at its start removes them as strays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.cgroups import host_facts, open_cgroup
from runtime.content.snapshots import OverlayRootfs, Snapshots
from runtime.engine import sharing, user_namespaces
from runtime.engine.bundle import Bundles
from runtime.engine.cgroup_parents import CgroupParents
from runtime.engine.container import Container
from runtime.engine.launching import END_TIMEOUT_S, end_and_delete, launch
from runtime.engine.networks import NetworkService
from runtime.engine.options import verify_limits
from runtime.engine.processes import ProcessTable
from runtime.engine.settings import EngineSettings
from runtime.engine.spec_gen import HostMount
from runtime.engine.stdio import discard

log = logging.getLogger(__name__)

# Files made only so that something can be mounted on them.
MOUNT_POINTS = ("etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/console", ".dockerenv")


@dataclass(frozen=True)
class Layers:
    """What a snapshot needs to know of an image."""

    chain_ids: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """What one RUN asks for; `host_config` and `env` as Docker's documents have them."""

    args: Sequence[str]
    env: Sequence[str]
    user: str
    working_dir: str
    host_config: Mapping[str, Any]
    mounts: Sequence[HostMount] = ()


class _StepMounts:
    """What `Bundles` asks of a container's mounts: a step's are decided already."""

    def __init__(self) -> None:
        self.by_id: dict[str, Sequence[HostMount]] = {}

    def resolved(self, container: Container) -> list[HostMount]:
        return list(self.by_id.get(container.id, ()))


class StepRunner:
    def __init__(
        self,
        settings: EngineSettings,
        snapshots: Snapshots,
        networks: NetworkService,
        processes: ProcessTable,
        cgroup_parents: CgroupParents,
        find_container: sharing.Find,
    ) -> None:
        self._settings = settings
        self._snapshots = snapshots
        self._networks = networks
        self._processes = processes
        self._cgroup_parents = cgroup_parents
        self._find_container = find_container
        self._mounts = _StepMounts()
        self._bundles = Bundles(settings, self._mounts)
        self._facts = host_facts()

    @contextlib.asynccontextmanager
    async def snapshot(self, chain_ids: tuple[str, ...]) -> AsyncIterator[tuple[str, OverlayRootfs]]:
        """An id and a writable tree on top of layers, gone in the end."""
        id = secrets.token_hex(32)
        try:
            if chain_ids:
                prepared = await asyncio.to_thread(self._snapshots.prepare, id, Layers(chain_ids))
                rootfs = OverlayRootfs(self._snapshots.layers(chain_ids), prepared.upper, prepared.work)
            else:
                upper = await asyncio.to_thread(self._snapshots.prepare_bare, id)
                rootfs = OverlayRootfs([], str(upper), str(upper.parent / "work"))
            yield id, rootfs
        finally:
            self._snapshots.remove(id)
            self._bundles.remove(id)

    async def run(
        self, id: str, rootfs: OverlayRootfs, command: Command, on_output: Callable[[int, bytes], Awaitable[None]]
    ) -> int:
        """The exit code; cancelled, it ends the command first. Raises what a start raises."""
        host_config = sharing.settled(dict(command.host_config), self._find_container, self._facts["version"])
        host_config, _ = verify_limits({**host_config, "LogConfig": {"Type": "none"}}, self._facts)
        config = {
            "Cmd": list(command.args),
            "Env": list(command.env),
            "User": command.user,
            "WorkingDir": command.working_dir,
            "AttachStdout": True,
            "AttachStderr": True,
        }
        container = Container(
            id, f"build-{id[:12]}", 0, "", "", config, host_config, {}, {}, self._settings.containers_dir / id
        )
        user_namespaces.check(container.options, self._settings.user_ids)
        container.networks = self._networks.plan(container.options)
        async with AsyncExitStack() as undo:
            donor = sharing.network_donor(container, self._find_container)
            member = await self._networks.join(container, donor)
            undo.push_async_callback(self._networks.leave, container)
            self._cgroup_parents.prepare(container, is_step=True)
            undo.callback(self._cgroup_parents.release, container)
            cgroup = open_cgroup(self._cgroup_parents.path_of(container))
            self._mounts.by_id[id] = command.mounts
            undo.callback(self._mounts.by_id.pop, id)
            spec = self._bundles.write(container, rootfs, member, [], sharing.Shared(), cgroup.path)
            cgroup.create(spec["linux"]["resources"])
            undo.push_async_callback(end_and_delete, cgroup)
            listener = container.hub.listen()
            bundle = self._bundles.directory(container)
            tree = OverlayRootfs(rootfs.lower or [str(self._settings.rootfs_dir)], rootfs.upper, rootfs.work)
            live = await launch(self._processes, container, bundle, tree, cgroup, member, discard)
            try:
                live.ended.add_done_callback(lambda _: container.hub.end())
                async for stream, data in listener:
                    await on_output(stream, data)
                exit = await asyncio.shield(live.ended)
            except asyncio.CancelledError:
                cgroup.kill()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(END_TIMEOUT_S):
                        await asyncio.shield(live.ended)
                raise
            finally:
                self._processes.forget((id, ""))
            return exit.code

    @contextlib.contextmanager
    def bare_snapshot(self) -> Iterator[OverlayRootfs]:
        """Writable directories for an overlay of a step's own, gone in the end."""
        id = secrets.token_hex(32)
        try:
            upper = self._snapshots.prepare_bare(id)
            yield OverlayRootfs([], str(upper), str(upper.parent / "work"))
        finally:
            self._snapshots.remove(id)

    def file_path(self, id: str, name: str) -> Path:
        """A place for a file that goes with the step's bundle."""
        return self._settings.bundles_dir / id / name


def clean_mount_points(rootfs: OverlayRootfs, targets: Sequence[str]) -> None:
    """Removes empty files and directories that were made to mount on, and parents left with nothing of their own."""
    upper = Path(rootfs.upper)
    for target in (*MOUNT_POINTS, *targets):
        path = upper / target.lstrip("/")
        if not os.path.lexists(path) or not _inside(upper, path) or _in_lower(rootfs, target):
            continue
        while _remove_if_empty(path):
            path = path.parent
            if path == upper or not _is_unchanged(rootfs, path):
                break


def _inside(upper: Path, path: Path) -> bool:
    """Nothing on the way is a symlink: a container may have put one there to lead us to the host's files."""
    while path != upper:
        path = path.parent
        if path.is_symlink():
            return False
        if path == path.parent:
            return False
    return True


def _in_lower(rootfs: OverlayRootfs, target: str) -> bool:
    return any(os.path.lexists(f"{layer}/{target.lstrip('/')}") for layer in rootfs.lower)


def _is_unchanged(rootfs: OverlayRootfs, directory: Path) -> bool:
    """Whether a directory in the upper is there only for what was below it; a new one is taken for that."""
    relative = directory.relative_to(rootfs.upper)
    for layer in rootfs.lower:
        below = Path(layer) / relative
        if below.is_symlink():
            return False
        if below.is_dir():
            ours, theirs = directory.stat(), below.stat()
            same = (ours.st_mode, ours.st_uid, ours.st_gid) == (theirs.st_mode, theirs.st_uid, theirs.st_gid)
            return same and "trusted.overlay.opaque" not in os.listxattr(directory)
    return True


def _remove_if_empty(path: Path) -> bool:
    """True if there is nothing there afterwards."""
    try:
        info = path.lstat()
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif path.is_file() and not path.is_symlink() and not info.st_size:
            path.unlink()
        else:
            return False
    except FileNotFoundError:
        return True
    except OSError:  # not empty
        return False
    return True
