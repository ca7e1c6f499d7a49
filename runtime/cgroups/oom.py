"""Being told when a memory cgroup runs out: an fd that becomes readable."""

import contextlib
import os
import select

from runtime.cgroups.files import write_file


class OomNotice:
    """`fd` is readable after each notice until `take`; more than one fd may stand behind it."""

    def __init__(self, fd: int, behind: int) -> None:
        self.fd = fd
        self._behind = behind

    def take(self) -> None:
        """Make `fd` wait for the next notice."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._behind)


class _PolledNotice(OomNotice):
    """v2: `fd` is an epoll instance that watches memory.events, which is read to be told of the next change."""

    def take(self) -> None:
        os.pread(self._behind, 4096, 0)


def v1_oom_notice(directory: str) -> OomNotice:
    """An eventfd registered in cgroup.event_control (Documentation/admin-guide/cgroup-v1/memory.rst, 9 and 10)."""
    control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    notice = OomNotice(event, control)
    try:
        write_file(f"{directory}/cgroup.event_control", f"{event} {control}")
    except BaseException:
        notice.close()
        raise
    return notice


def v2_oom_notice(directory: str) -> OomNotice:
    """memory.events has POLLPRI when it has changed since it was read (cgroup-v2.rst, "Memory Interface Files")."""
    events = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
    os.pread(events, 4096, 0)
    watcher = select.epoll()
    watcher.register(events, select.EPOLLPRI)
    fd = os.dup(watcher.fileno())
    watcher.close()
    return _PolledNotice(fd, events)
