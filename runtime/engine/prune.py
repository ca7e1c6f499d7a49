"""`docker container prune`: every container that does not run, or those of them that filters choose."""

from __future__ import annotations

import asyncio
import logging

from runtime.content.snapshots import Snapshots
from runtime.engine.containers import ContainerService
from runtime.engine.control import Control
from runtime.engine.events import Event, EventBus
from runtime.engine.filters import Filters, chosen_by_labels
from runtime.errors import Conflict, WherryError

log = logging.getLogger(__name__)


class Pruner:
    def __init__(self, containers: ContainerService, control: Control, snapshots: Snapshots, events: EventBus) -> None:
        self._containers = containers
        self._control = control
        self._snapshots = snapshots
        self._events = events
        self._busy = False

    async def prune_containers(self, filters: Filters, until_ns: int | None) -> tuple[list[str], int]:
        """`filters` are label and label!; the removed ids and how many bytes they had written."""
        if self._busy:
            raise Conflict("a prune operation is already running")
        self._busy = True
        try:
            removed, freed_bytes = [], 0
            for container in self._containers.all():
                if container.state.is_up or (until_ns is not None and container.created_ns > until_ns):
                    continue
                if not chosen_by_labels(container.options.labels, filters):
                    continue
                try:
                    size_bytes = await asyncio.to_thread(self._snapshots.usage, container.id)
                    await self._control.remove(container)
                except (WherryError, OSError) as error:
                    log.warning("container %s was not pruned: %s", container.id, error)
                    continue
                removed.append(container.id)
                freed_bytes += size_bytes
        finally:
            self._busy = False
        self._events.publish(Event("container", "prune", "", {"reclaimed": str(freed_bytes)}))
        return removed, freed_bytes
