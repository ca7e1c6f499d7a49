"""Where the window stands with the engine: one table of states, and the facts shown about a running engine."""

from dataclasses import dataclass
from enum import StrEnum


class LinkState(StrEnum):
    """What we know of the engine."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    UNREACHABLE = "unreachable"


class LinkEvent(StrEnum):
    """What can happen to what we know."""

    START = "start"  # the user asked for the engine
    STOP = "stop"  # the user asked for it to end
    ANSWERED = "answered"  # a request came back
    ABSENT = "absent"  # the backend says that nothing runs
    COMING = "coming"  # the backend says that it is starting (somebody else asked)
    SILENT = "silent"  # no answer within the deadline, or the connection broke


S, E = LinkState, LinkEvent

# A pair which is not here changes nothing: while the engine is being started or stopped by us, probes that find it
# absent or silent say nothing new, and the end of that work reports by itself.
TRANSITIONS: dict[tuple[LinkState, LinkEvent], LinkState] = {
    (S.STOPPED, E.START): S.STARTING,
    (S.STOPPED, E.ANSWERED): S.RUNNING,
    (S.STOPPED, E.COMING): S.STARTING,
    (S.STOPPED, E.SILENT): S.UNREACHABLE,
    (S.STARTING, E.ANSWERED): S.RUNNING,
    (S.STARTING, E.STOP): S.STOPPING,
    (S.STARTING, E.ABSENT): S.STOPPED,
    (S.STARTING, E.SILENT): S.UNREACHABLE,
    (S.RUNNING, E.STOP): S.STOPPING,
    (S.RUNNING, E.ABSENT): S.STOPPED,
    (S.RUNNING, E.COMING): S.STARTING,
    (S.RUNNING, E.SILENT): S.UNREACHABLE,
    (S.STOPPING, E.ABSENT): S.STOPPED,
    (S.STOPPING, E.ANSWERED): S.RUNNING,
    (S.STOPPING, E.SILENT): S.UNREACHABLE,
    (S.UNREACHABLE, E.START): S.STARTING,
    (S.UNREACHABLE, E.STOP): S.STOPPING,
    (S.UNREACHABLE, E.ANSWERED): S.RUNNING,
    (S.UNREACHABLE, E.COMING): S.STARTING,
    (S.UNREACHABLE, E.ABSENT): S.STOPPED,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error for people: what failed and why, and what to do about it ("" when there is nothing to say)."""

    sentence: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """A state, and why it is that one."""

    state: LinkState
    reason: str = ""
    remedy: str = ""

    @property
    def explanation(self) -> str:
        return " ".join(part for part in (self.reason, self.remedy) if part)

    def after(self, event: LinkEvent, reason: str = "", remedy: str = "") -> "Connection":
        """The connection after `event`; itself if the event says nothing new here."""
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            repeats = self.state is {E.SILENT: S.UNREACHABLE, E.ABSENT: S.STOPPED, E.COMING: S.STARTING}.get(event)
            return Connection(self.state, reason, remedy) if repeats else self
        return Connection(state, reason, remedy)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the machine page says. Empty strings and zeros are "not known"."""

    backend: str = "native"
    host: str = ""
    version: str = ""
    kernel: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    accelerator: str = ""
    accelerator_reason: str = ""
    reasons: tuple[str, ...] = ()
    containers: int = 0
    containers_running: int = 0
    images: int = 0
    system: str = ""
