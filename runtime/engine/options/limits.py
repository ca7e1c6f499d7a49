"""Limits against what this host can do: Docker's refusals, warnings and adjustments (moby daemon/daemon_unix.go).

Whoever reads a stored HostConfig finds in it only what can be honoured: what the host cannot do was taken out here,
with a warning, when the container was made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from runtime.cgroups import HostFacts
from runtime.cgroups.facts import allowed_set
from runtime.engine.options.fields import amount
from runtime.engine.options.model import Document
from runtime.errors import Conflict, InvalidParameter

MIN_MEMORY_BYTES = 6 << 20  # Docker's minimum
MIN_CPU_SHARES, MAX_CPU_SHARES = 2, 262144
NOT_MOUNTED = "or the cgroup is not mounted"

# (fact that must hold, fields it is about, what Docker says when it does not)
_DISCARDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "memory_swappiness",
        ("MemorySwappiness",),
        f"memory swappiness capabilities {NOT_MOUNTED}. Memory swappiness discarded.",
    ),
    (
        "memory_reservation",
        ("MemoryReservation",),
        f"memory soft limit capabilities {NOT_MOUNTED}. Limitation discarded.",
    ),
    ("cpu_shares", ("CpuShares",), f"CPU shares {NOT_MOUNTED}. Shares discarded."),
    ("cpu_quota", ("CpuPeriod", "CpuQuota"), "CPU CFS scheduler. CPU period/quota discarded."),
    ("cpu_set", ("CpusetCpus", "CpusetMems"), f"cpuset {NOT_MOUNTED}. Cpuset discarded."),
    ("io_weight", ("BlkioWeight",), f"Block I/O weight {NOT_MOUNTED}. Weight discarded."),
    ("io_weight", ("BlkioWeightDevice",), f"Block I/O weight_device {NOT_MOUNTED}. Weight-device discarded."),
    (
        "io_throttle",
        ("BlkioDeviceReadBps",),
        f"BPS Block I/O read limit {NOT_MOUNTED}. Block I/O BPS read limit discarded.",
    ),
    (
        "io_throttle",
        ("BlkioDeviceWriteBps",),
        f"BPS Block I/O write limit {NOT_MOUNTED}. Block I/O BPS write limit discarded.",
    ),
    (
        "io_throttle",
        ("BlkioDeviceReadIOps",),
        f"IOPS Block read limit {NOT_MOUNTED}. Block I/O IOPS read limit discarded.",
    ),
    (
        "io_throttle",
        ("BlkioDeviceWriteIOps",),
        f"IOPS Block write limit {NOT_MOUNTED}. Block I/O IOPS write limit discarded.",
    ),
)

# What `docker update` may change.
UPDATABLE = (
    *("BlkioWeight", "CpuShares", "NanoCpus", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime"),
    *("CpusetCpus", "CpusetMems", "Memory", "MemorySwap", "MemoryReservation", "PidsLimit"),
)


def verify_limits(host: Document, facts: HostFacts, *, update: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The HostConfig with only what this host can do, and what a client is to be warned of.

    With `update` it is the changes alone of `docker update`. Raises InvalidParameter.
    """
    checked, warnings = dict(host), list[str]()
    if checked.get("MemorySwappiness") == -1:
        checked["MemorySwappiness"] = None
    _verify_memory(checked, facts, warnings, update)
    for fact, fields, words in _DISCARDS:
        if not facts[fact] and any(checked.get(name) for name in fields):  # type: ignore[literal-required]
            warnings.append(f"Your kernel does not support {words}")
            for name in fields:
                checked.pop(name, None)
    _verify_memory_ranges(checked)
    _verify_oom_and_pids(checked, facts, warnings)
    _verify_cpu(checked, facts, warnings)
    _verify_block_io(checked)
    if not update:
        _complete(checked)
    return checked, warnings


def _verify_memory(host: dict[str, Any], facts: HostFacts, warnings: list[str], update: bool) -> None:
    memory = amount(host, "Memory", "--memory")
    if memory and memory < MIN_MEMORY_BYTES:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if memory and not facts["memory_limit"]:
        warnings.append(f"Your kernel does not support memory limit capabilities {NOT_MOUNTED}. Limitation discarded.")
        host["Memory"], host["MemorySwap"] = 0, -1
    if host.get("Memory") and host.get("MemorySwap") != -1 and not facts["swap_limit"]:
        warnings.append(
            f"Your kernel does not support swap limit capabilities {NOT_MOUNTED}. Memory limited without swap."
        )
        host["MemorySwap"] = -1
    memory, swap = host.get("Memory") or 0, host.get("MemorySwap") or 0
    if not isinstance(swap, int) or swap < -1:
        raise InvalidParameter(f"invalid --memory-swap (MemorySwap): {swap!r} is neither -1 nor a number of bytes")
    if memory and 0 < swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0 and not update:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")


