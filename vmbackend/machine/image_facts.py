"""What there is to say about a machine's guest image: derived from its record and from what Wherry carries now."""

import time
from dataclasses import dataclass, replace

from vmbackend import host
from vmbackend.errors import MachineError
from vmbackend.images.guest_image import GuestImage
from vmbackend.images.kept import KeptImages
from vmbackend.machine.image_change import UNDO_WITHIN_S, offered_image
from vmbackend.machine.image_record import ImageRecord, Previous, read_image_record
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.status import MachineStatus

_DIGEST_LENGTH = 12


@dataclass(frozen=True)
class ImageFacts:
    """`problem`: the note is about something that did not go well. Fields as in MachineStatus."""

    image_version: str | None = None
    image_digest: str | None = None
    available_version: str | None = None
    available_digest: str | None = None
    update_note: str | None = None
    problem: bool = False


def image_facts(paths: MachinePaths) -> ImageFacts:
    """Looks at a few small files; a machine that was never started has no image yet."""
    kept = KeptImages(paths.images, host.machine_arch(), paths.verified_images)
    try:
        record = read_image_record(paths.image_record)
    except MachineError as error:
        return ImageFacts(update_note=str(error), problem=True)
    digest = record.current
    if record.change is not None and record.change.stage == "trying":
        digest = record.change.target
    if digest is None:
        return ImageFacts()
    try:
        own = kept.get(digest)
        version = own.version
    except MachineError:
        own, version = None, None
    try:
        offered, obstacle = offered_image(paths), ""
    except MachineError as error:
        offered, obstacle = None, str(error)
    if offered is not None and offered.digest == digest:
        offered = None
    note, problem = _note(paths.name, record, own, offered, obstacle)
    if record.previous is not None:
        note = f"{note} {_way_back(paths.name, record.previous)}".strip()
    return ImageFacts(
        version,
        digest[:_DIGEST_LENGTH],
        offered.version if offered else None,
        offered.digest[:_DIGEST_LENGTH] if offered else None,
        note or None,
        problem,
    )


def with_image(status: MachineStatus, paths: MachinePaths) -> MachineStatus:
    facts = image_facts(paths)
    return replace(
        status,
        image_version=facts.image_version,
        image_digest=facts.image_digest,
        available_version=facts.available_version,
        available_digest=facts.available_digest,
        update_note=facts.update_note,
    )


def _note(
    name: str, record: ImageRecord, own: GuestImage | None, offered: GuestImage | None, obstacle: str
) -> tuple[str, bool]:
    change = record.change
    if change is not None:
        if change.stage == "trying":
            return "Its guest image is being changed; if the new one does not serve, the machine goes back.", False
        return "A change of its guest image was interrupted; the next start puts that right.", True
    if record.postponed:
        return f"Its guest image was not changed: {record.postponed}.", True
    if offered is not None and own is not None:
        passed = record.passed_over.get(offered.digest)
        if passed is not None:
            report = "; to report it: `wherry doctor --bundle FILE`" if passed.failed else ""
            return (
                f"The guest image {passed.label} is not used, since {_day(passed.at)}: {passed.reason}. The machine "
                f"runs {own.label} with its data. To try again: `wherry machine update {name}`{report}."
            ), passed.failed
        if offered.is_of_older_version(own):
            return f"It keeps its image: Wherry has an older one, {offered.label}.", False
        return (
            f"The guest image {offered.label} is available: the machine changes to it when it is started anew, not "
            f"from a saved state, or at once with `wherry machine update {name}`."
        ), False
    last_change = record.previous.until - UNDO_WITHIN_S if record.previous is not None else 0.0
    for passed in record.passed_over.values():
        if passed.failed and passed.at > max(last_change, time.time() - UNDO_WITHIN_S):
            return f"The guest image {passed.label} did not serve, on {_day(passed.at)}: {passed.reason}.", True
    if obstacle:
        return f"No other guest image can be looked at: {obstacle}", True
    return "", False


def _way_back(name: str, previous: Previous) -> str:
    return (
        f"Until {_day(previous.until)} its update can be undone with `wherry machine update --undo {name}`; "
        f"the snapshot for that takes up to {previous.disk_bytes / 1e6:.0f} MB of this computer's disk."
    )


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
