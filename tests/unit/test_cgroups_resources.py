"""OCI resources → writes to control files."""

from typing import Any

import pytest

from runtime.cgroups.resources import (
    cpu_weight,
    device_rules,
    io_weight,
    v1_device_writes,
    v1_writes,
    v2_writes,
)
from runtime.errors import InvalidParameter, NotSupported

MIB = 1 << 20


def v1(**resources: Any) -> list[tuple[str, str]]:
    return [(write.file, write.value) for write in v1_writes(resources)]


def v2(**resources: Any) -> list[tuple[str, str]]:
    return [(write.file, write.value) for write in v2_writes(resources)]


def test_no_resources_no_writes() -> None:
    assert v1() == v2() == []


def test_memory_limits() -> None:
    memory = {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB}
    assert v1(memory=memory) == [
        ("memory.memsw.limit_in_bytes", "-1"),
        ("memory.limit_in_bytes", str(64 * MIB)),
        ("memory.memsw.limit_in_bytes", str(96 * MIB)),
        ("memory.soft_limit_in_bytes", str(32 * MIB)),
    ]
    assert v2(memory=memory) == [
        ("memory.swap.max", str(32 * MIB)),
        ("memory.max", str(64 * MIB)),
        ("memory.low", str(32 * MIB)),
    ]


def test_no_swap_is_swap_equal_to_memory() -> None:
    assert ("memory.swap.max", "0") in v2(memory={"limit": MIB, "swap": MIB})


def test_lifting_the_memory_limit_lifts_the_swap_limit() -> None:
    assert v1(memory={"limit": -1}) == [
        ("memory.memsw.limit_in_bytes", "-1"),
        ("memory.limit_in_bytes", "-1"),
    ]
    assert v2(memory={"limit": -1}) == [("memory.swap.max", "max"), ("memory.max", "max")]


def test_unlimited_swap_needs_no_swap_accounting() -> None:
    for writes in (v1_writes, v2_writes):
        swap = [write for write in writes({"memory": {"limit": MIB, "swap": -1}}) if "sw" in write.file]
        assert [write.optional for write in swap] == [True]


def test_memory_options_of_v1_only() -> None:
    memory = {"swappiness": 0, "disableOOMKiller": True, "kernelTCP": MIB}
    assert v1(memory=memory) == [
        ("memory.kmem.tcp.limit_in_bytes", str(MIB)),
        ("memory.swappiness", "0"),
        ("memory.oom_control", "1"),
    ]
    for key, value in memory.items():
        with pytest.raises(NotSupported, match="needs cgroup v1"):
            v2(memory={key: value})
    assert v2(memory={"disableOOMKiller": False}) == []


def test_cpu() -> None:
    cpu = {"shares": 1024, "quota": 50_000, "period": 100_000, "burst": 10_000, "cpus": "0-1", "mems": "0"}
    assert v1(cpu=cpu) == [
        ("cpu.shares", "1024"),
        ("cpu.cfs_quota_us", "-1"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.cfs_burst_us", "10000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
    ]
    assert v2(cpu=cpu) == [
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
    ]


def test_cpu_quota_alone_and_lifted() -> None:
    assert v2(cpu={"quota": 20_000}) == [("cpu.max", "20000 100000")]
    assert v2(cpu={"quota": -1}) == [("cpu.max", "max 100000")]
    assert v1(cpu={"quota": -1}) == [("cpu.cfs_quota_us", "-1")]


def test_cpu_realtime() -> None:
    cpu = {"realtimePeriod": 1_000_000, "realtimeRuntime": 950_000}
    assert v1(cpu=cpu) == [("cpu.rt_period_us", "1000000"), ("cpu.rt_runtime_us", "950000")]
    with pytest.raises(NotSupported, match="realtime"):
        v2(cpu=cpu)


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(0, 1), (2, 1), (1024, 100), (512, 59), (2048, 174), (262144, 10000), (1 << 30, 10000)],
)
def test_cpu_weight(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


def test_cpu_weight_never_falls() -> None:
    weights = [cpu_weight(shares) for shares in range(2, 262145, 97)]
    assert weights == sorted(weights)


@pytest.mark.parametrize(("weight", "expected"), [(10, 1), (500, 4950), (1000, 10000)])
def test_io_weight(weight: int, expected: int) -> None:
    assert io_weight(weight) == expected


@pytest.mark.parametrize(("limit", "value"), [(100, "100"), (-1, "max"), (0, "max")])
def test_pids(limit: int, value: str) -> None:
    assert v1(pids={"limit": limit}) == v2(pids={"limit": limit}) == [("pids.max", value)]


def test_block_io() -> None:
    block_io = {
        "weight": 500,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}],
    }
    assert v1(blockIO=block_io) == [
        ("blkio.bfq.weight", "500"),
        ("blkio.bfq.weight_device", "8:0 10"),
        ("blkio.throttle.read_bps_device", "8:0 1000"),
        ("blkio.throttle.write_iops_device", "8:16 0"),
    ]
    assert v2(blockIO=block_io) == [
        ("io.weight", "default 4950"),
        ("io.bfq.weight", "500"),
        ("io.weight", "8:0 1"),
        ("io.max", "8:0 rbps=1000"),
        ("io.max", "8:16 wiops=max"),
    ]


