"""A running QEMU with everything that serves its guest: monitor, console, SSH, the engine's socket, ports."""

import asyncio
import contextlib
import hashlib
import logging
import re
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from vmbackend import host
from vmbackend.errors import GuestUnreachable
from vmbackend.forward.engine_api import EngineApi, EngineSilent
from vmbackend.forward.engine_socket import serve_engine_socket
from vmbackend.forward.port_channel import PortChannel
from vmbackend.forward.ports import PortForwards, default_addresses
from vmbackend.forward.use import UseMeter
from vmbackend.forward.watch import ContainerWatch
from vmbackend.images.guest_image import GuestImage
from vmbackend.machine import saved
from vmbackend.machine.console import Console
from vmbackend.machine.guest_settings import hand_in
from vmbackend.machine.network import GuestNetwork
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.prepare import Prepared
from vmbackend.machine.store import load_settings, write_atomically
from vmbackend.qemu.argv import DATA_DRIVE, NETDEV, LaunchFacts, build_argv
from vmbackend.qemu.migration import read_state, write_state
from vmbackend.qemu.process import QemuProcess, RunningQemu
from vmbackend.qemu.qmp import Monitor, MonitorError, accept_once
from vmbackend.share.plan import plan_shares, shares_document

if TYPE_CHECKING:
    import paramiko

    from vmbackend.share.keeper import ShareKeeper
    from vmbackend.share.service import Shares
    from vmbackend.ssh.link import GuestLink

_PING_TIMEOUT_S = 3.0
_MONITOR_TIMEOUT_S = 3.0
_RESUMED_PING_TIMEOUT_S = 30.0
_END_FOLLOWS_WITHIN_S = 1.0
_POWEROFF_COMMAND_TIMEOUT_S = 5.0
_POWER_BUTTON_TIMEOUT_S = 10.0
_QUIT_TIMEOUT_S = 3.0
# For an announcement that was lost; asking an engine that is not there leaves a line on the guest's console.
_ENGINE_RETRY_S = 5.0
_SET_CLOCK_TIMEOUT_S = 5.0
_GROW_DISK_TIMEOUT_S = 100.0
_ROOM_TO_GO_ON_MIB = 64
_ENDS_OF_HOPELESS_ENGINE = 3
_SYNC_TIMEOUT_S = 10.0
_CONTAINERS_TIMEOUT_S = 10.0
_OPEN_PORT_TIMEOUT_S = 10.0

_GIVE_BACK_TIMEOUT_S = 30.0

# Blocks of 16 KiB and up: with the kernel's own choice of 2 MiB, hardly anything of a small guest's is returned.
_SHARE_MEMORY = "modprobe virtio_balloon && echo 2 >/sys/module/page_reporting/parameters/page_reporting_order"
# Ext4 is mounted with `discard`: a commit returns what was deleted.
_GIVE_BACK = "sync; echo 3 >/proc/sys/vm/drop_caches; echo 1 >/proc/sys/vm/compact_memory"

# Of `info usernet`: a connection that was made to a port of the guest's; a listening one has another state.
_CONNECTION = re.compile(r"TCP\[(?:ESTABLISHED|SYN_SENT|SYN_RCVD)\]\s+\d+\s+\S+\s+\d+\s+\S+\s+(\d+)\s")

# How a guest starts: it boots; it boots and is held and saved before it reads its data disk; it goes on from there; it
# goes on from where it was saved by somebody.
Start = Literal["boot", "hold", "held", "saved"]

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
    """A QEMU that is about to connect to our listeners, or one that was adopted, whose console nobody reads any more.

    `ended` resolves to its exit code; `details` is what its record says. `take_ports` and `take_shares` wait for
    QEMU's end of the channel on which the guest asks for ports, and of that which carries shares' files.
    """

    def __init__(
        self,
        process: RunningQemu,
        details: Mapping[str, Any],
        take_monitor: Callable[[], Awaitable[Monitor]],
        take_console: Callable[[], Awaitable[socket.socket]] | None,
        take_ports: Callable[[], Awaitable[socket.socket]],
        take_shares: Callable[[], Awaitable[socket.socket]],
    ) -> None:
        self.process = process
        self.details = details
        self.take_monitor = take_monitor
        self.take_console = take_console
        self.take_ports = take_ports
        self.take_shares = take_shares
        self.started_at: float = details["started_at"]
        self.ended = asyncio.create_task(process.wait())

    def end(self) -> QemuEnded:
        """How it ended, once it has."""
        code = self.ended.result()
        return QemuEnded(self.process.describe_end(code), worth_retrying=code == 0)

    async def kill(self) -> None:
        self.process.kill()
        await asyncio.wait([self.ended])

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


