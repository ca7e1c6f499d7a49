"""The parts of the builder that are there without a builder: its cache is empty, BuildKit's sessions are refused."""

from __future__ import annotations

from runtime.api.handlers.swarm import refuse
from runtime.api.http1 import Answer, Request
from runtime.api.router import Route, json_response
from runtime.engine.engine import Engine
from runtime.errors import NotSupported

NO_BUILDKIT = NotSupported(
    "BuildKit is not part of Wherry: set DOCKER_BUILDKIT=0, or build elsewhere and bring the image with docker load"
)
NO_BUILD = NotSupported(
    "this version of Wherry does not build images: build elsewhere and bring the image with docker save and docker load"
)


async def prune(engine: Engine, request: Request) -> Answer:
    return json_response({"CachesDeleted": None, "SpaceReclaimed": 0})


ROUTES: list[Route] = [
    ("POST", "/build", refuse(NO_BUILD)),
    ("POST", "/build/prune", prune),
    ("POST", "/build/cancel", refuse(NO_BUILD)),
    ("POST", "/session", refuse(NO_BUILDKIT)),
    ("POST", "/grpc", refuse(NO_BUILDKIT)),
]
