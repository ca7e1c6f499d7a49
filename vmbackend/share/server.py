"""Serve one share: a FUSE request in, the answer out. Does what it is asked with the rights of this computer's user.

Permissions are checked by the guest's kernel, from what it is told here (`default_permissions`).
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from vmbackend.host import files
from vmbackend.share import wire
from vmbackend.share.errnos import EINVAL, EIO, ENOENT, ENOSYS, EROFS, Refused, linux_errno
from vmbackend.share.nodes import Node
from vmbackend.share.owners import Owner, mode_on_disk
from vmbackend.share.tree import Place, Tree, checked, identity_of, stat_at
from vmbackend.share.wire import Attributes, Request

# How long the guest may believe what it was told, in seconds.
_VALID_S = 1

# open(2)'s flags as the guest's Linux has them, on every processor.
_ACCESS = 0o3
_CREATE, _EXCLUSIVE, _TRUNCATE, _APPEND = 0o100, 0o200, 0o1000, 0o2000
_O_BINARY = getattr(os, "O_BINARY", 0)
_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_O_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_SPECIAL = (stat.S_IFIFO, stat.S_IFSOCK)

_CHANGING = frozenset(
    (
        wire.SETATTR, wire.SYMLINK, wire.MKNOD, wire.MKDIR, wire.UNLINK, wire.RMDIR, wire.RENAME, wire.RENAME2,
        wire.LINK, wire.WRITE, wire.CREATE, wire.FALLOCATE,
    )
)  # fmt: skip

_log = logging.getLogger(__name__)

Changed = Callable[[int, bytes], None]


class ShareServer:
    """For one thread. `changed` is told (parent, name) of what the guest itself changes."""

    def __init__(self, tree: Tree, read_only: bool, changed: Changed = lambda parent, name: None) -> None:
        self.tree = tree
        self._read_only = read_only
        self._changed = changed
        self._open: dict[int, int] = {}
        self._listings: dict[int, list[tuple[bytes, int, int]]] = {}
        self._handles = 0
        self._handlers: dict[int, Callable[[Request], bytes]] = {
            wire.INIT: lambda request: wire.answer_init(request.body),
            wire.DESTROY: lambda request: b"",
            wire.LOOKUP: self._lookup,
            wire.GETATTR: self._getattr,
            wire.SETATTR: self._setattr,
            wire.READLINK: self._readlink,
            wire.SYMLINK: self._symlink,
            wire.MKNOD: self._mknod,
            wire.MKDIR: self._mkdir,
            wire.UNLINK: self._unlink,
            wire.RMDIR: self._rmdir,
            wire.RENAME: self._rename,
            wire.RENAME2: self._rename,
            wire.LINK: self._link,
            wire.OPEN: self._open_file,
            wire.CREATE: self._create,
            wire.READ: self._read,
            wire.WRITE: self._write,
            wire.RELEASE: self._release,
            wire.FLUSH: lambda request: b"",
            wire.FSYNC: self._fsync,
            wire.FSYNCDIR: lambda request: b"",
            wire.OPENDIR: self._opendir,
            wire.READDIR: self._readdir,
            wire.READDIRPLUS: self._readdir,
            wire.RELEASEDIR: self._releasedir,
            wire.STATFS: self._statfs,
            wire.FALLOCATE: self._fallocate,
            wire.LSEEK: self._lseek,
        }

    def answer(self, request: Request) -> bytes | None:
        """The whole answer, or None for what has none."""
        if request.opcode in wire.SILENT:
            self._forget(request)
            return None
        handler = self._handlers.get(request.opcode)
        if handler is None:
            return wire.refusal(request.unique, ENOSYS)
        try:
            if self._read_only and request.opcode in _CHANGING:
                raise Refused(EROFS)
            return wire.reply(request.unique, handler(request))
        except Refused as refused:
            return wire.refusal(request.unique, refused.errno)
        except OSError as error:
            return wire.refusal(request.unique, linux_errno(error))
        except Exception:  # noqa: BLE001 - one bad request must not end the share for everybody
            _log.exception("request %d of the guest failed", request.opcode)
            return wire.refusal(request.unique, EIO)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        self.tree.close()

    # --- names

    def _lookup(self, request: Request) -> bytes:
        name = wire.name_of(request.body)
        try:
            node, attributes = self.tree.find(request.node, name)
        except (FileNotFoundError, NotADirectoryError):
            self.tree.nodes.lose(request.node, name)
            # No node, and known for as long as an answer is: programs look for many files that are not there.
            return wire.pack_entry(0, _NOTHING, _VALID_S)
        return self.entry(node, attributes)

    def entry(self, node: Node, attributes: Attributes, valid_s: int = _VALID_S) -> bytes:
        """The answer that gives the guest a reference to the node."""
        node.lookups += 1
        return wire.pack_entry(node.number, attributes, valid_s)

    def _forget(self, request: Request) -> None:
        if request.opcode == wire.FORGET:
            gone = [(request.node, int.from_bytes(request.body[:8], "little"))]
        elif request.opcode == wire.BATCH_FORGET:
            gone = wire.forgotten(request.body)
        else:
            return
        for number, lookups in gone:
            if self.tree.nodes.forget(number, lookups) is not None:
                self.tree.close_directory(number)

    def _made(self, request: Request, name: bytes, mode: int) -> bytes:
        """The entry of what was just made, given to who asked for it."""
        directory, native = self.tree.directory(request.node), files.native_name(name)
        place = Place(directory, native, stat_at(directory, native))
        self._give_new(request, place, mode)
        place = place._replace(facts=stat_at(directory, native))
        self._changed(request.node, name)
        return self.entry(*self.tree.meet(request.node, name, place))

    def _give_new(self, request: Request, place: Place, mode: int) -> None:
        parent = self.tree.node_attributes(self.tree.node(request.node))
        gid, mode = request.gid, stat.S_IMODE(mode)
        if parent.mode & stat.S_ISGID:
            gid = parent.gid
            if stat.S_ISDIR(place.facts.st_mode):
                mode |= stat.S_ISGID
        owner = Owner(request.uid, gid, mode)
        if owner != Owner.of(place.facts):
            self.tree.owners.give(place.directory, place.name, place.facts, identity_of(place.facts), owner)

    def _new_name(self, request: Request, name: bytes) -> tuple[str, int | None]:
        return files.at(self.tree.directory(request.node), files.native_name(checked(name)))

    def _mknod(self, request: Request) -> bytes:
        mode, *_ = wire.MKNOD_IN.unpack_from(request.body)
        name = wire.name_of(request.body, wire.MKNOD_IN.size)
        path, dir_fd = self._new_name(request, name)
        if stat.S_IFMT(mode) == stat.S_IFREG:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | _O_BINARY
            os.close(os.open(path, flags, mode_on_disk(mode, False), dir_fd=dir_fd))
        elif stat.S_IFMT(mode) in _SPECIAL:
            directory = self.tree.directory(request.node)
            files.make_special(directory, files.native_name(name), stat.S_IFMT(mode) | mode_on_disk(mode, False))
        else:
            raise PermissionError(1, "devices are not made on this computer")
        return self._made(request, name, mode)

    def _mkdir(self, request: Request) -> bytes:
        mode, _ = wire.MKDIR_IN.unpack_from(request.body)
        name = wire.name_of(request.body, wire.MKDIR_IN.size)
        path, dir_fd = self._new_name(request, name)
        os.mkdir(path, mode_on_disk(mode, True), dir_fd=dir_fd)
        return self._made(request, name, mode)

    def _symlink(self, request: Request) -> bytes:
        name, target = wire.names_of(request.body)
        path, dir_fd = self._new_name(request, name)
        os.symlink(os.fsdecode(target), path, dir_fd=dir_fd)
        return self._made(request, name, 0o777)

    def _link(self, request: Request) -> bytes:
        (number,) = wire.LINK_IN.unpack_from(request.body)
        name = wire.name_of(request.body, wire.LINK_IN.size)
        source = self.tree.place(self.tree.node(number))
        path, dir_fd = self._new_name(request, name)
        source_path, source_fd = files.at(source.directory, source.name)
        os.link(source_path, path, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        self._changed(request.node, name)
        return self.entry(*self.tree.find(request.node, name))

    def _unlink(self, request: Request) -> bytes:
        return self._remove(request, os.unlink)

    def _rmdir(self, request: Request) -> bytes:
        return self._remove(request, os.rmdir)

    def _remove(self, request: Request, remove: Callable[..., None]) -> bytes:
        name = wire.name_of(request.body)
        path, dir_fd = self._new_name(request, name)
        remove(path, dir_fd=dir_fd)
        self.tree.nodes.lose(request.node, name)
        self._changed(request.node, name)
        return b""

    def _rename(self, request: Request) -> bytes:
        new_parent, flags, name, new_name = renaming(request)
        path, dir_fd = self._new_name(request, name)
        new_directory, native = self.tree.directory(new_parent), files.native_name(checked(new_name))
        new_path, new_dir_fd = files.at(new_directory, native)
        if flags & ~wire.RENAME_NOREPLACE:
            raise Refused(EINVAL)
        if flags & wire.RENAME_NOREPLACE and _exists(new_directory, native):
            raise FileExistsError(17, "exists")
        os.replace(path, new_path, src_dir_fd=dir_fd, dst_dir_fd=new_dir_fd)
        self.tree.nodes.move(request.node, name, new_parent, new_name)
        self._changed(request.node, name)
        self._changed(new_parent, new_name)
        return b""

    def _readlink(self, request: Request) -> bytes:
        place = self.tree.place(self.tree.node(request.node))
        path, dir_fd = files.at(place.directory, place.name)
        return os.fsencode(os.readlink(path, dir_fd=dir_fd))

    # --- attributes

    def _getattr(self, request: Request) -> bytes:
        return wire.pack_attr_out(self.tree.node_attributes(self.tree.node(request.node)), _VALID_S)

    def _setattr(self, request: Request) -> bytes:
        valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = (
            wire.SETATTR_IN.unpack_from(request.body)
        )
        node = self.tree.node(request.node)
        if valid & wire.FATTR_SIZE:
            self._resize(node, handle if valid & wire.FATTR_FH else None, size)
        if valid & (wire.FATTR_MODE | wire.FATTR_UID | wire.FATTR_GID):
            place = self.tree.place(node)
            owner = self.tree.owner(place)
            owner = replace(
                owner,
                uid=uid if valid & wire.FATTR_UID else owner.uid,
                gid=gid if valid & wire.FATTR_GID else owner.gid,
                mode=stat.S_IMODE(mode) if valid & wire.FATTR_MODE else owner.mode,
            )
            self.tree.owners.give(place.directory, place.name, place.facts, identity_of(place.facts), owner)
        if valid & (wire.FATTR_ATIME | wire.FATTR_MTIME):
            place = self.tree.place(node)
            times = (
                _time(valid, wire.FATTR_ATIME, wire.FATTR_ATIME_NOW, atime, atime_ns, place.facts.st_atime_ns),
                _time(valid, wire.FATTR_MTIME, wire.FATTR_MTIME_NOW, mtime, mtime_ns, place.facts.st_mtime_ns),
            )
            path, dir_fd = files.at(place.directory, place.name)
            os.utime(path, ns=times, dir_fd=dir_fd, follow_symlinks=os.utime not in os.supports_follow_symlinks)
        self._note_change(node)
        return wire.pack_attr_out(self.tree.node_attributes(node), _VALID_S)

    def _resize(self, node: Node, handle: int | None, size: int) -> None:
        if handle is not None and handle in self._open:
            os.ftruncate(self._open[handle], size)
            return
        descriptor = self._open_node(node, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def _statfs(self, request: Request) -> bytes:
        return wire.pack_statfs(*files.room(self.tree.directory(wire.ROOT_ID)))

    # --- open files

    def _open_node(self, node: Node, flags: int) -> int:
        place = self.tree.place(node)
        if not stat.S_ISREG(place.facts.st_mode):
            raise Refused(EINVAL)
        path, dir_fd = files.at(place.directory, place.name)
        flags |= _O_BINARY | _O_NOFOLLOW | _O_NONBLOCK
        try:
            descriptor = os.open(path, flags, dir_fd=dir_fd)
        except PermissionError:
            # The guest's kernel allowed it: to its root, say. So may whoever owns the file here, by letting themselves.
            mode = stat.S_IMODE(place.facts.st_mode)
            files.change_mode(place.directory, place.name, mode | 0o600)
            try:
                descriptor = os.open(path, flags, dir_fd=dir_fd)
            finally:
                files.change_mode(place.directory, place.name, mode)
        if identity_of(os.fstat(descriptor)) != node.identity:
            os.close(descriptor)
            raise Refused(ENOENT)
        return descriptor

    def _open_file(self, request: Request) -> bytes:
        flags, _ = wire.OPEN_IN.unpack_from(request.body)
        if self._read_only and (flags & _ACCESS or flags & _TRUNCATE):
            raise Refused(EROFS)
        node = self.tree.node(request.node)
        ours = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)[flags & _ACCESS]
        ours |= os.O_TRUNC if flags & _TRUNCATE else 0
        ours |= os.O_APPEND if flags & _APPEND else 0
        descriptor = self._open_node(node, ours)
        if flags & _TRUNCATE:
            self._note_change(node)
        facts = os.fstat(descriptor)
        content = (facts.st_mtime_ns, facts.st_size)
        kept = wire.FOPEN_KEEP_CACHE if node.seen == content else 0
        kept |= 0 if flags & _ACCESS else wire.FOPEN_NOFLUSH
        node.seen = content
        return wire.OPEN_OUT.pack(self._hold(node, descriptor, flags), kept, 0)

    def _create(self, request: Request) -> bytes:
        flags, mode, _, _ = wire.CREATE_IN.unpack_from(request.body)
        name = wire.name_of(request.body, wire.CREATE_IN.size)
        path, dir_fd = self._new_name(request, name)
        existed = _exists(self.tree.directory(request.node), files.native_name(name))
        ours = os.O_CREAT | (os.O_WRONLY, os.O_WRONLY, os.O_RDWR)[flags & _ACCESS] | _O_BINARY | _O_NOFOLLOW
        ours |= os.O_EXCL if flags & _EXCLUSIVE else 0
        ours |= os.O_TRUNC if flags & _TRUNCATE else 0
        ours |= os.O_APPEND if flags & _APPEND else 0
        descriptor = os.open(path, ours | _O_NONBLOCK, mode_on_disk(mode, False), dir_fd=dir_fd)
        try:
            entry = self.entry(*self.tree.find(request.node, name)) if existed else self._made(request, name, mode)
            node = self.tree.nodes.named(request.node, name)
            assert node is not None
            return entry + wire.OPEN_OUT.pack(self._hold(node, descriptor, flags), 0, 0)
        except BaseException:
            os.close(descriptor)
            raise

    def _hold(self, node: Node, descriptor: int, flags: int) -> int:
        """A handle says how it was opened: one of an earlier hostagent's can be opened again."""
        self._handles += 1
        handle = self._handles << 2 | flags & _ACCESS
        while handle in self._open:
            handle += 4
        self._open[handle] = descriptor
        node.descriptors.append(descriptor)
        return handle

    def _descriptor(self, handle: int, number: int) -> int:
        descriptor = self._open.get(handle)
        if descriptor is None:
            node = self.tree.node(number)
            descriptor = self._open_node(node, (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)[handle & _ACCESS])
            self._open[handle] = descriptor
            self._handles = max(self._handles, handle >> 2)
            node.descriptors.append(descriptor)
        return descriptor

    def _read(self, request: Request) -> bytes:
        handle, offset, size, *_ = wire.READ_IN.unpack_from(request.body)
        descriptor = self._descriptor(handle, request.node)
        return _read_at(descriptor, size, offset)

    def _write(self, request: Request) -> bytes:
        handle, offset, size, *_ = wire.WRITE_IN.unpack_from(request.body)
        descriptor = self._descriptor(handle, request.node)
        data = request.body[wire.WRITE_IN.size : wire.WRITE_IN.size + size]
        written = 0
        while written < size:
            written += _write_at(descriptor, data[written:], offset + written)
        self._note_change(self.tree.node(request.node))
        return wire.WRITE_OUT.pack(written, 0)

    def _release(self, request: Request) -> bytes:
        handle, *_ = wire.RELEASE_IN.unpack_from(request.body)
        descriptor = self._open.pop(handle, None)
        if descriptor is not None:
            node = self.tree.nodes.get(request.node)
            if node is not None and descriptor in node.descriptors:
                node.descriptors.remove(descriptor)
                facts = os.fstat(descriptor)
                node.seen = (facts.st_mtime_ns, facts.st_size)
                if handle & _ACCESS:
                    self._note_change(node)
            os.close(descriptor)
        return b""

    def _fsync(self, request: Request) -> bytes:
        handle, *_ = wire.FSYNC_IN.unpack_from(request.body)
        os.fsync(self._descriptor(handle, request.node))
        return b""

    def _fallocate(self, request: Request) -> bytes:
        handle, offset, length, mode, _ = wire.FALLOCATE_IN.unpack_from(request.body)
        if mode or not hasattr(os, "posix_fallocate"):
            raise OSError(95, "not supported")
        os.posix_fallocate(self._descriptor(handle, request.node), offset, length)
        return b""

    def _lseek(self, request: Request) -> bytes:
        handle, offset, whence, _ = wire.LSEEK_IN.unpack_from(request.body)
        return wire.LSEEK_OUT.pack(os.lseek(self._descriptor(handle, request.node), offset, whence))

    # --- directories

    def _opendir(self, request: Request) -> bytes:
        self._handles += 1
        handle = self._handles << 2
        self._listings[handle] = self._list(request.node)
        return wire.OPEN_OUT.pack(handle, 0, 0)

    def _list(self, number: int) -> list[tuple[bytes, int, int]]:
        """Name, inode number and type of what is in a directory now."""
        directory = self.tree.directory(number)
        listing: list[tuple[bytes, int, int]] = [(b".", 1, stat.S_IFDIR), (b"..", 1, stat.S_IFDIR)]
        with os.scandir(directory) as entries:
            listing += ((files.wire_name(entry.name), entry.inode(), _kind(entry)) for entry in entries)
        return listing

    def _readdir(self, request: Request) -> bytes:
        handle, offset, size, *_ = wire.READ_IN.unpack_from(request.body)
        listing = self._listings.get(handle)
        if listing is None or offset == 0:
            listing = self._listings[handle] = self._list(request.node)
        plus = request.opcode == wire.READDIRPLUS
        parts: list[bytes] = []
        used = 0
        for index in range(offset, len(listing)):
            name, ino, kind = listing[index]
            entry_size = 24 + (len(name) + 7 & ~7) + (128 if plus else 0)
            if used + entry_size > size:
                break
            used += entry_size
            if plus:
                parts.append(self._entry_plus(request.node, name))
            parts.append(wire.pack_dirent(name, ino, index + 1, kind >> 12))
        return b"".join(parts)

    def _entry_plus(self, parent: int, name: bytes) -> bytes:
        if name not in (b".", b".."):
            try:
                return self.entry(*self.tree.find(parent, name))
            except (OSError, Refused):
                pass  # gone meanwhile: without a node the guest looks for itself
        return wire.pack_entry(0, _NOTHING, 0)

    def _releasedir(self, request: Request) -> bytes:
        handle, *_ = wire.RELEASE_IN.unpack_from(request.body)
        self._listings.pop(handle, None)
        return b""

    def _note_change(self, node: Node) -> None:
        for parent, name in node.names:
            self._changed(parent, name)


_NOTHING = Attributes(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def renaming(request: Request) -> tuple[int, int, bytes, bytes]:
    """The new parent, flags, old name and new name of RENAME and RENAME2."""
    if request.opcode == wire.RENAME:
        (new_parent,), flags, start = wire.RENAME_IN.unpack_from(request.body), 0, wire.RENAME_IN.size
    else:
        new_parent, flags, _ = wire.RENAME2_IN.unpack_from(request.body)
        start = wire.RENAME2_IN.size
    return new_parent, flags, *wire.names_of(request.body, start)


def _time(valid: int, given: int, now: int, seconds: int, nanoseconds: int, before_ns: int) -> int:
    if not valid & given:
        return before_ns
    if valid & now:
        return time.time_ns()
    # Before 1970 the number is negative.
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * 1_000_000_000 + nanoseconds


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0


def _exists(directory: files.Directory, name: str) -> bool:
    try:
        stat_at(directory, name)
    except FileNotFoundError:
        return False
    return True


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    if sys.platform != "win32":
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


def _write_at(descriptor: int, data: memoryview, offset: int) -> int:
    if sys.platform != "win32":
        return os.pwrite(descriptor, data, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.write(descriptor, data)
