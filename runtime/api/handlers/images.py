"""/images: what is here, under which names, and away with it (Engine API, "Image")."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from runtime.api import filters, wire
from runtime.api.http1 import Answer, Request
from runtime.api.router import Route, empty_response, json_response
from runtime.content.image import Image
from runtime.engine.engine import Engine
from runtime.engine.platforms import require_platform
from runtime.errors import InvalidParameter

FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")
PRUNE_FILTERS = ("dangling", "label", "label!", "until")
MANIFESTS_SINCE = (1, 47)
INSPECT_MANIFESTS_SINCE = (1, 48)
INSPECT_PLATFORM_SINCE = (1, 49)
HISTORY_PLATFORM_SINCE = (1, 48)


async def list_images(engine: Engine, request: Request) -> Answer:
    chosen = filters.read(request.query, FILTERS)
    wanted = _wanted(engine, chosen)
    patterns = [_pattern(text) for text in chosen.get("reference", [])]
    uses = Counter(container.image_id for container in engine.containers.all())
    shared = engine.image_service.shared_sizes() if request.query.flag("shared-size") else {}
    manifests = request.query.flag("manifests") and request.api_version >= MANIFESTS_SINCE
    listed = []
    hidden = set() if request.query.flag("all") else engine.images.parents()  # those without a name
    for image in sorted(filter(wanted, engine.images.all()), key=wire.image_created_ns, reverse=True):
        if image.id in hidden and not image.references and not image.repo_digests:
            continue
        summary = wire.image_summary(image, request.api_version, uses[image.id], shared.get(image.id, -1))
        if patterns:
            for names in ("RepoTags", "RepoDigests"):
                summary[names] = [name for name in summary[names] if _fits(name, patterns)]
            if not summary["RepoTags"] and not summary["RepoDigests"]:
                continue
        if manifests:
            summary["Manifests"] = [wire.image_manifest(image, _users(engine, image))]
            summary["Size"] = summary["Manifests"][0]["Size"]["Total"]  # as clients add up what they show of it
        listed.append(summary)
    return json_response(listed)


def _wanted(engine: Engine, chosen: dict[str, list[str]]) -> Callable[[Image], bool]:
    """`before` and `since` name images: those made before, or after, that one. Raises NotFound for an unknown one."""
    before = [wire.image_created_ns(engine.images.get(name)) for name in chosen.get("before", [])]
    since = [wire.image_created_ns(engine.images.get(name)) for name in chosen.get("since", [])]
    dangling = filters.boolean(chosen, "dangling", False) if "dangling" in chosen else None
    until_ns = filters.until_ns(chosen)
    parents = engine.images.parents()

    def wanted(image: Image) -> bool:
        made = wire.image_created_ns(image)
        return (
            (dangling is None or dangling == _is_dangling(image, dangling, parents))
            and (until_ns is None or made <= until_ns)
            and all(made < other for other in before)
            and all(made > other for other in since)
            and filters.has_labels(chosen, _labels(image))
        )

    return wanted


def _is_dangling(image: Image, asked: bool, parents: Collection[str]) -> bool:
    """As moby: with a digest but no tag it is listed either way; what others were made of is not dangling."""
    if asked:
        return not image.references and image.id not in parents
    return not image.references and not image.repo_digests


def _pattern(text: str) -> re.Pattern[str]:
    """Go's path.Match: `*` and `?` stop at slashes. Raises InvalidParameter."""
    out, position = "", 0
    while position < len(text):
        match = _GLOB.match(text, position)
        if match is None:
            raise InvalidParameter(f"invalid reference filter {text!r}: syntax error in pattern")
        out += _GLOB_PARTS.get(match[0]) or (match[0] if match["range"] else re.escape(match["escaped"] or match[0]))
        position = match.end()
    try:
        return re.compile(out)
    except re.error:
        raise InvalidParameter(f"invalid reference filter {text!r}: syntax error in pattern") from None


_GLOB = re.compile(r"\*|\?|(?P<range>\[\^?[^\[\]\\]+\])|\\(?P<escaped>.)|[^*?\[\]\\]")
_GLOB_PARTS = {"*": "[^/]*", "?": "[^/]"}


def _fits(name: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    """As reference.FamiliarMatch: the whole name, or the repository alone."""
    repository = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
    return any(pattern.fullmatch(name) or pattern.fullmatch(repository) for pattern in patterns)


def _labels(image: Image) -> dict[str, str]:
    return (image.config.get("config") or {}).get("Labels") or {}


def _users(engine: Engine, image: Image) -> list[str]:
    return [container.id for container in engine.containers.users_of_image(image)]


async def inspect(engine: Engine, request: Request) -> Answer:
    manifests = request.query.flag("manifests") and request.api_version >= INSPECT_MANIFESTS_SINCE
    if manifests and request.query.text("platform"):
        raise InvalidParameter("conflicting options: manifests and platform options cannot both be set")
    image = _image_for_platform(engine, request, INSPECT_PLATFORM_SINCE)
    document = wire.image_inspect(image, request.api_version, engine.images.directories(image))
    if manifests:
        document["Manifests"] = [wire.image_manifest(image, _users(engine, image))]
    return json_response(document)


def _image_for_platform(engine: Engine, request: Request, since: tuple[int, int]) -> Image:
    """The image named, if it is for the `platform` asked for. Raises NotFound, InvalidParameter."""
    name, text = request.params["name"], request.query.text("platform")
    image = engine.images.get(name)
    if text and request.api_version >= since:
        require_platform(image, name, wire.platform_of(text))
    return image


async def history(engine: Engine, request: Request) -> Answer:
    image = _image_for_platform(engine, request, HISTORY_PLATFORM_SINCE)
    entries = engine.image_service.history(image)
    return json_response([wire.image_history(*entry) for entry in entries])


async def tag(engine: Engine, request: Request) -> Answer:
    repository, tag = request.query.text("repo"), request.query.text("tag")
    if not repository:
        raise InvalidParameter("invalid reference format: repository name must have at least one component")
    engine.image_service.tag(request.params["name"], repository, tag)
    return empty_response(201)


async def remove(engine: Engine, request: Request) -> Answer:
    done = engine.image_service.remove(
        request.params["name"], request.query.flag("force"), not request.query.flag("noprune")
    )
    return json_response([{what: which} for what, which in done])


async def prune(engine: Engine, request: Request) -> Answer:
    chosen = filters.read(request.query, PRUNE_FILTERS)
    dangling_only = filters.boolean(chosen, "dangling", True)
    until_ns = filters.until_ns(chosen)

    def wanted(image: Image) -> bool:
        return (
            not (dangling_only and image.references)
            and (until_ns is None or wire.image_created_ns(image) <= until_ns)
            and filters.has_labels(chosen, _labels(image))
        )

    done, freed_bytes = engine.image_service.prune(wanted)
    return json_response(
        {"ImagesDeleted": [{what: which} for what, which in done] or None, "SpaceReclaimed": freed_bytes}
    )


ROUTES: list[Route] = [
    ("GET", "/images/json", list_images),
    ("POST", "/images/prune", prune),
    ("GET", "/images/{name:path}/json", inspect),
    ("GET", "/images/{name:path}/history", history),
    ("POST", "/images/{name:path}/tag", tag),
    ("DELETE", "/images/{name:path}", remove),
]
