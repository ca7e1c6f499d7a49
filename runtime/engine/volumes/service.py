"""All volumes: a directory each, `<data root>/volumes/<name>/`, holding `_data` and `volume.json`.

A volume appears and goes by one rename, so a directory with its name is whole; `volume.json` lets a lost store be
rebuilt from the directories. Names that begin with "." are work in progress, deleted when an engine starts.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from weakref import WeakValueDictionary

from runtime.content.copy_up import copy_ownership, copy_up, examine
from runtime.content.trash import Trash
from runtime.content.tree import data_size_bytes, open_directory, remove_children
from runtime.engine.events import Event, EventBus
from runtime.engine.options import VOLUME_NAME, anonymous_volume_name
from runtime.engine.store import Store
from runtime.engine.volumes import local_options
from runtime.engine.volumes.model import ANONYMOUS_LABEL, Volume, VolumeRequest
from runtime.errors import Conflict, InvalidParameter, NotFound, SystemFault
from runtime.linux import mountinfo
from runtime.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2

log = logging.getLogger(__name__)

DRIVER = "local"
NAME_MAX = 240  # a file name's 255 with room for what Trash adds
_DOCUMENT = "volume.json"
_NOT_A_NAME = re.compile(r"[^a-zA-Z0-9_.-]|^[^a-zA-Z0-9]")


class VolumeService:
    def __init__(self, root: Path, store: Store, events: EventBus, trash: Trash) -> None:
        self._root = root
        self._store = store
        self._events = events
        self._trash = trash
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._filling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._volumes = store.all("volume", lambda name, document: Volume.from_document(name, root / name, document))

    def all(self) -> list[Volume]:
        return list(self._volumes.values())

    def get(self, name: str) -> Volume:
        try:
            return self._volumes[name]
        except KeyError:
            raise NotFound(f"get {name}: no such volume") from None

    # --- made and removed

    def ensure(self, request: VolumeRequest) -> tuple[Volume, bool]:
        """The volume of that name, and whether it was made now. Raises InvalidParameter, NotFound (driver)."""
        name = request.name or anonymous_volume_name()
        if request.driver not in ("", DRIVER):
            raise NotFound(
                f'create {name}: error looking up volume plugin {request.driver}: plugin "{request.driver}" not found'
            )
        if name in self._volumes:
            return self._volumes[name], False
        _check_name(name)
        try:
            local_options.check(request.options)
        except InvalidParameter as error:
            raise InvalidParameter(f"create {name}: {error}") from None
        labels = dict(request.labels) | ({} if request.name else {ANONYMOUS_LABEL: ""})
        volume = Volume(
            name,
            self._root / name / "_data",
            time.time_ns(),
            labels,
            ANONYMOUS_LABEL in labels,
            dict(request.options),
        )
        self._make(volume)
        self._events.publish(Event("volume", "create", name, {"driver": DRIVER}))
        return volume, True

    def _make(self, volume: Volume) -> None:
        directory, document = volume.path.parent, volume.to_document()
        with ExitStack() as undo:
            unfinished = self._root / f".{secrets.token_hex(8)}"
            unfinished.mkdir(mode=0o701)
            undo.callback(self._trash.discard, unfinished)
            (unfinished / "_data").mkdir()
            (unfinished / "_data").chmod(0o755)  # whatever the umask
            (unfinished / _DOCUMENT).write_text(json.dumps(document, separators=(",", ":")))
            unfinished.rename(directory)
            undo.pop_all()
            undo.callback(self._trash.discard, directory)
            self._store.put("volume", volume.name, document)
            undo.pop_all()
        self._volumes[volume.name] = volume

    def remove(self, name: str, users: Collection[str] = ()) -> None:
        """Raises NotFound, or Conflict naming the containers that use it or what is mounted in it."""
        volume = self.get(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        if mounted := mountinfo.below(mountinfo.read(), os.path.realpath(volume.path)):
            raise Conflict(f"remove {name}: volume is in use: {mounted[0]} is mounted in it: unmount it first")
        try:
            self._trash.discard(volume.path.parent)
        except FileNotFoundError:
            log.warning("the directory of volume %s was gone before it was removed", name)
        self._store.note("volume", name, None)
        del self._volumes[name]
        self._events.publish(Event("volume", "destroy", name, {"driver": DRIVER}))

    def prune(
        self, wanted: Callable[[Volume], bool], users: Callable[[str], Collection[str]], sizes: dict[str, int]
    ) -> tuple[list[str], int]:
        """Remove the unused volumes that are `wanted`, but those with options; the names and bytes freed.

        `sizes` is what `measure` said of them; only those are removed.
        """
        removed, freed_bytes = [], 0
        for volume in self.prunable(wanted, users):
            if volume.name not in sizes:
                continue
            try:
                self.remove(volume.name)
            except (Conflict, OSError) as error:
                log.warning("volume %s is not pruned: %s", volume.name, error)
                continue
            removed.append(volume.name)
            freed_bytes += max(sizes[volume.name], 0)
        self._events.publish(Event("volume", "prune", "", {"reclaimed": str(freed_bytes)}))
        return removed, freed_bytes

    def prunable(self, wanted: Callable[[Volume], bool], users: Callable[[str], Collection[str]]) -> list[Volume]:
        return [volume for volume in self.all() if not volume.options and wanted(volume) and not users(volume.name)]

    # --- content

    async def populate(
        self,
        volume: Volume,
        lower: list[str],
        target: str,
        subpath: str,
        alone: bool,
    ) -> None:
        """Fill an empty volume with what the image has at `target`, as Docker does for a volume's first use.

        `lower` are the image's layers, topmost first. `alone`: nobody else uses the volume yet, so that its directory
        may be exchanged for one filled beforehand, and nothing half filled is ever seen. Raises SystemFault when
        the disk is full, InvalidParameter for a file at `target`.
        """
        async with self._filling.setdefault(volume.name, asyncio.Lock()):
            await self._populate(volume, lower, target, subpath, alone)

    async def _populate(self, volume: Volume, lower: list[str], target: str, subpath: str, alone: bool) -> None:
        try:
            origin = examine(lower, target)
        except NotADirectoryError:
            raise InvalidParameter(f"cannot mount volume over existing file, file exists {target}") from None
        if origin is None:
            return
        destination = open_inside(volume, subpath)
        try:
            if not stat.S_ISDIR(os.fstat(destination).st_mode) or os.listdir(f"/proc/self/fd/{destination}"):
                return
            if origin.empty:
                copy_ownership(lower, target, destination)
            elif alone and not volume.needs_mount and not subpath:
                await asyncio.to_thread(self._exchange, volume, lower, target)
            else:
                await asyncio.to_thread(_fill, lower, target, destination, alone)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SystemFault(
                f"copying the image's {target} into the volume {volume.name} failed: no space left on device: "
                "free some disk space and try again"
            ) from None
        finally:
            os.close(destination)

    def _exchange(self, volume: Volume, lower: list[str], target: str) -> None:
        filled = self._root / f".{secrets.token_hex(8)}"
        filled.mkdir(mode=0o700)
        try:
            destination = open_directory(filled)
            try:
                copy_up(lower, target, destination)
            finally:
                os.close(destination)
            filled.rename(volume.path)  # replaces an empty directory only
        except OSError as error:
            self._trash.discard(filled)
            if error.errno != errno.ENOTEMPTY:
                raise
        except BaseException:
            self._trash.discard(filled)
            raise

    # --- an engine's start

    def reconcile(self, users: Callable[[str], Collection[str]]) -> None:
        """Make store and directories agree: data is never out of sight, and what was half done is finished."""
        found = set()
        for directory in self._root.iterdir():
            if directory.name.startswith("."):
                self._trash.discard(directory)
            elif (directory / "_data").is_dir():
                found.add(directory.name)
        for name in found - self._volumes.keys():
            if VOLUME_NAME.fullmatch(name):
                self._adopt(name)
        for name in self._volumes.keys() - found:
            if users(name):
                log.warning("what was in volume %s is lost, its directory was missing", name)
                (self._root / name / "_data").mkdir(parents=True)
            else:  # its removal had begun
                self._store.note("volume", name, None)
                del self._volumes[name]

    def _adopt(self, name: str) -> None:
        directory = self._root / name
        try:
            volume = Volume.from_document(name, directory, json.loads((directory / _DOCUMENT).read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            volume = Volume(name, directory / "_data", directory.stat().st_mtime_ns)
        log.info("volume %s was on disk and not in the store: it is listed again", name)
        self._store.note("volume", name, volume.to_document())
        self._volumes[name] = volume


def _fill(lower: list[str], target: str, destination: int, alone: bool) -> None:
    try:
        copy_up(lower, target, destination)
    except OSError:
        if alone:
            remove_children(Path(f"/proc/self/fd/{destination}"))
        raise


def _check_name(name: str) -> None:
    if len(name) == 1 and not _NOT_A_NAME.search(name):
        raise InvalidParameter(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not VOLUME_NAME.fullmatch(name):
        raise InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    if len(name) > NAME_MAX:
        raise InvalidParameter(
            f"create {name[:32]}…: volume name is too long: at most {NAME_MAX} characters are allowed"
        )


def open_inside(volume: Volume, subpath: str) -> int:
    """An O_PATH descriptor of `subpath` in a volume, which no symbolic link leads out of; the caller closes it.

    Raises NotFound, or InvalidParameter when a link does lead out.
    """
    base = os.open(volume.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if not subpath:
        return base
    try:
        return openat2(base, subpath, os.O_PATH, resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise InvalidParameter(
                f"path concatenation escapes the base directory, base: {volume.path}, subpath: {subpath}"
            ) from None
        reason = (error.strerror or "").lower()
        raise NotFound(f"cannot access path {volume.path}/{subpath}: {reason}") from None
    finally:
        os.close(base)


def measure(volume: Volume) -> int:
    """Bytes of a volume's files, hard links counted once; -1 when it cannot be read. Slow: for a worker thread."""
    try:
        return data_size_bytes(volume.path)
    except OSError as error:
        log.warning("the size of volume %s cannot be told: %s", volume.name, error)
        return -1
