"""What a plan needs to know about the host: read once by the process that starts containers, inherited by children."""

import os
import resource
from collections.abc import Mapping
from typing import NamedTuple

from runtime.linux.files import read_file


class HostFacts(NamedTuple):
    """`cgroup_v1` maps a controller, or "name=systemd", to its mount point; empty where all controllers are on v2.

    `nofile` (soft, hard) and `oom_score_adj` are what this process was given. `kcore`: whether there is /proc/kcore.
    """

    cgroup_v1: Mapping[str, str]
    apparmor: bool
    kcore: bool
    oom_score_adj: int
    nofile: tuple[int, int]


def read_host_facts() -> HostFacts:
    """Read /proc and /sys of the calling process's namespaces."""
    return HostFacts(
        cgroup_v1=_cgroup_v1(),
        apparmor=os.path.exists("/sys/kernel/security/apparmor/profiles"),
        kcore=os.path.exists("/proc/kcore"),
        oom_score_adj=int(read_file("/proc/self/oom_score_adj")),
        nofile=resource.getrlimit(resource.RLIMIT_NOFILE),
    )


# `runtime.cgroups` knows this too, but would make the launcher a fifth larger.
def _cgroup_v1() -> dict[str, str]:
    groups = [line.split(":")[1] for line in read_file("/proc/self/cgroup").decode().splitlines()]
    controllers = {name for group in groups for name in group.split(",") if name}
    if all(name.startswith("name=") for name in controllers):
        return {}
    found: dict[str, str] = {}
    for line in read_file("/proc/self/mountinfo").decode().splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, super_options = filesystem.split(" ", 2)
        if kind == "cgroup":
            for option in super_options.split(","):
                if option in controllers:
                    found.setdefault(option, mount.split(" ")[4])
    return found
