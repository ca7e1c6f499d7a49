"""Snapshots of the data disk, kept inside its qcow2 file.

Of a disk QEMU has open they are made and removed by QEMU, else by `qemu-img`; they are gone back to only by the latter.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmbackend.errors import DiskDamaged, SnapshotRefused
from vmbackend.qemu.disks import run_qemu_img

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


def _run(program: Path, *arguments: str) -> str:
    try:
        return run_qemu_img(program, *arguments)
    except DiskDamaged as error:
        raise SnapshotRefused(str(error)) from error
