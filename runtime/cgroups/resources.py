"""OCI `linux.resources` → the control files to write, as data.

Sources: OCI runtime-spec config-linux.md, Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst. -1 is "no
limit" wherever the specification allows it; 0, or a missing key, leaves a limit alone. Every function raises
InvalidParameter naming the limit, or NotSupported for what the hierarchy's version cannot express.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime.cgroups.files import Write
from runtime.errors import InvalidParameter, NotSupported
from runtime.linux.bpf import ACCESS_BITS, DEVICE_TYPES, DeviceRule
from runtime.oci.defaults import RUNTIME_DEVICE_RULES
from runtime.oci.spec import LinuxResources

_DEFAULT_CPU_PERIOD_US = 100_000
_MAX_DEVICE_NUMBER = 2**32 - 1


def v1_writes(resources: LinuxResources) -> list[Write]:
    """Return the writes for v1 controllers, in an order the kernel accepts; without the device rules."""
    if resources.get("unified"):
        raise NotSupported("unified resources need cgroup v2, and this host uses v1: use the named limits")
    return [
        *_v1_memory(resources.get("memory") or {}),
        *_v1_cpu(resources.get("cpu") or {}),
        *_cpuset(resources.get("cpu") or {}),
        *_pids(resources.get("pids") or {}),
        *_v1_block_io(resources.get("blockIO") or {}),
        *_hugetlb(resources, "limit_in_bytes"),
        *_v1_network(resources.get("network") or {}),
        *_rdma(resources.get("rdma") or {}),
    ]


def v2_writes(resources: LinuxResources) -> list[Write]:
    """Return the writes for one v2 cgroup, in an order the kernel accepts; without the device rules."""
    if resources.get("network"):
        raise NotSupported("network classes and priorities need cgroup v1, and this host uses v2")
    return [
        *_v2_memory(resources.get("memory") or {}),
        *_v2_cpu(resources.get("cpu") or {}),
        *_cpuset(resources.get("cpu") or {}),
        *_pids(resources.get("pids") or {}),
        *_v2_block_io(resources.get("blockIO") or {}),
        *_hugetlb(resources, "max"),
        *_rdma(resources.get("rdma") or {}),
        *_unified(resources.get("unified") or {}),
    ]


def device_rules(resources: LinuxResources) -> list[DeviceRule]:
    """Return the device rules in force, none if the resources have none: then devices are not restricted.

    What no rule allows is refused, and the devices every container has stay allowed.
    """
    if not resources.get("devices"):
        return []
    rules = [_device_rule(rule, position) for position, rule in enumerate(resources["devices"])]
    return rules + _every_containers_device_rules()


def v1_device_writes(rules: Sequence[DeviceRule]) -> list[Write]:
    """Return the writes to the v1 devices controller for `rules` (not empty), first of all "refuse all"."""
    writes = [Write("devices", "devices.deny", "a", "device rule")]
    for rule in rules:
        file = "devices.allow" if rule.allow else "devices.deny"
        # "a" replaces all rules so far; it takes no further fields.
        value = "a" if rule.type is None else f"{rule.type} {_star(rule.major)}:{_star(rule.minor)} {rule.access}"
        if value != "a" or rule.allow or len(writes) > 1:
            writes.append(Write("devices", file, value, "device rule"))
    return writes


def cpu_weight(shares: int) -> int:
    """Convert v1 cpu.shares (2..262144, default 1024) to v2 cpu.weight (1..10000, default 100).

    The curve of runc 1.3 and crun 1.23: the two minima, defaults and maxima meet. (The straight line used
    before made the default weight 39, so that a container got less than a service beside it.)
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """Convert v1 blkio weight (10..1000) to v2 io.weight (1..10000), linearly, as runc and crun do."""
    return 1 + (weight - 10) * 9999 // 990


# memory


