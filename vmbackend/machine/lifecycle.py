"""One machine from start to stop.

Runs in the hostagent, on one event loop. `Machine` is the only writer of the machine's state; everything else
asks it.
"""

import asyncio
import logging
import time
from collections import deque
from contextlib import AsyncExitStack
from typing import Any

from vmbackend import host
from vmbackend.errors import GuestUnreachable, StopFailed
from vmbackend.forward.ports import PublishedPort
from vmbackend.machine.events import EventHub, MachineEvent
from vmbackend.machine.guest import Guest, QemuEnded, attach, start_qemu
from vmbackend.machine.orphan import end_orphan
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.prepare import Prepared, prepare
from vmbackend.machine.requirements import (
    ENGINE,
    KERNEL,
    PREPARED,
    QEMU_STARTED,
    QMP,
    SSH,
    Requirement,
    Unmet,
    meet,
)
from vmbackend.machine.states import Event, State, next_state
from vmbackend.machine.status import MachineStatus
from vmbackend.machine.store import load_settings

_PROBE_EVERY_S = 10.0
# The wall clock went on by this much more than we waited: the computer slept, or its clock was put right.
_CLOCK_JUMP_S = 1.0

# A guest that dies is started again, unless it keeps dying.
_MAX_RESTARTS = 3
_RESTART_WINDOW_S = 600.0

_log = logging.getLogger(__name__)


