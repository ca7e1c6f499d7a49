"""The parent's half of starting a process: clone3 and a socket to hear from the child."""

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, FrozenImporter
from typing import NamedTuple, NoReturn

from runtime.container.report import Report
from runtime.linux.files import read_file
from runtime.linux.namespaces import CLONE_NEWPID, setns
from runtime.linux.process import clone3, close_range, default_signal

# What CPython ignores, and what the launcher and the command line handle; all else is at its default already.
_CHANGED_SIGNALS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGWINCH,
    signal.SIGCHLD,
)


class Child(NamedTuple):
    """A process between clone3 and exec; the receiver owns `pidfd` and `report`."""

    pid: int
    pidfd: int
    start_time: int
    report: socket.socket


def spawn(
    main: Callable[[Report], NoReturn],
    flags: int,
    *,
    cgroup_fd: int | None = None,
    pid_namespace: tuple[int, int] | None = None,
) -> Child:
    """Run `main` in a child with the namespaces of `flags`; raises OSError if there is none to run.

    `pid_namespace` is (descriptor, CLONE_NEWPID) as setns(2) takes it: the child is born there, while the
    caller stays its parent and where it is.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if pid_namespace is None:
            pid, pidfd = clone3(flags, cgroup_fd)
        else:
            pid, pidfd = _clone_into(pid_namespace, flags, cgroup_fd)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _child(main, theirs)
    theirs.close()
    return Child(pid, pidfd, start_time(pid), ours)


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot: field 22 of /proc/<pid>/stat (proc(5))."""
    # The second field is the name in parentheses, which may itself hold spaces and parentheses.
    after_name = read_file(f"/proc/{pid}/stat").rpartition(b")")[2]
    return int(after_name.split()[19])


def keep_only(fd: int) -> None:
    """Close what was inherited: other containers' streams, and the lock and sockets of a parent that may go away."""
    if fd > 3:
        close_range(3, fd - 1)
    close_range(fd + 1)


def _clone_into(pid_namespace: tuple[int, int], flags: int, cgroup_fd: int | None) -> tuple[int, int]:
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    pid = -1
    try:
        setns(*pid_namespace)
        pid, pidfd = clone3(flags, cgroup_fd)
        return pid, pidfd
    finally:
        if pid != 0:
            setns(own, CLONE_NEWPID)
        os.close(own)


def forget_ignored_signals() -> None:
    """Undo what our own parent ignored, for containers inherit it: nohup, a shell's background job, posix_spawn.

    To be called once, at the start of a process that makes containers.
    """
    for number in range(1, signal.NSIG):
        if number not in (*_CHANGED_SIGNALS, signal.SIGKILL, signal.SIGSTOP):
            default_signal(number)


def _child(main: Callable[[Report], NoReturn], sock: socket.socket) -> NoReturn:
    # Nothing may return into the parent's stack from here: not even KeyboardInterrupt.
    try:
        gc.disable()  # nothing lives long enough here to be worth a walk over (and a copy of) the parent's pages
        for number in _CHANGED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        sys.meta_path[:] = BuiltinImporter, FrozenImporter  # a path of ours may soon be a file of the container's
        os.setsid()
        os.umask(0)  # modes are given in full; the program gets its own umask with its user
        main(Report(sock))
    except BaseException as error:  # noqa: BLE001 see above
        try:
            Report(sock).failed("init", getattr(error, "errno", None) or 0, f"init failed: {error!r}")
        finally:
            os._exit(1)