def _v1_memory(memory: Mapping[str, Any]) -> Iterator[Write]:
    limit, swap = _memory_limits(memory)
    if limit:
        # memory+swap may never be below memory, so it goes out of the way first, up or down.
        if swap:
            yield Write("memory", "memory.memsw.limit_in_bytes", "-1", "memory swap limit", optional=swap < 0)
        yield Write("memory", "memory.limit_in_bytes", str(limit), "memory limit")
    if swap and (swap > 0 or not limit):
        yield Write("memory", "memory.memsw.limit_in_bytes", str(swap), "memory swap limit", optional=swap < 0)
    if reservation := _limit(memory, "reservation", "memory reservation"):
        yield Write("memory", "memory.soft_limit_in_bytes", str(reservation), "memory reservation")
    if kernel_tcp := _limit(memory, "kernelTCP", "kernel TCP memory limit"):
        yield Write("memory", "memory.kmem.tcp.limit_in_bytes", str(kernel_tcp), "kernel TCP memory limit")
    swappiness = memory.get("swappiness")
    if swappiness is not None:
        if not 0 <= swappiness <= 100:
            raise InvalidParameter(f"invalid memory swappiness {swappiness}: give a number from 0 to 100")
        yield Write("memory", "memory.swappiness", str(swappiness), "memory swappiness")
    if memory.get("disableOOMKiller"):
        yield Write("memory", "memory.oom_control", "1", "OOM killer switch")


def _v2_memory(memory: Mapping[str, Any]) -> Iterator[Write]:
    for key, what in (
        ("swappiness", "memory swappiness"),
        ("disableOOMKiller", "OOM killer switch"),
        ("kernelTCP", "kernel TCP memory limit"),
    ):
        value = memory.get(key)
        if value is not None and value is not False:  # a swappiness of 0 is one
            raise NotSupported(f"the {what} needs cgroup v1, and this host uses v2: leave it out")
    limit, swap = _memory_limits(memory)
    if swap:
        # Here swap is counted by itself. A kernel without swap keeps any promise of little or unlimited swap.
        bytes_of_swap = -1 if swap < 0 else swap - limit
        yield Write(
            "memory",
            "memory.swap.max",
            _or_max(bytes_of_swap),
            "memory swap limit",
            optional=bytes_of_swap <= 0,
        )
    if limit:
        yield Write("memory", "memory.max", _or_max(limit), "memory limit")
    if reservation := _limit(memory, "reservation", "memory reservation"):
        # memory.low protects what it names, so "max" would be the opposite of none.
        yield Write("memory", "memory.low", str(max(reservation, 0)), "memory reservation")


def _memory_limits(memory: Mapping[str, Any]) -> tuple[int, int]:
    """Return memory and memory+swap; 0 leaves alone, -1 is unlimited."""
    limit = _limit(memory, "limit", "memory limit")
    swap = _limit(memory, "swap", "memory swap limit")
    if limit < 0 and swap == 0:
        swap = -1
    if swap > 0:
        if limit == 0:
            raise InvalidParameter(
                f"invalid memory swap limit {swap}: it is memory plus swap, so set a memory limit too"
            )
        if limit < 0 or swap < limit:
            raise InvalidParameter(
                f"invalid memory swap limit {swap}: it is memory plus swap, so it cannot be below the memory "
                f"limit {_or_max(limit)}"
            )
    return limit, swap


# CPU


def _v1_cpu(cpu: Mapping[str, Any]) -> Iterator[Write]:
    if shares := _count(cpu, "shares", "CPU shares"):
        yield Write("cpu", "cpu.shares", str(shares), "CPU shares")
    period = _count(cpu, "period", "CPU period")
    quota = _limit(cpu, "quota", "CPU quota")
    if period:
        # A new period must not make the old quota impossible on the way.
        if quota > 0:
            yield Write("cpu", "cpu.cfs_quota_us", "-1", "CPU quota")
        yield Write("cpu", "cpu.cfs_period_us", str(period), "CPU period")
    if quota:
        yield Write("cpu", "cpu.cfs_quota_us", str(quota), "CPU quota")
    if burst := _count(cpu, "burst", "CPU burst"):
        yield Write("cpu", "cpu.cfs_burst_us", str(burst), "CPU burst")
    if realtime_period := _count(cpu, "realtimePeriod", "CPU realtime period"):
        yield Write("cpu", "cpu.rt_period_us", str(realtime_period), "CPU realtime period")
    if realtime_runtime := _limit(cpu, "realtimeRuntime", "CPU realtime runtime"):
        yield Write("cpu", "cpu.rt_runtime_us", str(realtime_runtime), "CPU realtime runtime")
    if cpu.get("idle") is not None:
        yield Write("cpu", "cpu.idle", str(cpu["idle"]), "CPU idle class")


