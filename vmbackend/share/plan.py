"""What is shared, as data: from settings to host directories and their places in the guest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from vmbackend.errors import InvalidSettings

HOME = "~"
_READ_ONLY = ":ro"
_DRIVE = re.compile(r"[A-Za-z]:$")

# Directories the guest is made of: a share there would hide them.
_GUEST_OWN = ("bin", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var")
_NOT_GUEST_OWN = ("/run/media/", "/tmp/", "/var/folders/", "/var/home/", "/var/tmp/")


@dataclass(frozen=True)
class Share:
    """A directory of this computer, and where it is in the guest."""

    host_path: Path
    guest_path: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.host_path}{_READ_ONLY if self.read_only else ''}"


def plan_shares(settings: Iterable[str], home: Path, windows: bool) -> list[Share]:
    """The shares of a machine's `shares` setting, those nearest to the root first.

    One inside another with the same access adds nothing and is left out. Raises InvalidSettings.
    """
    wanted: dict[str, Share] = {}
    for text in settings:
        read_only = text.endswith(_READ_ONLY)
        path = text.removesuffix(_READ_ONLY)
        if path == HOME or path.startswith(("~/", "~\\")):
            path = str(home) + path[1:]
        guest_path = guest_path_of(path, windows)
        first = guest_path.split("/")[1]
        if first in _GUEST_OWN and not guest_path.startswith(_NOT_GUEST_OWN):
            if text == HOME:
                continue  # root's own home
            raise InvalidSettings(
                f"The share {text!r} cannot be: /{first} in the machine is the machine's own; share a directory "
                "elsewhere, such as below your home."
            )
        wanted[guest_path] = Share(Path(path), guest_path, read_only)
    ordered = sorted(wanted.values(), key=lambda share: (share.guest_path.count("/"), share.guest_path))
    kept: list[Share] = []
    for share in ordered:
        above = [one for one in kept if PurePosixPath(share.guest_path).is_relative_to(one.guest_path)]
        if not above or above[-1].read_only != share.read_only:
            kept.append(share)
    return kept


def shares_document(shares: Iterable[Share], windows: bool) -> str:
    """What the guest's engine reads: which of its paths are directories of this computer."""
    return json.dumps({"shares": [share.guest_path for share in shares], "windows_paths": windows})


def guest_path_of(path: str, windows: bool) -> str:
    r"""Where a path of this computer is in the guest: the same, and `C:\Users\x` is `/c/Users/x`.

    Raises InvalidSettings for a path that is not absolute, or is a whole file system.
    """
    problem = "has to be an absolute path, optionally followed by `:ro`"
    if windows:
        pure = PureWindowsPath(path)
        if _DRIVE.match(pure.drive) and pure.root:
            return "/" + "/".join([pure.drive[0].lower(), *pure.parts[1:]])
        problem = r"has to be an absolute path with a drive, such as C:\Users, optionally followed by `:ro`"
    else:
        posix = PurePosixPath(path)
        if posix.is_absolute() and ".." not in posix.parts:
            if str(posix).strip("/"):
                return "/" + str(posix).lstrip("/")
            problem = "cannot be the whole file system"
    raise InvalidSettings(f"The share {path!r} {problem}.")
