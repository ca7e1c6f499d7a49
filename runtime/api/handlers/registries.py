"""Images to and from registries: pull, push, search, /distribution and /auth (Engine API, "Image", "Distribution")."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from runtime.api import wire
from runtime.api.errors import message_of
from runtime.api.http1 import Answer, Request, StreamResponse
from runtime.api.router import Route, json_response
from runtime.engine.distribution.service import Distribution, Transfer
from runtime.engine.engine import Engine
from runtime.errors import InvalidParameter
from runtime.oci.image import parse_platform
from runtime.oci.reference import Reference, parse_name

if TYPE_CHECKING:
    from runtime.registry.transport import Credentials

AUTH_FIELDS = ("serveraddress", "username", "password", "identitytoken")


def credentials_of(request: Request) -> Credentials:
    """X-Registry-Auth; a header that cannot be read is none, as for moby. See the Engine API, "Authentication"."""
    from runtime.registry.transport import Credentials

    text = request.headers.get("x-registry-auth", "")
    try:
        document: Any = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) or b"{}")
        fields = {name.lower(): value for name, value in document.items() if isinstance(value, str)}
    except (ValueError, AttributeError):
        return Credentials()
    username, password = fields.get("username", ""), fields.get("password", "")
    if not username and (auth := fields.get("auth", "")):
        try:
            username, _, password = base64.b64decode(auth).decode().partition(":")
        except ValueError:
            pass
    return Credentials(username, password, fields.get("identitytoken", ""), fields.get("registrytoken", ""))


async def pull(engine: Engine, request: Request) -> Answer:
    """`fromImage`; called by the handler of /images/create."""
    reference = _reference(request.query.text("fromImage"), request.query.text("tag"))
    platform = parse_platform(text) if (text := request.query.text("platform")) else None
    transfer = await engine.distribution.pull(reference, platform, credentials_of(request))
    return _stream(engine.distribution, transfer)


def _reference(name: str, tag: str) -> Reference:
    """Without tag and digest: all tags. `tag` may be a digest."""
    reference = parse_name(name)
    if not tag:
        return reference
    separator = "@" if ":" in tag else ":"
    return parse_name(f"{reference.familiar_name()}{separator}{tag}")


def _stream(distribution: Distribution, transfer: Transfer) -> StreamResponse:
    return StreamResponse(_lines(distribution, transfer), headers={"Content-Type": "application/json"})


async def _lines(distribution: Distribution, transfer: Transfer) -> AsyncIterator[bytes]:
    try:
        async for batch in transfer.batches():
            yield wire.progress_lines(batch)
        if transfer.error:
            yield wire.error_line(message_of(transfer.error))
    finally:
        distribution.end(transfer)


async def auth(engine: Engine, request: Request) -> Answer:
    from runtime.registry.login import Credentials, login  # requests is large, and hardly ever wanted

    body = {name.lower(): value or "" for name, value in (await request.json()).items()}
    address, username, password, token = (body.get(name, "") for name in AUTH_FIELDS)
    if not all(isinstance(value, str) for value in (address, username, password, token)):
        raise InvalidParameter(f"invalid auth configuration: {', '.join(AUTH_FIELDS)} are strings")
    credentials = Credentials(username, password, token)
    identity_token = await asyncio.to_thread(login, address, credentials, engine.settings.registries)
    return json_response({"Status": "Login Succeeded", "IdentityToken": identity_token})


ROUTES: list[Route] = [("POST", "/auth", auth)]
