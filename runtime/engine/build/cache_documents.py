"""The build cache as it travels: an OCI artifact whose configuration lists steps, and whose layers are theirs.

    manifest   config: {mediaType: CONFIG_TYPE}, layers: gzip layers, each once
    config     {"version": 1, "steps": [{"key", "history", "description", "diff_id"?, "layer"?}]}

`key` is that of the cache, `layer` the digest of one of the manifest's layers, `diff_id` that of its plain content.
An ordinary image serves as well ("inline"): its history says what its steps did, see `cache.find_in_images`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from runtime.content.documents import descriptor_of, encode, parse_config
from runtime.engine.build.cache import CacheEntry, find_in_history
from runtime.errors import InvalidParameter, NotSupported
from runtime.oci import digest
from runtime.oci.image import MANIFEST, Descriptor, History, Manifest

CONFIG_TYPE = "application/vnd.wherry.buildcache.config.v1+json"
VERSION = 1
MODES = ("min", "max")
_KEYS = {"type", "ref", "src", "dest", "mode", "tag", "image-manifest", "oci-mediatypes", "ignore-error"}


@dataclass(frozen=True)
class CacheSpec:
    """One --cache-from or --cache-to. `type`: registry, inline or local; `place` its reference, or a directory.

    With the mode `max` the steps of all stages are exported, with `min` those of the image.
    """

    type: str
    place: str = ""
    mode: str = "min"
    ignore_error: bool = False


def parse_spec(text: str) -> CacheSpec:
    """`type=registry,ref=NAME,mode=max`. Raises InvalidParameter, NotSupported."""
    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidParameter(f"invalid cache options {text}: {part} is no key=value")
        values[key.strip().lower()] = value.strip()
    kind = values.get("type", "")
    if kind not in ("registry", "inline", "local"):
        raise NotSupported(f"the cache type {kind or '(none)'} is not supported: use registry, inline or local")
    if unknown := sorted(values.keys() - _KEYS):
        raise NotSupported(f"the cache option {unknown[0]} is not supported by this version of Wherry: leave it out")
    place = values.get("ref", "") if kind == "registry" else values.get("src", "") or values.get("dest", "")
    if not place and kind != "inline":
        raise InvalidParameter(
            f"invalid cache options {text}: {'ref' if kind == 'registry' else 'src or dest'} is missing"
        )
    mode = values.get("mode", "min")
    if mode not in MODES:
        raise InvalidParameter(f"invalid cache options {text}: the mode is min or max")
    return CacheSpec(kind, place, mode, values.get("ignore-error", "").lower() in ("1", "true"))


@dataclass(frozen=True)
class Step:
    """What another engine's step came to. `layer` is of the blob that holds it, None for a step without one."""

    history: History
    diff_id: str = ""
    layer: Descriptor | None = None


class ImportedSteps:
    """The steps of one exported cache, or of an image."""

    def __init__(self, manifest: Manifest, config: bytes) -> None:
        """Raises InvalidParameter."""
        self._by_key: dict[str, Step] = {}
        self._history: Sequence[History] = ()
        self._layers: list[tuple[str, Descriptor]] = []
        try:
            if manifest["config"]["mediaType"] == CONFIG_TYPE:
                self._read_steps(manifest, json.loads(config))
            else:
                image = parse_config(config)
                self._history = image.get("history") or []
                self._layers = list(zip(image["rootfs"]["diff_ids"], manifest["layers"], strict=True))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidParameter(f"the exported build cache cannot be read: {error!r}") from None

    def _read_steps(self, manifest: Manifest, document: Mapping[str, Any]) -> None:
        if document["version"] != VERSION:
            raise InvalidParameter(f"the exported build cache has the version {document['version']}, not {VERSION}")
        layers = {layer["digest"]: layer for layer in manifest["layers"]}
        for step in document["steps"]:
            history, layer = step["history"], layers[step["layer"]] if step.get("layer") else None
            diff_id = str(step.get("diff_id", ""))
            if not isinstance(history.get("created"), str) or (layer and not digest.is_digest(diff_id)):
                raise InvalidParameter("the exported build cache has a step without a date or a digest")
            self._by_key[str(step["key"])] = Step(cast(History, history), diff_id, layer)

    def find(self, key: str, before: Sequence[History], created_by: str) -> Step | None:
        if step := self._by_key.get(key):
            return step
        found = find_in_history(self._history, before, created_by)
        if found is None:
            return None
        history, number = found
        if number is None:
            return Step(history)
        return Step(history, *self._layers[number]) if number < len(self._layers) else None


def manifest_of(steps: Mapping[str, CacheEntry], compressed: Mapping[str, Descriptor]) -> tuple[bytes, bytes]:
    """Manifest and configuration. `compressed`: the blobs of layers by their diff IDs."""
    listed: list[dict[str, Any]] = []
    for key, entry in steps.items():
        step: dict[str, Any] = {"key": key, "history": entry.history, "description": entry.description}
        if entry.layer:
            diff_id = entry.layer["digest"]
            step |= {"diff_id": diff_id, "layer": compressed[diff_id]["digest"]}
        listed.append(step)
    config = encode({"version": VERSION, "steps": listed})
    layers = {layer["digest"]: layer for layer in compressed.values()}
    manifest = Manifest(
        schemaVersion=2,
        mediaType=MANIFEST,
        config=descriptor_of(config, CONFIG_TYPE),
        layers=list(layers.values()),
    )
    return encode(manifest), config
