"""What overlayfs would show of a stack of directories, read without mounting it.

Lookup follows the kernel's (Documentation/filesystems/overlayfs.rst, "Upper and Lower", "whiteouts and opaque
directories"); symlinks resolve inside the stack. Everything is opened relative to descriptors that cannot be
swapped, so that a running container writing to the upper directory cannot lead a reader to the host's files.
"""

import functools
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from runtime.content.tree import SYMLINKS_MAX, is_opaque, is_whiteout, open_directory
from runtime.errors import InvalidParameter

_PATH_ONLY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_BYTES_MAX = 16 << 20
_FILES_KEPT = 64


def read_in_layers(lower: Sequence[str], upper: str | None, path: str) -> bytes | None:
    """The content of the regular file `path` of a root file system; None when there is no such file.

    `lower`: layer directories, top first; `upper`: the container's own, if it has one. Raises InvalidParameter
    for a file over 16 MiB, which no caller wants whole.
    """
    with ExitStack() as opened:
        found = resolve(opened, [upper, *lower] if upper else lower, path)
        if not isinstance(found, int) or not stat.S_ISREG(os.fstat(found).st_mode):
            return None
        with open(f"/proc/self/fd/{found}", "rb") as file:  # noqa: PTH123 (a descriptor's name, not a path)
            content = file.read(_READ_BYTES_MAX + 1)
    if len(content) > _READ_BYTES_MAX:
        raise InvalidParameter(f'"{path}" in the image is larger than {_READ_BYTES_MAX >> 20} MiB')
    return content


def read_in_container(lower: Sequence[str], upper: str, path: str) -> bytes | None:
    """As `read_in_layers`, and quickly where the container has written nothing: layers never change."""
    image = _read_in_image(tuple(lower), path)
    own = _is_on_the_way(upper, path) if image.is_straight else _is_touched(upper)
    return read_in_layers(lower, upper, path) if own else image.content


class _InImage(NamedTuple):
    """A file of an image; `is_straight` if no symlink leads to it, or away from where it would be."""

    content: bytes | None
    is_straight: bool


@functools.lru_cache(_FILES_KEPT)
def _read_in_image(lower: tuple[str, ...], path: str) -> _InImage:
    return _InImage(read_in_layers(lower, None, path), _is_straight(lower, path))


def _is_straight(lower: Sequence[str], path: str) -> bool:
    names = path.strip("/").split("/")
    if not {"", ".", ".."}.isdisjoint(names):
        return False
    with ExitStack() as opened:
        found: list[int] | int | None = [_kept(opened, open_directory(directory)) for directory in lower]
        for name in names:
            if not isinstance(found, list):
                break
            found = look_up(opened, found, name)
        return not isinstance(found, int) or not stat.S_ISLNK(os.fstat(found).st_mode)


def _is_on_the_way(upper: str, path: str) -> bool:
    """Whether the container has anything of its own where the straight `path` leads, or instead of a directory."""
    *directories, name = path.strip("/").split("/")
    with ExitStack() as opened:
        level = _kept(opened, open_directory(upper))
        try:
            for directory in directories:
                level = _kept(opened, open_directory(directory, level))
                if is_opaque(level):
                    return True
            os.stat(name, dir_fd=level, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            return True
    return True


def _is_touched(upper: str) -> bool:
    with os.scandir(upper) as written:
        return next(written, None) is not None


def stat_directory(lower: Sequence[str], path: str) -> os.stat_result | None:
    """Owner, mode and times of the directory `path` of a root file system; None when it is not one."""
    with ExitStack() as opened:
        found = resolve(opened, lower, path)
        return os.fstat(found[0]) if isinstance(found, list) else None


def stat_path(lower: Sequence[str], path: str) -> os.stat_result | None:
    """Any file of a root file system, symlinks in `path` (but for the last name) followed; None if there is none."""
    with ExitStack() as opened:
        parent, _, name = path.rpartition("/")
        level = resolve(opened, lower, parent)
        found = look_up(opened, level, name) if isinstance(level, list) else None
        return None if found is None else os.fstat(found[0] if isinstance(found, list) else found)


def resolve(opened: ExitStack, stack: Sequence[str], path: str) -> list[int] | int | None:
    """A directory's descriptors (one a layer that contributes, top first), another file's, or None."""
    top = [_kept(opened, open_directory(directory)) for directory in stack]
    levels = [top]
    pending = path.split("/")[::-1]
    symlinks = 0
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            del levels[max(1, len(levels) - 1) :]
            continue
        found = look_up(opened, levels[-1], name)
        if isinstance(found, list):
            levels.append(found)
        elif found is not None and stat.S_ISLNK(os.fstat(found).st_mode):
            symlinks += 1
            if symlinks > SYMLINKS_MAX:
                return None
            target = os.readlink("", dir_fd=found)
            if target.startswith("/"):
                del levels[1:]
            pending.extend(target.split("/")[::-1])
        else:
            return None if any(rest not in ("", ".") for rest in pending) else found
    return levels[-1]


def look_up(opened: ExitStack, level: list[int], name: str) -> list[int] | int | None:
    """As `resolve`, for one name in one merged directory."""
    contributing: list[int] = []
    for directory_fd in level:
        try:
            found = _kept(opened, open_directory(name, directory_fd))
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            if contributing:
                break  # a file below a directory is hidden by it
            found = _kept(opened, os.open(name, _PATH_ONLY, dir_fd=directory_fd))
            return None if is_whiteout(os.fstat(found)) else found
        contributing.append(found)
        if is_opaque(found):
            break
    return contributing or None


def _kept(opened: ExitStack, descriptor: int) -> int:
    opened.callback(os.close, descriptor)
    return descriptor
