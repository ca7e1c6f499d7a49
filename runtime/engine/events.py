"""The event stream: every change of every object, with a short history for `since`."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

HISTORY = 1024  # events kept for `since`; Docker keeps 256
MAX_BEHIND = 8192  # events a listener may leave untaken before it is dropped
PAUSE_PER_LISTENER_S = 0.001  # of a listener after a batch: a crowd takes its events in fewer, larger batches


@dataclass(frozen=True, eq=False)
class Event:
    """One change: `type` is the kind of object, `action` what happened, `actor` its id."""

    type: str
    action: str
    actor: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    time_ns: int = field(default_factory=time.time_ns)


class EventBus:
    """Publishes to any number of listeners; never waits for one."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()  # one that nobody reads is soon forgotten
        self.observe: Callable[[Event], None] = lambda event: None  # called with each at once, in the publisher's place

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def publish(self, event: Event) -> None:
        self._history.append(event)
        self.observe(event)
        if self._listeners:
            for listener in [listener for listener in self._listeners if not listener.take(event)]:
                self._listeners.discard(listener)

    def listen(self, since_ns: int | None = None, until_ns: int | None = None) -> Listener:
        """Events from `since_ns` to `until_ns`; without both, from now on for ever. As moby's SubscribeTopic."""
        past: list[Event] = []
        if since_ns is not None or until_ns is not None:
            past = [
                event
                for event in self._history
                if event.time_ns >= (since_ns or 0) and (until_ns is None or event.time_ns <= until_ns)
            ]
        # Measured once, and then by a clock that nobody sets: the wall clock may jump while we wait.
        left_s = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
        listener = Listener(self, past, left_s)
        if left_s is None or left_s > 0:
            self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)


class Listener:
    """Events for one reader, in batches. `dropped` resolves when it has fallen too far behind."""

    def __init__(self, bus: EventBus, past: list[Event], left_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self.dropped: asyncio.Future[None] = loop.create_future()
        self._bus = bus
        self._events: deque[Event] = deque(past)
        self._ends_at = None if left_s is None else loop.time() + left_s
        self._arrived = asyncio.Event()

    def take(self, event: Event) -> bool:
        """False when that is one too many, and it is dropped."""
        self._arrived.set()
        if len(self._events) < MAX_BEHIND:
            self._events.append(event)
            return True
        log.warning("a reader of events was dropped: it had left %d of them untaken", MAX_BEHIND)
        self._events.clear()
        self.dropped.set_result(None)
        return False

    async def batches(self) -> AsyncIterator[list[Event]]:
        """Oldest first, until `until_ns` has come, or the listener was dropped."""
        try:
            while not self.dropped.done():
                if self._events:
                    batch = list(self._events)
                    self._events.clear()
                    yield batch
                    await asyncio.sleep(self._bus.listeners * PAUSE_PER_LISTENER_S)
                    continue
                self._arrived.clear()
                try:
                    async with asyncio.timeout_at(self._ends_at):
                        await self._arrived.wait()
                except TimeoutError:
                    return
        finally:
            self._bus.leave(self)
