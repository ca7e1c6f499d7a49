"""The build cache: what every step has come to, by its content.

An entry's key is the digest of the image the step began with and of all that decides what it does: the instruction
after expansion, the arguments and environment it sees, the content of the files it copies; never a time. Entries are in
the engine's store; layers they name are held in the image store for as long as there is an entry.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar, cast

from runtime.content.image import Image
from runtime.content.images import ImageStore
from runtime.content.ingest import Ingest, NewLayer
from runtime.engine.store import Store
from runtime.oci.image import Descriptor, History

log = logging.getLogger(__name__)

DIGESTS_KEPT = 512
LINKED = "linked"  # the parent of a COPY --link, which is the same on top of any image
Value = TypeVar("Value")


@dataclass
class CacheEntry:
    """One step. `chain_id` and `layer` are empty for a step that changes no files; times are ns since the epoch."""

    history: dict[str, Any]
    description: str
    parent: str = ""  # the key of the step before, for people who look
    chain_id: str = ""
    layer: dict[str, Any] | None = None
    size_bytes: int = 0
    created_ns: int = 0
    used_ns: int = 0
    uses: int = 0

    @property
    def digests(self) -> list[str]:
        """What the image store holds for it."""
        return [self.chain_id, self.layer["digest"]] if self.layer else []

    @property
    def new_layer(self) -> NewLayer | None:
        """Built layers are stored as they are: the blob's digest is the diff ID."""
        return NewLayer(self.chain_id, self.layer["digest"], cast(Descriptor, self.layer)) if self.layer else None


@dataclass(frozen=True)
class Hit:
    key: str
    history: History
    layer: NewLayer | None


def held_by_cache(store: Store) -> list[str]:
    """What an image store has to hold from its beginning on."""
    return [held for entry in store.all("build", _read).values() for held in entry.digests]


def _read(key: str, document: dict[str, Any]) -> CacheEntry:
    return CacheEntry(**document)


def key_of(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


class Recent(Generic[Value]):
    """The values that were put in last."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: dict[object, Value] = {}

    def get(self, key: object) -> Value | None:
        return self._values.get(key)

    def put(self, key: object, value: Value) -> None:
        self._values[key] = value
        if len(self._values) > self._size:
            del self._values[next(iter(self._values))]


class BuildCache:
    """On the event loop. Builds may run at the same time: entries are whole, the last one of a key stays."""

    def __init__(self, store: Store, images: ImageStore) -> None:
        self._store = store
        self._images = images
        self.digests: Recent[Any] = Recent(DIGESTS_KEPT)  # of what was copied from images and stages

    def find(self, key: str, ingest: Ingest) -> Hit | None:
        """What the step came to, its layer kept by `ingest` from now on."""
        document = self._store.get("build", key)
        if document is None:
            return None
        entry = CacheEntry(**document)
        if entry.layer and not (ingest.has_layer(entry.chain_id) and ingest.has_blob(entry.layer["digest"])):
            self._remove(key, entry)  # a power cut, or somebody deleted files
            return None
        entry.used_ns, entry.uses = time.time_ns(), entry.uses + 1
        self._store.note("build", key, asdict(entry))
        return Hit(key, cast(History, entry.history), entry.new_layer)

    def entries(self, keys: Iterable[str]) -> dict[str, CacheEntry]:
        """Those that are there, in this order, each once."""
        found = ((key, self._store.get("build", key)) for key in dict.fromkeys(keys))
        return {key: CacheEntry(**document) for key, document in found if document is not None}

    def put(self, key: str, parent: str, history: History, layer: NewLayer | None, description: str) -> None:
        """To be called once the layer is sealed, for the next engine believes the store."""
        now_ns = time.time_ns()
        entry = CacheEntry(dict(history), description, parent, created_ns=now_ns, used_ns=now_ns)
        if layer:
            entry.chain_id, entry.layer = layer.chain_id, dict(layer.descriptor)
            entry.size_bytes = self._images.unpacked_bytes(layer.chain_id) or 0
        before = self._store.get("build", key)
        self._images.hold(entry.digests)
        self._store.note("build", key, asdict(entry))
        if before is not None:
            self._images.let_go(CacheEntry(**before).digests)

    def all(self) -> list[tuple[str, CacheEntry]]:
        """The latest used first."""
        return sorted(self._store.all("build", _read).items(), key=lambda item: -item[1].used_ns)

    def prune(self, wanted: Callable[[str, CacheEntry], bool], keep_bytes: int) -> tuple[list[str], int]:
        """Remove the wanted, the least used lately first, down to `keep_bytes` in all; keys and bytes freed."""
        entries = self.all()
        total = sum(entry.size_bytes for _, entry in entries)
        removed, freed = [], 0
        for key, entry in reversed(entries):
            if keep_bytes and total <= keep_bytes:
                break
            if not wanted(key, entry):
                continue
            self._remove(key, entry)
            total -= entry.size_bytes
            removed.append(key)
            freed += entry.size_bytes
        return removed, freed

    def _remove(self, key: str, entry: CacheEntry) -> None:
        self._store.note("build", key, None)
        self._images.let_go(entry.digests)


def find_in_images(
    images: Iterable[Image], before: Sequence[History], created_by: str
) -> tuple[History, NewLayer | None] | None:
    """The next step as one of the `--cache-from` images has it: its history goes on from `before` with `created_by`."""
    for image in images:
        found = find_in_history(image.config.get("history") or [], before, created_by)
        if found is None:
            continue
        history, number = found
        if number is None:
            return history, None
        if number < len(image.layers):
            diff_id = image.config["rootfs"]["diff_ids"][number]
            return history, NewLayer(image.chain_ids[number], diff_id, image.layers[number])
    return None


def find_in_history(
    history: Sequence[History], before: Sequence[History], created_by: str
) -> tuple[History, int | None] | None:
    """The next step of an image's history, and the number of its layer (None without one)."""
    count = len(before)
    if len(history) <= count or [*map(_identity, history[:count])] != [*map(_identity, before)]:
        return None
    found = history[count]
    if found.get("created_by", "") != created_by:
        return None
    if found.get("empty_layer"):
        return found, None
    return found, sum(not entry.get("empty_layer") for entry in history[:count])


def _identity(entry: History) -> tuple[str, str, bool]:
    return entry.get("created", ""), entry.get("created_by", ""), bool(entry.get("empty_layer"))
