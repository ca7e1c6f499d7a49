"""/networks: see the Engine API, "Network"."""

from __future__ import annotations

from runtime.api import wire
from runtime.api.http1 import Answer, Request
from runtime.api.router import Route, json_response
from runtime.engine.engine import Engine
from runtime.engine.networks import Network
from runtime.errors import InvalidParameter

FILTERS = {"driver", "id", "name"}


async def list_networks(engine: Engine, request: Request) -> Answer:
    filters = request.query.filters()
    if unknown := set(filters) - FILTERS:
        raise InvalidParameter(f"invalid filter '{min(unknown)}'")
    return json_response(
        [wire.network_summary(network) for network in engine.networks.all() if _matches(network, filters)]
    )


def _matches(network: Network, filters: dict[str, list[str]]) -> bool:
    tests = {
        "driver": lambda value: value == network.driver,
        "id": lambda value: network.id.startswith(value),
        "name": lambda value: value in network.name,
    }
    return all(any(map(tests[name], values)) for name, values in filters.items() if values)


async def inspect(engine: Engine, request: Request) -> Answer:
    network = engine.networks.find(request.params["id"])
    return json_response(wire.network(network, engine.networks.members(network)))


ROUTES: list[Route] = [
    ("GET", "/networks", list_networks),
    ("GET", "/networks/{id}", inspect),
]