def launch_facts(
    paths: MachinePaths,
    prepared: Prepared,
    qmp_address: str,
    console_address: str,
    ports_address: str,
    shares_address: str,
    start: Start = "boot",
) -> LaunchFacts:
    image = prepared.image
    return LaunchFacts(
        program=prepared.qemu.system,
        image=image,
        machine=prepared.machine,
        accelerator=prepared.accelerator.candidate,
        cpus=prepared.settings.cpus,
        memory_mib=prepared.settings.memory_mib,
        data_disk=paths.data_disk,
        rescue_socket=paths.rescue_socket if host.ORPHANS_LIVE_ON else None,
        qmp_address=qmp_address,
        console_address=console_address,
        console_log=paths.console_log,
        ports_address=ports_address,
        shares_address=shares_address,
        network=GuestNetwork.of(prepared.settings.subnet, prepared.image),
        tsc_khz=prepared.tsc_khz,
        handed_in_files={
            image.fw_cfg["authorized_keys"]: paths.authorized_keys,
            image.fw_cfg["host_key"]: paths.guest_host_key,
            **hand_in(paths, prepared.settings, image),
            **_handed_in_shares(paths, prepared),
        },
        handed_in_texts={
            image.fw_cfg["time"]: str(round(time.time())),
            image.fw_cfg["hostname"]: f"wherry-{paths.name}",
        },
        incoming=start in ("saved", "held"),
        held=start == "hold",
    )


