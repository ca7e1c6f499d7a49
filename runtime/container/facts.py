"""What a plan needs to know about the host: read once by the process that starts containers, inherited by children."""

import os
import resource
from collections.abc import Mapping
from typing import NamedTuple

from runtime.linux.files import read_file


class HostFacts(NamedTuple):
    """`cgroup_v1` maps a controller (or "name=systemd") to its mount point, several to one if co-mounted.

    `cgroup_unified` is the mount point of cgroup2, wherever it is; on a hybrid host there are both. `oom_score_adj` and
    `nofile` (soft, hard) are what this process was given.
    """

    cgroup_v1: Mapping[str, str]
    cgroup_unified: str | None
    apparmor: bool
    oom_score_adj: int
    nofile: tuple[int, int]


def read_host_facts() -> HostFacts:
    """Read /proc and /sys of the calling process's namespaces."""
    unified = None
    v1: dict[str, str] = {}
    for line in read_file("/proc/self/mountinfo").decode().splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, super_options = filesystem.split(" ", 2)
        mount_point = mount.split(" ")[4]
        if kind == "cgroup2":
            unified = unified or mount_point
        elif kind == "cgroup":
            for option in super_options.split(","):
                v1.setdefault(option, mount_point)
    known = {line.split(":")[1] for line in read_file("/proc/self/cgroup").decode().splitlines()}
    controllers = {name for group in known for name in group.split(",")}
    return HostFacts(
        cgroup_v1={name: mount_point for name, mount_point in v1.items() if name in controllers},
        cgroup_unified=unified,
        apparmor=os.path.exists("/sys/kernel/security/apparmor/profiles"),
        oom_score_adj=int(read_file("/proc/self/oom_score_adj")),
        nofile=resource.getrlimit(resource.RLIMIT_NOFILE),
    )
