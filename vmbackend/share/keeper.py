"""Keep the shares of a running machine as they should be; on the hostagent's event loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from vmbackend.errors import MachineError
from vmbackend.share.service import Shares

_log = logging.getLogger(__name__)


class ShareKeeper:
    """Reconciles once the guest can be reached, when poked, and when a share's connection is lost."""

    def __init__(self, shares: Shares, wait_connected: Callable[[], Awaitable[None]]) -> None:
        self._shares = shares
        self._wait_connected = wait_connected
        self._loop = asyncio.get_running_loop()
        self._due = asyncio.Event()
        self._due.set()
        self._task = asyncio.create_task(self._keep())
        shares.on_lost = self._poke_from_thread

    @property
    def problems(self) -> list[str]:
        return self._shares.problems

    def describe(self) -> list[dict[str, Any]]:
        return self._shares.describe()

    def poke(self) -> None:
        """Look again: settings, or directories, may have changed."""
        self._due.set()

    def _poke_from_thread(self) -> None:
        self._loop.call_soon_threadsafe(self.poke)

    async def containers_changed(self, containers: list[dict[str, Any]]) -> None:
        """These run now, as in `GET /containers/json`: changes of what they bind are told to them."""
        await asyncio.to_thread(self._shares.bound, bound_sources(containers))

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await asyncio.to_thread(self._shares.close)

    async def _keep(self) -> None:
        while True:
            await self._due.wait()
            await self._wait_connected()
            self._due.clear()
            try:
                await asyncio.to_thread(self._shares.reconcile)
            except (MachineError, OSError) as error:
                _log.warning("shares not compared: %s", error)


def bound_sources(containers: list[dict[str, Any]]) -> list[str]:
    """The guest's paths that running containers have bound."""
    return [
        mount["Source"]
        for container in containers
        for mount in container.get("Mounts") or ()
        if mount.get("Type") == "bind" and mount.get("Source")
    ]