def test_huge_pages_rdma_and_network() -> None:
    resources = {
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}],
        "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
    }
    rdma = ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000")
    assert v1(**resources, network={"classID": 7, "priorities": [{"name": "eth0", "priority": 5}]}) == [
        ("hugetlb.2MB.limit_in_bytes", str(4 * MIB)),
        ("net_cls.classid", "7"),
        ("net_prio.ifpriomap", "eth0 5"),
        rdma,
    ]
    assert v2(**resources) == [("hugetlb.2MB.max", str(4 * MIB)), rdma]
    with pytest.raises(NotSupported, match="network"):
        v2(network={"classID": 7})


def test_unified() -> None:
    assert v2(unified={"memory.high": "1024", "io.max": "8:0 rbps=1\n8:16 rbps=2"}) == [
        ("memory.high", "1024"),
        ("io.max", "8:0 rbps=1"),
        ("io.max", "8:16 rbps=2"),
    ]
    with pytest.raises(NotSupported, match="unified"):
        v1(unified={"memory.high": "1024"})


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": {"limit": -2}}, "invalid memory limit -2"),
        ({"memory": {"limit": 0, "swap": 5}}, "invalid memory swap limit 5: .* set a memory limit"),
        ({"memory": {"limit": 10, "swap": 5}}, "invalid memory swap limit 5: .* below the memory limit 10"),
        ({"memory": {"limit": -1, "swap": 5}}, "invalid memory swap limit 5: .* below the memory limit max"),
        ({"memory": {"reservation": -5}}, "invalid memory reservation -5"),
        ({"cpu": {"quota": -7}}, "invalid CPU quota -7"),
        ({"cpu": {"shares": -7}}, "invalid CPU shares -7"),
        ({"cpu": {"cpus": "0-"}}, "invalid CPU list '0-'"),
        ({"cpu": {"mems": "a"}}, "invalid memory node list 'a'"),
        ({"blockIO": {"weight": 5}}, "invalid block I/O weight 5"),
        ({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}, "invalid huge page size '../x'"),
    ],
)
def test_bad_values_are_named(resources: Any, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        v1_writes(resources)
    with pytest.raises(InvalidParameter, match=message):
        v2_writes(resources)


@pytest.mark.parametrize("file", ["../memory.max", "memory/max", "cgroup", ""])
def test_unified_resources_stay_in_the_cgroup(file: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid unified resource"):
        v2(unified={file: "1"})


def test_swappiness_range() -> None:
    with pytest.raises(InvalidParameter, match="invalid memory swappiness 101"):
        v1(memory={"swappiness": 101})


def test_device_rules_on_v1() -> None:
    rules = device_rules(
        {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "b", "major": 8, "access": "r"},
            ]
        }
    )
    writes = [(write.file, write.value) for write in v1_device_writes(rules)]
    assert writes[:2] == [("devices.deny", "a"), ("devices.allow", "b 8:* r")]
    assert writes[2:].count(("devices.deny", "a")) == 0
    assert ("devices.allow", "c 1:3 rwm") in writes


def test_device_rules_always_start_closed() -> None:
    rules = device_rules({"devices": [{"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"}]})
    assert v1_device_writes(rules)[0][:3] == ("devices", "devices.deny", "a")


def test_privileged_device_rules_on_v1() -> None:
    rules = device_rules({"devices": [{"allow": True, "access": "rwm"}]})
    assert [write.file for write in v1_device_writes(rules)][:2] == ["devices.deny", "devices.allow"]


def test_without_device_rules_devices_are_left_alone() -> None:
    assert device_rules({}) == device_rules({"devices": []}) == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"allow": True, "type": "x"}, "type 'x'"),
        ({"allow": True, "type": "c", "access": "rx"}, "access 'rx'"),
        ({"allow": True, "type": "a", "major": 1}, "type a stands for all"),
        ({"allow": True, "type": "c", "major": -2}, "major -2"),
        ({"allow": True, "type": "c", "minor": 2**32}, "minor 4294967296"),
    ],
)
def test_bad_device_rules_are_named(rule: Any, message: str) -> None:
    with pytest.raises(InvalidParameter, match=f"invalid device rule 1: {message}"):
        device_rules({"devices": [{"allow": False, "access": "rwm"}, rule]})
