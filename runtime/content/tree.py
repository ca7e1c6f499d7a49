"""Directory trees shaped by containers and layer authors: resolving, walking and removing them safely.

All access is relative to directory descriptors and follows no symlink on its own. Walking and removing need
no more than memory for names: a container can nest directories deeper than PATH_MAX, the recursion limit or
the descriptor limit.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SYMLINKS_MAX = 40  # as the kernel, path_resolution(7)

WHITEOUT_DEVICE = 0  # overlayfs: a character device 0:0 hides the name in the layers below
OPAQUE_XATTR = "trusted.overlay.opaque"  # ... and "y" here hides the whole directory below


def is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == WHITEOUT_DEVICE


def is_opaque(directory_fd: int) -> bool:
    """Whether the layers below contribute nothing to this directory."""
    try:
        return os.getxattr(directory_fd, OPAQUE_XATTR) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def open_directory(name: str | Path, dir_fd: int | None = None) -> int:
    """A descriptor of a directory that is not reached through a symlink in its last component."""
    return os.open(name, _OPEN_DIRECTORY, dir_fd=dir_fd)


def stat_and_target(name: str, dir_fd: int) -> tuple[os.stat_result, str]:
    """What `name` is, and where it points if it is a symlink: both of one file, whatever takes its place meanwhile."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        info = os.fstat(found)
        return info, os.readlink("", dir_fd=found) if stat.S_ISLNK(info.st_mode) else ""
    finally:
        os.close(found)


@dataclass(frozen=True, slots=True)
class Node:
    """A file of a tree: `path` is relative to its top, `name` relative to `parent_fd`."""

    path: str
    name: str
    parent_fd: int
    info: os.stat_result


def _nowhere(path: str) -> bool:
    return False


def walk(top: Path | int, enter: Callable[[str], bool] = _nowhere) -> Iterator[Node]:
    """Every file below `top` (a descriptor is lent), parents first, in the order of names, not following symlinks.

    Mounts are followed where `enter(path)` says so.
    `parent_fd` is valid until the next step. Files that vanish meanwhile are passed over; ESTALE when a
    running container moves the directory being walked, for its parent may then be anywhere.
    """
    current = open_directory(top) if isinstance(top, Path) else open_directory(".", top)
    try:
        pending = [_sorted_names(current)]
        devices = [os.fstat(current).st_dev]
        parents: list[tuple[int, int]] = []
        prefix: list[str] = []
        while pending:
            if not pending[-1]:
                pending.pop()
                if prefix:
                    current = _replace(current, open_directory("..", current))
                    if _identity(current) != parents.pop():
                        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), f"{top}/{'/'.join(prefix)}")
                    prefix.pop()
                    devices.pop()
                continue
            name = pending[-1].pop()
            try:
                info = os.stat(name, dir_fd=current, follow_symlinks=False)
                yield Node("/".join([*prefix, name]), name, current, info)
                if stat.S_ISDIR(info.st_mode) and (info.st_dev == devices[-1] or enter("/".join([*prefix, name]))):
                    parent = _identity(current)
                    current = _replace(current, open_directory(name, current))
                    parents.append(parent)
                    prefix.append(name)
                    devices.append(info.st_dev)
                    pending.append(_sorted_names(current))
            except (FileNotFoundError, NotADirectoryError):
                continue
    finally:
        os.close(current)


def data_size_bytes(top: Path) -> int:
    """Bytes of data in all files and symlinks below `top`, hard links counted once. Slow. Raises OSError."""
    sizes: dict[tuple[int, int], int] = {}
    for node in walk(top):
        if stat.S_ISREG(node.info.st_mode) or stat.S_ISLNK(node.info.st_mode):
            sizes[node.info.st_dev, node.info.st_ino] = node.info.st_size
    return sum(sizes.values())


def _identity(descriptor: int) -> tuple[int, int]:
    info = os.fstat(descriptor)
    return info.st_dev, info.st_ino


def _sorted_names(directory_fd: int) -> list[str]:
    """Last first, to be popped from the end."""
    return sorted(os.listdir(directory_fd), reverse=True)


def _replace(old_fd: int, new_fd: int) -> int:
    os.close(old_fd)
    return new_fd


