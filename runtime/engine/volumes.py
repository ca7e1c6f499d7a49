"""Named and anonymous volumes of the local driver: a directory each, `<data root>/volumes/<name>/_data`."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.content.merged import stat_directory
from runtime.engine.options import VOLUME_NAME, anonymous_volume_name
from runtime.engine.store import Store
from runtime.errors import Conflict, InvalidParameter, NotFound


@dataclass(frozen=True)
class Volume:
    name: str
    path: Path
    created_ns: int
    labels: dict[str, str] = field(default_factory=dict)
    anonymous: bool = False


class VolumeService:
    def __init__(self, root: Path, store: Store) -> None:
        self._root = root
        self._store = store
        root.mkdir(parents=True, exist_ok=True)
        self._volumes = {
            name: Volume(name, root / name / "_data", doc["created_ns"], doc["labels"], doc["anonymous"])
            for name, doc in store.all("volume")
        }

    def all(self) -> list[Volume]:
        return list(self._volumes.values())

    def get(self, name: str) -> Volume:
        try:
            return self._volumes[name]
        except KeyError:
            raise NotFound(f"get {name}: no such volume") from None

    def ensure(self, name: str = "", labels: dict[str, str] | None = None) -> Volume:
        """The volume of that name, made if there is none; an empty name makes an anonymous one."""
        if name in self._volumes:
            return self._volumes[name]
        if name and not VOLUME_NAME.fullmatch(name):
            raise InvalidParameter(
                f'"{name}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'
            )
        anonymous = not name
        name = name or anonymous_volume_name()
        volume = Volume(name, self._root / name / "_data", time.time_ns(), labels or {}, anonymous)
        document: dict[str, Any] = {
            "created_ns": volume.created_ns,
            "labels": volume.labels,
            "anonymous": anonymous,
        }
        with ExitStack() as undo:
            volume.path.mkdir(parents=True, exist_ok=True)
            undo.callback(shutil.rmtree, volume.path.parent)
            self._store.put("volume", name, document)
            undo.pop_all()
        self._volumes[name] = volume
        return volume

    def remove(self, name: str, users: list[str]) -> None:
        """Raises NotFound, or Conflict naming the containers that use it."""
        volume = self.get(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        shutil.rmtree(volume.path.parent)
        self._store.delete("volume", name)
        del self._volumes[name]

    def populate(self, volume: Volume, lower: list[str], target: str) -> None:
        """Fill an empty volume with what the image has at `target`, ownership and modes included.

        `lower` are the image's layers, topmost first. As Docker does for a volume's first use.
        """
        with os.scandir(volume.path) as entries:
            if any(entries):
                return
        origin = stat_directory(lower, target)
        if origin is None:
            return
        os.chown(volume.path, origin.st_uid, origin.st_gid)
        os.chmod(volume.path, stat.S_IMODE(origin.st_mode))
        for layer in reversed(lower):  # bottom first, so that upper layers win
            source = Path(layer + target)
            if source.is_dir() and not _leads_outside(layer, source):
                _copy_layer(source, volume.path)


def _leads_outside(layer: str, source: Path) -> bool:
    """True when a symlink on the way makes `source` leave its layer: such content is not copied."""
    return not source.resolve().is_relative_to(Path(layer).resolve())


def _copy_layer(source: Path, destination: Path) -> None:
    for entry in os.scandir(source):
        target = destination / entry.name
        info = entry.stat(follow_symlinks=False)
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:  # an overlay whiteout
            _delete(target)
        elif stat.S_ISDIR(info.st_mode):
            if not target.is_dir():
                _delete(target)
                target.mkdir()
            _copy_layer(Path(entry.path), target)
            shutil.copystat(entry.path, target)
            os.chown(target, info.st_uid, info.st_gid)
        elif stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
            _delete(target)
            shutil.copy2(entry.path, target, follow_symlinks=False)
            os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)


def _delete(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
