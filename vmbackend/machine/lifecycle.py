"""One machine from start to stop.

Runs in the hostagent, on one event loop. `Machine` is the only writer of the machine's state; everything else
asks it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Literal

from vmbackend import host
from vmbackend.errors import GuestUnreachable, MachineError, SnapshotRefused, StopFailed
from vmbackend.forward.ports import PublishedPort
from vmbackend.machine import held, saved
from vmbackend.machine.adopt import adopt_qemu
from vmbackend.machine.clock import ClockWatch
from vmbackend.machine.events import EventHub, MachineEvent
from vmbackend.machine.guest import Guest, QemuEnded, Start, attach, facts_to_resume, start_qemu
from vmbackend.machine.orphan import end_orphan
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.prepare import Prepared
from vmbackend.machine.requirements import (
    ENGINE,
    ENGINE_RESUMED,
    ENGINE_UPDATED,
    HELD,
    KERNEL,
    PREPARED,
    QEMU_STARTED,
    QMP,
    SSH,
    SSH_RESUMED,
    STATE_LOADED,
    Unmet,
    meet,
)
from vmbackend.machine.setting_keys import changed_keys, followed
from vmbackend.machine.standing import Standing
from vmbackend.machine.states import State, next_state
from vmbackend.machine.status import MachineStatus
from vmbackend.machine.store import load_settings
from vmbackend.machine.trial import Trial
from vmbackend.machine.usage import MEASURE_COMMAND, MachineUsage, usage_from
from vmbackend.qemu.migration import can_migrate
from vmbackend.qemu.qmp import MonitorError

_PROBE_EVERY_S = 10.0

# A guest that dies is started again, unless it keeps dying.
_MAX_RESTARTS = 3
_RESTART_WINDOW_S = 600.0

_SAVE_TIMEOUT_S = 60.0
_USAGE_TIMEOUT_S = 5.0
_WAKE_TIMEOUT_S = 30.0
# When memory is given back in a machine that is never paused.
_IDLE_AFTER_S = 300
# The guest reports free pages two seconds after they became free.
_REPORTING_S = 4.0

# Whether clients of the engine get through to the guest, wake it up first, or are refused.
_Gate = Literal["open", "asleep", "shut"]

# The guest's processors are stopped.
_STILL: tuple[State, ...] = ("idle", "paused")

_log = logging.getLogger(__name__)


class ResumeFailed(Exception):
    """The saved guest does not go on; the text says why."""


class HeldInVain(Exception):
    """The guest that was held does not go on; the text says why."""


class Machine(Standing):
    """`start` returns at once and `events` tells how it goes on; `stop` and `save` return when the machine is off."""

    def __init__(self, paths: MachinePaths, events: EventHub) -> None:
        super().__init__(events)
        self._paths = paths
        self._prepared: Prepared | None = None
        self._guest: Guest | None = None
        self._life: asyncio.Task[None] | None = None
        self._restarts: deque[float] = deque(maxlen=_MAX_RESTARTS)
        self._failed_tries = 0  # starts in a row whose kernel was not heard of
        self._gate: _Gate = "open"
        self._switching = asyncio.Lock()  # held while the guest's processors are stopped or started
        self._changed = asyncio.Event()  # paused or resumed
        self._resumed = False
        self._cold_boot_reason: str | None = None
        self._errands: set[asyncio.Task[object]] = set()  # the loop itself would forget them
        self._loop = asyncio.get_running_loop()
        self._powering_off = False  # the guest was asked to, and may yet do it after its time was up
        self._trial = Trial(paths, events)

    @property
    def settled(self) -> bool:
        """Whether nothing is under way that will change the state by itself."""
        ending = self._guest is not None and self._guest.qemu.ended.done()
        return not ending and self._state not in ("starting", "stopping")

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

    def so_far(self) -> list[MachineEvent]:
        told = super().so_far()
        return told if self._trial.started is None else [*told, self._trial.started]

    async def start(self) -> None:
        """Begin to start, unless that was done already; a paused guest goes on. Raises MonitorError."""
        if self._state in _STILL:
            await self.resume()
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
        if self._state in _STILL and not force:
            await self.resume()
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

    async def follow_settings(self) -> tuple[str, ...]:
        """Follow the saved settings as far as a running machine can; the keys of the others.

        Raises MachineNotFound, InvalidSettings.
        """
        wanted, prepared, guest = load_settings(self._paths), self._prepared, self._guest
        if prepared is None:
            return ()
        now = followed(prepared.settings, wanted)
        if guest is not None and now.disk_gib > prepared.settings.disk_gib:
            try:
                await guest.grow_disk(now.disk_gib)
            except MachineError as error:
                _log.warning("the disk grows when the machine is restarted: %s", error)
                now = replace(now, disk_gib=prepared.settings.disk_gib)
        self._prepared = replace(prepared, settings=now)
        if guest is not None:
            guest.prepared = self._prepared
        return changed_keys(now, wanted)

    async def save(self, timeout_s: float) -> str | None:
        """Save the running guest and end it, to go on at the next start.

        One that cannot be saved is powered off within `timeout_s` instead, and why is returned in a sentence. Raises
        StopFailed.
        """
        async with self._switching:
            written = await self._write_state()
        # Outside of the lock: what ends with the guest may be waiting for it.
        obstacle = written if isinstance(written, str) else await self._keep_state(*written)
        if self._state == "stopping":
            await self._wait_life()
            self._step("stopped")
        if obstacle is None:
            return None
        await self.stop(False, timeout_s)
        note = f"The machine `{self._paths.name}` was powered off and not saved: {obstacle.rstrip('.')}."
        _log.warning(note)
        return note

    async def pause(self) -> None:
        """Let the guest stand still until `resume`. Raises MachineError when it does not run."""
        async with self._switching:
            guest = self._guest
            if self._state == "paused":
                return
            if guest is None or next_state(self._state, "pause") is None:
                raise MachineError(
                    f"The machine `{self._paths.name}` is {self._state}; only one that is running can be paused."
                )
            if self._state not in _STILL:
                await guest.freeze()
            self._gate = "shut"
            self._step("pause", (f"It was paused; it goes on with `wherry machine resume {self._paths.name}`.",))
            self._changed.set()

    async def resume(self) -> None:
        """Let a paused guest go on; one that runs is fine. Raises MachineError."""
        async with self._switching:
            if self._state in _STILL:
                await self._thaw()
            elif self._state not in ("running", "degraded"):
                raise MachineError(f"The machine `{self._paths.name}` is {self._state}; start it instead.")

    async def wake(self) -> None:
        """Let a guest go on that was paused because nobody used it.

        Raises GuestUnreachable when it was paused or is being saved for somebody.
        """
        async with self._switching:
            if self._gate == "shut":
                raise GuestUnreachable(self._why_shut())
            if self._gate == "asleep":
                await self._thaw()
            if self._guest is not None:
                self._guest.uses.note()

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
            resumed=self._resumed or None,
            cold_boot_reason=self._cold_boot_reason,
        )

    async def take_snapshot(self, name: str) -> None:
        """Of the disk, as it is now. Raises SnapshotRefused."""
        async with self._switching:
            await self._snapshot_guest().take_snapshot(name, self._state not in _STILL)

    async def remove_snapshot(self, name: str) -> None:
        """Raises SnapshotRefused."""
        async with self._switching:
            await self._snapshot_guest().remove_snapshot(name)

    def _snapshot_guest(self) -> Guest:
        if self._guest is None or self._state not in ("running", "degraded", *_STILL):
            raise SnapshotRefused(
                f"The machine `{self._paths.name}` is {self._state}; try again when it runs, or is off."
            )
        return self._guest

    async def usage(self) -> MachineUsage:
        """What the guest uses, and what it costs this computer."""
        guest = self._guest
        held = host.process_memory_bytes(guest.qemu.process.pid) if guest else None
        disk = host.disk_usage_bytes(self._paths.data_disk) if self._paths.data_disk.exists() else None
        if guest is not None and self._gate == "open":
            try:
                return usage_from(await guest.run(MEASURE_COMMAND, _USAGE_TIMEOUT_S), held, disk)
            except (GuestUnreachable, ValueError) as error:
                _log.info("the guest does not tell what it uses: %s", error)
        return MachineUsage(host_memory_bytes=held, host_disk_bytes=disk)

    async def _live(self) -> None:
        """Run the guest until it is stopped, or dies once too often."""
        while True:
            try:
                async with AsyncExitStack() as undo:
                    undo.callback(self._forget_guest)
                    await self._run_once(undo)
            except Unmet as unmet:
                if not self._trial.running or self._state == "stopping":
                    self._step("failed", (str(unmet),))
                    return
                if not await self._go_back(str(unmet)):
                    return
                continue
            except ResumeFailed as failure:
                if self._state == "stopping":
                    return
                await self._boot_anew(str(failure))
                continue
            except HeldInVain as failure:
                if self._state == "stopping":
                    return
                _log.warning("the guest is booted anew, for it did not go on from where it was held: %s", failure)
                continue
            except QemuEnded as end:
                if self._state == "stopping":
                    return
                if self._powering_off:
                    self._step("stop")
                    self._step("stopped")
                    return
                if self._trial.running:
                    if not self._trial.may_try_again() and not await self._go_back(str(end)):
                        return
                    continue
                was_up = self._state in ("running", "degraded", *_STILL)
                hint = f"`{self._paths.qemu_log}` and `{self._paths.console_log}` may say why"
                self._step("qemu_gone", (f"{end}; {hint}.",))
                if not (was_up or end.worth_retrying) or not self._may_restart():
                    return
            _log.warning("starting the machine again")
            self._step("start", self._reasons)

    async def _run_once(self, undo: AsyncExitStack) -> None:
        """From nothing to a guest that ends. Raises Unmet when it cannot be started, QemuEnded else."""
        places = {"qemu_log": self._paths.qemu_log, "console_log": self._paths.console_log}
        self._enter(PREPARED)
        adopted = await adopt_qemu(self._paths, undo)
        start: Start = "boot"
        if adopted is None:
            await self._end_orphan()
            prepared, resuming = await self._prepare()
            self._prepared = prepared
            if resuming:
                start = "saved"
            elif not self._trial.running:
                start = await asyncio.to_thread(held.plan, self._paths, prepared)
            self._enter(QEMU_STARTED)
            starting = start_qemu(self._paths, prepared, undo, start)
            qemu = await meet(QEMU_STARTED, starting, prepared.accelerator.emulated, **places)
        else:
            prepared, qemu = adopted
            self._prepared = prepared
            await self._trial.adopt(prepared)
        emulated = prepared.accelerator.emulated
        self._enter(QMP)
        attaching = qemu.unless_ended(attach(self._paths, prepared, qemu, self._admit, undo, start))
        guest = self._guest = await meet(QMP, attaching, emulated, **places)
        self._gate = "open"
        self._resumed = start == "saved"
        if start == "saved":
            await self._resume_saved(guest, emulated, places)
        elif start == "held":
            await self._go_on_held(guest, emulated, places)
        else:
            await self._boot(guest, emulated, places, start == "hold")
        guest.watch_containers()
        guest.forwards.on_change = lambda: self._tell_forwards(self.forwards)
        self._tell_forwards(self.forwards)
        self._run_errand(guest.share_memory())
        if adopted is not None:
            self._run_errand(guest.set_clock())  # it may have been paused
        following = asyncio.create_task(self._follow_resumes(guest))
        undo.callback(following.cancel)
        await self._look_after(guest)

    async def _boot(self, guest: Guest, emulated: bool, places: dict[str, Any], hold: bool) -> None:
        """Raises QemuEnded; a guest that came up in part is one all the same."""

        async def hold_if_wanted() -> None:
            if hold:
                await held.hold(guest, self._paths)

        try:
            for requirement, work in (
                (KERNEL, guest.console.wait_first_output),
                (HELD, hold_if_wanted),
                (SSH, guest.link.wait_connected),
                (ENGINE, guest.wait_engine) if not self._trial.running else (ENGINE_UPDATED, guest.wait_new_engine),
            ):
                self._enter(requirement)
                await meet(requirement, guest.qemu.unless_ended(work()), emulated, self._failed_tries, **places)
        except Unmet as unmet:
            if unmet.requirement is KERNEL:
                self._failed_tries += 1
                raise QemuEnded(str(unmet), worth_retrying=True) from unmet
            if self._trial.running:
                raise
            self._step("unmet", (str(unmet),))
        else:
            self._failed_tries = 0
            await self._trial.succeed()
            self._step("ready")

    async def _go_on_held(self, guest: Guest, emulated: bool, places: dict[str, Any]) -> None:
        """Raises HeldInVain."""

        async def load() -> None:
            await held.go_on(guest, self._paths)

        try:
            for requirement, work in (
                (STATE_LOADED, load),
                (SSH, guest.link.wait_connected),
                (ENGINE, guest.wait_engine),
            ):
                self._enter(requirement)
                await meet(requirement, guest.qemu.unless_ended(work()), emulated, **places)
        except (Unmet, QemuEnded) as error:
            await asyncio.to_thread(held.give_up, self._paths, guest.prepared, str(error))
            raise HeldInVain(str(error)) from error
        self._step("ready")

    async def _resume_saved(self, guest: Guest, emulated: bool, places: dict[str, Any]) -> None:
        """Raises ResumeFailed."""

        async def load() -> None:
            await guest.load(self._paths)

        async def connect() -> None:
            await guest.link.wait_connected()
            self._run_errand(guest.set_clock())

        try:
            for requirement, work in (
                (STATE_LOADED, load),
                (SSH_RESUMED, connect),
                (ENGINE_RESUMED, guest.wait_resumed_engine),
            ):
                self._enter(requirement)
                await meet(requirement, guest.qemu.unless_ended(work()), emulated, **places)
        except (Unmet, QemuEnded) as error:
            raise ResumeFailed(str(error)) from error
        await asyncio.to_thread(saved.discard, self._paths)
        self._step("ready")

    async def _look_after(self, guest: Guest) -> None:
        """Until QEMU ends. Nothing is asked of a guest that nobody uses. Raises QemuEnded."""
        clock, wrong = ClockWatch(), False
        while True:
            clock.wait_begins(_PROBE_EVERY_S)
            still = self._state in _STILL
            wait_s = None if still else min(_PROBE_EVERY_S, self._idle_limit_s(guest))
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait([guest.qemu.ended, changed], timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if guest.qemu.ended.done():
                end = guest.qemu.end()
                self._step("probe_failed", (f"{end}.",))  # taking down what served it takes a moment
                raise end
            if self._state not in ("running", "degraded"):
                continue
            if clock.jumped() or wrong:
                wrong = not await guest.set_clock()
            if guest.uses.in_use or self._state == "degraded" or guest.link.problem or await self._stalled(guest):
                await self._probe(guest)
            await guest.retry_refused_ports()
            await self._trial.tidy(guest)
            try:
                await self._rest_when_idle(guest)
            except MachineError as error:
                _log.info("not paused: %s", error)

    async def _follow_resumes(self, guest: Guest) -> None:
        """A guest that stood still, whoever stopped it, wakes up in the past."""
        with guest.monitor.events("RESUME") as resumes:
            async for _ in resumes:
                await guest.set_clock()

    async def _stalled(self, guest: Guest) -> bool:
        try:
            return await guest.stalled_by_full_disk(self._paths.directory) is not None
        except GuestUnreachable:
            return True
        except MonitorError:
            return False  # QEMU is ending, and its end is told

    async def _rest_when_idle(self, guest: Guest) -> None:
        """With nobody using it: memory first, then the processors. Raises GuestUnreachable, MonitorError."""
        if guest.uses.idle_for_s < self._idle_limit_s(guest):
            return
        if await guest.other_sessions() > 0 or await guest.containers() > 0:
            guest.uses.note()  # ask again after as long as before
            return
        await guest.give_back()
        if not guest.prepared.settings.idle_pause_s:
            guest.uses.note()
            return
        await asyncio.wait([guest.qemu.ended], timeout=_REPORTING_S)
        async with self._switching:
            if next_state(self._state, "rest") is None or guest.qemu.ended.done():
                return
            # Closed before looking: a client that comes after the look finds the gate closed, and wakes the guest.
            self._gate = "asleep"
            if guest.uses.idle_for_s < _REPORTING_S:
                self._gate = "open"
                return
            await guest.freeze()
            self._step("rest", ("No container runs and nobody uses it; it wakes up by itself when somebody does.",))
            self._changed.set()

    def _idle_limit_s(self, guest: Guest) -> int:
        return guest.prepared.settings.idle_pause_s or _IDLE_AFTER_S

    async def _thaw(self) -> None:
        guest = self._guest
        assert guest is not None, "a paused machine has a guest"
        await guest.thaw()
        self._gate = "open"
        self._step("resume")
        self._changed.set()

    def _admit(self) -> None:
        """Called in a thread for each client of the engine: let it pass, wake the guest, or raise GuestUnreachable."""
        if self._gate == "open":
            return
        if self._gate == "shut":
            raise GuestUnreachable(self._why_shut())
        waking = asyncio.run_coroutine_threadsafe(self.wake(), self._loop)
        try:
            waking.result(_WAKE_TIMEOUT_S)
        except TimeoutError:
            raise GuestUnreachable("The machine does not wake up") from None
        except MonitorError as error:
            raise GuestUnreachable(str(error)) from error

    def _why_shut(self) -> str:
        return " ".join(self._reasons) or f"The machine is {self._state}"

    async def _write_state(self) -> tuple[Guest, dict[str, str]] | str:
        """Stop the guest and write its state: whose it is and what it belongs to, or why it was not possible."""
        guest, before = self._guest, self._state
        if guest is None or before not in ("running", "degraded", *_STILL):
            return f"it was {before}"
        if not can_migrate(guest.monitor.version):
            return "QEMU is older than 8.2"
        facts = facts_to_resume(self._paths, guest.prepared)
        self._gate = "shut"
        self._step("stop")
        try:
            async with asyncio.timeout(_SAVE_TIMEOUT_S):
                await guest.qemu.unless_ended(guest.save(self._paths, before in _STILL))
        except (MachineError, QemuEnded, OSError) as error:
            if not guest.qemu.ended.done():
                await guest.cancel_saving()
                self._gate = "open"
                self._set("running", ())
            await asyncio.to_thread(saved.discard, self._paths)
            return str(error) or f"it took longer than {_SAVE_TIMEOUT_S:.0f} s"
        return guest, facts

    async def _keep_state(self, guest: Guest, facts: dict[str, str]) -> str | None:
        """End the guest whose state was written, and keep that; why it is not kept, or None."""
        await guest.cut_power()
        await self._wait_life()
        try:
            await asyncio.to_thread(saved.keep, self._paths, facts)
        except OSError as error:
            return str(error)
        self._step("saved")
        return None

    async def _wait_life(self) -> None:
        if self._life is not None:
            await asyncio.wait([self._life])

    async def _can_resume(self, prepared: Prepared) -> bool:
        """Whether there is a saved guest that can go on; one that cannot is discarded."""
        state = await asyncio.to_thread(saved.read, self._paths)
        if isinstance(state, saved.SavedState):
            facts = facts_to_resume(self._paths, prepared)
            obstacle = await asyncio.to_thread(state.obstacle, self._paths, facts)
            if obstacle is None:
                return True
        else:
            obstacle = state
        if obstacle is not None:
            await self._boot_anew(obstacle)
        else:
            await asyncio.to_thread(saved.discard, self._paths)
        return False

    async def _boot_anew(self, obstacle: str) -> None:
        await asyncio.to_thread(saved.discard, self._paths)
        self._cold_boot_reason = f"The saved machine could not go on and was started anew: {obstacle.rstrip('.')}."
        _log.warning(self._cold_boot_reason)
        self._set(self._state, (self._cold_boot_reason,))

    def _run_errand(self, errand: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _prepare(self) -> tuple[Prepared, bool]:
        """What to start, and whether it goes on from a saved state. Raises Unmet."""
        # A saved guest goes on with the image it has.
        was_saved = self._paths.saved_record.exists()
        prepared = await self._trial.prepare(keep_current=was_saved)
        if await self._can_resume(prepared):
            return prepared, True
        if was_saved and not self._trial.running:
            prepared = await self._trial.prepare(keep_current=False)
        return prepared, False

    async def _go_back(self, reason: str) -> bool:
        """From an image that does not serve; False when that fails, and the machine is broken until it is started."""
        try:
            sentence = await self._trial.fail(reason)
        except MachineError as error:
            self._step("failed", (str(error),))
            return False
        self._failed_tries = 0
        self._set(self._state, (sentence,))
        return True

    async def _end_orphan(self) -> None:
        """Outside of any deadline: what its containers have not written yet is worth the wait, which has an end."""
        done = await end_orphan(self._paths)
        if done is not None:
            _log.warning(done)

    async def _probe(self, guest: Guest) -> None:
        # Also when the settings were just changed: whoever does that asks for the status.
        guest.shares.poke()
        problems = [*guest.forwards.problems, *guest.shares.problems]
        try:
            stalled = await guest.stalled_by_full_disk(self._paths.directory)
            if stalled is not None:
                problems = [stalled]  # whatever else does not work follows from it
            else:
                await guest.ping()
        except GuestUnreachable as error:
            problems = [guest.link.problem or str(error), *problems]
        except MonitorError as error:
            problems = [str(error)]  # it is ending
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
        self._tell_forwards(self.forwards)
