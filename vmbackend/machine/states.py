"""The states of a machine, as one table.

The hostagent is the only writer. `absent`, `stopped` and `saved` are what others conclude when there is no machine,
or no hostagent. The processors of a guest that is paused, or idle, stand still: until somebody says otherwise, or until
somebody uses it. A saved guest is off and goes on where it was at the next start.
"""

from typing import Literal

State = Literal["absent", "stopped", "saved", "starting", "running", "degraded", "idle", "paused", "stopping", "broken"]
Event = Literal[
    "start",
    "ready",
    "unmet",
    "probe_ok",
    "probe_failed",
    "rest",
    "pause",
    "resume",
    "stop",
    "stopped",
    "saved",
    "failed",
    "qemu_gone",
]

TRANSITIONS: dict[tuple[State, Event], State] = {
    ("stopped", "start"): "starting",
    ("saved", "start"): "starting",
    ("broken", "start"): "starting",
    ("starting", "ready"): "running",
    ("starting", "unmet"): "degraded",
    ("running", "probe_ok"): "running",
    ("running", "probe_failed"): "degraded",
    ("degraded", "probe_ok"): "running",
    ("degraded", "probe_failed"): "degraded",
    ("running", "rest"): "idle",
    ("idle", "resume"): "running",
    ("running", "pause"): "paused",
    ("degraded", "pause"): "paused",
    ("idle", "pause"): "paused",
    ("paused", "resume"): "running",
    ("starting", "stop"): "stopping",
    ("running", "stop"): "stopping",
    ("degraded", "stop"): "stopping",
    ("idle", "stop"): "stopping",
    ("paused", "stop"): "stopping",
    ("broken", "stop"): "stopping",
    ("starting", "failed"): "broken",
    ("starting", "qemu_gone"): "broken",
    ("running", "qemu_gone"): "broken",
    ("degraded", "qemu_gone"): "broken",
    ("idle", "qemu_gone"): "broken",
    ("paused", "qemu_gone"): "broken",
    ("stopping", "stopped"): "stopped",
    ("stopping", "saved"): "saved",
}


def next_state(state: State, event: Event) -> State | None:
    """The state after `event`, or None when `event` means nothing in `state`."""
    return TRANSITIONS.get((state, event))
