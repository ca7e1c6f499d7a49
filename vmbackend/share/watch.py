"""Changes made on this computer below the directories that running containers have bound."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from vmbackend.host import files
from vmbackend.share.echo import Change, Kind

# Programs that save a file do it in several steps; what follows within this is told as one.
_GATHER_S = 0.1
_MAX_GATHERED = 20_000

_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]
_KINDS: dict[tuple[str, bool], Kind] = {
    ("created", False): "create",
    ("created", True): "mkdir",
    ("deleted", False): "delete",
    ("deleted", True): "rmdir",
    ("modified", False): "modify",
    ("closed", False): "modify",
    ("moved", False): "move",
    ("moved", True): "move",
}

_log = logging.getLogger(__name__)


class ChangeWatch:
    """Calls `tell` with what changed below `root`, from a thread of its own, a moment after it did."""

    def __init__(self, root: Path, tell: Callable[[list[Change]], None]) -> None:
        self._root = root
        self._tell = tell
        self._watches: dict[Path, ObservedWatch] = {}
        self._observer: BaseObserver | None = None
        self._gathered: list[Change] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self.problem: str | None = None

    def watch(self, directories: Iterable[Path]) -> None:
        """Watch these, with all below, and no others. Blocks for as long as it takes to look through them."""
        wanted = outermost(directories)
        for path in self._watches.keys() - wanted:
            assert self._observer is not None
            self._observer.unschedule(self._watches.pop(path))
        self.problem = None
        for path in wanted - self._watches.keys():
            try:
                if self._observer is None:
                    self._observer = Observer()
                    self._observer.start()
                self._watches[path] = self._observer.schedule(
                    _Handler(self._take), str(path), recursive=True, event_filter=_EVENTS
                )
            except OSError as error:
                self.problem = (
                    f"Changes below {path} on this computer do not reach file watchers in containers "
                    f"({error.strerror or error}); bind a smaller directory"
                    + (", or raise fs.inotify.max_user_watches." if error.errno == 28 else ".")
                )
        if not self._watches:
            self.close()

    def close(self) -> None:
        observer, self._observer, self._watches = self._observer, None, {}
        if observer is not None:
            observer.stop()
            observer.join()
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    def _take(self, event: FileSystemEvent) -> None:
        change = change_of(event, self._root)
        if change is None:
            return
        with self._lock:
            if len(self._gathered) < _MAX_GATHERED:
                self._gathered.append(change)
            if self._timer is None:
                self._timer = threading.Timer(_GATHER_S, self._flush)
                self._timer.daemon = True
                self._timer.start()

    def _flush(self) -> None:
        with self._lock:
            changes, self._gathered, self._timer = self._gathered, [], None
        self._tell(coalesced(changes))


class _Handler(FileSystemEventHandler):
    def __init__(self, take: Callable[[FileSystemEvent], None]) -> None:
        self._take = take

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._take(event)


def change_of(event: FileSystemEvent, root: Path) -> Change | None:
    """A watchdog event as a change of the share, or None for what says nothing new."""
    kind = _KINDS.get((event.event_type, event.is_directory))
    if kind is None or event.is_synthetic:
        return None
    path, new_path = _below(root, event.src_path), _below(root, event.dest_path)
    if kind == "move":
        # Moved in from elsewhere, or out of it.
        if not path:
            kind = "mkdir" if event.is_directory else "create"
            path, new_path = new_path, ()
        elif not new_path:
            kind = "rmdir" if event.is_directory else "delete"
    if not path:
        return None
    if kind == "create" and os.path.islink(root.joinpath(*(files.native_name(name) for name in path))):
        kind = "symlink"
    return Change(kind, path, new_path if kind == "move" else (), event.is_directory)


def coalesced(changes: Iterable[Change]) -> list[Change]:
    """Without what only repeats: a file's further modifications, and all of one that came and went."""
    result: list[Change | None] = []
    last: dict[tuple[bytes, ...], int] = {}
    for change in changes:
        index = last.get(change.path)
        before = result[index] if index is not None else None
        if before is not None and index is not None:
            if before.kind in ("create", "modify") and change.kind == "modify":
                if before.kind == "modify" or index == len(result) - 1:
                    continue
            elif before.kind == "create" and change.kind == "delete":
                result[index] = None
                del last[change.path]
                continue
            elif before.kind == "create" and change.kind == "move":
                # A new file put in the place of an old one: nobody has to hear of its first name.
                result[index] = None
        result.append(change)
        last.pop(change.path, None)
        last[change.new_path or change.path] = len(result) - 1
    return [change for change in result if change is not None]


def outermost(directories: Iterable[Path]) -> set[Path]:
    """Those that are not inside another of them."""
    kept: set[Path] = set()
    for path in sorted(directories, key=lambda one: len(one.parts)):
        if not any(path.is_relative_to(one) for one in kept):
            kept.add(path)
    return kept


def _below(root: Path, path: bytes | str) -> tuple[bytes, ...]:
    try:
        parts = Path(os.fsdecode(path)).relative_to(root).parts if path else ()
    except ValueError:
        return ()
    return tuple(files.wire_name(part) for part in parts)
