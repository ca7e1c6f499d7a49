"""The QEMU process: spawn, watch, end, and find again."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from vmbackend import host
from vmbackend.errors import StartFailed
from vmbackend.machine.store import ProcessRecord
from vmbackend.qemu.qmp import Monitor

_LOG_TAIL_BYTES = 2048
# Of a QEMU that is not our child: from its monitor's end to its own, and how often to look.
_END_FOLLOWS_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.05


class RunningQemu(Protocol):
    """A QEMU, whoever started it."""

    pid: int

    async def wait(self) -> int: ...
    def describe_end(self, code: int) -> str: ...
    def kill(self) -> None: ...
    def record(self, path: Path, details: Mapping[str, Any]) -> None: ...


class QemuProcess:
    """A QEMU this process started. It is recorded on disk, so that a later hostagent finds it."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    @classmethod
    async def spawn(cls, argv: list[str], log: Path) -> "QemuProcess":
        """Start QEMU with its words going to `log`. Raises OSError when the program does not run at all."""
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **host.detached_process_options(),
            )
        host.tie_to_this_process(process.pid)
        return cls(process, log)

    def record(self, path: Path, details: Mapping[str, Any]) -> None:
        """Write who this is to `path`. Raises StartFailed when it is gone already."""
        record = ProcessRecord.of(self.pid, details)
        if record is None:
            raise StartFailed(f"QEMU ended at once: {self.last_words()}")
        record.write(path)

    async def wait(self) -> int:
        """Wait for its end; returns the exit code, or minus the signal's number."""
        return await self._process.wait()

    def describe_end(self, code: int) -> str:
        if code < 0:
            return f"QEMU was killed by signal {-code}"
        words = self.last_words()
        if code == 0:
            return "The guest reset itself or powered off"
        return f"QEMU ended with code {code}" + (f": {words}" if words else "")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def last_words(self) -> str:
        """The last line QEMU wrote, or nothing."""
        with self._log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _LOG_TAIL_BYTES))
            lines = stream.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


class AdoptedProcess:
    """A QEMU that another process started, which has died. Nobody tells us of its end but its monitor's."""

    def __init__(self, record: ProcessRecord, monitor: Monitor) -> None:
        self._record = record
        self._monitor = monitor
        self.pid = record.pid

    def record(self, path: Path, details: Mapping[str, Any]) -> None:
        """Write who this is to `path`."""
        replace(self._record, details=details).write(path)

    async def wait(self) -> int:
        """Wait for its end; the exit code is not known, and 0 stands for it."""
        await self._monitor.wait_lost()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_FOLLOWS_WITHIN_S):
                while self._record.is_alive():
                    await asyncio.sleep(_LOOK_EVERY_S)
        # One that has lost its monitor can only be ended.
        self.kill()
        while self._record.is_alive():
            await asyncio.sleep(_LOOK_EVERY_S)
        return 0

    def describe_end(self, code: int) -> str:
        return "QEMU, which an earlier hostagent had started, has ended"

    def kill(self) -> None:
        if self._record.is_alive():
            host.kill_process(self.pid)
