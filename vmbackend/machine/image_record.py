"""Which guest image a machine runs, and how far a change of it has got: one file, written before each step.

Images are told by their digests; the files of those named here are kept.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vmbackend.errors import MachineError
from vmbackend.machine.store import write_atomically

_SCHEMA = 1
_REMEMBERED_IMAGES = 16

# "preparing": the disk is as the old image left it. "trying": the new image may have run on it. "going back": the disk
# is being made what it was.
Stage = Literal["preparing", "trying", "going back"]


@dataclass(frozen=True)
class Change:
    """From the image `source` to `target`, under way; `snapshot` is of the disk, taken before `target` ran.

    `source` is None when the machine's own image was lost. `reason` says, going back, why. `disk_bytes` is what the
    disk took when the snapshot was made.
    """

    source: str | None
    target: str
    snapshot: str
    stage: Stage
    reason: str = ""
    disk_bytes: int = 0


@dataclass(frozen=True)
class Previous:
    """What the last change can be undone with, until `until` (seconds since 1970)."""

    image: str
    snapshot: str
    until: float
    disk_bytes: int


@dataclass(frozen=True)
class PassedOver:
    """An image that is not tried again by itself; `at` is in seconds since 1970. `failed`: it did not serve."""

    label: str
    reason: str
    at: float
    failed: bool


@dataclass(frozen=True)
class ImageRecord:
    """`wanted` was asked for by name. `postponed` says in a sentence why a change was not begun at the last start.

    `stale_snapshots` are of no use any more and will be removed.
    """

    current: str | None = None
    wanted: str | None = None
    change: Change | None = None
    previous: Previous | None = None
    passed_over: Mapping[str, PassedOver] = field(default_factory=dict)
    postponed: str = ""
    stale_snapshots: tuple[str, ...] = ()

    @property
    def images(self) -> set[str]:
        """Those whose files have to be kept."""
        named = {self.current, self.wanted}
        if self.change is not None:
            named |= {self.change.source, self.change.target}
        if self.previous is not None:
            named.add(self.previous.image)
        return {digest for digest in named if digest is not None}

    @property
    def snapshots(self) -> set[str]:
        """Those that are still needed."""
        needed = [keeper.snapshot for keeper in (self.change, self.previous) if keeper is not None]
        return set(needed)

    def write(self, path: Path) -> None:
        """On the disk when this returns. Raises OSError."""
        document = asdict(self)
        document["passed_over"] = dict(list(document["passed_over"].items())[-_REMEMBERED_IMAGES:])
        write_atomically(path, json.dumps({"schema": _SCHEMA, **document}), durable=True)


def read_image_record(path: Path) -> ImageRecord:
    """An empty one when there is none. Raises MachineError for one that cannot be used."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("schema") != _SCHEMA:
            raise ValueError("another version of Wherry wrote it")
        change, previous = document.pop("change"), document.pop("previous")
        return ImageRecord(
            change=Change(**change) if change else None,
            previous=Previous(**previous) if previous else None,
            passed_over={digest: PassedOver(**one) for digest, one in document.pop("passed_over").items()},
            stale_snapshots=tuple(document.pop("stale_snapshots")),
            **document,
        )
    except FileNotFoundError:
        return ImageRecord()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MachineError(
            f"The machine's file {path} cannot be used ({error}); use the version of Wherry that wrote it, or delete "
            "the file: the machine then runs the image that comes with Wherry."
        ) from error
