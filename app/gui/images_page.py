"""The images page: what is there, run one, load from a file, remove."""

from pathlib import Path

from app.core.translations import tr
from app.engine.models import Image
from app.gui import wording
from app.gui.connection import Failure
from app.gui.engine_link import EngineLink
from app.gui.images_model import ID, REPOSITORY, TAG, ImagesModel, rows
from app.gui.list_page import ListPage
from app.gui.panels import Button
from app.gui.qt import QContextMenuEvent, QFileDialog, QMenu, QModelIndex, Qt, Signal
from app.gui.table import CellRole
from app.gui.theme import Theme


class ImagesPage(ListPage):
    """Emits `run_requested(reference)`."""

    run_requested = Signal(str)

    def __init__(self, theme: Theme, link: EngineLink) -> None:
        self.images = ImagesModel()
        super().__init__(theme, link, tr("Images"), tr("Search images"), self.images, (REPOSITORY, TAG, ID))
        self._load = Button(theme, tr("Load from file…"), "load", "primary")
        self._load.setToolTip(tr("Load images from a tar file made by docker save"))
        self._load.clicked.connect(self.choose_file)
        self.add_main_button(self._load)
        self.list.set_columns((None, 180, 140, 110, 140, 92))
        self.list.sortByColumn(REPOSITORY, Qt.SortOrder.AscendingOrder)
        self.list.action_requested.connect(self._row_action)
        self.list.opened.connect(self.run_requested)
        self.list.remove_requested.connect(lambda: self._ask_to_remove(self.list.selected_keys()))
        self._to_remove: list[str] = []
        self.banner.action_requested.connect(self._remove_confirmed)
        link.images_changed.connect(self._show)
        self.update_view()

    def summary(self) -> str:
        images = {row.image.id: row.image for row in self.images.items}
        if not images:
            return tr("None yet")
        total = wording.size(sum(image.size_bytes for image in images.values()))
        return tr("{count} images, {size}", count=len(images), size=total)

    def say_empty(self) -> None:
        self.empty.say(
            "images",
            tr("No images yet"),
            tr("An image is what containers start from. Load one from a tar file."),
            tr("Load from file…"),
        )

    def empty_action(self) -> None:
        self.choose_file()

    def choose_file(self) -> None:
        """Ask for a tar file and load it."""
        path, _ = QFileDialog.getOpenFileName(
            self, tr("Load images"), "", tr("Image archives (*.tar *.tar.gz *.tgz *.tar.zst);;All files (*)")
        )
        if path:
            self.load(Path(path))

    def load(self, path: Path) -> None:
        """Load the images of the archive at `path`; the banner says how it went."""
        self._load.setEnabled(False)
        try:
            total = wording.size(path.stat().st_size)
        except OSError:
            total = ""
        self.banner.say(tr("Loading {path}…", path=path.name), total, "info")

        def sent(count: int) -> None:
            self.banner.say(
                tr("Loading {path}…", path=path.name),
                tr("{sent} of {total}", sent=wording.size(count), total=total),
                "info",
            )

        def done(references: list[str]) -> None:
            self._load.setEnabled(True)
            self.banner.say(tr("Loaded {names}", names=", ".join(references)), "", "success")

        def failed(failure: Failure) -> None:
            self._load.setEnabled(True)
            self.banner.say(failure.sentence, failure.remedy)

        self.link.load_images(path, sent, done, failed)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        viewport = self.list.viewport()
        position = viewport.mapFromGlobal(event.globalPos())
        index = self.list.indexAt(position) if viewport.rect().contains(position) else QModelIndex()
        if event.reason() == QContextMenuEvent.Reason.Keyboard:
            index = self.list.currentIndex()
        if not index.isValid():
            return
        key = str(index.data(CellRole.KEY))
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for icon, text, verb in (("start", tr("Run…"), "run"), ("remove", tr("Remove"), "remove")):
            action = menu.addAction(self.theme.icon(icon), text)
            action.triggered.connect(lambda _=False, verb=verb: self._row_action(key, verb))
        menu.exec(event.globalPos())

    def _show(self, images: list[Image]) -> None:
        self.images.replace(rows(images))
        self.update_view()

    def _row_action(self, key: str, verb: str) -> None:
        if verb == "run":
            self.run_requested.emit(key)
        else:
            self._ask_to_remove([key])

    def _ask_to_remove(self, references: list[str]) -> None:
        self._to_remove = references
        if len(references) == 1:
            row = self.images.item(references[0])
            sentence = tr("Remove {name}?", name=row.short_id if row and not row.tag else references[0])
        else:
            sentence = tr("Remove {count} images?", count=len(references))
        self.banner.say(
            sentence,
            tr("Containers made from it keep working; to run it again, load it again."),
            "warning",
            tr("Remove"),
        )

    def _remove_confirmed(self) -> None:
        references, self._to_remove = self._to_remove, []
        self.banner.hide()
        for reference in references:
            self.link.remove_image(
                reference, lambda: None, lambda failure: self.banner.say(failure.sentence, failure.remedy)
            )
