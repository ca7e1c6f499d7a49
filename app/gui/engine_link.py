"""The bridge between the engine, whose calls block, and the Qt thread, which must not.

Every call to the engine runs on a worker thread and comes back as a function run on the Qt thread (`_deliver`). The
link keeps one picture of the engine: the connection (`app.gui.connection`), the lists and the facts. The lists are
driven by the engine's event stream; while nobody watches (the window is hidden) events only mark them as out of
date, and showing the window refreshes once. While somebody watches, a probe every `HEARTBEAT_MS` makes sure that
"running" is true: a connection that stays open proves nothing.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from app.core.background import Background, Job
from app.core.translations import tr
from app.engine.client import EngineClient
from app.engine.models import Container, EngineInfo, Event, Image
from app.engine.streams import JsonStream, OutputStream
from app.gui import wording
from app.gui.connection import TRANSITIONS, Connection, EngineFacts, Failure, LinkEvent, LinkState
from app.gui.failures import explain
from app.gui.log_feed import QUEUE_LINES, LogFeed
from app.gui.qt import QObject, Qt, QTimer, Signal, Slot
from app.services import containers as container_services
from app.services import images as image_services
from app.services.containers import RunOptions
from app.services.engines import EngineBackend, EngineStatus, OnPhase

ANSWER_DEADLINE_S = 5.0  # for an answer to a question
WORK_DEADLINE_S = 120.0  # for an answer to an order, such as starting a container in a slow virtual machine
PROBE_DEADLINE_MS = 8_000  # for a whole probe, whatever it waits for
SETTLE_MS = 60  # a burst of events makes one refresh
HEARTBEAT_MS = 10_000
RETRY_MS = (1_000, 2_000, 4_000, 8_000, 15_000)  # while watched and without an engine

Answer = TypeVar("Answer")
Done = Callable[[], None]
Failed = Callable[[Failure], None]


class EngineLink(QObject):
    """Lives on the Qt thread; every public method returns at once and reports through signals or callbacks."""

    connection_changed = Signal(object)  # Connection
    containers_changed = Signal(list)  # list[Container]
    images_changed = Signal(list)  # list[Image]
    facts_changed = Signal(object)  # EngineFacts
    engine_failed = Signal(object)  # Failure: starting or stopping the engine did not work

    _delivered = Signal(object)  # Callable[[], None]

    def __init__(self, backend: EngineBackend, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._backend = backend
        self.connection = Connection(LinkState.STOPPED, tr("Looking for the engine…"))
        self.facts = EngineFacts(backend=backend.name, host=backend.host())
        self.has_listed = False
        self._watched = False
        self._stale = True
        self._refreshing = False
        self._probing: Job | None = None
        self._works = 0  # starts and stops under way; while there are any, nobody probes
        self._newest_work = 0
        self._retries = 0
        self._events: Job | None = None
        self._asking: EngineClient | None = None
        self._ordering: EngineClient | None = None
        self._delivered.connect(self._run_delivered, Qt.ConnectionType.QueuedConnection)
        # Orders may take as long as a container takes to stop: questions must not wait behind them.
        self._questions = Background(self._deliver, workers=3)
        self._orders = Background(self._deliver, workers=6)
        self._settle = self._timer(SETTLE_MS, self.refresh)
        self._retry = self._timer(RETRY_MS[0], self.probe)
        self._heartbeat = self._timer(HEARTBEAT_MS, self.probe)
        self._probe_deadline = self._timer(PROBE_DEADLINE_MS, self._probe_expired)

    def close(self) -> None:
        """End everything under way; nothing is reported after this. Containers are none of its business."""
        for timer in (self._settle, self._retry, self._heartbeat, self._probe_deadline):
            timer.stop()
        self._drop_clients()
        self._questions.close()
        self._orders.close()

    # the engine as a whole

    def probe(self) -> None:
        """Find out where the engine stands. One probe at a time; one that takes too long counts as silence."""
        if self._probing is not None or self._works:
            return
        self._retry.stop()
        self._heartbeat.stop()
        self._probe_deadline.start()

        def ask() -> tuple[EngineStatus, EngineInfo | None]:
            status = self._backend.status()
            if status.state not in ("running", "degraded", "idle"):
                return status, None
            with EngineClient(status.host, ANSWER_DEADLINE_S) as client:
                return status, client.info()

        def failed(error: Exception) -> None:
            self._end_probe()
            self._lost(explain(error))

        self._probing = self._questions.submit(ask, self._probed, failed)

    def start_engine(self) -> None:
        """Ask the backend for a running engine."""
        self._work_on_engine(LinkEvent.START, self._backend.up)

    def stop_engine(self) -> None:
        """Ask the backend to end the engine and its containers."""
        self._work_on_engine(LinkEvent.STOP, self._backend.down)

    def set_watched(self, watched: bool) -> None:
        """Whether anybody sees the lists. Showing them refreshes once; hiding them ends all asking."""
        if watched == self._watched:
            return
        self._watched = watched
        if not watched:
            self._retry.stop()
            self._heartbeat.stop()
        else:
            self._retries = 0
            self.probe()
            if self._stale:
                self.refresh()

    # lists

    def refresh(self) -> None:
        """Read the lists again. One reading at a time; what changes meanwhile makes another one follow."""
        client = self._asking
        if client is None or self._refreshing:
            self._stale = True
            return
        self._refreshing = True
        self._stale = False

        def read() -> tuple[list[Container], list[Image]]:
            return client.containers(all=True), client.images()

        def done(lists: tuple[list[Container], list[Image]]) -> None:
            self._refreshing = False
            if client is not self._asking:
                return
            self._show_lists(*lists)
            if self._stale and self._watched:
                self._settle.start()

        def failed(error: Exception) -> None:
            self._refreshing = False
            if client is self._asking:
                self._stale = True
                self._lost(explain(error))

        self._questions.submit(read, done, failed)

    def log_feed(self, container_id: str) -> LogFeed:
        """A feed of the container's log, newest lines first read and then followed; the caller opens and closes it."""
        host = self.facts.host

        def open_output() -> OutputStream:
            return EngineClient(host, ANSWER_DEADLINE_S).logs(
                container_id, follow=True, timestamps=True, tail=QUEUE_LINES
            )

        return LogFeed(self._questions, open_output)

    # orders

    def act(self, verb: str, container: Container, done: Done, failed: Failed) -> None:
        """start, stop, restart or remove (by force) a container."""
        attempts = {
            "start": tr("Could not start {name}", name=container.name),
            "stop": tr("Could not stop {name}", name=container.name),
            "restart": tr("Could not restart {name}", name=container.name),
            "remove": tr("Could not remove {name}", name=container.name),
        }

        def order(client: EngineClient) -> None:
            match verb:
                case "start":
                    client.start_container(container.id)
                case "stop":
                    client.stop_container(container.id)
                case "restart":
                    client.restart_container(container.id)
                case "remove":
                    client.remove_container(container.id, force=True)

        self._order(order, lambda _: done(), failed, attempts[verb])

    def run_container(self, options: RunOptions, done: Callable[[str], None], failed: Failed) -> None:
        """Make and start a container; `done` hears its name, or its image's where it was given none."""
        self._order(
            lambda client: container_services.run_detached(client, options),
            lambda _: done(options.name or options.image),
            failed,
        )

    def load_images(
        self, path: Path, sent: Callable[[int], None], done: Callable[[list[str]], None], failed: Failed
    ) -> None:
        """Load the images of an archive; `sent` hears the bytes sent so far, `done` the references loaded."""
        total = 0

        def on_bytes(count: int) -> None:
            nonlocal total
            total += count
            so_far = total
            self._deliver(lambda: sent(so_far))

        self._order(
            lambda client: image_services.load_file(client, path, on_bytes),
            done,
            failed,
            tr("Could not load {path}", path=path.name),
        )

    def remove_image(self, reference: str, done: Done, failed: Failed) -> None:
        """Remove a tag, and the image with its last tag."""
        self._order(
            lambda client: client.remove_image(reference),
            lambda _: done(),
            failed,
            tr("Could not remove {name}", name=reference),
        )

    # inside

    def _order(
        self,
        work: Callable[[EngineClient], Answer],
        done: Callable[[Answer], None],
        failed: Failed,
        attempt: str = "",
    ) -> None:
        client = self._ordering
        if client is None:
            failed(Failure(f"{attempt}: {tr('no engine is running')}" if attempt else tr("No engine is running.")))
            return
        self._orders.submit(lambda: work(client), done, lambda error: failed(explain(error, attempt)))

    def _work_on_engine(self, event: LinkEvent, work: Callable[[OnPhase], EngineStatus]) -> None:
        """Start or stop the engine, if that makes sense now. A stop may overtake a start, which then ends unheard."""
        if (self.connection.state, event) not in TRANSITIONS:
            return
        self._works += 1
        self._newest_work += 1
        number = self._newest_work
        self._end_probe()
        self._drop_clients()
        self._happened(event)

        def on_phase(name: str) -> None:
            self._deliver(lambda: show_phase(wording.phase(name)))

        def show_phase(text: str) -> None:
            if number == self._newest_work and self._works:
                self._set_connection(replace(self.connection, reason=text, remedy=""))

        def ended() -> None:
            self._works -= 1
            self.probe()

        def failed(error: Exception) -> None:
            if number == self._newest_work:
                self.engine_failed.emit(explain(error))
            ended()

        self._orders.submit(lambda: work(on_phase), lambda _: ended(), failed)

    def _probed(self, answer: tuple[EngineStatus, EngineInfo | None]) -> None:
        self._end_probe()
        status, info = answer
        reason = " ".join(status.reasons)
        match status.state:
            case "running" | "degraded" | "idle":
                self._found(status.host)
            case "starting":
                self._drop_clients()
                self._happened(LinkEvent.COMING, wording.phase(status.detail.get("phase", "")) or reason)
            case "absent" | "stopped" | "saved" | "stopping":
                self._drop_clients()
                self._happened(LinkEvent.ABSENT)
            case "broken" | "unreachable" | "paused":
                self._lost(Failure(reason or tr("The engine does not answer.")))
        self._set_facts(_facts(self._backend.name, status, info))
        self._plan_next_probe()

    def _probe_expired(self) -> None:
        self._end_probe()
        self._lost(
            Failure(
                tr(
                    "The engine at {host} did not answer within {count} seconds.",
                    host=self.facts.host,
                    count=PROBE_DEADLINE_MS // 1000,
                ),
                tr("Restart it on the Machine page."),
            )
        )

    def _end_probe(self) -> None:
        self._probe_deadline.stop()
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None

    def _plan_next_probe(self) -> None:
        if not self._watched or self._works:
            return
        if self.connection.state is LinkState.RUNNING:
            self._retries = 0
            self._heartbeat.start()
        else:
            self._retry.start(RETRY_MS[min(self._retries, len(RETRY_MS) - 1)])
            self._retries += 1

    def _found(self, host: str) -> None:
        """The engine answers at `host`: connect for good, unless we are."""
        if self._asking is None:
            asking = self._asking = EngineClient(host, ANSWER_DEADLINE_S)
            self._ordering = EngineClient(host, WORK_DEADLINE_S)

            def subscribe() -> JsonStream[Event]:
                stream = asking.events()
                # Only what is read after subscribing can be kept up to date by events.
                self._deliver(self.refresh)
                return stream

            self._events = self._questions.follow(
                subscribe,
                on_item=self._event_came,
                on_end=self._events_ended,
                on_error=lambda error: self._lost(explain(error)),
            )
        self._happened(LinkEvent.ANSWERED)

    def _event_came(self, event: Event) -> None:
        if event.type not in ("container", "image") or event.action.startswith("exec_"):
            return
        self._stale = True
        if self._watched and not self._settle.isActive():
            self._settle.start()

    def _events_ended(self) -> None:
        """The engine closed the stream: it is going, or gone. A probe says which."""
        self._drop_clients()
        self.probe()

    def _lost(self, failure: Failure) -> None:
        self._drop_clients()
        self._happened(LinkEvent.SILENT, failure.sentence, failure.remedy)
        self._plan_next_probe()

    def _drop_clients(self) -> None:
        """Close the connections; orders which wait in them fail and say so."""
        if self._events is not None:
            self._events.cancel()
            self._events = None
        for client in (self._asking, self._ordering):
            if client is not None:
                client.close()
        self._asking = self._ordering = None
        self._stale = True
        self.has_listed = False
        self._set_facts(EngineFacts(backend=self._backend.name, host=self._backend.host()))

    def _show_lists(self, containers: list[Container], images: list[Image]) -> None:
        self.has_listed = True
        running = sum(container.state == "running" for container in containers)
        self._set_facts(replace(self.facts, containers=len(containers), containers_running=running, images=len(images)))
        self.containers_changed.emit(containers)
        self.images_changed.emit(images)

    def _happened(self, event: LinkEvent, reason: str = "", remedy: str = "") -> None:
        self._set_connection(self.connection.after(event, reason, remedy))

    def _set_connection(self, connection: Connection) -> None:
        if connection != self.connection:
            self.connection = connection
            self.connection_changed.emit(connection)

    def _set_facts(self, facts: EngineFacts) -> None:
        if facts != self.facts:
            self.facts = facts
            self.facts_changed.emit(facts)

    def _deliver(self, function: Callable[[], None]) -> None:
        """Any thread: run `function` on the Qt thread, soon."""
        with contextlib.suppress(RuntimeError):  # the link is gone: nobody is left to be told
            self._delivered.emit(function)

    @Slot(object)
    def _run_delivered(self, function: Callable[[], None]) -> None:
        function()

    def _timer(self, interval_ms: int, what: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(interval_ms)
        timer.timeout.connect(what)
        return timer


def _facts(backend: str, status: EngineStatus, info: EngineInfo | None) -> EngineFacts:
    """The facts of `status` and, while the engine answers, of its `info`."""
    facts = EngineFacts(
        backend=backend,
        host=status.host,
        accelerator=status.detail.get("accelerator", ""),
        accelerator_reason=status.detail.get("accelerator_reason", ""),
        cpus=int(status.detail.get("cpus", 0)),
        memory_bytes=int(status.detail.get("memory_mib", 0)) << 20,
        reasons=status.reasons if status.state == "degraded" else (),
        system=" — ".join(status.detail[name] for name in ("image_version", "update_note") if name in status.detail),
    )
    if info is None:
        return facts
    return replace(
        facts,
        version=info.version,
        kernel=info.kernel,
        cpus=info.cpus,
        memory_bytes=info.memory_bytes,
        containers=info.containers,
        containers_running=info.containers_running,
        images=info.images,
        reasons=facts.reasons + info.warnings,
    )
