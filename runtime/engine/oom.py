"""Learning at once that the kernel has killed a process for a memory limit, also when its container lives on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runtime.cgroups import Cgroup, OomNotice
from runtime.errors import WherryError

SETTLE_S = 0.05  # the kernel gives notice before it kills, and counts after


def oom_kills(cgroup: Cgroup) -> int:
    """How many processes were killed; 0 for a cgroup that is gone."""
    try:
        return cgroup.oom_kills()
    except (WherryError, OSError):
        return 0


class OomWatch:
    """Calls back soon after each notice of the kernel until it is closed."""

    def __init__(self, notice: OomNotice, on_oom: Callable[[], None]) -> None:
        self._notice = notice
        self._on_oom = on_oom
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(notice.fd, self._noticed)

    @classmethod
    def on(cls, cgroup: Cgroup, on_oom: Callable[[], None]) -> OomWatch | None:
        """None where the kernel gives no notice: then the count is read at the container's end."""
        try:
            return cls(cgroup.oom_notice(), on_oom)
        except (WherryError, OSError):
            return None

    def _noticed(self) -> None:
        self._notice.take()
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE_S, self._settled)

    def _settled(self) -> None:
        self._timer = None
        self._on_oom()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._loop.remove_reader(self._notice.fd)
        self._notice.close()
