"""The dialog which runs a container: an image and as much or as little detail as one likes."""

import shlex
from collections.abc import Callable, Sequence

from app.core.translations import tr
from app.gui import run_form
from app.gui.connection import Failure
from app.gui.engine_link import EngineLink
from app.gui.panels import Banner, Button, CheckBox, ComboBox, label
from app.gui.qt import (
    QComboBox,
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QKeySequence,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QShortcut,
    QVBoxLayout,
    QWidget,
    Signal,
)
from app.gui.theme import Theme, fixed_font
from app.services.containers import RunOptions

Check = Callable[[str], str]
FIELD_WIDTH = 300


class RunDialog(QDialog):
    """Emits `created(name)` when the container runs, then closes. Stays open, with the reason, when it does not."""

    created = Signal(str)

    def __init__(
        self, theme: Theme, link: EngineLink, references: Sequence[str], image: str, parent: QWidget | None
    ) -> None:
        super().__init__(parent)
        self._theme = theme
        self._link = link
        self._checked: list[tuple[Callable[[], str], QLabel, QWidget, Check]] = []
        self.setWindowTitle(tr("Run a container"))

        self.image = ComboBox(theme)
        self.image.addItems(sorted(references))
        if image:
            self.image.setCurrentText(image)
        self.name = self._line(tr("A name is made up if you leave this empty"))
        self.command = self._line(tr("The image's own command"))
        self.command.setFont(fixed_font())
        self.ports = self._lines("8080:80")
        self.volumes = self._lines("/home/me/site:/srv:ro")
        self.environment = self._lines("NAME=value")
        self.memory = self._line(tr("No limit, or 512m"))
        self.cpus = self._line(tr("No limit, or 1.5"))
        self.remove = CheckBox(theme, tr("Remove the container when it is done"))

        self.banner = Banner(theme)
        self.cancel = Button(theme, tr("Cancel"))
        self.cancel.clicked.connect(self.reject)
        self.run = Button(theme, tr("Run"), "start", "primary")
        self.run.clicked.connect(self.submit)
        self.run.setDefault(True)
        self._lay_out()
        QShortcut(QKeySequence("Ctrl+Return"), self, self.submit)
        (self.name if self.image.currentText() else self.image).setFocus()

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(12)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        grid.setColumnMinimumWidth(0, FIELD_WIDTH)
        grid.setColumnMinimumWidth(1, FIELD_WIDTH)
        form = run_form
        cells: tuple[tuple[str, QWidget, Check, int, int, int], ...] = (
            (tr("Image"), self.image, form.image_problem, 0, 0, 1),
            (tr("Name"), self.name, form.name_problem, 0, 1, 1),
            (tr("Command"), self.command, form.command_problem, 1, 0, 2),
            (tr("Ports, one a line"), self.ports, form.ports_problem, 2, 0, 1),
            (tr("Environment, one a line"), self.environment, form.environment_problem, 2, 1, 1),
            (tr("Volumes and folders, one a line"), self.volumes, form.volumes_problem, 3, 0, 2),
            (tr("Memory limit"), self.memory, form.memory_problem, 4, 0, 1),
            (tr("Processors"), self.cpus, form.cpus_problem, 4, 1, 1),
        )
        for title, field, check, row, column, width in cells:
            grid.addLayout(self._cell(title, field, check), row, column, 1, width)
        buttons = QHBoxLayout()
        buttons.setSpacing(10)
        buttons.addWidget(self.remove)
        buttons.addStretch(1)
        buttons.addWidget(self.cancel)
        buttons.addWidget(self.run)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(28, 24, 28, 24)
        layout.setSpacing(16)
        layout.addWidget(label(tr("Run a container"), "title"))
        layout.addWidget(self.banner)
        layout.addLayout(grid)
        layout.addSpacing(4)
        layout.addLayout(buttons)

    def _cell(self, title: str, field: QWidget, check: Check) -> QVBoxLayout:
        name = label(title, "field")
        name.setBuddy(field)
        field.setAccessibleName(title)
        problem = label("", "problem", wrap=True)
        problem.hide()
        self._checked.append((self._reader(field), problem, field, check))
        cell = QVBoxLayout()
        cell.setSpacing(5)
        for widget in (name, field, problem):
            cell.addWidget(widget)
        cell.addStretch(1)
        return cell

    def _line(self, placeholder: str) -> QLineEdit:
        field = QLineEdit()
        field.setPlaceholderText(placeholder)
        return field

    def _lines(self, placeholder: str) -> QPlainTextEdit:
        field = QPlainTextEdit()
        field.setProperty("look", "field")
        field.setPlaceholderText(placeholder)
        field.setTabChangesFocus(True)
        field.setFont(fixed_font())
        field.setFixedHeight(66)
        return field

    def _reader(self, field: QWidget) -> Callable[[], str]:
        if isinstance(field, QComboBox):
            return field.currentText
        if isinstance(field, QPlainTextEdit):
            return field.toPlainText
        assert isinstance(field, QLineEdit)
        return field.text

    def problems(self) -> list[str]:
        """Check every field, show what is wrong beside it, and return it all."""
        found: list[str] = []
        for read, place, field, check in self._checked:
            problem = check(read())
            place.setText(problem)
            place.setVisible(bool(problem))
            field.setProperty("invalid", bool(problem))
            field.style().unpolish(field)
            field.style().polish(field)
            if problem:
                if not found:
                    field.setFocus()
                found.append(problem)
        return found

    def options(self) -> RunOptions:
        """What the fields say."""
        return RunOptions(
            image=self.image.currentText().strip(),
            command=tuple(shlex.split(self.command.text())),
            name=self.name.text().strip() or None,
            ports=run_form.entries(self.ports.toPlainText()),
            volumes=run_form.entries(self.volumes.toPlainText()),
            environment=run_form.entries(self.environment.toPlainText()),
            memory=self.memory.text().strip() or None,
            cpus=float(self.cpus.text()) if self.cpus.text() else None,
            remove=self.remove.isChecked(),
        )

    def submit(self) -> None:
        """Run it, if the fields are in order."""
        if self.problems() or not self.run.isEnabled():
            return
        self.run.setEnabled(False)
        self.run.say(tr("Starting…"))
        self.banner.hide()
        self._link.run_container(self.options(), self._made, self._failed)

    def _made(self, name: str) -> None:
        self.created.emit(name)
        self.accept()

    def _failed(self, failure: Failure) -> None:
        self.run.setEnabled(True)
        self.run.say(tr("Run"))
        self.banner.say(failure.sentence, failure.remedy)
