"""What a person does to a container: signals, stop, restart, pause, removal; and waiting for what comes of it."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
from typing import Literal

from runtime.engine.container import Container
from runtime.engine.containers import ContainerService
from runtime.engine.options import parse_signal
from runtime.engine.watches import HealthWatch
from runtime.errors import Conflict, NotFound, NotModified, SystemFault

log = logging.getLogger(__name__)

KILL_TIMEOUT_S = 10.0

WaitCondition = Literal["not-running", "next-exit", "removed"]


class Control:
    def __init__(self, containers: ContainerService, health: HealthWatch) -> None:
        self._containers = containers
        self._health = health

    async def kill(self, container: Container, signal_name: str = "") -> None:
        """SIGKILL waits for the end. Raises Conflict when it is not running, InvalidParameter for no signal."""
        number = parse_signal(signal_name or "SIGKILL")
        if number == signal.SIGKILL and container.state.is_up:
            await self._kill_and_wait(container)
            return
        await self._signal(container, number)

    async def stop(self, container: Container, signal_name: str = "", timeout_s: int | None = None) -> None:
        """Its stop signal, then SIGKILL after `timeout_s` (negative: never); raises NotModified."""
        number = parse_signal(signal_name) if signal_name else container.options.stop_signal
        async with container.changing:  # a start that is under way comes first
            is_up = container.state.is_up
        if not is_up:
            raise NotModified(f"container {container.id} is not running")
        try:
            await self._end(container, number, timeout_s)
        except Conflict:
            raise NotModified(f"container {container.id} is not running") from None
        self._containers.publish(container, "stop")

    async def restart(self, container: Container, signal_name: str = "", timeout_s: int | None = None) -> None:
        container.restarted_by_user = True
        try:
            try:
                await self.stop(container, signal_name, timeout_s)
            except NotModified:
                pass
            await self._containers.start(container)
        finally:
            container.restarted_by_user = False
        self._containers.publish(container, "restart")

    async def pause(self, container: Container) -> None:
        """Stop every process where it is; raises Conflict, SystemFault."""
        async with container.changing:
            if container.state.status == "paused":
                raise Conflict(f"Container {container.id} is already paused")
            self._containers.process_of(container)
            await self._freeze(container)

    async def unpause(self, container: Container) -> None:
        """Raises SystemFault when it is not paused, whatever else it is."""
        async with container.changing:
            if container.state.status != "paused":
                raise SystemFault(f"Container {container.id} is not paused")
            await self._thaw(container)

    async def wait(self, container: Container, condition: WaitCondition) -> tuple[int, str]:
        """The exit code at the awaited moment, and why a removal failed."""
        if condition == "removed":
            if container.is_gone:
                return container.state.exit_code, ""
            state = await container.removal()
            return state.exit_code, "" if container.is_gone else state.error
        if condition == "not-running" and not container.state.is_up:
            return container.state.exit_code, ""
        return (await container.next_exit()).exit_code, ""

    async def remove(self, container: Container, force: bool = False, volumes: bool = False) -> None:
        """Raises Conflict for a running one without `force`."""
        state = container.state
        if state.is_up and not force:
            why = (
                "paused and must be unpaused first"
                if state.status == "paused"
                else f"{state.status}: stop the container before removing or force remove"
            )
            raise Conflict(f'cannot remove container "/{container.name}": container is {why}')
        while True:
            if container.state.is_up:
                await self._kill_and_wait(container)
            async with container.changing:
                if container.is_gone:
                    if container.options.auto_remove:
                        return  # it was faster
                    raise NotFound(f"No such container: {container.id}")
                if not container.state.is_up:  # else somebody started it in between
                    self._containers.discard(container, volumes)
                    return

    async def stop_all(self) -> None:
        """Stop every running container, all at once; their restart policies stay as they are."""
        self._containers.shutting_down = True
        running = [container for container in self._containers.all() if container.state.is_up]
        ends = [self._end(container, container.options.stop_signal, None) for container in running]
        for fault in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(fault, BaseException) and not isinstance(fault, Conflict):  # Conflict: it had ended
                log.error("not everything could be stopped: %s", fault)
        await self._containers.settle()

    # --- the means

    async def _signal(self, container: Container, number: int) -> None:
        """Send a signal; one that asks it to end takes the say from its restart policy, and wakes a paused one.

        Raises Conflict when it is not running.
        """
        async with container.changing:
            state = container.state
            if not state.is_up:
                raise Conflict(f"container {container.id} is not running")
            chosen = container.config.get("StopSignal") or container.image_config.get("StopSignal")
            ends = not chosen or number in (container.options.stop_signal, signal.SIGKILL)
            container.no_restart |= ends
            if not self._containers.shutting_down:
                state.stopped_by_user = True
                if container.options.restart.name != "no":
                    self._containers.save(container)
            if state.status == "restarting":
                if ends:
                    self._give_up(container)
                return
            self._containers.process_of(container).signal(number)
            self._containers.publish(container, "kill", signal=str(number))
            if ends and state.status == "paused":
                await self._thaw(container)

    def _give_up(self, container: Container) -> None:
        """Do not start it again after all."""
        if container.retry:
            container.retry.cancel()
        container.move("exit")
        self._containers.save(container)

    async def _end(self, container: Container, number: int, patience_s: float | None) -> None:
        """A signal, then SIGKILL after `patience_s` (None: its own, negative: never); returns when it has ended."""
        patience_s = container.options.stop_timeout_s if patience_s is None else patience_s
        ended = container.next_exit()
        await self._signal(container, number)
        try:
            async with asyncio.timeout(None if patience_s < 0 else patience_s):
                await asyncio.shield(ended)
        except TimeoutError:
            await self._kill_and_wait(container)

    async def _kill_and_wait(self, container: Container) -> None:
        """SIGKILL until it has ended; nothing for one that has. Raises SystemFault when that does not help."""
        ended = container.next_exit()
        try:
            async with asyncio.timeout(KILL_TIMEOUT_S):
                try:
                    await self._signal(container, signal.SIGKILL)
                except Conflict:
                    if not container.state.is_up:
                        return  # else its process has gone, and that is about to be noted
                await ended
        except TimeoutError:
            raise SystemFault(
                f"tried to kill container {container.id}, but did not receive an exit event: a process in it is "
                "stuck in the kernel"
            ) from None

    async def _freeze(self, container: Container) -> None:
        try:
            await asyncio.to_thread(self._containers.cgroup_of(container).freeze)
        except OSError as error:
            if error.errno != errno.ENODEV:  # of the files of a cgroup that goes at this moment
                raise
            raise Conflict(f"container {container.id} is not running") from None
        if container.state.status != "running":
            raise Conflict(f"container {container.id} is not running")  # it ended meanwhile
        container.move("pause")
        self._containers.save(container)
        if container.options.healthcheck:
            self._health.unwatch(container)
        self._containers.publish(container, "pause")

    async def _thaw(self, container: Container) -> None:
        await asyncio.to_thread(self._containers.cgroup_of(container).thaw)
        if container.state.status != "paused":
            return  # it was killed before, and has ended
        container.move("unpause")
        self._containers.save(container)
        if container.options.healthcheck:
            self._health.watch(container)
        self._containers.publish(container, "unpause")
