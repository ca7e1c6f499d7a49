"""/images: see the Engine API, "Image"."""

from __future__ import annotations

import asyncio
import fnmatch
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from runtime.api import filters, wire
from runtime.api.handlers import registries
from runtime.api.http1 import Answer, Request, StreamResponse
from runtime.api.router import Route, empty_response, json_response
from runtime.api.thread_streams import body_file
from runtime.content.image import Image
from runtime.engine.engine import Engine
from runtime.engine.events import Event
from runtime.errors import InvalidParameter, NotSupported

FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")
PRUNE_FILTERS = ("dangling", "label", "label!", "until")

Result = TypeVar("Result")


async def list_images(engine: Engine, request: Request) -> Answer:
    chosen = filters.read(request.query, FILTERS)
    wanted = _wanted(engine, chosen)
    uses = Counter(container.image_id for container in engine.containers.all())
    shared = engine.shared_sizes() if request.query.flag("shared-size") else {}
    images = sorted(filter(wanted, engine.images.all()), key=lambda image: image.created, reverse=True)
    return json_response([wire.image_summary(image, uses[image.id], shared.get(image.id, -1)) for image in images])


def _wanted(engine: Engine, chosen: dict[str, list[str]]) -> Callable[[Image], bool]:
    """`before` and `since` name images: those made before, or after, that one. Raises NotFound for an unknown one."""
    before = [engine.images.get(name) for name in chosen.get("before", [])]
    since = [engine.images.get(name) for name in chosen.get("since", [])]
    dangling = filters.boolean(chosen, "dangling", False) if "dangling" in chosen else None
    until_ns, patterns = filters.until_ns(chosen), chosen.get("reference")

    def wanted(image: Image) -> bool:
        made = wire.image_created_s(image)
        return (
            (dangling is None or dangling != bool(image.references))
            and (until_ns is None or made * 10**9 <= until_ns)
            and all(made < wire.image_created_s(other) for other in before)
            and all(made > wire.image_created_s(other) for other in since)
            and (not patterns or any(_fits(image, pattern) for pattern in patterns))
            and filters.has_labels(chosen, _labels(image))
        )

    return wanted


def _fits(image: Image, pattern: str) -> bool:
    names = [*image.references, *(reference.rpartition(":")[0] for reference in image.references)]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _labels(image: Image) -> dict[str, str]:
    return (image.config.get("config") or {}).get("Labels") or {}


async def inspect(engine: Engine, request: Request) -> Answer:
    return json_response(wire.image_inspect(engine.images.get(request.params["name"])))


async def history(engine: Engine, request: Request) -> Answer:
    image = engine.images.get(request.params["name"])
    entries = list(image.config.get("history") or [])
    return json_response(
        [
            {
                "Id": image.id if number == len(entries) - 1 else "<missing>",
                "Created": wire.parse_timestamp(entry["created"]) // 10**9 if entry.get("created") else 0,
                "CreatedBy": entry.get("created_by", ""),
                "Tags": list(image.references) if number == len(entries) - 1 else None,
                "Size": 0,
                "Comment": entry.get("comment", ""),
            }
            for number, entry in reversed(list(enumerate(entries)))
        ]
    )


async def load(engine: Engine, request: Request) -> Answer:
    loaded = await _feed_thread(request, engine.images.load)
    for entry in loaded:
        for reference in entry.references or (entry.image.id,):
            engine.events.publish(Event("image", "load", entry.image.id, {"name": reference}))
    lines = [f"Loaded image: {reference}" for entry in loaded for reference in entry.references]
    lines += [f"Loaded image ID: {entry.image.id}" for entry in loaded if not entry.references]
    body = b"".join(_line({"stream": f"{line}\n"}) for line in lines)
    return StreamResponse(_once(body), headers={"Content-Type": "application/json"})


async def create(engine: Engine, request: Request) -> Answer:
    """`fromSrc=-` imports the body's tar; `fromImage` pulls."""
    source = request.query.text("fromSrc")
    if request.query.text("fromImage"):
        return await registries.pull(engine, request)
    if source != "-":
        raise NotSupported("images are imported from the request's body only: use `docker import - NAME`")
    repository, tag = request.query.text("repo"), request.query.text("tag")
    reference = f"{repository}:{tag}" if repository and tag else repository or None
    changes, message = request.query.texts("changes"), request.query.text("message")
    image = await _feed_thread(request, lambda stream: engine.images.import_tar(stream, reference, changes, message))
    engine.events.publish(Event("image", "import", image.id, {"name": reference or image.id}))
    return StreamResponse(_once(_line({"status": image.id})), headers={"Content-Type": "application/json"})


async def tag(engine: Engine, request: Request) -> Answer:
    repository, tag = request.query.text("repo"), request.query.text("tag")
    if not repository:
        raise InvalidParameter("invalid reference format: repository name must have at least one component")
    engine.tag_image(request.params["name"], f"{repository}:{tag}" if tag else repository)
    return empty_response(201)


async def remove(engine: Engine, request: Request) -> Answer:
    done = engine.remove_image(request.params["name"], request.query.flag("force"))
    return json_response([{what: which} for what, which in done])


async def prune(engine: Engine, request: Request) -> Answer:
    chosen = filters.read(request.query, PRUNE_FILTERS)
    dangling_only = filters.boolean(chosen, "dangling", True)
    until_ns = filters.until_ns(chosen)

    def wanted(image: Image) -> bool:
        return (
            not (dangling_only and image.references)
            and (until_ns is None or wire.image_created_s(image) * 10**9 <= until_ns)
            and filters.has_labels(chosen, _labels(image))
        )

    done, freed_bytes = engine.prune_images(wanted)
    return json_response(
        {"ImagesDeleted": [{what: which} for what, which in done] or None, "SpaceReclaimed": freed_bytes}
    )


def _line(document: dict[str, object]) -> bytes:
    return json.dumps(document).encode() + b"\r\n"


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _feed_thread(request: Request, work: Callable[[io.BufferedReader], Result]) -> Result:
    """Run `work` on the body in a worker thread; raises what it raises."""
    return await asyncio.to_thread(work, body_file(request.body_chunks()))


ROUTES: list[Route] = [
    ("GET", "/images/json", list_images),
    ("POST", "/images/load", load),
    ("POST", "/images/create", create),
    ("POST", "/images/prune", prune),
    ("GET", "/images/{name:path}/json", inspect),
    ("GET", "/images/{name:path}/history", history),
    ("POST", "/images/{name:path}/tag", tag),
    ("DELETE", "/images/{name:path}", remove),
]
