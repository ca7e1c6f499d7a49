"""The machine page: where containers run, how well, and how other programs reach it."""

from app.core.translations import tr
from app.gui import wording
from app.gui.connection import Connection, EngineFacts, Failure, LinkState
from app.gui.engine_link import EngineLink
from app.gui.panels import Banner, Button, CopyField, PageHeader, card, label, line
from app.gui.qt import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    Qt,
    QVBoxLayout,
    QWidget,
)
from app.gui.theme import Theme, Tone

MARGIN = 28
SCROLL_BAR_WIDTH = 12  # lies in the page's margin, so that cards keep their width when it appears

STATE_TONES: dict[LinkState, Tone] = {
    LinkState.STOPPED: "neutral",
    LinkState.STARTING: "info",
    LinkState.RUNNING: "success",
    LinkState.STOPPING: "info",
    LinkState.UNREACHABLE: "danger",
}


def state_text(state: LinkState) -> str:
    """The engine's state as a sentence."""
    match state:
        case LinkState.STOPPED:
            return tr("Engine stopped")
        case LinkState.STARTING:
            return tr("Engine starting")
        case LinkState.RUNNING:
            return tr("Engine running")
        case LinkState.STOPPING:
            return tr("Engine stopping")
        case LinkState.UNREACHABLE:
            return tr("Engine not answering")


def backend_text(backend: str) -> str:
    """Where the engine runs."""
    match backend:
        case "vm":
            return tr("In a virtual machine")
        case "remote":
            return tr("At an address given to Wherry")
    return tr("Natively on this computer")


def acceleration_text(facts: EngineFacts) -> str:
    """How fast the backend is, and why."""
    if facts.backend == "native":
        return tr("Not needed: nothing is emulated")
    name = facts.accelerator.upper()
    return f"{name}: {facts.accelerator_reason}" if name and facts.accelerator_reason else name


