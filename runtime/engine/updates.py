"""`docker update`: new limits and another restart policy for a container, running or not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from runtime.cgroups import host_facts
from runtime.engine.container import Container
from runtime.engine.containers import ContainerService
from runtime.engine.limits import apply_limits
from runtime.engine.options import merge_limits, parse
from runtime.errors import Conflict, InvalidParameter, WherryError


async def update_container(containers: ContainerService, container: Container, changes: Mapping[str, Any]) -> list[str]:
    """`changes` are the fields of a HostConfig; returns warnings. Raises Conflict, InvalidParameter, SystemFault."""
    async with container.changing:
        if container.is_gone or container.state.status in ("removing", "dead"):
            raise _refused(Conflict, container, 'container is marked for removal and cannot be "update"')
        try:
            host, warnings = merge_limits(container.host_config, changes, host_facts())
        except Conflict as refusal:
            raise _refused(Conflict, container, refusal) from None
        policy = changes.get("RestartPolicy") or {}
        if not isinstance(policy, Mapping):
            raise InvalidParameter("invalid RestartPolicy: an object is needed")
        if policy.get("Name"):
            if host.get("AutoRemove") and policy["Name"] != "no":
                words = "Restart policy cannot be updated because AutoRemove is enabled for the container"
                raise _refused(Conflict, container, words)
            host["RestartPolicy"] = dict(policy)
        options = parse(container.config, host, container.networking, container.image_config)
        if container.state.has_process:
            try:
                await asyncio.to_thread(apply_limits, containers.cgroup_of(container), host)
            except WherryError as error:
                raise _refused(type(error), container, error) from None
        container.host_config, container.options = host, options
        containers.save(container)
        containers.watches.limits_changed(container)
    containers.publish(container, "update")
    return warnings


def _refused(kind: type[WherryError], container: Container, why: object) -> WherryError:
    return kind(f"Cannot update container {container.id}: {why}")
