"""What an image has at a path, copied into a directory: a volume's first content.

Everything is opened relative to descriptors and made exclusively: another container that writes to the same
directory meanwhile cannot lead the copy elsewhere.
"""

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from runtime.content.merged import look_up, resolve
from runtime.content.tree import open_directory
from runtime.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")
_NO_COPY_FILE_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_CHUNK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Origin:
    """A directory of an image."""

    info: os.stat_result
    empty: bool


def examine(lower: Sequence[str], path: str) -> Origin | None:
    """What a root file system of `lower`, topmost layer first, has at `path`; None for nothing.

    Raises NotADirectoryError when that is a file.
    """
    with ExitStack() as opened:
        found = resolve(opened, lower, path)
        if found is None:
            return None
        if isinstance(found, int):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return Origin(os.fstat(found[0]), empty=not any(_exists(found, name) for name in _names(found)))


def copy_up(lower: Sequence[str], path: str, destination_fd: int) -> None:
    """Copy the directory `path`'s content, owners, modes, times and extended attributes into `destination_fd`."""
    with ExitStack() as opened:
        found = resolve(opened, lower, path)
        if isinstance(found, list):
            _Copy(destination_fd).directory(found, destination_fd, "")


def copy_ownership(lower: Sequence[str], path: str, destination_fd: int) -> None:
    """As `copy_up`, for the directory without its content."""
    with ExitStack() as opened:
        found = resolve(opened, lower, path)
        if isinstance(found, list):
            _dress(found[0], destination_fd)


def _names(level: Sequence[int]) -> list[str]:
    return sorted({name for directory_fd in level for name in os.listdir(directory_fd)})


def _exists(level: list[int], name: str) -> bool:
    with ExitStack() as opened:
        return look_up(opened, level, name) is not None


@dataclass
class _Copy:
    top_fd: int
    links: dict[tuple[int, int], str] = field(default_factory=dict)
    """Where the first name of a file with several was copied to, relative to the top."""

    def directory(self, level: list[int], destination_fd: int, prefix: str) -> None:
        for name in _names(level):
            with ExitStack() as opened:
                found = look_up(opened, level, name)
                if isinstance(found, list):
                    os.mkdir(name, 0o700, dir_fd=destination_fd)
                    child = open_directory(name, destination_fd)
                    opened.callback(os.close, child)
                    self.directory(found, child, f"{prefix}{name}/")
                elif found is not None:
                    self._file(found, destination_fd, name, prefix + name)
        _dress(level[0], destination_fd)

    def _file(self, source_fd: int, destination_fd: int, name: str, path: str) -> None:
        info = os.fstat(source_fd)
        identity = info.st_dev, info.st_ino
        if info.st_nlink > 1 and identity in self.links:
            self._link(self.links[identity], destination_fd, name)
            return
        if stat.S_ISREG(info.st_mode):
            _copy_regular(source_fd, destination_fd, name)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink("", dir_fd=source_fd), name, dir_fd=destination_fd)
            os.chown(name, info.st_uid, info.st_gid, dir_fd=destination_fd, follow_symlinks=False)
            times = info.st_atime_ns, info.st_mtime_ns
            os.utime(name, ns=times, dir_fd=destination_fd, follow_symlinks=False)
        else:
            os.mknod(name, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev, dir_fd=destination_fd)
            made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=destination_fd)
            try:
                _dress(source_fd, made)
            finally:
                os.close(made)
        if info.st_nlink > 1:
            self.links[identity] = path

    def _link(self, first: str, destination_fd: int, name: str) -> None:
        found = openat2(self.top_fd, first, os.O_PATH, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        try:
            os.link(f"/proc/self/fd/{found}", name, dst_dir_fd=destination_fd, follow_symlinks=True)
        finally:
            os.close(found)


def _copy_regular(source_fd: int, destination_fd: int, name: str) -> None:
    with ExitStack() as opened:
        source = os.open(f"/proc/self/fd/{source_fd}", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, source)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        made = os.open(name, flags, 0o600, dir_fd=destination_fd)
        opened.callback(os.close, made)
        try:
            while os.copy_file_range(source, made, _CHUNK_BYTES):
                pass
        except OSError as error:
            if error.errno not in _NO_COPY_FILE_RANGE:
                raise
            while os.sendfile(made, source, None, _CHUNK_BYTES):
                pass
        _dress(source, made)


def _dress(source_fd: int, destination_fd: int) -> None:
    """Owner, mode, extended attributes and times. The owner first: changing it clears set-id bits and capabilities."""
    info = os.fstat(source_fd)
    source, destination = f"/proc/self/fd/{source_fd}", f"/proc/self/fd/{destination_fd}"
    os.chown(destination, info.st_uid, info.st_gid)
    os.chmod(destination, stat.S_IMODE(info.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(_OVERLAY_XATTRS):
            _set_attribute(destination, name, os.getxattr(source, name))
    os.utime(destination, ns=(info.st_atime_ns, info.st_mtime_ns))


def _set_attribute(path: str, name: str, value: bytes) -> None:
    """Set what the destination's file system can hold."""
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
