"""Making processes: clone3(2) from Python, close_range(2), and the small facts of prctl(2).

Waiting and signalling by pidfd need nothing from here: `os.waitid(os.P_PIDFD, …)`, `os.pidfd_open` and
`signal.pidfd_send_signal` are in the standard library.
"""

import array
import ctypes
import errno
import os
import signal
from collections.abc import Sequence

from runtime.linux import syscalls
from runtime.linux.libc import os_error, syscall

CLONE_PIDFD = 0x00001000
CLONE_INTO_CGROUP = 0x200000000

CLOSE_RANGE_CLOEXEC = 4

PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38

# PyDLL: the GIL stays held across the call, so that the child owns it when it comes back.
_python = ctypes.PyDLL(None, use_errno=True)
_python.syscall.argtypes = (ctypes.c_long, *(ctypes.c_void_p,) * 5)
_python.syscall.restype = ctypes.c_long

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


class _CloneArgs(ctypes.Structure):
    """struct clone_args of linux/sched.h, version 2 (88 bytes)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def clone3(flags: int, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork with `flags` (CLONE_NEW*…); return (pid, pidfd) in the parent and (0, -1) in the child.

    The process must have one thread. `cgroup_fd`, a cgroup2 directory, is the group the child is born in.
    On a kernel (or under a filter) without clone3 this is clone(2), which knows neither cgroups nor
    CLONE_NEWTIME: asking for those raises ENOSYS.
    """
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(
        flags=flags | CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=signal.SIGCHLD.value,
    )
    if cgroup_fd is not None:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup_fd
    _python.PyOS_BeforeFork()
    pid = _python.syscall(syscalls.CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments), None, None, None)
    if pid < 0 and ctypes.get_errno() == errno.ENOSYS and cgroup_fd is None and not flags & 0xFF:
        # Three arguments in, the argument orders of clone(2) agree between architectures.
        pid = _python.syscall(
            syscalls.CLONE,
            flags | CLONE_PIDFD | signal.SIGCHLD.value,
            None,
            ctypes.byref(pidfd),
            None,
            None,
        )
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0, -1
    failure = os_error() if pid < 0 else None
    _python.PyOS_AfterFork_Parent()
    if failure is not None:
        raise failure
    return pid, pidfd.value


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """close_range(2): close, or with CLOSE_RANGE_CLOEXEC mark, every descriptor from `first` to `last`."""
    syscall(syscalls.CLOSE_RANGE, first, last, flags)


def prctl(option: int, argument: int = 0) -> int:
    """prctl(2) for the options with one argument."""
    result: int = _libc.prctl(option, argument, 0, 0, 0)
    if result < 0:
        raise os_error()
    return result


def set_name(name: str) -> None:
    """PR_SET_NAME: what ps(1) shows for the calling thread; the kernel keeps the first 15 bytes."""
    buffer = ctypes.create_string_buffer(os.fsencode(name))
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def sethostname(name: str) -> None:
    """sethostname(2), for the calling process's UTS namespace."""
    encoded = os.fsencode(name)
    if _libc.sethostname(encoded, ctypes.c_size_t(len(encoded))) < 0:
        raise os_error(name)


def setdomainname(name: str) -> None:
    """setdomainname(2), for the calling process's UTS namespace."""
    encoded = os.fsencode(name)
    if _libc.setdomainname(encoded, ctypes.c_size_t(len(encoded))) < 0:
        raise os_error(name)


def become_user(uid: int, gid: int, additional_gids: Sequence[int]) -> None:
    """setgroups(2), setresgid(2) and setresuid(2) of the calling thread alone.

    The C library's functions of these names have every thread of the process follow (nptl(7)).
    """
    groups = array.array("I", additional_gids)
    syscall(syscalls.SETGROUPS, len(groups), groups.tobytes())
    syscall(syscalls.SETRESGID, gid, gid, gid)
    syscall(syscalls.SETRESUID, uid, uid, uid)


def default_signal(number: int) -> None:
    """rt_sigaction(2) to SIG_DFL, also for 32 and 33, which the C library keeps to itself."""
    action = bytes(32)  # struct kernel_sigaction: handler, flags, restorer, mask
    syscall(syscalls.RT_SIGACTION, number, action, None, 8)
