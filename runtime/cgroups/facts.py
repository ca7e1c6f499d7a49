"""What this host's cgroups can limit, so that the engine can say so and warn instead of failing."""

import os
from typing import TypedDict

from runtime.cgroups.files import read_file
from runtime.cgroups.hierarchy import Hierarchies, mounted


class HostFacts(TypedDict):
    """`version` is "1" or "2"; the flags tell which of OCI's limits `create` accepts here."""

    version: str
    controllers: list[str]
    memory_limit: bool
    memory_reservation: bool
    memory_swappiness: bool
    swap_limit: bool
    oom_kill_disable: bool
    kernel_memory_tcp: bool
    cpu_shares: bool
    cpu_quota: bool
    cpu_set: bool
    cpu_realtime: bool
    pids_limit: bool
    io_weight: bool
    io_throttle: bool
    huge_pages: bool


def host_facts(hierarchies: Hierarchies | None = None) -> HostFacts:
    """Return the facts of the mounted hierarchies; raises NotSupported when there are none."""
    hierarchies = hierarchies or mounted()
    return _v1_facts(hierarchies) if hierarchies.version == 1 else _v2_facts(hierarchies)


def _v1_facts(hierarchies: Hierarchies) -> HostFacts:
    def has(controller: str, file: str) -> bool:
        mount = hierarchies.v1.get(controller)
        return mount is not None and os.path.exists(f"{mount}/{file}")

    return {
        "version": "1",
        "controllers": sorted(name for name in hierarchies.v1 if not name.startswith("name=")),
        "memory_limit": has("memory", "memory.limit_in_bytes"),
        "memory_reservation": has("memory", "memory.soft_limit_in_bytes"),
        "memory_swappiness": has("memory", "memory.swappiness"),
        "swap_limit": has("memory", "memory.memsw.limit_in_bytes"),
        "oom_kill_disable": has("memory", "memory.oom_control"),
        "kernel_memory_tcp": has("memory", "memory.kmem.tcp.limit_in_bytes"),
        "cpu_shares": has("cpu", "cpu.shares"),
        "cpu_quota": has("cpu", "cpu.cfs_quota_us"),
        "cpu_set": has("cpuset", "cpuset.cpus"),
        "cpu_realtime": has("cpu", "cpu.rt_runtime_us"),
        # The root of the pids and BFQ controllers has no limit files, but others that come with them.
        "pids_limit": "pids" in hierarchies.v1,
        "io_weight": has("blkio", "blkio.bfq.io_service_bytes"),
        "io_throttle": has("blkio", "blkio.throttle.read_bps_device"),
        "huge_pages": "hugetlb" in hierarchies.v1,
    }


def _v2_facts(hierarchies: Hierarchies) -> HostFacts:
    controllers = sorted(read_file(f"{hierarchies.unified}/cgroup.controllers").split())
    memory = "memory" in controllers
    return {
        "version": "2",
        "controllers": controllers,
        "memory_limit": memory,
        "memory_reservation": memory,
        "memory_swappiness": False,
        # The root cgroup has no memory.swap.max to look for; a kernel built with swap has this file.
        "swap_limit": memory and os.path.exists("/proc/swaps"),
        "oom_kill_disable": False,
        "kernel_memory_tcp": False,
        "cpu_shares": "cpu" in controllers,
        "cpu_quota": "cpu" in controllers,
        "cpu_set": "cpuset" in controllers,
        "cpu_realtime": False,
        "pids_limit": "pids" in controllers,
        # The root has the settings of the model that io.weight needs (CONFIG_BLK_CGROUP_IOCOST).
        "io_weight": os.path.exists(f"{hierarchies.unified}/io.cost.qos"),
        "io_throttle": "io" in controllers,
        "huge_pages": "hugetlb" in controllers,
    }


def allowed_set(kind: str, hierarchies: Hierarchies | None = None) -> str:
    """The CPUs ("cpus") or memory nodes ("mems") of this host that containers may use, as cpuset(7) lists them."""
    hierarchies = hierarchies or mounted()
    if hierarchies.version == 1:
        return read_file(f"{hierarchies.v1['cpuset']}/cpuset.{kind}").strip()
    return read_file(f"{hierarchies.unified}/cpuset.{kind}.effective").strip()
