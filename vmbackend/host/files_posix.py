"""Files of a share on Linux and macOS: always told by an open directory and a name, and links are never followed.

So whatever a container does to names meanwhile, nothing outside the share is reached.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import sys
from pathlib import Path

assert sys.platform != "win32"

# An open directory.
Directory = int

NEEDS_DRIVE_LETTERS = False
# What a file without a note is shown as owned by: only Linux has numbers of users that mean something in the guest.
SHOWN_OWNER = None if sys.platform == "linux" else (1000, 1000)

_NOTE = "user.wherry.owner"
_XATTR_NOFOLLOW = 1  # macOS, sys/xattr.h
_F_GETPATH = 50  # macOS, fcntl.h
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "darwin" else None


def open_root(path: Path) -> Directory:
    """Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def open_directory(directory: Directory, name: str) -> Directory:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)


def close_directory(directory: Directory) -> None:
    os.close(directory)


def directory_stat(directory: Directory) -> os.stat_result:
    return os.fstat(directory)


def at(directory: Directory, name: str) -> tuple[str, int | None]:
    """The path and the `dir_fd` by which functions of `os` reach a name."""
    return name, directory


def native_name(name: bytes) -> str:
    return os.fsdecode(name)


def wire_name(name: str) -> bytes:
    return os.fsencode(name)


def shown_mode(stat: os.stat_result) -> int:
    return stat.st_mode


def change_mode(directory: Directory, name: str, mode: int) -> None:
    """chmod(2) that does not follow a link put there meanwhile. Raises OSError."""
    if sys.platform == "linux":
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", mode)
        finally:
            os.close(descriptor)
    else:
        os.chmod(name, mode, dir_fd=directory, follow_symlinks=False)


def make_special(directory: Directory, name: str, mode: int) -> None:
    """A pipe or a socket. Raises OSError."""
    os.mknod(name, mode, dir_fd=directory)


def read_note(directory: Directory, name: str) -> bytes | None:
    """The note kept with a file. Raises OSError when the file cannot have one."""
    path = _path(directory, name)
    if sys.platform == "linux":
        try:
            return os.getxattr(path, _NOTE, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise
    assert _libc is not None
    buffer = ctypes.create_string_buffer(64)
    size = _libc.getxattr(os.fsencode(path), _NOTE.encode(), buffer, 64, 0, _XATTR_NOFOLLOW)
    if size >= 0:
        return buffer.raw[:size]
    if ctypes.get_errno() == errno.ENODATA or ctypes.get_errno() == 93:  # ENOATTR
        return None
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write_note(directory: Directory, name: str, note: bytes | None) -> None:
    """Keep a note with a file, or none. Raises OSError when the file cannot have one."""
    path = _path(directory, name)
    if sys.platform == "linux":
        if note is not None:
            os.setxattr(path, _NOTE, note, follow_symlinks=False)
            return
        with contextlib.suppress(OSError):
            os.removexattr(path, _NOTE, follow_symlinks=False)
        return
    assert _libc is not None
    if note is None:
        _libc.removexattr(os.fsencode(path), _NOTE.encode(), _XATTR_NOFOLLOW)
    elif _libc.setxattr(os.fsencode(path), _NOTE.encode(), note, len(note), 0, _XATTR_NOFOLLOW):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def room(directory: Directory) -> tuple[int, int, int, int, int, int]:
    """Blocks, free ones, those for users, files, free ones, and a block's size in bytes."""
    facts = os.fstatvfs(directory)
    return facts.f_blocks, facts.f_bfree, facts.f_bavail, facts.f_files, facts.f_ffree, facts.f_frsize


def allow_many_open_files() -> None:
    """Every file a container has open is open here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10240 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _path(directory: Directory, name: str) -> str:
    if sys.platform == "linux":
        return f"/proc/self/fd/{directory}/{name}"
    folder = fcntl.fcntl(directory, _F_GETPATH, bytes(1024)).rstrip(b"\0")
    return f"{os.fsdecode(folder)}/{name}"
