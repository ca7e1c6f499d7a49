"""The QEMU process: spawn, watch, end, and find again."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmbackend import host
from vmbackend.errors import StartFailed
from vmbackend.machine.store import ProcessRecord

_LOG_TAIL_BYTES = 2048


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
