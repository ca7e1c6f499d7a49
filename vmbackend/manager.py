"""Machines as the application and the command line see them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vmbackend import host
from vmbackend.errors import HostagentUnreachable, StartFailed
from vmbackend.hostagent.client import HostagentClient, spawn_hostagent
from vmbackend.machine.config import MachineSettings
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.status import MachineStatus
from vmbackend.machine.store import MachineStore, ProcessRecord

DEFAULT_MACHINE = "default"

_STATUS_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 75.0  # the guest gives its engine 60 to end the containers


class MachineManager:
    """The machines of one user. Every method blocks, and raises MachineError.

    `home` is the folder with one folder per machine; None means the usual place on this system.
    """

    def __init__(self, home: Path | None = None) -> None:
        self._store = MachineStore(home)

    def list(self) -> list[MachineStatus]:
        return [self.status(name) for name in self._store.names()]

    def status(self, name: str = DEFAULT_MACHINE) -> MachineStatus:
        """Look at the machine; takes at most a few seconds, also when the guest hangs."""
        paths = self._store.paths(name)
        if not paths.settings.exists():
            return self._status(paths, "absent")
        client = HostagentClient.find(paths)
        if client is not None:
            try:
                return MachineStatus.from_json(client.request("status", _STATUS_TIMEOUT_S))
            except HostagentUnreachable as error:
                if client.record.is_alive():
                    return self._status(paths, "broken", str(error))
        orphan = _running_qemu(paths)
        if orphan is not None:
            return self._status(
                paths,
                "broken",
                f"QEMU (pid {orphan.pid}) runs, but the hostagent that owned it has died; "
                "starting the machine powers it off and starts anew.",
            )
        return self._status(paths, "stopped")

    def settings(self, name: str = DEFAULT_MACHINE) -> MachineSettings:
        return self._store.load(name)

    def start(
        self,
        name: str = DEFAULT_MACHINE,
        settings: MachineSettings | None = None,
        on_phase: Callable[[str], None] | None = None,
    ) -> MachineStatus:
        """Start the machine, making it if need be, and wait until it serves or is known not to.

        `settings` replace the machine's from this start on. `on_phase` gets the name of each requirement as it is
        waited for. A machine that came up partly is returned as "degraded"; one that did not raises StartFailed.
        """
        paths = self._store.paths(name)
        if settings is not None or not paths.settings.exists():
            self._store.save(name, settings or MachineSettings())
        client = HostagentClient.find(paths)
        if client is None:
            spawn_hostagent(paths)
            client = HostagentClient.find(paths)
        if client is None:
            raise HostagentUnreachable(f"The hostagent of `{name}` ended; `{paths.hostagent_log}` may say why.")
        told: list[str] = []

        def on_event(event: dict[str, Any]) -> None:
            phase = event["phase"]
            if on_phase is not None and phase is not None and phase not in told:
                told.append(phase)
                on_phase(phase)

        # Each requirement has its own deadline in there, so this wait ends.
        status = MachineStatus.from_json(client.request("start", None, on_event))
        if status.state not in ("running", "degraded"):
            raise StartFailed(" ".join(status.reasons) or f"The machine `{name}` was stopped while it started.")
        return status

    def stop(self, name: str = DEFAULT_MACHINE, force: bool = False, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """Power the machine off; one that is off already is fine. Forced, also when nothing answers any more."""
        paths = self._store.paths(name)
        client = HostagentClient.find(paths)
        if client is None:
            _end_orphan(paths)
            return
        try:
            client.request("stop", timeout_s + _STATUS_TIMEOUT_S, force=force, timeout_s=timeout_s)
        except HostagentUnreachable:
            if not client.record.is_alive():
                _end_orphan(paths)
                return
            if not force:
                raise
            host.kill_process(client.record.pid)
            orphan = _running_qemu(paths)
            if orphan is not None:
                host.kill_process(orphan.pid)

    def forwards(self, name: str = DEFAULT_MACHINE) -> Sequence[dict[str, Any]]:
        """The published ports offered on this computer now: `protocol`, `address` asked for, `port`."""
        client = HostagentClient.find(self._store.paths(name))
        ports: Sequence[dict[str, Any]] = client.request("forwards", _STATUS_TIMEOUT_S) if client else []
        return ports

    def engine_host(self, name: str = DEFAULT_MACHINE) -> str:
        """The engine's address for DOCKER_HOST, whether or not the machine runs."""
        return host.engine_host(name, self._store.paths(name).engine_socket)

    def logs(self, name: str = DEFAULT_MACHINE) -> Path:
        """The hostagent's log; QEMU's and the guest console's lie beside it."""
        return self._store.paths(name).hostagent_log

    def _status(self, paths: MachinePaths, state: Any, *reasons: str) -> MachineStatus:
        return MachineStatus(paths.name, state, host.engine_host(paths.name, paths.engine_socket), reasons)


def _running_qemu(paths: MachinePaths) -> ProcessRecord | None:
    record = ProcessRecord.read(paths.qemu_record)
    return record if record and record.is_alive() else None


def _end_orphan(paths: MachinePaths) -> None:
    if _running_qemu(paths) is None:
        return
    # Imported here: SSH costs a fifth of a second, and hardly anybody ever needs it in this process.
    import asyncio

    from vmbackend.machine.orphan import end_orphan

    asyncio.run(end_orphan(paths))
