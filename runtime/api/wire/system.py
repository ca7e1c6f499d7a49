"""Events and volumes."""

from __future__ import annotations

from typing import Any

from runtime.api.wire.times import timestamp
from runtime.engine.events import Event
from runtime.engine.volumes import Volume


def event(event: Event) -> dict[str, Any]:
    attributes = dict(event.attributes)
    shown: dict[str, Any] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor, "Attributes": attributes},
        "scope": "local",
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }
    if event.type in ("container", "image"):
        shown |= {"status": event.action, "id": event.actor}
        if event.type == "container":
            shown["from"] = attributes.get("image", "")
    return shown


def volume(volume: Volume) -> dict[str, Any]:
    return {
        "CreatedAt": timestamp(volume.created_ns),
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": str(volume.path),
        "Name": volume.name,
        "Options": None,
        "Scope": "local",
    }
