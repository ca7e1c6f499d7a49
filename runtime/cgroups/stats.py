"""Resource usage of one cgroup, the same for v1 and v2.

Sources: Documentation/admin-guide/cgroup-v1/{cpuacct,memory,blkio-controller,pids}.rst, cgroup-v2.rst. What a
missing controller would have counted is 0, an absent limit is None.
"""

from collections.abc import Mapping
from typing import TypedDict

from runtime.cgroups.files import read_file, read_table


class CpuStats(TypedDict):
    """CPU time since the cgroup was made."""

    total_ns: int
    user_ns: int
    system_ns: int
    per_cpu_ns: list[int]
    """Empty on v2, which does not count by CPU."""
    periods: int
    throttled_periods: int
    throttled_ns: int


class MemoryStats(TypedDict):
    """Memory now; `usage_bytes` includes page cache, of which `inactive_file_bytes` would go first."""

    usage_bytes: int
    peak_usage_bytes: int
    """0 where the kernel does not say (v2 before 5.19)."""
    limit_bytes: int | None
    limit_hits: int
    inactive_file_bytes: int
    detail: dict[str, int]
    """memory.stat as the kernel gives it: the keys differ between v1 and v2."""


class PidsStats(TypedDict):
    """Tasks (processes and threads) now."""

    current: int
    limit: int | None


class IoStats(TypedDict):
    """Block I/O on one device since the cgroup was made."""

    major: int
    minor: int
    read_bytes: int
    write_bytes: int
    read_operations: int
    write_operations: int


class Stats(TypedDict):
    """One sample of a cgroup."""

    cpu: CpuStats
    memory: MemoryStats
    pids: PidsStats
    io: list[IoStats]


# v1 says "no limit" with the highest page-aligned number: LONG_MAX rounded down to a page, of any size.
_V1_UNLIMITED_BYTES = 2**63 - 2**20


def v1_stats(directories: Mapping[str, str]) -> Stats:
    """Read a cgroup from its directories, one for each controller; a missing one counts as all zeros."""
    cpu, cpuacct, memory, pids, blkio = (
        directories.get(name, "") for name in ("cpu", "cpuacct", "memory", "pids", "blkio")
    )
    throttling = read_table(f"{cpu}/cpu.stat")
    detail = read_table(f"{memory}/memory.stat")
    limit = _number(f"{memory}/memory.limit_in_bytes")
    return {
        "cpu": {
            "total_ns": _number(f"{cpuacct}/cpuacct.usage"),
            "user_ns": _number(f"{cpuacct}/cpuacct.usage_user"),
            "system_ns": _number(f"{cpuacct}/cpuacct.usage_sys"),
            "per_cpu_ns": [int(word) for word in _text(f"{cpuacct}/cpuacct.usage_percpu").split()],
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_ns": throttling.get("throttled_time", 0),
        },
        "memory": {
            "usage_bytes": _number(f"{memory}/memory.usage_in_bytes"),
            "peak_usage_bytes": _number(f"{memory}/memory.max_usage_in_bytes"),
            "limit_bytes": limit if 0 < limit < _V1_UNLIMITED_BYTES else None,
            "limit_hits": _number(f"{memory}/memory.failcnt"),
            "inactive_file_bytes": detail.get("total_inactive_file", 0),
            "detail": detail,
        },
        "pids": {"current": _number(f"{pids}/pids.current"), "limit": _limit(f"{pids}/pids.max")},
        "io": _v1_io(blkio),
    }


def v2_stats(directory: str) -> Stats:
    """Read a cgroup from its one directory; a controller that is not enabled counts as all zeros."""
    cpu = read_table(f"{directory}/cpu.stat")
    detail = read_table(f"{directory}/memory.stat")
    return {
        "cpu": {
            "total_ns": cpu.get("usage_usec", 0) * 1000,
            "user_ns": cpu.get("user_usec", 0) * 1000,
            "system_ns": cpu.get("system_usec", 0) * 1000,
            "per_cpu_ns": [],
            "periods": cpu.get("nr_periods", 0),
            "throttled_periods": cpu.get("nr_throttled", 0),
            "throttled_ns": cpu.get("throttled_usec", 0) * 1000,
        },
        "memory": {
            "usage_bytes": _number(f"{directory}/memory.current"),
            "peak_usage_bytes": _number(f"{directory}/memory.peak"),
            "limit_bytes": _limit(f"{directory}/memory.max"),
            "limit_hits": read_table(f"{directory}/memory.events").get("max", 0),
            "inactive_file_bytes": detail.get("inactive_file", 0),
            "detail": detail,
        },
        "pids": {"current": _number(f"{directory}/pids.current"), "limit": _limit(f"{directory}/pids.max")},
        "io": _v2_io(_text(f"{directory}/io.stat")),
    }


def _v1_io(directory: str) -> list[IoStats]:
    devices: dict[str, IoStats] = {}
    for file, read_key, write_key in (
        ("blkio.throttle.io_service_bytes_recursive", "read_bytes", "write_bytes"),
        ("blkio.throttle.io_serviced_recursive", "read_operations", "write_operations"),
    ):
        keys = {"Read": read_key, "Write": write_key}
        for line in _text(f"{directory}/{file}").splitlines():
            match line.split():
                case [device, ("Read" | "Write") as operation, value]:
                    stats = devices.setdefault(device, _no_io(device))
                    stats[keys[operation]] = int(value)  # type: ignore[literal-required]
    return list(devices.values())


def _v2_io(text: str) -> list[IoStats]:
    samples = []
    for line in text.splitlines():
        device, *fields = line.split()
        values = {key: int(value) for key, _, value in (field.partition("=") for field in fields)}
        stats = _no_io(device)
        stats["read_bytes"] = values.get("rbytes", 0)
        stats["write_bytes"] = values.get("wbytes", 0)
        stats["read_operations"] = values.get("rios", 0)
        stats["write_operations"] = values.get("wios", 0)
        samples.append(stats)
    return samples


def _no_io(device: str) -> IoStats:
    major, _, minor = device.partition(":")
    return {
        "major": int(major),
        "minor": int(minor),
        "read_bytes": 0,
        "write_bytes": 0,
        "read_operations": 0,
        "write_operations": 0,
    }


def _text(path: str) -> str:
    try:
        return read_file(path)
    except FileNotFoundError:
        return ""


def _number(path: str) -> int:
    return int(_text(path) or 0)


def _limit(path: str) -> int | None:
    text = _text(path)
    return int(text) if text not in ("", "max") else None
