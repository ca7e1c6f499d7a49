"""Keep published ports in step with the engine's containers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from vmbackend.errors import GuestUnreachable
from vmbackend.forward.engine_api import EngineApi, EventStream
from vmbackend.forward.ports import PortForwards, published_ports
from vmbackend.qemu.qmp import MonitorError

_TIMEOUT_S = 10.0
_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class PortWatch:
    """Reconciles when containers start or end, after every reconnection, and when poked.

    `containers_changed` gets the running containers each time, as in `GET /containers/json`; `on_compared` is called
    when the ports match them.
    """

    def __init__(
        self,
        api: EngineApi,
        forwards: PortForwards,
        wait_connected: Callable[[], Awaitable[None]],
        containers_changed: Callable[[list[dict[str, Any]]], Awaitable[None]],
        on_compared: Callable[[], None],
    ) -> None:
        self._api = api
        self._forwards = forwards
        self._wait_connected = wait_connected
        self._on_compared = on_compared
        self._containers_changed = containers_changed
        self._changed = asyncio.Event()
        self._events: EventStream | None = None
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(self._reconcile()), asyncio.create_task(self._listen())]

    def poke(self) -> None:
        """Compare again; ports that were refused may be free by now."""
        self._changed.set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._events is not None:
            self._events.end()
        await asyncio.wait(self._tasks)
        await self._forwards.close()

    async def _reconcile(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                containers = await asyncio.to_thread(self._api.containers, _TIMEOUT_S)
                await self._forwards.reconcile(published_ports(containers))
                self._on_compared()
                await self._containers_changed(containers)
            except GuestUnreachable as error:
                _log.info("published ports not compared: %s", error)
            except MonitorError as error:
                _log.warning("published ports not changed: %s", error)

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
            # Whatever happened before the stream began is found by comparing once.
            self._loop.call_soon_threadsafe(self.poke)
            while events.wait():
                self._loop.call_soon_threadsafe(self.poke)
