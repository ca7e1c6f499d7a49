"""/containers/{id}/stats and top: see the Engine API, "Container"."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from runtime.api import wire
from runtime.api.http1 import Answer, Request, StreamResponse
from runtime.api.router import Route, json_response
from runtime.engine.engine import Engine
from runtime.engine.top import list_processes
from runtime.engine.usage import EMPTY
from runtime.errors import InvalidParameter


async def stats(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    stream, one_shot = request.query.flag("stream", True), request.query.flag("one-shot")
    if stream and one_shot:
        raise InvalidParameter("cannot have stream=true and one-shot=true")
    if one_shot:
        return json_response(wire.container_stats(container, EMPTY, engine.usage.sample(container)))
    if not stream:
        return json_response(wire.container_stats(container, *await engine.usage.once(container)))

    async def lines() -> AsyncIterator[bytes]:
        async for before, now in engine.usage.follow(container):
            yield json.dumps(wire.container_stats(container, before, now)).encode() + b"\n"

    return StreamResponse(lines(), headers={"Content-Type": "application/json"})


async def top(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    shown = await list_processes(engine.containers, container, request.query.text("ps_args"))
    return json_response({"Titles": shown.titles, "Processes": shown.processes})


ROUTES: list[Route] = [
    ("GET", "/containers/{id}/stats", stats),
    ("GET", "/containers/{id}/top", top),
]
