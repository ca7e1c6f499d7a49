"""Images to and from registries: pull, push, search, /distribution and /auth (Engine API, "Image", "Distribution")."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from runtime.api import filters, wire
from runtime.api.errors import message_of
from runtime.api.http1 import Answer, Request, StreamResponse
from runtime.api.router import Route, json_response
from runtime.api.wire import bodies
from runtime.engine.distribution.service import Distribution, Transfer
from runtime.engine.engine import Engine
from runtime.errors import InvalidParameter, NotFound
from runtime.oci.image import parse_platform, platform_matches, platform_text
from runtime.oci.reference import DEFAULT_DOMAIN, Reference, parse, parse_name

if TYPE_CHECKING:
    from runtime.registry.transport import Credentials

SEARCH_FILTERS = ("is-automated", "is-official", "stars")
SEARCH_LIMIT = 25
HUB_KEY = "https://index.docker.io/v1/"  # what clients call docker.io
AUTH_FIELDS = ("serveraddress", "username", "password", "identitytoken")


def credentials_of(request: Request) -> Credentials:
    """X-Registry-Auth; a header that cannot be read is none, as for moby. See the Engine API, "Authentication"."""
    return _credentials(_header_document(request, "x-registry-auth"))


def credentials_by_domain(request: Request) -> Callable[[str], Credentials]:
    """X-Registry-Config: credentials by host, as the client has them; unreadable ones are none.

    Old configurations have URLs (`https://HOST/v1/`) in place of hosts.
    """
    document = _header_document(request, "x-registry-config")
    known = {name if name == HUB_KEY else _host_of(name): entry for name, entry in document.items()}

    def credentials(domain: str) -> Credentials:
        return _credentials(known.get(domain) or known.get(HUB_KEY if domain == DEFAULT_DOMAIN else ""))

    return credentials


def _header_document(request: Request, name: str) -> dict[str, Any]:
    text = request.headers.get(name, "")
    try:
        document = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _host_of(name: str) -> str:
    return name.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _credentials(document: Any) -> Credentials:
    from runtime.registry.transport import Credentials

    if not isinstance(document, dict):
        return Credentials()
    fields = {name.lower(): value for name, value in document.items() if isinstance(value, str)}
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


async def push(engine: Engine, request: Request) -> Answer:
    reference = parse_name(request.params["name"])
    if reference.digest:
        raise InvalidParameter("cannot push a digest reference")
    if tag := request.query.text("tag"):
        reference = _reference(reference.familiar_name(), tag)
    if text := request.query.text("platform"):
        _check_platform(engine, reference, text)
    transfer = await engine.distribution.push(reference, credentials_of(request))
    return _stream(engine.distribution, transfer)


def _check_platform(engine: Engine, reference: Reference, text: str) -> None:
    """An image here has one platform: another cannot be chosen. `text` is JSON."""
    wanted = wire.platform_of(text)
    image = engine.images.get(reference.familiar())
    if not platform_matches(wanted, image.platform):
        raise NotFound(
            f"image with reference {reference.familiar()} was found but does not provide the specified platform "
            f"({platform_text(wanted)})"
        )


async def distribution(engine: Engine, request: Request) -> Answer:
    from runtime.engine.distribution.inspect import inspect

    reference = parse(request.params["name"])
    credentials = credentials_of(request)
    descriptor, platforms = await asyncio.to_thread(inspect, reference, credentials, engine.settings.registries)
    return json_response({"Descriptor": descriptor, "Platforms": platforms})


async def search(engine: Engine, request: Request) -> Answer:
    from runtime.engine.distribution.inspect import find

    term, limit = request.query.text("term"), request.query.number("limit") or SEARCH_LIMIT
    chosen = filters.read(request.query, SEARCH_FILTERS)
    settings = engine.settings.registries
    found = await asyncio.to_thread(find, term, limit, chosen, credentials_of(request), settings)
    return json_response([wire.found_image(image) for image in found])


async def auth(engine: Engine, request: Request) -> Answer:
    from runtime.registry.login import Credentials, login  # requests is large, and hardly ever wanted

    body = bodies.REGISTRY_LOGIN.read(await request.json())
    address, username, password, token = (body.get(name) or "" for name in AUTH_FIELDS)
    credentials = Credentials(username, password, token)
    identity_token = await asyncio.to_thread(login, address, credentials, engine.settings.registries)
    return json_response({"Status": "Login Succeeded", "IdentityToken": identity_token})


async def verify(engine: Engine, request: Request) -> Answer:
    """Ours, not Docker's: `image` (any number; all if none) and `repair`; see docs/api.md."""
    names = request.query.texts("image")
    found = [engine.images.get(name) for name in names] if names else engine.images.all()
    chosen = list({image.id: image for image in found}.values())
    transfer = await engine.distribution.verify(
        chosen, request.query.flag("repair"), credentials_by_domain(request), engine.image_service.running_on
    )
    return _stream(engine.distribution, transfer)


ROUTES: list[Route] = [
    ("POST", "/wherry/images/verify", verify),
    ("POST", "/auth", auth),
    ("POST", "/images/{name:path}/push", push),
    ("GET", "/images/search", search),
    ("GET", "/distribution/{name:path}/json", distribution),
]
