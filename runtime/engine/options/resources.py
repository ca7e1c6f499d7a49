"""Limits as OCI has them: memory, CPU, processes, block I/O, ulimits. What the host can do is checked in `limits`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from runtime.engine.options.model import Document
from runtime.errors import InvalidParameter
from runtime.oci.rlimits import RLIMITS

CPU_PERIOD_US = 100_000
_THROTTLES = (
    ("BlkioDeviceReadBps", "throttleReadBpsDevice"),
    ("BlkioDeviceWriteBps", "throttleWriteBpsDevice"),
    ("BlkioDeviceReadIOps", "throttleReadIOPSDevice"),
    ("BlkioDeviceWriteIOps", "throttleWriteIOPSDevice"),
)
INFINITE = 0xFFFFFFFFFFFFFFFF


def resources(host: Document) -> dict[str, Any]:
    """The OCI `linux.resources` object of a verified HostConfig, without device rules."""
    nano_cpus = host.get("NanoCpus") or 0
    groups: dict[str, dict[str, Any]] = {
        "memory": {
            "limit": host.get("Memory"),
            "reservation": host.get("MemoryReservation"),
            "swap": host.get("MemorySwap"),
            "disableOOMKiller": host.get("OomKillDisable"),
            "kernelTCP": host.get("KernelMemoryTCP"),
        },
        "cpu": {
            "shares": host.get("CpuShares"),
            "quota": nano_cpus * CPU_PERIOD_US // 10**9 or host.get("CpuQuota"),
            "period": CPU_PERIOD_US if nano_cpus else host.get("CpuPeriod"),
            "realtimePeriod": host.get("CpuRealtimePeriod"),
            "realtimeRuntime": host.get("CpuRealtimeRuntime"),
            "cpus": host.get("CpusetCpus"),
            "mems": host.get("CpusetMems"),
        },
        "pids": {"limit": host.get("PidsLimit") if (host.get("PidsLimit") or 0) > 0 else None},
        "blockIO": {"weight": host.get("BlkioWeight")},
    }
    found = {}
    for name, values in groups.items():
        if kept := {key: value for key, value in values.items() if value}:
            found[name] = kept
    if host.get("MemorySwappiness") is not None:
        found.setdefault("memory", {})["swappiness"] = host["MemorySwappiness"]
    return found


def block_devices(host: Document) -> list[tuple[str, str, dict[str, int]]]:
    """(OCI field, path of the device, what else its entry has) for each limit on one device."""
    found = [
        ("weightDevice", device.get("Path") or "", {"weight": device.get("Weight") or 0})
        for device in host.get("BlkioWeightDevice") or ()
    ]
    for name, field in _THROTTLES:
        found += [
            (field, device.get("Path") or "", {"rate": device.get("Rate") or 0}) for device in host.get(name) or ()
        ]
    return found


def with_block_devices(resources: dict[str, Any], devices: Iterable[tuple[str, str, dict[str, int]]]) -> dict[str, Any]:
    """`resources` with the devices looked up on this host; raises InvalidParameter for one that is not there."""
    block_io = dict(resources.get("blockIO") or {})
    for field, path, values in devices:
        try:
            number = os.stat(path).st_rdev
        except OSError as error:
            raise InvalidParameter(f"stat {path}: {(error.strerror or '').lower()}") from None
        entry = {"major": os.major(number), "minor": os.minor(number), **values}
        block_io[field] = [*block_io.get(field, ()), entry]
    return {**resources, "blockIO": block_io} if block_io else resources


def rlimit(limit: Document) -> dict[str, Any]:
    name = str(limit.get("Name") or "").lower().removeprefix("rlimit_")
    if f"RLIMIT_{name.upper()}" not in RLIMITS:
        raise InvalidParameter(f"invalid ulimit type: {name}")
    hard, soft = limit.get("Hard", -1), limit.get("Soft", -1)
    if not isinstance(hard, int) or not isinstance(soft, int) or min(hard, soft) < -1:
        raise InvalidParameter(f"invalid ulimit {name}: {soft}:{hard}: give whole numbers, or -1 for no limit")
    if hard != -1 and (soft == -1 or soft > hard):
        raise InvalidParameter(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {
        "type": f"RLIMIT_{name.upper()}",
        "hard": INFINITE if hard == -1 else hard,
        "soft": INFINITE if soft == -1 else soft,
    }
