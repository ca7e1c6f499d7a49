"""Limits as Docker has them: refused, warned of, adjusted, and in force in the cgroup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups import host_facts
from runtime.linux import capabilities
from tests.harness import RunningEngine

V1 = host_facts()["version"] == "1"
CGROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20


def create(engine: RunningEngine, **host: Any) -> dict[str, Any]:
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": host}
    answer: dict[str, Any] = engine.post("/containers/create", body, 201)
    return answer


def started(engine: RunningEngine, **host: Any) -> str:
    id = str(create(engine, **host)["Id"])
    engine.post(f"/containers/{id}/start")
    return id


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"Memory": 1024}, "Minimum memory limit allowed is 6MB"),
    ({"Memory": 10 * MIB, "MemorySwap": 9 * MIB}, "Minimum memoryswap limit should be larger than memory limit"),
    ({"MemorySwap": 10 * MIB}, "You should always set the Memory limit when using Memoryswap limit"),
    ({"Memory": 8 * MIB, "MemoryReservation": 9 * MIB}, "can not be less than memory reservation limit"),
    ({"MemoryReservation": 1024}, "Minimum memory reservation allowed is 6MB"),
    ({"OomScoreAdj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
    ({"NanoCpus": 10**9, "CpuPeriod": 1000}, "Nano CPUs and CPU Period cannot both be set"),
    ({"NanoCpus": 10**9, "CpuQuota": 1000}, "Nano CPUs and CPU Quota cannot both be set"),
    ({"NanoCpus": 10**15}, "Range of CPUs is from 0.01 to"),
    ({"CpuPeriod": 10}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
    ({"CpuQuota": 10}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
    ({"CpusetCpus": "4000"}, "Requested CPUs are not available - requested 4000, available: 0"),
    ({"CpusetMems": "77"}, "Requested memory nodes are not available - requested 77, available: 0"),
    ({"CpusetCpus": "zero"}, "Invalid value zero for cpuset cpus"),
    ({"BlkioWeight": 5}, "Range of blkio weight is from 10 to 1000"),
    ({"ShmSize": -1}, "SHM size can not be less than 0"),
    ({"Ulimits": [{"Name": "sofas", "Soft": 1, "Hard": 1}]}, "invalid ulimit type: sofas"),
    ({"Ulimits": [{"Name": "core", "Soft": 2, "Hard": 1}]}, "soft limit must be less than or equal to hard limit"),
    ({"StorageOpt": {"size": "10G"}}, "--storage-opt"),
]


@pytest.mark.parametrize("host, words", REFUSED, ids=[words[:40] for _, words in REFUSED])
def test_refused(engine: RunningEngine, host: dict[str, Any], words: str) -> None:
    status, message = engine.message("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})
    assert words in message
    assert status in (400, 501)


def limit_of(id: str, engine: RunningEngine, controller: str, file: str) -> str:
    below = f"{controller}/" if V1 else ""
    return (CGROUPS / f"{below}wherry-{engine.instance}/{id}/{file}").read_text().strip()


@pytest.mark.skipif(not V1, reason="reads the files of cgroup v1")
def test_in_force_on_v1(engine: RunningEngine) -> None:
    id = started(
        engine,
        Memory=64 * MIB,
        MemoryReservation=32 * MIB,
        MemorySwappiness=10,
        OomKillDisable=True,
        CpuShares=1,
        NanoCpus=500_000_000,
        CpusetCpus="0",
        CpusetMems="0",
        PidsLimit=50,
        BlkioWeight=300,
        BlkioDeviceReadBps=[{"Path": "/dev/loop0", "Rate": MIB}],
        BlkioDeviceWriteIOps=[{"Path": "/dev/loop0", "Rate": 77}],
    )
    expected = {
        ("memory", "memory.limit_in_bytes"): str(64 * MIB),
        ("memory", "memory.memsw.limit_in_bytes"): str(128 * MIB),
        ("memory", "memory.soft_limit_in_bytes"): str(32 * MIB),
        ("memory", "memory.swappiness"): "10",
        ("cpu", "cpu.shares"): "2",
        ("cpu", "cpu.cfs_quota_us"): "50000",
        ("cpuset", "cpuset.cpus"): "0",
        ("cpuset", "cpuset.mems"): "0",
        ("pids", "pids.max"): "50",
        ("blkio", "blkio.bfq.weight"): "300",
        ("blkio", "blkio.throttle.read_bps_device"): f"7:0 {MIB}",
        ("blkio", "blkio.throttle.write_iops_device"): "7:0 77",
    }
    assert {key: limit_of(id, engine, *key) for key in expected} == expected
    assert limit_of(id, engine, "memory", "memory.oom_control").startswith("oom_kill_disable 1")
    host = engine.get(f"/containers/{id}/json")["HostConfig"]
    assert (host["MemorySwap"], host["CpuShares"]) == (128 * MIB, 2)


@pytest.mark.skipif(not host_facts()["cpu_realtime"], reason="needs CONFIG_RT_GROUP_SCHED")
def test_real_time(engine: RunningEngine) -> None:
    id = started(engine, CpuRealtimeRuntime=1000, CpuRealtimePeriod=1_000_000)
    assert limit_of(id, engine, "cpu", "cpu.rt_runtime_us") == "1000"


def test_warnings(engine: RunningEngine) -> None:
    answer = create(engine, OomKillDisable=True, KernelMemory=8 * MIB)
    assert len(answer["Warnings"]) == 2
    assert ("no memory limit is set" if V1 else "OomKillDisable discarded") in answer["Warnings"][0]
    assert "kernel memory limit" in answer["Warnings"][1]
    assert create(engine)["Warnings"] == []


def test_no_pids_limit(engine: RunningEngine) -> None:
    for limit in (0, -1):
        assert limit_of(started(engine, PidsLimit=limit), engine, "pids", "pids.max") == "max"


def test_a_missing_block_device(engine: RunningEngine) -> None:
    id = create(engine, BlkioDeviceReadBps=[{"Path": "/dev/nosuch", "Rate": 1}])["Id"]
    status, message = engine.message("POST", f"/containers/{id}/start")
    assert status >= 400
    assert "stat /dev/nosuch: no such file or directory" in message


def test_what_needs_sys_resource(engine: RunningEngine) -> None:
    """Raising a hard limit, or lowering the out-of-memory score, without the capability: a sentence says so."""
    if "CAP_SYS_RESOURCE" in capabilities.get().effective:
        pytest.skip("this engine has CAP_SYS_RESOURCE")
    done = engine.docker("run", "--rm", "--ulimit", "memlock=-1", "busybox", "true")
    assert done.returncode == 126 or done.returncode == 125, done
    assert b"error setting rlimit RLIMIT_MEMLOCK" in done.stderr, done
    done = engine.docker("run", "--rm", "--oom-score-adj", "-500", "busybox", "true")
    assert b"oomScoreAdj" in done.stderr and b"CAP_SYS_RESOURCE" in done.stderr, done
    done = engine.docker("run", "--rm", "--oom-score-adj", "500", "busybox", "cat", "/proc/self/oom_score_adj")
    assert done.stdout == b"500\n", done
