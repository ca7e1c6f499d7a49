"""openat2(2): resolving a path so that it cannot leave a directory (linux/openat2.h)."""

import ctypes
import os

from runtime.linux import syscalls
from runtime.linux.libc import path_bytes, syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2); O_CLOEXEC is always added."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return syscall(syscalls.OPENAT2, dir_fd, path_bytes(path), ctypes.byref(how), ctypes.sizeof(how), filename=path)
