"""A link, a theme and a window against the fake engine, off the screen."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from app.core.translations import use_language
from app.gui.connection import LinkState
from app.gui.engine_link import EngineLink
from app.gui.qt import QApplication
from app.gui.theme import Theme
from app.gui.window import MainWindow
from app.services.engines import RemoteBackend
from tests.fakes.engine_server import FakeEngine

WAIT_MS = 10_000


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    use_language("en")
    yield
    use_language("en")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "s") as fake:
        fake.add_image("alpine:3.23", "alpine:latest")
        fake.add_image("nginx:1.29", size_bytes=52_300_000)
        yield fake


@pytest.fixture(scope="session")
def the_theme(qapp: QApplication) -> Theme:
    return Theme(qapp)


@pytest.fixture
def theme(the_theme: Theme) -> Theme:
    if the_theme.mode != "light":
        the_theme.set_mode("light")
    return the_theme


@pytest.fixture
def make_link(qapp: QApplication) -> Iterator[Callable[..., EngineLink]]:
    made: list[EngineLink] = []

    def make(backend: object) -> EngineLink:
        made.append(EngineLink(backend))
        return made[-1]

    yield make
    for link in made:
        link.close()
    for link in made:
        link.deleteLater()
    qapp.processEvents()


@pytest.fixture
def link(engine: FakeEngine, make_link: Callable[..., EngineLink]) -> EngineLink:
    return make_link(RemoteBackend(engine.host))


@pytest.fixture
def window(qtbot, theme: Theme, link: EngineLink, engine: FakeEngine) -> MainWindow:
    """Shown, connected and listing."""
    window = MainWindow(theme, link)
    qtbot.addWidget(window)
    window.show()
    qtbot.waitUntil(lambda: link.connection.state is LinkState.RUNNING and link.has_listed, timeout=WAIT_MS)
    return window
