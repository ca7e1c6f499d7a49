"""Operations on standard input, output and error: the parent's descriptors, or a terminal of the container's own."""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import termios
from typing import NamedTuple

from runtime.container.op import Init, Refused
from runtime.container.rootpath import make_directory, open_in
from runtime.linux import mounts
from runtime.linux.process import CLOSE_RANGE_CLOEXEC, close_range

_PTMX = os.makedev(5, 2)
_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431


class UseStdio(NamedTuple):
    """The given descriptors as 0, 1 and 2 (None: /dev/null); every other one is marked to close at exec.

    The first operation of every plan: whatever the parent had open cannot reach the program (CVE-2024-21626).
    """

    stdin: int | None
    stdout: int | None
    stderr: int | None

    def describe(self) -> str:
        return "set up standard input and output"

    def apply(self, init: Init) -> None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        # Copies above 2 first: the given descriptors may themselves be 0, 1 and 2 in another order.
        copies = [
            fcntl.fcntl(null if fd is None else fd, fcntl.F_DUPFD_CLOEXEC, 3)
            for fd in (self.stdin, self.stdout, self.stderr)
        ]
        for number, copy in enumerate(copies):
            os.dup2(copy, number)
            os.close(copy)
        os.close(null)
        close_range(3, flags=CLOSE_RANGE_CLOEXEC)


class OwnStdio(NamedTuple):
    """Give 0, 1 and 2 to the program's user (an id of the host's), so that it can open /dev/stdout again."""

    uid: int

    def describe(self) -> str:
        return f"give standard input and output to user {self.uid}"

    def apply(self, init: Init) -> None:
        for fd in range(3):
            status = os.fstat(fd)
            if status.st_uid == self.uid or status.st_rdev == os.makedev(1, 3):
                continue
            try:
                os.fchown(fd, self.uid, -1)
            except OSError as error:
                # Not every descriptor has an owner to change: sockets of old kernels, read-only filesystems.
                if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS):
                    raise


class OpenConsole(NamedTuple):
    """A terminal on the container's devpts: the master goes to the parent, the slave is 0, 1 and 2.

    The slave comes from the master itself (TIOCGPTPEER), never by a path (CVE-2025-52565). With `mount` it also
    becomes /dev/console.
    """

    rows: int
    columns: int
    mount: bool

    def describe(self) -> str:
        return "open a terminal"

    def apply(self, init: Init) -> None:
        master = open_in(init.root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        status = os.fstat(master)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _PTMX:
            raise Refused(errno.ENODEV, "open a terminal: /dev/pts in the container is not a devpts filesystem")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if self.rows or self.columns:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, self.columns, 0, 0))
        if self.mount:
            self._mount(init, slave)
        init.report.console(master)
        os.close(master)
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for number in range(3):
            os.dup2(slave, number)
        os.close(slave)

    def _mount(self, init: Init, slave: int) -> None:
        tree = mounts.open_tree(b"", dir_fd=slave)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, tree)
            dev = make_directory(init.root, "/dev")
            stack.callback(os.close, dev)
            with contextlib.suppress(FileExistsError):
                os.close(os.open("console", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dev))
            target = os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev)
            stack.callback(os.close, target)
            # Where a link leads, something else might be hidden, or masked later, that this would uncover.
            if stat.S_ISLNK(os.fstat(target).st_mode):
                raise Refused(errno.ELOOP, "open a terminal: /dev/console in the container is a symbolic link")
            mounts.move_mount(tree, target)
