"""The list of images as Qt sees it: one row a reference, as people think of them; dangling images by id."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from app.core.translations import tr
from app.engine.models import Image
from app.gui import wording
from app.gui.keyed_model import KeyedModel
from app.gui.qt import Qt
from app.gui.table import CellRole, RowAction

REPOSITORY, TAG, ID, SIZE, CREATED, ACTIONS = range(6)


@dataclass(frozen=True, slots=True)
class ImageRow:
    """`reference` is what to run or remove: "repository:tag", or the id of an image without a tag."""

    reference: str
    repository: str
    tag: str
    image: Image

    @property
    def short_id(self) -> str:
        return self.image.id.removeprefix("sha256:")[:12]


def rows(images: Iterable[Image]) -> list[ImageRow]:
    """A row for each tag of each image."""
    result: list[ImageRow] = []
    for image in images:
        if not image.tags:
            result.append(ImageRow(image.id, tr("(no tag)"), "", image))
        for reference in image.tags:
            repository, _, tag = reference.rpartition(":")
            result.append(ImageRow(reference, repository, tag, image))
    return result


class ImagesModel(KeyedModel[ImageRow]):
    """Columns repository, tag, id, size, created, actions."""

    def __init__(self) -> None:
        super().__init__([tr("Repository"), tr("Tag"), tr("ID"), tr("Size"), tr("Created"), ""])

    def key_of(self, item: ImageRow) -> str:
        return item.reference

    def cell(self, item: ImageRow, column: int, role: int) -> Any:
        if role == CellRole.KEY:
            return item.reference
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(item, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return item.reference if column in (REPOSITORY, TAG) else None
        if role == Qt.ItemDataRole.AccessibleTextRole and column == REPOSITORY:
            return f"{item.reference}, {wording.size(item.image.size_bytes)}"
        if role == CellRole.SORT:
            by_number = {SIZE: item.image.size_bytes, CREATED: -item.image.created_at}
            return by_number.get(column, self._text(item, column).casefold())
        if role == CellRole.ICON and column == REPOSITORY:
            return "images", "info"
        if role == CellRole.FIXED:
            return column == ID
        if role == CellRole.ACTIONS and column == ACTIONS:
            return (
                RowAction("run", "start", tr("Run…")),
                RowAction("remove", "remove", tr("Remove"), danger=True),
            )
        return None

    def _text(self, item: ImageRow, column: int) -> str:
        match column:
            case 0:
                return item.repository
            case 1:
                return item.tag
            case 2:
                return item.short_id
            case 3:
                return wording.size(item.image.size_bytes)
            case 4:
                return wording.age(time.time() - item.image.created_at)
        return ""
