"""Containers of the command line, one directory each: DIR/<id>/state.json, start.fifo, seccomp.bpf.

The status is derived, not remembered: from the process and from whether the fifo `start` opens is still there.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runtime.container.spawn import start_time
from runtime.errors import AlreadyExists, InvalidParameter, NotFound
from runtime.linux.files import read_file

DEFAULT_ROOT = Path("/run/wherry-oci")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*$")


class Saved(NamedTuple):
    """What state.json holds. `pid` with `start_time` (clock ticks since boot) is the process's identity."""

    oci_version: str
    id: str
    pid: int
    start_time: int
    bundle: str
    cgroup: str
    created_ns: int
    annotations: dict[str, str]


class Container:
    """The directory of one container."""

    def __init__(self, root: Path, id: str) -> None:
        if not _ID.match(id):
            raise InvalidParameter(f"invalid container id {id!r}: use letters, digits and _ . + -")
        self.id = id
        self.directory = root / id
        self.fifo = self.directory / "start.fifo"
        self._state = self.directory / "state.json"

    def make(self) -> None:
        """Make the directory; raises AlreadyExists."""
        self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.directory.mkdir(mode=0o700)
        except FileExistsError:
            raise AlreadyExists(f"container {self.id} exists already: delete it, or use another id") from None

    def remove(self) -> None:
        """Remove the directory and all in it."""
        shutil.rmtree(self.directory)

    def save(self, saved: Saved) -> None:
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps(saved._asdict()))
        new.rename(self._state)

    def load(self) -> Saved:
        """Raises NotFound if there is no such container, or none that was created to the end."""
        try:
            return Saved(**json.loads(self._state.read_bytes()))
        except FileNotFoundError:
            raise NotFound(f"container {self.id} does not exist") from None

    def status(self, saved: Saved) -> str:
        """created, running or stopped."""
        if not is_alive(saved):
            return "stopped"
        return "created" if self.fifo.exists() else "running"

    def state(self, saved: Saved) -> dict[str, Any]:
        """The state object of runtime-spec runtime.md."""
        status = self.status(saved)
        state = {
            "ociVersion": saved.oci_version,
            "id": saved.id,
            "status": status,
            "bundle": saved.bundle,
            "annotations": saved.annotations,
        }
        return state if status == "stopped" else {**state, "pid": saved.pid}


def is_alive(saved: Saved) -> bool:
    """Whether the very process that was started has not ended; a zombie has."""
    try:
        if start_time(saved.pid) != saved.start_time:
            return False
        stat = read_file(f"/proc/{saved.pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


@contextlib.contextmanager
def open_process(saved: Saved) -> Iterator[int | None]:
    """A pidfd of the container's process, None if it has ended."""
    try:
        pidfd = os.pidfd_open(saved.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Only now is it sure that the number is not another process's.
        yield pidfd if is_alive(saved) else None
    finally:
        os.close(pidfd)


def containers(root: Path) -> list[Container]:
    """All that were created, by id."""
    if not root.is_dir():
        return []
    return [Container(root, entry.name) for entry in sorted(root.iterdir()) if (entry / "state.json").exists()]
