"""The pages of a real window (off the screen) against the fake engine."""

import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from app.engine.models import PortMapping
from app.gui.connection import LinkState
from app.gui.containers_model import ACTIONS, NAME, STATE, port_texts
from app.gui.panels import Banner, IconButton
from app.gui.qt import QAbstractButton, QApplication, QPoint, Qt, QWidget
from app.gui.run_dialog import RunDialog
from app.gui.table import CellRole, action_rects
from app.gui.theme import Theme
from app.gui.window import CONTAINERS, IMAGES, LOGS, MACHINE, MainWindow
from tests.fakes.engine_server import FakeEngine

WAIT_MS = 10_000


def names(window: MainWindow) -> list[str]:
    """What the list of containers shows, from top to bottom."""
    proxy = window.containers.proxy
    return [proxy.index(row, NAME).data() for row in range(proxy.rowCount())]


def state_of(window: MainWindow, name: str) -> str:
    return {
        window.containers.proxy.index(row, NAME).data(): window.containers.proxy.index(row, STATE).data()
        for row in range(window.containers.proxy.rowCount())
    }[name]


def select(window: MainWindow, *wanted: str) -> None:
    view = window.containers.list
    view.clearSelection()
    for row, name in enumerate(names(window)):
        if name in wanted:
            mode = view.selectionModel().SelectionFlag.Select | view.selectionModel().SelectionFlag.Rows
            view.selectionModel().select(window.containers.proxy.index(row, 0), mode)


def click_action(qtbot, window: MainWindow, name: str, verb: str) -> None:
    """Press the row button, with the mouse, where it is painted."""
    view = window.containers.list
    index = window.containers.proxy.index(names(window).index(name), ACTIONS)
    actions = index.data(CellRole.ACTIONS)
    position = [action.verb for action in actions].index(verb)
    point: QPoint = action_rects(view.visualRect(index), len(actions))[position].center()
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=point)


def test_empty_offers_the_first_container(qtbot, window: MainWindow) -> None:
    assert "No containers yet" in window.containers.empty.text
    assert window.containers.empty.isVisible()
    opened: list[str] = []
    window.containers.run_requested.connect(lambda: opened.append("run"))
    window.containers.empty.button.click()
    assert opened == ["run"]
    window.findChild(RunDialog).reject()


