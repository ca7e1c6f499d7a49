"""Finding the cgroup mounts, and what they can limit."""

from pathlib import Path

import pytest

from runtime.cgroups import Hierarchies, host_facts, open_cgroup, remove_subtree
from runtime.cgroups.hierarchy import parse_mountinfo
from runtime.cgroups.v1 import V1Cgroup
from runtime.cgroups.v2 import V2Cgroup
from runtime.errors import InvalidParameter

UNIFIED = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot"
HYBRID = """\
23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:30 / /sys/fs/cgroup/systemd rw,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:12 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime shared:13 master:2 - cgroup cgroup rw,memory
36 31 0:32 / /mnt/other\\040memory rw,relatime - cgroup cgroup rw,memory
37 31 0:33 / /mnt/with\\040space rw,relatime - cgroup cgroup rw,clone_children,release_agent=/x,pids
"""


def test_unified() -> None:
    hierarchies = parse_mountinfo(UNIFIED)
    assert hierarchies == Hierarchies("/sys/fs/cgroup", {})
    assert hierarchies.version == 2
    assert hierarchies.roots == ["/sys/fs/cgroup"]
    assert isinstance(open_cgroup("/wherry-x/y", hierarchies), V2Cgroup)


def test_hybrid() -> None:
    hierarchies = parse_mountinfo(HYBRID)
    assert hierarchies.unified == "/sys/fs/cgroup/unified"
    assert hierarchies.v1 == {
        "name=systemd": "/sys/fs/cgroup/systemd",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
        "pids": "/mnt/with space",
    }
    assert hierarchies.version == 1
    assert isinstance(open_cgroup("/wherry-x/y", hierarchies), V1Cgroup)


def test_co_mounted_controllers_are_joined_once() -> None:
    cgroup = open_cgroup("/wherry-x/y", parse_mountinfo(HYBRID))
    assert cgroup.join_paths() == [
        "/sys/fs/cgroup/systemd/wherry-x/y/tasks",
        "/sys/fs/cgroup/cpu,cpuacct/wherry-x/y/tasks",
        "/sys/fs/cgroup/memory/wherry-x/y/tasks",
        "/mnt/with space/wherry-x/y/tasks",
    ]
    assert cgroup.open_fd() is None


def test_systemd_alone_on_v1_is_still_v2() -> None:
    """systemd before 233 kept its named hierarchy beside controllers on v2."""
    lines = "\n".join(line for line in HYBRID.splitlines() if "systemd" in line or "cgroup2" in line)
    assert parse_mountinfo(lines).version == 2


def test_nothing_mounted() -> None:
    assert parse_mountinfo("23 1 254:0 / / rw,relatime - ext4 /dev/root rw").roots == []


@pytest.mark.parametrize("path", ["", "/", "wherry-x", "/a/../b", "/a//b", "/a/", "/./a"])
def test_paths_stay_below_the_root(path: str) -> None:
    for call in (open_cgroup, remove_subtree):
        with pytest.raises(InvalidParameter, match="invalid cgroup path"):
            call(path, parse_mountinfo(UNIFIED))


def test_facts_of_v2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids\n")
    facts = host_facts(Hierarchies(str(tmp_path), {}))
    assert facts["version"] == "2"
    assert facts["controllers"] == ["cpu", "io", "memory", "pids"]
    assert facts["memory_limit"] and facts["pids_limit"] and facts["cpu_quota"] and facts["io_throttle"]
    assert not facts["cpu_set"]
    assert not facts["io_weight"]
    assert not facts["oom_kill_disable"]
    (tmp_path / "io.cost.qos").touch()
    assert host_facts(Hierarchies(str(tmp_path), {}))["io_weight"]


def test_facts_of_v1(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").touch()
    controllers = {"memory": str(tmp_path / "memory"), "name=systemd": str(tmp_path)}
    facts = host_facts(Hierarchies(None, controllers))
    assert facts["version"] == "1"
    assert facts["controllers"] == ["memory"]
    assert facts["memory_limit"]
    assert not facts["swap_limit"]
    assert not facts["pids_limit"]
