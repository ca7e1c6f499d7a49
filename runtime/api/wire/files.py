"""Files in containers: the Engine API's path stat, and the Config a commit keeps."""

from __future__ import annotations

import stat
from typing import Any

from runtime.api.wire.containers import config
from runtime.api.wire.times import timestamp
from runtime.engine.container import Container
from runtime.engine.container_files import PathStat

# Go's os.FileMode: the kind in high bits of its own (https://pkg.go.dev/io/fs#FileMode).
GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


def go_mode(mode: int) -> int:
    return mode & 0o777 | GO_KINDS.get(stat.S_IFMT(mode), 0) | sum(go for bit, go in GO_BITS.items() if mode & bit)


def path_stat(found: PathStat) -> dict[str, Any]:
    return {
        "name": found.name,
        "size": found.info.st_size,
        "mode": go_mode(found.info.st_mode),
        "mtime": timestamp(found.info.st_mtime_ns),
        "linkTarget": found.link_target,
    }


def committed_config(container: Container, own: dict[str, Any]) -> dict[str, Any]:
    """The container's Config under what a commit's own says; variables are merged one by one."""
    kept = {**container.image_config, **{name: value for name, value in config(container).items() if value}}
    given = {name: value for name, value in own.items() if value}
    if "Env" in given:
        variables = {entry.partition("=")[0]: entry for entry in [*(kept.get("Env") or []), *given["Env"]]}
        given["Env"] = list(variables.values())
    return {**kept, **given}
