"""Machines as the application and the command line see them."""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vmbackend import host
from vmbackend.errors import (
    GuestUnreachable,
    HostagentUnreachable,
    MachineBusy,
    MachineError,
    MachineExists,
    MachineNotFound,
    SnapshotRefused,
    StartFailed,
    UpdateFailed,
    UpdateRefused,
)
from vmbackend.host.login import LoginItem
from vmbackend.hostagent.client import HostagentClient, MachineEvents, spawn_hostagent
from vmbackend.images.guest_image import CONTRACT, load_guest_image
from vmbackend.machine import saved
from vmbackend.machine.archive import export_machine, import_disk, read_settings
from vmbackend.machine.checks import Finding, examine
from vmbackend.machine.config import MachineSettings
from vmbackend.machine.events import MachineEvent, PhaseEntered, StateChanged, UpdateEnded, UpdateStarted
from vmbackend.machine.image_change import image_change, offered_image
from vmbackend.machine.image_facts import with_image
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.status import MachineStatus
from vmbackend.machine.store import MachineStore, ProcessRecord, machine_lock
from vmbackend.machine.usage import MachineUsage
from vmbackend.qemu.disks import refuse_smaller
from vmbackend.qemu.locate import locate_qemu
from vmbackend.qemu.snapshots import DiskSnapshot, check_name, create, go_back, remove, snapshots_of

if TYPE_CHECKING:
    from vmbackend.ssh.session import GuestSession

DEFAULT_MACHINE = "default"

# Where this package can be imported from: a checkout, or site-packages.
_PACKAGES = Path(__file__).parents[1]

LogPart = Literal["hostagent", "qemu", "serial"]

