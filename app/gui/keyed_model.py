"""A flat Qt model over items with an identity.

`replace` compares the new list with the shown one and tells the views only what changed, so that the selection,
the scroll position and the row under the pointer survive a refresh.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from app.gui.qt import AnyIndex, QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt
from app.gui.table import CellRole

Item = TypeVar("Item")

_NO_PARENT = QModelIndex()


class KeyedModel(QAbstractTableModel, Generic[Item]):
    """Subclasses say how an item is identified (`key_of`) and what a cell shows (`cell`)."""

    def __init__(self, headings: list[str]) -> None:
        super().__init__()
        self._headings = headings
        self._items: list[Item] = []

    @abstractmethod
    def key_of(self, item: Item) -> str: ...

    @abstractmethod
    def cell(self, item: Item, column: int, role: int) -> Any: ...

    @property
    def items(self) -> tuple[Item, ...]:
        return tuple(self._items)

    def item(self, key: str) -> Item | None:
        return next((item for item in self._items if self.key_of(item) == key), None)

    def replace(self, items: Iterable[Item]) -> None:
        """Show these items instead."""
        new = {self.key_of(item): item for item in items}
        for row in reversed(range(len(self._items))):
            if self.key_of(self._items[row]) not in new:
                self.beginRemoveRows(_NO_PARENT, row, row)
                del self._items[row]
                self.endRemoveRows()
        for row, old in enumerate(self._items):
            item = new.pop(self.key_of(old))
            if item != old:
                self._items[row] = item
                self._row_changed(row)
        if new:
            first = len(self._items)
            self.beginInsertRows(_NO_PARENT, first, first + len(new) - 1)
            self._items.extend(new.values())
            self.endInsertRows()

    def touch(self, key: str) -> None:
        """Paint the row of `key` again: something beside the item changed."""
        for row, item in enumerate(self._items):
            if self.key_of(item) == key:
                self._row_changed(row)

    def touch_all(self) -> None:
        """Paint everything again (ages grow older)."""
        if self._items:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._items) - 1, len(self._headings) - 1))

    def rowCount(self, parent: AnyIndex = _NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self._items)

    def columnCount(self, parent: AnyIndex = _NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self._headings)

    def data(self, index: AnyIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        return self.cell(self._items[index.row()], index.column(), role)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return self._headings[section]
        return None

    def _row_changed(self, row: int) -> None:
        self.dataChanged.emit(self.index(row, 0), self.index(row, len(self._headings) - 1))


class SearchProxy(QSortFilterProxyModel):
    """Rows whose text contains every word searched for; sorted by `CellRole.SORT`."""

    def __init__(self, columns: tuple[int, ...]) -> None:
        super().__init__()
        self._columns = columns
        self._words: list[str] = []
        self.setSortRole(CellRole.SORT)
        self.setDynamicSortFilter(True)

    def search(self, text: str) -> None:
        self._words = text.casefold().split()
        self.invalidate()

    def filterAcceptsRow(self, source_row: int, source_parent: AnyIndex) -> bool:
        source = self.sourceModel()
        texts = [str(source.index(source_row, column).data() or "").casefold() for column in self._columns]
        texts.append(str(source.index(source_row, 0).data(CellRole.SECOND_LINE) or ""))
        return all(any(word in text for text in texts) for word in self._words)

    def lessThan(self, left: AnyIndex, right: AnyIndex) -> bool:
        return bool(left.data(CellRole.SORT) < right.data(CellRole.SORT))
