"""Filters in force, in a forked child."""

import ctypes
import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cgroup_lab import errno_of, in_child

from runtime.linux import capabilities
from runtime.linux.process import PR_SET_NO_NEW_PRIVS, prctl
from runtime.linux.seccomp import compile_filter, filter_flags, install
from runtime.oci.defaults import DEFAULT_CAPABILITIES, default_seccomp

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root")

NOBODY_KNOWS = 4000  # a system call number from the future


def system_call(number: int, *args: int) -> int:
    """Return the errno of a bare system call, 0 if it works."""
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.syscall(ctypes.c_long(number), *args) >= 0 else ctypes.get_errno()


def test_dockers_default_profile() -> None:
    profile = default_seccomp(DEFAULT_CAPABILITIES)
    bpf = compile_filter(profile)

    def behaviour() -> dict[str, Any]:
        install(bpf, filter_flags(profile))
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
        pid = os.fork()  # clone, which is filtered by its flags
        if pid == 0:
            os._exit(7)
        return {
            "mode": status["Seccomp"],
            "filters": status["Seccomp_filters"],
            "child": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]),
            "unshare": system_call(272, 0x10000000),  # CLONE_NEWUSER
            "clone3": system_call(435, 0, 0),
            "future": system_call(NOBODY_KNOWS),
            "getpid": system_call(39),
        }

    assert in_child(behaviour) == {
        "mode": "2",
        "filters": "1",
        "child": 7,
        "unshare": errno.EPERM,
        "clone3": errno.ENOSYS,
        "future": errno.ENOSYS,
        "getpid": 0,
    }


def test_a_program_runs_under_the_default_profile() -> None:
    bpf = compile_filter(default_seccomp(DEFAULT_CAPABILITIES))
    pid = os.fork()
    if pid == 0:
        try:
            install(bpf)
            os.execv("/bin/sh", ["sh", "-c", "exit $(( $(echo 40) + 2 ))"])
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_a_killing_rule_kills() -> None:
    rule = {"names": ["getppid"], "action": "SCMP_ACT_KILL_PROCESS"}
    bpf = compile_filter({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    pid = os.fork()
    if pid == 0:
        install(bpf)
        os.getppid()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGSYS


def test_installing_needs_privilege_or_no_new_privs() -> None:
    bpf = compile_filter({"defaultAction": "SCMP_ACT_ALLOW"})

    def attempts() -> list[int]:
        capabilities.set_caps([], [], [])
        before = errno_of(lambda: install(bpf))
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        return [before, errno_of(lambda: install(bpf))]

    assert in_child(attempts) == [errno.EACCES, 0]


def test_a_broken_filter_is_refused() -> None:
    assert in_child(lambda: errno_of(lambda: install(b"\0" * 8))) == errno.EINVAL
