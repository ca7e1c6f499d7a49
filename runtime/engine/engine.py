"""The engine: every service put together, brought up from what is on disk, and taken down again."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from runtime.cgroups import remove_subtree
from runtime.content.images import ImageStore
from runtime.content.snapshots import Snapshots
from runtime.content.trash import Trash
from runtime.engine import embedded
from runtime.engine.build import BuildService
from runtime.engine.build.cache import BuildCache, held_by_cache
from runtime.engine.build.run import StepRunner
from runtime.engine.container_files import ContainerFiles
from runtime.engine.containers import ContainerService
from runtime.engine.control import Control
from runtime.engine.distribution.service import Distribution
from runtime.engine.events import Event, EventBus
from runtime.engine.execs import ExecService
from runtime.engine.health import HealthMonitors
from runtime.engine.image_service import ImageService
from runtime.engine.networks import NetworkService
from runtime.engine.processes import ProcessTable
from runtime.engine.prune import Pruner
from runtime.engine.roots import Roots
from runtime.engine.settings import DATA_ROOT_MODE, EngineSettings
from runtime.engine.store import Store
from runtime.engine.usage import Usage
from runtime.engine.volumes import Volume, VolumeService, measure
from runtime.errors import Conflict

log = logging.getLogger(__name__)

STORE_RETRY_S = 1.0  # between tries to write what a full disk refused
REAP_DELAY_S = 0.5  # removed snapshots are deleted together, away from the requests that removed them


class Engine:
    """Use as `async with`: entering reconciles with what is running, leaving lets it run on.

    `on_owned` is called when the directories are this engine's, and nothing of it is in the kernel yet.
    """

    def __init__(self, settings: EngineSettings, on_owned: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        self._on_owned = on_owned
        self.events = EventBus()
        self.ready = asyncio.Event()  # until then, only questions about the engine itself are answered
        self._exits = ExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._discarded = asyncio.Event()  # something is to be deleted
        self._pruning_volumes = False

    async def __aenter__(self) -> Engine:
        try:
            await self._open()
        except BaseException:
            self._exits.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._exits.close()

    async def _open(self) -> None:
        settings = self.settings
        settings.data_root.mkdir(mode=DATA_ROOT_MODE, parents=True, exist_ok=True)
        settings.run_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        settings.seccomp_cache.mkdir(mode=0o700, exist_ok=True)
        self._exits.callback(os.close, _lock(settings.lock_path))
        self._on_owned()
        self.store = Store(settings.store_path)
        self._exits.callback(self.store.close)
        self.store.on_late = lambda: self._spawn(self._write_late())
        self.images = ImageStore(settings.data_root, held_by_cache(self.store))
        self._exits.callback(self.images.close)
        self.distribution = Distribution(settings.registries, self.images, self.events)
        self._exits.callback(self.distribution.close)
        self.snapshots = Snapshots(settings.data_root)
        trash = Trash(settings.data_root / "trash")
        self.volumes = VolumeService(settings.volumes_dir, self.store, self.events, trash)
        self.networks = NetworkService(settings, self.store, self.events)
        self._exits.callback(self.networks.close)
        self.processes = ProcessTable(settings.run_dir)
        self._exits.callback(self.processes.close)
        self.containers = ContainerService(
            settings,
            self.store,
            self.images,
            self.snapshots,
            trash,
            self.networks,
            self.volumes,
            self.processes,
            self.events,
        )
        self._exits.callback(self.containers.close)
        self.execs = ExecService(self.containers, self.snapshots, self.processes)
        self._exits.callback(self.execs.close)
        self.health = self.containers.watches.health = HealthMonitors(self.containers, self.execs)
        self.control = Control(self.containers, self.health)
        roots = Roots(self.containers, self.snapshots)
        self.files = ContainerFiles(self.containers, self.control, roots, self.snapshots, self.images, self.events)
        self.usage = Usage(self.containers)
        cgroup_parents = self.containers.cgroup_parents
        runner = StepRunner(
            settings, self.snapshots, self.networks, self.processes, cgroup_parents, self.containers.get
        )
        cache = BuildCache(self.store, self.images)
        self.builds = BuildService(
            settings, self.images, self.snapshots, cache, runner, self.distribution, self.events, trash
        )
        self.builds.on_end = self._discarded.set  # steps leave much behind, and are no containers that anybody removes
        self.pruner = Pruner(self.containers, self.control, self.snapshots, self.events)
        self._exits.callback(self.health.close)
        self.image_service = ImageService(self.images, self.containers, self.events)
        self.containers.load()
        self.containers.delete_removed_images(self.images.ids())
        known = await self.processes.connect()
        running = self.containers.still_running(known)
        await self.networks.start(running)
        await self.containers.reconcile(known)
        self._spawn(self._reap())
        self.events.observe = self._note_removal

    async def load_embedded_images(self) -> None:
        """Load what came with Wherry and was never loaded; `ready` is set at the end, whatever happens."""
        try:
            for archive in embedded.new_archives(self.settings.embedded_images, self.store):
                if await asyncio.to_thread(embedded.load, archive, self.images):
                    embedded.remember(archive, self.store)
        finally:
            self.ready.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_late(self) -> None:
        """Until the disk takes writes again; the engine goes on meanwhile."""
        while not self.store.write_late():
            await asyncio.sleep(STORE_RETRY_S)
        self.containers.written_late()

    async def _reap(self) -> None:
        """Delete what removals only renamed away; those of one moment together."""
        while True:
            self._discarded.clear()
            await self._reap_once()
            await self._discarded.wait()
            await asyncio.sleep(REAP_DELAY_S)

    def _note_removal(self, event: Event) -> None:
        if event.action in ("destroy", "delete", "prune"):
            self._discarded.set()

    async def _reap_once(self) -> None:
        try:
            await asyncio.to_thread(self.snapshots.reap)
        except OSError as error:  # with the next removal it is tried again
            log.warning("not everything that was removed could be deleted: %s", error)

    def reload(self) -> None:
        """SIGHUP: there is no configuration to read again, but who listens is told, as by Docker's engine."""
        attributes = {"name": os.uname().nodename, "labels": "[]", "live-restore": "true"}
        self.events.publish(Event("daemon", "reload", self.settings.instance, attributes))

    # --- volumes

    async def prune_volumes(self, wanted: Callable[[Volume], bool]) -> tuple[list[str], int]:
        """Remove the unused volumes that are `wanted`; their names and the bytes freed. Raises Conflict."""
        if self._pruning_volumes:
            raise Conflict("a prune operation is already running")
        self._pruning_volumes = True
        try:
            unused = self.volumes.prunable(wanted, self.containers.users_of_volume)
            sizes = await self.volume_sizes(unused)
            return self.volumes.prune(wanted, self.containers.users_of_volume, sizes)
        finally:
            self._pruning_volumes = False

    async def volume_sizes(self, volumes: Iterable[Volume]) -> dict[str, int]:
        """Bytes by name, -1 where they cannot be told."""
        return {volume.name: await asyncio.to_thread(measure, volume) for volume in list(volumes)}

    # --- the end

    async def shutdown(self) -> None:
        """Stop every container and the launcher, and take everything out of the kernel."""
        await self.control.stop_all()
        await self.processes.shutdown()
        self.networks.remove_everything()
        remove_subtree(self.settings.cgroup_parent)


def _lock(path: Path) -> int:
    """Hold the run directory; raises Conflict naming the engine that has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 4096).decode(errors="replace").partition("\n")[0]
        os.close(fd)
        raise Conflict(
            f"another engine ({owner}) is running on {path.parent}: stop it, or give another --run-dir"
        ) from None
    return fd
