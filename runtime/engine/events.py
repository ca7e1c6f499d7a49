"""The event stream: every change of every object, with a short history for `since`."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

HISTORY = 1024  # events kept for `since`, as many as Docker keeps times four
QUEUE = 8192  # events a slow client may be behind before it is dropped


@dataclass(frozen=True)
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
        self._queues: set[asyncio.Queue[Event | None]] = set()

    def publish(self, event: Event) -> None:
        self._history.append(event)
        for queue in list(self._queues):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._queues.discard(queue)  # its reader sees the end of the stream and may ask again with `since`
                queue.get_nowait()
                queue.put_nowait(None)

    def listen(self, since_ns: int | None, until_ns: int | None) -> AsyncIterator[Event]:
        """Events from `since_ns` (None: from this call on) to `until_ns` (None: for ever), oldest first."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)
        past = [event for event in self._history if since_ns is not None and event.time_ns >= since_ns]
        self._queues.add(queue)
        return self._deliver(queue, past, until_ns)

    async def _deliver(
        self, queue: asyncio.Queue[Event | None], past: list[Event], until_ns: int | None
    ) -> AsyncIterator[Event]:
        try:
            for event in past:
                if until_ns is None or event.time_ns <= until_ns:
                    yield event
            while True:
                left_s = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
                if left_s is not None and left_s <= 0:
                    return
                try:
                    async with asyncio.timeout(left_s):
                        next_event = await queue.get()
                except TimeoutError:
                    return
                if next_event is None:
                    return
                yield next_event
        finally:
            self._queues.discard(queue)
