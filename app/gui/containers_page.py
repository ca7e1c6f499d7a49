"""The containers page: the live list, what can be done with one or several, and the way to their logs."""

from app.core.translations import tr
from app.engine.models import Container
from app.gui.connection import Failure
from app.gui.containers_model import IMAGE, NAME, PORTS, STATE, ContainersModel, is_live
from app.gui.engine_link import EngineLink
from app.gui.list_page import ListPage
from app.gui.panels import Button, IconButton, label
from app.gui.qt import (
    QAction,
    QContextMenuEvent,
    QDesktopServices,
    QFrame,
    QHBoxLayout,
    QMenu,
    QModelIndex,
    Qt,
    QUrl,
    Signal,
)
from app.gui.table import CellRole
from app.gui.theme import Theme


class ContainersPage(ListPage):
    """Emits `logs_requested(id)`, `run_requested()`, `load_requested()`; the rest it does through the link."""

    logs_requested = Signal(str)
    run_requested = Signal()
    load_requested = Signal()

    def __init__(self, theme: Theme, link: EngineLink) -> None:
        self.containers = ContainersModel()
        super().__init__(
            theme, link, tr("Containers"), tr("Search containers"), self.containers, (NAME, STATE, IMAGE, PORTS)
        )
        self._run = Button(theme, tr("Run…"), "add", "primary")
        self._run.setToolTip(tr("Run a container (Ctrl+N)"))
        self._run.clicked.connect(self.run_requested)
        self.add_main_button(self._run)
        self.list.set_columns((None, 136, None, 158, 116, 152))
        self.list.sortByColumn(NAME, Qt.SortOrder.AscendingOrder)
        self.list.action_requested.connect(self._row_action)
        self.list.opened.connect(self.logs_requested)
        self.list.remove_requested.connect(lambda: self._bulk("remove"))
        self.list.selectionModel().selectionChanged.connect(self._selection_changed)
        self.list.setContextMenuPolicy(Qt.ContextMenuPolicy.DefaultContextMenu)
        self._bulk_bar = self._make_bulk_bar()
        self.body.insertWidget(2, self._bulk_bar)
        self._bulk_bar.hide()
        self._to_remove: list[str] = []
        self._done: set[str] = set()
        self.banner.action_requested.connect(self._remove_confirmed)
        link.containers_changed.connect(self._show)
        self.update_view()

    def _make_bulk_bar(self) -> QFrame:
        bar = QFrame()
        bar.setProperty("look", "bulk")
        layout = QHBoxLayout(bar)
        layout.setContentsMargins(16, 6, 6, 6)
        layout.setSpacing(8)
        self._bulk_count = label("", "heading")
        layout.addWidget(self._bulk_count)
        layout.addStretch(1)
        self._bulk_buttons: dict[str, Button] = {}
        for verb, text in (
            ("start", tr("Start")),
            ("stop", tr("Stop")),
            ("restart", tr("Restart")),
            ("remove", tr("Remove")),
        ):
            button = Button(self.theme, text, verb, "danger" if verb == "remove" else "")
            button.clicked.connect(lambda _=False, verb=verb: self._bulk(verb))
            self._bulk_buttons[verb] = button
            layout.addWidget(button)
        close = IconButton(self.theme, tr("Clear selection"), "close")
        close.clicked.connect(self.list.clearSelection)
        layout.addWidget(close)
        return bar

    def summary(self) -> str:
        running = sum(1 for container in self.containers.items if container.state == "running")
        total = len(self.containers.items)
        if not total:
            return tr("None yet")
        return tr("{running} running, {total} in all", running=running, total=total)

    def say_empty(self) -> None:
        if not self.link.facts.images:
            self.empty.say(
                "images",
                tr("No containers and no images yet"),
                tr("Containers start from images. Load one from a file, then run it."),
                tr("Load from file…"),
            )
            return
        self.empty.say(
            "containers",
            tr("No containers yet"),
            tr("A container runs a program with its own files, network and limits."),
            tr("Run your first container"),
        )

    def empty_action(self) -> None:
        if self.link.facts.images:
            self.run_requested.emit()
        else:
            self.load_requested.emit()

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        viewport = self.list.viewport()
        position = viewport.mapFromGlobal(event.globalPos())
        index = self.list.indexAt(position) if viewport.rect().contains(position) else QModelIndex()
        if event.reason() == QContextMenuEvent.Reason.Keyboard:
            index = self.list.currentIndex()
        container = self.containers.item(str(index.data(CellRole.KEY))) if index.isValid() else None
        if container is not None:
            self.row_menu(container).exec(event.globalPos())

    def row_menu(self, container: Container) -> QMenu:
        """Everything that can be done with one container."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)

        def add(text: str, icon: str, verb: str) -> None:
            action = QAction(self.theme.icon(icon), text, menu)
            action.triggered.connect(lambda: self._row_action(container.id, verb))
            menu.addAction(action)

        if is_live(container):
            add(tr("Stop"), "stop", "stop")
        else:
            add(tr("Start"), "start", "start")
        add(tr("Restart"), "restart", "restart")
        add(tr("Logs"), "logs", "logs")
        for port in container.ports:
            if port.host_port and port.protocol == "tcp":
                url = f"http://localhost:{port.host_port}"
                action = QAction(self.theme.icon("open"), tr("Open {url}", url=url), menu)
                action.triggered.connect(lambda _=False, url=url: QDesktopServices.openUrl(QUrl(url)))
                menu.addAction(action)
        menu.addSeparator()
        add(tr("Remove"), "remove", "remove")
        return menu

    def _show(self, containers: list[Container]) -> None:
        self.containers.replace(containers)
        for key in self._done:
            self.containers.clear_pending(key)
        self._done.clear()
        self.update_view()
        self._selection_changed()

    def _row_action(self, key: str, verb: str) -> None:
        if verb == "logs":
            self.logs_requested.emit(key)
        else:
            self._act(verb, [key])

    def _bulk(self, verb: str) -> None:
        self._act(verb, self.list.selected_keys())

    def _act(self, verb: str, keys: list[str]) -> None:
        """Do `verb` to these containers, each on its own: one that fails does not keep the others from it."""
        chosen = self._chosen(keys)
        if verb == "start":
            chosen = [container for container in chosen if not is_live(container)]
        elif verb == "stop":
            chosen = [container for container in chosen if is_live(container)]
        if verb == "remove" and chosen:
            self._ask_to_remove(chosen)
            return
        for container in chosen:
            self._start_act(verb, container)

    def _chosen(self, keys: list[str]) -> list[Container]:
        """Those of `keys` which still exist and have nothing under way."""
        items = (self.containers.item(key) for key in keys if not self.containers.is_pending(key))
        return [item for item in items if item is not None]

    def _start_act(self, verb: str, container: Container) -> None:
        key = container.id
        self.containers.mark_pending(key, verb)

        def done() -> None:
            self._done.add(key)  # shown as under way until a list shows the outcome
            self.link.refresh()

        def failed(failure: Failure) -> None:
            self.containers.clear_pending(key)
            self.banner.say(failure.sentence, failure.remedy)

        self.link.act(verb, container, done, failed)

    def _ask_to_remove(self, containers: list[Container]) -> None:
        """Name what will be lost, in the banner; its button does it."""
        live = sum(is_live(container) for container in containers)
        if len(containers) == 1:
            sentence = tr('Remove "{name}"?', name=containers[0].name)
        else:
            sentence = tr("Remove {count} containers?", count=len(containers))
        losses = [tr("What they wrote outside volumes is deleted.")]
        if len(containers) == 1:
            losses = [tr("What it wrote outside volumes is deleted.")]
            if live:
                losses.insert(0, tr("It is running and will be stopped at once."))
        elif live == 1:
            losses.insert(0, tr("One is running and will be stopped at once."))
        elif live:
            losses.insert(0, tr("{count} are running and will be stopped at once.", count=live))
        self._to_remove = [container.id for container in containers]
        self.banner.say(sentence, " ".join(losses), "warning", tr("Remove"))

    def _remove_confirmed(self) -> None:
        keys, self._to_remove = self._to_remove, []
        self.banner.hide()
        for container in self._chosen(keys):
            self._start_act("remove", container)

    def _selection_changed(self) -> None:
        keys = self.list.selected_keys()
        self._bulk_bar.setVisible(len(keys) > 1)
        if len(keys) > 1:
            chosen = [item for key in keys if (item := self.containers.item(key))]
            self._bulk_count.setText(tr("{count} selected", count=len(keys)))
            self._bulk_buttons["start"].setEnabled(any(not is_live(item) for item in chosen))
            self._bulk_buttons["stop"].setEnabled(any(is_live(item) for item in chosen))
