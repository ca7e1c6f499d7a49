"""User namespaces (user_namespaces(7)) and acting on files as one of their users."""

import ctypes
import os
from collections.abc import Sequence
from typing import NamedTuple

from runtime.linux import capabilities
from runtime.linux.files import read_file, write_file
from runtime.linux.namespaces import CLONE_NEWUSER
from runtime.linux.process import clone3

_libc = ctypes.CDLL(None, use_errno=True)


class IdRange(NamedTuple):
    """`size` ids from `inside` on are those from `outside` on in the parent namespace."""

    inside: int
    outside: int
    size: int


def make_user_namespace(uids: Sequence[IdRange], gids: Sequence[IdRange]) -> int:
    """A descriptor of a new user namespace; the process must have one thread, and see its own host's /proc."""
    reader, writer = os.pipe()
    pid, pidfd = clone3(CLONE_NEWUSER)
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent has what it wants
        os._exit(0)
    try:
        os.close(reader)
        # Its number in /proc, which may be that of another PID namespace than ours.
        fdinfo = read_file(f"/proc/self/fdinfo/{pidfd}").decode()
        shown = next(line.split()[1] for line in fdinfo.splitlines() if line.startswith("Pid:"))
        for name, ranges in (("uid_map", uids), ("gid_map", gids)):
            write_file(f"/proc/{shown}/{name}", "".join(f"{one.inside} {one.outside} {one.size}\n" for one in ranges))
        return os.open(f"/proc/{shown}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writer)
        os.waitpid(pid, 0)
        os.close(pidfd)


def act_on_files_as(uid: int, gid: int) -> None:
    """What the calling thread makes belongs to these ids from here on (setfsuid(2)); its capabilities stay.

    Ids are those of its own user namespace.
    """
    held = capabilities.get()
    _libc.setfsgid(ctypes.c_uint(gid))
    _libc.setfsuid(ctypes.c_uint(uid))
    # Leaving 0 cost it the capabilities that are about files (capabilities(7)).
    capabilities.set_caps(held.effective, held.permitted, held.inheritable)
