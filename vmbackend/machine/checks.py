"""What may keep a machine from working, each with the switch to flip. Looks only, and starts nothing."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vmbackend import host
from vmbackend.errors import MachineError, MachineNotFound
from vmbackend.machine.config import MachineSettings
from vmbackend.machine.guest_settings import certificates_text
from vmbackend.machine.image_change import offered_image
from vmbackend.machine.image_facts import image_facts
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.status import MachineStatus
from vmbackend.machine.store import load_settings
from vmbackend.qemu.disks import virtual_size_bytes
from vmbackend.qemu.locate import locate_qemu

_MIB = 1 << 20
_LITTLE_ROOM_MIB = 2048
_NO_ROOM_MIB = 256


@dataclass(frozen=True)
class Finding:
    """`subject` is what was looked at; `sentence` says how it stands, `remedy` what to do ("" for nothing)."""

    subject: str
    verdict: Literal["ok", "warn", "fail"]
    sentence: str
    remedy: str = ""


# What is in a reason -> what to do. The reasons are sentences of this package and of QEMU.
_REMEDIES = (
    ("host disk full", "Free space on this computer's disk; the machine goes on by itself."),
    ("the hostagent that owned it has died", "Run: wherry machine start {name}"),
    ("Address already in use", "Stop the program that uses the port, or publish another one."),
    ("cannot be offered on", "Stop the program that uses the port, or publish another one."),
    ("Failed to get", "Another QEMU uses the machine's disk: end it, then run: wherry machine start {name}"),
    ("Cannot allocate memory", "Give it less memory: wherry machine set {name} memory=1G"),
    ("cannot set up guest memory", "Give it less memory: wherry machine set {name} memory=1G"),
    ("requirement `kernel`", "Try without acceleration: wherry machine set {name} accelerator=tcg"),
    ("requirement `ssh`", "Look at the guest's console: wherry machine logs --serial {name}"),
    ("requirement `engine`", "Look at the guest's console: wherry machine logs --serial {name}"),
    ("QEMU ended", "Look at what QEMU wrote: wherry machine logs --qemu {name}"),
    ("was killed by signal 9", "The system may have been short of memory: wherry machine set {name} memory=1G"),
    ("It was paused", "Run: wherry machine resume {name}"),
    ("does not answer; stopping", "Run: wherry machine stop --force {name}"),
)


def examine(paths: MachinePaths, status: MachineStatus) -> Iterator[Finding]:
    """All that matters to this machine, what it says itself first."""
    yield _state(paths, status)
    try:
        settings = load_settings(paths)
    except MachineNotFound:
        settings = MachineSettings()
    except MachineError as error:
        yield Finding("Settings", "fail", str(error))
        return
    yield _acceleration(paths, settings, status)
    looks: tuple[tuple[str, Callable[[MachinePaths, MachineSettings], Finding | None]], ...] = (
        ("QEMU", _qemu),
        ("Guest image", _image),
        ("Data disk", _disk),
        ("Room on this computer", _room),
        ("Certificates", _certificates),
        ("Shares", _shares),
    )
    for subject, look in looks:
        try:
            finding = look(paths, settings)
        except (MachineError, OSError) as error:
            finding = Finding(subject, "fail", str(error))
        if finding is not None:
            yield finding


def remedy_for(name: str, reason: str) -> str:
    """What to do about a reason in a machine's status, "" when nothing is known."""
    return next((remedy.format(name=name) for words, remedy in _REMEDIES if words in reason), "")


def _state(paths: MachinePaths, status: MachineStatus) -> Finding:
    remedies = dict.fromkeys(remedy_for(paths.name, reason) for reason in status.reasons)
    subject, remedy = f"Machine {paths.name}", " ".join(remedy for remedy in remedies if remedy)
    sentence = " ".join((f"It is {status.state}.", *status.reasons))
    if status.state == "broken":
        return Finding(subject, "fail", sentence, remedy or f"Run: wherry machine logs {paths.name}")
    return Finding(subject, "warn" if status.state == "degraded" else "ok", sentence, remedy)


