"""Snapshots of the data disk, kept inside its qcow2 file.

Of a disk QEMU has open they are made and removed by QEMU, else by `qemu-img`; they are gone back to only by the latter.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmbackend.errors import DiskDamaged, SnapshotRefused
from vmbackend.qemu.disks import run_qemu_img

# What qemu-img says of a disk another process has open, and how long one that outlived its caller may take.
_IN_USE = "Failed to get"
_IN_USE_FOR_S = 30.0
_LOOK_EVERY_S = 0.1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class DiskSnapshot:
    """`created_at` is in seconds since 1970."""

    name: str
    created_at: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_name(name: str) -> None:
    """Raises SnapshotRefused."""
    if not _NAME.fullmatch(name):
        raise SnapshotRefused(
            f"{name!r} cannot name a snapshot; use up to 64 letters, digits, `_`, `.` and `-`, beginning with a letter "
            "or digit."
        )


def snapshots_of(qemu_img: Path, disk: Path) -> list[DiskSnapshot]:
    """The oldest first; the disk may be in use. Raises SnapshotRefused."""
    if not disk.exists():
        return []
    document = json.loads(_run(qemu_img, "info", "--force-share", "--output=json", str(disk)))
    found = [DiskSnapshot(entry["name"], entry["date-sec"]) for entry in document.get("snapshots", ())]
    return sorted(found, key=lambda snapshot: snapshot.created_at)


def create(qemu_img: Path, disk: Path, name: str) -> None:
    """Of a disk nobody uses. Raises SnapshotRefused."""
    _run(qemu_img, "snapshot", "-c", name, str(disk))


def go_back(qemu_img: Path, disk: Path, name: str) -> None:
    """Make a disk nobody uses what it was. Raises SnapshotRefused."""
    _run(qemu_img, "snapshot", "-a", name, str(disk))


def remove(qemu_img: Path, disk: Path, name: str) -> None:
    """Of a disk nobody uses. Raises SnapshotRefused."""
    _run(qemu_img, "snapshot", "-d", name, str(disk))


class RestingDisk:
    """A disk that nobody uses. Methods raise SnapshotRefused."""

    def __init__(self, qemu_img: Path, path: Path) -> None:
        self._qemu_img = qemu_img
        self._path = path

    def snapshots(self) -> list[str]:
        return [snapshot.name for snapshot in snapshots_of(self._qemu_img, self._path)]

    def create(self, name: str) -> None:
        self._patiently(create, name)

    def go_back(self, name: str) -> None:
        self._patiently(go_back, name)

    def remove(self, name: str) -> None:
        """One that is not there is fine."""
        if name in self.snapshots():
            self._patiently(remove, name)

    def _patiently(self, work: Callable[[Path, Path, str], None], name: str) -> None:
        """A qemu-img outlives a killed caller, and has the disk until it has ended."""
        deadline = time.monotonic() + _IN_USE_FOR_S
        while True:
            try:
                return work(self._qemu_img, self._path, name)
            except SnapshotRefused as error:
                if _IN_USE not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_LOOK_EVERY_S)


def _run(program: Path, *arguments: str) -> str:
    try:
        return run_qemu_img(program, *arguments)
    except DiskDamaged as error:
        raise SnapshotRefused(str(error)) from error
