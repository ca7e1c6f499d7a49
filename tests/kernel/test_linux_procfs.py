"""Writes to /proc go to /proc, whatever is mounted over its files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runtime.linux import mounts, namespaces
from runtime.linux.procfs import write_proc


def in_child(tmp_path: Path) -> int:
    """The errno of a write to an own /proc file that something else is mounted over."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            mounts.mount("none", "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
            mounts.mount(str(tmp_path / "decoy"), "/proc/sys/kernel/domainname", None, mounts.MS_BIND)
            write_proc("sys/kernel/domainname", "x")
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_mount_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "decoy").write_text("")
    assert in_child(tmp_path) == errno.EXDEV
    assert (tmp_path / "decoy").read_text() == ""


def test_plain_writes() -> None:
    write_proc("self/oom_score_adj", Path("/proc/self/oom_score_adj").read_text())
    with pytest.raises(OSError):
        write_proc("../etc/hostname", "x")
