"""A machine's way from one guest image to the next, and back.

Steps, each noted before it is made, so that a process killed at any line leaves a machine that runs the old image or
the new one, on the data that belongs to it:

1. the new image's files are kept beside the old one's, and read through;
2. a snapshot is taken of the data disk, which nobody uses then;
3. the new image is started. If it serves, that is noted, and the snapshot stays for a day;
4. else the disk is made what it was, the old image runs again, and the new one is not tried again by itself.

Whoever finds a change that was interrupted before the new image served goes back. The caller has the machine's lock.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from vmbackend import host
from vmbackend.errors import GuestImageDamaged, GuestImageMissing, InvalidSettings, MachineError, UpdateRefused
from vmbackend.images.guest_image import GuestImage, find_guest_image
from vmbackend.images.kept import KeptImages, require_room
from vmbackend.machine.image_record import Change, ImageRecord, PassedOver, Previous, read_image_record
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.store import load_settings
from vmbackend.qemu.locate import locate_qemu
from vmbackend.qemu.snapshots import RestingDisk

SNAPSHOT_PREFIX = "before-update-"
UNDO_WITHIN_S = 24 * 3600.0

_BY_HAND = "it was undone by hand"
_INTERRUPTED = "it was interrupted before the new image served"

_log = logging.getLogger(__name__)


class Disk(Protocol):
    """The data disk, which nobody uses. Methods raise SnapshotRefused."""

    def snapshots(self) -> list[str]: ...
    def create(self, name: str) -> None: ...
    def go_back(self, name: str) -> None: ...
    def remove(self, name: str) -> None: ...


@dataclass(frozen=True)
class Choice:
    """The image to start, one of the kept. `trying`: it has not served on this machine yet; `old` is the one before."""

    image: GuestImage
    trying: bool = False
    old: GuestImage | None = None


class ImageChange:
    """`find` looks for the image that Wherry, or the machine's setting, offers now; `disk` is called when needed."""

    def __init__(self, paths: MachinePaths, find: Callable[[], GuestImage], disk: Callable[[], Disk]) -> None:
        self._paths = paths
        self._find = find
        self._disk = disk
        self._kept = KeptImages(paths.images, host.machine_arch(), paths.verified_images)

    def record(self) -> ImageRecord:
        """Raises MachineError."""
        return read_image_record(self._paths.image_record)

    def choose(self, keep_current: bool) -> Choice:
        """What to start now; takes the first steps of a change that is due. Finishes what was interrupted.

        With `keep_current` a change is left for another time. Raises MachineError, OSError.
        """
        record = self.settle()
        current = self._current(record)
        if current is not None and keep_current:
            return Choice(current)
        try:
            target = self._due(record, current)
            if target is None:
                assert current is not None, "without an image of its own one is always due"
                return Choice(current)
            return self._begin(self.record(), current, target)
        except InvalidSettings:
            raise  # told rather than passed over: it was asked for
        except (MachineError, OSError) as error:
            if current is None:
                raise
            self._postpone(str(error).rstrip("."))
            return Choice(current)

    def settle(self) -> ImageRecord:
        """Finish or undo what a killed process left, and drop what nobody needs. Raises MachineError, OSError."""
        record = self.record()
        change, previous = record.change, record.previous
        if change is not None and change.stage == "preparing":
            record = self._write(_stale(replace(record, change=None), change.snapshot))
        elif change is not None:
            record = self.go_back(change.reason or _INTERRUPTED)
        elif previous is not None and time.time() > previous.until and not self._paths.saved_record.exists():
            record = self._write(_stale(replace(record, previous=None), previous.snapshot))
        record = self._remove_stale(record)
        self._kept.drop_all_but(record.images)
        return record

    def is_trying(self, digest: str) -> bool:
        """Whether that image is the new one of a change under way."""
        change = self.record().change
        return change is not None and change.stage == "trying" and change.target == digest

    def served(self) -> None:
        """The new image serves: from now on it is the machine's. Raises OSError; the change has failed then."""
        record = self.record()
        change = record.change
        assert change is not None, "only called while one is tried"
        previous = None
        stale: tuple[str, ...] = (change.snapshot,)
        if change.source is not None:
            until = time.time() + UNDO_WITHIN_S
            previous, stale = Previous(change.source, change.snapshot, until, change.disk_bytes), ()
        passed_over = {digest: one for digest, one in record.passed_over.items() if digest != change.target}
        settled = replace(record, current=change.target, wanted=None, change=None, previous=previous, postponed="")
        self._write(_stale(replace(settled, passed_over=passed_over), *stale))

    def go_back(self, reason: str) -> ImageRecord:
        """Make disk and image what they were before the change. Raises MachineError, OSError; to be repeated then."""
        record = self.record()
        change = record.change
        assert change is not None, "only called with one under way"
        if change.stage != "going back":
            record = self._write(replace(record, change=replace(change, stage="going back", reason=reason)))
        self._disk().go_back(change.snapshot)
        passed = PassedOver(self._label(change.target), reason.rstrip("."), time.time(), reason != _BY_HAND)
        current = change.source or record.current
        back = replace(record, current=current, wanted=None, change=None, previous=None)
        back = replace(back, passed_over={**record.passed_over, change.target: passed})
        _log.warning("went back from the guest image %s: %s", passed.label, reason)
        return self._remove_stale(self._write(_stale(back, change.snapshot)))

    def check(self, image: GuestImage) -> None:
        """Whether the machine could change to this image. Raises UpdateRefused, MachineError, OSError."""
        record = self.record()
        if record.current == image.digest:
            raise UpdateRefused(f"The machine `{self._paths.name}` has the guest image {image.label} already.")
        with suppress(GuestImageMissing, GuestImageDamaged):
            if record.current is not None:
                _refuse_older_store(image, self._kept.get(record.current))
        require_room(self._paths.directory)

    def ask_for(self, image: GuestImage) -> None:
        """Have the next start change to this image. Raises UpdateRefused, MachineError, OSError."""
        self.settle()
        self.check(image)
        record = self.record()
        self._kept.keep(image, verify=True)
        passed_over = {digest: one for digest, one in record.passed_over.items() if digest != image.digest}
        with suppress(MachineError):
            offered = self._find()
            if offered.digest != image.digest:
                reason = f"another one was asked for, {image.label}"
                passed_over[offered.digest] = PassedOver(offered.label, reason, time.time(), failed=False)
        self._write(replace(record, wanted=image.digest, passed_over=passed_over, postponed=""))

    def check_back(self) -> tuple[Previous, str]:
        """What the last change can be undone with, and the digest of its image. Raises UpdateRefused, MachineError."""
        record = self.record()
        if record.previous is None or record.current is None:
            raise UpdateRefused(
                f"The machine `{self._paths.name}` has no update that can be undone; "
                f"each can be for {UNDO_WITHIN_S / 3600:.0f} hours."
            )
        return record.previous, record.current

    def ask_back(self) -> None:
        """Have the next start undo the last change. Raises UpdateRefused, MachineError, OSError."""
        record = self.settle()
        previous, current = self.check_back()
        if previous.snapshot not in self._disk().snapshots():
            raise UpdateRefused(f"The snapshot {previous.snapshot} was removed, so the update cannot be undone.")
        change = Change(previous.image, current, previous.snapshot, "going back", _BY_HAND)
        self._write(replace(record, change=change, previous=None))

    def previous_expired(self) -> str | None:
        """The snapshot that has been kept for long enough: after its removal call `forget_previous`."""
        with suppress(MachineError):
            previous = self.record().previous
            if previous is not None and time.time() > previous.until:
                return previous.snapshot
        return None

    def forget_previous(self) -> None:
        """Raises MachineError, OSError."""
        record = self._write(replace(self.record(), previous=None))
        self._kept.drop_all_but(record.images)

    def forget_damaged(self, image: GuestImage) -> None:
        """A kept image is not what it was: it is to be taken anew."""
        self._kept.drop(image.digest)

    def _current(self, record: ImageRecord) -> GuestImage | None:
        """None when it has none, or its files were lost."""
        if record.current is None:
            return None
        try:
            return self._kept.get(record.current)
        except (GuestImageMissing, GuestImageDamaged) as error:
            _log.warning("the machine's own image cannot be used: %s", error)
            return None

    def _due(self, record: ImageRecord, current: GuestImage | None) -> GuestImage | None:
        """The image to change to now, if any. Raises MachineError when there is none to run at all, or a bad one."""
        if record.wanted is not None:
            return self._kept.get(record.wanted)
        offered = self._find()
        if current is None:
            passed = record.passed_over.get(offered.digest)
            if passed is not None and record.current is not None:
                raise GuestImageMissing(
                    f"The machine has lost its own guest image, and {passed.label}, which Wherry carries, did not "
                    f"serve: {passed.reason}; try again with `wherry machine update {self._paths.name}`, or install "
                    "the version of Wherry that made the machine."
                )
            return offered
        if offered.digest == current.digest or offered.digest in record.passed_over:
            return None
        if offered.is_of_older_version(current):
            return None
        _refuse_older_store(offered, current)
        return offered

    def _begin(self, record: ImageRecord, current: GuestImage | None, target: GuestImage) -> Choice:
        """Up to the point where the image can be started. Raises MachineError, OSError."""
        if not self._paths.data_disk.exists() or record.current in (None, target.digest):
            # Nothing that it could do any harm to, or its own image taken anew.
            kept = self._kept.keep(target, verify=False)
            if record != (settled := replace(record, current=target.digest, wanted=None, postponed="")):
                self._write(settled)
            return Choice(kept)
        require_room(self._paths.directory)
        kept = self._kept.keep(target, verify=True)
        disk, name = self._disk(), f"{SNAPSHOT_PREFIX}{target.digest[:8]}"
        if record.previous is not None:
            record = self._write(_stale(replace(record, previous=None), record.previous.snapshot))
        source = current.digest if current is not None else None
        taken = host.disk_usage_bytes(self._paths.data_disk)
        change = Change(source, target.digest, name, "preparing", disk_bytes=taken)
        record = self._write(replace(record, change=change, postponed=""))
        record = self._remove_stale(record)
        disk.remove(name)
        disk.create(name)
        self._write(replace(record, change=replace(change, stage="trying")))
        _log.warning("trying the guest image %s; the data disk is kept in the snapshot %s", kept.label, name)
        return Choice(kept, trying=True, old=current)

    def _postpone(self, reason: str) -> None:
        """A change could not be begun: the machine is as before. Raises MachineError, OSError."""
        _log.warning("the guest image is not changed: %s", reason)
        record = self.record()
        if record.change is not None:
            record = self._write(_stale(replace(record, change=None), record.change.snapshot))
        with suppress(OSError):  # a full disk: then it is only in the log
            if record.postponed != reason or record.wanted is not None:
                record = self._write(replace(record, wanted=None, postponed=reason))
            self._remove_stale(record)

    def _remove_stale(self, record: ImageRecord) -> ImageRecord:
        """Snapshots nobody needs; those that cannot be removed now are removed at another start."""
        # A saved guest would not go on from a disk that was changed.
        if not record.stale_snapshots or self._paths.saved_record.exists():
            return record
        disk = self._disk()
        try:
            for name in record.stale_snapshots:
                if name not in record.snapshots:
                    disk.remove(name)
        except MachineError as error:
            _log.warning("a snapshot stays for now: %s", error)
            return record
        return self._write(replace(record, stale_snapshots=()))

    def _label(self, digest: str) -> str:
        try:
            return self._kept.get(digest).label
        except MachineError:
            return digest[:8]

    def _write(self, record: ImageRecord) -> ImageRecord:
        record.write(self._paths.image_record)
        return record


def image_change(paths: MachinePaths) -> ImageChange:
    """That of a machine with its settings as they are at the time of each step."""

    def disk() -> Disk:
        return RestingDisk(locate_qemu(host.machine_arch(), load_settings(paths).qemu_dir).img, paths.data_disk)

    return ImageChange(paths, lambda: offered_image(paths), disk)


def offered_image(paths: MachinePaths) -> GuestImage:
    """What Wherry, or the machine's setting, has for it now. Raises GuestImageMissing, GuestImageDamaged."""
    return find_guest_image(host.machine_arch(), load_settings(paths).image_dir)


def _stale(record: ImageRecord, *snapshots: str) -> ImageRecord:
    return replace(record, stale_snapshots=tuple(dict.fromkeys((*record.stale_snapshots, *snapshots))))


def _refuse_older_store(image: GuestImage, current: GuestImage) -> None:
    if image.store_schema < current.store_schema:
        raise UpdateRefused(
            f"The guest image {image.label} is too old for this machine: its engine reads stores up to schema "
            f"{image.store_schema}, and the machine's is of schema {current.store_schema}; use a newer image."
        )
