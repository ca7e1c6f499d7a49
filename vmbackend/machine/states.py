"""The states of a machine, as one table.

The hostagent is the only writer. `absent` and `stopped` are what others conclude when there is no machine, or no
hostagent.
"""

from typing import Literal

State = Literal["absent", "stopped", "starting", "running", "degraded", "stopping", "broken"]
Event = Literal["start", "ready", "unmet", "probe_ok", "probe_failed", "stop", "stopped", "failed", "qemu_gone"]

TRANSITIONS: dict[tuple[State, Event], State] = {
    ("stopped", "start"): "starting",
    ("broken", "start"): "starting",
    ("starting", "ready"): "running",
    ("starting", "unmet"): "degraded",
    ("running", "probe_ok"): "running",
    ("running", "probe_failed"): "degraded",
    ("degraded", "probe_ok"): "running",
    ("degraded", "probe_failed"): "degraded",
    ("starting", "stop"): "stopping",
    ("running", "stop"): "stopping",
    ("degraded", "stop"): "stopping",
    ("broken", "stop"): "stopping",
    ("starting", "failed"): "broken",
    ("starting", "qemu_gone"): "broken",
    ("running", "qemu_gone"): "broken",
    ("degraded", "qemu_gone"): "broken",
    ("stopping", "stopped"): "stopped",
}


def next_state(state: State, event: Event) -> State | None:
    """The state after `event`, or None when `event` means nothing in `state`."""
    return TRANSITIONS.get((state, event))
