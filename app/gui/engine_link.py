"""The bridge between the engine, whose calls block, and the Qt thread, which must not.

Every call to the engine runs on a worker thread and comes back as a callable run on the Qt thread (`_deliver`). The
link keeps one picture of the engine: the connection (`app.gui.connection`), the lists and the facts. The lists are
driven by the engine's event stream; while nobody watches (window hidden) events only mark them as out of date, and
showing the window refreshes once.
"""

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

from app.core.translations import tr
from app.engine.client import EngineClient
from app.engine.errors import EngineError
from app.engine.models import Container, Image
from app.gui.connection import Connection, EngineFacts, Failure, LinkEvent, LinkState
from app.gui.log_feed import LogFeed
from app.gui.qt import QObject, QTimer, Signal
from app.services.engines import EngineBackend, EngineStatus

__all__ = ["Connection", "EngineFacts", "EngineLink", "Failure", "LinkEvent", "LinkState"]

DEADLINE_S = 5.0  # for one answer of the engine
PROBE_DEADLINE_MS = 7_000  # for a whole probe, whatever it waits for
SETTLE_MS = 80  # a burst of events makes one refresh
RETRY_MS = (1_000, 2_000, 4_000, 8_000, 15_000)  # while watched and without an engine

Result = TypeVar("Result")


class EngineLink(QObject):
    """Lives on the Qt thread; every public method returns at once and reports through signals or callbacks."""

    connection_changed = Signal(object)  # Connection
    containers_changed = Signal(list)  # list[Container]
    images_changed = Signal(list)  # list[Image]
    facts_changed = Signal(object)  # EngineFacts
    engine_failed = Signal(object)  # Failure: starting or stopping the engine did not work

    _deliver = Signal(object)  # Callable[[], None] to be run on the Qt thread

    def __init__(
        self, backend: EngineBackend, client_for: Callable[[str, float], EngineClient], parent: QObject | None = None
    ) -> None:
        """`client_for(host, timeout_s)` opens a client; called on worker threads."""
        super().__init__(parent)
        self._backend = backend
        self._client_for = client_for
        self.connection = Connection(LinkState.STOPPED, tr("Looking for the engine."))
        self.facts = EngineFacts(backend=backend.name)
        self.has_listed = False
        self._watched = False
        self._stale = True
        self._refreshing = False
        self._probe_number = 0
        self._probing = False
        self._stream: EventStream | None = None
        self._retries = 0
        self._deliver.connect(self._run_delivered)
        self._settle = self._timer(SETTLE_MS, self.refresh)
        self._retry = self._timer(RETRY_MS[0], self.probe)
        self._probe_deadline = self._timer(PROBE_DEADLINE_MS, self._probe_expired)

    # the engine as a whole

    def probe(self) -> None:
        """Find out where the engine stands. One probe at a time; one that takes too long counts as silence."""
        if self._probing:
            return
        self._probing = True
        self._probe_number += 1
        number = self._probe_number
        self._retry.stop()
        self._probe_deadline.start()

        def ask() -> tuple[EngineStatus, EngineFacts | None]:
            status = self._backend.status()
            if status.state not in ANSWERING_STATES:
                return status, None
            with closing(self._client_for(status.host, DEADLINE_S)) as client:
                return status, facts_of(self._backend.name, status, client)

        def answered(answer: tuple[EngineStatus, EngineFacts | None]) -> None:
            if number == self._probe_number:
                self._end_probe()
                self._take_status(*answer)

        def failed(failure: Failure) -> None:
            if number == self._probe_number:
                self._end_probe()
                self._happened(LinkEvent.SILENT, failure.sentence, failure.remedy)

        self._call(ask, answered, failed)

    def start_engine(self) -> None:
        """Ask the backend for a running engine."""
        self._happened(LinkEvent.START)
        self._work_on_engine(lambda: self._backend.up(on_phase=self._phase))

    def stop_engine(self) -> None:
        """Ask the backend to end the engine. Containers of a native engine go on running."""
        self._happened(LinkEvent.STOP)
        self._work_on_engine(self._backend.down)

    def set_watched(self, watched: bool) -> None:
        """Whether anybody sees the lists. Showing them refreshes once; hiding them ends all refreshing."""
        if watched == self._watched:
            return
        self._watched = watched
        if not watched:
            self._retry.stop()
        elif self.connection.state is LinkState.RUNNING:
            if self._stale:
                self.refresh()
        else:
            self.probe()
