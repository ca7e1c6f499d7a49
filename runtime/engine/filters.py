"""Which containers a list or a prune is about: Docker's filters, checked once and then asked of each container."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from runtime.content.images import ImageStore
from runtime.engine.container import Container, Status
from runtime.engine.containers import ContainerService
from runtime.engine.networks import NetworkService
from runtime.errors import InvalidParameter, WherryError

Filters = Mapping[str, list[str]]
Test = Callable[[Container], bool]

HEALTH_STATES = ("none", "starting", "healthy", "unhealthy")
TRUE, FALSE = ("1", "true"), ("0", "false")


def check_names(filters: Filters, accepted: Iterable[str]) -> None:
    """Raises InvalidParameter for a filter nobody knows."""
    if unknown := set(filters) - set(accepted):
        raise InvalidParameter(f"invalid filter '{min(unknown)}'")


def has_labels(labels: Mapping[str, str], wanted: Iterable[str]) -> bool:
    """`name` or `name=value`, every one of them."""
    for text in wanted:
        name, equals, value = text.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    return True


def chosen_by_labels(labels: Mapping[str, str], filters: Filters) -> bool:
    """`label` and `label!` of a prune."""
    unwanted = filters.get("label!")
    return has_labels(labels, filters.get("label", ())) and not (unwanted and has_labels(labels, unwanted))


class ContainerFilter:
    """The filters of `GET /containers/json`; raises InvalidParameter, or NotFound for `before` and `since`."""

    def __init__(
        self, filters: Filters, containers: ContainerService, networks: NetworkService, images: ImageStore
    ) -> None:
        self._containers = containers
        self._networks = networks
        self._images = images
        makers: dict[str, Callable[[list[str]], Test]] = {
            "ancestor": self._ancestor,
            "before": self._before,
            "exited": _exited,
            "expose": self._expose,
            "health": _health,
            "id": lambda values: lambda container: _matches(values, container.id),
            "is-task": _is_task,
            "isolation": lambda values: lambda container: True,  # means something on Windows only
            "label": lambda values: lambda container: has_labels(container.options.labels, values),
            "name": _name,
            "network": _network,
            "publish": self._publish,
            "since": self._since,
            "status": _status,
            "volume": _volume,
        }
        check_names(filters, makers)
        # A container is asked the cheap questions first.
        self._tests = [make(filters[name]) for name, make in makers.items() if filters.get(name)]
        self.wants_all = bool(filters.get("status"))

    def __call__(self, container: Container) -> bool:
        return all(test(container) for test in self._tests)

    def _ancestor(self, values: list[str]) -> Test:
        """Its image, or an image that has that image's layers and more above them."""
        wanted, known = set(), {image.id: image for image in self._images.all()}
        for value in values:
            try:
                ancestor = self._images.get(value)
            except WherryError:
                continue
            height = len(ancestor.chain_ids)
            wanted |= {ancestor.id} | {
                id
                for id, image in known.items()
                if len(image.chain_ids) > height > 0 and image.chain_ids[height - 1] == ancestor.chain_ids[-1]
            }
        return lambda container: container.image_id in wanted

    def _before(self, values: list[str]) -> Test:
        limit_ns = min(self._containers.get(value).created_ns for value in values)
        return lambda container: container.created_ns < limit_ns

    def _since(self, values: list[str]) -> Test:
        limit_ns = max(self._containers.get(value).created_ns for value in values)
        return lambda container: container.created_ns > limit_ns

    def _expose(self, values: list[str]) -> Test:
        wanted = _ports("expose", values)

        def test(container: Container) -> bool:
            member = self._networks.membership(container.id)
            exposed = {text if "/" in text else f"{text}/tcp" for text in container.options.exposed}
            bound = {f"{port.container_port}/{port.protocol}" for port in member.published.ports} if member else set()
            return bool(member) and not wanted.isdisjoint(exposed | bound)

        return test

    def _publish(self, values: list[str]) -> Test:
        wanted = _ports("publish", values)

        def test(container: Container) -> bool:
            member = self._networks.membership(container.id)
            return member is not None and any(
                f"{port.host_port}/{port.protocol}" in wanted for port in member.published.ports
            )

        return test


def _matches(patterns: list[str], text: str) -> bool:
    """As Docker: equal, or a regular expression that is found in it."""
    for pattern in patterns:
        try:
            if pattern == text or re.search(pattern, text):
                return True
        except re.error:
            continue
    return False


def _name(values: list[str]) -> Test:
    return lambda container: _matches(values, container.name) or _matches(values, f"/{container.name}")


def _exited(values: list[str]) -> Test:
    try:
        codes = {int(value) for value in values}
    except ValueError:
        raise InvalidParameter(f"invalid filter 'exited={values[0]}': a number is needed") from None
    return lambda container: (
        container.state.exit_code in codes and not container.state.is_up and container.state.started_ns > 0
    )


def _status(values: list[str]) -> Test:
    for value in values:
        if value not in get_args(Status):
            raise InvalidParameter(f"invalid filter 'status={value}'")
    return lambda container: container.state.status in values


def _health(values: list[str]) -> Test:
    for value in values:
        if value not in HEALTH_STATES:
            raise InvalidParameter(f"invalid filter 'health={value}'")
    return lambda container: (container.state.health.status if container.state.health else "none") in values


def _is_task(values: list[str]) -> Test:
    for value in values:
        if value.lower() not in TRUE + FALSE:
            raise InvalidParameter(f"invalid filter 'is-task=[{value}]'")
    only_tasks = all(value.lower() in TRUE for value in values)  # there are none without a swarm
    return lambda container: not only_tasks


def _network(values: list[str]) -> Test:
    return lambda container: any(
        value == document["name"] or id.startswith(value)
        for id, document in container.networks.items()
        for value in values
        if value
    )


def _volume(values: list[str]) -> Test:
    def test(container: Container) -> bool:
        held = {*container.volumes.values(), *container.volumes}
        for mount in container.mounts:
            held |= {mount.target, mount.source}
        return not held.isdisjoint(values)

    return test


def _ports(name: str, values: list[str]) -> set[str]:
    """`80`, `80/udp`, `8000-8010/tcp` as single ports."""
    ports: set[str] = set()
    for value in values:
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(\w+))?", value)
        if ":" in value:
            raise InvalidParameter(f"filter for '{name}' should not contain ':': {value}")
        if not match or int(match[1]) > int(match[2] or match[1]) or int(match[2] or match[1]) > 65535:
            raise InvalidParameter(f"error while looking up for {name} {value}: invalid port or range of ports")
        protocol = (match[3] or "tcp").lower()
        ports |= {f"{port}/{protocol}" for port in range(int(match[1]), int(match[2] or match[1]) + 1)}
    return ports
