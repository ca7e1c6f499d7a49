"""/containers: see the Engine API, "Container"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from runtime.api import wire
from runtime.api.http1 import Answer, Request, StreamResponse
from runtime.api.router import Route, empty_response, json_response
from runtime.engine.container import Container
from runtime.engine.control import WaitCondition
from runtime.engine.engine import Engine
from runtime.engine.logs import log_path
from runtime.errors import InvalidParameter, NotFound

WAIT_CONDITIONS = ("not-running", "next-exit", "removed")
FILTERS = {"ancestor", "exited", "id", "label", "name", "network", "status", "volume"}


# --- list and inspect


async def list_containers(engine: Engine, request: Request) -> Answer:
    filters = request.query.filters()
    if unknown := set(filters) - FILTERS:
        raise InvalidParameter(f"invalid filter '{min(unknown)}'")
    show_all = request.query.flag("all") or bool(filters.keys() & {"status", "exited"})
    limit = request.query.number("limit") or 0
    found = [
        container
        for container in engine.containers.all()
        if (show_all or limit or container.state.is_up) and _matches(engine, container, filters)
    ]
    return json_response([summary(engine, container) for container in (found[:limit] if limit else found)])


def _matches(engine: Engine, container: Container, filters: dict[str, list[str]]) -> bool:
    labels = container.options.labels
    tests: dict[str, Callable[[str], bool]] = {
        "id": lambda value: container.id.startswith(value),
        "name": lambda value: value.removeprefix("/") in container.name,
        "status": lambda value: container.state.status == value,
        "exited": lambda value: container.state.status == "exited" and str(container.state.exit_code) == value,
        "label": lambda value: _has_label(labels, value),
        "network": lambda value: _is_on(container, value),
        "volume": lambda value: value in container.volumes.values() or value in container.volumes,
        "ancestor": lambda value: _descends(engine, container, value),
    }
    return all(
        (all if name == "label" else any)(tests[name](value) for value in values)
        for name, values in filters.items()
        if values
    )


def _is_on(container: Container, network: str) -> bool:
    return any(network in (id, document["name"]) for id, document in container.networks.items())


def _has_label(labels: dict[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def _descends(engine: Engine, container: Container, image: str) -> bool:
    try:
        return engine.images.get(image).id == container.image_id
    except NotFound:
        return False


def summary(engine: Engine, container: Container) -> dict[str, Any]:
    member = engine.networks.membership(container.id)
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.image_name,
        "ImageID": container.image_id,
        "Command": " ".join(container.options.args),
        "Created": container.created_ns // 1_000_000_000,
        "Ports": wire.ports_summary(member, container),
        "Labels": container.options.labels,
        "State": container.state.status,
        "Status": wire.status_text(container.state),
        "HostConfig": {"NetworkMode": container.options.network_mode},
        "NetworkSettings": {"Networks": wire.endpoints(container, member)},
        "Mounts": wire.mounts(container, {volume.name: volume for volume in engine.volumes.all()}),
    }


async def inspect(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    member = engine.networks.membership(container.id)
    bundle = engine.containers.bundle_of(container)
    document: dict[str, Any] = {
        "Id": container.id,
        "Created": wire.timestamp(container.created_ns),
        "Path": container.options.args[0],
        "Args": container.options.args[1:],
        "State": wire.state(container),
        "Image": container.image_id,
        "ResolvConfPath": str(bundle / "resolv.conf"),
        "HostnamePath": str(bundle / "hostname"),
        "HostsPath": str(bundle / "hosts"),
        "LogPath": str(log_path(container)) if container.options.log.driver == "json-file" else "",
        "Name": f"/{container.name}",
        "RestartCount": container.state.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": container.execs or None,
        "HostConfig": wire.host_config(container, engine.containers.links_of(container)),
        "GraphDriver": {"Name": "overlay2", "Data": None},
        "Mounts": wire.mounts(container, {volume.name: volume for volume in engine.volumes.all()}),
        "Config": wire.config(container),
        "NetworkSettings": wire.network_settings(container, member),
    }
    if request.query.flag("size"):
        document["SizeRw"] = await asyncio.to_thread(engine.snapshots.usage, container.id)
        document["SizeRootFs"] = document["SizeRw"] + engine.containers.image_of(container).size_bytes
    return json_response(document)


# --- life


async def create(engine: Engine, request: Request) -> Answer:
    body = await request.json()
    if not body:
        raise InvalidParameter("config cannot be empty in order to create a container")
    host_config = _object(body, "HostConfig")
    networking = _object(body, "NetworkingConfig")
    config = {name: value for name, value in body.items() if name not in ("HostConfig", "NetworkingConfig")}
    container, warnings = await engine.containers.create(request.query.text("name"), config, host_config, networking)
    return json_response({"Id": container.id, "Warnings": warnings}, 201)


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name) or {}
    if not isinstance(value, dict):
        raise InvalidParameter(f"invalid {name}: an object is needed")
    return value


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
    await engine.control.kill(engine.containers.get(request.params["id"]), request.query.text("signal"))
    return empty_response()


async def pause(engine: Engine, request: Request) -> Answer:
    await engine.control.pause(engine.containers.get(request.params["id"]))
    return empty_response()


async def unpause(engine: Engine, request: Request) -> Answer:
    await engine.control.unpause(engine.containers.get(request.params["id"]))
    return empty_response()


async def remove(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    await engine.containers.remove(container, request.query.flag("force"), request.query.flag("v"))
    return empty_response()


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
    ("GET", "/containers/json", list_containers),
    ("POST", "/containers/create", create),
    ("GET", "/containers/{id}/json", inspect),
    ("POST", "/containers/{id}/start", start),
    ("POST", "/containers/{id}/stop", stop),
    ("POST", "/containers/{id}/restart", restart),
    ("POST", "/containers/{id}/kill", kill),
    ("POST", "/containers/{id}/pause", pause),
    ("POST", "/containers/{id}/unpause", unpause),
    ("POST", "/containers/{id}/wait", wait),
    ("DELETE", "/containers/{id}", remove),
]
