"""The processes the launcher has started: from clone to acknowledged exit.

    starting ──exec succeeded──> running ──pidfd──> exited ──ack──> forgotten
        └──failure, death, or nobody waits──> failed ──pidfd──> forgotten

The reply to a start is sent when exec has succeeded, or, after a failure, when the child is gone: then its cgroup
can be removed at once.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from runtime.container import report
from runtime.container.spawn import Child
from runtime.launcher import protocol
from runtime.launcher.fdstore import FdStore, Key
from runtime.launcher.loop import Loop

State = Literal["starting", "running", "failed", "exited"]


class StartFailure(NamedTuple):
    phase: str
    errno: int
    message: str


class Process:
    """One child. `pidfd` is -1 once it has exited."""

    def __init__(self, key: Key, bundle: str, child: Child) -> None:
        self.key = key
        self.bundle = bundle
        self.pid = child.pid
        self.pidfd = child.pidfd
        self.start_time = child.start_time
        self.report = child.report
        self.state: State = "starting"
        self.ready = False
        self.failure: StartFailure | None = None
        self.exited: protocol.ExitRecord | None = None

    def record(self) -> protocol.ProcessRecord:
        return {
            "id": self.key[0],
            "exec_id": self.key[1],
            "pid": self.pid,
            "start_time": self.start_time,
            "bundle": self.bundle,
            "exited": self.exited,
        }


class Children:
    """All of them by key. `on_started(process)`, `on_failed(process)` and `on_exited(process)` are called once each."""

    def __init__(
        self,
        loop: Loop,
        store: FdStore,
        on_started: Callable[[Process], None],
        on_failed: Callable[[Process], None],
        on_exited: Callable[[Process], None],
    ) -> None:
        self._loop = loop
        self._store = store
        self._on_started = on_started
        self._on_failed = on_failed
        self._on_exited = on_exited
        self._processes: dict[Key, Process] = {}
        self._abandoned: set[Process] = set()  # killed, and not gone yet: their keys are free for others

    def add(self, key: Key, bundle: str, child: Child) -> Process:
        """Watch a child just cloned."""
        process = Process(key, bundle, child)
        process.report.setblocking(False)
        self._processes[key] = process
        self._loop.add(process.report.fileno(), lambda: self._hear(process))
        self._loop.add(process.pidfd, lambda: self._reap(process))
        return process

    def get(self, key: Key) -> Process | None:
        return self._processes.get(key)

    def __iter__(self) -> Iterator[Process]:
        return iter(self._processes.values())

    def listed(self) -> Iterator[Process]:
        """Those the engine is to know of: running, and exited without acknowledgement."""
        return (process for process in self if process.state in ("running", "exited"))

    def any_alive(self) -> bool:
        return bool(self._abandoned) or any(process.state != "exited" for process in self)

    def forget(self, key: Key) -> bool:
        """Drop an exited process and what is kept for it; False if it has not exited."""
        process = self._processes.get(key)
        if process is None or process.state != "exited":
            return False
        self._remove(process)
        return True

    def abandon_starts(self) -> None:
        """End the children that have not got to their program: whoever asked for them will never be answered."""
        for process in [process for process in self if process.state == "starting"]:
            self._close_report(process)
            process.state = "failed"
            self._remove(process)
            self._abandoned.add(process)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)

    def _remove(self, process: Process) -> None:
        del self._processes[process.key]
        self._store.drop_all(process.key)

    def _hear(self, process: Process) -> None:
        """Take in what the child says, up to the end if it has closed its side."""
        while True:
            try:
                news = report.receive(process.report)
            except BlockingIOError:
                return
            except ConnectionResetError:
                news = None
            if news is None:
                break
            if news.kind == "console" and news.fd is not None:
                self._store.put(process.key, {"console": news.fd})
            elif news.kind == "ready":
                process.ready = True
            elif news.kind == "failed":
                process.failure = StartFailure(**{name: news.body[name] for name in StartFailure._fields})
        self._close_report(process)
        if process.ready and process.failure is None:
            process.state = "running"
            self._on_started(process)
        else:
            process.state = "failed"

    def _close_report(self, process: Process) -> None:
        self._loop.remove(process.report.fileno())
        process.report.close()

    def _reap(self, process: Process) -> None:
        if process.state == "starting":
            self._hear(process)
        result = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return  # the report was for a descriptor that had this number before
        self._loop.remove(process.pidfd)
        os.close(process.pidfd)
        process.pidfd = -1
        if process in self._abandoned:
            self._abandoned.discard(process)
            return
        killed = result.si_code != os.CLD_EXITED
        if process.state == "failed":
            if process.failure is None:
                process.failure = _died(result.si_status if killed else None)
            self._remove(process)
            self._on_failed(process)
            return
        process.state = "exited"
        process.exited = {
            "code": 128 + result.si_status if killed else result.si_status,
            "signal": result.si_status if killed else None,
            "at_ns": time.time_ns(),
        }
        self._on_exited(process)


def _died(number: int | None) -> StartFailure:
    cause = "it ended" if number is None else f"it was killed by {signal.Signals(number).name}"
    hint = ": its memory limit may be too low to start anything" if number == signal.SIGKILL else ""
    return StartFailure("init", errno.ECHILD, f"the container's init did not get to its program: {cause}{hint}")