def _v2_cpu(cpu: Mapping[str, Any]) -> Iterator[Write]:
    if cpu.get("realtimePeriod") or cpu.get("realtimeRuntime"):
        raise NotSupported("CPU realtime limits need cgroup v1, and this host uses v2: leave them out")
    if shares := _count(cpu, "shares", "CPU shares"):
        yield Write("cpu", "cpu.weight", str(cpu_weight(shares)), "CPU shares")
    period = _count(cpu, "period", "CPU period")
    quota = _limit(cpu, "quota", "CPU quota")
    if quota or period:
        value = f"{quota if quota > 0 else 'max'} {period or _DEFAULT_CPU_PERIOD_US}"
        yield Write("cpu", "cpu.max", value, "CPU quota")
    if burst := _count(cpu, "burst", "CPU burst"):
        yield Write("cpu", "cpu.max.burst", str(burst), "CPU burst")
    if cpu.get("idle") is not None:
        yield Write("cpu", "cpu.idle", str(cpu["idle"]), "CPU idle class")


def _cpuset(cpu: Mapping[str, Any]) -> Iterator[Write]:
    if cpu.get("cpus"):
        yield Write("cpuset", "cpuset.cpus", _id_list(cpu["cpus"], "CPU list"), "CPU list")
    if cpu.get("mems"):
        yield Write("cpuset", "cpuset.mems", _id_list(cpu["mems"], "memory node list"), "memory node list")


def _id_list(text: str, what: str) -> str:
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise InvalidParameter(f"invalid {what} {text!r}: write it like 0-2,5")
    return text


# the others


def _pids(pids: Mapping[str, Any]) -> Iterator[Write]:
    limit = pids.get("limit")
    if limit is not None:
        yield Write("pids", "pids.max", _or_max(limit if limit > 0 else -1), "pids limit")


_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps", "block read rate"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps", "block write rate"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops", "block read operations rate"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops", "block write operations rate"),
)


def _v1_block_io(block_io: Mapping[str, Any]) -> Iterator[Write]:
    # Linux 5.0 removed the scheduler that had blkio.weight; BFQ has its own file for it.
    if weight := _block_weight(block_io):
        yield Write("blkio", "blkio.bfq.weight", str(weight), "block I/O weight")
    for device in block_io.get("weightDevice") or ():
        value = f"{_numbers(device)} {_block_weight(device)}"
        yield Write("blkio", "blkio.bfq.weight_device", value, "block I/O device weight")
    for key, file, _, what in _THROTTLES:
        for device in block_io.get(key) or ():
            yield Write("blkio", file, f"{_numbers(device)} {_count(device, 'rate', what)}", what)


def _v2_block_io(block_io: Mapping[str, Any]) -> Iterator[Write]:
    if weight := _block_weight(block_io):
        yield Write("io", "io.weight", f"default {io_weight(weight)}", "block I/O weight")
        yield Write("io", "io.bfq.weight", str(weight), "block I/O weight", optional=True)
    for device in block_io.get("weightDevice") or ():
        value = f"{_numbers(device)} {io_weight(_block_weight(device))}"
        yield Write("io", "io.weight", value, "block I/O device weight")
    for key, _, name, what in _THROTTLES:
        for device in block_io.get(key) or ():
            rate = _count(device, "rate", what)
            yield Write("io", "io.max", f"{_numbers(device)} {name}={_or_max(rate or -1)}", what)


