"""The small parts pages are made of: page header, banner, empty state, buttons, copy fields."""

from app.core.translations import tr
from app.gui.qt import (
    QApplication,
    QCheckBox,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPainter,
    QPaintEvent,
    QPushButton,
    QRect,
    QSize,
    QSizePolicy,
    QStyle,
    QStyleOptionButton,
    Qt,
    QTimer,
    QToolButton,
    QVBoxLayout,
    QWidget,
    Signal,
)
from app.gui.theme import SPACE, Theme, Tone, fixed_font

COPIED_FOR_MS = 1500
EMPTY_TEXT_WIDTH = 460
ICON_GAP = "\N{EN SPACE}"


def label(text: str, look: str = "body", *, wrap: bool = False) -> QLabel:
    """A text of the type scale: title, heading, body, muted, small, field, brand."""
    result = QLabel(text)
    result.setProperty("look", look)
    result.setWordWrap(wrap)
    result.setTextFormat(Qt.TextFormat.PlainText)
    return result


def card() -> QFrame:
    """A rounded surface to lay things out on."""
    frame = QFrame()
    frame.setProperty("look", "card")
    return frame


def line() -> QFrame:
    frame = QFrame()
    frame.setProperty("look", "line")
    return frame


class Button(QPushButton):
    """A text button with an optional drawing; `look` is "", "primary", "danger", "quiet" or "nav"."""

    INK = {"primary": "on_accent", "danger": "danger", "": "text", "quiet": "text", "nav": "text_muted"}

    def __init__(self, theme: Theme, text: str, icon: str = "", look: str = "") -> None:
        super().__init__()
        self._theme = theme
        self._drawing = icon
        self._look = look
        self.setProperty("look", look)
        self.say(text)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setIconSize(QSize(18, 18))
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        theme.changed.connect(self._retint)
        self._retint()

    def say(self, text: str) -> None:
        """Give the button another text; a style sheet has no gap between drawing and text, so the text brings it."""
        self.setText(f"{ICON_GAP}{text}" if self._drawing else text)
        self.setAccessibleName(text)

    def _retint(self) -> None:
        if self._drawing:
            self.setIcon(self._theme.icon(self._drawing, self.INK[self._look]))


class IconButton(QToolButton):
    """A square button with only a drawing: its text is the tool tip and the accessible name."""

    def __init__(self, theme: Theme, text: str, icon: str, *, checkable: bool = False) -> None:
        super().__init__()
        self._theme = theme
        self._drawing = icon
        self.setCheckable(checkable)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setIconSize(QSize(18, 18))
        self.setFixedSize(36, 36)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.describe(text, icon)
        theme.changed.connect(self._retint)

    def describe(self, text: str, icon: str) -> None:
        """Give the button another meaning."""
        self._drawing = icon
        self.setToolTip(text)
        self.setAccessibleName(text)
        self._retint()

    def _retint(self) -> None:
        self.setIcon(self._theme.icon(self._drawing))


class CheckBox(QCheckBox):
    """A check box with a drawn tick: a style sheet can only take one from a file."""

    def __init__(self, theme: Theme, text: str) -> None:
        super().__init__(text)
        self._theme = theme

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if not self.isChecked():
            return
        option = QStyleOptionButton()
        self.initStyleOption(option)
        box: QRect = self.style().subElementRect(QStyle.SubElement.SE_CheckBoxIndicator, option, self)
        tick = self._theme.pixmap("check", "on_accent", 14, self.devicePixelRatioF())
        painter = QPainter(self)
        painter.drawPixmap(box.center().x() - 6, box.center().y() - 6, tick)
        painter.end()