class Machine:
    """`start` returns at once and `events` tells how it goes on; `stop` returns when the machine is off."""

    def __init__(self, paths: MachinePaths, events: EventHub) -> None:
        self._paths = paths
        self._events = events
        self._state: State = "stopped"
        self._phase: str | None = None
        self._reasons: tuple[str, ...] = ()
        self._prepared: Prepared | None = None
        self._guest: Guest | None = None
        self._life: asyncio.Task[None] | None = None
        self._restarts: deque[float] = deque(maxlen=_MAX_RESTARTS)
        self._failed_tries = 0  # starts in a row whose kernel was not heard of
        self._powering_off = False  # the guest was asked to, and may yet do it after its time was up

    @property
    def state(self) -> State:
        return self._state

    @property
    def settled(self) -> bool:
        """Whether nothing is under way that will change the state by itself."""
        return self._state not in ("starting", "stopping")

    @property
    def forwards(self) -> list[PublishedPort]:
        return self._guest.forwards.active if self._guest else []

    @property
    def ssh_address(self) -> tuple[int, str]:
        """The port on this computer, and the user. Raises GuestUnreachable."""
        if self._guest is None or not self.settled:
            raise GuestUnreachable(f"The guest of machine `{self._paths.name}` is not up; it is {self._state}.")
        return self._guest.ssh_port, self._guest.prepared.image.ssh_user

    @property
    def shares(self) -> list[dict[str, Any]]:
        """Each share: `host_path`, `guest_path`, `read_only`, and whether it is `mounted`."""
        return self._guest.shares.describe() if self._guest else []

    def start(self) -> None:
        """Begin to start, unless that was done already."""
        self._powering_off = False
        if next_state(self._state, "start") is not None:
            self._restarts.clear()
            self._failed_tries = 0
            self._step("start")
            self._life = asyncio.create_task(self._live())

    async def stop(self, force: bool, timeout_s: float) -> None:
        """Power the guest off, within `timeout_s`, or cut its power when forced.

        Raises StopFailed when the guest does not power off; it goes on running then, and when it powers off after all
        it is left off.
        """
        if self._state == "stopping":
            # Somebody asked before; force can still hurry it.
            if force and self._guest is not None:
                await self._guest.cut_power()
            if self._life is not None:
                await asyncio.wait([self._life])
            return
        if next_state(self._state, "stop") is None:
            return
        before, guest = self._state, self._guest
        self._step("stop")
        if guest is None:
            if self._life is not None:
                self._life.cancel()
        elif force:
            await guest.cut_power()
        elif not await guest.power_off(timeout_s):
            if guest.has_served:
                self._powering_off = True
                self._set(before, self._reasons)
                raise StopFailed(
                    f"The guest of machine `{self._paths.name}` does not power off; "
                    "try again, or force it (what containers have not saved is lost)."
                )
            # It never got so far as to have anything to lose.
            await guest.cut_power()
        if self._life is not None:
            await asyncio.wait([self._life])
        self._step("stopped")

    async def status(self) -> MachineStatus:
        """Look, then tell."""
        if self._state in ("running", "degraded") and self._guest is not None:
            await self._probe(self._guest)
        prepared, guest = self._prepared, self._guest
        return MachineStatus(
            name=self._paths.name,
            state=self._state,
            engine_host=host.engine_host(self._paths.name, self._paths.engine_socket),
            reasons=self._reasons,
            accelerator=prepared.accelerator.candidate.accelerator if prepared else None,
            accelerator_reason=prepared.accelerator.reason if prepared else None,
            cpus=prepared.settings.cpus if prepared else None,
            memory_mib=prepared.settings.memory_mib if prepared else None,
            pid=guest.qemu.process.pid if guest else None,
            started_at=guest.qemu.started_at if guest else None,
            ssh_port=guest.ssh_port if guest else None,
            phase=self._phase,
        )

    async def _live(self) -> None:
        """Run the guest until it is stopped, or dies once too often."""
        while True:
            try:
                async with AsyncExitStack() as undo:
                    undo.callback(self._forget_guest)
                    await self._run_once(undo)
            except Unmet as unmet:
                self._step("failed", (str(unmet),))
                return
            except QemuEnded as end:
                if self._state == "stopping":
                    return
                if self._powering_off:
                    self._step("stop")
                    self._step("stopped")
                    return
                was_up = self._state in ("running", "degraded")
                hint = f"`{self._paths.qemu_log}` and `{self._paths.console_log}` may say why"
                self._step("qemu_gone", (f"{end}; {hint}.",))
                if not (was_up or end.worth_retrying) or not self._may_restart():
                    return
            _log.warning("starting the machine again")
            self._step("start", self._reasons)

    async def _run_once(self, undo: AsyncExitStack) -> None:
        """From nothing to a guest that ends. Raises Unmet when it cannot be started, QemuEnded else."""
        self._enter(PREPARED)
        prepared = self._prepared = await meet(PREPARED, self._prepare(), False)
        emulated = prepared.accelerator.emulated
        places = {"qemu_log": self._paths.qemu_log, "console_log": self._paths.console_log}
        self._enter(QEMU_STARTED)
        qemu = await meet(QEMU_STARTED, start_qemu(self._paths, prepared, undo), emulated, **places)
        self._enter(QMP)
        attaching = qemu.unless_ended(attach(self._paths, prepared, qemu, undo))
        guest = self._guest = await meet(QMP, attaching, emulated, **places)
        try:
            for requirement, work in (
                (KERNEL, guest.console.wait_first_output),
                (SSH, guest.link.wait_connected),
                (ENGINE, guest.wait_engine),
            ):
                self._enter(requirement)
                await meet(requirement, qemu.unless_ended(work()), emulated, self._failed_tries, **places)
        except Unmet as unmet:
            if unmet.requirement is KERNEL:
                self._failed_tries += 1
                raise QemuEnded(str(unmet), worth_retrying=True) from unmet
            self._step("unmet", (str(unmet),))
        else:
            self._failed_tries = 0
            self._step("ready")
        guest.watch_ports()
        while True:
            expected = time.time() + _PROBE_EVERY_S
            await asyncio.wait([qemu.ended], timeout=_PROBE_EVERY_S)
            if qemu.ended.done():
                raise qemu.end()
            if abs(time.time() - expected) > _CLOCK_JUMP_S:
                await guest.set_clock()
            await self._probe(guest)
            guest.retry_refused_ports()
            guest.shares.poke()

    async def _prepare(self) -> Prepared:
        done = await end_orphan(self._paths)
        if done is not None:
            _log.warning(done)
        return await prepare(self._paths, load_settings(self._paths))

    async def _probe(self, guest: Guest) -> None:
        problems = [*guest.forwards.problems, *guest.shares.problems]
        try:
            await guest.ping()
        except GuestUnreachable as error:
            problems = [guest.link.problem or str(error), *problems]
        before = self._state
        self._step("probe_failed" if problems else "probe_ok", tuple(problems))
        if before == "degraded" and self._state == "running":
            # It may have stood still, and its clock with it.
            await guest.set_clock()

    def _may_restart(self) -> bool:
        now = time.monotonic()
        if len(self._restarts) == _MAX_RESTARTS and now - self._restarts[0] < _RESTART_WINDOW_S:
            return False
        self._restarts.append(now)
        return True

    def _forget_guest(self) -> None:
        self._guest = None

    def _enter(self, requirement: Requirement) -> None:
        self._phase = requirement.name
        self._publish()

    def _step(self, event: Event, reasons: tuple[str, ...] = ()) -> None:
        """Follow the table; an event that means nothing in this state changes nothing."""
        state = next_state(self._state, event)
        if state is not None and (state, reasons) != (self._state, self._reasons):
            self._set(state, reasons)

    def _set(self, state: State, reasons: tuple[str, ...]) -> None:
        _log.info("%s -> %s %s", self._state, state, " ".join(reasons))
        self._state, self._reasons, self._phase = state, reasons, None
        self._publish()

    def _publish(self) -> None:
        self._events.publish(MachineEvent(self._state, self._phase, self._reasons))
