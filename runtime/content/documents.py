"""Reading the JSON documents of images from hostile hands: what comes out has the shape its type promises."""

import json
from typing import Any, cast

from runtime.errors import InvalidParameter
from runtime.oci import digest
from runtime.oci.image import MANIFEST, Descriptor, ImageConfig, Index, Manifest

DOCUMENT_BYTES_MAX = 8 << 20
_LAYERS_MAX = 512

_CONFIG_STRINGS = frozenset(("author", "variant", "os.version", "comment", "docker_version", "container"))

# What the rest of the engine takes on trust from the `config` part of an image configuration.
_SETTING_LISTS = ("Env", "Cmd", "Entrypoint", "OnBuild", "Shell")
_SETTING_STRINGS = ("User", "WorkingDir", "StopSignal")
_SETTING_MAPPINGS = ("ExposedPorts", "Volumes", "Labels", "Healthcheck")


def parse_json(data: bytes, what: str) -> Any:
    """Any JSON that can be written again; raises InvalidParameter naming `what` the document is."""
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
        if b"\\ud" in data.lower():  # half a character, which has no UTF-8
            json.dumps(document, ensure_ascii=False).encode()
        return document
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"the {what} is not valid JSON: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def parse_index(data: bytes, what: str = "image index") -> Index:
    document = _mapping(parse_json(data, what), what)
    manifests = _list(document.get("manifests"), f"{what}'s manifests")
    for descriptor in manifests:
        _check_descriptor(descriptor, what)
    return cast(Index, document)


def parse_manifest(data: bytes) -> Manifest:
    what = "image manifest"
    document = _mapping(parse_json(data, what), what)
    _check_descriptor(document.get("config"), what)
    layers = _list(document.get("layers"), f"{what}'s layers")
    if len(layers) > _LAYERS_MAX:
        raise InvalidParameter(f"the image has {len(layers)} layers, more than the {_LAYERS_MAX} allowed")
    for descriptor in layers:
        _check_descriptor(descriptor, what)
    return cast(Manifest, document)


def parse_config(data: bytes) -> ImageConfig:
    """An image configuration. What Go writers leave null or out is filled in: `config`, `history`, `created`..."""
    what = "image configuration"
    document = _mapping(parse_json(data, what), what)
    rootfs = _mapping(document.get("rootfs"), f"{what}'s rootfs")
    for diff_id in _list(rootfs.get("diff_ids"), f"{what}'s diff_ids"):
        digest.hex_of(_string(diff_id, f"{what}'s diff ID"))
    settings = _settings(_mapping(document.get("config") or {}, f"{what}'s config"))
    normal = {
        **document,
        "architecture": _string(document.get("architecture", ""), f"{what}'s architecture"),
        "os": _string(document.get("os", ""), f"{what}'s os"),
        "created": _string(document.get("created") or "", f"{what}'s creation time"),
        "config": settings,
        "history": [_history(entry) for entry in _list(document.get("history") or [], f"{what}'s history")],
    }
    for key in normal.keys() & _CONFIG_STRINGS:
        normal[key] = _string(document[key] or "", f"{what}'s {key}")
    if "container_config" in normal:
        normal["container_config"] = _mapping(document["container_config"] or {}, f"{what}'s container_config")
    return cast(ImageConfig, normal)


def _history(entry: Any) -> dict[str, Any]:
    """Without nulls."""
    history = {key: value for key, value in _mapping(entry, "image's history entry").items() if value is not None}
    for key in history.keys() & {"created", "created_by", "author", "comment"}:
        _string(history[key], f"image's history entry's {key}")
    if not isinstance(history.get("empty_layer", False), bool):
        raise InvalidParameter("the image's history has an empty_layer that is neither true nor false")
    return history


def _settings(document: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in document.items() if value is not None}
    for key in settings.keys() & set(_SETTING_LISTS):
        for item in _list(settings[key], f"image's {key}"):
            _string(item, f"image's {key}")
    for key in settings.keys() & set(_SETTING_STRINGS):
        _string(settings[key], f"image's {key}")
    for key in settings.keys() & set(_SETTING_MAPPINGS):
        _mapping(settings[key], f"image's {key}")
    for key in ("ExposedPorts", "Volumes"):
        for name, value in settings.get(key, {}).items():
            _mapping(value or {}, f"image's {key} {name}")
    for name, value in settings.get("Labels", {}).items():
        _string(value, f"image's label {name}")
    return settings


def encode(document: object) -> bytes:
    """JSON as Wherry stores it: no spaces, keys in the order given."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def descriptor_of(data: bytes, media_type: str = MANIFEST) -> Descriptor:
    return Descriptor(mediaType=media_type, digest=digest.of_bytes(data), size=len(data))


def _check_descriptor(value: object, what: str) -> None:
    descriptor = _mapping(value, f"{what}'s descriptor")
    digest.hex_of(_string(descriptor.get("digest"), f"{what}'s digest"))
    _string(descriptor.get("mediaType"), f"{what}'s media type")
    size = descriptor.get("size")
    if not isinstance(size, int) or size < 0:
        raise InvalidParameter(f"the {what} has a descriptor without a size")
    for key, text in _mapping(descriptor.get("annotations") or {}, f"{what}'s annotations").items():
        _string(text, f"{what}'s annotation {key}")
    platform = _mapping(descriptor.get("platform") or {"os": "", "architecture": ""}, f"{what}'s platform")
    _string(platform.get("os"), f"{what}'s platform")
    _string(platform.get("architecture"), f"{what}'s platform")


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidParameter(f"the {what} is missing or not a JSON object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidParameter(f"the {what} is missing or not a JSON array")
    return value


def _string(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidParameter(f"the {what} is missing or not a string")
    return value
