"""Calling the C library: errno as OSError, and syscall(2) for what the library does not wrap."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
# Six untyped register-sized arguments: void * takes None, int, bytes, arrays and byref() alike.
_syscall.argtypes = (ctypes.c_long, *(ctypes.c_void_p,) * 6)
_syscall.restype = ctypes.c_long

Argument = int | bytes | None | object
"""What a system call argument may be: a number, NUL-terminated bytes, NULL, or a ctypes reference."""

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000


def os_error(filename: str | bytes | None = None) -> OSError:
    """The OSError for the C library's current errno; the subclass follows the errno (FileNotFoundError…)."""
    code = ctypes.get_errno()
    if filename is None:
        return OSError(code, os.strerror(code))
    return OSError(code, os.strerror(code), os.fsdecode(filename))


def syscall(number: int, *arguments: Argument, filename: str | bytes | None = None) -> int:
    """syscall(2): return the kernel's answer, or raise OSError with its errno and `filename`."""
    padded = arguments + (None,) * (6 - len(arguments))
    result: int = _syscall(number, *padded)
    if result < 0:
        raise os_error(filename)
    return result


def path_bytes(path: str | bytes | os.PathLike[str]) -> bytes:
    """`path` as the kernel takes it."""
    return os.fsencode(path)
