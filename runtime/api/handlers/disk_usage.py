"""/system/df: see the Engine API, "System". Trees are measured in a worker thread."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from runtime.api import wire
from runtime.api.handlers.container_views import Summaries
from runtime.api.http1 import Answer, Request
from runtime.api.router import Route, json_response
from runtime.content.snapshots import Snapshots
from runtime.engine.engine import Engine
from runtime.errors import InvalidParameter, NotFound

log = logging.getLogger(__name__)

TYPES = ("container", "image", "volume", "build-cache")
BUILDER_SIZE_UNTIL = (1, 41)


async def disk_usage(engine: Engine, request: Request) -> Answer:
    types = request.query.texts("type") or list(TYPES)
    for kind in types:
        if kind not in TYPES:
            raise InvalidParameter(f"unknown object type: {kind}")
    document: dict[str, Any] = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None}
    if "image" in types:
        document |= _images(engine, request.api_version)
    if "container" in types:
        document["Containers"] = await _containers(engine)
    if "volume" in types:
        document["Volumes"] = await _volumes(engine)
    document["BuildCache"] = _build_cache(engine) if "build-cache" in types else None
    if request.api_version <= BUILDER_SIZE_UNTIL:
        document["BuilderSize"] = sum(entry.size_bytes for _, entry in engine.builds.cache.all())
    return json_response(document)


def _images(engine: Engine, api_version: tuple[int, int]) -> dict[str, Any]:
    uses = Counter(container.image_id for container in engine.containers.all())
    shared = engine.image_service.shared_sizes()
    hidden = engine.images.parents()  # those without a name, as in the list of images
    images = [
        image for image in engine.images.all() if image.references or image.repo_digests or image.id not in hidden
    ]
    shown = [wire.image_summary(image, api_version, uses[image.id], shared[image.id]) for image in images]
    return {"LayersSize": sum(engine.images.layer_sizes().values()), "Images": shown}


def _build_cache(engine: Engine) -> list[dict[str, Any]]:
    return [wire.cache_entry(key, entry) for key, entry in engine.builds.cache.all()]


async def _containers(engine: Engine) -> list[dict[str, Any]]:
    containers = engine.containers.all()
    sizes = await asyncio.to_thread(_measure, engine.snapshots, [container.id for container in containers])
    shown, summaries = [], Summaries(engine)
    for container in containers:
        size, image_size = sizes[container.id], engine.containers.image_of(container).size_bytes
        shown.append({**summaries.of(container), "SizeRw": size, "SizeRootFs": size + image_size})
    return shown


def _measure(snapshots: Snapshots, ids: Sequence[str]) -> dict[str, int]:
    """By id; 0 for what cannot be measured: it has gone meanwhile, or moves under us."""
    sizes = dict.fromkeys(ids, 0)
    for id in ids:
        try:
            sizes[id] = snapshots.usage(id)
        except (OSError, NotFound) as error:
            log.info("the size of container %s cannot be told: %s", id, error)
    return sizes


async def _volumes(engine: Engine) -> list[dict[str, Any]]:
    volumes = [volume for volume in engine.volumes.all() if not volume.options]  # others are not of this disk
    sizes = await engine.volume_sizes(volumes)
    users = engine.containers.users_of_volume
    return [wire.volume(volume, (sizes[volume.name], len(users(volume.name)))) for volume in volumes]


ROUTES: list[Route] = [("GET", "/system/df", disk_usage)]
