"""The main window: sidebar, pages, shortcuts, and what closing means."""

from typing import Protocol

from app.core.translations import tr
from app.gui.connection import Connection, EngineFacts
from app.gui.containers_page import ContainersPage
from app.gui.engine_link import EngineLink
from app.gui.images_page import ImagesPage
from app.gui.logs_view import LogsView
from app.gui.machine_page import STATE_TONES, MachinePage, state_text
from app.gui.qt import (
    QApplication,
    QCloseEvent,
    QEvent,
    QHBoxLayout,
    QHideEvent,
    QKeySequence,
    QMainWindow,
    QShortcut,
    QShowEvent,
    QStackedWidget,
    Qt,
    QWidget,
    Signal,
)
from app.gui.run_dialog import RunDialog
from app.gui.sidebar import Sidebar
from app.gui.theme import Theme

CONTAINERS, IMAGES, MACHINE, LOGS = range(4)


class HidingPlace(Protocol):
    """Where the window can go when closed: the tray."""

    def can_hide(self) -> bool: ...

    def hidden(self) -> None:
        """The window has just hidden itself."""


class MainWindow(QMainWindow):
    """Emits `mode_chosen` for the settings to remember."""

    mode_chosen = Signal(str)

    def __init__(self, theme: Theme, link: EngineLink) -> None:
        super().__init__()
        self._theme = theme
        self._link = link
        self._hiding_place: HidingPlace | None = None
        self.setWindowTitle("Wherry")
        self.setMinimumSize(940, 600)
        self.resize(1280, 800)

        self.sidebar = Sidebar(
            theme, [("containers", tr("Containers")), ("images", tr("Images")), ("machine", tr("Machine"))]
        )
        self.containers = ContainersPage(theme, link)
        self.images = ImagesPage(theme, link)
        self.machine = MachinePage(theme, link)
        self.logs = LogsView(theme)
        self.pages = QStackedWidget()
        for page in (self.containers, self.images, self.machine, self.logs):
            self.pages.addWidget(page)
        central = QWidget()
        layout = QHBoxLayout(central)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.sidebar)
        layout.addWidget(self.pages, 1)
        self.setCentralWidget(central)

        self.sidebar.page_chosen.connect(self.show_page)
        self.sidebar.mode_chosen.connect(self._choose_mode)
        self.containers.logs_requested.connect(self.show_logs)
        self.containers.run_requested.connect(self.run_container)
        self.containers.load_requested.connect(self.load_images)
        self.images.run_requested.connect(self.run_container)
        self.logs.left.connect(lambda: self.show_page(CONTAINERS))
        link.connection_changed.connect(self._show_connection)
        link.facts_changed.connect(self._show_facts)
        theme.changed.connect(self._retint)
        self._add_shortcuts()
        self._retint()
        self._show_connection(link.connection)
        self.show_page(CONTAINERS)

    def set_hiding_place(self, place: HidingPlace | None) -> None:
        """Where the window goes when closed; without one, closing quits."""
        self._hiding_place = place

    def show_page(self, number: int) -> None:
        """Show containers (0), images (1) or machine (2)."""
        if self.pages.currentWidget() is self.logs:
            self.pages.setCurrentIndex(number)
            self.logs.leave()
        self.pages.setCurrentIndex(number)
        self.sidebar.set_page(number)
        page = self.pages.currentWidget()
        if isinstance(page, ContainersPage | ImagesPage):
            page.list.setFocus()

    def show_logs(self, key: str) -> None:
        """Follow the log of container `key`."""
        container = self.containers.containers.item(key)
        if container is not None:
            self.sidebar.set_page(CONTAINERS)
            self.pages.setCurrentWidget(self.logs)
            self.logs.show_feed(container.name, self._link.log_feed(key))

    def run_container(self, image: str = "") -> None:
        """Open the run dialog, with `image` filled in."""
        references = [row.reference for row in self.images.images.items if row.tag]
        dialog = RunDialog(self._theme, self._link, references, image, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.created.connect(self._container_made)
        dialog.open()

    def load_images(self) -> None:
        """Show the images page and ask for a file."""
        self.show_page(IMAGES)
        self.images.choose_file()

    def stop_engine(self) -> None:
        """Stop the engine; when that has to be confirmed, on the machine page."""
        if self.machine.ask_to_stop():
            self.bring_up()
            self.show_page(MACHINE)

    def bring_up(self) -> None:
        """Show the window in front, from the tray or for a second start."""
        self.setWindowState(self.windowState() & ~Qt.WindowState.WindowMinimized)
        self.show()
        self.raise_()
        self.activateWindow()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._link.set_watched(True)

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._link.set_watched(False)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.WindowStateChange:
            self._link.set_watched(self.isVisible() and not self.isMinimized())

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._hiding_place is not None and self._hiding_place.can_hide():
            event.ignore()
            self.hide()
            self._hiding_place.hidden()
            return
        event.accept()
        QApplication.quit()

    def _add_shortcuts(self) -> None:
        for number in (CONTAINERS, IMAGES, MACHINE):
            QShortcut(QKeySequence(f"Ctrl+{number + 1}"), self, lambda number=number: self.show_page(number))
        QShortcut(QKeySequence(QKeySequence.StandardKey.Find), self, self._find)
        QShortcut(QKeySequence(QKeySequence.StandardKey.New), self, self.run_container)
        QShortcut(QKeySequence(QKeySequence.StandardKey.Refresh), self, self._link.probe)
        QShortcut(QKeySequence(QKeySequence.StandardKey.Close), self, self.close)
        QShortcut(QKeySequence("Ctrl+Q"), self, QApplication.quit)

    def _find(self) -> None:
        page = self.pages.currentWidget()
        if isinstance(page, ContainersPage | ImagesPage | LogsView):
            page.focus_search()

    def _container_made(self, name: str) -> None:
        self.show_page(CONTAINERS)
        self.containers.banner.say(tr("Started {name}", name=name), "", "success")

    def _choose_mode(self, mode: str) -> None:
        self._theme.set_mode(mode)
        self.mode_chosen.emit(mode)

    def _show_connection(self, connection: Connection) -> None:
        self.sidebar.set_engine(
            state_text(connection.state), self._backend_word(self._link.facts), STATE_TONES[connection.state]
        )

    def _show_facts(self, facts: EngineFacts) -> None:
        self._show_connection(self._link.connection)

    def _backend_word(self, facts: EngineFacts) -> str:
        if facts.reasons:
            return tr("Needs attention")
        return {"vm": tr("Virtual machine"), "remote": tr("Remote")}.get(facts.backend, tr("Native"))

    def _retint(self) -> None:
        self.setWindowIcon(self._theme.icon("boat", "accent"))
