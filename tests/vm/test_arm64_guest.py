"""The image for 64-bit ARM, emulated here: from QEMU's start to a container."""

import asyncio
import os
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from vmbackend import host
from vmbackend.images.guest_image import find_guest_image, verify_contents
from vmbackend.machine.config import MachineSettings
from vmbackend.machine.guest import attach, start_qemu
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.prepare import Prepared
from vmbackend.machine.store import MachineStore
from vmbackend.qemu.accelerator import AcceleratorChoice
from vmbackend.qemu.argv import EMULATION
from vmbackend.qemu.disks import ensure_data_disk
from vmbackend.qemu.locate import locate_qemu
from vmbackend.ssh.keys import make_missing_keys

IMAGE = Path(__file__).parents[2] / "build/guest/aarch64"
BOOT_TIMEOUT_S = 400.0
"""More than ten times what it takes on a computer that does nothing else."""


def prepared_machine(home: Path) -> tuple[MachinePaths, Prepared]:
    store, settings = MachineStore(home), MachineSettings(cpus=2, memory_mib=1024, disk_gib=4, shares=())
    store.save("arm", settings)
    paths, qemu = store.paths("arm"), locate_qemu("aarch64")
    image = find_guest_image("aarch64", str(IMAGE))
    verify_contents(image, home / "verified.json")
    make_missing_keys(paths)
    ensure_data_disk(qemu.img, paths.data_disk, settings.disk_gib)
    (machine,) = image.machines
    return paths, Prepared(settings, image, qemu, machine, AcceleratorChoice(EMULATION["aarch64"], "test"), None)


def machine_in_a_container(paths: MachinePaths) -> str:
    environment = {**os.environ, "DOCKER_HOST": host.engine_host(paths.name, paths.engine_socket)}
    command = ["docker", "run", "--rm", "--network", "none", "alpine", "uname", "-m"]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.mark.timeout(600)
def test_a_container_runs_in_an_arm64_guest(tmp_path: Path) -> None:
    if not (IMAGE / "contract.json").exists():
        pytest.fail("this test needs the guest image for aarch64: python -m guest build --arch aarch64")
    paths, prepared = prepared_machine(tmp_path)

    async def scenario() -> None:
        async with AsyncExitStack() as undo:
            qemu = await start_qemu(paths, prepared, undo)
            guest = await attach(paths, prepared, qemu, lambda: None, undo)
            async with asyncio.timeout(BOOT_TIMEOUT_S):
                await qemu.unless_ended(guest.wait_engine())
                await qemu.unless_ended(guest.link.wait_connected())
            assert await asyncio.to_thread(machine_in_a_container, paths) == "aarch64\n"

    try:
        asyncio.run(scenario())
    except BaseException:
        print(paths.console_log.read_text(errors="replace"))
        raise
