"""Swarm mode and its objects, answered as by an engine that is no part of a swarm; Wherry cannot become one."""

from __future__ import annotations

from runtime.api.http1 import Answer, Request
from runtime.api.router import Endpoint, Route
from runtime.engine.engine import Engine
from runtime.errors import NotSupported, Unavailable

NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
NO_SWARM = "This node is not part of a swarm"
NOT_HERE = (
    "swarm mode is not supported by Wherry, which is one engine on one machine: run several containers together with "
    "`wherry compose`"
)

# What asks a manager for something, moby's daemon/cluster.
MANAGERS_ONLY: tuple[tuple[str, str], ...] = (
    ("GET", "/swarm"),
    ("POST", "/swarm/update"),
    ("GET", "/swarm/unlockkey"),
    ("GET", "/nodes"),
    ("GET", "/nodes/{id}"),
    ("DELETE", "/nodes/{id}"),
    ("POST", "/nodes/{id}/update"),
    ("GET", "/services"),
    ("POST", "/services/create"),
    ("GET", "/services/{id}"),
    ("DELETE", "/services/{id}"),
    ("POST", "/services/{id}/update"),
    ("GET", "/services/{id}/logs"),
    ("GET", "/tasks"),
    ("GET", "/tasks/{id}"),
    ("GET", "/tasks/{id}/logs"),
    ("GET", "/secrets"),
    ("POST", "/secrets/create"),
    ("GET", "/secrets/{id}"),
    ("DELETE", "/secrets/{id}"),
    ("POST", "/secrets/{id}/update"),
    ("GET", "/configs"),
    ("POST", "/configs/create"),
    ("GET", "/configs/{id}"),
    ("DELETE", "/configs/{id}"),
    ("POST", "/configs/{id}/update"),
)


def refuse(error: Exception) -> Endpoint:
    """An endpoint that gives this answer and no other."""

    async def refused(engine: Engine, request: Request) -> Answer:
        raise error.with_traceback(None)

    return refused


ROUTES: list[Route] = [
    *((method, template, refuse(Unavailable(NO_MANAGER))) for method, template in MANAGERS_ONLY),
    ("POST", "/swarm/init", refuse(NotSupported(NOT_HERE))),
    ("POST", "/swarm/join", refuse(NotSupported(NOT_HERE))),
    ("POST", "/swarm/leave", refuse(Unavailable(NO_SWARM))),
    ("POST", "/swarm/unlock", refuse(Unavailable(NO_SWARM))),
]