def _verify_memory_ranges(host: Document) -> None:
    swappiness = host.get("MemorySwappiness")
    if swappiness is not None and not (isinstance(swappiness, int) and 0 <= swappiness <= 100):
        raise InvalidParameter(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    reservation = amount(host, "MemoryReservation", "--memory-reservation")
    if reservation and reservation < MIN_MEMORY_BYTES:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if reservation and 0 < (host.get("Memory") or 0) < reservation:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    if (shm_bytes := host.get("ShmSize") or 0) < 0:
        raise InvalidParameter(f"SHM size can not be less than 0: {shm_bytes}")
    score = host.get("OomScoreAdj") or 0
    if not isinstance(score, int) or not -1000 <= score <= 1000:
        raise InvalidParameter(f"Invalid value {score}, range for oom score adj is [-1000, 1000]")


def _verify_oom_and_pids(host: dict[str, Any], facts: HostFacts, warnings: list[str]) -> None:
    if host.get("OomKillDisable") is not None and not facts["oom_kill_disable"]:
        if host["OomKillDisable"]:
            warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        host["OomKillDisable"] = None
    if host.get("OomKillDisable") and not host.get("Memory"):
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources."
        )
    if host.get("KernelMemory") or (host.get("KernelMemoryTCP") and not facts["kernel_memory_tcp"]):
        # Linux has no limit on all of a kernel's memory since 5.4.
        warnings.append(
            f"Your kernel does not support kernel memory limit capabilities {NOT_MOUNTED}. Limitation discarded."
        )
        host["KernelMemory"], host["KernelMemoryTCP"] = 0, 0
    pids = host.get("PidsLimit")
    if pids is not None and not isinstance(pids, int):
        raise InvalidParameter(f"invalid --pids-limit (PidsLimit): {pids!r} is not a whole number")
    if pids is not None and not facts["pids_limit"]:
        if pids > 0:
            warnings.append(
                f"Your kernel does not support PIDs limit capabilities {NOT_MOUNTED}. PIDs limit discarded."
            )
        host["PidsLimit"] = None


def _verify_cpu(host: dict[str, Any], facts: HostFacts, warnings: list[str]) -> None:
    nano_cpus, period = host.get("NanoCpus") or 0, amount(host, "CpuPeriod", "--cpu-period")
    quota = host.get("CpuQuota") or 0
    amount(host, "CpuShares", "--cpu-shares")
    if nano_cpus > 0 and period:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if nano_cpus > 0 and quota > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if nano_cpus > 0 and not facts["cpu_quota"]:
        raise InvalidParameter(
            f"NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler {NOT_MOUNTED}"
        )
    cpus = len(os.sched_getaffinity(0)) if nano_cpus else 0
    if nano_cpus and not 0 < nano_cpus <= cpus * 10**9:
        raise InvalidParameter(f"Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if period and not 1000 <= period <= 1_000_000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < quota < 1000 or 0 < nano_cpus < 10_000_000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if (host.get("CpuRealtimePeriod") or host.get("CpuRealtimeRuntime")) and not facts["cpu_realtime"]:
        raise InvalidParameter("Your kernel does not support CPU real-time scheduler")
    if host.get("CpuPercent"):
        warnings.append("linux does not support CPU percent. Percent discarded.")
        host["CpuPercent"] = 0
    _verify_set(host.get("CpusetCpus") or "", "cpus", "cpuset cpus", "CPUs")
    _verify_set(host.get("CpusetMems") or "", "mems", "cpuset mems", "memory nodes")


def _verify_set(wanted: str, kind: str, option: str, what: str) -> None:
    if not wanted:
        return
    try:
        asked = set(_numbers(wanted))
    except ValueError:
        raise InvalidParameter(f"Invalid value {wanted} for {option}: write it like 0-2,5") from None
    available = allowed_set(kind)
    if not asked <= set(_numbers(available)):
        raise InvalidParameter(f"Requested {what} are not available - requested {wanted}, available: {available}")


def _numbers(text: str) -> Iterable[int]:
    """cpuset(7) list format: `0-2,5`; raises ValueError."""
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(part)
        yield from range(int(match[1]), int(match[2] or match[1]) + 1)


def _verify_block_io(host: Document) -> None:
    weights = [amount(host, "BlkioWeight", "--blkio-weight")]
    weights += [amount(device, "Weight", "--blkio-weight-device") for device in host.get("BlkioWeightDevice") or []]
    if any(weight and not 10 <= weight <= 1000 for weight in weights):
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if host.get("IOMaximumBandwidth") or host.get("IOMaximumIOps"):
        raise InvalidParameter("Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps")


def _complete(host: dict[str, Any]) -> None:
    """What Docker adds or rounds, so that inspect shows what is in force."""
    if shares := host.get("CpuShares"):
        host["CpuShares"] = min(max(shares, MIN_CPU_SHARES), MAX_CPU_SHARES)
    if host.get("Memory") and not host.get("MemorySwap"):
        host["MemorySwap"] = 2 * host["Memory"]


def merge_limits(host: Document, changes: Document, facts: HostFacts) -> tuple[dict[str, Any], list[str]]:
    """A container's HostConfig after `docker update` with `changes`, and the warnings.

    0, "" or null leaves a limit alone. Raises InvalidParameter, or Conflict with what is set already.
    """
    checked, warnings = verify_limits(changes, facts, update=True)
    asked = {
        name: checked[name]
        for name in UPDATABLE
        if checked.get(name) or (name == "PidsLimit" and checked.get(name) is not None)
    }
    for name, word, other, other_word in (
        ("NanoCpus", "Nano CPUs", "CpuPeriod", "CPU Period"),
        ("NanoCpus", "Nano CPUs", "CpuQuota", "CPU Quota"),
        ("CpuPeriod", "CPU Period", "NanoCpus", "NanoCPUs"),
        ("CpuQuota", "CPU Quota", "NanoCpus", "NanoCPUs"),
    ):
        if asked.get(name, 0) > 0 and (host.get(other) or 0) > 0:
            raise Conflict(f"Conflicting options: {word} cannot be updated as {other_word} has already been set")
    swap = host.get("MemorySwap") or 0
    if "Memory" in asked and "MemorySwap" not in asked and 0 < swap < asked["Memory"]:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    merged = {**host, **asked}
    if 0 < (merged.get("MemorySwap") or 0) < (merged.get("Memory") or 0):
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    return merged, warnings
