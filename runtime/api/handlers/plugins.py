"""/plugins: there are none, and none can be installed. See the Engine API, "Plugin"."""

from __future__ import annotations

from runtime.api.handlers.swarm import refuse
from runtime.api.http1 import Answer, Request
from runtime.api.router import Route, json_response
from runtime.engine.engine import Engine
from runtime.errors import NotFound, NotSupported

NO_PLUGINS = NotSupported(
    "plugins are not supported by Wherry: volumes, networks and logs are served by the drivers it comes with"
)


async def list_plugins(engine: Engine, request: Request) -> Answer:
    return json_response([])


async def unknown(engine: Engine, request: Request) -> Answer:
    raise NotFound(f'plugin "{request.params["name"]}" not found')


ROUTES: list[Route] = [
    ("GET", "/plugins", list_plugins),
    ("GET", "/plugins/privileges", refuse(NO_PLUGINS)),
    ("POST", "/plugins/pull", refuse(NO_PLUGINS)),
    ("POST", "/plugins/create", refuse(NO_PLUGINS)),
    ("GET", "/plugins/{name:path}/json", unknown),
    ("DELETE", "/plugins/{name:path}", unknown),
    *(
        ("POST", f"/plugins/{{name:path}}/{operation}", unknown)
        for operation in ("enable", "disable", "upgrade", "push", "set")
    ),
]
