"""/auth: `docker login`. See the Engine API, "System"."""

from __future__ import annotations

import asyncio

from runtime.api.http1 import Answer, Request
from runtime.api.router import Route, json_response
from runtime.engine.engine import Engine
from runtime.errors import InvalidParameter

FIELDS = ("serveraddress", "username", "password", "identitytoken")


async def auth(engine: Engine, request: Request) -> Answer:
    from runtime.registry.login import Credentials, login  # requests is large, and hardly ever wanted

    body = {name.lower(): value or "" for name, value in (await request.json()).items()}
    address, username, password, token = (body.get(name, "") for name in FIELDS)
    if not all(isinstance(value, str) for value in (address, username, password, token)):
        raise InvalidParameter(f"invalid auth configuration: {', '.join(FIELDS)} are strings")
    identity_token = await asyncio.to_thread(login, address, Credentials(username, password, token))
    return json_response({"Status": "Login Succeeded", "IdentityToken": identity_token})


ROUTES: list[Route] = [("POST", "/auth", auth)]
