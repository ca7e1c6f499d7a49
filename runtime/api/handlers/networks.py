"""/networks: see the Engine API, "Network"."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from runtime.api import filters, wire
from runtime.api.http1 import Answer, Request
from runtime.api.router import Route, empty_response, json_response
from runtime.api.wire import bodies
from runtime.engine.engine import Engine
from runtime.engine.networks import Network
from runtime.engine.options import endpoint_config, network_request
from runtime.errors import InvalidParameter, NotFound

LIST_FILTERS = {"dangling", "driver", "id", "label", "label!", "name", "scope", "type"}
PRUNE_FILTERS = {"label", "label!", "until"}
TYPES = ("builtin", "custom")


async def list_networks(engine: Engine, request: Request) -> Answer:
    wanted = filters.read(request.query, LIST_FILTERS)
    if unknown := set(wanted.get("type", [])) - set(TYPES):
        raise InvalidParameter(f"invalid filter: 'type'='{min(unknown)}'")
    networks = engine.networks.all()
    if wanted.get("dangling"):
        dangling = filters.boolean(wanted, "dangling", False)
        networks = [one for one in networks if dangling == (not one.predefined and not engine.networks.members(one))]
    return json_response([wire.network_summary(network) for network in networks if _matches(network, wanted)])


def _matches(network: Network, wanted: dict[str, list[str]]) -> bool:
    tests: dict[str, Callable[[str], bool]] = {
        "driver": lambda value: value == network.driver,
        "id": lambda value: _found(value, network.id),
        "name": lambda value: _found(value, network.name),
        "scope": lambda value: value == "local",
        "type": lambda value: network.predefined == (value == "builtin"),
    }
    return filters.has_labels(wanted, network.labels) and all(
        any(map(test, wanted[name])) for name, test in tests.items() if wanted.get(name)
    )


def _found(pattern: str, text: str) -> bool:
    """As filters.Args.Match: a regular expression found somewhere, or the text itself."""
    try:
        return bool(re.search(pattern, text))
    except re.error:
        return pattern == text


async def inspect(engine: Engine, request: Request) -> Answer:
    network = engine.networks.find(request.params["id"])
    if request.query.text("scope") not in ("", "local"):
        raise NotFound(f"network {request.params['id']} not found")
    return json_response(wire.network(network, engine.networks.members(network)))


async def create(engine: Engine, request: Request) -> Answer:
    network = await engine.networks.create(network_request(bodies.NETWORK_CREATE.read(await request.json())))
    return json_response({"Id": network.id, "Warning": ""}, 201)


async def remove(engine: Engine, request: Request) -> Answer:
    await engine.networks.remove(engine.networks.find(request.params["id"]))
    return empty_response()


async def connect(engine: Engine, request: Request) -> Answer:
    body = bodies.NETWORK_CONNECT.read(await request.json())
    network = engine.networks.find(request.params["id"])
    container = engine.containers.get(_container_name(body))
    await engine.containers.connect_network(container, network, endpoint_config(body.get("EndpointConfig")))
    return empty_response(200)


async def disconnect(engine: Engine, request: Request) -> Answer:
    body = bodies.NETWORK_DISCONNECT.read(await request.json())
    network = engine.networks.find(request.params["id"])
    container = engine.containers.get(_container_name(body))
    await engine.containers.disconnect_network(container, network)
    return empty_response(200)


async def prune(engine: Engine, request: Request) -> Answer:
    wanted = filters.read(request.query, PRUNE_FILTERS)
    until_ns = filters.until_ns(wanted)
    chosen = [
        network
        for network in engine.networks.all()
        if not network.predefined
        and not network.config_only
        and (until_ns is None or network.created_ns <= until_ns)
        and filters.has_labels(wanted, network.labels)
    ]
    return json_response({"NetworksDeleted": await engine.networks.prune(chosen) or None})


def _container_name(body: dict[str, Any]) -> str:
    name: str = body.get("Container") or ""
    if not name:
        raise InvalidParameter("invalid container name or ID: value is empty")
    return name


ROUTES: list[Route] = [
    ("GET", "/networks", list_networks),
    ("GET", "/networks/{id}", inspect),
    ("POST", "/networks/create", create),
    ("POST", "/networks/prune", prune),
    ("POST", "/networks/{id}/connect", connect),
    ("POST", "/networks/{id}/disconnect", disconnect),
    ("DELETE", "/networks/{id}", remove),
]
