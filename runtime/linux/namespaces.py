"""Namespaces: unshare(2) and setns(2), and the names /proc/<pid>/ns and the OCI specification give them."""

import ctypes
import os

from runtime.linux.libc import os_error

CLONE_FS = 0x00000200
CLONE_FILES = 0x00000400
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """unshare(2): give the calling thread namespaces, or with CLONE_FS and CLONE_FILES the like, of its own."""
    if _libc.unshare(ctypes.c_int(flags)) < 0:
        raise os_error()


def setns(fd: int, flags: int, filename: str | None = None) -> None:
    """setns(2): enter the namespace open at `fd`, or, `fd` being a pidfd, those of that process in `flags`."""
    if _libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)) < 0:
        raise os_error(filename)


def enter_path(path: str | os.PathLike[str], flags: int) -> None:
    """Enter the namespace at `path` (/proc/<pid>/ns/<name> or a bind mount of one)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, flags, os.fspath(path))
    finally:
        os.close(fd)
