"""What a start needs: found, checked, or made."""

import asyncio
from dataclasses import dataclass

from vmbackend import host
from vmbackend.images.guest_image import GuestImage, find_guest_image, verify_contents
from vmbackend.machine.config import MachineSettings
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


async def prepare(paths: MachinePaths, settings: MachineSettings) -> Prepared:
    """Find or make whatever is missing; what does not depend on each other goes side by side.

    Raises MachineError, OSError.
    """
    arch = host.machine_arch()
    image = find_guest_image(arch, settings.image_dir)
    qemu = locate_qemu(arch, settings.qemu_dir)
    machine, *other_machines = image.machines
    shared = paths.directory.parent
    *_, accelerator = await asyncio.gather(
        asyncio.to_thread(_ensure_keys, paths),
        asyncio.to_thread(verify_contents, image, shared / "verified-images.json"),
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
