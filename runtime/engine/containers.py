"""Containers: made, started, stopped, removed, waited for; each operation undoes itself when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Literal

from runtime.cgroups import Cgroup, host_facts, open_cgroup
from runtime.content.image import Image
from runtime.content.images import ImageStore
from runtime.content.snapshots import OverlayRootfs, Snapshots
from runtime.content.trash import Trash
from runtime.engine import names, spec_gen
from runtime.engine.bundle import Bundles
from runtime.engine.container import Container, State
from runtime.engine.events import Event, EventBus
from runtime.engine.launcher_link import Exit, Known
from runtime.engine.logs import LogQuery, LogWriter, read_log
from runtime.engine.networks import NetworkService
from runtime.engine.options import parse_signal, verify_limits
from runtime.engine.processes import LiveProcess, ProcessTable, UnknownExit, start_time_of
from runtime.engine.settings import EngineSettings
from runtime.engine.stdio import Listener
from runtime.engine.store import Store
from runtime.engine.volumes import VolumeService
from runtime.errors import (
    AlreadyExists,
    Conflict,
    InvalidParameter,
    NotFound,
    NotModified,
    ProcessFault,
    SystemFault,
    WherryError,
)

log = logging.getLogger(__name__)

WaitCondition = Literal["not-running", "next-exit", "removed"]
START_FAULT_CODES = {"ENOENT": 127, "EACCES": 126, "ENOEXEC": 126, "EISDIR": 126, "ENOTDIR": 127}


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
        self._volumes = volumes
        self._processes = processes
        self._events = events
        self._containers: dict[str, Container] = {}
        self._names: dict[str, str] = {}
        self._logs: dict[str, LogWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._bundles = Bundles(settings, volumes)
        self._facts = host_facts()
        settings.containers_dir.mkdir(mode=0o711, parents=True, exist_ok=True)

    # --- finding

    def all(self) -> list[Container]:
        """Newest first."""
        return sorted(self._containers.values(), key=lambda container: -container.created_ns)

    def get(self, name: str) -> Container:
        """By id, name, or the beginning of an id; raises NotFound, or InvalidParameter when several match."""
        id = name if name in self._containers else self._names.get(name.removeprefix("/"))
        if id is None:
            matches = [id for id in self._containers if name and id.startswith(name)]
            if len(matches) > 1:
                raise InvalidParameter(f"multiple IDs found with provided prefix: {name}")
            if not matches:
                raise NotFound(f"No such container: {name}")
            id = matches[0]
        return self._containers[id]

    def image_of(self, container: Container) -> Image:
        return self._images.get(container.image_id)

    def process_of(self, container: Container) -> LiveProcess:
        """The running container's process; raises Conflict."""
        live = self._processes.get((container.id, ""))
        if live is None or container.state.status != "running":
            raise Conflict(f"container {container.id} is not running")
        return live

    def cgroup_of(self, container: Container) -> Cgroup:
        return open_cgroup(f"{self._settings.cgroup_parent}/{container.id}")

    def users_of_volume(self, name: str) -> list[str]:
        return [container.id for container in self._containers.values() if name in container.volumes.values()]

    # --- create

    def create(
        self,
        name: str,
        config: dict[str, Any],
        host_config: dict[str, Any],
        networking: dict[str, Any],
    ) -> tuple[Container, list[str]]:
        """Everything but the process, and what to warn of; raises NotFound (image), AlreadyExists (name),
        InvalidParameter."""
        image_name = config.get("Image") or ""
        if not image_name:
            raise InvalidParameter("config cannot be empty: an Image is needed in order to create a container")
        image = self._images.get(image_name)
        id = secrets.token_hex(32)
        host_config, warnings = verify_limits(host_config, self._facts)
        with ExitStack() as undo:
            name = names.check(name) if name else names.choose(self._names)
            if name in self._names:
                raise AlreadyExists(
                    f'Conflict. The container name "/{name}" is already in use by container '
                    f'"{self._names[name]}". You have to remove (or rename) that container to be able to '
                    "reuse that name."
                )
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
            )
            container.networks = self._networks.plan(container.options)
            spec_gen.effective_capabilities(container.options, container.options.privileged)
            self._bundles.init_program(container)
            rootfs = self._snapshots.prepare(id, image)
            undo.callback(self._snapshots.remove, id)
            container.directory.mkdir(mode=0o710)
            undo.callback(self._trash.discard, container.directory)
            (container.directory / "rootfs").mkdir()
            if container.options.user or container.options.groups:
                self._bundles.user_of(container, rootfs)
            self._make_volumes(container, rootfs, undo)
            self._store.put("container", id, container.to_document())
            undo.pop_all()
        self._containers[id] = container
        self._names[name] = id
        self.publish(container, "create")
        return container, warnings

    def _make_volumes(self, container: Container, rootfs: OverlayRootfs, undo: ExitStack) -> None:
        known = {volume.name for volume in self._volumes.all()}
        for request in container.options.mounts:
            if request.kind == "volume":
                volume = self._volumes.ensure(request.source)
                if volume.name not in known:
                    undo.callback(self._volumes.remove, volume.name, [])
                container.volumes[request.target] = volume.name
                if not request.no_copy:
                    self._volumes.populate(volume, rootfs.lower, request.target)

    # --- start

    async def start(self, container: Container) -> None:
        """Raises NotModified when it runs, ProcessFault when its program cannot be executed, and more."""
        async with container.changing:
            if container.state.status == "running":
                raise NotModified(f"container {container.id} is already running")
            if container.state.status == "removing":
                raise Conflict(f"container {container.id} is marked for removal and cannot be started")
            try:
                await self._start(container)
            except (WherryError, OSError) as error:
                container.state.error = str(error)
                container.state.exit_code = _start_fault_code(error)
                self._store.put("container", container.id, container.to_document())
                if container.options.auto_remove:
                    self._remove_now(container, volumes=True)
                if isinstance(error, ProcessFault):
                    raise _explained(error) from None
                raise

    async def _start(self, container: Container) -> None:
        options = container.options
        async with AsyncExitStack() as undo:
            rootfs = self._snapshots.describe(container.id, self.image_of(container))
            member = await self._networks.join(container)
            undo.push_async_callback(self._networks.leave, container)
            spec = self._bundles.write(container, rootfs, member)
            cgroup = self.cgroup_of(container)
            cgroup.create(spec["linux"]["resources"])
            undo.callback(cgroup.delete)
            extra_fds: dict[str, int] = {}
            if member.sandbox:
                extra_fds["netns"] = member.sandbox.fd
            cgroup_fd = cgroup.open_fd()
            if cgroup_fd is not None:
                extra_fds["cgroup"] = cgroup_fd
            writer = LogWriter(container.log_path)
            undo.callback(writer.close)

            async def launch(fds: Any) -> Any:
                overlay = {
                    "type": "overlay",
                    "lower": rootfs.lower,
                    "upper": rootfs.upper,
                    "work": rootfs.work,
                }
                join = [] if cgroup_fd is not None else cgroup.join_paths()
                return await self._processes.link.run(container.id, container.directory, overlay, join, fds)

            try:
                live = await self._processes.start(
                    (container.id, ""),
                    launch,
                    terminal=options.tty,
                    stdin=options.open_stdin,
                    sink=writer.write,
                    hub=container.hub,
                    extra_fds=extra_fds,
                )
            finally:
                if cgroup_fd is not None:
                    os.close(cgroup_fd)
            undo.pop_all()
        if member.sandbox:  # the container's processes hold the namespace from here on
            member.sandbox.close()
            member.sandbox = None
        self._logs[container.id] = writer
        container.state = State(
            container.state.status,
            live.pid,
            live.start_time,
            started_ns=time.time_ns(),
        )
        member.note()
        container.move("start")
        self._store.put("container", container.id, container.to_document())
        self.publish(container, "start")
        self._spawn(self._follow(container, live))

    # --- the end of a process

    async def _follow(self, container: Container, live: LiveProcess) -> None:
        """Wait for the container's process and take note of its end."""
        exit = await live.ended
        await self._ended(container, exit)

    async def _ended(self, container: Container, exit: Exit) -> None:
        state = container.state
        state.pid, state.start_time = 0, 0
        state.exit_code, state.finished_ns = exit.code, exit.at_ns
        if isinstance(exit, UnknownExit):
            state.error = "the exit code is unknown: the launcher that would know it was killed"
        cgroup = self.cgroup_of(container)
        state.oom_killed = exit.oom_killed or _oom_killed(cgroup)
        if writer := self._logs.pop(container.id, None):
            writer.close()
        left = await self._networks.release(container.id)
        self._spawn(self._clean_up(container, cgroup))
        container.hub.end()
        container.move("exit")
        self._store.put("container", container.id, container.to_document())
        if state.oom_killed:
            self.publish(container, "oom")
        self.publish(container, "die", exitCode=str(state.exit_code))
        self._networks.announce_left(container, left)
        if container.options.auto_remove:
            self._spawn(self._auto_remove(container))

    async def _auto_remove(self, container: Container) -> None:
        async with container.changing:
            if container.id in self._containers:
                self._remove_now(container, volumes=True)

    async def _clean_up(self, container: Container, cgroup: Cgroup) -> None:
        try:
            cgroup.delete()
        except (WherryError, OSError) as error:
            log.warning("the cgroup of container %s stays for now: %s", container.id, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- signals and waiting

    def kill(self, container: Container, signal_name: str) -> None:
        """Raises Conflict when it is not running, InvalidParameter for no signal."""
        number = parse_signal(signal_name or "SIGKILL")
        if container.state.status != "running":
            raise Conflict(f"cannot kill container: {container.id}: container {container.id} is not running")
        self.process_of(container).signal(number)
        self.publish(container, "kill", signal=str(number))

    async def stop(self, container: Container, signal_name: str = "", timeout_s: int | None = None) -> None:
        """Its stop signal, then SIGKILL after `timeout_s` (negative: never); raises NotModified."""
        async with container.changing:
            if container.state.status != "running":
                raise NotModified(f"container {container.id} is not running")
            await self._stop(container, signal_name, timeout_s)
        self.publish(container, "stop")

    async def _stop(self, container: Container, signal_name: str, timeout_s: int | None) -> None:
        number = parse_signal(signal_name) if signal_name else container.options.stop_signal
        patience_s = container.options.stop_timeout_s if timeout_s is None else timeout_s
        await self._signal_and_wait(container, number, None if patience_s < 0 else patience_s)
        if container.state.status == "running":
            await self._signal_and_wait(container, 9, None)

    async def _signal_and_wait(self, container: Container, number: int, patience_s: float | None) -> None:
        ended = container.next_exit()
        self.process_of(container).signal(number)
        self.publish(container, "kill", signal=str(number))
        try:
            async with asyncio.timeout(patience_s):
                await ended
        except TimeoutError:
            pass

    async def restart(self, container: Container, signal_name: str = "", timeout_s: int | None = None) -> None:
        async with container.changing:
            if container.state.status == "running":
                await self._stop(container, signal_name, timeout_s)
        await self.start(container)
        self.publish(container, "restart")

    async def wait(self, container: Container, condition: WaitCondition) -> State:
        """The state at the awaited moment."""
        if condition == "removed":
            if container.id not in self._containers:
                return container.state
            return await container.removal()
        if condition == "not-running" and container.state.status != "running":
            return container.state
        return await container.next_exit()

    # --- remove

    async def remove(self, container: Container, force: bool = False, volumes: bool = False) -> None:
        """Raises Conflict for a running one without `force`."""
        async with container.changing:
            if container.id not in self._containers:
                raise NotFound(f"No such container: {container.id}")
            if container.state.status == "running":
                if not force:
                    raise Conflict(
                        f'cannot remove container "/{container.name}": container is running: stop the container '
                        "before removing or force remove"
                    )
                await self._signal_and_wait(container, 9, None)
            if container.id in self._containers:
                self._remove_now(container, volumes)

    def _remove_now(self, container: Container, volumes: bool) -> None:
        container.move("remove")
        self._store.delete("container", container.id)
        del self._containers[container.id]
        del self._names[container.name]
        self._snapshots.remove(container.id)
        self._trash.discard(container.directory)
        if volumes:
            for name in container.volumes.values():
                volume = self._volumes.get(name)
                if volume.anonymous and not self.users_of_volume(name):
                    self._volumes.remove(name, [])
        self.publish(container, "destroy")
        container.gone()

    # --- streams

    def listen(self, container: Container) -> Listener:
        return container.hub.listen()

    def read_log(self, container: Container, query: LogQuery) -> AsyncIterator[tuple[int, bytes]]:
        return read_log(container.log_path, self._logs.get(container.id), query)

    def resize(self, container: Container, rows: int, columns: int) -> None:
        self.process_of(container).stdio.resize(rows, columns)

    # --- engine start and stop

    def load(self) -> None:
        """Read every container from the store."""
        for id, document in self._store.all("container"):
            try:
                container = Container.from_document(document, self._settings.containers_dir / id)
            except (WherryError, KeyError, TypeError) as error:
                raise SystemFault(f"container {id} in the store cannot be read: {error}") from error
            self._containers[id] = container
            self._names[container.name] = id

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
        own = {process.key[0]: process for process in known if process.key[1] == ""}
        for process in known:
            if process.key[1] or process.key[0] not in self._containers:
                self._processes.link.ack(process.key)
        for container in list(self._containers.values()):
            process_known = own.get(container.id)
            if process_known is not None:
                await self._adopt(container, process_known)
            elif container.state.status == "running":
                await self._adopt_orphan(container)
        self._processes.settled()
        self._restore_lost_directories()
        self._snapshots.retain(self._containers)
        for stray in self._settings.containers_dir.iterdir():
            if stray.name not in self._containers:
                self._trash.discard(stray)

    def _restore_lost_directories(self) -> None:
        """After a power cut the store may know a container whose directories never reached the disk."""
        for container in self._containers.values():
            (container.directory / "rootfs").mkdir(mode=0o710, parents=True, exist_ok=True)
            with contextlib.suppress(AlreadyExists, NotFound):
                self._snapshots.prepare(container.id, self.image_of(container))
                log.warning("what container %s had written is lost, its directories were missing", container.id)

    async def _adopt(self, container: Container, known: Known) -> None:
        fds = await self._processes.link.reopen(known.key)
        writer = self._logs[container.id] = LogWriter(container.log_path)
        live = self._processes.adopt(known, fds, container.options.tty, writer.write, container.hub)
        if container.state.status != "running":  # the engine died between the start and its note of it
            container.move("start")
            container.state.started_ns = time.time_ns()
        container.state.pid, container.state.start_time = known.pid, known.start_time
        self._store.put("container", container.id, container.to_document())
        self._spawn(self._follow(container, live))

    async def _adopt_orphan(self, container: Container) -> None:
        state = container.state
        container.directory.mkdir(mode=0o710, exist_ok=True)
        writer = self._logs[container.id] = LogWriter(container.log_path)
        live = self._processes.adopt_orphan(
            (container.id, ""), state.pid, state.start_time, writer.write, container.hub
        )
        if live:
            self._spawn(self._follow(container, live))
        else:
            await self._ended(container, UnknownExit(255, time.time_ns()))

    async def stop_all(self) -> None:
        """Stop every running container, all at once."""
        running = [container for container in self._containers.values() if container.state.status == "running"]
        await asyncio.gather(*(self._stop(container, "", None) for container in running))
        await self.settle()

    async def settle(self) -> None:
        """Wait until what follows an exit has been done."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
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


def _oom_killed(cgroup: Cgroup) -> bool:
    try:
        return cgroup.oom_kills() > 0
    except (WherryError, OSError):
        return False


def _start_fault_code(error: Exception) -> int:
    """What a shell would say: 127 not found, 126 not executable, else Docker's 128."""
    if isinstance(error, ProcessFault):
        return START_FAULT_CODES.get(errno.errorcode.get(error.errno, ""), 128)
    return 128


def _explained(fault: ProcessFault) -> ProcessFault:
    """In Docker's words, which its CLI reads the exit status from."""
    return ProcessFault(fault.phase, fault.errno, f"failed to create task for container: {fault}")
