"""Images to and from registries, as the engine offers it: work in threads, told of on the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from runtime.content.image import Image
from runtime.content.images import ImageStore
from runtime.engine.distribution.progress import Feed, Progress
from runtime.engine.distribution.shared import SharedLayers
from runtime.engine.events import Event, EventBus
from runtime.oci.image import Platform
from runtime.oci.reference import Reference
from runtime.registry.hosts import RegistrySettings

if TYPE_CHECKING:
    from runtime.registry.transport import Credentials

log = logging.getLogger(__name__)


class Transfer:
    """Blocking work in a thread of its own, what it tells, and how it ended."""

    def __init__(self, feed: Feed, run: Callable[[], None], cancel: Callable[[], None]) -> None:
        self._feed = feed
        self._run = run
        self.cancel = cancel
        self.error: Exception | None = None
        self._first: list[Progress] = []
        self._batches: AsyncIterator[list[Progress]] = feed.batches()

    async def begin(self) -> None:
        """Returns with its first line; raises what it failed with before."""
        # Not a thread of the loop's pool: these may wait for a registry for long, and none is joined at the end.
        threading.Thread(target=self._work, name="transfer", daemon=True).start()
        self._first = await anext(self._batches, [])
        if not self._first and self.error:
            raise self.error

    def _work(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 (handed to whoever reads the lines)
            self.error = error
        finally:
            self._feed.end()

    async def batches(self) -> AsyncIterator[list[Progress]]:
        """The lines; `error` is set when they have ended and it has failed."""
        if self._first:
            yield self._first
        async for batch in self._batches:
            yield batch


class Distribution:
    def __init__(self, settings: RegistrySettings, images: ImageStore, events: EventBus) -> None:
        self.settings = settings
        self._images = images
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._shared = SharedLayers(images.discard_layer)
        self._running: set[Transfer] = set()

    def close(self) -> None:
        for transfer in list(self._running):
            transfer.cancel()

    async def pull(self, reference: Reference, platform: Platform | None, credentials: Credentials) -> Transfer:
        """Has begun when this returns. Without tag and digest: all tags. Raises what `Pull.run` does."""
        from runtime.engine.distribution.pull import Pull  # with it comes requests, which is large

        feed = Feed()

        def on_pulled(image: Image, pulled: Reference) -> None:
            settings = image.config.get("config") or {}
            attributes = {**(settings.get("Labels") or {}), "name": pulled.familiar_name()}
            self._publish(Event("image", "pull", pulled.familiar(), attributes))

        pull = Pull(reference, platform, credentials, self.settings, self._images, self._shared, feed, on_pulled)
        return await self._begin(Transfer(feed, pull.run, pull.cancel))

    async def push(self, reference: Reference, credentials: Credentials) -> Transfer:
        """Has begun when this returns. Without a tag: all tags. Failures come as the transfer's `error`."""
        from runtime.engine.distribution.push import Push

        feed = Feed()
        push = Push(reference, credentials, self.settings, self._images, feed)

        def run() -> None:
            push.run()
            self._publish(Event("image", "push", reference.familiar(), {"name": reference.familiar_name()}))

        return await self._begin(Transfer(feed, run, push.cancel))

    async def verify(
        self,
        chosen: Sequence[Image],
        repair: bool,
        credentials: Callable[[str], Credentials],
        running_on: Callable[[str], str],
    ) -> Transfer:
        """Has begun when this returns. Arguments: `Verify`."""
        from runtime.engine.distribution.verify import Verify

        async def call(work: Callable[[], None]) -> None:
            work()

        def on_loop(work: Callable[[], None]) -> None:
            asyncio.run_coroutine_threadsafe(call(work), self._loop).result()

        feed = Feed()
        verify = Verify(self._images, chosen, repair, credentials, self.settings, feed, running_on, on_loop)
        return await self._begin(Transfer(feed, verify.run, verify.cancel))

    def _publish(self, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._events.publish, event)

    async def _begin(self, transfer: Transfer) -> Transfer:
        self._running.add(transfer)
        try:
            await transfer.begin()
        except BaseException:
            transfer.cancel()
            self._running.discard(transfer)
            raise
        return transfer

    def end(self, transfer: Transfer) -> None:
        """To be called by whoever reads a transfer, when it reads no more."""
        transfer.cancel()
        self._running.discard(transfer)
