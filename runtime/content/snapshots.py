"""Container root file systems: an overlay's writable directories over an image's layers. Mounts nothing.

Directories are made ahead, in the background. Measured on ext4: a mkdir takes 20 microseconds, but 300 for half a
minute after many files were deleted (the kernel avoids inodes freed recently: ext4/ialloc.c, recently_deleted),
which is just what starting and removing containers does. A rename takes 20 always.
"""

import errno
import functools
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.content.layers import layer_path
from runtime.content.trash import Trash
from runtime.content.tree import data_size_bytes
from runtime.errors import AlreadyExists, InvalidParameter, NotFound

_IMAGES_KEPT = 64
_MARK, _MTAB = ".dockerenv", "etc/mtab"


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

    SPARES = 16
    """Prepared directories kept ready: more than anybody starts between two calls of `reap`."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._layers = root / "layers"
        self._directory = root / "snapshots"
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._trash = Trash(root / "trash")
        self._spares_directory = root / "spares"
        self._spares_directory.mkdir(mode=0o700, exist_ok=True)
        for left in self._spares_directory.iterdir():
            self._trash.discard(left)
        self._lower = functools.lru_cache(_IMAGES_KEPT)(self._lower_of)
        self._base = _base(root / "base")
        self._spares: list[Path] = []  # popped and appended by several threads, each in one step

    def prepare(self, snapshot_id: str, image: HasLayers) -> OverlayRootfs:
        """Makes the writable directories of a new container; on the way of every start.

        The upper directory is what the container sees as `/`, so it takes after the image's own.
        Raises AlreadyExists, InvalidParameter for an image without layers, OSError.
        """
        if not image.chain_ids:
            raise InvalidParameter("the image has no layers, so there is nothing a container could run")
        rootfs = self.describe(snapshot_id, image)
        like = os.stat(rootfs.lower[0])
        try:
            spare = self._spares.pop()
        except IndexError:
            spare = self._make_spare()
        try:
            if like.st_uid or like.st_gid:
                os.chown(spare / "upper", like.st_uid, like.st_gid)
            os.chmod(spare / "upper", stat.S_IMODE(like.st_mode))
            os.rename(spare, self._path(snapshot_id))
        except OSError as error:
            self._trash.discard(spare)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise AlreadyExists(f"a snapshot {snapshot_id} already exists") from None
            raise
        return rootfs

    def prepare_bare(self, snapshot_id: str) -> Path:
        """Makes the directory of a snapshot on top of nothing, for the first files of an image."""
        spare = self._make_spare()
        os.rename(spare, self._path(snapshot_id))
        return self._path(snapshot_id) / "upper"

    def describe(self, snapshot_id: str, image: HasLayers) -> OverlayRootfs:
        """The same directories `prepare` returned, without touching the disk."""
        snapshot = f"{self._directory}/{_checked(snapshot_id)}"
        return OverlayRootfs([*self._lower(image.chain_ids), *self._base], f"{snapshot}/upper", f"{snapshot}/work")

    def layers(self, chain_ids: tuple[str, ...]) -> list[str]:
        """The directories of these layers alone, the topmost first."""
        return list(self._lower(chain_ids))

    def _lower_of(self, chain_ids: tuple[str, ...]) -> list[str]:
        return [str(layer_path(self._layers, chain_id)) for chain_id in reversed(chain_ids)]

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
        """Deletes removed snapshots and layers; returns how many. Then makes directories for the next starts.

        Slow: for one worker thread.
        """
        reaped = self._trash.empty()
        while len(self._spares) < self.SPARES:
            self._spares.append(self._make_spare())
        return reaped

    def _make_spare(self) -> Path:
        spare = self._spares_directory / secrets.token_hex(8)
        os.mkdir(spare, 0o700)
        os.mkdir(spare / "upper")
        os.mkdir(spare / "work")
        return spare

    def usage(self, snapshot_id: str) -> int:
        """Bytes of data in files the container wrote, hard links counted once. Raises NotFound."""
        try:
            return data_size_bytes(self._path(snapshot_id) / "upper")
        except FileNotFoundError:
            raise NotFound(f"there is no snapshot {snapshot_id}") from None

    def _path(self, snapshot_id: str) -> Path:
        return self._directory / _checked(snapshot_id)


def _checked(snapshot_id: str) -> str:
    if "/" in snapshot_id or snapshot_id in ("", ".", ".."):
        raise InvalidParameter(f'"{snapshot_id}" cannot name a snapshot')
    return snapshot_id


def _base(directory: Path) -> list[str]:
    """The layer below every image's, with what Docker puts into containers: /.dockerenv and /etc/mtab.

    Programs look for the first to know where they run (testcontainers among them), and for mounts in the second. An
    image's own files hide them. None where it cannot be made: the disk may be full or read-only.
    """
    mark, mtab = directory / _MARK, directory / _MTAB
    try:
        if not mtab.is_symlink():
            mtab.parent.mkdir(parents=True, exist_ok=True)
            mark.touch(0o755)
            mtab.symlink_to("/proc/mounts")
    except OSError:
        return []
    return [str(directory)]
