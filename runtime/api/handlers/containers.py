"""What is done with a container: see the Engine API, "Container"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from runtime.api import filters
from runtime.api.http1 import Answer, Request, StreamResponse
from runtime.api.router import Route, empty_response, json_response
from runtime.api.wire import bodies
from runtime.engine.control import WaitCondition
from runtime.engine.engine import Engine
from runtime.engine.updates import update_container
from runtime.errors import Conflict, InvalidParameter, NotFound

SEVERAL_NETWORKS_SINCE = (1, 44)
WAIT_CONDITIONS = ("not-running", "next-exit", "removed")
PRUNE_FILTERS = ("label", "label!", "until")


async def create(engine: Engine, request: Request) -> Answer:
    body = bodies.CONTAINER_CREATE.read(await request.json())
    if not body:
        raise InvalidParameter("config cannot be empty in order to create a container")
    host_config = body.get("HostConfig") or {}
    networking = body.get("NetworkingConfig") or {}
    several = networking.get("EndpointsConfig") or {}
    if request.api_version < SEVERAL_NETWORKS_SINCE and len(several) > 1:
        names = ", ".join(sorted(several))
        raise InvalidParameter(f"Container cannot be connected to network endpoints: {names}")
    config = {name: value for name, value in body.items() if name not in ("HostConfig", "NetworkingConfig")}
    name, platform = request.query.text("name"), request.query.text("platform")
    container, warnings = await engine.containers.create(name, config, host_config, networking, platform)
    return json_response({"Id": container.id, "Warnings": warnings}, 201)


async def start(engine: Engine, request: Request) -> Answer:
    await engine.containers.start(engine.containers.get(request.params["id"]))
    return empty_response()


async def stop(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    await engine.control.stop(container, request.query.text("signal"), request.query.number("t"))
    return empty_response()


async def restart(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    await engine.control.restart(container, request.query.text("signal"), request.query.number("t"))
    return empty_response()


async def kill(engine: Engine, request: Request) -> Answer:
    name = request.params["id"]
    try:
        await engine.control.kill(engine.containers.get(name), request.query.text("signal"))
    except (NotFound, Conflict, InvalidParameter) as refusal:
        raise type(refusal)(f"cannot kill container: {name}: {refusal}") from None
    return empty_response()


async def pause(engine: Engine, request: Request) -> Answer:
    await engine.control.pause(engine.containers.get(request.params["id"]))
    return empty_response()


async def unpause(engine: Engine, request: Request) -> Answer:
    await engine.control.unpause(engine.containers.get(request.params["id"]))
    return empty_response()


async def remove(engine: Engine, request: Request) -> Answer:
    if request.query.flag("link"):
        parent, _, alias = request.params["id"].strip("/").rpartition("/")
        if not parent:
            raise Conflict("Conflict, cannot remove the default link name of the container")
        engine.containers.unlink(engine.containers.get(parent), alias)
        return empty_response()
    container = engine.containers.get(request.params["id"])
    await engine.control.remove(container, request.query.flag("force"), request.query.flag("v"))
    return empty_response()


async def rename(engine: Engine, request: Request) -> Answer:
    name = request.query.text("name")
    if not name:
        raise InvalidParameter("Neither old nor new names may be empty")
    engine.containers.rename(engine.containers.get(request.params["id"]), name)
    return empty_response()


async def update(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    changes = bodies.CONTAINER_UPDATE.read(await request.json())
    warnings = await update_container(engine.containers, container, changes)
    return json_response({"Warnings": warnings or None})


async def prune(engine: Engine, request: Request) -> Answer:
    chosen = filters.read(request.query, PRUNE_FILTERS)
    removed, freed_bytes = await engine.pruner.prune_containers(chosen, filters.until_ns(chosen))
    return json_response({"ContainersDeleted": removed or None, "SpaceReclaimed": freed_bytes})


async def wait(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    condition = request.query.text("condition") or "not-running"
    if condition not in WAIT_CONDITIONS:
        raise InvalidParameter(f'invalid condition: "{condition}"')
    # Registered before the headers go out: the client starts the container when it has seen them.
    waiting = asyncio.ensure_future(engine.control.wait(container, cast(WaitCondition, condition)))
    await asyncio.sleep(0)

    async def answer() -> AsyncIterator[bytes]:
        try:
            code, error = await waiting
        finally:
            waiting.cancel()
        body: dict[str, Any] = {"StatusCode": code}
        if error:
            body["Error"] = {"Message": error}
        yield json_response(body).body

    return StreamResponse(answer(), headers={"Content-Type": "application/json"})


ROUTES: list[Route] = [
    ("POST", "/containers/create", create),
    ("POST", "/containers/{id}/start", start),
    ("POST", "/containers/{id}/stop", stop),
    ("POST", "/containers/{id}/restart", restart),
    ("POST", "/containers/{id}/kill", kill),
    ("POST", "/containers/{id}/pause", pause),
    ("POST", "/containers/{id}/unpause", unpause),
    ("POST", "/containers/{id}/wait", wait),
    ("POST", "/containers/{id}/rename", rename),
    ("POST", "/containers/{id}/update", update),
    ("POST", "/containers/prune", prune),
    ("DELETE", "/containers/{id:path}", remove),
]
