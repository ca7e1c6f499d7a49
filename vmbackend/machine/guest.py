"""A running QEMU with everything that serves its guest: monitor, console, SSH, the engine's socket, ports."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from ipaddress import ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vmbackend import host
from vmbackend.errors import GuestUnreachable
from vmbackend.forward.engine_api import EngineApi, EngineSilent
from vmbackend.forward.engine_socket import serve_engine_socket
from vmbackend.forward.ports import PortForwards
from vmbackend.forward.watch import PortWatch
from vmbackend.images.guest_image import GuestImage
from vmbackend.machine.console import Console
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.prepare import Prepared
from vmbackend.machine.store import load_settings, write_atomically
from vmbackend.qemu.argv import NETDEV, LaunchFacts, build_argv
from vmbackend.qemu.process import QemuProcess
from vmbackend.qemu.qmp import Monitor, MonitorError, accept_once
from vmbackend.share.keeper import ShareKeeper
from vmbackend.share.plan import plan_shares, shares_document
from vmbackend.share.service import Shares

if TYPE_CHECKING:
    from vmbackend.ssh.link import GuestLink

_PING_TIMEOUT_S = 3.0
_END_FOLLOWS_WITHIN_S = 1.0
_POWEROFF_COMMAND_TIMEOUT_S = 5.0
_POWER_BUTTON_TIMEOUT_S = 10.0
_QUIT_TIMEOUT_S = 3.0
# For an announcement that was lost; asking an engine that is not there leaves a line on the guest's console.
_ENGINE_RETRY_S = 5.0
_SET_CLOCK_TIMEOUT_S = 5.0
_OPEN_PORT_TIMEOUT_S = 10.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


class QemuEnded(Exception):
    """QEMU is gone, or its guest is of no use; the text says how.

    `worth_retrying`: it was the guest that ended, not QEMU that refused.
    """

    def __init__(self, how: str, worth_retrying: bool) -> None:
        super().__init__(how)
        self.worth_retrying = worth_retrying


class StartedQemu:
    """A QEMU that is about to connect to our listeners. `ended` resolves to its exit code."""

    def __init__(self, process: QemuProcess, qmp_listener: socket.socket, console_listener: socket.socket) -> None:
        self.process = process
        self.qmp_listener = qmp_listener
        self.console_listener = console_listener
        self.started_at = time.time()
        self.ended = asyncio.create_task(process.wait())

    def end(self) -> QemuEnded:
        """How it ended, once it has."""
        code = self.ended.result()
        return QemuEnded(self.process.describe_end(code), worth_retrying=code == 0)

    async def unless_ended(self, work: Awaitable[T]) -> T:
        """Await `work`. Raises QemuEnded as soon as QEMU ends instead."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, self.ended], return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.cancelled() and task.exception() is not None:
                # A monitor that breaks off is most often QEMU's end, seen from the other side a moment before.
                await asyncio.wait([self.ended], timeout=_END_FOLLOWS_WITHIN_S)
            if self.ended.done():
                raise self.end()
            return await task
        finally:
            task.cancel()


async def start_qemu(paths: MachinePaths, prepared: Prepared, undo: AsyncExitStack) -> StartedQemu:
    """Start QEMU; `undo` ends it. Raises OSError."""
    image = prepared.image
    if paths.console_log.exists():
        paths.console_log.replace(paths.previous_console_log)
    qmp_listener = _listen(paths.qmp_socket, undo)
    console_listener = _listen(paths.console_socket, undo)
    argv = build_argv(
        LaunchFacts(
            program=prepared.qemu.system,
            image=image,
            machine=prepared.machine,
            accelerator=prepared.accelerator.candidate,
            cpus=prepared.settings.cpus,
            memory_mib=prepared.settings.memory_mib,
            data_disk=paths.data_disk,
            qmp_address=host.address_of(qmp_listener),
            console_address=host.address_of(console_listener),
            console_log=paths.console_log,
            tsc_khz=prepared.tsc_khz,
            handed_in_files={
                image.fw_cfg["authorized_keys"]: paths.authorized_keys,
                image.fw_cfg["host_key"]: paths.guest_host_key,
                **_handed_in_shares(paths, prepared),
            },
            handed_in_texts={
                image.fw_cfg["time"]: str(round(time.time())),
                image.fw_cfg["hostname"]: f"wherry-{paths.name}",
            },
        )
    )
    _log.info("starting %s", " ".join(argv))
    qemu = StartedQemu(await QemuProcess.spawn(argv, paths.qemu_log), qmp_listener, console_listener)
    undo.push_async_callback(_end, qemu)
    undo.callback(paths.qemu_record.unlink, missing_ok=True)
    return qemu


