"""The window as people start it: `wherry gui` in a process of its own, on a real X server."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.gui.qt import QImage
from tests.fakes.engine_server import FakeEngine

START_S = 60

pytestmark = pytest.mark.skipif(not shutil.which("Xvfb"), reason="Xvfb is not installed")

# Runs `wherry gui` and, once it lists the container, writes what it shows and a picture of the screen.
PROBE = """
import sys
from pathlib import Path
from app.gui import main as start
from app.gui.qt import QApplication, QTimer
from app.gui.window import MainWindow
from app.cli.main import main

out = Path(sys.argv[1])
make = start.make_application

def look():
    for window in QApplication.topLevelWidgets():
        if isinstance(window, MainWindow) and window.containers.proxy.rowCount():
            QApplication.processEvents()
            shown = [window.containers.proxy.index(0, column).data() for column in range(3)]
            (out / "shown").write_text("|".join(shown))
            QApplication.primaryScreen().grabWindow(0).save(str(out / "screen.png"))
            print("listed", flush=True)
            return
    QTimer.singleShot(50, look)

def make_and_look():
    application = make()
    QTimer.singleShot(50, look)
    return application

start.make_application = make_and_look
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A display number of our own; Xvfb picks a free one and says which."""
    reader, writer = os.pipe()
    arguments = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1400x900x24", "-nolisten", "tcp"]
    server = subprocess.Popen(arguments, pass_fds=[writer], stderr=subprocess.DEVNULL)
    os.close(writer)
    with os.fdopen(reader) as said:
        yield f":{said.readline().strip()}"
    server.terminate()
    server.wait(10)


@pytest.fixture
def environment(display: str, tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "DISPLAY": display,
        "QT_QPA_PLATFORM": "xcb",
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONWARNINGS": "error",
    }


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def busy_engine(engine: FakeEngine) -> FakeEngine:
    engine.add_container("web", "nginx:1.29")
    return engine


def test_the_window_opens_lists_and_ends_on_sigterm(
    busy_engine: FakeEngine, environment: dict[str, str], tmp_path: Path
) -> None:
    with start(environment, "-c", PROBE, str(tmp_path), "--host", busy_engine.host, "gui") as window:
        try:
            assert window.stdout is not None
            assert window.stderr is not None
            assert window.stdout.readline() == "listed\n", window.stderr.read()
            assert (tmp_path / "shown").read_text() == "web|Running|nginx:1.29"

            picture = QImage(str(tmp_path / "screen.png"))
            colours = {picture.pixel(x, y) for x in range(0, 1200, 7) for y in range(0, 760, 7)}
            assert len(colours) > 20

            second = start(environment, "-m", "app", "--host", busy_engine.host, "gui")
            _, complaint = second.communicate(timeout=START_S)
            assert (second.returncode, complaint) == (0, "")
            assert window.poll() is None

            window.send_signal(signal.SIGTERM)
            _, complaint = window.communicate(timeout=START_S)
            assert (window.returncode, complaint) == (0, "")
        finally:
            window.kill()
    assert busy_engine.find("web").process.running