_STATUS_TIMEOUT_S = 10.0
_SSH_TIMEOUT_S = 15.0
_HOSTAGENT_APPEARS_WITHIN_S = 30.0
_LOOK_EVERY_S = 0.05
_FOLLOW_TIMEOUT_S = 120.0  # a large file system takes a while to grow on a slow disk
_SNAPSHOT_TIMEOUT_S = 60.0
_SAVE_TIMEOUT_S = 90.0  # beside the time a power-off may take
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
        return with_image(self._look(name), self._store.paths(name))

    def _look(self, name: str) -> MachineStatus:
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
                "starting the machine takes it over, with its containers.",
            )
        return self._status(paths, "saved" if paths.saved_record.exists() else "stopped")

    def names(self) -> Sequence[str]:
        return self._store.names()

    def settings(self, name: str = DEFAULT_MACHINE) -> MachineSettings:
        return self._store.load(name)

    def create(self, name: str, settings: MachineSettings) -> None:
        """Make a machine without starting it. Raises MachineExists, InvalidSettings."""
        with self._new(name):
            self._save(name, settings)

    def set(self, name: str, settings: MachineSettings) -> tuple[str, ...]:
        """Change a machine's settings; returns the keys of those that a running machine follows only once restarted.

        A larger disk is given to the guest at once. Raises MachineNotFound, InvalidSettings, also for a smaller disk.
        """
        self._store.load(name)
        paths = self._store.paths(name)
        if paths.data_disk.exists():
            refuse_smaller(paths.data_disk, settings.disk_gib)
        self._save(name, settings)
        client = HostagentClient.find(paths)
        waiting: Sequence[str] = client.request("follow_settings", _FOLLOW_TIMEOUT_S) if client else ()
        return tuple(waiting)

    def restart(
        self, name: str = DEFAULT_MACHINE, force: bool = False, on_phase: Callable[[str], None] | None = None
    ) -> MachineStatus:
        """Stop, then start with the settings as they are now."""
        self.stop(name, force)
        return self.start(name, on_phase=on_phase)

    def remove(self, name: str, force: bool = False) -> None:
        """Remove a machine with all its data. One that runs is refused, or with `force` has its power cut."""
        self._require_off(name, force)
        self._set_login_item(name, False)
        with self._owned(name) as paths:
            # Settings last: what is left of an interrupted removal still shows as a machine, and can be removed.
            for entry in sorted(paths.directory.iterdir(), key=lambda entry: entry == paths.settings):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry != paths.hostagent_lock:
                    entry.unlink()
        _remove_directories(paths)

    def reset(self, name: str = DEFAULT_MACHINE, force: bool = False) -> None:
        """Forget the machine's images, containers and volumes; its settings stay. As `remove`, it has to be off."""
        self._require_off(name, force)
        with self._owned(name) as paths:
            saved.discard(paths)
            # First: what it says of snapshots would be looked for in the next disk.
            paths.image_record.unlink(missing_ok=True)
            paths.data_disk.unlink(missing_ok=True)

    def export(self, name: str, target: Path, on_phase: Callable[[str], None] = lambda phase: None) -> None:
        """Write the machine, which has to be off, to a file: its settings and its disk."""
        self._require_off(name, force=False)
        with self._owned(name) as paths:
            settings = self._store.load(name)
            image_change(paths).settle()
            qemu = locate_qemu(host.machine_arch(), settings.qemu_dir)
            try:
                export_machine(qemu.img, paths, settings, target.absolute(), on_phase)
            except OSError as error:
                raise MachineError(f"The machine `{name}` cannot be exported to {target}: {error}") from error

    def import_(self, name: str, source: Path, on_phase: Callable[[str], None] = lambda phase: None) -> None:
        """Make a machine of an exported file. Raises MachineExists, ArchiveDamaged."""
        try:
            settings = read_settings(source)
            with self._new(name) as paths:
                import_disk(source, paths, on_phase)
                # Last: with its settings it is a machine.
                self._save(name, settings)
        except OSError as error:
            raise MachineError(f"{source} cannot be imported: {error}") from error

    def open_session(
        self,
        name: str = DEFAULT_MACHINE,
        command: str = "",
        terminal_size: tuple[int, int] | None = None,
        terminal_type: str = "vt100",
    ) -> "GuestSession":
        """Run a command in the guest as root, or a shell; `terminal_size` (rows, columns) gives it a terminal."""
        # Imported here: SSH costs a fifth of a second, and few callers need it.
        from vmbackend.ssh.connection import GuestConnection
        from vmbackend.ssh.keys import load_keys
        from vmbackend.ssh.session import open_session

        paths = self._store.paths(name)
        client = HostagentClient.find(paths)
        if client is None:
            raise GuestUnreachable(f"The machine `{name}` is not running; start it first.")
        way = client.request("ssh", _STATUS_TIMEOUT_S)
        connection = GuestConnection.connect(
            way["port"], way["user"], load_keys(paths), _SSH_TIMEOUT_S, on_lost=lambda: None
        )
        return open_session(connection, command, terminal_size, terminal_type)

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
            self._save(name, settings or MachineSettings())
        client = HostagentClient.find(paths)
        if client is None:
            try:
                spawn_hostagent(paths)
            except MachineBusy:
                # Most likely somebody else has started it at the same moment: then that is our machine as well.
                if not _wait_for_hostagent(paths):
                    raise
            client = HostagentClient.find(paths)
        if client is None:
            raise HostagentUnreachable(f"The hostagent of `{name}` ended; `{paths.hostagent_log}` may say why.")
        told: list[str] = []

        def on_event(event: MachineEvent) -> None:
            phase = event.phase if isinstance(event, PhaseEntered) else ""
            if isinstance(event, UpdateStarted):
                phase = "new guest image"
            elif isinstance(event, UpdateEnded) and not event.succeeded:
                told.clear()  # all of it once more
                phase = "old guest image"
            if on_phase is not None and phase and phase not in told:
                told.append(phase)
                on_phase(phase)

        # Each requirement has its own deadline in there, so this wait ends.
        status = MachineStatus.from_json(client.request("start", None, on_event))
        if status.state not in ("running", "degraded"):
            raise StartFailed(" ".join(status.reasons) or f"The machine `{name}` was stopped while it started.")
        return with_image(status, paths)

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

    def save(self, name: str = DEFAULT_MACHINE, timeout_s: float = _STOP_TIMEOUT_S) -> str | None:
        """Save the running machine with its containers and switch it off; the next start goes on from there.

        One that cannot be saved is powered off instead, and why is returned in a sentence; one whose settings want no
        saving is powered off without a word.
        """
        client = HostagentClient.find(self._store.paths(name))
        if client is None or not self._store.load(name).save_on_stop:
            self.stop(name, timeout_s=timeout_s)
            return None
        note: str | None = client.request("save", timeout_s + _SAVE_TIMEOUT_S, timeout_s=timeout_s)
        return note

    def pause(self, name: str = DEFAULT_MACHINE) -> None:
        """Let the machine stand still, holding its memory, until `resume`."""
        self._running(name).request("pause", _STATUS_TIMEOUT_S)

    def resume(self, name: str = DEFAULT_MACHINE) -> None:
        """Let a paused machine go on; one that runs is fine."""
        self._running(name).request("resume", _STATUS_TIMEOUT_S)

    def snapshots(self, name: str = DEFAULT_MACHINE) -> Sequence[DiskSnapshot]:
        """The snapshots of the machine's disk, the oldest first."""
        settings, paths = self._store.load(name), self._store.paths(name)
        return snapshots_of(_qemu_img(settings), paths.data_disk)

    def take_snapshot(self, name: str, snapshot: str) -> None:
        """Keep the machine's disk as it is now; it may run. Raises SnapshotRefused."""
        check_name(snapshot)
        if snapshot in (known.name for known in self.snapshots(name)):
            raise SnapshotRefused(
                f"The machine `{name}` has a snapshot `{snapshot}` already; remove it, or choose another name."
            )
        client = HostagentClient.find(self._store.paths(name))
        if client is not None:
            client.request("take_snapshot", _SNAPSHOT_TIMEOUT_S, name=snapshot)
            return
        with self._resting_disk(name) as (qemu_img, disk):
            if not disk.exists():
                raise SnapshotRefused(f"The machine `{name}` has no disk yet; start it once.")
            create(qemu_img, disk, snapshot)

    def remove_snapshot(self, name: str, snapshot: str) -> None:
        """Raises SnapshotRefused."""
        self._require_snapshot(name, snapshot)
        under_way = image_change(self._store.paths(name)).record().change
        if under_way is not None and under_way.snapshot == snapshot:
            raise SnapshotRefused(f"The machine `{name}` may have to go back to `{snapshot}`; start it first.")
        client = HostagentClient.find(self._store.paths(name))
        if client is not None:
            client.request("remove_snapshot", _SNAPSHOT_TIMEOUT_S, name=snapshot)
            return
        with self._resting_disk(name) as (qemu_img, disk):
            remove(qemu_img, disk, snapshot)

    def restore_snapshot(
        self, name: str, snapshot: str, on_phase: Callable[[str], None] | None = None
    ) -> MachineStatus | None:
        """Make the machine's disk what it was; what came after is lost. One that runs is taken down and started again.

        Returns its status then, or None for a machine that was off. Raises SnapshotRefused.
        """
        self._require_snapshot(name, snapshot)
        was_up = HostagentClient.find(self._store.paths(name)) is not None
        self.stop(name, force=True)  # it has nothing to save
        with self._owned(name) as paths:
            saved.discard(paths)
            image_change(paths).settle()
            go_back(_qemu_img(self._store.load(name)), paths.data_disk, snapshot)
        return self.start(name, on_phase=on_phase) if was_up else None

    def update(
        self,
        name: str = DEFAULT_MACHINE,
        image_dir: Path | None = None,
        on_phase: Callable[[str], None] = lambda phase: None,
    ) -> MachineStatus:
        """Change the machine to the guest image that Wherry has for it, or the one in `image_dir`, and start it.

        A machine that runs is powered off first; a saved one goes on for that. Raises UpdateRefused, which changes
        nothing, and UpdateFailed when the image did not serve: the machine runs its old one then, with its data.
        """
        self._store.load(name)
        paths = self._store.paths(name)
        if image_dir is not None and not (image_dir / CONTRACT).is_file():
            raise UpdateRefused(f"There is no guest image in {image_dir}: it has no {CONTRACT}.")
        image = offered_image(paths) if image_dir is None else load_guest_image(image_dir, host.machine_arch())
        change = image_change(paths)
        try:
            change.check(image)
            if self.status(name).state == "saved":
                on_phase("Waking the machine, to shut it down")
                status = self.start(name)
                if change.record().current == image.digest:
                    return status  # it could not go on from its state, and booted with that image
            on_phase("Stopping the machine")
            self.stop(name)
            with self._owned(name):
                change.ask_for(image)
        except OSError as error:
            raise UpdateRefused(f"The machine `{name}` cannot change to {image.label}: {error}.") from error
        status = self.start(name, on_phase=on_phase)
        record = change.record()
        if record.current == image.digest:
            return status
        passed = record.passed_over.get(image.digest)
        reason = passed.reason if passed is not None else record.postponed.rstrip(".")
        raise UpdateFailed(
            f"The machine `{name}` runs its old guest image again, with its data; {image.label} does not serve: "
            f"{reason}."
        )

    def undo_update(
        self, name: str = DEFAULT_MACHINE, on_phase: Callable[[str], None] = lambda phase: None
    ) -> MachineStatus:
        """Go back to the guest image before the last, and to the disk of that time: what came after is lost.

        The power of a machine that runs is cut. Raises UpdateRefused when it is too late.
        """
        change = image_change(self._store.paths(name))
        change.check_back()
        on_phase("Going back")
        self.stop(name, force=True)  # it has nothing to save
        try:
            with self._owned(name) as paths:
                saved.discard(paths)
                change.ask_back()
        except OSError as error:
            raise UpdateRefused(f"The update of the machine `{name}` cannot be undone: {error}.") from error
        return self.start(name, on_phase=on_phase)

    def usage(self, name: str = DEFAULT_MACHINE) -> MachineUsage:
        """What the guest uses, and what the machine takes of this computer."""
        paths = self._store.paths(name)
        client = HostagentClient.find(paths)
        if client is not None:
            return MachineUsage.from_json(client.request("usage", _STATUS_TIMEOUT_S))
        return MachineUsage(
            host_disk_bytes=host.disk_usage_bytes(paths.data_disk) if paths.data_disk.exists() else None
        )

    def forwards(self, name: str = DEFAULT_MACHINE) -> Sequence[dict[str, Any]]:
        """The published ports offered on this computer now: `protocol`, `address`, `port`, `guest_port`."""
        client = HostagentClient.find(self._store.paths(name))
        ports: Sequence[dict[str, Any]] = client.request("forwards", _STATUS_TIMEOUT_S) if client else []
        return ports

    def examine(self, name: str = DEFAULT_MACHINE) -> Sequence[Finding]:
        """What may keep the machine from working, and what to do about it."""
        paths = self._store.paths(name)
        return tuple(examine(paths, self.status(name)))

    def events(self, name: str = DEFAULT_MACHINE) -> MachineEvents:
        """How the machine stands, then every change, to iterate over in a thread of one's own.

        The iteration ends when the machine is off: wait for the next start with another call.
        """

        def look() -> StateChanged:
            status = self.status(name)
            return StateChanged(status.state, status.reasons)

        return MachineEvents(HostagentClient.find(self._store.paths(name)), look)

    def shares(self, name: str = DEFAULT_MACHINE) -> Sequence[dict[str, Any]]:
        """The directories shared with a running machine: `host_path`, `guest_path`, `read_only`, `mounted`."""
        client = HostagentClient.find(self._store.paths(name))
        shares: Sequence[dict[str, Any]] = client.request("shares", _STATUS_TIMEOUT_S) if client else []
        return shares

    def engine_host(self, name: str = DEFAULT_MACHINE) -> str:
        """The engine's address for DOCKER_HOST, whether or not the machine runs."""
        return host.engine_host(name, self._store.paths(name).engine_socket)

    def logs(self, name: str = DEFAULT_MACHINE, part: LogPart = "hostagent") -> Sequence[Path]:
        """The files with what a part of the machine wrote, the oldest first; none if it has not written yet."""
        paths = self._store.paths(name)
        files = {
            "hostagent": [paths.hostagent_log],
            "qemu": [paths.qemu_log],
            "serial": [*reversed(paths.console_logs)],
        }
        return [file for file in files[part] if file.exists()]

    def _save(self, name: str, settings: MachineSettings) -> None:
        """The one way for settings to the disk. Raises InvalidSettings, MachineError, OSError."""
        self._store.save(name, settings)
        self._set_login_item(name, settings.start_at_login)

    def _set_login_item(self, name: str, wanted: bool) -> None:
        home = self._store.home
        command = [sys.executable, "-m", "vmbackend", "start", "--home", str(home), name]
        # Machines of the same name in several folders are several machines.
        place = hashlib.sha256(os.fsencode(home)).hexdigest()[:8]
        item = LoginItem(f"machine-{name}-{place}", f"Wherry machine {name}", command, str(_PACKAGES))
        try:
            host.set_login_item(item, wanted)
        except OSError as error:
            raise MachineError(f"What is started at login cannot be changed: {error}") from error

    @contextmanager
    def _owned(self, name: str) -> Iterator[MachinePaths]:
        """The machine's files, while no hostagent and no other caller has them. Raises MachineBusy."""
        paths = self._store.paths(name)
        paths.make_directories()
        with machine_lock(paths):
            if _running_qemu(paths) is not None:
                raise MachineBusy(f"QEMU still runs for the machine `{name}`; stop it first.")
            yield paths

    def _running(self, name: str) -> HostagentClient:
        client = HostagentClient.find(self._store.paths(name))
        if client is None:
            raise MachineError(f"The machine `{name}` is not running; start it first.")
        return client

    @contextmanager
    def _new(self, name: str) -> Iterator[MachinePaths]:
        """The files of a machine that is about to be made, gone again if that fails. Raises MachineExists."""
        fresh = not self._store.paths(name).directory.exists()
        with ExitStack() as undo:
            with self._owned(name) as paths:
                if paths.settings.exists():
                    raise MachineExists(f"There is a machine `{name}` already; remove it, or choose another name.")
                if fresh:
                    undo.callback(_remove_directories, paths)
                yield paths
            undo.pop_all()

    def _require_snapshot(self, name: str, snapshot: str) -> None:
        if snapshot not in (known.name for known in self.snapshots(name)):
            raise SnapshotRefused(f"The machine `{name}` has no snapshot `{snapshot}`.")

    @contextmanager
    def _resting_disk(self, name: str) -> Iterator[tuple[Path, Path]]:
        """`qemu-img`, and the disk of a machine that is off, for a change that its guest will not see."""
        with self._owned(name) as paths:
            state = saved.read(paths)
            fits = isinstance(state, saved.SavedState) and state.obstacle(paths, state.facts) is None
            yield _qemu_img(self._store.load(name)), paths.data_disk
            if isinstance(state, saved.SavedState) and fits:
                saved.disk_changed_harmlessly(paths, state)

    def _require_off(self, name: str, force: bool) -> None:
        if name not in self._store.names():
            raise MachineNotFound(f"There is no machine `{name}`.")
        if force:
            self.stop(name, force=True)
        elif self.status(name).state not in ("stopped", "saved", "broken"):
            raise MachineBusy(f"The machine `{name}` is running; stop it first, or force it.")

    def _status(self, paths: MachinePaths, state: Any, *reasons: str) -> MachineStatus:
        return MachineStatus(paths.name, state, host.engine_host(paths.name, paths.engine_socket), reasons)


def _wait_for_hostagent(paths: MachinePaths) -> bool:
    """Until the holder of the machine's lock turns out to be a hostagent; False when it is none."""
    deadline = time.monotonic() + _HOSTAGENT_APPEARS_WITHIN_S
    while HostagentClient.find(paths) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _remove_directories(paths: MachinePaths) -> None:
    for directory in paths.directories:
        shutil.rmtree(directory)


def _qemu_img(settings: MachineSettings) -> Path:
    return locate_qemu(host.machine_arch(), settings.qemu_dir).img


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
