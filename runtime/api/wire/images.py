"""Images: the Engine API's ImageSummary and ImageInspect."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runtime.api.wire.times import NEVER, parse_timestamp
from runtime.content.image import Image
from runtime.errors import InvalidParameter
from runtime.oci.image import Platform

if TYPE_CHECKING:
    from runtime.registry.search import FoundImage


def image_created_s(image: Image) -> int:
    try:
        return parse_timestamp(image.created) // 1_000_000_000 if image.created else 0
    except InvalidParameter:
        return 0


def platform_of(text: str) -> Platform:
    """The `platform` parameter in its JSON form. Raises InvalidParameter."""
    try:
        document = json.loads(text)
        platform = Platform(os=str(document.get("os", "")), architecture=str(document.get("architecture", "")))
        if variant := document.get("variant"):
            platform["variant"] = str(variant)
    except (ValueError, AttributeError):
        raise InvalidParameter(f"failed to parse platform: {text!r} is not a JSON object") from None
    if not platform["os"] or not platform["architecture"]:
        raise InvalidParameter("both OS and Architecture must be provided")
    return platform


def found_image(image: FoundImage) -> dict[str, Any]:
    return {
        "star_count": image.stars,
        "is_official": image.is_official,
        "name": image.name,
        "is_automated": False,
        "description": image.description,
    }


def image_summary(image: Image, containers: int, shared_bytes: int = -1) -> dict[str, Any]:
    """`shared_bytes`: of layers that other images have too, -1 for not asked."""
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.references),
        "RepoDigests": list(image.repo_digests),
        "Created": image_created_s(image),
        "Size": image.size_bytes,
        "SharedSize": shared_bytes,
        "VirtualSize": image.size_bytes,
        "Labels": (image.config.get("config") or {}).get("Labels") or {},
        "Containers": containers,
    }


def image_inspect(image: Image) -> dict[str, Any]:
    settings: Any = image.config.get("config") or {}
    return {
        "Id": image.id,
        "RepoTags": list(image.references),
        "RepoDigests": list(image.repo_digests),
        "Parent": "",
        "Comment": (image.config.get("history") or [{}])[-1].get("comment", ""),
        "Created": image.created or NEVER,
        "DockerVersion": "",
        "Author": image.config.get("author", ""),
        "Config": dict(settings),
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size_bytes,
        "VirtualSize": image.size_bytes,
        "GraphDriver": {"Name": "overlay2", "Data": None},
        "RootFS": {
            "Type": "layers",
            "Layers": list((image.config.get("rootfs") or {}).get("diff_ids") or []),
        },
        "Metadata": {"LastTagTime": image.tagged_at or NEVER},
    }
