"""A container's log, followed live: bounded, searchable, in colour.

The reader thread fills a bounded queue and says so once; this view takes what is there in slices, so a program which
writes faster than anybody can read costs lines (the oldest), never the window. The newest `MAX_LINES` are kept.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from app.core.translations import tr
from app.gui import ansi
from app.gui.log_feed import LogFeed, LogLine
from app.gui.panels import Banner, Button, IconButton, SearchField, card, label, line
from app.gui.qt import (
    QApplication,
    QColor,
    QFont,
    QHBoxLayout,
    QKeySequence,
    QPlainTextEdit,
    QShortcut,
    QShowEvent,
    Qt,
    QTextBlock,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextEdit,
    QTimer,
    QVBoxLayout,
    QWidget,
    Signal,
)
from app.gui.theme import Theme, fixed_font

MAX_LINES = 10_000
SLICE_LINES = 1_000  # drawn at once: about 10 ms
SLICE_PAUSE_MS = 30

# The 16 terminal colours, readable on our surfaces: (light, dark).
TERMINAL_COLOURS: tuple[tuple[str, str], ...] = (
    ("#161b22", "#8592a2"),
    ("#b3242a", "#ff8a86"),
    ("#116b37", "#62d391"),
    ("#7d5200", "#f0bd58"),
    ("#2258d4", "#6f9eff"),
    ("#8a2a8f", "#d793e0"),
    ("#0a5f7e", "#6cc7e6"),
    ("#505a66", "#d5dbe3"),
    ("#505a66", "#a7b1be"),
    ("#c62f35", "#ffa29e"),
    ("#157a41", "#86e3ac"),
    ("#8f6000", "#ffd27d"),
    ("#2f66e6", "#94b7ff"),
    ("#9d35a3", "#e6b0ec"),
    ("#0b6d91", "#93d9f0"),
    ("#161b22", "#ffffff"),
)


class Console(QPlainTextEdit):
    """Read-only text which knows its visible lines."""

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("look", "console")
        self.setReadOnly(True)
        self.setUndoRedoEnabled(False)
        self.setMaximumBlockCount(MAX_LINES)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )

    def visible_blocks(self) -> Iterator[QTextBlock]:
        block = self.firstVisibleBlock()
        offset = self.contentOffset()
        bottom = self.viewport().height()
        while block.isValid() and self.blockBoundingGeometry(block).translated(offset).top() <= bottom:
            yield block
            block = block.next()


class LogsView(QWidget):
    """The page of one container's log. `show_feed` starts it; leaving (`left`) closes the feed."""

    left = Signal()

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._feed: LogFeed | None = None
        self._lines: deque[LogLine] = deque(maxlen=MAX_LINES)
        self._style = ansi.PLAIN
        self._dropped = 0

        self._back = IconButton(theme, tr("Back to containers"), "back")
        self._back.clicked.connect(self.leave)
        self._title = label("", "title")
        self._summary = label("", "muted")
        self._search = SearchField(theme, tr("Find in log"))
        self._search.textChanged.connect(self._search_changed)
        self._search.returnPressed.connect(lambda: self._find(backward=False))
        self._previous = IconButton(theme, tr("Previous match"), "previous")
        self._previous.clicked.connect(lambda: self._find(backward=True))
        self._next = IconButton(theme, tr("Next match"), "next")
        self._next.clicked.connect(lambda: self._find(backward=False))
        self._matches = label("", "small")
        self._timestamps = IconButton(theme, tr("Show timestamps (UTC)"), "clock", checkable=True)
        self._timestamps.toggled.connect(self._redraw)
        self._follow = IconButton(theme, tr("Follow new lines"), "down", checkable=True)
        self._follow.setChecked(True)
        self._follow.toggled.connect(self._follow_toggled)
        self._copy = Button(theme, tr("Copy"), "copy")
        self._copy.setToolTip(tr("Copy the selection, or the whole log"))
        self._copy.clicked.connect(self.copy)
        self._clear = Button(theme, tr("Clear view"), "clear")
        self._clear.setToolTip(tr("Empty this view; the container's log is kept"))
        self._clear.clicked.connect(self.clear)
        self.banner = Banner(theme)

        self.text = Console()
        self.text.setAccessibleName(tr("Log"))
        self.text.verticalScrollBar().valueChanged.connect(self._scrolled)

        self._pump = QTimer(self)
        self._pump.setSingleShot(True)
        self._pump.setInterval(SLICE_PAUSE_MS)
        self._pump.timeout.connect(self._take_slice)

        self._lay_out()
        QShortcut(
            QKeySequence(Qt.Key.Key_Escape), self, self.leave, context=Qt.ShortcutContext.WidgetWithChildrenShortcut
        )
        theme.changed.connect(self._redraw)
        self._redraw()

    def _lay_out(self) -> None:
        words = QVBoxLayout()
        words.setSpacing(2)
        words.addWidget(self._title)
        words.addWidget(self._summary)
        top = QHBoxLayout()
        top.setSpacing(10)
        top.addWidget(self._back)
        top.addLayout(words)
        top.addStretch(1)
        top.addWidget(self._copy)
        top.addWidget(self._clear)
        tools = QHBoxLayout()
        tools.setContentsMargins(14, 8, 14, 8)
        tools.setSpacing(6)
        for widget in (self._search, self._previous, self._next, self._matches):
            tools.addWidget(widget)
        tools.addStretch(1)
        for widget in (self._timestamps, self._follow):
            tools.addWidget(widget)
        box = card()
        inside = QVBoxLayout(box)
        inside.setContentsMargins(1, 0, 1, 6)
        inside.setSpacing(0)
        inside.addLayout(tools)
        inside.addWidget(line())
        inside.addWidget(self.text, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(28, 24, 28, 24)
        layout.setSpacing(16)
        layout.addLayout(top)
        layout.addWidget(self.banner)
        layout.addWidget(box, 1)

    def show_feed(self, name: str, feed: LogFeed) -> None:
        """Show the log of container `name`, which arrives through `feed`; the view closes it."""
        self._close_feed()
        self.clear()
        self.banner.hide()
        self._title.setText(name)
        self._summary.setText(tr("Following the log"))
        self._follow.setChecked(True)
        self._feed = feed
        feed.ready.connect(self._wake)
        feed.ended.connect(self._ended)
        feed.open()

    def leave(self) -> None:
        """Close the feed and say so; Escape in the search field first empties it."""
        if self._search.hasFocus() and self._search.text():
            self._search.clear()
            return
        self._close_feed()
        self.left.emit()

    def focus_search(self) -> None:
        self._search.setFocus()
        self._search.selectAll()

    def clear(self) -> None:
        """Forget the lines shown so far; the container's log itself is not touched."""
        self._lines.clear()
        self._style = ansi.PLAIN
        self.text.clear()
        self._count_matches()

    def copy(self) -> None:
        """Put the selection, or everything when nothing is selected, on the clipboard."""
        selected = self.text.textCursor().selection().toPlainText()
        QApplication.clipboard().setText(selected or self.text.toPlainText())

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.text.setFocus()

    def _close_feed(self) -> None:
        if self._feed is not None:
            self._feed.ready.disconnect(self._wake)
            self._feed.ended.disconnect(self._ended)
            self._feed.close()
            self._feed = None

    def _wake(self) -> None:
        if not self._pump.isActive():
            self._pump.start()

    def _take_slice(self) -> None:
        if self._feed is None:
            return
        lines, more, dropped = self._feed.take(SLICE_LINES)
        self._lines.extend(lines)
        self._append(lines)
        if dropped:
            self._dropped += dropped
            self._summary.setText(tr("Following the log; {count} lines came too fast to show", count=self._dropped))
        if more:
            self._pump.start()

    def _ended(self, problem: str) -> None:
        if problem:
            self.banner.say(tr("The log stopped: {problem}", problem=problem))
        else:
            self._summary.setText(tr("End of the log"))

    def _append(self, lines: Iterable[LogLine]) -> None:
        cursor = QTextCursor(self.text.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        empty = self.text.document().isEmpty()
        stamp = self._timestamps.isChecked()
        cursor.beginEditBlock()
        for entry in lines:
            if not empty:
                cursor.insertBlock()
            empty = False
            if stamp:
                cursor.insertText(entry.time[:23].replace("T", " ").ljust(23) + "  ", self._stamp_format)
            spans, self._style = ansi.spans(entry.text, self._style)
            for span in spans:
                cursor.insertText(span.text, self._format(span.style))
        cursor.endEditBlock()
        if self._follow.isChecked():
            bar = self.text.verticalScrollBar()
            bar.setValue(bar.maximum())
        self._count_matches()

    def _redraw(self) -> None:
        self._formats: dict[ansi.Style, QTextCharFormat] = {}
        self._stamp_format = QTextCharFormat()
        self._stamp_format.setForeground(QColor(self._theme.palette.text_faint))
        self.text.setFont(fixed_font())
        self._style = ansi.PLAIN
        self.text.clear()
        self._append(self._lines)

    def _format(self, style: ansi.Style) -> QTextCharFormat:
        known = self._formats.get(style)
        if known is not None:
            return known
        result = QTextCharFormat()
        if isinstance(style.colour, int):
            result.setForeground(QColor(TERMINAL_COLOURS[style.colour][self._theme.is_dark]))
        elif style.colour is not None:
            result.setForeground(QColor(style.colour))
        elif style.faint:
            result.setForeground(QColor(self._theme.palette.text_faint))
        else:
            result.setForeground(QColor(self._theme.palette.text))
        if style.bold:
            result.setFontWeight(QFont.Weight.Bold)
        if len(self._formats) < 256:  # a rainbow writer must not fill the memory
            self._formats[style] = result
        return result

    def _follow_toggled(self, on: bool) -> None:
        if on:
            bar = self.text.verticalScrollBar()
            bar.setValue(bar.maximum())

    def _scrolled(self, value: int) -> None:
        bar = self.text.verticalScrollBar()
        if value < bar.maximum() and (bar.isSliderDown() or self.text.underMouse()):
            self._follow.setChecked(False)
        self._highlight()

    def _search_changed(self) -> None:
        self._count_matches()
        if self._search.text() and self._match_count:
            self._follow.setChecked(False)
            self.text.moveCursor(QTextCursor.MoveOperation.End)
            self._find(backward=True)

    def _count_matches(self) -> None:
        needle = self._search.text().lower()
        self._match_count = self.text.toPlainText().lower().count(needle) if needle else 0
        self._matches.setText(tr("{count} matches", count=self._match_count) if needle else "")
        for button in (self._previous, self._next):
            button.setEnabled(bool(self._match_count))
        self._highlight()

    def _find(self, *, backward: bool) -> None:
        needle = self._search.text()
        if not needle:
            return
        flag = QTextDocument.FindFlag.FindBackward if backward else QTextDocument.FindFlag(0)
        if not self.text.find(needle, flag):
            edge = QTextCursor.MoveOperation.End if backward else QTextCursor.MoveOperation.Start
            self.text.moveCursor(edge)
            self.text.find(needle, flag)
        self._highlight()

    def _highlight(self) -> None:
        """Mark the matches in view; those out of view are marked when scrolled to."""
        needle = self._search.text().lower()
        marks: list[QTextEdit.ExtraSelection] = []
        if needle:
            background = QTextCharFormat()
            background.setBackground(QColor(self._theme.palette.match))
            for block in self.text.visible_blocks():
                text = block.text().lower()
                start = text.find(needle)
                while start >= 0:
                    mark = QTextEdit.ExtraSelection()
                    mark.format = background
                    cursor = QTextCursor(block)
                    cursor.setPosition(block.position() + start)
                    cursor.setPosition(block.position() + start + len(needle), QTextCursor.MoveMode.KeepAnchor)
                    mark.cursor = cursor
                    marks.append(mark)
                    start = text.find(needle, start + len(needle))
        self.text.setExtraSelections(marks)
