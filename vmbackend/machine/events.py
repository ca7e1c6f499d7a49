"""What a machine tells those who watch it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from vmbackend.machine.states import State


@dataclass(frozen=True)
class StateChanged:
    """`reasons` are sentences that say why the state is not the wanted one."""

    state: State
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhaseEntered:
    """While it starts: the requirement now waited for."""

    phase: str


@dataclass(frozen=True)
class ForwardAdded:
    """A published port is offered on this computer from now on; `address` is the one asked for in the guest."""

    protocol: str
    address: str
    port: int


@dataclass(frozen=True)
class ForwardRemoved:
    protocol: str
    address: str
    port: int


@dataclass(frozen=True)
class UpdateStarted:
    """The machine is started with a guest image that is new to it. Versions as people read them."""

    version: str
    old_version: str


@dataclass(frozen=True)
class UpdateEnded:
    """The new image serves; or it did not, for that reason, and the machine goes back to the old image and its data."""

    version: str
    succeeded: bool
    reason: str = ""


MachineEvent = StateChanged | PhaseEntered | ForwardAdded | ForwardRemoved | UpdateStarted | UpdateEnded

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (StateChanged, PhaseEntered, ForwardAdded, ForwardRemoved, UpdateStarted, UpdateEnded)
}


def event_to_json(event: MachineEvent) -> dict[str, Any]:
    return {"kind": type(event).__name__, **asdict(event)}


def event_from_json(document: dict[str, Any]) -> MachineEvent | None:
    """None for a kind that this version does not know."""
    fields = dict(document)
    kind = _KINDS.get(fields.pop("kind", ""))
    if kind is None:
        return None
    event: MachineEvent = kind(**{name: _from_json(value) for name, value in fields.items()})
    return event


def _from_json(value: Any) -> Any:
    """JSON has lists where events have tuples."""
    return tuple(value) if isinstance(value, list) else value


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
