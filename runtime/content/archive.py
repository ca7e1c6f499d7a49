"""Layer tars to directories and back.

`unpack_layer` takes a tar from anybody: nothing it says reaches outside the target directory. The target
follows overlayfs conventions (kernel Documentation/filesystems/overlayfs.rst), the tar those of the OCI
image-spec (layer.md, "Whiteouts"):

    .wh.<name>      <->  character device 0:0 called <name>
    .wh..wh..opq    <->  xattr trusted.overlay.opaque=y on the directory
"""

import errno
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.content import tar_reader
from runtime.content.compression import Readable
from runtime.content.tar_reader import TarEntry, TarReader
from runtime.content.tree import (
    OPAQUE_XATTR,
    Node,
    RootedDirectories,
    is_opaque,
    is_whiteout,
    open_directory,
    remove_tree,
    walk,
)
from runtime.errors import InvalidParameter, SystemFault

WHITEOUT_PREFIX = ".wh."
OPAQUE_MARKER = ".wh..wh..opq"
_AUFS_METADATA_PREFIX = ".wh..wh."
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


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one layer may ask for; past that it is taken for an attack on the disk rather than an image."""

    entries: int = 4_000_000
    stored_bytes: int = 1 << 40


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Unpacked:
    """`size_bytes`: sum of the files' data.

    `implied`: paths of directories the tar put files in but did not describe, parents first ("" is the top).
    They should look like the same directories in the layers below, which only the caller knows.
    """

    size_bytes: int
    implied: tuple[str, ...]


def unpack_layer(source: Readable, target: Path, limits: Limits = DEFAULT_LIMITS) -> Unpacked:
    """Unpacks an uncompressed layer tar into the empty directory `target`.

    Reads `source` up to the end-of-archive block. Raises InvalidParameter naming the entry when the tar is
    damaged or asks for something a layer may not contain, SystemFault when the disk or the kernel refuses.
    `target` is then left half filled: unpack into a directory that can be thrown away.
    """
    top_fd = open_directory(target)
    try:
        with closing(_LayerWriter(top_fd)) as writer:
            reader = TarReader(source)
            for count, entry in enumerate(reader):
                if count >= limits.entries:
                    raise InvalidParameter(f"the layer has more than {limits.entries} entries")
                if writer.size_bytes + reader.remaining > limits.stored_bytes:
                    raise InvalidParameter(f"the layer unpacks to more than {limits.stored_bytes} bytes")
                with _naming(entry):
                    writer.add(entry, reader)
            writer.finish()
            return Unpacked(writer.size_bytes, tuple(writer.directories.made.values()))
    finally:
        os.close(top_fd)


@contextmanager
def _naming(entry: TarEntry) -> Iterator[None]:
    """Turns what the kernel refuses into a sentence about the entry that asked for it."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        sentence = f'cannot unpack "{_printable(entry.name)}" from the layer: {reason}'
        if error.errno in _NOT_THE_LAYERS_FAULT:
            raise SystemFault(sentence) from error
        raise InvalidParameter(sentence) from error


