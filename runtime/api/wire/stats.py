"""ContainerStatsResponse, as Docker's CLI computes its percentages from."""

from __future__ import annotations

from typing import Any

from runtime.api.wire.times import timestamp
from runtime.cgroups import Stats
from runtime.engine.container import Container
from runtime.engine.usage import Sample, memory_limit_bytes

INTERFACE_KEYS = tuple(f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped"))
UNLIMITED = 2**64 - 1


def container_stats(container: Container, before: Sample, now: Sample) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": f"/{container.name}",
        "id": container.id,
        "read": timestamp(now.time_ns),
        "preread": timestamp(before.time_ns),
        "pids_stats": {},
        "blkio_stats": _block_io(now.cgroup),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(now),
        "precpu_stats": _cpu(before),
        "memory_stats": {},
    }
    if now.cgroup:
        pids = now.cgroup["pids"]
        document["pids_stats"] = {"current": pids["current"], "limit": pids["limit"] or UNLIMITED}
        document["memory_stats"] = _memory(now.cgroup)
    if now.interfaces:
        document["networks"] = {
            name: dict(zip(INTERFACE_KEYS, counters, strict=True)) for name, counters in now.interfaces.items()
        }
    return document


def _cpu(sample: Sample) -> dict[str, Any]:
    cpu = sample.cgroup["cpu"] if sample.cgroup else None
    usage: dict[str, Any] = {
        "total_usage": cpu["total_ns"] if cpu else 0,
        "usage_in_kernelmode": cpu["system_ns"] if cpu else 0,
        "usage_in_usermode": cpu["user_ns"] if cpu else 0,
    }
    if cpu and cpu["per_cpu_ns"]:
        usage["percpu_usage"] = cpu["per_cpu_ns"]
    document: dict[str, Any] = {
        "cpu_usage": usage,
        "throttling_data": {
            "periods": cpu["periods"] if cpu else 0,
            "throttled_periods": cpu["throttled_periods"] if cpu else 0,
            "throttled_time": cpu["throttled_ns"] if cpu else 0,
        },
    }
    if cpu:
        document |= {"system_cpu_usage": sample.system_cpu_ns, "online_cpus": sample.cpus}
    return document


def _memory(stats: Stats) -> dict[str, Any]:
    memory = stats["memory"]
    document: dict[str, Any] = {
        "usage": memory["usage_bytes"],
        "stats": memory["detail"],
        "limit": memory_limit_bytes(stats),
    }
    if "total_inactive_file" in memory["detail"]:  # cgroup v1
        document |= {"max_usage": memory["peak_usage_bytes"], "failcnt": memory["limit_hits"]}
    return document


def _block_io(stats: Stats | None) -> dict[str, Any]:
    names = (
        "io_service_bytes_recursive",
        "io_serviced_recursive",
        "io_queue_recursive",
        "io_service_time_recursive",
        "io_wait_time_recursive",
        "io_merged_recursive",
        "io_time_recursive",
        "sectors_recursive",
    )
    document: dict[str, Any] = dict.fromkeys(names)
    for name, keys in (
        ("io_service_bytes_recursive", (("read", "read_bytes"), ("write", "write_bytes"))),
        ("io_serviced_recursive", (("read", "read_operations"), ("write", "write_operations"))),
    ):
        if stats:
            document[name] = [
                {"major": device["major"], "minor": device["minor"], "op": op, "value": device[key]}  # type: ignore[literal-required]
                for device in stats["io"]
                for op, key in keys
            ]
    return document
