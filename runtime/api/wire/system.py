"""Events."""

from __future__ import annotations

from typing import Any

from runtime.engine.events import Event


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
