"""Directories of the computer around a virtual machine, as the engine inside it sees them.

The machine's host writes a file: `{"shares": ["/home/ann"], "windows_paths": false}`, the guest's paths at which its
directories are mounted, or soon will be. A bind of anything that is neither there nor the guest's own would silently be
an empty directory; with this file it is refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

from runtime.errors import InvalidParameter, Unavailable

# How long a start waits for a share that is about to be mounted: at boot, containers may be quicker.
_MOUNT_WAIT_S = 30.0
_LOOK_EVERY_S = 0.1

_DRIVE = re.compile(r"([A-Za-z]):[\\/]")


class HostShares:
    """`path` None: this engine runs on the user's own computer, where every path means what it says."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def check(self, source: str) -> None:
        """Whether a bind's source can be made when it is missing. Raises InvalidParameter."""
        if self._path is None or os.path.exists(source):
            return
        shares = self._shares()
        # A link in a share may lead to where it leads on the host, and only there is anything.
        target = os.path.realpath(source)
        if shares is not None and _share_of(target, shares) is None:
            seen = ", ".join(shares) or "nothing"
            what = "it is" if target == source else f"it leads to {target}, which is"
            raise InvalidParameter(
                f'invalid mount config for type "bind": bind source path does not exist: {source}: {what} not shared '
                f"with the machine, which sees {seen}; share a directory with `wherry machine set shares=~,DIRECTORY`"
            )

    async def wait_for(self, source: str) -> None:
        """Until the share a bind's source is in is mounted. Raises Unavailable."""
        if self._path is None:
            return
        share = _share_of(source, self._shares() or [])
        if share is None or os.path.ismount(share):
            return
        try:
            async with asyncio.timeout(_MOUNT_WAIT_S):
                while not os.path.ismount(share):
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            raise Unavailable(
                f"the shared directory {share} is not mounted in the machine: `wherry machine status` says why"
            ) from None

    def translated(self, host_config: dict[str, Any]) -> dict[str, Any]:
        r"""With what a client on Windows calls `C:\Users` as `/c/Users`, where the machine has it."""
        if self._path is None or not self._read().get("windows_paths"):
            return host_config
        translated = dict(host_config)
        if isinstance(binds := host_config.get("Binds"), list):
            translated["Binds"] = [_guest_bind(bind) for bind in binds]
        if isinstance(mounts := host_config.get("Mounts"), list):
            translated["Mounts"] = [_guest_mount(mount) for mount in mounts]
        return translated

    def _shares(self) -> list[str] | None:
        """None when the host has said nothing: one of an older version."""
        shares = self._read().get("shares")
        return [str(share) for share in shares] if isinstance(shares, list) else None

    def _read(self) -> dict[str, Any]:
        assert self._path is not None
        try:
            document = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}


def _share_of(source: str, shares: list[str]) -> str | None:
    """The innermost share that a path is in."""
    inside = [share for share in shares if source == share or source.startswith(f"{share}/")]
    return max(inside, key=len, default=None)


def _guest_path(path: str) -> str:
    drive = _DRIVE.match(path)
    return f"/{drive[1].lower()}/{path[3:]}".replace("\\", "/") if drive else path


def _guest_bind(bind: Any) -> Any:
    """`C:\\Users:/src:ro`: the first colon is the drive's."""
    if not isinstance(bind, str) or not _DRIVE.match(bind):
        return bind
    source, colon, rest = bind[2:].partition(":")
    return _guest_path(bind[:2] + source) + colon + rest


def _guest_mount(mount: Any) -> Any:
    if not isinstance(mount, dict) or mount.get("Type") != "bind" or not isinstance(mount.get("Source"), str):
        return mount
    return {**mount, "Source": _guest_path(mount["Source"])}
