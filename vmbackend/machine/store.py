"""Machines on disk: one folder each, and records of the processes that serve them."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmbackend import host
from vmbackend.errors import InvalidSettings, MachineBusy, MachineNotFound
from vmbackend.machine.config import MachineSettings, settings_from_json, settings_to_json
from vmbackend.machine.paths import MachinePaths

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class MachineStore:
    """The folder with all machines of one user."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = (home or host.data_home() / "machines").absolute()

    def paths(self, name: str) -> MachinePaths:
        """The files of a machine, which need not exist. Raises InvalidSettings for an impossible name."""
        if not _NAME.fullmatch(name):
            raise InvalidSettings(
                f"{name!r} cannot name a machine; use up to 32 lower-case letters, digits, `-` and `_`."
            )
        return MachinePaths(self.home / name)

    def names(self) -> list[str]:
        if not self.home.is_dir():
            return []
        return sorted(path.parent.name for path in self.home.glob("*/settings.json"))

    def save(self, name: str, settings: MachineSettings) -> None:
        """Create the machine, or change its settings. Raises InvalidSettings, OSError."""
        settings.validate()
        paths = self.paths(name)
        paths.make_directories()
        write_atomically(paths.settings, settings_to_json(settings))

    def load(self, name: str) -> MachineSettings:
        """Raises MachineNotFound, InvalidSettings."""
        return load_settings(self.paths(name))


@contextmanager
def machine_lock(paths: MachinePaths) -> Iterator[None]:
    """Be the only one who runs or changes a machine; a killed holder's lock is gone with it. Raises MachineBusy."""
    lock = os.open(paths.hostagent_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not host.try_lock(lock):
            raise MachineBusy(f"The machine `{paths.name}` has a hostagent already, or is being changed.")
        yield
    finally:
        os.close(lock)


def load_settings(paths: MachinePaths) -> MachineSettings:
    """Raises MachineNotFound, InvalidSettings."""
    try:
        text = paths.settings.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MachineNotFound(
            f"There is no machine `{paths.name}`; starting it creates it with the default settings."
        ) from None
    return settings_from_json(text, paths.settings)


@dataclass(frozen=True)
class ProcessRecord:
    """A process that can still be told apart from a later one with the same pid.

    `details` is what another process needs in order to talk to it.
    """

    pid: int
    start_time: int
    details: Mapping[str, Any]

    @classmethod
    def of(cls, pid: int, details: Mapping[str, Any]) -> "ProcessRecord | None":
        """None when the process is gone already."""
        start_time = host.process_start_time(pid)
        return None if start_time is None else cls(pid, start_time, details)

    @classmethod
    def read(cls, path: Path) -> "ProcessRecord | None":
        """None when there is no such file or it was never completely written."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(document["pid"], document["start_time"], document["details"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        document = {"pid": self.pid, "start_time": self.start_time, "details": dict(self.details)}
        write_atomically(path, json.dumps(document))

    def is_alive(self) -> bool:
        return host.process_start_time(self.pid) == self.start_time


def write_atomically(path: Path, text: str, durable: bool = False) -> None:
    """Replace a file of this user's, so that a reader finds the old text or the new one. Raises OSError.

    A `durable` one is on the disk when this returns.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")  # two processes may write the same file
    try:
        with draft.open("w", encoding="utf-8") as stream:
            stream.write(text)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        host.make_private(draft)
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)  # a full disk must not be filled further
        raise
    if durable:
        host.sync_directory(path.parent)