def _qemu(paths: MachinePaths, settings: MachineSettings) -> Finding:
    programs = locate_qemu(host.machine_arch(), settings.qemu_dir)
    return Finding("QEMU", "ok", f"{programs.system} ({programs.origin}).")


def _image(paths: MachinePaths, settings: MachineSettings) -> Finding:
    facts = image_facts(paths)
    if facts.image_digest is None:
        image = offered_image(paths)
        return Finding("Guest image", "ok", f"{image.directory}, version {image.version}.")
    sentence = f"Version {facts.image_version or 'unknown'} ({facts.image_digest}). {facts.update_note or ''}".rstrip()
    remedy = f"Run: wherry machine update {paths.name}" if facts.problem and facts.available_digest else ""
    return Finding("Guest image", "warn" if facts.problem else "ok", sentence, remedy)


def _acceleration(paths: MachinePaths, settings: MachineSettings, status: MachineStatus) -> Finding:
    """An accelerator is only known to work once it has: what the machine found when it was last started counts."""
    subject = "Acceleration"
    if settings.accelerator == "tcg":
        remedy = f"Run: wherry machine set {paths.name} accelerator=auto"
        return Finding(subject, "warn", "The settings ask for emulation in software, which is slow.", remedy)
    if status.accelerator == "tcg":
        sentence = f"The machine is emulated in software, which is slow. {status.accelerator_reason or ''}".rstrip()
        return Finding(subject, "warn", sentence, host.ACCELERATOR_REMEDY)
    if status.accelerator is not None:
        return Finding(subject, "ok", f"{status.accelerator}. {status.accelerator_reason or ''}".rstrip())
    names = dict.fromkeys(candidate.accelerator for candidate in host.ACCELERATOR_CANDIDATES)
    obstacles = [obstacle for name in names if (obstacle := host.accelerator_obstacle(name)) is not None]
    if obstacles:
        return Finding(subject, "warn", f"It is not there: {'; '.join(obstacles)}.", host.ACCELERATOR_REMEDY)
    return Finding(subject, "ok", f"{', '.join(name.upper() for name in names)} will be tried at the next start.")


def _disk(paths: MachinePaths, settings: MachineSettings) -> Finding:
    if not paths.data_disk.exists():
        return Finding("Data disk", "ok", f"Its first start makes one of {settings.disk_gib} GiB.")
    size_gib = virtual_size_bytes(paths.data_disk) / 1024**3
    return Finding("Data disk", "ok", f"{paths.data_disk}, {size_gib:.0f} GiB.")


def _room(paths: MachinePaths, settings: MachineSettings) -> Finding:
    place = next(folder for folder in (paths.directory, *paths.directory.parents) if folder.exists())
    free_mib = shutil.disk_usage(place).free // _MIB
    sentence = f"{free_mib / 1024:.1f} GiB are free at {place}."
    if free_mib >= _LITTLE_ROOM_MIB:
        return Finding("Room on this computer", "ok", sentence)
    verdict: Literal["warn", "fail"] = "warn" if free_mib >= _NO_ROOM_MIB else "fail"
    return Finding("Room on this computer", verdict, sentence, "Free some: a full disk pauses the machine.")


def _certificates(paths: MachinePaths, settings: MachineSettings) -> Finding | None:
    if not settings.ca_certificates:
        return None
    certificates_text(settings)
    return Finding("Certificates", "ok", f"{len(settings.ca_certificates)} files are trusted besides the usual ones.")


def _shares(paths: MachinePaths, settings: MachineSettings) -> Finding | None:
    missing = [share for share in settings.shares if not Path(share.removesuffix(":ro")).expanduser().is_dir()]
    if not missing:
        return None
    remedy = f"Make them, or change the list: wherry machine set {paths.name} shares=..."
    return Finding("Shares", "warn", f"There is no folder {', '.join(missing)}.", remedy)
