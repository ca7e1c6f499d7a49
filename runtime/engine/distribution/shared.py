"""Layers on their way that several pulls wait for: fetched once, given up when nobody wants them any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runtime.content.layers import UnpackedLayer
from runtime.errors import Cancelled
from runtime.registry.cancellation import Cancellation

Tell = Callable[[str, int, int], None]
"""Called with a status, the bytes so far and the bytes in all (0: no count)."""
Work = Callable[[Cancellation, Tell], UnpackedLayer | None]


class _Fetch:
    """One layer on its way. `result` is None where the layer was unpacked already."""

    def __init__(self) -> None:
        self.cancellation = Cancellation()
        self.result: UnpackedLayer | None = None
        self.error: Exception | None = None
        self.is_done = False
        self.owners: list[object] = []
        self.listeners: list[Tell] = []
        self.waiting: list[threading.Event] = []
        self.told: tuple[str, int, int] | None = None

    def tell(self, status: str, current_bytes: int = 0, total_bytes: int = 0) -> None:
        self.told = (status, current_bytes, total_bytes)
        for listener in list(self.listeners):
            listener(status, current_bytes, total_bytes)


class SharedLayers:
    """The layers under way in one engine, by what identifies them."""

    def __init__(self, discard: Callable[[UnpackedLayer], None]) -> None:
        self._lock = threading.Lock()
        self._fetches: dict[tuple[str, str], _Fetch] = {}
        self._discard = discard

    def fetch(
        self, key: tuple[str, str], owner: object, cancellation: Cancellation, tell: Tell, work: Work
    ) -> UnpackedLayer | None:
        """What `work` makes, of this call or of another's under way. `owner` must `release` in the end."""
        while True:
            cancellation.check()
            arrived = threading.Event()
            with self._lock:
                fetch = self._fetches.get(key)
                mine = fetch is None or fetch.error is not None
                if fetch is None or mine:
                    fetch = self._fetches[key] = _Fetch()
                fetch.owners.append(owner)
                fetch.listeners.append(tell)
                if fetch.is_done:
                    arrived.set()
                fetch.waiting.append(arrived)
            if fetch.told:
                tell(*fetch.told)
            if mine:
                self._run(fetch, work)
            else:
                cancellation.watch(arrived, arrived.set)
                arrived.wait()
                cancellation.unwatch(arrived)
            cancellation.check()
            if fetch.error is None:
                return fetch.result
            if mine or not isinstance(fetch.error, Cancelled):
                raise fetch.error

    def _run(self, fetch: _Fetch, work: Work) -> None:
        result, failure = None, None
        try:
            result = work(fetch.cancellation, fetch.tell)
        except Exception as error:  # noqa: BLE001 (raised by all who wait)
            failure = error
        with self._lock:
            fetch.result, fetch.error, fetch.is_done = result, failure, True
            waiting, wanted = fetch.waiting, bool(fetch.owners)
        if result is not None and not wanted:
            self._discard(result)
        for event in waiting:
            event.set()

    def release(self, owner: object) -> None:
        """`owner` wants none of its layers any more: those nobody else wants are given up."""
        unwanted = []
        with self._lock:
            for key, fetch in list(self._fetches.items()):
                fetch.owners = [other for other in fetch.owners if other is not owner]
                if not fetch.owners:
                    unwanted.append(fetch)
                    del self._fetches[key]
        for fetch in unwanted:
            fetch.cancellation.cancel()
            if fetch.is_done and fetch.result is not None:
                self._discard(fetch.result)
