"""The lists of Wherry: one row a card line, hover and selection over the whole row, cells painted by role.

A model speaks to the cells through `CellRole`: second lines, pill tones, icons and the actions of a row. The actions
painted in the last column can also be reached by the toolbar, the context menu and the keyboard: painting is only
the quick way for a mouse.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import cast

from app.gui import icons
from app.gui.qt import (
    AnyIndex,
    QAbstractItemModel,
    QAbstractItemView,
    QColor,
    QEvent,
    QFont,
    QFontMetrics,
    QHeaderView,
    QHelpEvent,
    QKeyEvent,
    QModelIndex,
    QMouseEvent,
    QObject,
    QPainter,
    QPen,
    QPersistentModelIndex,
    QPixmap,
    QPoint,
    QRect,
    QSize,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    Qt,
    QToolTip,
    QTreeView,
    QWidget,
    Signal,
)
from app.gui.theme import BODY_PX, RADIUS, ROW_HEIGHT, SMALL_PX, Theme, Tone, fixed_font

_PAD = 8
_FIRST_PAD = 20
_ICON_PX = 18
_BUTTON_PX = 30


class CellRole(IntEnum):
    """What a model answers beyond Qt's own roles."""

    SECOND_LINE = Qt.ItemDataRole.UserRole + 1  # str: small line under the first
    TONE = Qt.ItemDataRole.UserRole + 2  # Tone: the cell is a pill of that tone
    ICON = Qt.ItemDataRole.UserRole + 3  # tuple[str, Tone]: drawing before the text and its tone
    ACTIONS = Qt.ItemDataRole.UserRole + 4  # tuple[RowAction, ...]
    FIXED = Qt.ItemDataRole.UserRole + 5  # bool: fixed-width font
    SORT = Qt.ItemDataRole.UserRole + 6  # what to sort by
    KEY = Qt.ItemDataRole.UserRole + 7  # str: identity of the row


@dataclass(frozen=True, slots=True)
class RowAction:
    """A button in a row. `verb` is what the list emits."""

    verb: str
    icon: str
    text: str
    danger: bool = False


