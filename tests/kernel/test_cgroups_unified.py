"""The v2 manager on a real cgroup2 mount: all that works without controllers, wherever one is mounted."""

import errno
import os
import secrets
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cgroup_lab import Member, enter, errno_of, in_child

from runtime.cgroups import Hierarchies
from runtime.cgroups.hierarchy import mounted
from runtime.cgroups.v2 import V2Cgroup
from runtime.errors import Conflict
from runtime.linux.bpf import attached_device_programs
from runtime.oci.defaults import DEFAULT_DEVICE_RULES

pytestmark = pytest.mark.skipif(os.getuid() != 0 or mounted().unified is None, reason="needs root and a cgroup2 mount")


@pytest.fixture
def root() -> Iterator[Path]:
    """A cgroup of our own as the root of the hierarchy, so that the machine's own stays as it is."""
    path = Path(f"{mounted().unified}/wherry-test-{secrets.token_hex(4)}")
    path.mkdir()
    yield path
    path.rmdir()


@pytest.fixture
def cgroup(root: Path) -> Iterator[V2Cgroup]:
    cgroup = V2Cgroup(Hierarchies(str(root), {}), "/c1")
    cgroup.create({"devices": list(DEFAULT_DEVICE_RULES)})
    yield cgroup
    cgroup.delete()


@pytest.fixture
def member(cgroup: V2Cgroup) -> Iterator[Callable[..., Member]]:
    members: list[Member] = []

    def start(behave: Callable[[], None] = lambda: None) -> Member:
        members.append(Member(cgroup.join_paths(), behave))
        return members[-1]

    yield start
    cgroup.kill()
    for each in members:
        each.close()


def test_devices(cgroup: V2Cgroup, tmp_path: Path) -> None:
    kmsg = str(tmp_path / "kmsg")

    def attempts() -> list[int]:
        enter(cgroup.join_paths())
        os.mknod(kmsg, stat.S_IFCHR | 0o600, os.makedev(1, 11))
        return [errno_of(lambda path=path: os.open(path, os.O_RDWR)) for path in ("/dev/null", "/dev/urandom", kmsg)]

    assert in_child(attempts) == [0, 0, errno.EPERM]
    cgroup.update({"devices": [{"allow": True, "access": "rwm"}]})
    Path(kmsg).unlink()
    assert in_child(attempts) == [0, 0, 0]


def test_one_device_program_is_attached_however_often_it_changes(cgroup: V2Cgroup) -> None:
    directory_fd = cgroup.open_fd()
    assert directory_fd is not None
    try:
        (first,) = attached_device_programs(directory_fd)
        cgroup.update({"devices": list(DEFAULT_DEVICE_RULES)})
        (second,) = attached_device_programs(directory_fd)
    finally:
        os.close(directory_fd)
    assert first != second


def test_cgroups_with_the_same_rules_share_a_program(cgroup: V2Cgroup, root: Path) -> None:
    twin = V2Cgroup(Hierarchies(str(root), {}), "/c2")
    twin.create({"devices": list(DEFAULT_DEVICE_RULES)})
    fds = [fd for fd in (cgroup.open_fd(), twin.open_fd()) if fd is not None]
    try:
        first, second = (attached_device_programs(fd) for fd in fds)
    finally:
        for fd in fds:
            os.close(fd)
        twin.delete()
    assert first == second


def test_freeze_and_thaw(cgroup: V2Cgroup, member: Callable[..., Member]) -> None:
    process = member()
    cgroup.freeze()
    process.ask()
    assert not process.answers(timeout_s=0.1)
    cgroup.thaw()
    assert process.answers()


def test_kill_reaches_frozen_processes(cgroup: V2Cgroup, member: Callable[..., Member]) -> None:
    processes = [member(), member()]
    assert cgroup.pids() == sorted(process.pid for process in processes)
    cgroup.freeze()
    cgroup.kill()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2


def test_delete_with_a_live_process_names_it(cgroup: V2Cgroup, member: Callable[..., Member]) -> None:
    process = member()
    with pytest.raises(Conflict, match=f"processes {process.pid} are still in it"):
        cgroup.delete()
