"""Health checks: a task per running container that has one, none for others. Probes are execs like any other.

As Docker: the first probe comes an interval after the start; within the start period failures do not count until a
probe has succeeded once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time

from runtime.engine.container import Container, Health, Probe
from runtime.engine.containers import ContainerService
from runtime.engine.execs import Exec, ExecService
from runtime.engine.options import Healthcheck
from runtime.engine.processes import LiveProcess
from runtime.engine.stdio import Take, taking
from runtime.errors import WherryError

log = logging.getLogger(__name__)

MAX_OUTPUT_BYTES = 4096
KEPT_PROBES = 5
FAILED_CODE = -1


class HealthMonitors:
    def __init__(self, containers: ContainerService, execs: ExecService) -> None:
        self._containers = containers
        self._execs = execs
        self._monitors: dict[str, asyncio.Task[None]] = {}

    def watch(self, container: Container) -> None:
        if container.id not in self._monitors and container.options.healthcheck:
            container.state.health = container.state.health or Health()
            monitor = self._monitor(container, container.options.healthcheck)
            self._monitors[container.id] = asyncio.create_task(monitor)

    def unwatch(self, container: Container) -> None:
        """Stop, and end the probe that is running."""
        if monitor := self._monitors.pop(container.id, None):
            monitor.cancel()

    async def _monitor(self, container: Container, check: Healthcheck) -> None:
        while True:
            await asyncio.sleep(_pause_s(container, check))
            started_ns = time.time_ns()
            try:
                code, output = await self._probe(container, check)
            except (WherryError, OSError) as error:
                log.warning("the health check of container %s could not be run: %s", container.id, error)
                code, output = FAILED_CODE, str(error)
            probe = Probe(started_ns, time.time_ns(), code, output)
            if note(container, check, probe):
                assert container.state.health
                self._containers.save(container)
                self._containers.publish(container, f"health_status: {container.state.health.status}")

    async def _probe(self, container: Container, check: Healthcheck) -> tuple[int, str]:
        """Exit code and output of one run; raises what an exec raises."""
        output = bytearray()
        exec = self._execs.create(container, {"Cmd": check.args, "AttachStdout": True, "AttachStderr": True})
        keep = taking(lambda _, data: output.extend(data[: MAX_OUTPUT_BYTES + 1 - len(output)]))
        live = await self._started(exec, keep)
        try:
            async with asyncio.timeout(check.timeout_s):
                exit = await asyncio.shield(live.ended)
        except TimeoutError:
            live.signal(signal.SIGKILL)
            await live.ended
            words = f"Health check exceeded timeout ({duration(check.timeout_s)})"
            return FAILED_CODE, f"{words}: {_text(output)}" if output else words
        except asyncio.CancelledError:
            live.signal(signal.SIGKILL)
            raise
        return exit.code, _text(output)

    async def _started(self, exec: Exec, take: Take) -> LiveProcess:
        """Start it; if we are told to stop meanwhile, it is killed as soon as it runs."""

        def kill(done: asyncio.Future[LiveProcess]) -> None:
            if not done.cancelled() and not done.exception():
                done.result().signal(signal.SIGKILL)

        starting = asyncio.ensure_future(self._execs.start(exec, take=take))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(kill)
            raise

    def close(self) -> None:
        for monitor in self._monitors.values():
            monitor.cancel()
        self._monitors.clear()


def _pause_s(container: Container, check: Healthcheck) -> float:
    """Until the next probe."""
    health = container.state.health
    if health and health.status == "starting" and container.state.up_s < check.start_period_s:
        return check.start_interval_s
    return check.interval_s


def note(container: Container, check: Healthcheck, probe: Probe) -> bool:
    """Take a result into the container's health; True when its status changed."""
    health = container.state.health
    if health is None:
        return False
    before = health.status
    health.log = [*health.log, probe][-KEPT_PROBES:]
    if probe.exit_code == 0:
        health.failing_streak, health.status = 0, "healthy"
    else:
        up_s = container.state.up_s - max(0.0, (probe.ended_ns - probe.started_ns) / 1e9)  # when it was begun
        if before != "starting" or up_s >= check.start_period_s:
            health.failing_streak += 1
            if health.failing_streak >= check.retries:
                health.status = "unhealthy"
    return health.status != before


def _text(output: bytearray) -> str:
    cut = "..." if len(output) > MAX_OUTPUT_BYTES else ""
    return output[:MAX_OUTPUT_BYTES].decode(errors="replace") + cut


def duration(seconds: float) -> str:
    """As Go prints a time.Duration: 1m30s, 1.5s, 200ms."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = f"{hours}h" if hours else ""
    parts += f"{minutes}m" if hours or minutes else ""
    return f"{parts}{rest:.9g}s"
