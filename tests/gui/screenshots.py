"""Pictures of the window with sample containers, for the README and for looking at.

    python -m tests.gui.screenshots [DIRECTORY] [LANGUAGE]

needs a display (`xvfb-run -s "-screen 0 1600x1000x24"` will do). Without arguments it writes window-light.png and
window-dark.png into docs/images; with a directory it writes every page and state there.
"""

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from app.core.translations import use_language
from app.gui.connection import LinkState
from app.gui.engine_link import EngineLink
from app.gui.main import make_application
from app.gui.qt import QWidget
from app.gui.run_dialog import RunDialog
from app.gui.theme import Theme
from app.gui.window import CONTAINERS, IMAGES, MACHINE, MainWindow
from app.services.engines import EngineStatus, RemoteBackend
from tests.fakes.engine_server import FakeEngine

README_IMAGES = Path(__file__).parents[2] / "docs" / "images"
HOST = "unix:///run/wherry/docker.sock"

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
IMAGES_SHOWN: tuple[tuple[tuple[str, ...], float, int], ...] = (
    (("nginx:1.29-alpine",), 52.3, 12 * DAY_S),
    (("alpine:3.23", "alpine:latest"), 8.4, 40 * DAY_S),
    (("postgres:17",), 438, 20 * DAY_S),
    (("redis:8-alpine",), 41.2, 33 * DAY_S),
    (("example.org/shop-api:2.4",), 127, 2 * HOUR_S),
)
CONTAINERS_SHOWN: tuple[tuple[str, str, str, tuple[str, ...], int], ...] = (
    ("api", "example.org/shop-api:2.4", "running", ("9000", "9001"), 2 * HOUR_S),
    ("cache", "redis:8-alpine", "running", (), 9 * DAY_S),
    ("database", "postgres:17", "running", ("5432",), 3 * DAY_S),
    ("migrate", "example.org/shop-api:2.4", "exited", (), 2 * DAY_S),
    ("nightly-backup", "alpine:3.23", "created", (), 40),
    ("web", "nginx:1.29-alpine", "running", ("8080",), 3 * MINUTE_S),
)
LOG = (
    b"\x1b[32mINFO\x1b[0m  listening on 0.0.0.0:9000\n",
    b"\x1b[32mINFO\x1b[0m  connected to postgres://database:5432/shop\n",
    b"\x1b[33mWARN\x1b[0m  cache is cold, warming 1,204 keys\n",
    b"\x1b[32mINFO\x1b[0m  GET /products 200 \x1b[2m12 ms\x1b[0m\n",
    b"\x1b[32mINFO\x1b[0m  GET /products/42 200 \x1b[2m4 ms\x1b[0m\n",
    b"\x1b[31mERROR\x1b[0m payment gateway: timeout after 3 s, retrying (1/3)\n",
    b"\x1b[32mINFO\x1b[0m  POST /orders 201 \x1b[2m381 ms\x1b[0m\n",
)


class SampleBackend(RemoteBackend):
    """The fake engine, shown as the native one at its usual address."""

    name = "native"

    def status(self) -> EngineStatus:
        return EngineStatus(self.name, "running", self.host())