class _LayerWriter:
    """Applies tar entries to one directory tree, in the order they come."""

    def __init__(self, top_fd: int) -> None:
        self._top_fd = top_fd
        self.directories = RootedDirectories(top_fd)
        self.directories.made[os.fstat(top_fd).st_ino] = ""
        self.size_bytes = 0
        self._directory_times: dict[str, int] = {}

    def close(self) -> None:
        self.directories.close()

    def add(self, entry: TarEntry, reader: TarReader) -> None:
        path = _path_in_layer(entry.name)
        if not (0 <= entry.uid <= _ID_MAX and 0 <= entry.gid <= _ID_MAX):
            raise InvalidParameter(f'the layer\'s "{_printable(entry.name)}" has an impossible owner')
        if path == "":
            self._describe_top(entry)
            return
        parent, name = posixpath.split(path)
        if name == OPAQUE_MARKER:
            os.setxattr(self.directories.open(parent, make=True), OPAQUE_XATTR, b"y")
        elif name.startswith(_AUFS_METADATA_PREFIX):
            pass  # aufs bookkeeping (.wh..wh.plnk, .wh..wh.aufs) that old daemons left in images
        elif name.startswith(WHITEOUT_PREFIX):
            self._hide(self.directories.open(parent, make=True), name.removeprefix(WHITEOUT_PREFIX), entry)
        elif entry.kind == tar_reader.DIRECTORY:
            self._directory(parent, name, path, entry)
        elif entry.kind == tar_reader.HARD_LINK:
            self._link(parent, name, entry)
        else:
            self._file(self._make_room(parent, name), name, entry, reader)

    def finish(self) -> None:
        """Sets the times of directories, which filling them has changed."""
        for path, mtime_ns in reversed(self._directory_times.items()):
            try:
                _set_times(self.directories.open(path, make=False), mtime_ns)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # replaced by a later entry
                    raise

    def _describe_top(self, entry: TarEntry) -> None:
        if entry.kind != tar_reader.DIRECTORY:
            raise InvalidParameter("the layer replaces the root directory by something else")
        self._describe_directory(self._top_fd, "", entry)

    def _hide(self, parent_fd: int, name: str, entry: TarEntry) -> None:
        """A whiteout is about the layers below: what this layer itself has under the name stays, alone."""
        if name in ("", ".", ".."):
            raise InvalidParameter(f'the layer has an impossible whiteout "{_printable(entry.name)}"')
        info = _stat(name, parent_fd)
        if info is None:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent_fd)
        elif stat.S_ISDIR(info.st_mode):
            directory_fd = open_directory(name, parent_fd)
            try:
                os.setxattr(directory_fd, OPAQUE_XATTR, b"y")
            finally:
                os.close(directory_fd)

    def _directory(self, parent: str, name: str, path: str, entry: TarEntry) -> None:
        parent_fd = self.directories.open(parent, make=True)
        info = _stat(name, parent_fd)
        if info is None or not stat.S_ISDIR(info.st_mode):
            parent_fd = self._make_room(parent, name)
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
        target_parent, target_name = posixpath.split(_path_in_layer(entry.link_target))
        # Two directories at once, and `open` lends one: this one is duplicated.
        source_fd = os.dup(self.directories.open(target_parent, make=False))
        try:
            info = _stat(target_name, source_fd)
            if info is None or stat.S_ISDIR(info.st_mode) or is_whiteout(info):
                raise InvalidParameter(
                    f'the layer\'s "{_printable(entry.name)}" is a hard link to '
                    f'"{_printable(entry.link_target)}", which is not a file of this layer'
                )
            parent_fd = self.directories.open(parent, make=True)
            if (existing := _stat(name, parent_fd)) and os.path.samestat(existing, info):
                return
            parent_fd = self._make_room(parent, name)
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
            os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
            _set_times(name, entry.mtime_ns, parent_fd)
        elif entry.kind in _NODE_TYPES:
            os.mknod(name, _NODE_TYPES[entry.kind] | 0o600, os.makedev(*entry.device), dir_fd=parent_fd)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
            # Follows symlinks, for fchmodat(2) cannot do otherwise; a node made a moment ago is none.
            os.chmod(name, entry.mode, dir_fd=parent_fd)
            _set_times(name, entry.mtime_ns, parent_fd)
        else:
            kind = entry.kind.decode("latin-1")
            raise InvalidParameter(f'the layer\'s "{_printable(entry.name)}" is of the unknown tar type {kind!r}')

    def _make_room(self, parent: str, name: str) -> int:
        """Removes an earlier entry of the same name, for the later one wins; returns `parent` opened."""
        parent_fd = self.directories.open(parent, make=True)
        info = _stat(name, parent_fd)
        if info is None:
            return parent_fd
        remove_tree(name, parent_fd)
        self.directories.forget()
        return self.directories.open(parent, make=True)


def _path_in_layer(name: str) -> str:
    """The entry's path relative to the layer's top, "" for the top itself.

    A leading slash means the top, as for a chroot. Raises InvalidParameter when `..` leads outside.
    """
    path = posixpath.normpath(name.lstrip("/")) if name else ""
    if path == ".." or path.startswith("../"):
        raise InvalidParameter(f'the layer names "{_printable(name)}", which lies outside of it')
    return "" if path == "." else path


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()[:256]


