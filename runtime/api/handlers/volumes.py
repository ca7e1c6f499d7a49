"""/volumes: see the Engine API, "Volume"."""

from __future__ import annotations

from runtime.api import wire
from runtime.api.http1 import Answer, Request
from runtime.api.router import Route, empty_response, json_response
from runtime.engine.engine import Engine
from runtime.engine.events import Event
from runtime.errors import InvalidParameter, NotFound, NotSupported

FILTERS = {"dangling", "name"}


async def list_volumes(engine: Engine, request: Request) -> Answer:
    filters = request.query.filters()
    if unknown := set(filters) - FILTERS:
        raise InvalidParameter(f"invalid filter '{min(unknown)}'")
    shown = []
    for volume in engine.volumes.all():
        unused = not engine.containers.users_of_volume(volume.name)
        if (wanted := filters.get("dangling")) and (wanted[0] in ("true", "1")) != unused:
            continue
        if (names := filters.get("name")) and not any(name in volume.name for name in names):
            continue
        shown.append(wire.volume(volume))
    return json_response({"Volumes": shown, "Warnings": None})


async def create(engine: Engine, request: Request) -> Answer:
    body = await request.json()
    if body.get("Driver") not in (None, "", "local"):
        raise NotSupported(f"volume driver {body['Driver']!r} is not supported: use the local driver")
    if body.get("DriverOpts"):
        raise NotSupported("--opt for volumes is not supported by this version of Wherry: leave it out")
    volume = engine.volumes.ensure(body.get("Name") or "", body.get("Labels") or {})
    engine.events.publish(Event("volume", "create", volume.name, {"driver": "local"}))
    return json_response(wire.volume(volume), 201)


async def inspect(engine: Engine, request: Request) -> Answer:
    return json_response(wire.volume(engine.volumes.get(request.params["name"])))


async def remove(engine: Engine, request: Request) -> Answer:
    name = request.params["name"]
    try:
        engine.volumes.remove(name, engine.containers.users_of_volume(name))
    except NotFound:
        if not request.query.flag("force"):
            raise
    else:
        engine.events.publish(Event("volume", "destroy", name, {"driver": "local"}))
    return empty_response()


ROUTES: list[Route] = [
    ("GET", "/volumes", list_volumes),
    ("POST", "/volumes/create", create),
    ("GET", "/volumes/{name}", inspect),
    ("DELETE", "/volumes/{name}", remove),
]
