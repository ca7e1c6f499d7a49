"""What a machine tells those who watch it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vmbackend.machine.states import State


@dataclass(frozen=True)
class MachineEvent:
    """`state` after a change; `phase` names the requirement now waited for, when there is one."""

    state: State
    phase: str | None = None
    reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"state": self.state, "phase": self.phase, "reasons": list(self.reasons)}


class EventHub:
    """Hands each event to every watcher. For one event loop; nobody waits for a slow watcher."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[MachineEvent]] = set()

    def publish(self, event: MachineEvent) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(event)

    @contextmanager
    def watch(self) -> Iterator[asyncio.Queue[MachineEvent]]:
        """A queue of the events published while inside the block."""
        queue: asyncio.Queue[MachineEvent] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)
