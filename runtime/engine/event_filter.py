"""Which events a reader wants, in the words of `docker events --filter`: the rules of moby's events/filter.go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from runtime.engine.events import Event
from runtime.errors import InvalidParameter
from runtime.oci.reference import parse_name

# These match the beginning of the actor's id or name, whatever kind of object it is.
OBJECTS = ("config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume")
ACTIONS_WITH_DETAIL = frozenset(("health_status", "exec_create", "exec_start"))  # "exec_create: ls -l"

Wanted = Callable[[Event], bool]


def wanted(filters: Mapping[str, Sequence[str]]) -> Wanted | None:
    """None when every event is wanted. A filter that does not exist changes nothing, as in moby."""
    tests = [test for name, values in filters.items() if values and (test := _test(name, values))]
    if not tests:
        return None
    return lambda event: all(test(event) for test in tests)


def _test(name: str, values: Sequence[str]) -> Wanted | None:
    if name in OBJECTS:
        beginnings = tuple(values)
        return lambda event: event.actor.startswith(beginnings) or _attribute(event, "name").startswith(beginnings)
    if name == "event" and ACTIONS_WITH_DETAIL & set(values):
        beginnings = tuple(values)
        return lambda event: event.action.startswith(beginnings)
    if name == "event":
        return lambda event: event.action in values
    if name == "type":
        return lambda event: event.type in values
    if name == "scope":
        return lambda event: "local" in values
    if name == "label":
        return lambda event: all(_has_label(event.attributes, value) for value in values)
    if name == "image":
        return lambda event: not _image_names(event).isdisjoint(values)
    return None


def _attribute(event: Event, name: str) -> str:
    return event.attributes.get(name, "")


def _has_label(attributes: Mapping[str, str], value: str) -> bool:
    name, equals, wanted_value = value.partition("=")
    return name in attributes and (not equals or attributes[name] == wanted_value)


def _image_names(event: Event) -> set[str]:
    """The image an event is about, or its container is made from, with and without the tag."""
    name = _attribute(event, "name" if event.type == "image" else "image")
    return {event.actor, name, _without_tag(event.actor), _without_tag(name)}


def _without_tag(name: str) -> str:
    try:
        return parse_name(name).familiar_name()
    except InvalidParameter:
        return name
