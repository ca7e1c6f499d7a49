"""Write a cpio archive in the ``newc`` format, which the kernel unpacks as initramfs.

Format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree: 13 fields of 8 hex digits
after the magic ``070701``, the name with a closing NUL, padding to 4 bytes, the data, padding to 4 bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class CpioEntry:
    """One file, folder, symbolic link or device. ``mode`` has the file type bits; owner is root, time stamp zero."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""


def folder(name: str) -> CpioEntry:
    """A folder, 0755."""
    return CpioEntry(name, stat.S_IFDIR | 0o755)


def file(name: str, data: bytes, permissions: int = 0o755) -> CpioEntry:
    """A regular file."""
    return CpioEntry(name, stat.S_IFREG | permissions, data)


def symlink(name: str, target: str) -> CpioEntry:
    """A symbolic link."""
    return CpioEntry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int, permissions: int = 0o600) -> CpioEntry:
    """A character device node."""
    return CpioEntry(name, stat.S_IFCHR | permissions, device=(major, minor))


def write(entries: Iterable[CpioEntry]) -> bytes:
    """The archive with the entries in the given order, and the trailer."""
    archive = bytearray()
    for inode, entry in enumerate(entries, start=1):
        _append(archive, inode, entry)
    _append(archive, 0, CpioEntry(TRAILER, 0))
    return bytes(archive)


def _append(archive: bytearray, inode: int, entry: CpioEntry) -> None:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, major, minor, len(name), 0)
    archive += b"070701" + b"".join(b"%08X" % value for value in fields)
    archive += name
    _pad(archive)
    archive += entry.data
    _pad(archive)


def _pad(archive: bytearray) -> None:
    archive += bytes(-len(archive) % 4)
