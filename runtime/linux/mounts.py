"""Mounting: the descriptor-based calls (fsopen(2) and family) and the path-based ones they did not replace.

The descriptor-based calls are the rule here: a mount is made detached, configured, and attached to a target that is
an open descriptor, so no path is ever resolved twice. Constants: linux/mount.h, linux/fcntl.h.
"""

import ctypes
import errno
import os

from runtime.linux import syscalls
from runtime.linux.libc import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, os_error, path_bytes, syscall

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR__ATIME = 0x00000070
MOUNT_ATTR_RELATIME = 0x00000000
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 0x1000
MS_REC = 0x4000
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)


class _MountAttr(ctypes.Structure):
    """struct mount_attr of linux/mount.h (32 bytes)."""

    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def fsopen(fstype: str) -> int:
    """fsopen(2): a new filesystem context; ENODEV if the kernel has no such filesystem."""
    return syscall(syscalls.FSOPEN, fstype.encode(), FSOPEN_CLOEXEC, filename=fstype)


def fsconfig_string(fs_fd: int, key: str, value: str | bytes) -> None:
    """Set `key=value` on a filesystem context; the kernel takes at most 255 bytes of value."""
    _fsconfig(fs_fd, FSCONFIG_SET_STRING, key.encode(), path_bytes(value))


def fsconfig_flag(fs_fd: int, key: str) -> None:
    """Set the option `key`, which takes no value."""
    _fsconfig(fs_fd, FSCONFIG_SET_FLAG, key.encode(), None)


def fsconfig_create(fs_fd: int) -> None:
    """Create the superblock the context describes."""
    _fsconfig(fs_fd, FSCONFIG_CMD_CREATE, None, None)


def _fsconfig(fs_fd: int, command: int, key: bytes | None, value: bytes | None) -> None:
    try:
        syscall(syscalls.FSCONFIG, fs_fd, command, key, value, 0)
    except OSError as error:
        # The kernel's own words ("overlay: Unknown parameter …") are the best message there is.
        said = read_log(fs_fd)
        if not said:
            raise
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)} ({said})") from None


def read_log(fs_fd: int) -> str:
    """What the kernel wrote about a filesystem context, as one line without its level letters."""
    lines = []
    while True:
        try:
            lines.append(os.read(fs_fd, 4096).decode(errors="replace").strip()[2:])
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EINVAL, errno.EBADF):
                return "; ".join(lines)
            raise


def fsmount(fs_fd: int, attributes: int = 0) -> int:
    """fsmount(2): a detached mount of the created superblock, with MOUNT_ATTR_* `attributes`."""
    return syscall(syscalls.FSMOUNT, fs_fd, FSMOUNT_CLOEXEC, attributes)


def open_tree(path: str | bytes, *, recursive: bool = False, dir_fd: int = AT_FDCWD) -> int:
    """open_tree(2) with OPEN_TREE_CLONE: a detached bind mount of `path`, with the mounts below if `recursive`.

    An empty `path` with `dir_fd` clones what that descriptor refers to.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    if recursive:
        flags |= AT_RECURSIVE
    if not path:
        flags |= AT_EMPTY_PATH
    return syscall(syscalls.OPEN_TREE, dir_fd, path_bytes(path), flags, filename=path or None)


def move_mount(mount_fd: int, target_fd: int, target: str | None = None, *, name: str = "") -> None:
    """move_mount(2): attach the (detached) mount at `mount_fd` onto `target_fd`, or onto `name` in it."""
    syscall(
        syscalls.MOVE_MOUNT,
        mount_fd,
        b"",
        target_fd,
        path_bytes(name),
        MOVE_MOUNT_F_EMPTY_PATH | (0 if name else MOVE_MOUNT_T_EMPTY_PATH),
        filename=target,
    )


def mount_setattr(fd: int, *, set_: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = False) -> None:
    """mount_setattr(2) on the mount whose root `fd` refers to."""
    attributes = _MountAttr(set_, clear, propagation, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(syscalls.MOUNT_SETATTR, fd, b"", flags, ctypes.byref(attributes), ctypes.sizeof(attributes))


def shift_owners(fd: int, user_namespace_fd: int) -> None:
    """Show owners on the detached mount `fd` as the user namespace has them; EINVAL for most network file systems."""
    attributes = _MountAttr(MOUNT_ATTR_IDMAP, 0, 0, user_namespace_fd)
    syscall(syscalls.MOUNT_SETATTR, fd, b"", AT_EMPTY_PATH, ctypes.byref(attributes), ctypes.sizeof(attributes))


def mount(source: str, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2); `data` is at most one page."""
    if (
        _libc.mount(
            path_bytes(source),
            path_bytes(target),
            fstype.encode() if fstype else None,
            flags,
            path_bytes(data) if data else None,
        )
        < 0
    ):
        raise os_error(target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if _libc.umount2(path_bytes(target), ctypes.c_int(flags)) < 0:
        raise os_error(target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); with both ".", the old root ends up mounted over the new one (see its NOTES)."""
    syscall(syscalls.PIVOT_ROOT, path_bytes(new_root), path_bytes(put_old), filename=new_root)
