"""The window against the real engine, from a file on the disk to a container that is gone again."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.gui.connection import LinkState
from app.gui.containers_model import NAME, STATE
from app.gui.engine_link import EngineLink
from app.gui.run_dialog import RunDialog
from app.gui.theme import Theme
from app.gui.window import MainWindow
from app.services.engines import RemoteBackend
from tests.fakes.images import busybox_image_tar
from tests.harness import RunningEngine

WAIT_MS = 30_000

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="the native engine needs root on Linux"
)


@pytest.fixture
def real_engine(tmp_path: Path) -> Iterator[RunningEngine]:
    engine = RunningEngine(tmp_path / "engine")
    yield engine
    engine.close()


def shown(window: MainWindow) -> dict[str, str]:
    """Names and states in the list."""
    proxy = window.containers.proxy
    return {proxy.index(row, NAME).data(): proxy.index(row, STATE).data() for row in range(proxy.rowCount())}


def test_load_run_follow_stop_remove(
    qtbot, theme: Theme, make_link, real_engine: RunningEngine, tmp_path: Path
) -> None:
    archive = tmp_path / "busybox.tar"
    busybox_image_tar(archive, reference="busybox:latest")
    link: EngineLink = make_link(RemoteBackend(real_engine.host))
    window = MainWindow(theme, link)
    qtbot.addWidget(window)
    window.show()
    qtbot.waitUntil(lambda: link.connection.state is LinkState.RUNNING and link.has_listed, timeout=WAIT_MS)

    window.images.load(archive)
    qtbot.waitUntil(lambda: window.images.images.item("busybox:latest") is not None, timeout=WAIT_MS)

    window.run_container("busybox:latest")
    dialog = window.findChildren(RunDialog)[-1]
    dialog.name.setText("speaker")
    dialog.command.setText("sh -c 'echo hello from the container; exec sleep 1000'")
    dialog.memory.setText("64m")
    dialog.submit()
    qtbot.waitUntil(lambda: shown(window) == {"speaker": "Running"}, timeout=WAIT_MS)

    speaker = window.containers.containers.items[0]
    window.show_logs(speaker.id)
    qtbot.waitUntil(lambda: window.logs.text.toPlainText() == "hello from the container", timeout=WAIT_MS)
    window.logs.leave()

    window.containers.list.action_requested.emit(speaker.id, "remove")
    window.containers.banner.action.click()
    qtbot.waitUntil(lambda: shown(window) == {}, timeout=WAIT_MS)
    link.close()


def test_the_engine_is_killed_and_comes_back(qtbot, theme: Theme, make_link, real_engine: RunningEngine) -> None:
    link: EngineLink = make_link(RemoteBackend(real_engine.host))
    window = MainWindow(theme, link)
    qtbot.addWidget(window)
    window.show()
    qtbot.waitUntil(lambda: link.connection.state is LinkState.RUNNING, timeout=WAIT_MS)
    real_engine.kill()
    qtbot.waitUntil(lambda: link.connection.state is LinkState.STOPPED, timeout=WAIT_MS)
    assert "The engine is stopped" in window.containers.empty.text
    real_engine.restart()
    qtbot.waitUntil(lambda: link.connection.state is LinkState.RUNNING, timeout=WAIT_MS)
    link.close()
