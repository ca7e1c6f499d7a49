"""One module per resource of the Engine API, each with its table of routes."""

from runtime.api.handlers import (
    build,
    container_files,
    container_streams,
    container_usage,
    container_views,
    containers,
    disk_usage,
    execs,
    image_archives,
    images,
    networks,
    plugins,
    registries,
    swarm,
    system,
    volumes,
)
from runtime.api.router import Route

ROUTES: list[Route] = [
    *containers.ROUTES,
    *container_views.ROUTES,
    *container_streams.ROUTES,
    *container_files.ROUTES,
    *container_usage.ROUTES,
    *execs.ROUTES,
    *image_archives.ROUTES,
    *images.ROUTES,
    *networks.ROUTES,
    *volumes.ROUTES,
    *system.ROUTES,
    *disk_usage.ROUTES,
    *registries.ROUTES,
    *build.ROUTES,
    *plugins.ROUTES,
    *swarm.ROUTES,
]