def _handed_in_shares(paths: MachinePaths, prepared: Prepared) -> dict[str, Path]:
    """What the engine has to know of shares before the first is mounted; an older image does not ask."""
    name = prepared.image.fw_cfg.get("shares")
    if name is None:
        return {}
    windows = host.files.NEEDS_DRIVE_LETTERS
    shares = plan_shares(prepared.settings.shares, Path.home(), windows)
    write_atomically(paths.shares_document, shares_document(shares, windows))
    return {name: paths.shares_document}


async def attach(paths: MachinePaths, prepared: Prepared, qemu: StartedQemu, undo: AsyncExitStack) -> "Guest":
    """Take QEMU's monitor and console, and serve the guest from then on; `undo` stops that.

    Raises MachineError, MonitorError, OSError.
    """
    # Imported while QEMU is starting: it takes a fifth of a second, and QEMU uses another processor.
    from vmbackend.ssh.connection import GuestConnection
    from vmbackend.ssh.keys import load_keys
    from vmbackend.ssh.link import GuestLink

    image = prepared.image
    monitor = await Monitor.accept(qemu.qmp_listener)
    undo.push_async_callback(monitor.close)
    ssh_port = await monitor.forwarded_port(image.ssh_port)
    qemu.process.record(
        paths.qemu_record,
        {"ssh_port": ssh_port, "ssh_user": image.ssh_user, "poweroff_command": image.poweroff_command},
    )

    keys = load_keys(paths)

    def connect(timeout_s: float, on_lost: Callable[[], None]) -> GuestConnection:
        return GuestConnection.connect(ssh_port, image.ssh_user, keys, timeout_s, on_lost)

    link = GuestLink(connect)
    undo.push_async_callback(link.close)
    engine_announced = asyncio.Event()
    console = Console({image.ssh_ready_line: link.announce, image.ready_line: engine_announced.set})
    following = asyncio.create_task(console.follow(await accept_once(qemu.console_listener)))
    undo.push_async_callback(_cancel, following)

    relay = serve_engine_socket(paths.name, paths.engine_socket, lambda: link.current().open_unix(image.engine_socket))
    undo.push_async_callback(asyncio.to_thread, relay.close)
    forwards = PortForwards(
        monitor,
        NETDEV,
        str(ip_interface(image.address).ip),
        prepared.settings.publish_address,
        lambda address, port: link.current().open_tcp(address, port),
    )
    api = EngineApi(paths.name, paths.engine_socket)
    shares = ShareKeeper(_shares(paths, image, monitor, link), link.wait_connected)
    undo.push_async_callback(shares.close)
    guest = Guest(prepared, qemu, monitor, ssh_port, link, console, engine_announced, api, forwards, shares)
    undo.push_async_callback(guest.stop_watching_ports)
    # Undone first: whatever waits for the guest then ends at once.
    undo.callback(qemu.process.kill)
    return guest


