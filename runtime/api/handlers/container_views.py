"""GET /containers/json and /containers/{id}/json: see the Engine API, "Container"."""

from __future__ import annotations

import asyncio
from typing import Any

from runtime.api import wire
from runtime.api.http1 import Answer, Request
from runtime.api.router import Route, json_response
from runtime.engine.container import Container
from runtime.engine.engine import Engine
from runtime.engine.filters import ContainerFilter
from runtime.errors import WherryError


async def list_containers(engine: Engine, request: Request) -> Answer:
    wanted = ContainerFilter(request.query.filters(), engine.containers, engine.networks, engine.images)
    limit = max(0, request.query.number("limit") or 0)
    show_all = request.query.flag("all") or wanted.wants_all or limit > 0
    found: list[Container] = []
    for container in engine.containers.all():
        if (show_all or container.state.is_up) and wanted(container):
            found.append(container)
            if len(found) == limit:
                break
    summaries, sized = Summaries(engine), request.query.flag("size")
    return json_response(
        [summaries.of(container) | (await _sizes(engine, container) if sized else {}) for container in found]
    )


class Summaries:
    """ContainerSummary for many containers; what they share is looked up once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._volumes = {volume.name: volume for volume in engine.volumes.all()}
        self._images: dict[str, str] = {}  # the id that a name has now

    def of(self, container: Container) -> dict[str, Any]:
        member = self._engine.networks.membership(container.id)
        return wire.container_summary(container, member, self._volumes, self._shown_image(container))

    def _shown_image(self, container: Container) -> str:
        """The name it was made with, as long as that still names the same image."""
        name = container.image_name
        if name not in self._images:
            try:
                self._images[name] = self._engine.images.get(name).id
            except WherryError:
                self._images[name] = ""
        return name if self._images[name] == container.image_id else container.image_id


async def _sizes(engine: Engine, container: Container) -> dict[str, int]:
    written = await asyncio.to_thread(engine.snapshots.usage, container.id)
    return {"SizeRw": written, "SizeRootFs": written + engine.containers.image_of(container).size_bytes}


async def inspect(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    volumes = {volume.name: volume for volume in engine.volumes.all()}
    rootfs = engine.snapshots.describe(container.id, engine.containers.image_of(container))
    document = wire.container_inspect(
        container,
        engine.networks.membership(container.id),
        volumes,
        rootfs,
        engine.containers.bundle_of(container),
        engine.containers.links_of(container),
    )
    if request.query.flag("size"):
        document |= await _sizes(engine, container)
    return json_response(document)


ROUTES: list[Route] = [
    ("GET", "/containers/json", list_containers),
    ("GET", "/containers/{id}/json", inspect),
]
