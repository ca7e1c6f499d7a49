"""The data disk: a qcow2 file that starts small, grows, and gives discarded blocks back."""

import subprocess
from pathlib import Path

from vmbackend import host
from vmbackend.errors import DiskDamaged, InvalidSettings

_GIB = 1024**3
_MAGIC = b"QFI\xfb"
_SIZE_OFFSET = 24
_INCOMPATIBLE_FEATURES_OFFSET = 72
_HEADER_BYTES = 80
_CORRUPT_BIT = 1 << 1


def virtual_size_bytes(path: Path) -> int:
    """The size the guest sees, read from the header (docs/interop/qcow2.txt in QEMU's sources).

    Raises DiskDamaged when this is no qcow2 file, or one QEMU has marked corrupt.
    """
    with path.open("rb") as stream:
        header = stream.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise DiskDamaged(
            f"The machine's disk {path} is not a qcow2 file any more; restore it from a backup, or move it away and "
            "start again with an empty disk (its images, containers and volumes are lost)."
        )
    if int.from_bytes(header[_INCOMPATIBLE_FEATURES_OFFSET : _INCOMPATIBLE_FEATURES_OFFSET + 8]) & _CORRUPT_BIT:
        raise DiskDamaged(
            f"The machine's disk {path} is marked corrupt; copy it, then repair it with `qemu-img check -r all {path}`."
        )
    return int.from_bytes(header[_SIZE_OFFSET : _SIZE_OFFSET + 8])


def ensure_data_disk(qemu_img: Path, path: Path, size_gib: int) -> None:
    """Create the disk, or grow it to `size_gib`. Never shrinks. Raises InvalidSettings, DiskDamaged, OSError."""
    wanted = size_gib * _GIB
    if not path.exists():
        # A name of its own until it is complete: a power cut must not leave half a header under the real name.
        draft = path.with_name(f"{path.name}.new")
        # With lazy reference counts QEMU marks the file in use, and repairs it by itself after a crash.
        run_qemu_img(qemu_img, "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", str(draft), str(wanted))
        host.make_private(draft)
        draft.replace(path)
        return
    have = virtual_size_bytes(path)
    if have < wanted:
        run_qemu_img(qemu_img, "resize", "-q", "-f", "qcow2", str(path), str(wanted))
    else:
        refuse_smaller(path, size_gib)


def refuse_smaller(path: Path, size_gib: int) -> None:
    """Raises InvalidSettings when the disk is larger than that, DiskDamaged, OSError."""
    have = virtual_size_bytes(path)
    if have > size_gib * _GIB:
        raise InvalidSettings(
            f"The machine's disk {path} has {have // _GIB} GiB and cannot shrink to {size_gib} GiB; "
            f"set `disk` to {have // _GIB}G or more."
        )


def compress_disk(qemu_img: Path, path: Path, target: Path) -> None:
    """Write a copy with compressed clusters and without what is empty. Raises DiskDamaged."""
    run_qemu_img(qemu_img, "convert", "-q", "-c", "-f", "qcow2", "-O", "qcow2", str(path), str(target))


def run_qemu_img(program: Path, *arguments: str) -> str:
    """What it says. Raises DiskDamaged."""
    outcome = subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        **host.detached_process_options(),
    )
    if outcome.returncode:
        raise DiskDamaged(
            f"qemu-img {arguments[0]} failed ({outcome.stderr.strip() or f'exit code {outcome.returncode}'}); "
            "check the room left on the computer's disk, and that no other program uses the file."
        )
    return str(outcome.stdout)
