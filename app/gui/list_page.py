"""What the pages with a list share: header, search, banner, card with the list or an empty state, bulk bar."""

from typing import Any

from app.core.translations import tr
from app.gui.connection import LinkState
from app.gui.engine_link import EngineLink
from app.gui.keyed_model import KeyedModel, SearchProxy
from app.gui.panels import Banner, Button, EmptyState, PageHeader, SearchField, card
from app.gui.qt import QHideEvent, QShowEvent, QStackedWidget, Qt, QTimer, QVBoxLayout, QWidget
from app.gui.table import CardList
from app.gui.theme import Theme

AGES_MS = 30_000  # "2 min ago" is painted anew this often, while it can be seen


class ListPage(QWidget):
    """A page with one list. Subclasses fill the header, say what an empty list means and handle the actions."""

    def __init__(
        self,
        theme: Theme,
        link: EngineLink,
        title: str,
        search_text: str,
        model: KeyedModel[Any],
        search_columns: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.theme = theme
        self.link = link
        self.model = model
        self.proxy = SearchProxy(search_columns)
        self.proxy.setSourceModel(model)
        self.header = PageHeader(title)
        self.search = SearchField(theme, search_text)
        self.search.textChanged.connect(self._search)
        self.header.add(self.search)
        self.banner = Banner(theme)
        self.list = CardList(theme, title)
        self.list.setModel(self.proxy)
        self.empty = EmptyState(theme)
        self.empty.requested.connect(self._empty_requested)
        self._stack = QStackedWidget()
        self._stack.addWidget(self.list)
        self._stack.addWidget(self.empty)
        box = card()
        inside = QVBoxLayout(box)
        inside.setContentsMargins(1, 4, 1, 8)
        inside.addWidget(self._stack)
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(28, 24, 28, 24)
        self.body.setSpacing(16)
        self.body.addWidget(self.header)
        self.body.addWidget(self.banner)
        self.body.addWidget(box, 1)
        self.list.shown_rows_changed.connect(self.update_view)
        self._ages = QTimer(self)
        self._ages.setInterval(AGES_MS)
        self._ages.timeout.connect(model.touch_all)
        link.connection_changed.connect(self.update_view)
        link.facts_changed.connect(self.update_view)

    def add_main_button(self, button: Button) -> None:
        """The page's first action, in the header and before the list for the Tab key."""
        self.header.add(button)
        self.setTabOrder(button, self.list)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.model.touch_all()
        self._ages.start()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._ages.stop()

    def focus_search(self) -> None:
        self.search.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.search.selectAll()

    def update_view(self) -> None:
        """Choose between the list and the empty state, and renew the summary."""
        connection = self.link.connection
        self.header.summary.setText(self.summary() if connection.state is LinkState.RUNNING else " ")
        if connection.state is LinkState.RUNNING and self.proxy.rowCount():
            self._stack.setCurrentWidget(self.list)
            return
        self._stack.setCurrentWidget(self.empty)
        match connection.state:
            case LinkState.RUNNING if not self.link.has_listed:
                self.empty.say("clock", tr("One moment…"), tr("Reading from the engine."))
            case LinkState.RUNNING if self.model.rowCount():
                self.empty.say(
                    "search",
                    tr('Nothing matches "{words}"', words=self.search.text()),
                    tr("Try fewer or other words."),
                    tr("Show all"),
                )
            case LinkState.RUNNING:
                self.say_empty()
            case LinkState.STARTING:
                self.empty.say("clock", tr("The engine is starting"), connection.reason or tr("This takes a moment."))
            case LinkState.STOPPING:
                self.empty.say("clock", tr("The engine is stopping"), connection.reason)
            case LinkState.STOPPED:
                self.empty.say(
                    "power",
                    tr("The engine is stopped"),
                    connection.reason or tr("Start it to see and run containers."),
                    tr("Start engine"),
                )
            case LinkState.UNREACHABLE:
                self.empty.say(
                    "warning", tr("The engine does not answer"), connection.explanation, tr("Try again"), "danger"
                )

    def summary(self) -> str:
        raise NotImplementedError

    def say_empty(self) -> None:
        """Fill `self.empty` for an engine which has nothing of the kind."""
        raise NotImplementedError

    def empty_action(self) -> None:
        """The button of `say_empty` was pressed."""
        raise NotImplementedError

    def _search(self, text: str) -> None:
        self.proxy.search(text)
        self.update_view()

    def _empty_requested(self) -> None:
        match self.link.connection.state:
            case LinkState.RUNNING if self.model.rowCount():
                self.search.clear()
            case LinkState.RUNNING:
                self.empty_action()
            case LinkState.STOPPED:
                self.link.start_engine()
            case LinkState.UNREACHABLE:
                self.link.probe()