def _stat(name: str, dir_fd: int) -> os.stat_result | None:
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
        if _may_carry(name):
            try:
                os.setxattr(file_fd, name, value)
            except OSError as error:
                if error.errno != errno.ENOTSUP:
                    raise


def _may_carry(xattr: str) -> bool:
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


# --- directories to tars ----------------------------------------------------------------------------------


def write_diff(upper: Path, out: Writable) -> None:
    """Writes the changes in an overlay's upper directory as a layer tar; equal trees give equal bytes."""
    _write_tree(upper, out, whiteouts=True)


def export_tree(top: Path, out: Writable) -> None:
    """Writes everything below `top`, a mounted root file system, as a plain tar; other mounts stay empty."""
    _write_tree(top, out, whiteouts=False)


def _write_tree(top: Path, out: Writable, whiteouts: bool) -> None:
    first_names: dict[tuple[int, int], str] = {}  # of files with several
    for node in walk(top):
        if whiteouts and is_whiteout(node.info):
            parent = node.path.removesuffix(node.name)
            _write_entry(out, _tar_info(f"{parent}{WHITEOUT_PREFIX}{node.name}", node.info, tarfile.REGTYPE))
            continue
        kind = _TAR_TYPES.get(stat.S_IFMT(node.info.st_mode))
        if kind is None:
            continue  # sockets: meaningless without the process that listened
        info = _tar_info(node.path, node.info, kind)
        identity = (node.info.st_dev, node.info.st_ino)
        if node.info.st_nlink > 1 and kind != tarfile.DIRTYPE:
            if identity in first_names:
                info.type, info.linkname = tarfile.LNKTYPE, first_names[identity]
                _write_entry(out, info)
                continue
            first_names[identity] = node.path
        if kind == tarfile.REGTYPE:
            _write_file(out, node, info)
        elif kind == tarfile.SYMTYPE:
            info.linkname = os.readlink(node.name, dir_fd=node.parent_fd)
            _write_entry(out, info)
        elif kind == tarfile.DIRTYPE:
            _write_directory(out, node, info, whiteouts)
        else:
            info.devmajor, info.devminor = os.major(node.info.st_rdev), os.minor(node.info.st_rdev)
            _write_entry(out, info)
    out.write(bytes(2 * tar_reader.BLOCK))


_TAR_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def _tar_info(path: str, info: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    """Whole seconds and no user names, as Docker writes layers."""
    entry = tarfile.TarInfo(path)
    entry.type = kind
    entry.mode = stat.S_IMODE(info.st_mode)
    entry.uid, entry.gid = info.st_uid, info.st_gid
    entry.mtime = int(info.st_mtime)
    return entry


def _write_entry(out: Writable, info: tarfile.TarInfo) -> None:
    out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))


def _write_directory(out: Writable, node: Node, info: tarfile.TarInfo, whiteouts: bool) -> None:
    directory_fd = open_directory(node.name, node.parent_fd)
    try:
        info.pax_headers = _xattr_records(directory_fd)
        _write_entry(out, info)
        if whiteouts and is_opaque(directory_fd):
            _write_entry(out, _tar_info(f"{node.path}/{OPAQUE_MARKER}", node.info, tarfile.REGTYPE))
    finally:
        os.close(directory_fd)


def _write_file(out: Writable, node: Node, info: tarfile.TarInfo) -> None:
    """A file that changes while it is read still gets exactly the size its header promised."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file_fd = os.open(node.name, flags, dir_fd=node.parent_fd)
    except FileNotFoundError:
        return
    try:
        info.size = missing = os.fstat(file_fd).st_size
        info.pax_headers = _xattr_records(file_fd)
        _write_entry(out, info)
        while missing:
            chunk = os.read(file_fd, min(missing, _CHUNK_BYTES)) or bytes(min(missing, _CHUNK_BYTES))
            out.write(chunk)
            missing -= len(chunk)
        out.write(bytes(-info.size % tar_reader.BLOCK))
    finally:
        os.close(file_fd)


def _xattr_records(file_fd: int) -> dict[str, str]:
    names = sorted(name for name in os.listxattr(file_fd) if _may_carry(name))
    return {f"SCHILY.xattr.{name}": os.getxattr(file_fd, name).decode("utf-8", "surrogateescape") for name in names}
