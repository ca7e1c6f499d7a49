"""The tray: state in words, what can be done in it, and the hint given once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.core.settings import Settings
from app.gui.connection import LinkState
from app.gui.engine_link import EngineLink
from app.gui.main import hint_once
from app.gui.theme import Theme
from app.tray.tray import Tray
from tests.fakes.engine_server import FakeEngine

WAIT_MS = 10_000


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def tray(theme: Theme, link: EngineLink, calls: list[str]) -> Iterator[Tray]:
    def call(name: str) -> Callable[[], None]:
        return lambda: calls.append(name)

    tray = Tray(theme, link, call("open"), call("stop"), lambda: True)
    yield tray
    tray.hide()
    tray.deleteLater()


def test_follows_the_engine(qtbot, engine: FakeEngine, link: EngineLink, tray: Tray) -> None:
    assert tray.tool_tip == "Wherry: Engine stopped"
    assert tray.start.isEnabled()
    assert not tray.stop.isEnabled()
    tray.menu.aboutToShow.emit()
    qtbot.waitUntil(lambda: link.connection.state is LinkState.RUNNING, timeout=WAIT_MS)
    assert tray.tool_tip == "Wherry: Engine running"
    assert tray.state.text() == "Engine running"
    assert not tray.start.isEnabled()
    assert tray.stop.isEnabled()


def test_menu(tray: Tray, calls: list[str]) -> None:
    tray.open.trigger()
    tray.stop.setEnabled(True)
    tray.stop.trigger()
    assert calls == ["open", "stop"]


def test_no_tray_no_hiding(tray: Tray) -> None:
    tray.show()  # the offscreen platform has none
    assert not tray.can_hide()


def test_the_hint_is_given_once_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    due = hint_once(Settings.load(path))
    assert due()
    assert not due()
    assert not hint_once(Settings.load(path))()
