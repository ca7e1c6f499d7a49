"""Whole small files with nothing in between: for /proc, cgroups and the hot path, where buffering only costs."""

import os

from runtime.linux import syscalls
from runtime.linux.libc import syscall

_CHUNK_BYTES = 1 << 16


def read_file(path: str) -> bytes:
    """The content of `path`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, _CHUNK_BYTES):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def write_file(path: str, text: str) -> None:
    """Write `text` to the existing file `path` in one write(2), as /proc and cgroup files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def sync_filesystem(path: str) -> None:
    """syncfs(2): everything written to the file system of the directory `path` survives a power cut from here on."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscall(syscalls.SYNCFS, fd, filename=path)
    finally:
        os.close(fd)
