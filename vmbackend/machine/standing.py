"""Where a machine stands, with one writer, who tells all that watch."""

import logging
from collections.abc import Iterable

from vmbackend.forward.ports import PublishedPort
from vmbackend.machine.events import EventHub, ForwardAdded, ForwardRemoved, MachineEvent, PhaseEntered, StateChanged
from vmbackend.machine.requirements import Requirement
from vmbackend.machine.states import Event, State, next_state

_log = logging.getLogger(__name__)


class Standing:
    """State, reasons and phase of a machine, which its subclass alone changes, and the ports that are offered."""

    def __init__(self, events: EventHub) -> None:
        self._events = events
        self._state: State = "stopped"
        self._phase: str | None = None
        self._reasons: tuple[str, ...] = ()
        self._told_forwards: set[PublishedPort] = set()

    @property
    def state(self) -> State:
        return self._state

    def so_far(self) -> list[MachineEvent]:
        """How it stands, as the events that tell it to somebody who knows nothing yet."""
        told: list[MachineEvent] = [StateChanged(self._state, self._reasons)]
        if self._phase is not None:
            told.append(PhaseEntered(self._phase))
        return told + [ForwardAdded(port.protocol, port.address, port.port) for port in sorted(self._told_forwards)]

    def _enter(self, requirement: Requirement) -> None:
        self._phase = requirement.name
        self._events.publish(PhaseEntered(requirement.name))

    def _step(self, event: Event, reasons: tuple[str, ...] = ()) -> None:
        """Follow the table; an event that means nothing in this state changes nothing."""
        state = next_state(self._state, event)
        if state is not None and (state, reasons) != (self._state, self._reasons):
            self._set(state, reasons)

    def _set(self, state: State, reasons: tuple[str, ...]) -> None:
        _log.info("%s -> %s %s", self._state, state, " ".join(reasons))
        self._state, self._reasons, self._phase = state, reasons, None
        self._events.publish(StateChanged(state, reasons))

    def _tell_forwards(self, ports: Iterable[PublishedPort]) -> None:
        """Publish what has changed of the published ports since the last time."""
        active = set(ports)
        for port in sorted(self._told_forwards - active):
            self._events.publish(ForwardRemoved(port.protocol, port.address, port.port))
        for port in sorted(active - self._told_forwards):
            self._events.publish(ForwardAdded(port.protocol, port.address, port.port))
        self._told_forwards = active
