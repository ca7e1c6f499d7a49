"""What a container has changed in its root file system (`docker diff`), read from its overlay's upper directory."""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from runtime.content.merged import stat_path
from runtime.content.snapshots import OverlayRootfs
from runtime.content.tree import is_whiteout, walk

MODIFIED, ADDED, DELETED = 0, 1, 2


class Change(NamedTuple):
    path: str
    kind: int


def changes(rootfs: OverlayRootfs, mount_points: Collection[str]) -> list[Change]:
    """Every changed path, a directory with a change in it included, in the order of paths.

    Empty files at `mount_points` are not the container's doing.
    """
    found: dict[str, int] = {}
    touched: list[str] = []  # directories of which the time alone differs
    made: set[str] = set()  # directories that got a mount point
    for node in walk(Path(rootfs.upper)):
        path = f"/{node.path}"
        if is_whiteout(node.info):
            found[path] = DELETED
        elif (before := stat_path(rootfs.lower, node.path)) is None:
            if node.path in mount_points and not node.info.st_size:
                made.add(path.rpartition("/")[0])
                continue
            found[path] = ADDED
        elif stat.S_ISDIR(before.st_mode) and stat.S_ISDIR(node.info.st_mode) and _same(before, node.info):
            if before.st_mtime_ns != node.info.st_mtime_ns:
                touched.append(path)
            continue  # copied up for what is below it
        else:
            found[path] = MODIFIED
        _note_parents(found, path)
    for path in touched:
        if path not in made and path not in found:
            found[path] = MODIFIED
            _note_parents(found, path)
    return [Change(path, kind) for path, kind in sorted(found.items())]


def _note_parents(found: dict[str, int], path: str) -> None:
    while (path := path.rpartition("/")[0]) and path not in found:
        found[path] = MODIFIED


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)