def facts_to_resume(paths: MachinePaths, prepared: Prepared) -> dict[str, str]:
    """What has to be the same for a saved guest to run on, by names that fit "... changed"."""
    settings, image = prepared.settings, prepared.image
    # What differs from start to start and means nothing to a guest that runs on.
    facts = replace(launch_facts(paths, prepared, "", "", "", ""), tsc_khz=None)
    same_texts = {name: text for name, text in facts.handed_in_texts.items() if name != image.fw_cfg["time"]}
    argv = build_argv(replace(facts, handed_in_texts=same_texts))
    # Shares are changed while a guest runs, and told to it anew.
    lasting = {name: path for name, path in facts.handed_in_files.items() if name != image.fw_cfg.get("shares")}
    contents = "\0".join(f"{name}\0{path.read_text()}" for name, path in lasting.items())
    return {
        "QEMU": prepared.qemu.identity,
        "this computer's processor": host.cpu_name(),
        "the accelerator": str(prepared.accelerator.candidate),
        "the machine type": prepared.machine,
        "the setting `cpus`": str(settings.cpus),
        "the setting `memory_mib`": str(settings.memory_mib),
        "the guest image": image.digest,
        "the machine's hardware": _digest("\0".join(argv)),
        "what the settings hand in to the guest": _digest(contents),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def start_qemu(
    paths: MachinePaths, prepared: Prepared, undo: AsyncExitStack, start: Start = "boot"
) -> StartedQemu:
    """Start QEMU, with a guest that boots, or one whose state will be loaded; `undo` ends it.

    Raises StartFailed, OSError.
    """
    image = prepared.image
    for newer, older in reversed(list(pairwise(paths.console_logs))):
        if newer.exists():
            newer.replace(older)
    undo.callback(paths.rescue_socket.unlink, missing_ok=True)
    qmp_listener = _listen(paths.qmp_socket, undo)
    console_listener = _listen(paths.console_socket, undo)
    ports_listener = _listen(paths.ports_socket, undo)
    shares_listener = _listen(paths.shares_socket, undo)
    qmp, console, ports, shares = map(
        host.address_of, (qmp_listener, console_listener, ports_listener, shares_listener)
    )
    argv = build_argv(launch_facts(paths, prepared, qmp, console, ports, shares, start))
    _log.info("starting %s", " ".join(argv))
    process = await QemuProcess.spawn(argv, paths.qemu_log)
    details = {
        "started_at": time.time(),
        "ssh_user": image.ssh_user,
        "poweroff_command": image.poweroff_command,
        **prepared.to_json(),
    }
    qemu = StartedQemu(
        process,
        details,
        lambda: Monitor.accept(qmp_listener),
        lambda: accept_once(console_listener),
        lambda: accept_once(ports_listener),
        lambda: accept_once(shares_listener),
    )
    undo.push_async_callback(qemu.kill)
    undo.callback(paths.qemu_record.unlink, missing_ok=True)
    # At once: from here on a hostagent that comes after us has to know that there is a QEMU.
    process.record(paths.qemu_record, details)
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


async def attach(
    paths: MachinePaths,
    prepared: Prepared,
    qemu: StartedQemu,
    admit: Callable[[], None],
    undo: AsyncExitStack,
    start: Start = "boot",
) -> "Guest":
    """Take QEMU's monitor and console, and serve the guest from then on; `undo` stops that.

    `admit` is called in a thread for each client of the engine, and returns when the guest can serve it or raises
    GuestUnreachable.

    Raises MachineError, MonitorError, OSError.
    """
    # Imported while QEMU is starting: it takes a quarter of a second, and QEMU uses another processor.
    from vmbackend.share.keeper import ShareKeeper
    from vmbackend.ssh.connection import GuestConnection
    from vmbackend.ssh.keys import load_keys
    from vmbackend.ssh.link import GuestLink

    image = prepared.image
    monitor = await qemu.take_monitor()
    undo.push_async_callback(monitor.close)
    ssh_port = await monitor.forwarded_port(image.ssh_port)
    qemu.process.record(paths.qemu_record, {**qemu.details, "ssh_port": ssh_port})

    keys = load_keys(paths)

    def connect(timeout_s: float, on_lost: Callable[[], None]) -> GuestConnection:
        return GuestConnection.connect(ssh_port, image.ssh_user, keys, timeout_s, on_lost)

    link = GuestLink(connect)
    undo.push_async_callback(link.close)
    engine_announced = asyncio.Event()
    engine_ends = EngineEnds()
    held = asyncio.Event()
    announcements = {
        image.ready_line: engine_announced.set,
        **_lines_of_start(image, start, link.announce, held.set),
    }
    if image.engine_ended_line:
        announcements[image.engine_ended_line] = engine_ends.note
    console = Console(announcements)
    if qemu.take_console is not None:
        following = asyncio.create_task(console.follow(await qemu.take_console()))
        undo.push_async_callback(_cancel, following)
    else:
        # It was up before we were: nothing will be announced.
        console.spoke()
        link.announce()
        engine_announced.set()

    def open_engine() -> "paramiko.Channel":
        admit()
        return link.open_unix(image.engine_socket)

    uses = UseMeter()
    relay = serve_engine_socket(paths.name, paths.engine_socket, open_engine, uses)
    undo.push_async_callback(asyncio.to_thread, relay.close)
    guest_address = str(GuestNetwork.of(prepared.settings.subnet, prepared.image).address.ip)
    forwards = PortForwards(monitor, NETDEV, guest_address)
    undo.push_async_callback(forwards.stop)
    channel = PortChannel(forwards, default_addresses(prepared.settings.publish_address))
    serving = asyncio.create_task(channel.run(await qemu.take_ports()))
    undo.push_async_callback(_cancel, serving)
    api = EngineApi(paths.name, paths.engine_socket)
    files = _shares(paths, prepared, monitor, link, await qemu.take_shares())
    shares = ShareKeeper(files, link.wait_connected)
    undo.push_async_callback(shares.close)
    guest = Guest(
        prepared,
        qemu,
        monitor,
        ssh_port,
        link,
        console,
        held,
        engine_announced,
        engine_ends,
        api,
        forwards,
        uses,
        shares,
    )
    undo.push_async_callback(guest.stop_watching)
    # Undone first: whatever waits for the guest then ends at once.
    undo.callback(link.give_up)
    undo.callback(qemu.process.kill)
    return guest


class EngineEnds:
    """How often the guest's engine has ended, which init starts again each time."""

    def __init__(self) -> None:
        self._count = 0
        self._many = asyncio.Event()

    def note(self) -> None:
        self._count += 1
        if self._count >= _ENDS_OF_HOPELESS_ENGINE:
            self._many.set()

    async def wait_many(self) -> None:
        """Until it is clear that it will not come up."""
        await self._many.wait()


def _lines_of_start(
    image: GuestImage, start: Start, announce_ssh: Callable[[], None], held: Callable[[], None]
) -> dict[str, Callable[[], None]]:
    if start in ("hold", "held"):
        # Not before it was let go on: no key may be made of the randomness that all of its starts begin with.
        return {image.held_line: held, image.hold_over_line: announce_ssh}
    return {image.ssh_ready_line: announce_ssh}


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
        held: asyncio.Event,
        engine_announced: asyncio.Event,
        engine_ends: EngineEnds,
        api: EngineApi,
        forwards: PortForwards,
        uses: UseMeter,
        shares: "ShareKeeper",
    ) -> None:
        self.prepared = prepared
        self.qemu = qemu
        self.monitor = monitor
        self.ssh_port = ssh_port
        self.link = link
        self.console = console
        self.held = held  # set when it waits to be let go on
        self.forwards = forwards
        self.uses = uses
        self.shares = shares
        self._engine_announced = engine_announced
        self._engine_ends = engine_ends
        self._api = api
        self._watch: ContainerWatch | None = None
        self.has_served = False

    async def wait_resumed_engine(self) -> None:
        """Until an engine that was running before answers, which may take its time but needs to be asked only once."""
        await self.ping(_RESUMED_PING_TIMEOUT_S)

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

    async def wait_new_engine(self) -> None:
        """As `wait_engine`. Raises GuestUnreachable when the engine keeps ending."""
        serving = asyncio.create_task(self.wait_engine())
        hopeless = asyncio.create_task(self._engine_ends.wait_many())
        try:
            await asyncio.wait([serving, hopeless], return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                raise GuestUnreachable("The engine in the guest ends as soon as it is started")
            await serving
        finally:
            serving.cancel()
            hopeless.cancel()

    async def ping(self, timeout_s: float = _PING_TIMEOUT_S) -> None:
        """Ask the engine, the whole way; gives up a connection found dead. Raises GuestUnreachable."""
        try:
            await asyncio.to_thread(self._api.ping, timeout_s)
            self.has_served = True
        except EngineSilent:
            self.link.suspect()
            raise

    async def stalled_by_full_disk(self, directory: Path) -> str | None:
        """Why QEMU has paused the guest, if it found no room for a write; with room again the guest goes on.

        Raises MonitorError, GuestUnreachable when QEMU itself stands still.
        """
        try:
            async with asyncio.timeout(_MONITOR_TIMEOUT_S):
                status: Any = await self.monitor.execute("query-status")
        except TimeoutError:
            raise GuestUnreachable("QEMU does not answer") from None
        if status["status"] != "io-error":
            return None
        free_mib = shutil.disk_usage(directory).free >> 20
        if free_mib >= _ROOM_TO_GO_ON_MIB:
            _log.warning("there is room for the guest's data again (%d MiB): it goes on", free_mib)
            await self.monitor.execute("cont")
            return None
        return (
            f"host disk full: {directory} has {free_mib} MiB left, so the machine is paused; "
            "free some space, and it goes on by itself."
        )

    async def run(self, command: str, timeout_s: float) -> str:
        """The output of a command in the guest. Raises GuestUnreachable when it cannot be run, or fails."""
        result = await asyncio.to_thread(self.link.current().run, command, timeout_s)
        if result.exit_code:
            said = result.stderr.decode(errors="replace").strip()
            raise GuestUnreachable(f"`{command}` in the guest ended with code {result.exit_code}: {said}")
        return result.stdout.decode(errors="replace")

    async def set_clock(self) -> bool:
        """Give the guest this computer's time: one that slept, or was paused, wakes up in the past. Whether it did."""
        # The guest's `date` takes whole seconds: at once, so that no certificate is judged by yesterday's date, and
        # again at the moment a second begins.
        try:
            await self.run(f"date -u -s @{time.time():.0f}", _SET_CLOCK_TIMEOUT_S)
            await asyncio.sleep(1 - time.time() % 1)
            await self.run(f"date -u -s @{time.time():.0f}", _SET_CLOCK_TIMEOUT_S)
        except GuestUnreachable as error:
            _log.warning("the guest's clock may be wrong, and cannot be set: %s", error)
            return False
        _log.info("set the guest's clock")
        return True

    async def freeze(self) -> None:
        """Stop the guest's processors. Raises MonitorError."""
        self.link.rest(True)
        await self.monitor.execute("stop")

    async def thaw(self) -> None:
        """Let the guest run on. Raises MonitorError."""
        await self.monitor.execute("cont")
        self.link.rest(False)

    async def load(self, paths: MachinePaths) -> None:
        """Put the saved guest into this QEMU, which was started for that, and let it run on.

        Raises MonitorError, OSError.
        """
        await read_state(self.monitor, paths.saved_state)
        # The moment after which the saved state must never be used again: from here on the disk changes.
        await asyncio.to_thread(saved.consume, paths)
        await self.monitor.execute("cont")
        self.link.announce(patiently=True)

    async def save(self, paths: MachinePaths, paused: bool) -> None:
        """Write the guest's state to its draft; only `cut_power` or `cancel_saving` may follow.

        Raises MonitorError, OSError.
        """
        if not paused:
            # Should the state be of no use later, the disk has everything up to this moment.
            with contextlib.suppress(GuestUnreachable):
                await self.run("sync", _SYNC_TIMEOUT_S)
            await self.freeze()
        draft = saved.draft(paths.saved_state)
        await write_state(self.monitor, draft)
        await asyncio.to_thread(saved.make_durable, draft)

    async def cancel_saving(self) -> None:
        """Let the guest run on after `save` failed."""
        try:
            await self.monitor.execute("migrate_cancel")
            await self.thaw()
        except MonitorError as error:
            _log.warning("the guest stands still and cannot be helped: %s", error)

    async def share_memory(self) -> None:
        """Have the guest report the pages it does not use, so that QEMU returns them to this computer."""
        try:
            await self.run(_SHARE_MEMORY, _GIVE_BACK_TIMEOUT_S)
        except GuestUnreachable as error:
            _log.warning("the guest's free memory is not returned: %s", error)

    async def give_back(self) -> None:
        """Have the guest drop what it has cached, and its disk forget what was deleted. Raises GuestUnreachable."""
        await self.run(_GIVE_BACK, _GIVE_BACK_TIMEOUT_S)

    async def take_snapshot(self, name: str, running: bool) -> None:
        """Raises MonitorError."""
        if running:
            with contextlib.suppress(GuestUnreachable):
                await self.run("sync", _SYNC_TIMEOUT_S)
        await self.monitor.execute("blockdev-snapshot-internal-sync", {"device": DATA_DRIVE, "name": name})

    async def remove_snapshot(self, name: str) -> None:
        """Raises MonitorError."""
        await self.monitor.execute("blockdev-snapshot-delete-internal-sync", {"device": DATA_DRIVE, "name": name})

    async def other_sessions(self) -> int:
        """How many SSH connections to the guest there are besides our own. Raises MonitorError."""
        table = await self.monitor.human("info usernet")
        sessions = [port for port in _CONNECTION.findall(table) if int(port) == self.prepared.image.ssh_port]
        return len(sessions) - (self.link.problem is None)

    async def containers(self) -> int:
        """How many containers run. Raises GuestUnreachable."""
        return len(await asyncio.to_thread(self._api.containers, _CONTAINERS_TIMEOUT_S))

    async def grow_disk(self, size_gib: int) -> None:
        """Enlarge the data disk while it is in use. Raises MonitorError, GuestUnreachable when that has to wait."""
        size_bytes = size_gib * 1024**3
        await self.monitor.execute("block_resize", {"device": DATA_DRIVE, "size": size_bytes})
        command = self.prepared.image.grow_data_disk_command
        result = await asyncio.to_thread(self.link.current().run, command, _GROW_DISK_TIMEOUT_S)
        if result.exit_code:
            raise GuestUnreachable(result.stdout.decode(errors="replace").strip())

    def watch_containers(self) -> None:
        """Follow the engine's containers from now on."""
        self._watch = ContainerWatch(self._api, self.link.wait_connected, self.shares.containers_changed)

    async def stop_watching(self) -> None:
        if self._watch is not None:
            await self._watch.close()

    async def retry_refused_ports(self) -> None:
        if self.forwards.problems:
            with contextlib.suppress(MonitorError):
                await self.forwards.retry()

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


def _shares(
    paths: MachinePaths, prepared: Prepared, monitor: Monitor, link: "GuestLink", stream: socket.socket
) -> "Shares":
    from vmbackend.share.channel import AgentChannel
    from vmbackend.share.service import Shares

    loop = asyncio.get_running_loop()
    address = str(GuestNetwork.of(prepared.settings.subnet, prepared.image).address.ip)

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
        AgentChannel(stream),
    )


def _listen(path: Path, undo: AsyncExitStack) -> socket.socket:
    listener = host.bind_local(path)
    undo.callback(path.unlink, missing_ok=True)
    undo.callback(listener.close)
    return listener


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
