"""Devices asked for: `--device`, `--device-cgroup-rule`, `--gpus`, CDI names. They are looked up at each start."""

from __future__ import annotations

import re
from typing import Any

from runtime.engine.options.model import DeviceMapping, DeviceRequest, Document
from runtime.errors import InvalidParameter

_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")


def device_mapping(document: Document) -> DeviceMapping:
    path = document.get("PathOnHost") or ""
    access = document.get("CgroupPermissions") or "rwm"
    if not set(access) <= set("rwm"):
        raise InvalidParameter(f"invalid device mode: {access}")
    target = document.get("PathInContainer") or path
    if not path.startswith("/") or not target.startswith("/"):
        raise InvalidParameter(f"invalid device {path!r}:{target!r}: both paths must be absolute")
    return DeviceMapping(path, target, access)


def device_rule(text: str) -> dict[str, Any]:
    """`c 13:* rw` → the OCI device rule."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = match.groups()
    numbers = {name: int(text) for name, text in (("major", major), ("minor", minor)) if text != "*"}
    if kind == "a":
        return {"allow": True, "access": "rwm"}
    return {"allow": True, "type": kind, "access": access, **numbers}


def device_request(document: Document) -> DeviceRequest:
    count, ids = document.get("Count") or 0, document.get("DeviceIDs") or []
    if count and ids:
        raise InvalidParameter("cannot set both Count and DeviceIDs on device request")
    capabilities = tuple(tuple(map(str, words)) for words in document.get("Capabilities") or [])
    return DeviceRequest(document.get("Driver") or "", int(count), tuple(map(str, ids)), capabilities)