class CardList(QTreeView):
    """A flat list. Emits `action_requested(key, verb)` for row buttons and `opened(key)` for Enter or double click."""

    action_requested = Signal(str, str)
    opened = Signal(str)
    remove_requested = Signal()
    shown_rows_changed = Signal()

    def __init__(self, theme: Theme, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._hovered = QPersistentModelIndex()
        self._focus_by_key = False
        self.setAccessibleName(name)
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(True)
        self.setIndentation(0)
        self.setMouseTracking(True)
        self.setSortingEnabled(True)
        self.setAllColumnsShowFocus(False)  # drawRow draws the ring
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTabKeyNavigation(False)
        self.setItemDelegate(CellDelegate(theme, self))
        header = self.header()
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setStretchLastSection(False)
        header.setHighlightSections(False)
        header.setSectionsMovable(False)
        header.setSectionsClickable(True)
        theme.changed.connect(self._theme_changed)

    def set_columns(self, widths: tuple[int | None, ...]) -> None:
        """Column widths in logical pixels; None for a column that shares what is left."""
        header = self.header()
        for column, width in enumerate(widths):
            stretch = width is None
            mode = QHeaderView.ResizeMode.Stretch if stretch else QHeaderView.ResizeMode.Fixed
            header.setSectionResizeMode(column, mode)
            if width is not None:
                header.resizeSection(column, width)

    def selected_keys(self) -> list[str]:
        """Keys of the selected rows, in the order shown."""
        rows = sorted(self.selectionModel().selectedRows(), key=lambda index: index.row())
        return [str(index.data(CellRole.KEY)) for index in rows]

    def hovered_row(self) -> int:
        return self._hovered.row() if self._hovered.isValid() else -1

    def drawRow(self, painter: QPainter, options: QStyleOptionViewItem, index: AnyIndex) -> None:
        palette = self._theme.palette
        rect: QRect = options.rect
        rect = QRect(0, rect.y(), self.viewport().width(), rect.height())
        selected = self.selectionModel().isRowSelected(index.row(), QModelIndex())
        if selected or index.row() == self.hovered_row():
            painter.save()
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(palette.accent_soft if selected else palette.hover))
            painter.drawRoundedRect(rect.adjusted(6, 2, -6, -3), RADIUS, RADIUS)
            painter.restore()
        last = index.row() == self.model().rowCount() - 1
        if not last and not selected:
            painter.setPen(QColor(palette.border))
            painter.drawLine(rect.left() + _FIRST_PAD, rect.bottom(), rect.right() - _FIRST_PAD, rect.bottom())
        super().drawRow(painter, options, index)
        if self._focus_by_key and self.hasFocus() and index.row() == self.currentIndex().row():
            painter.save()
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(QPen(QColor(palette.accent), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(rect.adjusted(6, 2, -6, -3), RADIUS, RADIUS)
            painter.restore()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        super().mouseMoveEvent(event)
        self._hover(self.indexAt(event.position().toPoint()))
        over = self._action_at(event.position().toPoint())
        self.viewport().setCursor(Qt.CursorShape.PointingHandCursor if over else Qt.CursorShape.ArrowCursor)
        self.viewport().update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._focus_by_key = False
        if event.button() == Qt.MouseButton.LeftButton and self._action_at(event.position().toPoint()):
            return  # a row button neither selects nor unselects
        if not self.indexAt(event.position().toPoint()).isValid():
            self.clearSelection()
        super().mousePressEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        hit = self._action_at(event.position().toPoint())
        if event.button() == Qt.MouseButton.LeftButton and hit:
            key, action = hit
            self.action_requested.emit(key, action.verb)
            return
        super().mouseReleaseEvent(event)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        position = event.position().toPoint()
        index = self.indexAt(position)
        if index.isValid() and not self._action_at(position):
            self.opened.emit(str(index.data(CellRole.KEY)))

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._hover(QModelIndex())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        self._focus_by_key = True
        key = event.key()
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.currentIndex().isValid():
            self.opened.emit(str(self.currentIndex().data(CellRole.KEY)))
        elif key == Qt.Key.Key_Delete and self.selected_keys():
            self.remove_requested.emit()
        elif key == Qt.Key.Key_Escape:
            self.clearSelection()
        else:
            super().keyPressEvent(event)
        self.viewport().update()

    def viewportEvent(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip:
            help_event = cast(QHelpEvent, event)
            hit = self._action_at(help_event.pos())
            if hit:
                QToolTip.showText(help_event.globalPos(), hit[1].text, self)
                return True
        return super().viewportEvent(event)

    def setModel(self, model: QAbstractItemModel | None) -> None:
        super().setModel(model)
        if model is not None:
            for signal in (model.rowsInserted, model.rowsRemoved, model.modelReset, model.layoutChanged):
                signal.connect(self.shown_rows_changed)

    def _hover(self, index: QModelIndex) -> None:
        self._hovered = QPersistentModelIndex(index)
        self.viewport().update()

    def _action_at(self, position: QPoint) -> tuple[str, RowAction] | None:
        index = self.indexAt(position)
        if not index.isValid():
            return None
        actions: tuple[RowAction, ...] = index.data(CellRole.ACTIONS) or ()
        for action, rect in zip(actions, action_rects(self.visualRect(index), len(actions)), strict=True):
            if rect.contains(position):
                return str(index.data(CellRole.KEY)), action
        return None

    def _theme_changed(self) -> None:
        self.viewport().update()


def action_rects(cell: QRect, count: int) -> list[QRect]:
    """Where `count` row buttons lie in a cell, right-aligned, left to right."""
    y = cell.center().y() - _BUTTON_PX // 2 + 1
    left = cell.right() - 14 - count * _BUTTON_PX
    return [QRect(left + i * _BUTTON_PX, y, _BUTTON_PX, _BUTTON_PX) for i in range(count)]


class CellDelegate(QStyledItemDelegate):
    """Paints a cell from the roles of `CellRole`."""

    def __init__(self, theme: Theme, parent: QObject) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: AnyIndex) -> QSize:
        return QSize(80, ROW_HEIGHT)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: AnyIndex) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        rect: QRect = option.rect
        view = cast(CardList, option.widget)
        actions = index.data(CellRole.ACTIONS)
        tone = index.data(CellRole.TONE)
        if actions is not None:
            self._paint_actions(painter, rect, view, index, actions)
        elif tone is not None:
            self._paint_pill(painter, rect.adjusted(_PAD, 0, -_PAD, 0), str(index.data()), tone)
        else:
            pad = _FIRST_PAD if index.column() == 0 else _PAD
            self._paint_text(painter, rect.adjusted(pad, 0, -_PAD, 0), view, index)
        painter.restore()

    def _paint_text(self, painter: QPainter, rect: QRect, view: CardList, index: AnyIndex) -> None:
        palette = self._theme.palette
        drawing = index.data(CellRole.ICON)
        if drawing:
            box = QRect(rect.left(), rect.center().y() - 16, 34, 34)
            painter.setPen(Qt.PenStyle.NoPen)
            name, background = drawing
            ink, soft = palette.tone(background)
            painter.setBrush(QColor(soft))
            painter.drawRoundedRect(box, RADIUS, RADIUS)
            glyph = self._pixmap(view, name, ink)
            painter.drawPixmap(box.center() - QPoint(_ICON_PX // 2 - 1, _ICON_PX // 2 - 1), glyph)
            rect = rect.adjusted(34 + 12, 0, 0, 0)
        fixed = bool(index.data(CellRole.FIXED))
        first_column = index.column() == 0
        font = fixed_font(SMALL_PX) if fixed else QFont(view.font())
        if not fixed:
            font.setPixelSize(BODY_PX)
        if first_column:
            font.setWeight(QFont.Weight.DemiBold)
        second = index.data(CellRole.SECOND_LINE)
        text = str(index.data() or "")
        painter.setFont(font)
        painter.setPen(QColor(palette.text if first_column else palette.text_muted))
        elided = QFontMetrics(font).elidedText(text, Qt.TextElideMode.ElideMiddle, rect.width())
        if not second:
            painter.drawText(rect, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, elided)
            return
        middle = rect.center().y()
        upper = QRect(rect.left(), middle - 21, rect.width(), 22)
        lower = QRect(rect.left(), middle + 1, rect.width(), 20)
        painter.drawText(upper, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, elided)
        small = fixed_font(SMALL_PX) if first_column else QFont(view.font())
        small.setPixelSize(SMALL_PX)
        painter.setFont(small)
        painter.setPen(QColor(palette.text_muted if first_column else palette.text_faint))
        elided = QFontMetrics(small).elidedText(str(second), Qt.TextElideMode.ElideRight, rect.width())
        painter.drawText(lower, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, elided)

    def _paint_pill(self, painter: QPainter, rect: QRect, text: str, tone: Tone) -> None:
        ink, soft = self._theme.palette.tone(tone)
        font = QFont(painter.font())
        font.setPixelSize(SMALL_PX)
        font.setWeight(QFont.Weight.DemiBold)
        metrics = QFontMetrics(font)
        width = min(metrics.horizontalAdvance(text) + 32, rect.width())
        pill = QRect(rect.left(), rect.center().y() - 12, width, 25)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(soft))
        painter.drawRoundedRect(pill, 12.5, 12.5)
        painter.setBrush(QColor(ink))
        painter.drawEllipse(QPoint(pill.left() + 12, pill.center().y() + 1), 3, 3)
        painter.setFont(font)
        painter.setPen(QColor(ink))
        inner = pill.adjusted(21, 0, -9, 0)
        elided = metrics.elidedText(text, Qt.TextElideMode.ElideRight, inner.width() + 2)
        painter.drawText(inner, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, elided)

    def _paint_actions(
        self, painter: QPainter, rect: QRect, view: CardList, index: AnyIndex, actions: tuple[RowAction, ...]
    ) -> None:
        palette = self._theme.palette
        pointer = view.viewport().mapFromGlobal(view.cursor().pos())
        lively = view.hovered_row() == index.row()
        for action, button in zip(actions, action_rects(rect, len(actions)), strict=True):
            under = lively and button.contains(pointer)
            colour = palette.text_muted
            if under:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(QColor(palette.danger_soft if action.danger else palette.border))
                painter.drawRoundedRect(button.adjusted(1, 1, -1, -1), RADIUS, RADIUS)
                colour = palette.danger if action.danger else palette.text
            glyph = self._pixmap(view, action.icon, colour)
            painter.drawPixmap(button.center() - QPoint(_ICON_PX // 2 - 1, _ICON_PX // 2 - 1), glyph)

    def _pixmap(self, view: QWidget, name: str, colour: str) -> QPixmap:
        return icons.pixmap(name, colour, _ICON_PX, view.devicePixelRatioF())
