"""Guest images in the life of a machine: which one a start uses, and what becomes of one that is new to it.

The steps on the disk are `image_change`'s; here they meet the event loop. What is begun there is not left halfway:
who cancels waits for its end.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

from vmbackend.errors import GuestImageDamaged, MachineError
from vmbackend.machine.events import EventHub, UpdateEnded, UpdateStarted
from vmbackend.machine.guest import Guest
from vmbackend.machine.image_change import Choice, image_change
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.prepare import Prepared, prepare
from vmbackend.machine.requirements import NEW_IMAGE, PREPARED, Unmet, meet
from vmbackend.machine.store import load_settings
from vmbackend.qemu.qmp import MonitorError

# An image that is new to the machine has to show sooner than the machine's own that it is good.
_TRIES = 3
_CONSOLE_TAIL_BYTES = 4096
# What tells the most of a console's last lines; the first pattern that is found counts.
_TELLING = (r"Kernel panic", r"newer Wherry", r"No space left", r"[Ee]rror", r"wherry: ")
_KERNEL_TIME = re.compile(r"^\[ *\d+\.\d+\] *")
# How often to look whether what an update can be undone with has been kept for long enough.
_TIDY_EVERY_S = 3600.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Trial:
    """`running`: the image to start, or that runs, is new to the machine and has not served yet."""

    def __init__(self, paths: MachinePaths, events: EventHub) -> None:
        self._paths = paths
        self._events = events
        self._images = image_change(paths)
        self._choice: Choice | None = None
        self._failures = 0
        self._next_tidy = 0.0
        self.started: UpdateStarted | None = None  # while one is tried

    @property
    def running(self) -> bool:
        return self._choice is not None

    async def prepare(self, keep_current: bool) -> Prepared:
        """What a start needs, with its image; one that is being tried is tried again. Raises Unmet."""
        choice = self._choice or await self._choose(keep_current)

        async def work() -> Prepared:
            settings = load_settings(self._paths)
            try:
                return await prepare(self._paths, settings, choice.image)
            except GuestImageDamaged as error:
                if choice.trying:
                    raise
                _log.warning("taking the guest image anew: %s", error)
            self._images.forget_damaged(choice.image)
            again = await self._choose(keep_current)
            return await prepare(self._paths, settings, again.image)

        return await meet(PREPARED, work(), False)

    async def adopt(self, prepared: Prepared) -> None:
        """A QEMU was taken over, which may be running an image that its last hostagent was trying."""
        if await asyncio.to_thread(self._images.is_trying, prepared.image.digest):
            self._choice = Choice(prepared.image, trying=True)

    async def succeed(self) -> None:
        """It serves. Raises Unmet when that cannot be noted: at the next start it would be undone."""
        choice = self._choice
        if choice is None:
            return
        try:
            await _to_its_end(self._images.served)
        except (MachineError, OSError) as error:
            raise Unmet(NEW_IMAGE, f"That it serves cannot be noted: {error}") from error
        self._choice = self.started = None
        _log.warning("the machine runs the guest image %s from now on", choice.image.label)
        self._events.publish(UpdateEnded(choice.image.label, succeeded=True))

    def may_try_again(self) -> bool:
        """Whether a guest that ended may be started once more."""
        self._failures += 1
        return self._failures < _TRIES

    async def fail(self, reason: str) -> str:
        """Go back to the old image and its data; says so in a sentence. Raises MachineError when that fails as well."""
        choice, self._choice, self.started = self._choice, None, None
        assert choice is not None, "only called while one is tried"
        label, reason = choice.image.label, reason.rstrip(".")
        console = await asyncio.to_thread(self._console_tail)
        _log.warning("the guest image %s does not serve: %s; its console ended with:\n%s", label, reason, console)
        if line := telling_line(console):
            reason = f"{reason}; the guest's console says: {line}"
        try:
            await _to_its_end(self._images.go_back, reason)
        except (MachineError, OSError) as error:
            raise MachineError(
                f"The guest image {label} does not serve ({reason}), and going back failed: {str(error).rstrip('.')}; "
                "starting the machine again goes on with it."
            ) from error
        self._events.publish(UpdateEnded(label, succeeded=False, reason=reason))
        return f"It goes back from the guest image {label}: {reason}."

    async def tidy(self, guest: Guest) -> None:
        """Remove what the last update could be undone with, once it has been kept for long enough."""
        if time.monotonic() < self._next_tidy:
            return
        self._next_tidy = time.monotonic() + _TIDY_EVERY_S
        snapshot = await asyncio.to_thread(self._images.previous_expired)
        if snapshot is None:
            return
        try:
            await guest.remove_snapshot(snapshot)
        except MonitorError as error:
            _log.info("the snapshot %s is gone already: %s", snapshot, error)
        try:
            await asyncio.to_thread(self._images.forget_previous)
        except (MachineError, OSError) as error:
            _log.warning("what the update can be undone with stays: %s", error)

    async def _choose(self, keep_current: bool) -> Choice:
        """Raises Unmet."""
        choice = await meet(NEW_IMAGE, _to_its_end(self._images.choose, keep_current), False)
        if choice.trying:
            self._choice, self._failures = choice, 0
            old = choice.old.label if choice.old is not None else ""
            self.started = UpdateStarted(choice.image.label, old)
            self._events.publish(self.started)
        return choice

    def _console_tail(self) -> str:
        try:
            with self._paths.console_log.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, 2) - _CONSOLE_TAIL_BYTES))
                return stream.read().decode(errors="replace")
        except OSError:
            return ""


def telling_line(console: str) -> str:
    """The line of a guest's console that most likely says why it came to nothing, "" for an empty one."""
    lines = [_KERNEL_TIME.sub("", line.strip()) for line in console.splitlines() if line.strip()]
    for pattern in _TELLING:
        if found := [line for line in lines if re.search(pattern, line)]:
            return found[-1]
    return lines[-1] if lines else ""


async def _to_its_end(work: Callable[..., T], *arguments: object) -> T:
    """Do it in a thread; who cancels waits for its end: half of it done, nobody else may begin."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
