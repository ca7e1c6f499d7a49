"""What a container uses: samples of its cgroup and its network interfaces (`docker stats`)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from runtime.cgroups import Stats
from runtime.engine.container import Container
from runtime.engine.containers import ContainerService
from runtime.errors import WherryError

INTERVAL_S = 1.0
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_INTERFACE_FIELDS = (0, 1, 2, 3, 8, 9, 10, 11)  # bytes, packets, errs, drop: received, then sent (proc(5), net/dev)


@dataclass(frozen=True)
class Sample:
    """One moment. `cgroup` is None for a container that does not run; `interfaces`: eight counters by name."""

    time_ns: int = 0
    cgroup: Stats | None = None
    system_cpu_ns: int = 0
    cpus: int = 0
    interfaces: dict[str, list[int]] = field(default_factory=dict)


EMPTY = Sample()


class Usage:
    def __init__(self, containers: ContainerService) -> None:
        self._containers = containers

    def sample(self, container: Container) -> Sample:
        """EMPTY when the container does not run."""
        if not container.state.has_process or not container.state.pid:
            return EMPTY
        try:
            stats = self._containers.cgroup_of(container).stats()
        except (WherryError, OSError):  # it has ended just now
            return EMPTY
        interfaces = {} if container.options.network_mode == "host" else _interfaces(container.state.pid)
        return Sample(time.time_ns(), stats, *_system_cpu(), interfaces)

    async def follow(self, container: Container) -> AsyncIterator[tuple[Sample, Sample]]:
        """The sample before and the newest, one pair a second, until the container is removed."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        before, now = EMPTY, self.sample(container)
        while True:
            if before is not EMPTY or now is EMPTY:
                yield before, now
            due_s = max(due_s + INTERVAL_S, loop.time())
            await asyncio.sleep(due_s - loop.time())
            if container not in self._containers:
                return
            before, now = now, self.sample(container)

    async def once(self, container: Container) -> tuple[Sample, Sample]:
        """A pair as `follow` gives it: a second apart, for a share of CPU time is a difference of two."""
        before = self.sample(container)
        if before is EMPTY:
            return EMPTY, EMPTY
        await asyncio.sleep(INTERVAL_S)
        return before, self.sample(container)


def _system_cpu() -> tuple[int, int]:
    """CPU time of the whole host in ns, and its CPUs: /proc/stat, user to steal (proc(5))."""
    total = cpus = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == "cpu":
            total = sum(map(int, fields[:8])) * _TICK_NS
        elif name.startswith("cpu"):
            cpus += 1
        else:
            break
    return total, cpus


def _interfaces(pid: int) -> dict[str, list[int]]:
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except (FileNotFoundError, ProcessLookupError, OSError):
        return {}
    counters = {}
    for line in lines:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            values = numbers.split()
            counters[name.strip()] = [int(values[index]) for index in _INTERFACE_FIELDS]
    return counters


def memory_limit_bytes(stats: Stats) -> int:
    """The container's limit, or what the host has."""
    total = _memory_total_bytes()
    return min(stats["memory"]["limit_bytes"] or total, total)


def _memory_total_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
