"""The left edge of the window: name, pages, the engine's state, the look switch."""

from app.core.translations import tr
from app.gui.panels import Button, IconButton, label
from app.gui.qt import (
    QButtonGroup,
    QFrame,
    QHBoxLayout,
    QLabel,
    QVBoxLayout,
    Signal,
)
from app.gui.theme import MODES, SIDEBAR_WIDTH, Theme, Tone


class Sidebar(QFrame):
    """Emits `page_chosen(number)` and `mode_chosen("system"|"light"|"dark")`."""

    page_chosen = Signal(int)
    mode_chosen = Signal(str)

    def __init__(self, theme: Theme, pages: list[tuple[str, str]]) -> None:
        """`pages`: (drawing, title) from top to bottom."""
        super().__init__()
        self.setObjectName("sidebar")
        self.setFixedWidth(SIDEBAR_WIDTH)
        self._theme = theme
        self._tone: Tone = "neutral"
        self._logo = QLabel()
        self._logo.setFixedSize(32, 32)
        brand = QHBoxLayout()
        brand.setContentsMargins(8, 4, 0, 20)
        brand.setSpacing(10)
        brand.addWidget(self._logo)
        brand.addWidget(label("Wherry", "brand"))
        brand.addStretch(1)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 20, 12, 14)
        layout.setSpacing(4)
        layout.addLayout(brand)
        self._group = QButtonGroup(self)
        self._group.setExclusive(True)
        for number, (drawing, title) in enumerate(pages):
            button = Button(theme, title, drawing, "nav")
            button.setCheckable(True)
            button.setToolTip(tr("{title} (Ctrl+{number})", title=title, number=number + 1))
            self._group.addButton(button, number)
            layout.addWidget(button)
        self._group.idClicked.connect(self.page_chosen)
        layout.addStretch(1)

        self._dot = QLabel()
        self._dot.setFixedSize(10, 10)
        self._state = label("", "field")
        self._detail = label("", "small")
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addWidget(self._state)
        words.addWidget(self._detail)
        self._mode = IconButton(theme, "", "system")
        self._mode.clicked.connect(self._next_mode)
        foot = QHBoxLayout()
        foot.setContentsMargins(10, 0, 0, 0)
        foot.setSpacing(10)
        foot.addWidget(self._dot)
        foot.addLayout(words, 1)
        foot.addWidget(self._mode)
        layout.addLayout(foot)
        theme.changed.connect(self._retint)
        self._retint()

    def set_page(self, number: int) -> None:
        self._group.button(number).setChecked(True)

    def set_engine(self, text: str, detail: str, tone: Tone) -> None:
        """The engine's state in two words and a colour."""
        self._state.setText(text)
        self._detail.setText(detail)
        self._detail.setVisible(bool(detail))
        self._tone = tone
        self._dot.setAccessibleName(text)
        self._retint()

    def _next_mode(self) -> None:
        mode = MODES[(MODES.index(self._theme.mode) + 1) % len(MODES)]
        self.mode_chosen.emit(mode)

    def _retint(self) -> None:
        ratio = self.devicePixelRatioF()
        palette = self._theme.palette
        self._logo.setPixmap(self._theme.pixmap("boat", "accent", 32, ratio))
        ink, _ = palette.tone(self._tone)
        self._dot.setStyleSheet(f"background: {ink}; border-radius: 5px;")
        self._state.setStyleSheet(f"color: {palette.text};")
        names = {"system": tr("Look: as the desktop"), "light": tr("Look: light"), "dark": tr("Look: dark")}
        self._mode.describe(names[self._theme.mode], self._theme.mode)
