"""A guest that was saved instead of switched off: what its state belongs to, and that it runs from it only once.

The state is good only for the same guest on the same disk. Once that guest runs on, or the disk was changed in any
other way, its memory and the disk belong together no more: going on from it then would destroy the file system.
So the record is removed, for good, before the guest runs; and it tells the disk by size and date.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vmbackend import host
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.store import write_atomically

_SCHEMA = 1


@dataclass(frozen=True)
class SavedState:
    """`facts` are what has to be the same, by their names in words; `saved_at` is in seconds since 1970."""

    facts: Mapping[str, str]
    disk: str
    saved_at: float

    def obstacle(self, paths: MachinePaths, facts: Mapping[str, str]) -> str | None:
        """Why a machine with these facts cannot go on from it, in half a sentence, or None when it can."""
        for name in {**self.facts, **facts}:
            if self.facts.get(name) != facts.get(name):
                return f"{name} changed since it was saved"
        if self.disk != _disk_identity(paths):
            return "the machine's disk was changed since it was saved"
        return None if paths.saved_state.exists() else "its file is gone"


def make_durable(draft: Path) -> None:
    """Bring a written state to the disk: one with a hole in it would be loaded without complaint. Raises OSError."""
    with draft.open("rb+") as stream:
        os.fsync(stream.fileno())
    host.make_private(draft)


def keep(paths: MachinePaths, facts: Mapping[str, str]) -> None:
    """Make the complete and durable draft the machine's state, once QEMU has closed its disk. Raises OSError."""
    draft(paths.saved_state).replace(paths.saved_state)
    _write(paths, SavedState(facts, _disk_identity(paths), time.time()))


def read(paths: MachinePaths) -> SavedState | str | None:
    """The machine's saved state; a half-sentence for one that is not usable; None when there is none."""
    try:
        document = json.loads(paths.saved_record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"its record is not readable ({error})"
    try:
        if document.pop("schema") != _SCHEMA:
            return "another version of Wherry saved it"
        return SavedState(**document)
    except (AttributeError, KeyError, TypeError) as error:
        return f"its record is not readable ({error})"


def consume(paths: MachinePaths) -> None:
    """From here on nobody starts from the state any more; its file may still be open. Raises OSError."""
    paths.saved_record.unlink(missing_ok=True)
    host.sync_directory(paths.directory)


def discard(paths: MachinePaths) -> None:
    """Remove the state, also one that was never completed. Raises OSError."""
    consume(paths)
    paths.saved_state.unlink(missing_ok=True)
    draft(paths.saved_state).unlink(missing_ok=True)


def draft(state: Path) -> Path:
    """Where a state is written until it is complete."""
    return state.with_name(f"{state.name}.new")


def disk_changed_harmlessly(paths: MachinePaths, state: SavedState) -> None:
    """Take note of a change to the disk's file that the guest does not see, such as a snapshot. Raises OSError."""
    _write(paths, SavedState(state.facts, _disk_identity(paths), state.saved_at))


def _write(paths: MachinePaths, state: SavedState) -> None:
    write_atomically(paths.saved_record, json.dumps({"schema": _SCHEMA, **asdict(state)}), durable=True)


def _disk_identity(paths: MachinePaths) -> str:
    facts = paths.data_disk.stat()
    return f"{facts.st_size}:{facts.st_mtime_ns}"
