"""The images that come with Wherry: loaded at the first start, so that a container runs with no registry in reach."""

from __future__ import annotations

import logging
from pathlib import Path

from runtime.content.images import ImageStore
from runtime.engine.store import Store
from runtime.errors import WherryError

log = logging.getLogger(__name__)


def new_archives(directory: Path | None, store: Store) -> list[Path]:
    """The archives in `directory` that were never loaded: an image removed by its user does not come back."""
    if directory is None or not directory.is_dir():
        return []
    return [path for path in sorted(directory.glob("*.tar*")) if store.get("embedded", _mark(path)) is None]


def load(archive: Path, images: ImageStore) -> bool:
    """Blocking; False, and a line in the log, for an archive that cannot be loaded."""
    try:
        with archive.open("rb") as stream:
            images.load(stream)
    except (WherryError, OSError) as error:
        log.warning("the embedded image %s was not loaded: %s", archive, error)
        return False
    log.info("loaded embedded image %s", archive.name)
    return True


def remember(archive: Path, store: Store) -> None:
    store.note("embedded", _mark(archive), {})


def _mark(path: Path) -> str:
    """Changes with the archive, so that a newer Wherry's image is loaded too."""
    info = path.stat()
    return f"{path.name}:{info.st_size}:{info.st_mtime_ns}"
