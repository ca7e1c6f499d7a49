"""Network namespaces of threads: unshare(2), setns(2), network_namespaces(7).

A network namespace belongs to a thread, not to a process: /proc/thread-self tells which.
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNET = 0x40000000

_THREAD_NETNS = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def unshare_netns() -> None:
    """Move the calling thread into a new, empty network namespace. EPERM without CAP_SYS_ADMIN."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare(CLONE_NEWNET)")


def enter_netns(netns_fd: int) -> None:
    """Move the calling thread into the namespace the descriptor stands for. EINVAL if it is another kind."""
    if _libc.setns(netns_fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"setns({netns_fd}, CLONE_NEWNET)")


def open_thread_netns() -> int:
    """A close-on-exec descriptor of the calling thread's network namespace; it keeps the namespace alive."""
    return os.open(_THREAD_NETNS, os.O_RDONLY | os.O_CLOEXEC)
