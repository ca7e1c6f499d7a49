"""The process that starts execs (`container.exec_server`): made when nothing else happens, asked when it is free."""

import contextlib
import os
import signal
import socket

from runtime.container import exec_server
from runtime.container.facts import HostFacts
from runtime.container.plan import Launch
from runtime.container.spawn import Child
from runtime.launcher.loop import Loop


class ExecServer:
    """At most one, for execs of every container; whoever is told None forks."""

    def __init__(self, loop: Loop, facts: HostFacts) -> None:
        self._loop = loop
        self._facts = facts
        self._child: Child | None = None
        self._busy_with = ""
        self._wanted = False

    def ask(self, process: str, launch: Launch, container: int) -> socket.socket | None:
        """Have the process object in the file `process` started: returns where news of it come, see `report`."""
        self._wanted = True
        if self._child is None or self._busy_with:
            return None
        try:
            news = exec_server.ask(self._child.report, process, launch, container)
        except OSError:  # it has died, or the message is too long for it
            self.end()
            return None
        self._busy_with = launch.id
        return news

    def is_missing(self) -> bool:
        """Whether there has been an exec, and none is there to help with the next."""
        return self._wanted and self._child is None and exec_server.SUPPORTED

    def make(self) -> None:
        """It takes milliseconds."""
        self._wanted = False  # one that dies is not made again before somebody asks
        with contextlib.suppress(OSError):  # an exec says what is wrong
            self._child = exec_server.serve(self._facts)
            self._loop.add(self._child.report.fileno(), self._hear)

    def container_ended(self, id: str) -> None:
        """What is being started in this container would not be, and might wait for ever for something of it."""
        if self._busy_with == id:
            self.end()

    def end(self) -> None:
        child, self._child, self._busy_with = self._child, None, ""
        if child is None:
            return
        self._loop.remove(child.report.fileno())
        child.report.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        os.close(child.pidfd)

    def _hear(self) -> None:
        assert self._child is not None
        if self._child.report.recv(1024):
            self._busy_with = ""
        else:
            self.end()