class ComboBox(QComboBox):
    """A choice one can also type, with a drawn arrow, for the same reason."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        arrow = self._theme.pixmap("next", "text_muted", 16, self.devicePixelRatioF())
        painter = QPainter(self)
        painter.drawPixmap(self.width() - 26, self.height() // 2 - 8, arrow)
        painter.end()


class SearchField(QLineEdit):
    """A line to filter or find by, with a clear button. Escape empties it."""

    def __init__(self, theme: Theme, placeholder: str) -> None:
        super().__init__()
        self._theme = theme
        self.setPlaceholderText(placeholder)
        self.setAccessibleName(placeholder)
        self.setClearButtonEnabled(True)
        self.setFixedWidth(260)
        self._glass = self.addAction(theme.icon("search"), QLineEdit.ActionPosition.LeadingPosition)
        theme.changed.connect(self._retint)

    def _retint(self) -> None:
        self._glass.setIcon(self._theme.icon("search"))


class Banner(QFrame):
    """What went wrong and what to do, inside the page, until dismissed. One at a time: the newest wins."""

    action_requested = Signal()

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._tone: Tone = "danger"
        self.setObjectName("banner")
        self._icon = QLabel()
        self._icon.setFixedSize(20, 20)
        self._sentence = label("", wrap=True)
        self._remedy = label("", wrap=True)
        for text in (self._sentence, self._remedy):
            text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.action = Button(theme, "")
        self.action.clicked.connect(self.action_requested)
        self._close = IconButton(theme, tr("Dismiss"), "close")
        self._close.clicked.connect(self.hide)
        words = QVBoxLayout()
        words.setSpacing(2)
        words.addWidget(self._sentence)
        words.addWidget(self._remedy)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(14, 10, 8, 10)
        layout.setSpacing(12)
        layout.addWidget(self._icon, 0, Qt.AlignmentFlag.AlignTop)
        layout.addLayout(words, 1)
        layout.addWidget(self.action, 0, Qt.AlignmentFlag.AlignVCenter)
        layout.addWidget(self._close, 0, Qt.AlignmentFlag.AlignVCenter)
        theme.changed.connect(self._retint)
        self.hide()

    @property
    def text(self) -> str:
        """What the banner says now, for tests and screen readers; "" while hidden."""
        return "" if self.isHidden() else " ".join(filter(None, [self._sentence.text(), self._remedy.text()]))

    def say(self, sentence: str, remedy: str = "", tone: Tone = "danger", action: str = "") -> None:
        """Show a sentence, its remedy and perhaps one button."""
        self._sentence.setText(sentence)
        self._remedy.setText(remedy)
        self._remedy.setVisible(bool(remedy))
        self.action.say(action)
        self.action.setVisible(bool(action))
        self._tone = tone
        self.setAccessibleName(self._sentence.text())
        self._retint()
        self.show()

    def _retint(self) -> None:
        _, soft = self._theme.palette.tone(self._tone)
        text = self._theme.palette.text
        self.setStyleSheet(
            f"QFrame#banner {{ background: {soft}; border: 1px solid {soft}; border-radius: 10px; }}"
            f"QFrame#banner QLabel {{ color: {text}; }}"
        )
        self._sentence.setStyleSheet("font-weight: 600;")
        drawing = "info" if self._tone in ("info", "success", "neutral") else "warning"
        self._icon.setPixmap(self._theme.pixmap(drawing, self._tone, 20, self.devicePixelRatioF()))


class EmptyState(QWidget):
    """What a page shows when there is nothing to list: a drawing, a sentence, and the way out."""

    requested = Signal()

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._drawing = "containers"
        self._tone: Tone = "info"
        self._picture = QLabel()
        self._picture.setFixedSize(72, 72)
        self._picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._title = label("", "heading")
        self._text = label("", "muted", wrap=True)
        self._text.setAlignment(Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop)
        self._text.setFixedWidth(EMPTY_TEXT_WIDTH)
        self.button = Button(theme, "", look="primary")
        self.button.clicked.connect(self.requested)
        layout = QVBoxLayout(self)
        layout.setSpacing(SPACE)
        layout.addStretch(2)
        for widget, gap in ((self._picture, 8), (self._title, 2), (self._text, 12), (self.button, 0)):
            layout.addWidget(widget, 0, Qt.AlignmentFlag.AlignHCenter)
            layout.addSpacing(gap)
        layout.addStretch(3)
        theme.changed.connect(self._retint)

    @property
    def text(self) -> str:
        return f"{self._title.text()} {self._text.text()}"

    def say(self, drawing: str, title: str, text: str, button: str = "", tone: Tone = "info") -> None:
        self._drawing = drawing
        self._tone = tone
        self._title.setText(title)
        self._text.setText(text)
        # a wrapped label which a layout centres is given one line: say how many it needs
        self._text.setFixedHeight(self._text.heightForWidth(EMPTY_TEXT_WIDTH))
        self.button.say(button)
        self.button.setVisible(bool(button))
        self._retint()

    def _retint(self) -> None:
        _, soft = self._theme.palette.tone(self._tone)
        self._picture.setPixmap(self._theme.pixmap(self._drawing, self._tone, 34, self.devicePixelRatioF()))
        self._picture.setStyleSheet(f"background: {soft}; border-radius: 20px;")


class CopyField(QFrame):
    """A line of code and a button which puts it on the clipboard."""

    def __init__(self, theme: Theme, name: str) -> None:
        super().__init__()
        self._theme = theme
        self._name = name
        self.setObjectName("copyfield")
        self._code = label("")
        self._code.setFont(fixed_font())
        self._code.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._code.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._button = IconButton(theme, tr("Copy {what}", what=name), "copy")
        self._button.clicked.connect(self._copy)
        self._back = QTimer(self)
        self._back.setSingleShot(True)
        self._back.setInterval(COPIED_FOR_MS)
        self._back.timeout.connect(self._reset)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(12, 2, 4, 2)
        layout.addWidget(self._code, 1)
        layout.addWidget(self._button)
        theme.changed.connect(self._retint)
        self._retint()

    @property
    def text(self) -> str:
        return self._code.text()

    def set_text(self, code: str) -> None:
        self._code.setText(code)
        self._code.setToolTip(code)
        self.setEnabled(bool(code))

    def _copy(self) -> None:
        QApplication.clipboard().setText(self._code.text())
        self._button.describe(tr("Copied"), "check")
        self._back.start()

    def _reset(self) -> None:
        self._button.describe(tr("Copy {what}", what=self._name), "copy")

    def _retint(self) -> None:
        palette = self._theme.palette
        self._code.setFont(fixed_font())
        self.setStyleSheet(
            f"QFrame#copyfield {{ background: {palette.hover}; border: 1px solid {palette.border};"
            " border-radius: 8px; }"
        )


class PageHeader(QWidget):
    """Title and summary on the left, what one can do on the right."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = label(title, "title")
        self.summary = label("", "muted")
        words = QVBoxLayout()
        words.setSpacing(2)
        words.addWidget(self.title)
        words.addWidget(self.summary)
        self._layout = QHBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(10)
        self._layout.addLayout(words)
        self._layout.addStretch(1)

    def add(self, *widgets: QWidget) -> None:
        """Put widgets to the right, in this order."""
        for widget in widgets:
            self._layout.addWidget(widget, 0, Qt.AlignmentFlag.AlignVCenter)
