"""The tray icon: the engine's state at a glance, Start, Stop, Open, Quit.

Where the desktop has no tray the object does nothing and `can_hide` is false: the window then quits when closed.
"""

from collections.abc import Callable

from app.core.translations import tr
from app.gui.connection import Connection, LinkState
from app.gui.engine_link import EngineLink
from app.gui.machine_page import STATE_TONES, state_text
from app.gui.qt import (
    QApplication,
    QColor,
    QIcon,
    QMenu,
    QObject,
    QPainter,
    QPixmap,
    QSystemTrayIcon,
    Qt,
)
from app.gui.theme import Theme

_SIZES = (22, 32, 44, 64)


class Tray(QObject):
    """Owns the system tray icon and its menu. `hint_due` says whether the hint about hiding is still to be given."""

    def __init__(
        self,
        theme: Theme,
        link: EngineLink,
        open_window: Callable[[], None],
        stop_engine: Callable[[], None],
        hint_due: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._theme = theme
        self._link = link
        self._hint_due = hint_due
        self._open_window = open_window
        self.menu = QMenu()
        self.menu.aboutToShow.connect(link.probe)
        self.state = self.menu.addAction("")
        self.state.setEnabled(False)
        self.menu.addSeparator()
        self.open = self.menu.addAction(tr("Open Wherry"))
        self.open.triggered.connect(open_window)
        self.start = self.menu.addAction(tr("Start engine"))
        self.start.triggered.connect(link.start_engine)
        self.stop = self.menu.addAction(tr("Stop engine"))
        self.stop.triggered.connect(stop_engine)
        self.menu.addSeparator()
        self.quit = self.menu.addAction(tr("Quit"))
        self.quit.setToolTip(tr("Containers go on running"))
        self.quit.triggered.connect(QApplication.quit)
        self._icon = QSystemTrayIcon()
        self._icon.setContextMenu(self.menu)
        self._icon.activated.connect(self._activated)
        self._icon.messageClicked.connect(open_window)
        link.connection_changed.connect(self._show_connection)
        theme.changed.connect(self._retint)
        self._show_connection(link.connection)

    def show(self) -> None:
        """Put the icon into the tray, if there is one."""
        if QSystemTrayIcon.isSystemTrayAvailable():
            self._icon.show()

    def hide(self) -> None:
        self._icon.hide()

    def can_hide(self) -> bool:
        """Whether a hidden window can be found again."""
        return self._icon.isVisible() and QSystemTrayIcon.isSystemTrayAvailable()

    def hidden(self) -> None:
        """The window was closed and went here: say so the first time."""
        if self._hint_due():
            self._icon.showMessage(
                tr("Wherry is still here"),
                tr("Your containers go on running. Open or quit Wherry from this icon."),
                self._icon.icon(),
            )

    @property
    def tool_tip(self) -> str:
        return self._icon.toolTip()

    def _activated(self, reason: QSystemTrayIcon.ActivationReason) -> None:
        if reason in (
            QSystemTrayIcon.ActivationReason.Trigger,
            QSystemTrayIcon.ActivationReason.DoubleClick,
        ):
            self._open_window()

    def _show_connection(self, connection: Connection) -> None:
        text = state_text(connection.state)
        self.state.setText(text)
        self.start.setEnabled(connection.state in (LinkState.STOPPED, LinkState.UNREACHABLE))
        self.stop.setEnabled(connection.state in (LinkState.RUNNING, LinkState.STARTING))
        self._icon.setToolTip(f"Wherry: {text}")
        self._retint()

    def _retint(self) -> None:
        self._icon.setIcon(self._drawn(self._link.connection.state))

    def _drawn(self, state: LinkState) -> QIcon:
        """The boat with a dot in the state's colour; faded while stopped."""
        icon = QIcon()
        ink, _ = self._theme.palette.tone(STATE_TONES[state])
        for size_px in _SIZES:
            boat = "text_faint" if state is LinkState.STOPPED else "accent"
            pixmap = QPixmap(self._theme.pixmap("boat", boat, size_px))
            painter = QPainter(pixmap)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(ink))
            dot_px = round(size_px * 0.36)
            painter.drawEllipse(size_px - dot_px, size_px - dot_px, dot_px, dot_px)
            painter.end()
            icon.addPixmap(pixmap)
        return icon