def identity(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def fill(engine: FakeEngine) -> None:
    now = int(time.time())
    for tags, megabytes, age_s in IMAGES_SHOWN:
        image = engine.images.pop(engine.add_image(*tags, size_bytes=int(megabytes * 1e6)))
        image.update(Id=f"sha256:{identity(tags[0])}", Created=now - age_s)
        engine.images[image["Id"]] = image
    for name, image, state, ports, age_s in CONTAINERS_SHOWN:
        container = engine.add_container(name, image, running=state != "created")
        del engine.containers[container.id]
        container.id = identity(name)
        engine.containers[container.id] = container
        container.created_at = now - age_s
        targets = {"8080": "80"}
        container.config["HostConfig"] = {
            "PortBindings": {
                f"{targets.get(port, port)}/tcp": [{"HostIp": "0.0.0.0", "HostPort": port}] for port in ports
            }
        }
        if state == "exited":
            container.process.end(0)
        for line in LOG * 3 if name == "api" else ():
            container.process.write(line)


class Camera:
    """Takes pictures of the window once it shows what is wanted."""

    def __init__(self, directory: Path, suffix: str) -> None:
        self._directory = directory
        self._suffix = suffix
        directory.mkdir(parents=True, exist_ok=True)

    def take(self, widget: QWidget, name: str) -> None:
        self.wait(lambda: True)
        widget.grab().save(str(self._directory / f"{name}-{self._suffix}.png"))

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 15
        application = make_application()
        application.processEvents()
        while not condition():
            assert time.monotonic() < deadline
            application.processEvents()
            time.sleep(0.01)
        application.processEvents()


def take_all(camera: Camera, window: MainWindow, link: EngineLink, engine: FakeEngine, theme: Theme) -> None:
    containers, images = window.containers, window.images
    camera.take(window, "containers")
    containers.list.selectAll()
    camera.take(window, "selected")
    containers.list.clearSelection()
    containers.list.action_requested.emit(containers.containers.items[0].id, "remove")
    camera.take(window, "asking")
    containers.banner.say(
        "Could not start web: Bind for 0.0.0.0:8080 failed: port is already allocated",
        "Stop what uses that port, or publish another one.",
    )
    camera.take(window, "banner")
    containers.banner.hide()
    containers.search.setText("nothing like this")
    camera.take(window, "nomatch")
    containers.search.clear()
    window.show_page(IMAGES)
    camera.take(window, "images")
    window.show_page(MACHINE)
    camera.take(window, "machine")
    window.machine.ask_to_stop()
    camera.take(window, "stopping")
    window.machine.banner.hide()
    window.show_logs(next(c.id for c in containers.containers.items if c.name == "api"))
    camera.wait(lambda: "orders" in window.logs.text.toPlainText())
    window.logs._search.setText("products")
    camera.take(window, "logs")
    window.logs._timestamps.setChecked(True)
    camera.take(window, "logs-stamped")
    window.show_page(IMAGES)
    references = [row.reference for row in images.images.items]
    dialog = RunDialog(theme, link, references, "nginx:1.29-alpine", window)
    dialog.name.setText("web server")
    dialog.ports.setPlainText("8080:80\n8443")
    dialog.volumes.setPlainText("site")
    dialog.problems()
    dialog.show()
    camera.take(dialog, "run")
    dialog.close()
    window.show_page(CONTAINERS)
    for container in [*engine.containers.values()]:
        container.process.end(0)
        del engine.containers[container.id]
    engine.emit("container", "destroy", "all")
    camera.wait(lambda: not containers.containers.items)
    camera.take(window, "empty")
    engine.hang()
    link.probe()
    camera.wait(lambda: link.connection.state is LinkState.UNREACHABLE)
    camera.take(window, "dead")
    window.show_page(MACHINE)
    camera.take(window, "machine-dead")


def main(arguments: list[str]) -> None:
    """Take the pictures (see the module)."""
    application = make_application()
    theme = Theme(application)
    use_language(arguments[1] if len(arguments) > 1 else "en")
    for look in ("light", "dark"):
        theme.set_mode(look)
        with tempfile.TemporaryDirectory() as directory, FakeEngine(Path(directory) / "s") as engine:
            fill(engine)
            link = EngineLink(SampleBackend(engine.host))
            window = MainWindow(theme, link)
            window.show()
            camera = Camera(Path(arguments[0]) if arguments else README_IMAGES, look)
            camera.wait(lambda link=link: link.has_listed)
            shell, socket = window.machine.shell, window.machine.socket
            shell.set_text(f"export DOCKER_HOST={HOST}")
            socket.set_text(HOST)
            if arguments:
                take_all(camera, window, link, engine, theme)
            else:
                camera.take(window, "window")
            link.close()
            window.hide()
            window.deleteLater()


if __name__ == "__main__":
    main(sys.argv[1:])
