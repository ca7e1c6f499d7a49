"""Images: the Engine API's ImageSummary and ImageInspect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.api.wire.times import NEVER, parse_timestamp
from runtime.content.image import Image
from runtime.errors import InvalidParameter
from runtime.oci.image import History, Platform

if TYPE_CHECKING:
    from runtime.registry.search import FoundImage


Version = tuple[int, int]
EMPTY_NAMES_SINCE = (1, 43)
NO_VIRTUAL_SIZE_SINCE = (1, 44)
NO_CREATED_SINCE = (1, 44)
NO_CONTAINER_SINCE = (1, 45)
DESCRIPTOR_SINCE = (1, 48)
OCI_CONFIG_SINCE = (1, 50)
# What a container's configuration has and an image's has not; older clients find it there all the same.
_LEGACY_CONFIG: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


def image_created_ns(image: Image) -> int:
    """Since 1970; 0 for what is no time, for an image may say anything."""
    return _nanoseconds(image.created)


def _nanoseconds(text: str) -> int:
    try:
        return parse_timestamp(text) if text else 0
    except InvalidParameter:
        return 0


def _seconds(text: str) -> int:
    return _nanoseconds(text) // 1_000_000_000


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


def image_summary(image: Image, api_version: Version, containers: int, shared_bytes: int = -1) -> dict[str, Any]:
    """`shared_bytes`: of layers that other images have too, -1 for not asked."""
    document = {
        "Id": image.id,
        "ParentId": image.parent,
        "RepoTags": list(image.references),
        "RepoDigests": list(image.repo_digests),
        "Created": _seconds(image.created),
        "Size": image.size_bytes,
        "SharedSize": shared_bytes,
        "Labels": (image.config.get("config") or {}).get("Labels") or {},
        "Containers": containers,
    }
    if api_version < NO_VIRTUAL_SIZE_SINCE:
        document["VirtualSize"] = image.size_bytes
    if api_version < EMPTY_NAMES_SINCE and not image.references and not image.repo_digests:
        document |= {"RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}
    return document


def image_inspect(image: Image, api_version: Version, directories: Sequence[Path]) -> dict[str, Any]:
    """`directories`: of the unpacked layers, top first."""
    history = image.config.get("history") or [{}]
    document = {
        "Id": image.id,
        "RepoTags": list(image.references),
        "RepoDigests": list(image.repo_digests),
        "Parent": image.parent,
        "Comment": image.config.get("comment") or history[-1].get("comment", ""),
        "Created": image.created or (NEVER if api_version < NO_CREATED_SINCE else ""),
        "DockerVersion": image.config.get("docker_version", ""),
        "Author": image.config.get("author", ""),
        "Config": _config(image, api_version),
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size_bytes,
        "GraphDriver": {"Data": _graph_data(directories), "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": list(image.config["rootfs"]["diff_ids"])},
        "Metadata": {"LastTagTime": image.tagged_at or NEVER},
    }
    if variant := image.config.get("variant"):
        document["Variant"] = variant
    if os_version := image.config.get("os.version"):
        document["OsVersion"] = os_version
    if api_version < NO_VIRTUAL_SIZE_SINCE:
        document["VirtualSize"] = image.size_bytes
    if api_version < NO_CONTAINER_SINCE:
        document["Container"] = image.config.get("container", "")
        document["ContainerConfig"] = {**_LEGACY_CONFIG, **image.config.get("container_config", {})}
    if api_version >= DESCRIPTOR_SINCE:
        document["Descriptor"] = dict(image.manifest)
    return document


def _config(image: Image, api_version: Version) -> dict[str, Any]:
    settings: dict[str, Any] = dict(image.config.get("config") or {})
    if api_version < OCI_CONFIG_SINCE:
        settings = {**_LEGACY_CONFIG, **settings}
    return {"OnBuild": None, **settings}  # clients read it without looking whether it is there


def _graph_data(directories: Sequence[Path]) -> dict[str, str] | None:
    """As overlay2 tells it; nobody mounts these, so the merged and work directories are names only."""
    if not directories:
        return None
    top = directories[0].parent
    data = {"MergedDir": str(top / "merged"), "UpperDir": str(directories[0]), "WorkDir": str(top / "work")}
    if len(directories) > 1:
        data["LowerDir"] = ":".join(map(str, directories[1:]))
    return data


def image_manifest(image: Image, containers: Sequence[str]) -> dict[str, Any]:
    """ImageManifestSummary: the one manifest an image here has."""
    content = image.manifest["size"] + sum(layer["size"] for layer in image.layers)
    return {
        "ID": image.manifest_digest,
        "Descriptor": dict(image.manifest),
        "Available": True,
        "Size": {"Content": content, "Total": content + image.size_bytes},
        "Kind": "image",
        "ImageData": {
            "Platform": image.platform,
            "Containers": list(containers),
            "Size": {"Unpacked": image.size_bytes},
        },
    }


def image_history(entry: History, size_bytes: int, image: Image | None) -> dict[str, Any]:
    """`image`: the one that the step made, if it is here."""
    return {
        "Id": image.id if image else "<missing>",
        "Created": _seconds(entry.get("created", "")),
        "CreatedBy": entry.get("created_by", ""),
        "Tags": (list(image.references) or None) if image else None,
        "Size": size_bytes,
        "Comment": entry.get("comment", ""),
    }