class MachinePage(QWidget):
    """State with Start and Stop; facts; degraded reasons; endpoints to copy."""

    def __init__(self, theme: Theme, link: EngineLink) -> None:
        super().__init__()
        self._theme = theme
        self._link = link
        self.header = PageHeader(tr("Machine"))
        self.header.summary.setText(tr("Where your containers run"))
        self.banner = Banner(theme)

        content = QWidget()
        self._content = QVBoxLayout(content)
        self._content.setContentsMargins(0, 0, SCROLL_BAR_WIDTH, 0)
        self._content.setSpacing(16)
        self._content.addWidget(self._make_state_card())
        self._content.addWidget(self._make_reasons_card())
        self._content.addWidget(self._make_facts_card())
        self._content.addWidget(self._make_endpoints_card())
        self._content.addStretch(1)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        scroll.verticalScrollBar().rangeChanged.connect(self._make_room)
        scroll.setWidget(content)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(MARGIN, 24, MARGIN - SCROLL_BAR_WIDTH, 24)
        layout.setSpacing(16)
        layout.addWidget(self.header)
        above = QHBoxLayout()
        above.setContentsMargins(0, 0, SCROLL_BAR_WIDTH, 0)
        above.addWidget(self.banner)
        layout.addLayout(above)
        layout.addWidget(scroll, 1)

        link.connection_changed.connect(self._show_connection)
        link.facts_changed.connect(self._show_facts)
        link.engine_failed.connect(self._engine_failed)
        self.banner.action_requested.connect(self._stop_confirmed)
        theme.changed.connect(self._retint)
        self._show_facts(link.facts)
        self._show_connection(link.connection)

    def _make_state_card(self) -> QFrame:
        box = card()
        layout = QHBoxLayout(box)
        layout.setContentsMargins(22, 20, 22, 20)
        layout.setSpacing(16)
        self._picture = QLabel()
        self._picture.setFixedSize(52, 52)
        self._picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._state = label("", "heading")
        self._detail = label("", "muted", wrap=True)
        words = QVBoxLayout()
        words.setSpacing(2)
        words.addWidget(self._state)
        words.addWidget(self._detail)
        self.start = Button(self._theme, tr("Start"), "start", "primary")
        self.start.clicked.connect(self._link.start_engine)
        self.stop = Button(self._theme, tr("Stop"), "stop")
        self.stop.setToolTip(tr("Stop the engine"))
        self.stop.clicked.connect(self.ask_to_stop)
        self.retry = Button(self._theme, tr("Try again"), "restart")
        self.retry.clicked.connect(self._link.probe)
        layout.addWidget(self._picture)
        layout.addLayout(words, 1)
        for button in (self.retry, self.stop, self.start):
            layout.addWidget(button, 0, Qt.AlignmentFlag.AlignVCenter)
        return box

    def _make_reasons_card(self) -> QFrame:
        self._reasons = card()
        layout = QVBoxLayout(self._reasons)
        layout.setContentsMargins(22, 16, 22, 18)
        layout.setSpacing(8)
        layout.addWidget(label(tr("Needs attention"), "heading"))
        self._reasons_text = label("", wrap=True)
        self._reasons_text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout.addWidget(self._reasons_text)
        return self._reasons

    def _make_facts_card(self) -> QFrame:
        box = card()
        layout = QVBoxLayout(box)
        layout.setContentsMargins(22, 16, 22, 18)
        layout.setSpacing(12)
        layout.addWidget(label(tr("About"), "heading"))
        layout.addWidget(line())
        grid = QGridLayout()
        grid.setHorizontalSpacing(24)
        grid.setVerticalSpacing(14)
        grid.setColumnMinimumWidth(0, 150)
        grid.setColumnStretch(1, 1)
        grid.setColumnMinimumWidth(2, 150)
        grid.setColumnStretch(3, 1)
        self._facts: dict[str, QLabel] = {}
        names = (
            ("backend", tr("Runs")),
            ("version", tr("Engine version")),
            ("accelerator", tr("Acceleration")),
            ("kernel", tr("Kernel")),
            ("containers", tr("Containers")),
            ("memory", tr("Memory")),
            ("images", tr("Images")),
            ("cpus", tr("Processors")),
            ("system", tr("System")),
        )
        for number, (key, name) in enumerate(names):
            row, column = divmod(number, 2)
            value = label("—", wrap=True)
            value.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            value.setAccessibleName(name)
            grid.addWidget(label(name, "muted"), row, column * 2, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(value, row, column * 2 + 1, Qt.AlignmentFlag.AlignTop)
            self._facts[key] = value
        layout.addLayout(grid)
        return box

    def _make_endpoints_card(self) -> QFrame:
        box = card()
        layout = QVBoxLayout(box)
        layout.setContentsMargins(22, 16, 22, 20)
        layout.setSpacing(10)
        layout.addWidget(label(tr("Use it from other programs"), "heading"))
        layout.addWidget(
            label(tr("The docker command, Compose and any Docker library work with this address."), "muted", wrap=True)
        )
        self.shell = CopyField(self._theme, tr("the shell line"))
        self.socket = CopyField(self._theme, tr("the address"))
        for name, field in ((tr("In a shell"), self.shell), (tr("Address"), self.socket)):
            layout.addSpacing(4)
            layout.addWidget(label(name, "field"))
            layout.addWidget(field)
        return box

    def ask_to_stop(self) -> bool:
        """Stop the engine; with containers running, name them first. Whether it has to be confirmed."""
        running = self._link.facts.containers_running
        if not running or self._link.connection.state is not LinkState.RUNNING:
            self._link.stop_engine()
            return False
        sentence = tr("Stop the engine?")
        loss = tr("One container is running and will be stopped.")
        if running > 1:
            loss = tr("{count} containers are running and will be stopped.", count=running)
        self.banner.say(sentence, loss, "warning", tr("Stop"))
        return True

    def _stop_confirmed(self) -> None:
        self.banner.hide()
        self._link.stop_engine()

    def _engine_failed(self, failure: Failure) -> None:
        self.banner.say(failure.sentence, failure.remedy)

    def _make_room(self, _lowest: int, highest: int) -> None:
        self._content.setContentsMargins(0, 0, 0 if highest else SCROLL_BAR_WIDTH, 0)

    def fact(self, key: str) -> str:
        """What the page says about `key`, for tests."""
        return self._facts[key].text()

    def _show_connection(self, connection: Connection) -> None:
        state = connection.state
        self._state.setText(state_text(state))
        detail = connection.explanation
        if state is LinkState.RUNNING and not detail:
            detail = backend_text(self._link.facts.backend)
        self._detail.setText(detail)
        self._detail.setVisible(bool(detail))
        self.start.setVisible(state in (LinkState.STOPPED, LinkState.UNREACHABLE))
        self.retry.setVisible(state is LinkState.UNREACHABLE)
        self.stop.setVisible(state in (LinkState.RUNNING, LinkState.STARTING, LinkState.UNREACHABLE))
        self._retint()

    def _retint(self) -> None:
        tone = STATE_TONES[self._link.connection.state]
        _, soft = self._theme.palette.tone(tone)
        self._picture.setStyleSheet(f"background: {soft}; border-radius: 14px;")
        self._picture.setPixmap(self._theme.pixmap("machine", tone, 28, self.devicePixelRatioF()))

    def _show_facts(self, facts: EngineFacts) -> None:
        unknown = "—"
        values = {
            "backend": backend_text(facts.backend),
            "version": facts.version or unknown,
            "accelerator": acceleration_text(facts) or unknown,
            "kernel": facts.kernel or unknown,
            "containers": tr(
                "{running} running, {total} in all", running=facts.containers_running, total=facts.containers
            )
            if facts.version
            else unknown,
            "images": str(facts.images) if facts.version else unknown,
            "memory": wording.memory(facts.memory_bytes) if facts.memory_bytes else unknown,
            "cpus": str(facts.cpus) if facts.cpus else unknown,
            "system": facts.system or unknown,
        }
        for key, text in values.items():
            self._facts[key].setText(text)
        self._reasons.setVisible(bool(facts.reasons))
        self._reasons_text.setText("\n".join(f"•  {reason}" for reason in facts.reasons))
        self.shell.set_text(f"export DOCKER_HOST={facts.host}" if facts.host else "")
        self.socket.set_text(facts.host)
