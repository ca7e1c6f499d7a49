"""Layer tars to directories and back.

`unpack_layer` takes a tar from anybody: nothing it says reaches outside the target directory. The target
follows overlayfs conventions (kernel Documentation/filesystems/overlayfs.rst), the tar those of the OCI
image-spec (layer.md, "Whiteouts"):

    .wh.<name>      <->  character device 0:0 called <name>
    .wh..wh..opq    <->  xattr trusted.overlay.opaque=y on the directory
"""

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Container
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from runtime.content import tar_reader
from runtime.content.compression import Readable
from runtime.content.tar_reader import TarEntry, TarReader
from runtime.content.tree import (
    OPAQUE_XATTR,
    Node,
    is_opaque,
    is_whiteout,
    open_directory,
    walk,
)
from runtime.content.tree_writer import TreeWriter, may_carry, naming, printable, stat_entry
from runtime.errors import InvalidParameter

WHITEOUT_PREFIX = ".wh."
OPAQUE_MARKER = ".wh..wh..opq"
_AUFS_METADATA_PREFIX = ".wh..wh."
_CHUNK_BYTES = 1 << 20
_Result = TypeVar("_Result")


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
                with naming(entry):
                    writer.add(entry, reader)
            writer.finish()
            return Unpacked(writer.size_bytes, tuple(writer.directories.made.values()))
    finally:
        os.close(top_fd)


class _LayerWriter(TreeWriter):
    """A layer's own rules: whiteouts, and what old daemons left in images."""

    def put(self, parent: str, name: str, path: str, entry: TarEntry, reader: TarReader) -> None:
        if parent.startswith(_AUFS_METADATA_PREFIX):
            return
        if parent.startswith(WHITEOUT_PREFIX) or f"/{WHITEOUT_PREFIX}" in parent:
            raise InvalidParameter(
                f'the layer has "{printable(entry.name)}" below a whiteout: names that begin with .wh. are reserved'
            )
        if name == OPAQUE_MARKER:
            os.setxattr(self.directories.open(parent, make=True), OPAQUE_XATTR, b"y")
        elif name.startswith(_AUFS_METADATA_PREFIX):
            pass  # aufs bookkeeping (.wh..wh.plnk, .wh..wh.aufs) that old daemons left in images
        elif name.startswith(WHITEOUT_PREFIX):
            self._hide(self.directories.open(parent, make=True), name.removeprefix(WHITEOUT_PREFIX), entry)
        else:
            super().put(parent, name, path, entry, reader)

    def _hide(self, parent_fd: int, name: str, entry: TarEntry) -> None:
        """A whiteout is about the layers below: what this layer itself has under the name stays, alone."""
        if name in ("", ".", ".."):
            raise InvalidParameter(f'the layer has an impossible whiteout "{printable(entry.name)}"')
        info = stat_entry(name, parent_fd)
        if info is None:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent_fd)
        elif stat.S_ISDIR(info.st_mode):
            directory_fd = open_directory(name, parent_fd)
            try:
                os.setxattr(directory_fd, OPAQUE_XATTR, b"y")
            finally:
                os.close(directory_fd)


# --- directories to tars ----------------------------------------------------------------------------------


def write_diff(upper: Path, out: Writable, leave_out: Container[str] = (), latest_mtime_s: int | None = None) -> None:
    """Writes the changes in an overlay's upper directory as a layer tar; equal trees give equal bytes.

    `leave_out`: empty files at these paths, made as mount points only. `latest_mtime_s`: times after it become it.
    """
    tree = _TreeReader(out, whiteouts=True, latest_mtime_s=latest_mtime_s)
    for node in walk(upper):
        if node.path not in leave_out or node.info.st_size or not stat.S_ISREG(node.info.st_mode):
            tree.write(node, node.path)
    tree.end()


Owner = Callable[[int, int], tuple[int, int]]
"""From a file's uid and gid to those it is shown with."""


def export_tree(top: Path | int, out: Writable, shown: Owner | None = None) -> None:
    """Writes everything below `top`, a mounted root file system, as a plain tar; other mounts stay empty."""
    tree = _TreeReader(out, shown=shown)
    for node in walk(top):
        tree.write(node, node.path)
    tree.end()


