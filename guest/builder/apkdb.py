"""Read Alpine's database of installed packages and narrow it to some of them.

Format: /lib/apk/db/installed, stanzas of ``letter:value`` lines separated by empty lines: P name, V version, then
files as F (folder), M (its ``uid:gid:mode``), R (file in the last folder), a (its ``uid:gid:mode``), Z (its
checksum: ``Q1`` and base64 of a SHA-1). Only attributes that differ from root:root 755 (folder) or 644/755 (file)
are written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from guest.builder.errors import BuildError


@dataclass(frozen=True)
class Entry:
    """A file or folder a package owns. ``path`` has no leading slash."""

    path: str
    is_folder: bool
    uid: int = 0
    gid: int = 0
    mode: int | None = None
    """Permission bits when the database states them."""


@dataclass
class InstalledPackage:
    """One package with everything it owns, and its stanza as it stands in the database."""

    name: str
    version: str
    stanza: str
    entries: list[Entry] = field(default_factory=list)


def parse(text: str) -> list[InstalledPackage]:
    """All packages of a database file's text."""
    return [_parse_stanza(stanza) for stanza in text.strip().split("\n\n") if stanza]


def _parse_stanza(stanza: str) -> InstalledPackage:
    package = InstalledPackage(name="", version="", stanza=stanza)
    folder = ""
    for line in stanza.splitlines():
        letter, _, value = line.partition(":")
        if letter == "P":
            package.name = value
        elif letter == "V":
            package.version = value
        elif letter == "F":
            folder = value
            package.entries.append(Entry(folder, is_folder=True))
        elif letter == "R":
            path = f"{folder}/{value}" if folder else value
            package.entries.append(Entry(path, is_folder=False))
        elif letter in ("M", "a"):
            last = package.entries[-1]
            uid, gid, mode = value.split(":")[:3]
            package.entries[-1] = Entry(last.path, last.is_folder, int(uid), int(gid), int(mode, 8))
    return package


def select(packages: Iterable[InstalledPackage], names: Collection[str]) -> list[InstalledPackage]:
    """The named packages in the database's order. Raises BuildError naming those that are not installed."""
    chosen = [package for package in packages if package.name in names]
    missing = sorted(set(names) - {package.name for package in chosen})
    if missing:
        raise BuildError(f"the Alpine root does not hold {', '.join(missing)}; correct image/packages.json")
    return chosen


def dump(packages: Iterable[InstalledPackage]) -> str:
    """The text of a database holding exactly these packages."""
    return "".join(f"{package.stanza}\n\n" for package in packages)
