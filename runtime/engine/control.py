"""What a person does to a running container: signals, stop, restart, pause; and waiting for what comes of it."""

from __future__ import annotations

import signal
from typing import Literal

from runtime.engine.container import Container
from runtime.engine.containers import ContainerService
from runtime.engine.options import parse_signal
from runtime.errors import Conflict, NotModified, SystemFault

WaitCondition = Literal["not-running", "next-exit", "removed"]


class Control:
    def __init__(self, containers: ContainerService) -> None:
        self._containers = containers

    async def kill(self, container: Container, signal_name: str = "") -> None:
        """SIGKILL waits for the end. Raises Conflict when it is not running, InvalidParameter for no signal."""
        number = parse_signal(signal_name or "SIGKILL")
        if number == signal.SIGKILL and container.state.is_up:
            await self._containers.kill_and_wait(container)
            return
        try:
            await self._containers.signal(container, number)
        except Conflict as refusal:
            raise Conflict(f"cannot kill container: {container.id}: {refusal}") from None

    async def stop(self, container: Container, signal_name: str = "", timeout_s: int | None = None) -> None:
        """Its stop signal, then SIGKILL after `timeout_s` (negative: never); raises NotModified."""
        number = parse_signal(signal_name) if signal_name else container.options.stop_signal
        async with container.changing:  # a start that is under way comes first
            is_up = container.state.is_up
        if not is_up:
            raise NotModified(f"container {container.id} is not running")
        try:
            await self._containers.end(container, number, timeout_s)
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
            await self._containers.freeze(container)

    async def unpause(self, container: Container) -> None:
        """Raises Conflict when it is not running, SystemFault when it is not paused."""
        async with container.changing:
            self._containers.process_of(container)
            if container.state.status != "paused":
                raise SystemFault(f"Container {container.id} is not paused")
            await self._containers.thaw(container)

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