def _block_weight(holder: Mapping[str, Any]) -> int:
    if holder.get("leafWeight"):
        raise NotSupported("block I/O leaf weights left Linux with version 5.0: use the weight instead")
    weight = _count(holder, "weight", "block I/O weight")
    if weight and not 10 <= weight <= 1000:
        raise InvalidParameter(f"invalid block I/O weight {weight}: give a number from 10 to 1000")
    return weight


def _hugetlb(resources: LinuxResources, suffix: str) -> Iterator[Write]:
    for entry in resources.get("hugepageLimits") or ():
        size = entry["pageSize"]
        if not re.fullmatch(r"\d+[KMG]B", size):
            raise InvalidParameter(f"invalid huge page size {size!r}: write it like 2MB")
        what = f"huge page limit ({size})"
        yield Write("hugetlb", f"hugetlb.{size}.{suffix}", str(_count(entry, "limit", what)), what)


def _v1_network(network: Mapping[str, Any]) -> Iterator[Write]:
    if class_id := _count(network, "classID", "network class"):
        yield Write("net_cls", "net_cls.classid", str(class_id), "network class")
    for entry in network.get("priorities") or ():
        value = f"{entry['name']} {entry['priority']}"
        yield Write("net_prio", "net_prio.ifpriomap", value, "network priority")


def _rdma(rdma: Mapping[str, Any]) -> Iterator[Write]:
    for device, limits in rdma.items():
        fields = [
            f"{field}={limits[key]}"
            for key, field in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limits.get(key) is not None
        ]
        yield Write("rdma", "rdma.max", " ".join((device, *fields)), "RDMA limit")


def _unified(unified: Mapping[str, str]) -> Iterator[Write]:
    for file, text in unified.items():
        if not re.fullmatch(r"[a-z0-9_]+(\.[A-Za-z0-9_]+)+", file):
            raise InvalidParameter(f"invalid unified resource {file!r}: name a control file, as memory.high")
        for line in text.splitlines():
            yield Write(file.partition(".")[0], file, line, f"unified resource {file}")


def _device_rule(rule: Mapping[str, Any], position: int) -> DeviceRule:
    where = f"invalid device rule {position}"
    kind = rule.get("type", "a")
    access = rule.get("access", "") or "rwm"
    major, minor = (_device_number(rule, key, where) for key in ("major", "minor"))
    if kind not in ("a", *DEVICE_TYPES):
        raise InvalidParameter(f"{where}: type {kind!r} is none of a, b and c")
    if not set(access) <= ACCESS_BITS.keys():
        raise InvalidParameter(f"{where}: access {access!r} may only have r, w and m")
    if kind == "a" and (major, minor, set(access)) != (None, None, set(ACCESS_BITS)):
        raise InvalidParameter(f"{where}: type a stands for all access to all devices; use b or c for some")
    return DeviceRule(bool(rule["allow"]), None if kind == "a" else kind, major, minor, access)


@functools.cache
def _every_containers_device_rules() -> list[DeviceRule]:
    return [_device_rule(rule, 0) for rule in RUNTIME_DEVICE_RULES]


def _device_number(rule: Mapping[str, Any], key: str, where: str) -> int | None:
    number: int = rule.get(key, -1)
    if not -1 <= number <= _MAX_DEVICE_NUMBER:
        raise InvalidParameter(f"{where}: {key} {number} is no device number; -1 stands for any")
    return None if number == -1 else number


def _limit(holder: Mapping[str, Any], key: str, what: str) -> int:
    """Return a limit: positive, 0 for absent, or -1 for none."""
    value: int = holder.get(key) or 0
    if value < -1:
        raise InvalidParameter(f"invalid {what} {value}: give a positive number, or -1 for no limit")
    return value


def _count(holder: Mapping[str, Any], key: str, what: str) -> int:
    value: int = holder.get(key) or 0
    if value < 0:
        raise InvalidParameter(f"invalid {what} {value}: it cannot be negative")
    return value


def _numbers(device: Mapping[str, Any]) -> str:
    return f"{device['major']}:{device['minor']}"


def _star(number: int | None) -> str:
    return "*" if number is None else str(number)


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)
