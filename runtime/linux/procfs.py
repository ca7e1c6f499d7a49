"""Writing to /proc, and to nothing that only looks like it (CVE-2025-52881).

What is written there decides what a process may do: a file mounted over /proc/self/attr/exec or a sysctl would turn the
write into a harmless one, or into one to another file of /proc. So the path is walked inside the procfs itself.
"""

import ctypes
import errno
import os

from runtime.linux.libc import os_error
from runtime.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, openat2

_PROC_SUPER_MAGIC = 0x9FA0  # linux/magic.h
_libc = ctypes.CDLL(None, use_errno=True)


def write_proc(path: str, text: str) -> None:
    """Write `text` to /proc/`path` in one write(2); EXDEV if something is mounted there, ENODEV without a procfs."""
    root = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _magic(root) != _PROC_SUPER_MAGIC:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), "/proc")
        resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
        try:
            fd = openat2(root, path, os.O_WRONLY, resolve=resolve)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"/proc/{path}") from None
    finally:
        os.close(root)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"/proc/{path}") from None
    finally:
        os.close(fd)


def _magic(fd: int) -> int:
    """statfs(2): its first field is the filesystem's type, a long."""
    buffer = (ctypes.c_long * 32)()
    if _libc.fstatfs(fd, buffer) < 0:
        raise os_error()
    return buffer[0]
