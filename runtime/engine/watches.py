"""What goes on while a container runs: its health check, and the kernel's word of memory running out.

Costs nothing for a container that has neither a check nor a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from runtime.cgroups import Cgroup
from runtime.engine.container import Container
from runtime.engine.oom import OomWatch, oom_kills


class HealthWatch(Protocol):
    """Who runs the health checks of running containers that have one."""

    def watch(self, container: Container) -> None: ...

    def unwatch(self, container: Container) -> None: ...


class Watches:
    def __init__(self, cgroup_of: Callable[[Container], Cgroup], publish: Callable[[Container, str], None]) -> None:
        self.health: HealthWatch
        self._cgroup_of = cgroup_of
        self._publish = publish

    def begin(self, container: Container) -> None:
        """It runs, or was found running."""
        if container.options.healthcheck and container.state.status == "running":
            self.health.watch(container)
        if container.options.resources.get("memory", {}).get("limit"):
            cgroup = self._cgroup_of(container)
            container.oom_watch = OomWatch.on(cgroup, lambda: self.check_oom(container, cgroup))

    def end(self, container: Container) -> None:
        if container.options.healthcheck:
            self.health.unwatch(container)
        if container.oom_watch:
            container.oom_watch.close()
            container.oom_watch = None

    def limits_changed(self, container: Container) -> None:
        """It may have got a memory limit, or lost it."""
        if container.oom_watch:
            container.oom_watch.close()
            container.oom_watch = None
        if container.state.has_process:
            self.begin(container)

    def check_oom(self, container: Container, cgroup: Cgroup) -> None:
        """Tell it when the kernel's count says that it has killed for the memory limit."""
        count = oom_kills(cgroup)
        if count > container.oom_kills:
            container.oom_kills = count
            container.state.oom_killed = True
            self._publish(container, "oom")
