"""/volumes: see the Engine API, "Volume"."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from runtime.api import wire
from runtime.api.http1 import Answer, Request
from runtime.api.router import Route, empty_response, json_response
from runtime.api.wire import bodies
from runtime.engine.engine import Engine
from runtime.engine.volumes import ANONYMOUS_LABEL, Volume, VolumeRequest
from runtime.errors import InvalidParameter, NotFound, Unavailable

LIST_FILTERS = frozenset(("dangling", "driver", "label", "label!", "name"))
PRUNE_FILTERS = frozenset(("all", "label", "label!"))
ALL_FILTER_SINCE = (1, 42)  # before, prune took named volumes too
TRUE = ("1", "t", "T", "true", "True", "TRUE")
FALSE = ("0", "f", "F", "false", "False", "FALSE")


async def list_volumes(engine: Engine, request: Request) -> Answer:
    filters = _filters(request, LIST_FILTERS)
    wanted = _matching(filters)
    shown = [volume for volume in engine.volumes.all() if wanted(volume)]
    if "dangling" in filters:
        dangling = _boolean("dangling", filters["dangling"])
        shown = [volume for volume in shown if dangling != bool(engine.containers.users_of_volume(volume.name))]
    return json_response({"Volumes": [wire.volume(volume) for volume in shown], "Warnings": None})


async def create(engine: Engine, request: Request) -> Answer:
    body = bodies.VOLUME_CREATE.read(await request.json())
    if body.get("ClusterVolumeSpec"):
        raise Unavailable(
            "This node is not a swarm manager. Cluster volumes need a swarm, which Wherry does not have: "
            "leave the cluster options out"
        )
    wanted = VolumeRequest(
        body.get("Name") or "", body.get("Driver") or "", body.get("DriverOpts") or {}, body.get("Labels") or {}
    )
    volume, _ = engine.volumes.ensure(wanted)
    return json_response(wire.volume(volume), 201)


async def inspect(engine: Engine, request: Request) -> Answer:
    return json_response(wire.volume(engine.volumes.get(request.params["name"])))


async def update(engine: Engine, request: Request) -> Answer:
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def remove(engine: Engine, request: Request) -> Answer:
    name = request.params["name"]
    try:
        engine.volumes.remove(name, engine.containers.users_of_volume(name))
    except NotFound:
        if not request.query.flag("force"):
            raise
    return empty_response()


async def prune(engine: Engine, request: Request) -> Answer:
    filters = _filters(request, PRUNE_FILTERS)
    named_too = request.api_version < ALL_FILTER_SINCE
    if values := filters.pop("all", []):
        if len(values) > 1:
            raise InvalidParameter(f"invalid filter 'all={values}': only one value is expected")
        named_too = _boolean("all", values)
    matching = _matching(filters)
    names, freed_bytes = await engine.prune_volumes(
        lambda volume: matching(volume) and (named_too or ANONYMOUS_LABEL in volume.labels)
    )
    return json_response({"VolumesDeleted": names, "SpaceReclaimed": freed_bytes})


# --- filters


def _filters(request: Request, known: frozenset[str]) -> dict[str, list[str]]:
    filters = request.query.filters()
    if unknown := set(filters) - known:
        raise InvalidParameter(f"invalid filter '{min(unknown)}'")
    return filters


def _boolean(name: str, values: list[str]) -> bool:
    if len(values) == 1 and values[0] in (*TRUE, *FALSE):
        return values[0] in TRUE
    raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")


def _matching(filters: Mapping[str, list[str]]) -> Callable[[Volume], bool]:
    names, drivers = filters.get("name", []), filters.get("driver", [])
    labels, without = filters.get("label", []), filters.get("label!", [])

    def matches(volume: Volume) -> bool:
        return (
            (not names or any(_fits(volume.name, name) for name in names))
            and (not drivers or "local" in drivers)
            and all(_has_label(volume.labels, label) for label in labels)
            and not (without and all(_has_label(volume.labels, label) for label in without))
        )

    return matches


def _fits(name: str, pattern: str) -> bool:
    """As Docker's filters: a part of the name, or a regular expression for one."""
    try:
        return pattern in name or re.search(pattern, name) is not None
    except re.error:
        return False


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


ROUTES: list[Route] = [
    ("GET", "/volumes", list_volumes),
    ("POST", "/volumes/create", create),
    ("POST", "/volumes/prune", prune),
    ("GET", "/volumes/{name}", inspect),
    ("PUT", "/volumes/{name}", update),
    ("DELETE", "/volumes/{name}", remove),
]
