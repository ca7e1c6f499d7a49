"""/build and its cache: see the Engine API, "Image"."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from runtime.api import filters, wire
from runtime.api.errors import message_of
from runtime.api.handlers.registries import credentials_by_domain
from runtime.api.handlers.swarm import refuse
from runtime.api.http1 import Answer, Hijacked, Request, StreamResponse
from runtime.api.router import Route, empty_response, json_response
from runtime.api.thread_streams import body_file, produced
from runtime.engine.build.cache import CacheEntry
from runtime.engine.build.output import ImageMade, Message
from runtime.engine.engine import Engine
from runtime.engine.options.build import build_request
from runtime.errors import InvalidParameter, NotSupported, WherryError

log = logging.getLogger(__name__)

NO_BUILDKIT = NotSupported("BuildKit is not part of Wherry: set DOCKER_BUILDKIT=0, or use wherry build")
SECRETS_HEADER = "x-wherry-secrets"  # ours: what `wherry build --secret` gives, as {id: base64} in base64url
PRUNE_FILTERS = ("id", "inuse", "parent", "private", "shared", "type", "until", "unused-for", "description")
IGNORED_FILTERS = ("label", "label!")  # by moby too: `docker system prune --filter label=...` sends them here as well


async def build(engine: Engine, request: Request) -> Answer:
    wanted = build_request(request.query, request.headers.get(SECRETS_HEADER, ""))
    credentials = credentials_by_domain(request)
    messages = engine.builds.build(wanted, body_file(request.body_chunks()), credentials)
    first = await anext(messages, None)  # what fails before is answered with a status
    return StreamResponse(_lines(first, messages, wanted.quiet), headers={"Content-Type": "application/json"})


async def lend_agent(engine: Engine, request: Request) -> Answer:
    """Ours: the connection becomes an SSH agent of the client, for the builds that name its token."""
    token = request.query.text("token")
    if not token:
        raise InvalidParameter("an SSH agent is lent under a token: there is none")
    _, reader, writer = await request.hijack("application/vnd.wherry.ssh-agent")
    await engine.builds.agents.lend(token, reader, writer)
    return Hijacked()


async def _lines(first: Message | None, messages: AsyncIterator[Message], quiet: bool) -> AsyncIterator[bytes]:
    image_id = ""
    try:
        if first is not None and (line := _line(first, quiet)):
            yield line
        async for message in messages:
            if isinstance(message, ImageMade):
                image_id = message.image_id
            if line := _line(message, quiet):
                yield line
        if quiet:
            yield wire.message_line({"stream": f"{image_id}\n"})
    except (WherryError, OSError) as error:
        log.debug("a build failed: %s", error)
        yield wire.build_error(error, message_of(error))
    finally:
        await messages.aclose()  # type: ignore[attr-defined]


def _line(message: Message, quiet: bool) -> bytes:
    return b"" if quiet else wire.build_line(message)


async def export_cache(engine: Engine, request: Request) -> Answer:
    """Ours: the cache of an image just built, as a tar of an OCI layout."""
    write = engine.builds.built.writer(request.query.text("image"), request.query.text("mode") or "min")
    chunks = produced(lambda out: asyncio.to_thread(write, out))
    return StreamResponse(chunks, headers={"Content-Type": "application/x-tar"})


async def prune(engine: Engine, request: Request) -> Answer:
    chosen = filters.read(request.query, (*PRUNE_FILTERS, *IGNORED_FILTERS))
    until_ns = filters.until_ns(chosen)
    query = request.query
    keep_bytes = max(query.number(name) or 0 for name in ("keep-storage", "reserved-space", "max-used-space"))

    def wanted(key: str, entry: CacheEntry) -> bool:
        return (
            (until_ns is None or entry.used_ns <= until_ns)
            and ("id" not in chosen or any(key.startswith(id) for id in chosen["id"]))
            and ("type" not in chosen or wire.CACHE_TYPE in chosen["type"])
            and ("parent" not in chosen or entry.parent in chosen["parent"])
            and not filters.boolean(chosen, "inuse", False)
        )

    removed, freed_bytes = await engine.builds.prune(wanted, keep_bytes, query.flag("all"))
    return json_response({"CachesDeleted": removed or None, "SpaceReclaimed": freed_bytes})


async def cancel(engine: Engine, request: Request) -> Answer:
    """Only builds with an id can be cancelled, and those are BuildKit's: others end with their connection."""
    return empty_response(204)


ROUTES: list[Route] = [
    ("POST", "/build", build),
    ("POST", "/build/agents", lend_agent),
    ("GET", "/build/cache", export_cache),
    ("POST", "/build/prune", prune),
    ("POST", "/build/cancel", cancel),
    ("POST", "/session", refuse(NO_BUILDKIT)),
    ("POST", "/grpc", refuse(NO_BUILDKIT)),
]
