"""Containers: made, started, stopped, removed, waited for; each operation undoes itself when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from runtime.cgroups import Cgroup, host_facts, names_below, open_cgroup
from runtime.content.image import Image
from runtime.content.images import ImageStore
from runtime.content.snapshots import Snapshots
from runtime.content.trash import Trash
from runtime.engine import faults, names, sharing, spec_gen, user_namespaces
from runtime.engine.bundle import Bundles
from runtime.engine.cgroup_parents import CgroupParents
from runtime.engine.container import Container, Health, State
from runtime.engine.container_mounts import ContainerMounts
from runtime.engine.events import Event, EventBus
from runtime.engine.host_shares import HostShares
from runtime.engine.launcher_link import Exit, Known
from runtime.engine.launching import delete, end_all, end_and_delete, launch
from runtime.engine.links import Links
from runtime.engine.logs import Journal, Log, LogQuery, LogWriter, Render, finish_writing, log_path, open_log, read_log
from runtime.engine.networks import Network, NetworkService
from runtime.engine.oom import oom_kills
from runtime.engine.options import EndpointConfig, verify_limits
from runtime.engine.platforms import check_platform
from runtime.engine.processes import LiveProcess, ProcessTable, UnknownExit, start_time_of
from runtime.engine.restarts import wanted
from runtime.engine.settings import EngineSettings
from runtime.engine.stdio import Listener
from runtime.engine.store import Store
from runtime.engine.volumes import VolumeService
from runtime.engine.watches import Watches
from runtime.errors import (
    AlreadyExists,
    Conflict,
    InvalidParameter,
    NotFound,
    NotModified,
    NotSupported,
    ProcessFault,
    SystemFault,
    WherryError,
)

log = logging.getLogger(__name__)


class ContainerService:
    """All containers of one engine. Methods run on the event loop; only slow file work leaves it."""

    def __init__(
        self,
        settings: EngineSettings,
        store: Store,
        images: ImageStore,
        snapshots: Snapshots,
        trash: Trash,
        networks: NetworkService,
        volumes: VolumeService,
        processes: ProcessTable,
        events: EventBus,
    ) -> None:
        self._settings = settings
        self._store = store
        self._images = images
        self._snapshots = snapshots
        self._trash = trash
        self._networks = networks
        self._processes = processes
        self._events = events
        self._containers: dict[str, Container] = {}
        self._names = names.NameTable()
        self._logs: dict[str, Log] = {}
        self._journal = Journal(settings.output_journal)
        self._kept_exits: set[str] = set()  # ids of containers whose end is not on disk yet: the launcher knows it
        self._tasks: set[asyncio.Task[None]] = set()
        self.shutting_down = False  # from here on nothing is restarted
        self.watches = Watches(self.cgroup_of, self.publish)
        self.mounts = ContainerMounts(
            settings.data_root, volumes, images, snapshots, events, HostShares(settings.host_shares)
        )
        self._bundles = Bundles(settings, self.mounts)
        self._links = Links(self._containers, networks, settings.bundles_dir)
        self._facts = host_facts()
        self.cgroup_parents = CgroupParents(settings, store)
        settings.containers_dir.mkdir(mode=0o711, parents=True, exist_ok=True)

    def save(self, container: Container) -> bool:
        """Note what has become of it; False when the disk takes that only later."""
        return self._store.note("container", container.id, container.to_document())

    def written_late(self) -> None:
        """The store has caught up: the launcher may forget what it kept for the case that it would not."""
        while self._kept_exits:
            self._processes.forget((self._kept_exits.pop(), ""))

    # --- finding

    def all(self) -> list[Container]:
        """Newest first."""
        return sorted(self._containers.values(), key=lambda container: -container.created_ns)

    def __contains__(self, container: Container) -> bool:
        return container.id in self._containers

    def get(self, name: str) -> Container:
        """By id, name, or the beginning of an id; raises NotFound, or InvalidParameter when several match."""
        id = name if name in self._containers else self._names.find(name)
        if id is None or id not in self._containers:
            matches = [id for id in self._containers if name and id.startswith(name)]
            if len(matches) > 1:
                raise InvalidParameter(f"multiple IDs found with provided prefix: {name}")
            if not matches:
                raise NotFound(f"No such container: {name}")
            id = matches[0]
        return self._containers[id]

    def image_of(self, container: Container) -> Image:
        return self._images.kept(container.image_id)

    def process_of(self, container: Container) -> LiveProcess:
        """The running or paused container's process; raises Conflict."""
        live = self._processes.get((container.id, ""))
        if container.state.status == "restarting":
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if live is None or not container.state.has_process:
            raise Conflict(f"container {container.id} is not running")
        return live

    def bundle_of(self, container: Container) -> Path:
        return self._bundles.directory(container)

    def cgroup_of(self, container: Container) -> Cgroup:
        return open_cgroup(self.cgroup_parents.path_of(container))

    def users_of_image(self, image: Image) -> list[Container]:
        """Containers made from it, or with a mount of it."""
        return [
            container
            for container in self._containers.values()
            if container.image_id == image.id or image.id in container.image_mounts.values()
        ]

    def delete_removed_images(self, candidates: Iterable[str]) -> None:
        """Those of the ids whose image is `removed` and has no container any more."""
        for image in [image for image in map(self._images.removed, candidates) if image]:
            if not self.users_of_image(image):
                self._images.delete(image.id)

    def links_of(self, container: Container) -> list[str] | None:
        """HostConfig.Links as inspect shows them."""
        return self._links.shown(container)

    def unlink(self, container: Container, alias: str) -> None:
        """Raises NotFound."""
        self._links.unlink(container, alias)
        self.save(container)

    def users_of_volume(self, name: str) -> list[str]:
        return self.mounts.users_of_volume(name)

    # --- create

    async def create(
        self,
        name: str,
        config: dict[str, Any],
        host_config: dict[str, Any],
        networking: dict[str, Any],
        platform: str = "",
    ) -> tuple[Container, list[str]]:
        """Everything but the process, and what to warn of; raises NotFound (image), AlreadyExists (name),
        InvalidParameter."""
        image_name = config.get("Image") or ""
        if not image_name:
            raise InvalidParameter("config cannot be empty: an Image is needed in order to create a container")
        image = self._images.get(image_name)
        id = secrets.token_hex(32)
        host_config = self.mounts.host_shares.translated(host_config)
        host_config = sharing.settled(host_config, self.get, self._facts["version"])
        warnings = check_platform(image, image_name, platform)
        host_config, about_limits = verify_limits(host_config, self._facts)
        warnings += about_limits
        with ExitStack() as undo:
            name = self._names.take(name, id)
            undo.callback(self._names.release, name)
            container = Container(
                id,
                name,
                time.time_ns(),
                image.id,
                image_name,
                config,
                host_config,
                networking,
                dict(image.config.get("config") or {}),
                self._settings.containers_dir / id,
                inherited=self.mounts.inherited(host_config, self.get),
            )
            container.networks = self._networks.plan(container.options)
            if container.options.network_mode == "host" and container.options.ports:
                warnings.append("Published ports are discarded when using host network mode")
            container.links = self._links.resolve(container, self.get)
            spec_gen.check(container.options)
            user_namespaces.check(container.options, self._settings.user_ids)
            self._bundles.init_program(container)
            rootfs = self._snapshots.prepare(id, image)
            undo.callback(self._snapshots.remove, id)
            container.directory.mkdir(mode=0o710)
            undo.callback(self._trash.discard, container.directory)
            if container.options.user or container.options.groups:
                self._bundles.user_of(container, rootfs)
            await self.mounts.claim(container, rootfs, undo)
            self._store.put("container", id, container.to_document())
            undo.pop_all()
        self._containers[id] = container
        self._links.add(container)
        self.publish(container, "create")
        return container, warnings

    # --- networks

    async def connect_network(self, container: Container, network: Network, config: EndpointConfig) -> None:
        """Now, or from its next start on."""
        async with container.changing:
            self._check_connectable(container)
            await self._networks.connect(container, network, config)
            self.save(container)

    async def disconnect_network(self, container: Container, network: Network) -> None:
        async with container.changing:
            self._check_connectable(container)
            await self._networks.disconnect(container, network)
            self.save(container)

    @staticmethod
    def _check_connectable(container: Container) -> None:
        if container.state.status in ("removing", "dead"):
            raise Conflict(
                f"container {container.id} is marked for removal and cannot be connected or disconnected to the network"
            )

    def rename(self, container: Container, name: str) -> None:
        """Raises AlreadyExists, InvalidParameter."""
        if name.removeprefix("/") == container.name:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        try:
            name = self._names.take(f"/{name.removeprefix('/')}", container.id)
        except WherryError as refusal:
            raise type(refusal)(f"Error when allocating new name: {refusal}") from None
        old, container.name = container.name, name
        try:
            self._store.put("container", container.id, container.to_document())
        except BaseException:
            container.name = old
            self._names.release(name)
            raise
        self._names.release(old)
        self._networks.renamed(container)
        self.publish(container, "rename", oldName=f"/{old}")

    # --- start

    async def start(self, container: Container) -> None:
        """Raises NotModified when it runs, ProcessFault when its program cannot be executed, and more."""
        async with container.changing:
            state = container.state
            if state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if state.is_up:
                raise NotModified(f"container {container.id} is already running")
            if state.status in ("removing", "dead"):
                raise Conflict("container is marked for removal and cannot be started")
            container.no_restart = False
            container.backoff.reset()
            state.restart_count, state.stopped_by_user = 0, False
            try:
                await self._start_or_note(container)
            except (WherryError, OSError):
                if container.options.auto_remove:
                    self.discard(container, volumes=True)
                raise

    async def _start_or_note(self, container: Container) -> None:
        """Start it, or keep what went wrong in its state and raise that."""
        try:
            with sharing.shared(container, self.get) as shared:
                await self._start(container, shared)
        except (WherryError, OSError) as error:
            container.state.error = str(error)
            container.state.exit_code = faults.exit_code_of(error)
            if container.state.status == "restarting":
                container.move("exit")
            self.save(container)
            if isinstance(error, ProcessFault):
                raise faults.create_failed(error) from None
            raise

    async def _start(self, container: Container, shared: sharing.Shared) -> None:
        options = container.options
        if container.cleanup:
            await asyncio.wait((container.cleanup,))
        async with AsyncExitStack() as undo:
            rootfs = self._snapshots.describe(container.id, self.image_of(container))
            linked = self._links.linked(container)
            member = await self._networks.join(container, sharing.network_donor(container, self.get))
            undo.push_async_callback(self._networks.leave, container)
            undo.push_async_callback(self.mounts.unmount, container)
            await self.mounts.mount(container)
            cgroup = self.cgroup_of(container)
            spec = self._bundles.write(container, rootfs, member, linked, shared, cgroup.path)
            sharing.mount_shm(container)
            undo.callback(sharing.unmount_shm, container)
            self.cgroup_parents.prepare(container)
            undo.callback(self.cgroup_parents.release, container)
            try:
                cgroup.create(spec["linux"]["resources"])
            except AlreadyExists:  # left by a run of it whose end nobody could clean up after
                await end_and_delete(cgroup)
                cgroup.create(spec["linux"]["resources"])
            # A launcher that is killed leaves the init it was just starting.
            undo.push_async_callback(end_and_delete, cgroup)
            writer = open_log(container, self._journal)
            undo.callback(writer.close)
            if container.id in self._kept_exits:  # the next process makes its end known in its stead
                self._kept_exits.discard(container.id)
                self._processes.forget((container.id, ""))

            bundle = self._bundles.directory(container)
            live = await launch(self._processes, container, bundle, rootfs, cgroup, member, writer.take)
            undo.pop_all()
        self._logs[container.id] = writer
        container.state = State(
            container.state.status,
            live.pid,
            live.start_time,
            live.output_inodes,
            started_ns=time.time_ns(),
            restart_count=container.state.restart_count,
            health=Health(log=container.state.health.log if container.state.health else [])
            if options.healthcheck
            else None,
        )
        member.note()
        container.oom_kills = 0
        container.move("start")
        self.save(container)
        self.mounts.publish_mounted(container)
        self._links.tell_parents(container)
        self.publish(container, "start")
        self.watches.begin(container)
        self._spawn(self._follow(container, live))

    # --- the end of a process

    async def _follow(self, container: Container, live: LiveProcess) -> None:
        """Wait for the container's process and take note of its end."""
        if container.options.pid_mode:  # in a namespace that goes on, so do the processes it started
            live.ends_with(self.cgroup_of(container).kill)
        exit = await live.ended
        await self._ended(container, exit)

    async def _ended(self, container: Container, exit: Exit) -> None:
        state, options = container.state, container.options
        self.watches.end(container)
        ran_s = min(max(0.0, (exit.at_ns - state.started_ns) / 1e9), state.up_s)  # the wall clock may have jumped
        state.pid, state.start_time = 0, 0
        state.exit_code, state.finished_ns = exit.code, exit.at_ns
        if isinstance(exit, UnknownExit):
            state.error = "the exit code is unknown: the launcher that would know it was killed"
        cgroup = self.cgroup_of(container)
        self.watches.check_oom(container, cgroup)
        if writer := self._logs.pop(container.id, None):
            writer.close()
        left = await self._networks.release(container.id)
        await self.mounts.unmount(container)
        container.execs.clear()
        container.cleanup = self._spawn(self._clean_up(container, cgroup))
        container.hub.end()
        held = self.shutting_down or container.no_restart
        again = not held and wanted(options.restart, exit.code, state.restart_count, state.stopped_by_user)
        state.restart_count += again
        container.move("back off" if again else "exit")
        self._kept_exits.add(container.id)
        if self.save(container):
            self.written_late()
        self.publish(container, "die", execDuration=str(int(ran_s)), exitCode=str(state.exit_code))
        self.mounts.publish_unmounted(container)
        self._networks.announce_left(container, left)
        if again:
            delay_s = container.backoff.next(ran_s)
            container.retry = asyncio.get_running_loop().call_later(
                delay_s, lambda: self._spawn(self._start_again(container))
            )
        elif options.auto_remove and not container.restarted_by_user:
            self._spawn(self._auto_remove(container))

    async def _start_again(self, container: Container) -> None:
        """What the restart policy wants; a failure ends the trying, as Docker does."""
        async with container.changing:
            if container.state.status == "restarting":
                try:
                    await self._start_or_note(container)
                except (WherryError, OSError) as error:
                    log.warning("container %s was not started again: %s", container.id, error)

    async def _auto_remove(self, container: Container) -> None:
        async with container.changing:
            if container.id in self._containers:
                self.discard(container, volumes=True)

    async def _clean_up(self, container: Container, cgroup: Cgroup) -> None:
        if container.options.pid_mode:
            await end_all(cgroup)
        delete(cgroup)
        self.cgroup_parents.release(container)
        sharing.unmount_shm(container)
        container.cleanup = None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- remove

    def discard(self, container: Container, volumes: bool) -> None:
        """Remove one that does not run, all in one go; what a killed engine leaves is removed at its next start.

        Raises SystemFault, and then the container is dead.
        """
        container.move("remove")
        anonymous = self.mounts.own_anonymous(container) if volumes else []
        if anonymous:
            self.save(container)
        else:
            self._store.note("container", container.id, None)
        try:
            sharing.unmount_shm(container)
            with contextlib.suppress(FileNotFoundError):
                self._trash.discard(container.directory)
            self._bundles.remove(container.id)
            self._snapshots.remove(container.id)
            self.mounts.let_go(container, anonymous)
        except (WherryError, OSError) as error:
            container.move("fail")
            container.state.error = f"unable to remove filesystem for {container.id}: {error}"
            self.save(container)
            container.removal_failed()
            raise SystemFault(container.state.error) from error
        if self._store.note("container", container.id, None):
            self.written_late()
        del self._containers[container.id]
        self._names.release(container.name)
        self._links.remove(container)
        self.delete_removed_images({container.image_id, *container.image_mounts.values()})
        self.publish(container, "destroy")
        container.gone()

    # --- streams

    def listen(self, container: Container) -> Listener:
        return container.hub.listen()

    def check_log_readable(self, container: Container) -> None:
        if container.options.log.driver == "none":
            raise NotSupported("configured logging driver does not support reading")

    def read_log(self, container: Container, query: LogQuery, render: Render) -> AsyncIterator[bytes]:
        """The wanted lines as `render` makes them bytes; raises NotSupported when none are kept."""
        self.check_log_readable(container)
        options = container.options.log
        log = self._logs.get(container.id)
        writer = log if isinstance(log, LogWriter) else None
        return read_log(log_path(container), options.max_files, writer, query, render)

    def resize(self, container: Container, rows: int, columns: int) -> None:
        self.process_of(container).stdio.resize(rows, columns)

    # --- engine start and stop

    def load(self) -> None:
        """Read every container from the store."""
        self._containers.update(self._store.all("container", self._read))
        for container in self._containers.values():
            self._links.add(container)
        self.mounts.load(self._containers.values())

    def _read(self, id: str, document: dict[str, Any]) -> Container:
        container = Container.from_document(document, self._settings.containers_dir / id)
        self._names.take(container.name, id)
        return container

    def still_running(self, known: list[Known]) -> list[Container]:
        """Containers whose process lives on: by the launcher's word, or by pid and start time."""
        alive = {process.key[0] for process in known if process.key[1] == "" and process.exited is None}
        return [
            container
            for container in self._containers.values()
            if container.id in alive
            or (container.state.pid and start_time_of(container.state.pid) == container.state.start_time)
        ]

    async def reconcile(self, known: list[Known]) -> None:
        """Bring every container's state in line with what is really there."""
        if (pending := self._journal.pending) and (container := self._containers.get(pending.owner)):
            finish_writing(container, self._journal, pending)
        self._journal.forget()
        own = {process.key[0]: process for process in known if process.key[1] == ""}
        for process in known:
            if process.key[1] or process.key[0] not in self._containers:
                self._processes.forget(process.key)
        for container in list(self._containers.values()):
            process_known = own.get(container.id)
            if process_known is not None:
                await self._adopt(container, process_known)
            elif container.state.has_process:
                await self._adopt_orphan(container)
            elif container.state.status in ("removing", "dead"):
                container.state.status = "dead"
                self.discard(container, volumes=True)
        self._processes.settled()
        sharing.note_shared_pids(self._containers.values(), self.get)
        await self._end_strays()
        self.mounts.reconcile(one for one in self._containers.values() if one.state.has_process)
        self.cgroup_parents.reconcile()
        self._restore_lost_directories()
        stored = self._store.ids("container") | self._containers.keys()  # also those that could not be read
        self._snapshots.retain(stored)
        self._bundles.retain(self._containers)
        for stray in self._settings.containers_dir.iterdir():
            if stray.name not in stored:
                self._trash.discard(stray)

    async def _end_strays(self) -> None:
        """Undo the starts that a killed engine did not get to note: end their processes, remove their cgroups."""
        own = self._settings.cgroup_parent
        paths = {self.cgroup_parents.path_of(one): one.state.pid for one in self._containers.values()}
        kept = {path.removeprefix(f"{own}/").partition("/")[0] for path, pid in paths.items() if pid}
        strays = [f"{own}/{name}" for name in names_below(own) - kept]
        strays += self.cgroup_parents.steps()
        for path in [*strays, *(path for path, pid in paths.items() if not pid and not path.startswith(f"{own}/"))]:
            cgroup = open_cgroup(path)
            await end_and_delete(cgroup)

    def _restore_lost_directories(self) -> None:
        """After a power cut the store may know a container whose directories never reached the disk."""
        for container in self._containers.values():
            try:
                container.directory.mkdir(mode=0o710, exist_ok=True)
                self._snapshots.prepare(container.id, self.image_of(container))
            except (AlreadyExists, NotFound):
                continue
            except OSError as error:  # its disk is full
                log.warning("container %s has lost its directories, and they cannot be made: %s", container.id, error)
                continue
            log.warning("what container %s had written is lost, its directories were missing", container.id)

    def resume(self) -> None:
        """Start what restart policies want after the engine's own start, remove what `--rm` left behind."""
        self._spawn(self._resume())

    async def _resume(self) -> None:
        for container in reversed(self.all()):
            state, options = container.state, container.options
            if state.has_process or container.retry:
                continue
            if state.status == "restarting" or (
                state.started_ns
                and wanted(options.restart, state.exit_code, state.restart_count, state.stopped_by_user)
            ):
                if state.status == "restarting":  # the engine ended while it waited
                    container.move("exit")
                try:
                    await self.start(container)
                except (WherryError, OSError) as error:
                    log.warning("container %s was not started again: %s", container.id, error)
            elif options.auto_remove:
                await self._auto_remove(container)

    async def _adopt(self, container: Container, known: Known) -> None:
        if known.exited and not container.state.has_process and container.state.finished_ns == known.exited.at_ns:
            self._processes.forget(known.key)  # the engine died right after it had taken note
            return
        fds = await self._processes.reopen(known.key)
        writer = self._logs[container.id] = open_log(container, self._journal)
        live = self._processes.adopt(known, fds, container.options.tty, writer.take, container.hub)
        if not container.state.has_process:  # the engine died between the start and its note of it
            container.move("start")
            container.state.started_ns = time.time_ns()
        container.state.pid, container.state.start_time = known.pid, known.start_time
        self._follow_adopted(container, live)

    def _follow_adopted(self, container: Container, live: LiveProcess) -> None:
        cgroup = self.cgroup_of(container)
        with contextlib.suppress(WherryError, OSError):
            if cgroup.is_frozen() != (container.state.status == "paused"):  # it died around a pause
                container.move("unpause" if container.state.status == "paused" else "pause")
        container.oom_kills = oom_kills(cgroup) if container.state.oom_killed else 0
        self.save(container)
        self.watches.begin(container)
        self._spawn(self._follow(container, live))

    async def _adopt_orphan(self, container: Container) -> None:
        state = container.state
        container.directory.mkdir(mode=0o710, exist_ok=True)
        writer = self._logs[container.id] = open_log(container, self._journal)
        live = self._processes.adopt_orphan(
            (container.id, ""), state.pid, state.start_time, state.output_inodes, writer.take, container.hub
        )
        if live:
            self._follow_adopted(container, live)
        else:
            await self._ended(container, UnknownExit(255, time.time_ns()))

    async def settle(self) -> None:
        """Wait until what follows an exit has been done."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for container in self._containers.values():
            self.watches.end(container)
            if container.retry:
                container.retry.cancel()
        for writer in self._logs.values():
            writer.close()

    def publish(self, container: Container, action: str, **attributes: str) -> None:
        shown = {
            **container.options.labels,
            "image": container.image_name,
            "name": container.name,
            **attributes,
        }
        self._events.publish(Event("container", action, container.id, shown))
