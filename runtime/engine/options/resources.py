"""Limits: memory, CPU, processes, ulimits."""

from __future__ import annotations

from typing import Any

from runtime.engine.options.fields import amount
from runtime.engine.options.model import Document
from runtime.errors import InvalidParameter

MIN_MEMORY_BYTES = 6 << 20  # Docker's minimum


def resources(host: Document) -> dict[str, Any]:
    """The OCI `linux.resources` object of the request's limits, without device rules."""
    memory = amount(host, "Memory", "--memory")
    if memory and memory < MIN_MEMORY_BYTES:
        raise InvalidParameter(f"Minimum memory limit allowed is 6MB: --memory {memory} is less, give at least 6m")
    reservation = amount(host, "MemoryReservation", "--memory-reservation")
    if memory and reservation > memory:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit")
    swap = host.get("MemorySwap") or 0
    if swap > 0 and not memory:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit")
    if swap > 0 and swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit")
    limits = {
        "limit": memory,
        "reservation": reservation,
        "swap": swap,
    }
    cpu: dict[str, Any] = {
        "shares": amount(host, "CpuShares", "--cpu-shares"),
        "quota": host.get("CpuQuota") or 0,
        "period": amount(host, "CpuPeriod", "--cpu-period"),
        "cpus": host.get("CpusetCpus") or "",
        "mems": host.get("CpusetMems") or "",
    }
    nano_cpus = amount(host, "NanoCpus", "--cpus")
    if nano_cpus:
        if cpu["quota"] or cpu["period"]:
            raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set")
        cpu["period"], cpu["quota"] = 100_000, nano_cpus // 10_000
        if cpu["quota"] < 1000:
            raise InvalidParameter("--cpus is too small: give at least 0.01")
    pids = host.get("PidsLimit") or 0
    resources: dict[str, Any] = {}
    for name, values in (("memory", limits), ("cpu", cpu)):
        if kept := {key: value for key, value in values.items() if value}:
            resources[name] = kept
    if pids > 0:
        resources["pids"] = {"limit": pids}
    return resources


def rlimit(limit: Document) -> dict[str, Any]:
    name = str(limit.get("Name") or "").upper()
    hard, soft = limit.get("Hard", -1), limit.get("Soft", -1)
    if hard != -1 and (soft == -1 or soft > hard):
        raise InvalidParameter(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    infinite = 0xFFFFFFFFFFFFFFFF
    return {
        "type": name if name.startswith("RLIMIT_") else f"RLIMIT_{name}",
        "hard": infinite if hard == -1 else hard,
        "soft": infinite if soft == -1 else soft,
    }
