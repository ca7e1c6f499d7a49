"""FUSE's messages as bytes (linux/include/uapi/linux/fuse.h). Little-endian, as both guests are."""

import struct
from dataclasses import dataclass
from typing import NamedTuple

ROOT_ID = 1
MAX_WRITE_BYTES = 1 << 20
MAX_MESSAGE_BYTES = MAX_WRITE_BYTES + 8192

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT, OPENDIR, READDIR = 20, 21, 22, 23, 24, 25, 26, 27, 28
RELEASEDIR, FSYNCDIR, ACCESS, CREATE, INTERRUPT, DESTROY, BATCH_FORGET = 29, 30, 34, 35, 36, 38, 42
FALLOCATE, READDIRPLUS, RENAME2, LSEEK = 43, 44, 45, 46

# What is never answered.
SILENT = frozenset((FORGET, BATCH_FORGET, INTERRUPT))

# `error` of a message with `unique` 0: something the guest did not ask for.
NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY = 2, 3
# Ours, taken by the agent and never seen by the kernel: do these system calls, so that inotify tells of them.
NOTIFY_PROVOKE = 1000

# What SETATTR sets.
FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME, FATTR_FH = (1 << bit for bit in range(7))
FATTR_ATIME_NOW, FATTR_MTIME_NOW = 1 << 7, 1 << 8

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
# NOFLUSH: closing it is nobody's business.
FOPEN_KEEP_CACHE, FOPEN_NOFLUSH = 1 << 1, 1 << 5

_INIT_FLAGS = (
    1 << 0  # ASYNC_READ: reads ahead, side by side
    | 1 << 3  # ATOMIC_O_TRUNC: O_TRUNC comes with OPEN
    | 1 << 5  # BIG_WRITES
    | 1 << 12  # AUTO_INVAL_DATA: a new size or date drops cached pages
    | 1 << 13  # DO_READDIRPLUS
    | 1 << 14  # READDIRPLUS_AUTO
    | 1 << 15  # ASYNC_DIO
    | 1 << 18  # PARALLEL_DIROPS
    | 1 << 22  # MAX_PAGES
)

_U64 = (1 << 64) - 1

IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QII")
OPEN_OUT = struct.Struct("<QIi")
WRITE_OUT = struct.Struct("<II")
_STATFS_OUT = struct.Struct("<QQQQQIIII24x")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHH32x")
SETATTR_IN = struct.Struct("<IIQQQQQQIIIIIIII")
READ_IN = struct.Struct("<QQIIQII")
WRITE_IN = READ_IN
OPEN_IN = struct.Struct("<II")
CREATE_IN = struct.Struct("<IIII")
MKNOD_IN = struct.Struct("<IIII")
MKDIR_IN = struct.Struct("<II")
RENAME2_IN = struct.Struct("<QII")
RENAME_IN = struct.Struct("<Q")
LINK_IN = struct.Struct("<Q")
RELEASE_IN = struct.Struct("<QIIQ")
FSYNC_IN = struct.Struct("<QII")
FALLOCATE_IN = struct.Struct("<QQQII")
LSEEK_IN = struct.Struct("<QQII")
LSEEK_OUT = struct.Struct("<Q")
FORGET_ONE = struct.Struct("<QQ")
_DIRENT = struct.Struct("<QQII")
_BATCH_FORGET_IN = struct.Struct("<II")
_INVAL_INODE = struct.Struct("<Qqq")
_INVAL_ENTRY = struct.Struct("<QII")


class Request(NamedTuple):
    """What the guest asks; `pid` is the asking thread in the guest, `body` what follows the header."""

    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    body: memoryview


@dataclass(frozen=True, slots=True)
class Attributes:
    """A file as the guest sees it; times in nanoseconds since 1970."""

    ino: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    links: int
    uid: int
    gid: int
    device: int = 0


def parse(message: memoryview) -> Request:
    _, opcode, unique, node, uid, gid, pid, _, _ = IN_HEADER.unpack_from(message)
    return Request(opcode, unique, node, uid, gid, pid, message[IN_HEADER.size :])


def reply(unique: int, body: bytes = b"") -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, unique) + body


def refusal(unique: int, errno_: int) -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size, -errno_, unique)


def pack_attributes(file: Attributes) -> bytes:
    return _ATTR.pack(
        file.ino,
        file.size,
        file.blocks,
        # Before 1970 these are negative.
        file.atime_ns // 1_000_000_000 & _U64,
        file.mtime_ns // 1_000_000_000 & _U64,
        file.ctime_ns // 1_000_000_000 & _U64,
        file.atime_ns % 1_000_000_000,
        file.mtime_ns % 1_000_000_000,
        file.ctime_ns % 1_000_000_000,
        file.mode,
        file.links,
        file.uid,
        file.gid,
        file.device,
        4096,
        0,
    )


def pack_attr_out(file: Attributes, valid_s: int) -> bytes:
    return _ATTR_OUT.pack(valid_s, 0, 0) + pack_attributes(file)


def pack_entry(node: int, file: Attributes, valid_s: int) -> bytes:
    return _ENTRY.pack(node, 0, valid_s, valid_s, 0, 0) + pack_attributes(file)


def pack_dirent(name: bytes, ino: int, offset: int, kind: int) -> bytes:
    """`offset` is where the next one is read from; `kind` the file type's four bits of a mode."""
    return _DIRENT.pack(ino, offset, len(name), kind) + name + bytes(-len(name) % 8)


def pack_statfs(blocks: int, free: int, available: int, files: int, files_free: int, block_bytes: int) -> bytes:
    return _STATFS_OUT.pack(blocks, free, available, files, files_free, block_bytes, 255, block_bytes, 0)


def answer_init(body: memoryview) -> bytes:
    """Our side of the version and feature agreement."""
    major, _, _, offered = _INIT_IN.unpack_from(body)
    if major != 7:
        raise ValueError(f"the guest's kernel speaks FUSE {major}, and only 7 is known")
    pages = MAX_WRITE_BYTES // 4096
    # Not the 128 KiB read ahead that are offered: the agent asks the kernel for more, and this would take it back.
    return _INIT_OUT.pack(7, 35, MAX_WRITE_BYTES, _INIT_FLAGS & offered, 64, 48, MAX_WRITE_BYTES, 1, pages, 0)


def name_of(body: memoryview, offset: int = 0) -> bytes:
    """The zero-terminated name at `offset`."""
    return bytes(body[offset:]).split(b"\0", 1)[0]


def names_of(body: memoryview, offset: int = 0) -> tuple[bytes, bytes]:
    first, second, *_ = bytes(body[offset:]).split(b"\0", 2)
    return first, second


def forgotten(body: memoryview) -> list[tuple[int, int]]:
    """(node, lookups) of BATCH_FORGET."""
    count, _ = _BATCH_FORGET_IN.unpack_from(body)
    start = _BATCH_FORGET_IN.size
    return [FORGET_ONE.unpack_from(body, start + index * FORGET_ONE.size) for index in range(count)]


def inode_changed(node: int) -> bytes:
    """The guest drops what it has cached of a file."""
    return _notification(NOTIFY_INVAL_INODE, _INVAL_INODE.pack(node, 0, 0))


def entry_changed(parent: int, name: bytes) -> bytes:
    """The guest drops what it knows of a name."""
    return _notification(NOTIFY_INVAL_ENTRY, _INVAL_ENTRY.pack(parent, len(name), 0) + name + b"\0")


def provocation(body: bytes) -> bytes:
    return _notification(NOTIFY_PROVOKE, body)


def _notification(code: int, body: bytes) -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), code, 0) + body
