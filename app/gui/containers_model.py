"""The list of containers as Qt sees it: rows keep their identity, so selection survives a refresh."""

import time
from collections.abc import Sequence
from typing import Any

from app.core.translations import tr
from app.engine.models import Container, PortMapping
from app.gui import wording
from app.gui.keyed_model import KeyedModel
from app.gui.qt import Qt
from app.gui.table import CellRole, RowAction

NAME, STATE, IMAGE, PORTS, CREATED, ACTIONS = range(6)

LIVE_STATES = frozenset({"running", "paused", "restarting"})


def is_live(container: Container) -> bool:
    """Whether there is a process to stop."""
    return container.state in LIVE_STATES


def port_texts(ports: Sequence[PortMapping]) -> list[str]:
    """Published ports as "8080 → 80", each once (an engine lists IPv4 and IPv6); the protocol where it is not tcp."""
    published: dict[str, None] = {}
    for port in ports:
        if port.host_port:
            suffix = "" if port.protocol == "tcp" else f"/{port.protocol}"
            published[f"{port.host_port} → {port.container_port}{suffix}"] = None
    return list(published)


class ContainersModel(KeyedModel[Container]):
    """Columns name, state, image, ports, created, actions. `pending` verbs show until the engine says otherwise."""

    def __init__(self) -> None:
        super().__init__([tr("Name"), tr("State"), tr("Image"), tr("Ports"), tr("Created"), ""])
        self._pending: dict[str, str] = {}

    def key_of(self, item: Container) -> str:
        return item.id

    def mark_pending(self, key: str, verb: str) -> None:
        """Show container `key` as being started, stopped, …"""
        self._pending[key] = verb
        self.touch(key)

    def clear_pending(self, key: str) -> None:
        if self._pending.pop(key, None):
            self.touch(key)

    def is_pending(self, key: str) -> bool:
        return key in self._pending

    def cell(self, item: Container, column: int, role: int) -> Any:
        if role == CellRole.KEY:
            return item.id
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(item, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            tips = {NAME: item.name, IMAGE: item.image, PORTS: "\n".join(port_texts(item.ports))}
            return tips.get(column)
        if role == Qt.ItemDataRole.AccessibleTextRole and column == NAME:
            return f"{item.name}, {self._text(item, STATE)}, {item.image}"
        if role == CellRole.SORT:
            return (-item.created_at) if column == CREATED else self._text(item, column).casefold()
        if role == CellRole.SECOND_LINE:
            return {NAME: item.id[:12], STATE: None}.get(column)
        if role == CellRole.TONE and column == STATE:
            return "info" if item.id in self._pending else wording.container_state(item.state)[1]
        if role == CellRole.ICON and column == NAME:
            return "containers", "success" if item.state == "running" else "neutral"
        if role == CellRole.ACTIONS and column == ACTIONS:
            return self._actions(item)
        return None

    def _text(self, item: Container, column: int) -> str:
        match column:
            case 0:
                return item.name
            case 1:
                verb = self._pending.get(item.id)
                return wording.pending(verb) if verb else wording.container_state(item.state)[0]
            case 2:
                return item.image
            case 3:
                first, *others = port_texts(item.ports) or ["—"]
                return f"{first}  +{len(others)}" if others else first
            case 4:
                return wording.age(time.time() - item.created_at)
        return ""

    def _actions(self, item: Container) -> tuple[RowAction, ...]:
        if item.id in self._pending:
            return ()
        stop, start = RowAction("stop", "stop", tr("Stop")), RowAction("start", "start", tr("Start"))
        return (
            stop if is_live(item) else start,
            RowAction("restart", "restart", tr("Restart")),
            RowAction("logs", "logs", tr("Logs")),
            RowAction("remove", "remove", tr("Remove"), danger=True),
        )
