"""From a name to one image's manifest in a registry, and moby's sentences for what is not there."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.content.documents import parse_config, parse_index, parse_manifest
from runtime.errors import InvalidParameter, NotFound, WherryError
from runtime.oci.image import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    image_for,
    platform_of_host,
    platform_text,
)
from runtime.oci.reference import Reference
from runtime.registry.client import Fetched, Repository
from runtime.registry.errors import DENIED, MANIFEST_UNKNOWN, NAME_UNKNOWN, UNAUTHORIZED, RegistryError

_INDEX_DEPTH_MAX = 4
_FOREIGN = ("application/vnd.docker.image.rootfs.foreign.diff.tar", "application/vnd.oci.image.layer.nondistributable.")
_CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",  # of very old clients
    "",
)


@dataclass(frozen=True)
class Found:
    """An image in a registry. `digest`: what its name stands for, of the index where there is one."""

    digest: str
    manifest: Manifest
    manifest_bytes: bytes
    config: ImageConfig
    config_bytes: bytes


def find_image(repository: Repository, top: Fetched, platform: Platform | None) -> Found:
    """Verified down to the configuration. Raises NotFound (no such platform), InvalidParameter, RegistryError."""
    fetched = _image_manifest(repository, top, platform or platform_of_host())
    manifest = parse_manifest(fetched.data)
    config_type = manifest["config"].get("mediaType", "")
    if config_type not in _CONFIG_TYPES:
        raise InvalidParameter(
            f'{repository.reference.familiar()} is not an image: encountered remote "{config_type}" when fetching'
        )
    for layer in manifest["layers"]:
        refuse_foreign(layer, "pulled")
    config_bytes = repository.document(manifest["config"]["digest"], manifest["config"]["size"])
    config = parse_config(config_bytes)
    count = len(config["rootfs"]["diff_ids"])
    if count != len(manifest["layers"]):
        raise InvalidParameter(
            f"the image's manifest has {len(manifest['layers'])} layers, its configuration {count}: it is damaged"
        )
    return Found(top.digest, manifest, fetched.data, config, config_bytes)


def _image_manifest(repository: Repository, fetched: Fetched, wanted: Platform) -> Fetched:
    for _ in range(_INDEX_DEPTH_MAX):
        if fetched.media_type in MANIFEST_TYPES:
            return fetched
        if fetched.media_type not in INDEX_TYPES:
            raise InvalidParameter(f'unsupported manifest media type "{fetched.media_type}"')
        index = parse_index(fetched.data)
        chosen = image_for(index, wanted)
        if chosen is None:
            raise NotFound(
                f"no matching manifest for {platform_text(wanted)} in the manifest list entries: "
                "no match for platform in manifest: not found"
            )
        fetched = repository.manifest(chosen["digest"])
        if fetched.size_bytes != chosen["size"]:
            raise InvalidParameter(
                f"manifest verification failed for digest {chosen['digest']}: the registry sent {fetched.size_bytes} "
                f"bytes, the index names {chosen['size']}"
            )
    raise InvalidParameter("the image's indexes are nested too deeply")


def refuse_foreign(layer: Descriptor, done: str) -> None:
    """`done`: what is not done with it. Raises InvalidParameter."""
    if layer.get("urls") or layer["mediaType"].startswith(_FOREIGN):
        raise InvalidParameter(
            f"the layer {layer['digest']} ({layer['mediaType']}) is not in the registry but elsewhere: foreign layers "
            f"are of Windows images, and are not {done}"
        )


def translated(error: WherryError, reference: Reference) -> WherryError:
    """As moby's translatePullError."""
    if not isinstance(error, RegistryError):
        return error
    if error.code == DENIED or (error.code == UNAUTHORIZED and error.status == 403):
        return NotFound(
            f"pull access denied for {reference.familiar_name()}, repository does not exist or may require "
            f"'docker login': {error}"
        )
    if error.code == MANIFEST_UNKNOWN or (error.status == 404 and error.code == "UNKNOWN"):
        said = error if error.code == MANIFEST_UNKNOWN else "manifest unknown: manifest unknown"
        return NotFound(f"manifest for {reference.familiar()} not found: {said}")
    if error.code == NAME_UNKNOWN:
        return NotFound(f"repository {reference.familiar_name()} not found: {error}")
    return error
