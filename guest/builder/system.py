"""The system image: one read-only squashfs that holds the guest's whole root."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from guest.builder.arch import ARCHITECTURES, Architecture
from guest.builder.packages import IMAGE_FOLDER
from guest.builder.tools import run

EMBEDDED_IMAGES = "usr/lib/wherry/images"
MOUNT_POINTS = ("dev", "proc", "run", "sys", "tmp", "var/lib/wherry", "var/empty")
READ_AT_EVERY_START = ("*.pyc", "python3.*", "libc.so.6", "libcrypto.so.3", "libssl.so.3", "libsqlite3.so.0*")
"""The larger part of what the engine's start reads."""


def load_module_groups(arch: Architecture) -> dict[str, list[str]]:
    """image/modules.json: which kernel modules are needed when (initramfs, network, on_demand).

    Groups named after an architecture (``on_demand_aarch64``) are what only its kernel has, or only it needs.
    """
    groups: dict[str, list[str]] = json.loads((IMAGE_FOLDER / "modules.json").read_text())
    others = [f"_{name}" for name in ARCHITECTURES if name != arch.name]
    return {name: modules for name, modules in groups.items() if not name.endswith(tuple(others))}


def finish_root(root: Path, container_image: Path, network_modules: Iterable[str]) -> None:
    """Add Wherry's own files, the lists of modules to load, the embedded container image, and mount points."""
    shutil.copytree(IMAGE_FOLDER / "overlay", root, dirs_exist_ok=True)
    (root / "usr/lib/wherry/modules").write_text(" ".join(network_modules) + "\n")
    images = root / EMBEDDED_IMAGES
    images.mkdir(parents=True)
    shutil.copyfile(container_image, images / container_image.name)
    for folder in MOUNT_POINTS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "root").chmod(0o700)


def write_squashfs(root: Path, built_at: int, output: Path) -> None:
    """Pack ``root`` into ``output``; owners are root and time stamps ``built_at``: equal trees give equal images.

    64 KiB blocks: reading a small module unpacks no more than that. And what every start reads is not packed, each file
    in blocks of its own: under emulation unpacking costs far more than reading. Whoever ships the image packs it.
    """
    output.unlink(missing_ok=True)
    hot = "||".join(f"name({pattern})" for pattern in READ_AT_EVERY_START)
    run(
        [
            *("mksquashfs", str(root), str(output), "-noappend", "-quiet", "-no-progress", "-all-root", "-no-exports"),
            *("-comp", "zstd", "-Xcompression-level", "19", "-b", "65536"),
            *("-action", f"uncompressed@{hot}", "-action", f"no-fragments@{hot}"),
            *("-mkfs-time", str(built_at), "-all-time", str(built_at)),
        ]
    )
