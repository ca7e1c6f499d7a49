"""/proc/self/mountinfo, which is what is mounted, whoever mounted it (proc_pid_mountinfo(5))."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from runtime.linux.files import read_file

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class MountEntry(NamedTuple):
    mount_point: str
    optional: tuple[str, ...]
    """"shared:N", "master:N" and the like."""
    fstype: str
    source: str


def read() -> list[MountEntry]:
    """Every mount of this process's mount namespace; of those on one point the last is the topmost."""
    return parse(read_file("/proc/self/mountinfo"))


def parse(content: bytes) -> list[MountEntry]:
    entries = []
    for line in content.splitlines():
        before, _, after = line.partition(b" - ")
        fields, kind = before.split(b" "), after.split(b" ")
        optional = tuple(field.decode() for field in fields[6:])
        entries.append(MountEntry(_unescape(fields[4]), optional, kind[0].decode(), _unescape(kind[1])))
    return entries


def _unescape(field: bytes) -> str:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field).decode(errors="surrogateescape")


def at(entries: Iterable[MountEntry], path: str) -> MountEntry | None:
    """What is mounted on exactly `path`, which holds no symbolic link."""
    found = None
    for entry in entries:
        if entry.mount_point == path:
            found = entry
    return found


def containing(entries: Iterable[MountEntry], path: str) -> MountEntry:
    """The mount `path`, which holds no symbolic link, is on."""
    best = MountEntry("/", (), "", "")
    for entry in entries:
        point = entry.mount_point
        if len(point) >= len(best.mount_point) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best = entry
    return best


def below(entries: Iterable[MountEntry], path: str) -> list[str]:
    """Mount points at and below `path`, the deepest first: the order to unmount them in."""
    points = [e.mount_point for e in entries if e.mount_point == path or e.mount_point.startswith(path + "/")]
    return sorted(points, key=lambda point: -point.count("/"))
