"""Fetch the pinned parts into a cache folder.

One rule for trust: a file whose sha256 is the pinned one is taken, from wherever it came. When Debian no longer
serves a pinned version (a security update replaced it), the release's current version is taken instead, checked by
apt against the archive's signed index, and a warning says so: a build on a fresh machine does not break because
Debian moved on. PyPI never replaces a file, so a wheel that differs from its pin is always an error.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from guest.builder.arch import Architecture
from guest.builder.debian import IndexedPackage, PackageIndex
from guest.builder.errors import BuildError
from guest.builder.pins import Part
from guest.builder.wheels import download_wheel


@dataclass(frozen=True)
class FetchedPart:
    """A part and the verified file that holds it."""

    part: Part
    path: Path


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PartCache:
    """Files of parts below one folder: ``<folder>/<arch>/*.whl|*.deb``, found again by their sha256."""

    def __init__(self, arch: Architecture, folder: Path) -> None:
        self._arch = arch
        self._files = folder / arch.name
        self._index_folder = folder / f"apt-{arch.name}"

    def fetch(self, parts: Iterable[Part]) -> list[FetchedPart]:
        """Return every part of this architecture with its file, downloading what the cache lacks.

        Raises BuildError naming the part when it cannot be had or differs from its pin.
        """
        wanted = [part for part in parts if part.arch == self._arch.name]
        held = {sha256_of(path): path for path in self._files.glob("*.[wd][he][lb]*") if path.is_file()}
        fetched = [FetchedPart(part, held[part.sha256]) for part in wanted if part.sha256 in held]
        missing = [part for part in wanted if part.sha256 not in held]
        fetched += [self._fetch_wheel(part) for part in missing if part.kind == "wheel"]
        fetched += self._fetch_debian([part for part in missing if part.kind == "deb"])
        return sorted(fetched, key=lambda item: item.part)

    def _fetch_wheel(self, part: Part) -> FetchedPart:
        path = download_wheel(part.name, part.version, self._arch, self._files)
        actual = sha256_of(path)
        if actual != part.sha256:
            path.unlink()
            raise BuildError(
                f"{path.name} has sha256 {actual}, but {part.sha256} is pinned; "
                "find out why before refreshing the pin with: python -m guest pin"
            )
        return FetchedPart(part, path)

    def _fetch_debian(self, parts: list[Part]) -> list[FetchedPart]:
        if not parts:
            return []
        index = PackageIndex(self._arch, self._index_folder)
        index.refresh()
        served = index.versions([part.name for part in parts])
        specifications = {}
        for part in parts:
            if part.version in served[part.name]:
                specifications[part.name] = f"{part.name}={part.version}"
            else:
                specifications[part.name] = part.name
        packages = {package.name: package for package in index.describe(specifications.values())}
        index.download(packages.values(), self._files)
        return [self._checked(part, packages[part.name]) for part in parts]

    def _checked(self, pinned: Part, package: IndexedPackage) -> FetchedPart:
        path = self._files / package.file_name
        actual = sha256_of(path)
        if package.version == pinned.version:
            expected = pinned.sha256
        else:
            expected = package.sha256
            print(
                f"warning: Debian no longer serves {pinned.name} {pinned.version} for {pinned.arch}; taking "
                f"{package.version}, verified by the archive's signed index. Refresh the pins: python -m guest pin",
                file=sys.stderr,
            )
        if actual != expected:
            path.unlink()
            raise BuildError(
                f"{package.file_name} has sha256 {actual}, but {expected} is expected; "
                "find out why before refreshing the pin with: python -m guest pin"
            )
        return FetchedPart(Part("deb", pinned.name, pinned.arch, package.version, actual), path)
