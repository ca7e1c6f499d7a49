"""One module per resource of the Engine API, each with its table of routes."""

from runtime.api.handlers import containers, execs, images, networks, system, volumes
from runtime.api.router import Route

ROUTES: list[Route] = [
    *containers.ROUTES,
    *execs.ROUTES,
    *images.ROUTES,
    *networks.ROUTES,
    *volumes.ROUTES,
    *system.ROUTES,
]
