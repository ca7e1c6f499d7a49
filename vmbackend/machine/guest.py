"""A started QEMU with everything that serves its guest: monitor, console, SSH, the engine's socket, ports."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import TypeVar

from vmbackend import host
from vmbackend.errors import GuestUnreachable, MachineError, StartFailed, StopFailed
from vmbackend.forward.engine_api import EngineApi
from vmbackend.forward.engine_socket import serve_engine_socket
from vmbackend.forward.ports import PortForwards
from vmbackend.forward.watch import PortWatch
from vmbackend.images.guest_image import GuestImage, find_guest_image, verify_contents
from vmbackend.machine.config import MachineSettings
from vmbackend.machine.console import Console
from vmbackend.machine.paths import MachinePaths
from vmbackend.qemu.accelerator import AcceleratorChoice, choose_accelerator
from vmbackend.qemu.argv import NETDEV, LaunchFacts, build_argv
from vmbackend.qemu.disks import ensure_data_disk
from vmbackend.qemu.locate import QemuPrograms, locate_qemu
from vmbackend.qemu.process import QemuProcess
from vmbackend.qemu.qmp import Monitor, MonitorError, accept_once

_POWEROFF_COMMAND_TIMEOUT_S = 5.0
_POWER_BUTTON_TIMEOUT_S = 3.0
_QUIT_TIMEOUT_S = 3.0
_ENGINE_RETRY_S = 2.0
_ENGINE_PING_TIMEOUT_S = 5.0
_MAX_CLOCK_ERROR_S = 2.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What a start needs and has checked."""

    settings: MachineSettings
    image: GuestImage
    qemu: QemuPrograms
    machine: str
    accelerator: AcceleratorChoice


class QemuEnded(Exception):
    """QEMU is gone; the text says how, in words."""


async def prepare(paths: MachinePaths, settings: MachineSettings) -> Prepared:
    """Find or make whatever is missing; what does not depend on each other goes side by side.

    Raises MachineError, OSError.
    """
    arch = host.machine_arch()
    image = find_guest_image(arch, settings.image_dir)
    qemu = locate_qemu(arch, settings.qemu_dir)
    machine = image.machines[0]
    shared = paths.directory.parent
    *_, accelerator = await asyncio.gather(
        asyncio.to_thread(_ensure_keys, paths),
        asyncio.to_thread(verify_contents, image, shared / "verified-images.json"),
        asyncio.to_thread(ensure_data_disk, qemu.img, paths.data_disk, settings.disk_gib),
        choose_accelerator(qemu, image, machine, settings.accelerator, shared / "accelerator.json"),
    )
    return Prepared(settings, image, qemu, machine, accelerator)


class Guest:
    """Made by `launch`; each `wait_...` is one requirement, in order. `close` undoes everything."""

    def __init__(self, paths: MachinePaths, prepared: Prepared, process: QemuProcess, undo: AsyncExitStack) -> None:
        self._paths = paths
        self._prepared = prepared
        self._process = process
        self._undo = undo
        self._monitor: Monitor | None = None
        self._engine_announced = asyncio.Event()
        self._ports: PortWatch | None = None
        self._forwards: PortForwards | None = None
        self._api = EngineApi(paths.name, paths.engine_socket)
        self.pid = process.pid
        self.started_at = time.time()
        self.ssh_port: int | None = None
        self.ended = asyncio.create_task(process.wait())
