"""Samples of recorded control files, on both versions."""

from pathlib import Path

from runtime.cgroups import Hierarchies, open_cgroup

V2_FILES = {
    "cpu.stat": "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 9\nnr_throttled 4\nthrottled_usec 70\n",
    "memory.current": "4096000\n",
    "memory.peak": "8192000\n",
    "memory.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n",
    "memory.stat": "anon 1000\nfile 2000\ninactive_file 500\n",
    "pids.current": "3\n",
    "pids.max": "100\n",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n254:16 rbytes=7\n7:0 \n",
}
V1_FILES = {
    "cpu/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 70000\n",
    "cpuacct/cpuacct.usage": "5000000\n",
    "cpuacct/cpuacct.usage_user": "3000000\n",
    "cpuacct/cpuacct.usage_sys": "2000000\n",
    "cpuacct/cpuacct.usage_percpu": "1000000 4000000 \n",
    "memory/memory.usage_in_bytes": "4096000\n",
    "memory/memory.max_usage_in_bytes": "8192000\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/memory.failcnt": "3\n",
    "memory/memory.stat": "cache 1\ninactive_file 100\ntotal_inactive_file 500\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "pids/pids.current": "3\n",
    "pids/pids.max": "100\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": (
        "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n254:16 Read 7\nTotal 37\n"
    ),
    "blkio/blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n",
}


def device(major: int, minor: int, *numbers: int) -> dict[str, int]:
    keys = ("read_bytes", "write_bytes", "read_operations", "write_operations")
    return {"major": major, "minor": minor, **dict(zip(keys, numbers, strict=True))}


def test_v2(tmp_path: Path) -> None:
    directory = tmp_path / "c"
    directory.mkdir()
    for name, text in V2_FILES.items():
        (directory / name).write_text(text)
    cgroup = open_cgroup("/c", Hierarchies(str(tmp_path), {}))
    assert cgroup.stats() == {
        "cpu": {
            "total_ns": 5_000_000,
            "user_ns": 3_000_000,
            "system_ns": 2_000_000,
            "per_cpu_ns": [],
            "periods": 9,
            "throttled_periods": 4,
            "throttled_ns": 70_000,
        },
        "memory": {
            "usage_bytes": 4_096_000,
            "peak_usage_bytes": 8_192_000,
            "limit_bytes": None,
            "limit_hits": 3,
            "inactive_file_bytes": 500,
            "detail": {"anon": 1000, "file": 2000, "inactive_file": 500},
        },
        "pids": {"current": 3, "limit": 100},
        "io": [device(8, 0, 10, 20, 1, 2), device(254, 16, 7, 0, 0, 0), device(7, 0, 0, 0, 0, 0)],
    }
    assert cgroup.oom_kills() == 1


def test_v1_gives_the_same_sample(tmp_path: Path) -> None:
    controllers = ("cpu", "cpuacct", "memory", "pids", "blkio")
    for name in controllers:
        (tmp_path / name / "c").mkdir(parents=True)
    for name, text in V1_FILES.items():
        controller, _, file = name.partition("/")
        (tmp_path / controller / "c" / file).write_text(text)
    cgroup = open_cgroup("/c", Hierarchies(None, {name: str(tmp_path / name) for name in controllers}))
    stats = cgroup.stats()
    assert stats["cpu"] == {
        "total_ns": 5_000_000,
        "user_ns": 3_000_000,
        "system_ns": 2_000_000,
        "per_cpu_ns": [1_000_000, 4_000_000],
        "periods": 9,
        "throttled_periods": 4,
        "throttled_ns": 70_000,
    }
    assert stats["memory"]["limit_bytes"] is None
    assert stats["memory"]["inactive_file_bytes"] == 500
    assert stats["memory"]["limit_hits"] == 3
    assert stats["pids"] == {"current": 3, "limit": 100}
    assert stats["io"] == [device(8, 0, 10, 20, 1, 2), device(254, 16, 7, 0, 0, 0)]
    assert cgroup.oom_kills() == 1


def test_controllers_that_are_missing_count_nothing(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    stats = open_cgroup("/c", Hierarchies(str(tmp_path), {})).stats()
    assert stats["cpu"]["total_ns"] == stats["memory"]["usage_bytes"] == stats["pids"]["current"] == 0
    assert stats["memory"]["limit_bytes"] is stats["pids"]["limit"] is None
    assert stats["io"] == []
