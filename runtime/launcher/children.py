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
import socket
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from runtime.container import report
from runtime.container.op import Refused
from runtime.container.spawn import Child, start_time
from runtime.launcher import protocol
from runtime.launcher.fdstore import FdStore, Key
from runtime.launcher.loop import Loop

State = Literal["starting", "running", "failed", "exited"]


class StartFailure(NamedTuple):
    phase: str
    errno: int
    message: str


class Again(NamedTuple):
    """How to start a process in another way, and the descriptors kept for that."""

    start: Callable[[], Child]
    fds: list[int]


class Process:
    """One child. `pidfd` is -1 before it is known, and once it has exited."""

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
        self.again: Again | None = None
        self.exited: protocol.ExitRecord | None = None

    def forget_again(self) -> None:
        if self.again:
            protocol.close_all(self.again.fds)
            self.again = None

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
        self._processes[key] = process
        self._listen(process)
        self._watch(process)
        return process

    def expect(self, key: Key, bundle: str, news: socket.socket, again: Again) -> Process:
        """Watch a child that another process is to make; `again` makes it if that declines."""
        process = Process(key, bundle, Child(0, -1, 0, news))
        process.again = again
        self._processes[key] = process
        self._listen(process)
        return process

    def _listen(self, process: Process) -> None:
        process.report.setblocking(False)
        self._loop.add(process.report.fileno(), lambda: self._hear(process))

    def _watch(self, process: Process) -> None:
        self._loop.add(process.pidfd, lambda: self._reap(process))

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
            process.state = "failed"
            process.forget_again()
            self._remove(process)
            self._abandoned.add(process)
            if process.pidfd >= 0:
                self._close_report(process)
                self._kill(process)
            # else it may yet come: `_hear` kills it then

    @staticmethod
    def _kill(process: Process) -> None:
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
            elif news.kind == "spawned" and news.fd is not None:
                self._came(process, news.body["pid"], news.fd)
                return
            elif news.kind == "declined" and process.again:
                self._make(process, process.again.start)
                return
            elif news.kind == "failed":
                process.failure = StartFailure(**{name: news.body[name] for name in StartFailure._fields})
        self._close_report(process)
        if process.ready and process.failure is None:
            self._run(process)
        elif process.pidfd >= 0:
            process.state = "failed"
        else:
            self._fail(process)

    def _run(self, process: Process) -> None:
        process.state = "running"
        process.forget_again()
        self._on_started(process)

    def _came(self, process: Process, pid: int, pidfd: int) -> None:
        self._close_report(process)
        process.pid, process.pidfd = pid, pidfd
        self._watch(process)
        if process.state == "failed":
            self._kill(process)
        else:
            process.start_time = start_time(pid)
            self._run(process)

    def _make(self, process: Process, start: Callable[[], Child]) -> None:
        self._close_report(process)
        try:
            child = start()
        except Refused as refusal:
            process.failure = StartFailure("launcher", refusal.errno, str(refusal))
        except OSError as error:
            process.failure = StartFailure("launcher", error.errno or 0, f"the launcher failed: {error}")
        else:
            process.pid, process.pidfd, process.start_time, process.report = child
            self._listen(process)
            self._watch(process)
        finally:
            process.forget_again()
        if process.failure is not None:
            self._fail(process)

    def _fail(self, process: Process) -> None:
        """It is gone, or has never been."""
        if process in self._abandoned:
            self._abandoned.discard(process)
            return
        if process.failure is None:
            process.failure = self._never_came(process)
        process.state = "failed"
        process.forget_again()
        self._remove(process)
        self._on_failed(process)

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
        killed = result.si_code != os.CLD_EXITED
        if process.state == "failed":
            if process.failure is None:
                process.failure = _died(result.si_status if killed else None)
            self._fail(process)
            return
        process.state = "exited"
        process.exited = {
            "code": 128 + result.si_status if killed else result.si_status,
            "signal": result.si_status if killed else None,
            "at_ns": time.time_ns(),
        }
        self._on_exited(process)

    def _never_came(self, process: Process) -> StartFailure:
        """What was to make it has died."""
        container = self._processes.get((process.key[0], ""))
        if container is None or container.state != "running":
            return StartFailure("launcher", errno.ESRCH, f"container {process.key[0]} is not running")
        return StartFailure("launcher", errno.ECHILD, "the process that was to start it was killed: try again")


def _died(number: int | None) -> StartFailure:
    cause = "it ended" if number is None else f"it was killed by {signal.Signals(number).name}"
    hint = ": its memory limit may be too low to start anything" if number == signal.SIGKILL else ""
    return StartFailure("init", errno.ECHILD, f"the container's init did not get to its program: {cause}{hint}")
