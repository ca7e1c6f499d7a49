"""Follow the engine's containers, for what has to be in step with them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from vmbackend.errors import GuestUnreachable
from vmbackend.forward.engine_api import EngineApi, EventStream

_TIMEOUT_S = 10.0
_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class ContainerWatch:
    """Looks when containers start or end, and after every reconnection.

    `containers_changed` gets the running containers each time, as in `GET /containers/json`.
    """

    def __init__(
        self,
        api: EngineApi,
        wait_connected: Callable[[], Awaitable[None]],
        containers_changed: Callable[[list[dict[str, Any]]], Awaitable[None]],
    ) -> None:
        self._api = api
        self._wait_connected = wait_connected
        self._containers_changed = containers_changed
        self._changed = asyncio.Event()
        self._events: EventStream | None = None
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._listen())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._events is not None:
            self._events.end()
        await asyncio.wait(self._tasks)

    async def _look(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._containers_changed(await asyncio.to_thread(self._api.containers, _TIMEOUT_S))
            except GuestUnreachable as error:
                _log.info("the containers are not known: %s", error)

    async def _listen(self) -> None:
        while True:
            await self._wait_connected()
            try:
                await asyncio.to_thread(self._follow_events)
            except GuestUnreachable as error:
                _log.info("no container events: %s", error)
            await asyncio.sleep(_RETRY_S)

    def _follow_events(self) -> None:
        """Runs in a thread until the stream ends."""
        with self._api.container_events(_TIMEOUT_S) as events:
            self._events = events
            # Whatever happened before the stream began is found by looking once.
            self._loop.call_soon_threadsafe(self._changed.set)
            while events.wait():
                self._loop.call_soon_threadsafe(self._changed.set)
