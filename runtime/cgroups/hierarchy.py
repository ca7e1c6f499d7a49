"""Where cgroups are mounted: one unified hierarchy (v2), one per controller (v1), or both (hybrid)."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from runtime.errors import InvalidParameter, NotSupported


class Hierarchies(NamedTuple):
    """Mount points. `v1` maps a controller, or "name=systemd", to its mount; co-mounted ones share it."""

    unified: str | None
    v1: Mapping[str, str]

    @property
    def version(self) -> int:
        """1 as soon as any controller is on v1: in hybrid set-ups the unified hierarchy has next to none."""
        return 1 if any(not name.startswith("name=") for name in self.v1) else 2

    @property
    def roots(self) -> list[str]:
        """The mount points where a container has a cgroup: v2's one, or v1's, each once."""
        if self.version == 2:
            return [] if self.unified is None else [self.unified]
        return list(dict.fromkeys(self.v1.values()))


@functools.cache
def mounted() -> Hierarchies:
    """Return this process's cgroup mounts; raises NotSupported when there are none."""
    hierarchies = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    if not hierarchies.roots:
        raise NotSupported("no cgroups are mounted: mount a cgroup2 filesystem on /sys/fs/cgroup")
    return hierarchies


# Filesystem options that stand beside the controllers' names in a v1 mount's super options.
_V1_OPTIONS = {"rw", "ro", "clone_children", "cpuset_v2_mode", "favordynmods", "noprefix", "xattr"}


def parse_mountinfo(text: str) -> Hierarchies:
    """Find the cgroup mounts in the text of /proc/<pid>/mountinfo (proc(5)); the first of each kind counts.

    Paths of cgroups are relative to the mount points, whatever part of the hierarchy is mounted there:
    inside a container that is the container's own.
    """
    unified = None
    v1: dict[str, str] = {}
    for line in text.splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, super_options = filesystem.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        mount_point = _unescape(mount.split(" ")[4])
        if kind == "cgroup2":
            unified = unified or mount_point
            continue
        for option in super_options.split(","):
            if option not in _V1_OPTIONS and not option.startswith("release_agent="):
                v1.setdefault(option, mount_point)
    return Hierarchies(unified, v1)


def checked_path(path: str) -> str:
    """Return `path` ("/a/b", relative to the hierarchy roots) if it names a cgroup below them."""
    if not path.startswith("/") or any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise InvalidParameter(f"invalid cgroup path {path!r}: give an absolute one without . and ..")
    return path


def unified_path(text: str) -> str:
    """The path on the unified hierarchy in the text of /proc/<pid>/cgroup (cgroups(7)); empty if there is none."""
    return next((line[3:] for line in text.splitlines() if line.startswith("0::")), "")


def _unescape(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
