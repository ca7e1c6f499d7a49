"""Volumes and a container's mounts: the Engine API's Volume and MountPoint."""

from __future__ import annotations

import time
from typing import Any

from runtime.engine.container import Container
from runtime.engine.options import MountRequest
from runtime.engine.volumes import Volume


def volume(volume: Volume, usage: tuple[int, int] | None = None) -> dict[str, Any]:
    """`usage`: bytes (-1: unknown) and how many containers have it, which only /system/df tells."""
    shown: dict[str, Any] = {
        "CreatedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(volume.created_ns // 1_000_000_000)),
        "Driver": "local",
        "Labels": dict(volume.labels) or None,
        "Mountpoint": str(volume.path),
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": "local",
    }
    if usage:
        shown["UsageData"] = {"Size": usage[0], "RefCount": usage[1]}
    return shown


def mounts(container: Container, volumes: dict[str, Volume]) -> list[dict[str, Any]]:
    """All but `--tmpfs`, which Docker shows in HostConfig only."""
    return [
        _mount(request, container, volumes.get(container.volumes.get(request.target, "")))
        for request in container.mounts
        if request.shown
    ]


def _mount(request: MountRequest, container: Container, volume: Volume | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"Type": request.kind}
    source, propagation = request.source, ""
    if request.kind == "volume":
        name = container.volumes.get(request.target, request.source)
        source = str(volume.path) if volume else ""
        shown["Name"] = name
    elif request.kind == "image":
        source, propagation = container.image_mounts.get(request.target, ""), "rprivate"
        shown["Name"] = request.source
    elif request.kind == "bind":
        propagation = request.propagation or "rprivate"
    shown |= {"Source": source, "Destination": request.target}
    if request.kind == "volume":
        shown["Driver"] = "local"
    return shown | {"Mode": request.mode, "RW": not request.read_only, "Propagation": propagation}
