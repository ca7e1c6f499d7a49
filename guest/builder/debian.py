"""Debian packages of any architecture through apt, without touching the machine's own apt.

apt gets a configuration, package lists and a (empty) status file of its own; only the machine's list of sources and
its keyring are shared. Preferences admit nothing but the Debian release the pins belong to, so that neither another
release nor another vendor's repository among the sources can slip a package in. See apt.conf(5),
apt_preferences(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from guest.builder.arch import Architecture
from guest.builder.errors import BuildError
from guest.builder.tools import run

RELEASE = "bookworm"

_PREFERENCES = f"""\
Package: *
Pin: release o=Debian,n={RELEASE}*
Pin-Priority: 900

Package: *
Pin: release *
Pin-Priority: -1
"""

_URI_LINE = re.compile(r"^'[^']+' (?P<file>\S+) \d+ SHA256:(?P<sha256>[0-9a-f]{64})$")


@dataclass(frozen=True)
class IndexedPackage:
    """A package as Debian's signed index describes it."""

    name: str
    version: str
    sha256: str
    file_name: str
    """What apt-get download calls the file."""


class PackageIndex:
    """Debian's package index for one architecture, kept in ``folder`` and verified by apt's signatures."""

    def __init__(self, arch: Architecture, folder: Path) -> None:
        self._folder = folder
        self._arch = arch
        self._environment: Mapping[str, str] = {}

    def refresh(self) -> None:
        """Fetch the index anew. Raises BuildError when apt fails or the sources do not hold the release."""
        folder = self._folder.absolute()
        (folder / "state/lists/partial").mkdir(parents=True, exist_ok=True)
        (folder / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "preferences").write_text(_PREFERENCES)
        configuration = folder / "apt.conf"
        configuration.write_text(
            f'Dir::State "{folder}/state";\n'
            f'Dir::State::status "{folder}/status";\n'
            f'Dir::Cache "{folder}/cache";\n'
            f'Dir::Etc::preferences "{folder}/preferences";\n'
            'Dir::Etc::preferencesparts "/dev/null";\n'
            f'APT::Architecture "{self._arch.debian}";\n'
            f'APT::Architectures {{ "{self._arch.debian}"; }};\n'
            'APT::Sandbox::User "";\n'
            'Acquire::Languages "none";\n'
        )
        self._environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}
        run(["apt-get", "update"], environment=self._environment)

    def versions(self, names: Collection[str]) -> dict[str, set[str]]:
        """Every version the archive serves at the moment, by package name."""
        served: dict[str, set[str]] = {name: set() for name in names}
        for line in run(["apt-cache", "madison", *names], environment=self._environment).splitlines():
            name, version, _source = (column.strip() for column in line.split("|"))
            served[name].add(version)
        return served

    def describe(self, wanted: Collection[str]) -> list[IndexedPackage]:
        """Look packages up; ``wanted`` are names or ``name=version``. Raises BuildError when one is not served."""
        packages = []
        for line in run(["apt-get", "download", "--print-uris", *wanted], environment=self._environment).splitlines():
            if match := _URI_LINE.match(line):
                name, version, _arch = match["file"].removesuffix(".deb").split("_")
                packages.append(IndexedPackage(name, unquote(version), match["sha256"], match["file"]))
        if len(packages) != len(wanted):
            raise BuildError(
                f"apt described {len(packages)} of {len(wanted)} packages; "
                f"this machine's apt sources must hold Debian {RELEASE}, its updates and its security updates"
            )
        return packages

    def download(self, packages: Collection[IndexedPackage], into: Path) -> None:
        """Download packages into a folder; apt checks each against the signed index."""
        into.mkdir(parents=True, exist_ok=True)
        specifications = [f"{package.name}={package.version}" for package in packages]
        run(["apt-get", "download", *specifications], cwd=into, environment=self._environment)
