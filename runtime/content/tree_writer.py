"""Tar entries made into files below one directory; nothing they say reaches outside of it, whoever changes the tree."""

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.content import tar_reader
from runtime.content.tar_reader import TarEntry, TarReader
from runtime.content.tree import OPAQUE_XATTR, RootedDirectories, is_whiteout, open_directory, remove_tree
from runtime.errors import InvalidParameter, SystemFault

_ID_MAX = 2**32 - 2  # (uid_t)-1 means "leave as it is" to chown(2)
_CHUNK_BYTES = 1 << 20
_NODE_TYPES = {
    tar_reader.CHARACTER: stat.S_IFCHR,
    tar_reader.BLOCK_DEVICE: stat.S_IFBLK,
    tar_reader.FIFO: stat.S_IFIFO,
}
_NOT_THE_LAYERS_FAULT = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.EMFILE,
        errno.ENFILE,
        errno.EPERM,
        errno.EACCES,
    )
)


@contextmanager
def naming(entry: TarEntry, source: str = "layer") -> Iterator[None]:
    """Turns what the kernel refuses into a sentence about the entry that asked for it."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        sentence = f'cannot unpack "{printable(entry.name)}" from the {source}: {reason}'
        if error.errno in _NOT_THE_LAYERS_FAULT:
            raise SystemFault(sentence) from error
        raise InvalidParameter(sentence) from error


class TreeWriter:
    """Applies tar entries to one directory tree, in the order they come."""

    source = "layer"  # what the tar is called in sentences

    def __init__(self, top_fd: int) -> None:
        self._top_fd = top_fd
        self.directories = RootedDirectories(top_fd)
        self.directories.made[os.fstat(top_fd).st_ino] = ""
        self.size_bytes = 0
        self._directory_times: dict[str, int] = {}

    def close(self) -> None:
        self.directories.close()

    def add(self, entry: TarEntry, reader: TarReader) -> None:
        path = self._path(entry.name)
        if not (0 <= entry.uid <= _ID_MAX and 0 <= entry.gid <= _ID_MAX):
            raise InvalidParameter(f'the {self.source}\'s "{printable(entry.name)}" has an impossible owner')
        if path == "":
            self.describe_top(entry)
            return
        self.put(*posixpath.split(path), path, entry, reader)

    def put(self, parent: str, name: str, path: str, entry: TarEntry, reader: TarReader) -> None:
        """One entry but the top."""
        if entry.kind == tar_reader.DIRECTORY:
            self._directory(parent, name, path, entry)
        elif entry.kind == tar_reader.HARD_LINK:
            self._link(parent, name, entry)
        else:
            self._file(self.make_room(parent, name, entry), name, entry, reader)

    def finish(self) -> None:
        """Sets the times of directories, which filling them has changed."""
        for path, mtime_ns in reversed(self._directory_times.items()):
            try:
                _set_times(self.directories.open(path, make=False), mtime_ns)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # replaced by a later entry
                    raise

    def describe_top(self, entry: TarEntry) -> None:
        if entry.kind != tar_reader.DIRECTORY:
            raise InvalidParameter("the layer replaces the root directory by something else")
        self._describe_directory(self._top_fd, "", entry)

    def _directory(self, parent: str, name: str, path: str, entry: TarEntry) -> None:
        parent_fd = self.directories.open(parent, make=True)
        info = stat_entry(name, parent_fd)
        if info is None or not stat.S_ISDIR(info.st_mode):
            parent_fd = self.make_room(parent, name, entry)
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        directory_fd = open_directory(name, parent_fd)
        try:
            self._describe_directory(directory_fd, path, entry)
            if info is not None and is_whiteout(info):
                os.setxattr(directory_fd, OPAQUE_XATTR, b"y")
        finally:
            os.close(directory_fd)

    def _describe_directory(self, directory_fd: int, path: str, entry: TarEntry) -> None:
        _describe(directory_fd, entry)
        self.directories.made.pop(os.fstat(directory_fd).st_ino, None)
        self._directory_times[path] = entry.mtime_ns

    def _link(self, parent: str, name: str, entry: TarEntry) -> None:
        target_parent, target_name = posixpath.split(self._path(entry.link_target))
        # Two directories at once, and `open` lends one: this one is duplicated.
        source_fd = os.dup(self.directories.open(target_parent, make=False))
        try:
            info = stat_entry(target_name, source_fd)
            if info is None or stat.S_ISDIR(info.st_mode) or is_whiteout(info):
                raise InvalidParameter(
                    f'the {self.source}\'s "{printable(entry.name)}" is a hard link to '
                    f'"{printable(entry.link_target)}", which is not a file of this {self.source}'
                )
            parent_fd = self.directories.open(parent, make=True)
            if (existing := stat_entry(name, parent_fd)) and os.path.samestat(existing, info):
                return
            parent_fd = self.make_room(parent, name, entry)
            os.link(target_name, name, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        finally:
            os.close(source_fd)

    def _file(self, parent_fd: int, name: str, entry: TarEntry, reader: TarReader) -> None:
        if entry.kind == tar_reader.REGULAR:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file_fd = os.open(name, flags, 0o600, dir_fd=parent_fd)
            try:
                self.size_bytes += _write_data(file_fd, entry, reader)
                _describe(file_fd, entry)
                _set_times(file_fd, entry.mtime_ns)
            finally:
                os.close(file_fd)
        elif entry.kind == tar_reader.SYMLINK:
            os.symlink(entry.link_target, name, dir_fd=parent_fd)
            self.size_bytes += len(os.fsencode(entry.link_target))
            os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
            _set_times(name, entry.mtime_ns, parent_fd)
        elif entry.kind in _NODE_TYPES:
            os.mknod(name, _NODE_TYPES[entry.kind] | 0o600, os.makedev(*entry.device), dir_fd=parent_fd)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
            _chmod_node(name, entry.mode, parent_fd)
            _set_times(name, entry.mtime_ns, parent_fd)
        else:
            kind, name = entry.kind.decode("latin-1"), printable(entry.name)
            raise InvalidParameter(f'the {self.source}\'s "{name}" is of the unknown tar type {kind!r}')

    def _path(self, name: str) -> str:
        """The entry's path relative to the top, "" for the top itself.

        A leading slash means the top, as for a chroot. Raises InvalidParameter when `..` leads outside.
        """
        path = posixpath.normpath(name.lstrip("/")) if name else ""
        if path == ".." or path.startswith("../"):
            raise InvalidParameter(f'the {self.source} names "{printable(name)}", which lies outside of it')
        return "" if path == "." else path

    def make_room(self, parent: str, name: str, entry: TarEntry) -> int:
        """Removes an earlier entry of the same name, for the later one wins; returns `parent` opened."""
        parent_fd = self.directories.open(parent, make=True)
        info = stat_entry(name, parent_fd)
        if info is None:
            return parent_fd
        remove_tree(name, parent_fd)
        self.directories.forget()
        return self.directories.open(parent, make=True)


def printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()[:256]


def stat_entry(name: str, dir_fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _write_data(file_fd: int, entry: TarEntry, reader: TarReader) -> int:
    """Copies the entry's data, leaving holes where a sparse file has them; returns the bytes written."""
    written = 0
    if entry.segments is None:
        for chunk in reader.chunks():
            _write_all(file_fd, chunk)
            written += len(chunk)
        return written
    for offset, length in entry.segments:
        os.lseek(file_fd, offset, os.SEEK_SET)
        while length:
            chunk = reader.read(min(length, _CHUNK_BYTES))
            _write_all(file_fd, chunk)
            length -= len(chunk)
            written += len(chunk)
    os.ftruncate(file_fd, entry.size)
    return written