def remove_tree(name: str | Path, dir_fd: int | None = None) -> None:
    """Deletes `name` and all below it. Nothing else may be changing the tree. Raises OSError."""
    info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    current = open_directory(name, dir_fd)
    try:
        # Directories still to be entered at each depth; the one being emptied stays last until it is removed.
        pending = [_remove_files(current)]
        while True:
            if pending[-1]:
                current = _replace(current, open_directory(pending[-1][-1], current))
                pending.append(_remove_files(current))
                continue
            pending.pop()
            if not pending:
                break
            current = _replace(current, open_directory("..", current))
            os.rmdir(pending[-1].pop(), dir_fd=current)
    finally:
        os.close(current)
    os.rmdir(name, dir_fd=dir_fd)


def _remove_files(directory_fd: int) -> list[str]:
    """Empties a directory of everything but directories, whose names it returns."""
    directories = []
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=directory_fd)
    return directories


def remove_children(directory: Path) -> int:
    """Empties `directory`; returns how many entries it had."""
    names = os.listdir(directory)
    for name in names:
        remove_tree(directory / name)
    return len(names)


class RootedDirectories:
    """Opens directories of one tree as a process chrooted there would see them, and makes missing ones.

    Symlinks are resolved here, by name, against descriptors: an absolute target starts at the tree's top and
    `..` stops there. (`openat2(RESOLVE_IN_ROOT)` resolves the same way but cannot create on the way.)
    """

    DEPTH_MAX = 256

    def __init__(self, top_fd: int) -> None:
        self._top_fd = top_fd
        self._cached_path: str | None = None
        self._cached_fd = -1
        self.made: dict[int, str] = {}
        """Inode and resolved path of directories made because something was to be put below them."""

    def close(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Must be called after removing or replacing a directory or a symlink."""
        if self._cached_path is not None:
            os.close(self._cached_fd)
            self._cached_path = None

    def open(self, path: str, make: bool) -> int:
        """A descriptor of the directory `path` ("" is the top), owned by this object until the next call.

        Raises OSError: ENOENT without `make`, ENOTDIR, ELOOP, ENAMETOOLONG when nested too deeply.
        """
        if path != self._cached_path:
            descriptor = self._resolve(path, make)
            self.forget()
            self._cached_path, self._cached_fd = path, descriptor
        return self._cached_fd

    def _resolve(self, path: str, make: bool) -> int:
        symlinks = 0
        names: list[str] = []
        pending = path.split("/")[::-1]
        chain = [os.dup(self._top_fd)]
        try:
            while pending:
                name = pending.pop()
                if name in ("", "."):
                    continue
                if name == "..":
                    if names:
                        names.pop()
                        os.close(chain.pop())
                    continue
                target = self._enter(chain, names, name, make)
                if target is None:
                    continue
                symlinks += 1
                if symlinks > SYMLINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    while names:
                        names.pop()
                        os.close(chain.pop())
                pending.extend(target.split("/")[::-1])
            return chain.pop()
        finally:
            for descriptor in chain:
                os.close(descriptor)

    def _enter(self, chain: list[int], names: list[str], name: str, make: bool) -> str | None:
        """Descends into `name`, or returns where it points when it is a symlink."""
        if len(chain) > self.DEPTH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "/".join(names))
        replaces_whiteout = False
        try:
            chain.append(open_directory(name, chain[-1]))
            names.append(name)
            return None
        except FileNotFoundError:
            if not make:
                raise
        except NotADirectoryError:
            info, target = stat_and_target(name, chain[-1])
            if target:
                return target
            if not make or not is_whiteout(info):
                raise
            replaces_whiteout = True
            os.unlink(name, dir_fd=chain[-1])
        os.mkdir(name, 0o755, dir_fd=chain[-1])
        chain.append(open_directory(name, chain[-1]))
        names.append(name)
        os.fchmod(chain[-1], 0o755)  # whatever the umask
        if replaces_whiteout:
            os.setxattr(chain[-1], OPAQUE_XATTR, b"y")
        else:
            self.made[os.fstat(chain[-1]).st_ino] = "/".join(names)
        return None
