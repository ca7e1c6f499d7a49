"""One module per resource of the Engine API, each with its table of routes."""

from runtime.api.handlers import container_streams, containers, execs, images, networks, system, volumes
from runtime.api.router import Route

ROUTES: list[Route] = [
    *containers.ROUTES,
    *container_streams.ROUTES,
    *execs.ROUTES,
    *images.ROUTES,
    *networks.ROUTES,
    *volumes.ROUTES,
    *system.ROUTES,
]
