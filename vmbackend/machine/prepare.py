"""What a start needs: found, checked, or made."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmbackend import host
from vmbackend.host.candidate import Candidate
from vmbackend.images.guest_image import GuestImage, load_guest_image, verify_contents
from vmbackend.machine.config import MachineSettings, settings_from_json, settings_to_json
from vmbackend.machine.paths import MachinePaths
from vmbackend.qemu.accelerator import AcceleratorChoice, choose_accelerator
from vmbackend.qemu.disks import ensure_data_disk
from vmbackend.qemu.locate import QemuPrograms, locate_qemu
from vmbackend.qemu.tsc import host_tsc_khz


@dataclass(frozen=True)
class Prepared:
    """`machine` is QEMU's machine type, of those the image can boot on; `tsc_khz` is known for emulated guests."""

    settings: MachineSettings
    image: GuestImage
    qemu: QemuPrograms
    machine: str
    accelerator: AcceleratorChoice
    tsc_khz: int | None

    def to_json(self) -> dict[str, Any]:
        """For QEMU's record: a later hostagent might find some of it changed."""
        return {
            "settings": settings_to_json(self.settings),
            "arch": self.image.arch,
            "image": str(self.image.directory),
            "image_digest": self.image.digest,
            "qemu": [str(self.qemu.system), str(self.qemu.img), self.qemu.origin],
            "machine": self.machine,
            "accelerator": asdict(self.accelerator),
            "tsc_khz": self.tsc_khz,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Prepared":
        """Raises MachineError when the image is gone, KeyError, TypeError, ValueError."""
        image = load_guest_image(Path(document["image"]), document["arch"])
        if image.digest != document["image_digest"]:
            raise ValueError(f"its image was {document['image_digest']}, which {image.digest} has replaced")
        system, img, origin = document["qemu"]
        accelerator = document["accelerator"]
        return cls(
            settings_from_json(document["settings"], Path("of the running QEMU")),
            image,
            QemuPrograms(Path(system), Path(img), origin),
            document["machine"],
            AcceleratorChoice(Candidate(**accelerator["candidate"]), accelerator["reason"]),
            document["tsc_khz"],
        )


async def prepare(paths: MachinePaths, settings: MachineSettings, image: GuestImage) -> Prepared:
    """Find or make whatever is missing; what does not depend on each other goes side by side.

    Raises MachineError, OSError.
    """
    arch = host.machine_arch()
    qemu = locate_qemu(arch, settings.qemu_dir)
    machine, *other_machines = image.machines
    shared = paths.directory.parent
    *_, accelerator = await asyncio.gather(
        asyncio.to_thread(_ensure_keys, paths),
        asyncio.to_thread(verify_contents, image, paths.verified_images),
        asyncio.to_thread(ensure_data_disk, qemu.img, paths.data_disk, settings.disk_gib),
        choose_accelerator(qemu, image, machine, settings.accelerator, shared / "accelerator.json"),
    )
    tsc_khz = await asyncio.to_thread(host_tsc_khz) if accelerator.emulated else None
    if accelerator.emulated and tsc_khz is None and other_machines:
        # An emulated microvm cannot measure its clock reliably; other machines have the timers for it.
        machine = other_machines[0]
    return Prepared(settings, image, qemu, machine, accelerator, tsc_khz)


def _ensure_keys(paths: MachinePaths) -> None:
    if not all(path.exists() for path in (paths.client_key, paths.authorized_keys, paths.guest_host_key)):
        # Imported here because the libraries behind it cost a fifth of a second, and only the first start needs them
        # before QEMU runs.
        from vmbackend.ssh.keys import make_missing_keys

        make_missing_keys(paths)
