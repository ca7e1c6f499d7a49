"""Virtual machines as lists show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmbackend import MachineManager


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """`available_version`: of another guest image that the machine could change to.

    `cpus`, `memory_mib` and `disk_gib` are None when the settings cannot be read; `reasons` then says why.
    """

    name: str
    state: str
    engine_host: str
    cpus: int | None
    memory_mib: int | None
    disk_gib: int | None
    image_version: str | None
    available_version: str | None
    ports: Sequence[str]
    reasons: Sequence[str]


def summaries(machines: "MachineManager") -> list[MachineSummary]:
    """All machines, looked at one after the other. A broken one does not hide the others."""
    return [_summary(machines, name) for name in machines.names()]


def _summary(machines: "MachineManager", name: str) -> MachineSummary:
    from vmbackend import MachineError

    status = machines.status(name)
    reasons = tuple(status.reasons)
    cpus = memory_mib = disk_gib = None
    try:
        settings = machines.settings(name)
        cpus, memory_mib, disk_gib = settings.cpus, settings.memory_mib, settings.disk_gib
    except MachineError as failure:
        reasons = (*reasons, str(failure))
    ports = []
    if status.state in ("running", "degraded", "idle", "paused"):
        ports = [f"{forward['address']}:{forward['port']}/{forward['protocol']}" for forward in machines.forwards(name)]
    return MachineSummary(
        name,
        status.state,
        status.engine_host,
        status.cpus or cpus,
        status.memory_mib or memory_mib,
        disk_gib,
        status.image_version,
        status.available_version,
        ports,
        reasons,
    )
