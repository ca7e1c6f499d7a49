"""Paths inside a container's root, resolved by the kernel so that no symbolic link of the image leads out of it.

Every function takes `root`, a descriptor of the root directory, and a path as the container sees it; what it
returns is an O_PATH descriptor the caller closes. Raises OSError with the container's path as filename.
"""

import errno
import os
import posixpath
from collections.abc import Callable

from runtime.linux.paths import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

_Maker = Callable[[str, int], None]
"""Makes the last component of a path, given as (name, descriptor of its directory)."""

_MAX_LINKS = 40
_MAX_RACES = 64


def open_in(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open `path`; a symbolic link, the last one too, is followed as if `root` were "/"."""
    for _ in range(_MAX_RACES):
        try:
            return openat2(root, path, flags, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            # Some mount or rename elsewhere on the machine raced with a ".." of this path: openat2(2) says to retry.
            if error.errno != errno.EAGAIN:
                raise
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def make_directory(root: int, path: str, mode: int = 0o755) -> int:
    """Open the directory `path`, making it and its parents where they are missing."""
    return _make(root, path, _mkdir(mode), os.O_PATH | os.O_DIRECTORY, _MAX_LINKS)


def make_file(root: int, path: str, mode: int = 0o644) -> int:
    """Open what is at `path`, making an empty file, and its parent directories, if there is nothing."""
    return _make(root, path, _mkfile(mode), os.O_PATH, _MAX_LINKS)


def _make(root: int, path: str, make: _Maker, flags: int, links_left: int) -> int:
    try:
        return open_in(root, path, flags)
    except FileNotFoundError:
        pass
    if links_left == 0:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    parent_path, name = posixpath.split(posixpath.normpath("/" + path.lstrip("/")))
    parent = _make(root, parent_path, _mkdir(0o755), os.O_PATH | os.O_DIRECTORY, links_left)
    try:
        make(name, parent)
    except FileExistsError:
        # What is there could not be opened: a dangling link. Make what it points to, inside the root still.
        target = posixpath.join(parent_path, os.readlink(name, dir_fd=parent))
        return _make(root, target, make, flags, links_left - 1)
    finally:
        os.close(parent)
    return open_in(root, path, flags)


def _mkdir(mode: int) -> _Maker:
    return lambda name, parent: os.mkdir(name, mode, dir_fd=parent)


def _mkfile(mode: int) -> _Maker:
    def make(name: str, parent: int) -> None:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent))

    return make