def test_without_images_one_is_asked_to_load_one(qtbot, engine: FakeEngine, window: MainWindow, monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(window.images, "choose_file", lambda: asked.append("file"))
    engine.images.clear()
    engine.emit("image", "delete", "all")
    qtbot.waitUntil(lambda: "no images yet" in window.containers.empty.text, timeout=WAIT_MS)
    window.containers.empty.button.click()
    assert asked == ["file"]
    assert window.pages.currentIndex() == IMAGES


def test_a_container_comes_changes_and_goes(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    made = engine.add_container("web", "nginx:1.29")
    qtbot.waitUntil(lambda: names(window) == ["web"], timeout=WAIT_MS)
    assert state_of(window, "web") == "Running"
    assert window.containers.header.summary.text() == "1 running, 1 in all"
    engine.stop(made, 0)
    qtbot.waitUntil(lambda: state_of(window, "web") == "Stopped", timeout=WAIT_MS)
    del engine.containers[made.id]
    engine.emit("container", "destroy", made.id)
    qtbot.waitUntil(lambda: names(window) == [], timeout=WAIT_MS)


def test_row_buttons_stop_and_start(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    engine.add_container("web")
    qtbot.waitUntil(lambda: names(window) == ["web"], timeout=WAIT_MS)
    click_action(qtbot, window, "web", "stop")
    assert state_of(window, "web") in ("Stopping…", "Stopped")
    qtbot.waitUntil(lambda: state_of(window, "web") == "Stopped", timeout=WAIT_MS)
    click_action(qtbot, window, "web", "start")
    qtbot.waitUntil(lambda: state_of(window, "web") == "Running", timeout=WAIT_MS)


def test_removing_asks_once_and_names_the_loss(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    engine.add_container("web")
    qtbot.waitUntil(lambda: names(window) == ["web"], timeout=WAIT_MS)
    click_action(qtbot, window, "web", "remove")
    banner = window.containers.banner
    assert (
        banner.text
        == 'Remove "web"? It is running and will be stopped at once. What it wrote outside volumes is deleted.'
    )
    assert "web" in {container.name for container in engine.containers.values()}
    banner.action.click()
    qtbot.waitUntil(lambda: names(window) == [], timeout=WAIT_MS)
    assert banner.text == ""


def test_a_question_left_for_another_does_not_come_back(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    engine.add_container("one")
    engine.add_container("two")
    qtbot.waitUntil(lambda: names(window) == ["one", "two"], timeout=WAIT_MS)
    click_action(qtbot, window, "one", "remove")
    click_action(qtbot, window, "two", "remove")
    window.containers.banner.action.click()
    qtbot.waitUntil(lambda: names(window) == ["one"], timeout=WAIT_MS)


def test_several_at_once(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    for name in ("a", "b", "c"):
        engine.add_container(name)
    qtbot.waitUntil(lambda: names(window) == ["a", "b", "c"], timeout=WAIT_MS)
    select(window, "a", "c")
    bar = window.containers._bulk_bar
    assert bar.isVisible()
    assert not window.containers._bulk_buttons["start"].isEnabled()
    window.containers._bulk_buttons["stop"].click()
    qtbot.waitUntil(lambda: [state_of(window, n) for n in "abc"] == ["Stopped", "Running", "Stopped"], timeout=WAIT_MS)
    assert bar.isVisible()  # a refresh keeps the selection
    qtbot.keyClick(window.containers.list, Qt.Key.Key_Delete)
    assert window.containers.banner.text.startswith("Remove 2 containers?")
    qtbot.keyClick(window.containers.list, Qt.Key.Key_Escape)
    assert not bar.isVisible()


def test_a_failure_is_a_banner_with_its_remedy(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    engine.add_container("web", "alpine:latest", "missing", running=False)
    qtbot.waitUntil(lambda: names(window) == ["web"], timeout=WAIT_MS)
    click_action(qtbot, window, "web", "start")
    banner = window.containers.banner
    qtbot.waitUntil(lambda: bool(banner.text), timeout=WAIT_MS)
    assert "Could not start web" in banner.text
    assert QApplication.activeModalWidget() is None
    assert state_of(window, "web") in ("Not started", "Stopped")
    next(b for b in banner.findChildren(IconButton) if b.toolTip() == "Dismiss").click()
    assert banner.text == ""


def test_searching_and_finding_nothing(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    engine.add_container("web", "nginx:1.29")
    engine.add_container("db")
    qtbot.waitUntil(lambda: names(window) == ["db", "web"], timeout=WAIT_MS)
    qtbot.keyClick(window, Qt.Key.Key_F, Qt.KeyboardModifier.ControlModifier)
    window.containers.search.setText("NGINX run")
    assert names(window) == ["web"]
    window.containers.search.setText("nothing")
    assert 'Nothing matches "nothing"' in window.containers.empty.text
    window.containers.empty.button.click()
    assert names(window) == ["db", "web"]


def test_ports_are_listed_once() -> None:
    both = (PortMapping(80, "tcp", "0.0.0.0", 8080), PortMapping(80, "tcp", "::", 8080))
    assert port_texts((*both, PortMapping(53, "udp", "", 5353), PortMapping(443, "tcp"))) == [
        "8080 → 80",
        "5353 → 53/udp",
    ]


def test_images_are_listed_by_tag_and_removed(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    window.show_page(IMAGES)
    proxy = window.images.proxy
    shown = [[proxy.index(row, column).data() for column in (0, 1, 3)] for row in range(proxy.rowCount())]
    assert shown == [["alpine", "3.23", "7.8 MB"], ["alpine", "latest", "7.8 MB"], ["nginx", "1.29", "52.3 MB"]]
    assert window.images.header.summary.text() == "2 images, 60.1 MB"
    window.images.list.action_requested.emit("nginx:1.29", "remove")
    window.images.banner.action.click()
    qtbot.waitUntil(lambda: proxy.rowCount() == 2, timeout=WAIT_MS)


def test_loading_an_archive(qtbot, window: MainWindow, tmp_path: Path) -> None:
    archive = tmp_path / "busybox.tar"
    manifest = b'[{"RepoTags": ["busybox:1.37"]}]'
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(manifest)
        tar.addfile(member, BytesIO(manifest))
    window.show_page(IMAGES)
    window.images.load(archive)
    assert "Loading busybox.tar" in window.images.banner.text
    qtbot.waitUntil(lambda: window.images.banner.text == "Loaded busybox:1.37", timeout=WAIT_MS)
    qtbot.waitUntil(lambda: window.images.images.item("busybox:1.37") is not None, timeout=WAIT_MS)


def test_loading_what_is_not_an_archive_says_so(qtbot, window: MainWindow, tmp_path: Path) -> None:
    (tmp_path / "no.tar").write_bytes(b"refuse me")
    window.images.load(tmp_path / "no.tar")
    qtbot.waitUntil(lambda: "not an image archive" in window.images.banner.text, timeout=WAIT_MS)
    window.images.load(tmp_path / "gone.tar")
    qtbot.waitUntil(lambda: "gone.tar" in window.images.banner.text, timeout=WAIT_MS)


def dialog_of(window: MainWindow, image: str = "") -> RunDialog:
    window.run_container(image)
    return window.findChildren(RunDialog)[-1]


def test_running_a_container(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    dialog = dialog_of(window, "nginx:1.29")
    dialog.name.setText("web")
    dialog.command.setText("sleep 'a b'")
    dialog.ports.setPlainText("8080:80\n127.0.0.1:5353:53/udp\n")
    dialog.volumes.setPlainText("data:/srv:ro")
    dialog.environment.setPlainText("A=1\nB=two words")
    dialog.memory.setText("512m")
    dialog.cpus.setText("1.5")
    dialog.remove.setChecked(True)
    dialog.submit()
    qtbot.waitUntil(lambda: names(window) == ["web"], timeout=WAIT_MS)
    body = engine.bodies[-1]
    assert body["Image"] == "nginx:1.29"
    assert body["Cmd"] == ["sleep", "a b"]
    assert body["Env"] == ["A=1", "B=two words"]
    host = body["HostConfig"]
    assert host["AutoRemove"]
    assert (host["Memory"], host["NanoCpus"], host["Binds"]) == (512 << 20, 1_500_000_000, ["data:/srv:ro"])
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}],
    }
    assert window.containers.banner.text == "Started web"


@pytest.mark.parametrize(
    ("field", "text", "problem"),
    [
        ("name", "two words", "begin with a letter"),
        ("command", "echo 'open", "quotation mark"),
        ("ports", "80:web", '"80:web" is not like'),
        ("ports", "99999:80", '"99999:80" is not like'),
        ("volumes", "site", '"site" is not like'),
        ("environment", "=x", '"=x" is not like'),
        ("memory", "lots", "512m"),
        ("cpus", "-1", "1.5"),
        ("cpus", "nan", "1.5"),
    ],
)
def test_a_mistake_is_told_beside_its_field(
    qtbot, engine: FakeEngine, window: MainWindow, field: str, text: str, problem: str
) -> None:
    dialog = dialog_of(window, "nginx:1.29")
    widget = getattr(dialog, field)
    (widget.setPlainText if hasattr(widget, "setPlainText") else widget.setText)(text)
    dialog.submit()
    found = dialog.problems()
    assert len(found) == 1
    assert problem in found[0]
    assert engine.bodies == []
    dialog.reject()


def test_a_refused_run_keeps_the_dialog(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    engine.add_container("web")
    dialog = dialog_of(window, "nginx:1.29")
    dialog.name.setText("web")
    dialog.submit()
    qtbot.waitUntil(lambda: bool(dialog.banner.text), timeout=WAIT_MS)
    assert "already in use" in dialog.banner.text
    assert "Choose another name" in dialog.banner.text
    assert dialog.isVisible()
    assert dialog.run.isEnabled()
    dialog.reject()


def test_machine_page_states_the_facts(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    window.show_page(MACHINE)
    page = window.machine
    assert page.fact("version") == "0.1.0"
    assert page.fact("memory") == "4.0 GiB"
    assert page.shell.text == f"export DOCKER_HOST={engine.host}"
    page.shell.findChild(IconButton).click()
    assert QApplication.clipboard().text() == f"export DOCKER_HOST={engine.host}"


def test_stopping_the_engine_names_the_containers(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    engine.add_container("web")
    qtbot.waitUntil(lambda: names(window) == ["web"], timeout=WAIT_MS)
    window.stop_engine()
    assert window.pages.currentWidget() is window.machine
    assert window.machine.banner.text == "Stop the engine? One container is running and will be stopped."
    assert window._link.connection.state is LinkState.RUNNING


def test_shortcuts_and_pages(qtbot, window: MainWindow) -> None:
    for key, page in ((Qt.Key.Key_2, IMAGES), (Qt.Key.Key_3, MACHINE), (Qt.Key.Key_1, CONTAINERS)):
        qtbot.keyClick(window, key, Qt.KeyboardModifier.ControlModifier)
        assert window.pages.currentIndex() == page
        assert window.sidebar._group.checkedId() == page


def test_enter_opens_the_log_and_escape_leaves_it(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    made = engine.add_container("web")
    qtbot.waitUntil(lambda: names(window) == ["web"], timeout=WAIT_MS)
    engine.write(made.id, b"\x1b[31mred\x1b[0m line\n")
    view = window.containers.list
    view.setCurrentIndex(window.containers.proxy.index(0, 0))
    qtbot.keyClick(view, Qt.Key.Key_Return)
    assert window.pages.currentIndex() == LOGS
    qtbot.waitUntil(lambda: window.logs.text.toPlainText() == "red line", timeout=WAIT_MS)
    window.logs.leave()
    assert window.pages.currentIndex() == CONTAINERS


def test_a_dead_engine_leaves_a_window_that_says_so(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    engine.add_container("web")
    qtbot.waitUntil(lambda: names(window) == ["web"], timeout=WAIT_MS)
    engine.hang()
    window._link.probe()
    qtbot.waitUntil(lambda: "does not answer" in window.containers.empty.text, timeout=WAIT_MS)
    assert window.containers.empty.isVisible()
    assert window.machine.fact("version") == "—"


class Tray:
    def __init__(self, there: bool) -> None:
        self.there = there
        self.told = 0

    def can_hide(self) -> bool:
        return self.there

    def hidden(self) -> None:
        self.told += 1


def test_closing_hides_where_there_is_a_tray(qtbot, window: MainWindow) -> None:
    tray = Tray(there=True)
    window.set_hiding_place(tray)
    window.close()
    assert not window.isVisible()
    assert tray.told == 1
    window.bring_up()
    assert window.isVisible()
    tray.there = False


def test_everything_that_can_be_pressed_has_a_name(qtbot, window: MainWindow) -> None:
    nameless = [
        button
        for button in window.findChildren(QAbstractButton)
        if not (button.accessibleName() or button.text() or button.objectName().startswith("qt_"))
        and not isinstance(button.parent(), Banner)
        and button.isVisibleTo(window)
        and type(button).__module__.startswith("app.")
    ]
    assert nameless == []


def test_tab_goes_from_the_sidebar_through_the_page(qtbot, engine: FakeEngine, window: MainWindow) -> None:
    engine.add_container("web")
    qtbot.waitUntil(lambda: names(window) == ["web"], timeout=WAIT_MS)
    first = window.sidebar._group.button(CONTAINERS)
    order: list[str] = []
    widget: QWidget = first
    while True:
        if widget.isVisible() and widget.isEnabled() and widget.focusPolicy() & Qt.FocusPolicy.TabFocus:
            order.append(widget.accessibleName())
        widget = widget.nextInFocusChain()
        if widget is first:
            break
    assert order == ["Containers", "Look: light", "Search containers", "Run…", "Containers"]


def test_both_looks_draw_every_page(qtbot, window: MainWindow, theme: Theme, engine: FakeEngine) -> None:
    engine.add_container("web")
    qtbot.waitUntil(lambda: names(window) == ["web"], timeout=WAIT_MS)
    grounds = {}
    for mode in ("dark", "light"):
        theme.set_mode(mode)
        for page in (CONTAINERS, IMAGES, MACHINE):
            window.show_page(page)
            image = window.grab().toImage()
            grounds[mode] = image.pixelColor(image.width() - 4, image.height() - 4).name()
            assert grounds[mode] == theme.palette.window
    assert grounds["dark"] != grounds["light"]