def _write_all(file_fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file_fd, view) :]


def _describe(file_fd: int, entry: TarEntry) -> None:
    """Owner, then mode, then xattrs: chown(2) clears setuid bits and file capabilities."""
    os.fchown(file_fd, entry.uid, entry.gid)
    os.fchmod(file_fd, entry.mode)
    for name, value in entry.xattrs.items():
        if may_carry(name):
            try:
                os.setxattr(file_fd, name, value)
            except OSError as error:
                if error.errno != errno.ENOTSUP:
                    raise


def _chmod_node(name: str, mode: int, dir_fd: int) -> None:
    """fchmodat(2) follows symlinks, and somebody may have put one there since: a descriptor cannot be swapped."""
    node_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if not stat.S_ISLNK(os.fstat(node_fd).st_mode):
            os.chmod(f"/proc/self/fd/{node_fd}", mode)
    finally:
        os.close(node_fd)


def may_carry(xattr: str) -> bool:
    """Layers may not speak to overlayfs (trusted.*, user.overlay.*) nor to the host's security modules."""
    return (
        (xattr.startswith("user.") and not xattr.startswith("user.overlay."))
        or xattr == "security.capability"
        or xattr in ("system.posix_acl_access", "system.posix_acl_default")
    )


def _set_times(file: int | str, mtime_ns: int, dir_fd: int | None = None) -> None:
    times = (mtime_ns, mtime_ns)
    if isinstance(file, int):
        os.utime(file, ns=times)
    else:
        os.utime(file, ns=times, dir_fd=dir_fd, follow_symlinks=False)
