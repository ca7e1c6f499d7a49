"""What a registry says about an image that need not be here: its digest and platforms, and what it is found by."""

from __future__ import annotations

from typing import Any

from runtime.content.documents import parse_config, parse_index, parse_manifest
from runtime.errors import InvalidParameter, NotFound, PermissionDenied, Unauthorized, WherryError
from runtime.oci.image import INDEX_TYPES, Descriptor, Platform
from runtime.oci.reference import Reference
from runtime.registry.cancellation import Cancellation
from runtime.registry.client import Repository
from runtime.registry.errors import RegistryError
from runtime.registry.hosts import RegistrySettings
from runtime.registry.search import FoundImage, search
from runtime.registry.transport import Credentials

_KINDS: dict[int, type[WherryError]] = {401: Unauthorized, 403: PermissionDenied, 404: NotFound}


def inspect(
    reference: Reference, credentials: Credentials, settings: RegistrySettings
) -> tuple[Descriptor, list[Platform]]:
    """Blocking. Raises Unauthorized, PermissionDenied, NotFound, InvalidParameter, RegistryError."""
    name = reference.digest or reference.tag or "latest"
    try:
        with Repository(reference, credentials, settings, Cancellation()) as repository:
            fetched = repository.manifest(name)
            descriptor = Descriptor(mediaType=fetched.media_type, digest=fetched.digest, size=fetched.size_bytes)
            if fetched.media_type in INDEX_TYPES:
                entries = parse_index(fetched.data)["manifests"]
                return descriptor, [entry["platform"] for entry in entries if "platform" in entry]
            config = parse_manifest(fetched.data)["config"]
            document = parse_config(repository.document(config["digest"], config["size"]))
    except RegistryError as error:
        if kind := _KINDS.get(error.status):
            raise kind(str(error)) from error
        raise
    platform = Platform(architecture=document["architecture"], os=document["os"])
    if variant := document.get("variant"):
        platform["variant"] = variant
    return descriptor, [platform]


def find(
    term: str, limit: int, filters: dict[str, list[str]], credentials: Credentials, settings: RegistrySettings
) -> list[FoundImage]:
    """Blocking; `filters` as of GET /images/search. Raises InvalidParameter, RegistryError."""
    if not 1 <= limit <= 100:
        raise InvalidParameter(f"limit {limit} is outside the range of [1, 100]")
    stars = max((_stars(text) for text in filters.get("stars", [])), default=0)
    official = _boolean(filters, "is-official")
    if _boolean(filters, "is-automated"):
        return []  # no registry has automated builds any more; moby answers the same
    found = search(term, limit, credentials, settings)
    return [image for image in found if image.stars >= stars and (official is None or image.is_official == official)]


def _stars(text: str) -> int:
    if not text.isdigit():
        raise InvalidParameter(f"invalid filter 'stars=[{text}]'")
    return int(text)


def _boolean(filters: dict[str, list[str]], name: str) -> bool | None:
    values: Any = filters.get(name)
    if not values:
        return None
    if len(values) != 1 or values[0].lower() not in ("1", "0", "t", "f", "true", "false"):
        raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")
    return values[0].lower() in ("1", "t", "true")
