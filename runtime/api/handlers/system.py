"""/_ping, /version, /info and /events: see the Engine API, "System"."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from functools import lru_cache

from runtime.api import wire
from runtime.api.http1 import Answer, Request, Response, StreamResponse
from runtime.api.router import API_VERSION, MIN_API_VERSION, Route, json_response, version_text
from runtime.engine import event_filter
from runtime.engine.engine import Engine
from runtime.engine.events import HISTORY, Event
from runtime.errors import InvalidParameter


async def ping(engine: Engine, request: Request) -> Answer:
    headers = {
        "Builder-Version": "1",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Content-Type": "text/plain; charset=utf-8",
        "Pragma": "no-cache",
        "Swarm": "inactive",
    }
    return Response(200, b"OK" if request.method == "GET" else b"", headers)


async def version(engine: Engine, request: Request) -> Answer:
    return json_response(wire.version(version_text(API_VERSION), version_text(MIN_API_VERSION)))


async def info(engine: Engine, request: Request) -> Answer:
    debug = logging.getLogger().isEnabledFor(logging.DEBUG)
    firewall = await asyncio.to_thread(engine.networks.firewall_warnings)
    return json_response(wire.info(engine, request.api_version, debug, firewall))


async def events(engine: Engine, request: Request) -> Answer:
    wanted = event_filter.wanted(request.query.filters())
    since, until = request.query.text("since"), request.query.text("until")
    since_ns = wire.parse_timestamp(since) if since else None
    until_ns = wire.parse_timestamp(until) if until else None
    if until_ns is not None and until_ns < (since_ns or 0):
        raise InvalidParameter(f"`since` time ({since}) cannot be after `until` time ({until})")
    listener = engine.events.listen(since_ns, until_ns)

    async def lines() -> AsyncIterator[bytes]:
        async for batch in listener.batches():
            if chunk := b"".join(_line(event) for event in batch if wanted is None or wanted(event)):
                yield chunk

    return StreamResponse(lines(), headers={"Content-Type": "application/json"}, dropped=listener.dropped)


@lru_cache(maxsize=HISTORY)  # every reader gets the same bytes
def _line(event: Event) -> bytes:
    return json.dumps(wire.event(event), separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


ROUTES: list[Route] = [
    ("GET", "/_ping", ping),
    ("HEAD", "/_ping", ping),
    ("GET", "/version", version),
    ("GET", "/info", info),
    ("GET", "/events", events),
]
