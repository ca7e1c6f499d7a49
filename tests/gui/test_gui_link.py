"""The bridge: states, lists driven by events, silence when hidden, and never a blocked Qt thread."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.gui import engine_link
from app.gui.connection import LinkState
from app.gui.engine_link import EngineLink
from app.gui.qt import QTimer
from app.services.engines import EngineStatus, RemoteBackend
from tests.fakes.engine_server import FakeEngine

WAIT_MS = 10_000


def listings(engine: FakeEngine) -> int:
    return engine.requests.count("GET /containers/json")


def running(link: EngineLink) -> bool:
    return link.connection.state is LinkState.RUNNING and link.has_listed


class Backend:
    """A backend whose engine is a socket somebody else serves; `up` waits for `release`."""

    name = "native"

    def __init__(self, host: str, state: str = "stopped") -> None:
        self._host = host
        self.state = state
        self.release = threading.Event()
        self.downs = 0

    def host(self) -> str:
        return self._host

    def status(self) -> EngineStatus:
        return EngineStatus(self.name, self.state, self._host)

    def up(self, on_phase: Callable[[str], None]) -> EngineStatus:
        on_phase("Starting the engine")
        assert self.release.wait(10)
        self.state = "running"
        return self.status()

    def down(self, on_phase: Callable[[str], None]) -> EngineStatus:
        self.downs += 1
        self.state = "stopped"
        return self.status()


def test_connects_lists_and_follows_events(qtbot, engine: FakeEngine, link: EngineLink) -> None:
    shown: list[list[str]] = []
    link.containers_changed.connect(lambda containers: shown.append([c.name for c in containers]))
    engine.add_container("first")
    link.set_watched(True)
    qtbot.waitUntil(lambda: bool(shown) and shown[-1] == ["first"], timeout=WAIT_MS)
    engine.add_container("second")
    qtbot.waitUntil(lambda: shown[-1] == ["first", "second"], timeout=WAIT_MS)
    assert link.facts.version == "0.1.0"
    assert link.facts.containers_running == 2


def test_a_burst_of_events_is_one_reading(qtbot, engine: FakeEngine, link: EngineLink) -> None:
    link.set_watched(True)
    qtbot.waitUntil(lambda: running(link), timeout=WAIT_MS)
    before = listings(engine)
    for number in range(40):
        engine.add_container(f"c{number}", running=False)
    qtbot.waitUntil(lambda: link.facts.containers == 40, timeout=WAIT_MS)
    assert listings(engine) - before <= 4


def test_hidden_means_no_request_and_shown_again_one_refresh(qtbot, engine: FakeEngine, link: EngineLink) -> None:
    link.set_watched(True)
    qtbot.waitUntil(lambda: running(link), timeout=WAIT_MS)
    link.set_watched(False)
    asked = len(engine.requests)
    assert not link._stale
    engine.add_container("unseen")
    qtbot.waitUntil(lambda: link._stale, timeout=WAIT_MS)  # the events came
    qtbot.wait(3 * engine_link.SETTLE_MS)  # the time in which a watched link would have asked
    assert engine.requests[asked:] == []
    link.set_watched(True)
    qtbot.waitUntil(lambda: link.facts.containers == 1, timeout=WAIT_MS)


def test_no_engine_is_stopped_not_an_error(qtbot, tmp_path: Path, make_link) -> None:
    link = make_link(RemoteBackend(f"unix://{tmp_path / 'none'}"))
    link.set_watched(True)
    qtbot.waitUntil(lambda: link.connection.reason == "", timeout=WAIT_MS)
    assert link.connection.state is LinkState.STOPPED


def test_an_engine_that_appears_is_found(qtbot, tmp_path: Path, make_link, monkeypatch) -> None:
    monkeypatch.setattr(engine_link, "RETRY_MS", (50,))
    link = make_link(RemoteBackend(f"unix://{tmp_path / 'late'}"))
    link.set_watched(True)
    qtbot.waitUntil(lambda: link.connection.reason == "", timeout=WAIT_MS)
    with FakeEngine(tmp_path / "late"):
        qtbot.waitUntil(lambda: running(link), timeout=WAIT_MS)
        link.close()


def test_an_engine_that_goes_is_noticed_even_when_hidden(qtbot, tmp_path: Path, make_link) -> None:
    with FakeEngine(tmp_path / "s") as engine:
        link = make_link(RemoteBackend(engine.host))
        link.set_watched(True)
        qtbot.waitUntil(lambda: running(link), timeout=WAIT_MS)
        link.set_watched(False)
        link._end_probe()
    (tmp_path / "s").unlink()
    qtbot.waitUntil(lambda: link.connection.state is not LinkState.RUNNING, timeout=WAIT_MS)


def test_start_shows_the_phase_and_ends_running(qtbot, engine: FakeEngine, make_link) -> None:
    backend = Backend(engine.host)
    link = make_link(backend)
    link.start_engine()
    assert link.connection.state is LinkState.STARTING
    qtbot.waitUntil(lambda: link.connection.reason == "Starting the engine…", timeout=WAIT_MS)
    backend.release.set()
    qtbot.waitUntil(lambda: link.connection.state is LinkState.RUNNING, timeout=WAIT_MS)
    link.stop_engine()
    assert link.connection.state is LinkState.STOPPING
    qtbot.waitUntil(lambda: link.connection.state is LinkState.STOPPED, timeout=WAIT_MS)
    assert backend.downs == 1


def test_a_start_that_takes_too_long_can_be_stopped(qtbot, tmp_path: Path, make_link) -> None:
    backend = Backend(f"unix://{tmp_path / 'none'}")
    link = make_link(backend)
    complaints: list = []
    link.engine_failed.connect(complaints.append)
    link.start_engine()
    link.start_engine()  # pressed twice
    link.stop_engine()
    assert link.connection.state is LinkState.STOPPING
    qtbot.waitUntil(lambda: backend.downs == 1, timeout=WAIT_MS)
    backend.release.set()
    qtbot.waitUntil(lambda: link._works == 0, timeout=WAIT_MS)
    backend.state = "stopped"
    link.probe()
    qtbot.waitUntil(lambda: link.connection.state is LinkState.STOPPED, timeout=WAIT_MS)
    assert complaints == []


def test_a_start_that_fails_says_why(qtbot, tmp_path: Path, make_link) -> None:
    link = make_link(RemoteBackend(f"unix://{tmp_path / 'none'}"))
    with qtbot.waitSignal(link.engine_failed, timeout=WAIT_MS) as heard:
        link.start_engine()
    assert "does not answer" in heard.args[0].sentence
    qtbot.waitUntil(lambda: link.connection.state is LinkState.STOPPED, timeout=WAIT_MS)


def test_an_engine_that_never_answers_leaves_qt_free(qtbot, tmp_path: Path, make_link) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "dead"))
        server.listen(16)
        ticks = 0

        def tick() -> None:
            nonlocal ticks
            ticks += 1

        timer = QTimer()
        timer.timeout.connect(tick)
        timer.start(10)
        link = make_link(RemoteBackend(f"unix://{tmp_path / 'dead'}"))
        link.set_watched(True)
        began = time.monotonic()
        with qtbot.waitSignal(link.connection_changed, timeout=WAIT_MS):
            pass
        took_s = time.monotonic() - began
        timer.stop()
        assert link.connection.state is LinkState.UNREACHABLE
        assert "did not answer" in link.connection.reason
        assert took_s > 1  # the probe did wait
        assert took_s < engine_link.PROBE_DEADLINE_MS / 1000 + 1
        assert ticks / took_s >= 20
        link.close()


def test_an_engine_that_hangs_later_is_found_out(qtbot, engine: FakeEngine, link: EngineLink, monkeypatch) -> None:
    link.set_watched(True)
    qtbot.waitUntil(lambda: running(link), timeout=WAIT_MS)
    engine.hang()
    link.probe()
    qtbot.waitUntil(lambda: link.connection.state is LinkState.UNREACHABLE, timeout=WAIT_MS)
    assert not link.has_listed


def test_a_probe_that_hangs_in_the_backend_counts_as_silence(qtbot, tmp_path: Path, make_link, monkeypatch) -> None:
    monkeypatch.setattr(engine_link, "PROBE_DEADLINE_MS", 200)
    backend = Backend("unix:///nowhere")
    release = threading.Event()

    def status() -> EngineStatus:
        release.wait(10)
        return EngineStatus("native", "stopped", "unix:///nowhere")

    backend.status = status  # type: ignore[method-assign]
    link = make_link(backend)
    link.probe()
    qtbot.waitUntil(lambda: link.connection.state is LinkState.UNREACHABLE, timeout=WAIT_MS)
    release.set()


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "remove"])
def test_orders_reach_the_engine(qtbot, engine: FakeEngine, link: EngineLink, verb: str) -> None:
    made = engine.add_container("web", running=verb != "start")
    containers: list = []
    link.containers_changed.connect(lambda found: containers.extend(found))
    link.set_watched(True)
    qtbot.waitUntil(lambda: bool(containers), timeout=WAIT_MS)
    ended: list = []
    link.act(verb, containers[0], lambda: ended.append("done"), ended.append)
    qtbot.waitUntil(lambda: ended == ["done"], timeout=WAIT_MS)
    method = "DELETE" if verb == "remove" else "POST"
    assert any(
        request.startswith(f"{method} /containers/{made.id}") and (verb == "remove" or request.endswith(verb))
        for request in engine.requests
    )


def test_a_refused_order_names_the_container(qtbot, engine: FakeEngine, link: EngineLink) -> None:
    made = engine.add_container("web", "alpine:latest", "missing", running=False)
    containers: list = []
    link.containers_changed.connect(lambda found: containers.extend(found))
    link.set_watched(True)
    qtbot.waitUntil(lambda: bool(containers), timeout=WAIT_MS)
    failures: list = []
    link.act("start", containers[0], lambda: None, failures.append)
    qtbot.waitUntil(lambda: bool(failures), timeout=WAIT_MS)
    assert failures[0].sentence == 'Could not start web: exec: "missing": no such file or directory'
    assert made.name == "web"