class Guest:
    """A running guest: `attach` makes it."""

    def __init__(
        self,
        prepared: Prepared,
        qemu: StartedQemu,
        monitor: Monitor,
        ssh_port: int,
        link: "GuestLink",
        console: Console,
        engine_announced: asyncio.Event,
        api: EngineApi,
        forwards: PortForwards,
        shares: ShareKeeper,
    ) -> None:
        self.prepared = prepared
        self.qemu = qemu
        self.monitor = monitor
        self.ssh_port = ssh_port
        self.link = link
        self.console = console
        self.forwards = forwards
        self.shares = shares
        self._engine_announced = engine_announced
        self._api = api
        self._ports: PortWatch | None = None
        self.has_served = False

    async def wait_engine(self) -> None:
        """Until the engine answers through its socket on this computer."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ENGINE_RETRY_S):
                    await self._engine_announced.wait()
            self._engine_announced.clear()
            with contextlib.suppress(GuestUnreachable):
                await self.ping()
                return

    async def ping(self) -> None:
        """Ask the engine, the whole way; gives up a connection found dead. Raises GuestUnreachable."""
        try:
            await asyncio.to_thread(self._api.ping, _PING_TIMEOUT_S)
            self.has_served = True
        except EngineSilent:
            await self.link.drop_if_dead(_PING_TIMEOUT_S)
            raise

    async def set_clock(self) -> None:
        """Give the guest this computer's time: one that slept, or was paused, wakes up in the past."""
        # The guest's `date` takes whole seconds: say one at the moment it begins.
        await asyncio.sleep(1 - time.time() % 1)
        command = f"date -u -s @{time.time():.0f}"
        try:
            result = await asyncio.to_thread(self.link.current().run, command, _SET_CLOCK_TIMEOUT_S)
            problem = result.stderr.decode(errors="replace").strip() if result.exit_code else None
        except GuestUnreachable as error:
            problem = str(error)
        if problem is None:
            _log.info("set the guest's clock")
        else:
            _log.warning("the guest's clock may be wrong, and cannot be set: %s", problem)

    def watch_ports(self) -> None:
        """Offer published ports from now on."""
        self._ports = PortWatch(self._api, self.forwards, self.link.wait_connected, self.shares.containers_changed)

    def retry_refused_ports(self) -> None:
        if self._ports is not None and self.forwards.problems:
            self._ports.poke()

    async def stop_watching_ports(self) -> None:
        if self._ports is not None:
            await self._ports.close()

    async def power_off(self, timeout_s: float) -> bool:
        """Ask the guest to shut down, over SSH or else by the power button; False when it does not."""
        try:
            connection = self.link.current()
            await asyncio.to_thread(connection.run, self.prepared.image.poweroff_command, _POWEROFF_COMMAND_TIMEOUT_S)
        except GuestUnreachable as error:
            _log.info("no SSH to power the guest off (%s); pressing its power button", error)
            with contextlib.suppress(MonitorError):
                await self.monitor.execute("system_powerdown")
            timeout_s = min(timeout_s, _POWER_BUTTON_TIMEOUT_S)
        return await self._ends_within(timeout_s)

    async def cut_power(self) -> None:
        """End QEMU, with its disk caches written if it still listens."""
        with contextlib.suppress(MonitorError, TimeoutError):
            async with asyncio.timeout(_QUIT_TIMEOUT_S):
                await self.monitor.execute("quit")
        if not await self._ends_within(_QUIT_TIMEOUT_S):
            self.qemu.process.kill()
            await asyncio.wait([self.qemu.ended])

    async def _ends_within(self, timeout_s: float) -> bool:
        done, _ = await asyncio.wait([self.qemu.ended], timeout=timeout_s)
        return bool(done)


def _shares(paths: MachinePaths, image: GuestImage, monitor: Monitor, link: "GuestLink") -> Shares:
    loop = asyncio.get_running_loop()
    address = str(ip_interface(image.address).ip)

    def open_port(guest_port: int) -> int:
        """For another thread than the loop's."""
        opening = monitor.open_loopback_port(NETDEV, address, guest_port)
        return asyncio.run_coroutine_threadsafe(opening, loop).result(_OPEN_PORT_TIMEOUT_S)

    return Shares(
        lambda: plan_shares(load_settings(paths).shares, Path.home(), host.files.NEEDS_DRIVE_LETTERS),
        paths.share_journals,
        link.current,
        address,
        open_port,
    )


def _listen(path: Path, undo: AsyncExitStack) -> socket.socket:
    listener = host.bind_local(path)
    undo.callback(path.unlink, missing_ok=True)
    undo.callback(listener.close)
    return listener


async def _end(qemu: StartedQemu) -> None:
    qemu.process.kill()
    await asyncio.wait([qemu.ended])


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
