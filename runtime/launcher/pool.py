"""Inits that stand ready for the next containers, all of one template: that of the latest start."""

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING

from runtime.container.facts import HostFacts
from runtime.container.plan import Launch
from runtime.container.ready import Order, become, order, prepare
from runtime.container.spawn import Child
from runtime.container.template import Template, template_of
from runtime.launcher.loop import Loop

if TYPE_CHECKING:
    from runtime.oci.spec import Spec

SIZE = 2
"""Each is some 2 MB of memory; a burst of starts goes on from nothing."""

PAUSE_S = 0.003
PAUSE_AFTER_START_S = 0.02
"""Making one keeps the launcher for milliseconds: not while a program that was just started is about to end. But when
that start took the last, others are likely to follow: then `PAUSE_S` is enough."""


class ReadyInits:
    """At most `SIZE` of them. They are children of this process, and its callers' only once taken."""

    def __init__(self, loop: Loop, facts: HostFacts, stage: str) -> None:
        """`stage` is an empty directory."""
        self._loop = loop
        self._facts = facts
        self._stage = stage
        self._template: Template | None = None
        self._example = Order(b"", [])
        self._ready: list[Child] = []
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._mounts_changed = select.poll()
        self._mounts_changed.register(self._mounts, select.POLLPRI | select.POLLERR)

    def start(self, spec: "Spec", launch: Launch) -> Child | None:
        """Start a container in an init that stands ready; None if none does, or none fits."""
        self._loop.forget_idle()
        template = template_of(spec, launch, self._facts)
        if template is None:
            return None
        if template != self._template:
            self._end_all()
            self._template = template
            self._example = order(spec, launch)
        elif self._mounts_changed.poll(0):
            # What stands ready has the mounts of the moment it was made; bind mounts need today's (proc_mounts(5)).
            self._end_all()
        while self._ready:
            child = self._take()
            try:
                become(child, order(spec, launch))
            except OSError:  # it has died, or the message is too long for it
                _end(child)
            else:
                return child
        return None

    @property
    def is_empty(self) -> bool:
        return not self._ready

    def refill(self, pause_s: float) -> None:
        """Make others in place of those taken, once nothing has happened for so long; not during a start."""
        self._loop.call_when_idle(pause_s, self._make)

    def close(self) -> None:
        """End them all, and forget what to make. Nothing is to be started after that."""
        self._loop.forget_idle()
        self._template = None
        self._end_all()
        os.close(self._mounts)

    def _end_all(self) -> None:
        while self._ready:
            _end(self._take())

    def _make(self) -> None:
        if self._template is None or len(self._ready) >= SIZE:
            return
        with contextlib.suppress(OSError):  # a start says what is wrong
            child = prepare(self._template, self._example, self._stage, self._facts)
            self._ready.append(child)
            self._loop.add(child.pidfd, lambda: self._died(child))
            self.refill(PAUSE_S)

    def _take(self) -> Child:
        child = self._ready.pop(0)
        self._loop.remove(child.pidfd)
        return child

    def _died(self, child: Child) -> None:
        # Not made again before something starts or ends: what killed it may well kill the next.
        self._ready.remove(child)
        self._loop.remove(child.pidfd)
        _end(child)


def _end(child: Child) -> None:
    child.report.close()
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    os.close(child.pidfd)
