"""Container root file systems: an overlay's writable directories over an image's layers. Mounts nothing."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.content.layers import layer_path
from runtime.content.trash import Trash
from runtime.content.tree import walk
from runtime.errors import AlreadyExists, InvalidParameter, NotFound


class HasLayers(Protocol):
    """What a snapshot needs to know of an image."""

    @property
    def chain_ids(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class OverlayRootfs:
    """Directories for overlayfs; `lower` from the topmost layer down."""

    lower: list[str]
    upper: str
    work: str


class Snapshots:
    """The snapshots under one data root. Calls for different ids may come from different threads."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._layers = root / "layers"
        self._directory = root / "snapshots"
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._trash = Trash(root / "trash")

    def prepare(self, snapshot_id: str, image: HasLayers) -> OverlayRootfs:
        """Makes the writable directories of a new container. On the way of every start: three mkdirs.

        The upper directory is what the container sees as `/`, so it takes after the image's own.
        Raises AlreadyExists, InvalidParameter for an image without layers, OSError.
        """
        if not image.chain_ids:
            raise InvalidParameter("the image has no layers, so there is nothing a container could run")
        rootfs = self.describe(snapshot_id, image)
        like = os.stat(rootfs.lower[0])
        snapshot = self._path(snapshot_id)
        try:
            os.mkdir(snapshot, 0o700)
        except FileExistsError:
            raise AlreadyExists(f"a snapshot {snapshot_id} already exists") from None
        try:
            os.mkdir(rootfs.upper)
            os.mkdir(rootfs.work)
            if like.st_uid or like.st_gid:
                os.chown(rootfs.upper, like.st_uid, like.st_gid)
            os.chmod(rootfs.upper, stat.S_IMODE(like.st_mode))
        except BaseException:
            self._trash.discard(snapshot)
            raise
        return rootfs

    def describe(self, snapshot_id: str, image: HasLayers) -> OverlayRootfs:
        """The same directories `prepare` returned, without touching the disk."""
        snapshot = self._path(snapshot_id)
        lower = [str(layer_path(self._layers, chain_id)) for chain_id in reversed(image.chain_ids)]
        return OverlayRootfs(lower, str(snapshot / "upper"), str(snapshot / "work"))

    def remove(self, snapshot_id: str) -> None:
        """Takes a snapshot out of sight by one rename; `reap` deletes it. Does nothing if there is none."""
        try:
            self._trash.discard(self._path(snapshot_id))
        except FileNotFoundError:
            pass

    def retain(self, snapshot_ids: Iterable[str]) -> list[str]:
        """Removes every snapshot but these, those a restarted engine knows of; returns the removed ids."""
        stray = sorted(set(os.listdir(self._directory)) - set(snapshot_ids))
        for snapshot_id in stray:
            self.remove(snapshot_id)
        return stray

    def reap(self) -> int:
        """Deletes removed snapshots and layers; returns how many. Slow: for one worker thread."""
        return self._trash.empty()

    def usage(self, snapshot_id: str) -> int:
        """Bytes of data in files the container wrote, hard links counted once. Raises NotFound."""
        sizes: dict[tuple[int, int], int] = {}
        try:
            for node in walk(self._path(snapshot_id) / "upper"):
                if stat.S_ISREG(node.info.st_mode):
                    sizes[node.info.st_dev, node.info.st_ino] = node.info.st_size
        except FileNotFoundError:
            raise NotFound(f"there is no snapshot {snapshot_id}") from None
        return sum(sizes.values())

    def _path(self, snapshot_id: str) -> Path:
        if "/" in snapshot_id or snapshot_id in ("", ".", ".."):
            raise InvalidParameter(f'"{snapshot_id}" cannot name a snapshot')
        return self._directory / snapshot_id