def export_path(
    parent_fd: int,
    name: str,
    shown_as: str,
    out: Writable,
    enter: Callable[[str], bool],
    shown: Owner | None = None,
) -> None:
    """Writes the file `name` with all below it as a tar, under the name `shown_as`; symlinks are not followed.

    `enter(path)`: whether to go into what is mounted at `path`, relative to the file.
    """
    tree = _TreeReader(out, shown=shown)
    info = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    tree.write(Node(shown_as, name, parent_fd, info), shown_as)
    if stat.S_ISDIR(info.st_mode):
        top_fd = open_directory(name, parent_fd)
        try:
            for node in walk(top_fd, enter):
                tree.write(node, f"{shown_as.rstrip('/')}/{node.path}")
        finally:
            os.close(top_fd)
    tree.end()


class _TreeReader:
    """Writes the nodes of one walk."""

    def __init__(
        self,
        out: Writable,
        whiteouts: bool = False,
        latest_mtime_s: int | None = None,
        shown: Owner | None = None,
    ) -> None:
        self._out = out
        self._shown = shown
        self._whiteouts = whiteouts
        self._latest_mtime_s = latest_mtime_s
        self._first_names: dict[tuple[int, int], str] = {}  # of files with several

    def end(self) -> None:
        self._out.write(bytes(2 * tar_reader.BLOCK))

    def write(self, node: Node, path: str) -> None:
        out = self._out
        if self._whiteouts and is_whiteout(node.info):
            parent = path.removesuffix(node.name)
            _write_entry(out, self._tar_info(f"{parent}{WHITEOUT_PREFIX}{node.name}", node.info, tarfile.REGTYPE))
            return
        kind = _TAR_TYPES.get(stat.S_IFMT(node.info.st_mode))
        if kind is None:
            return  # sockets: meaningless without the process that listened
        info = self._tar_info(path, node.info, kind)
        identity = (node.info.st_dev, node.info.st_ino)
        if node.info.st_nlink > 1 and kind != tarfile.DIRTYPE:
            if identity in self._first_names:
                info.type, info.linkname = tarfile.LNKTYPE, self._first_names[identity]
                _write_entry(out, info)
                return
            self._first_names[identity] = path
        if kind == tarfile.REGTYPE:
            _write_file(out, node, info)
        elif kind == tarfile.SYMTYPE:
            target = _unless_replaced(lambda: os.readlink(node.name, dir_fd=node.parent_fd))
            if target is not None:
                info.linkname = target
                _write_entry(out, info)
        elif kind == tarfile.DIRTYPE:
            self._write_directory(node, info)
        else:
            info.devmajor, info.devminor = os.major(node.info.st_rdev), os.minor(node.info.st_rdev)
            _write_entry(out, info)

    def _write_directory(self, node: Node, info: tarfile.TarInfo) -> None:
        directory_fd = _unless_replaced(lambda: open_directory(node.name, node.parent_fd))
        if directory_fd is None:
            return
        try:
            info.pax_headers = _xattr_records(directory_fd)
            _write_entry(self._out, info)
            if self._whiteouts and is_opaque(directory_fd):
                marker = self._tar_info(f"{node.path}/{OPAQUE_MARKER}", node.info, tarfile.REGTYPE)
                _write_entry(self._out, marker)
        finally:
            os.close(directory_fd)

    def _tar_info(self, path: str, info: os.stat_result, kind: bytes) -> tarfile.TarInfo:
        """Whole seconds and no user names, as Docker writes layers."""
        entry = tarfile.TarInfo(path)
        entry.type = kind
        entry.mode = stat.S_IMODE(info.st_mode)
        entry.uid, entry.gid = info.st_uid, info.st_gid
        if self._shown:
            entry.uid, entry.gid = self._shown(info.st_uid, info.st_gid)
        entry.mtime = int(info.st_mtime)
        if self._latest_mtime_s is not None:
            entry.mtime = min(entry.mtime, self._latest_mtime_s)
        return entry


_TAR_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


# What a name answers that is not there any more, or is something else by now.
_REPLACED = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO))


def _unless_replaced(read: Callable[[], _Result]) -> _Result | None:
    """None where a running container has changed meanwhile what is being read."""
    try:
        return read()
    except OSError as error:
        if error.errno not in _REPLACED:
            raise
        return None


def _write_entry(out: Writable, info: tarfile.TarInfo) -> None:
    out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))


def _write_file(out: Writable, node: Node, info: tarfile.TarInfo) -> None:
    """A file that changes while it is read still gets exactly the size its header promised."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file_fd = _unless_replaced(lambda: os.open(node.name, flags, dir_fd=node.parent_fd))
    if file_fd is None:
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
    names = sorted(name for name in os.listxattr(file_fd) if may_carry(name))
    return {f"SCHILY.xattr.{name}": os.getxattr(file_fd, name).decode("utf-8", "surrogateescape") for name in names}
