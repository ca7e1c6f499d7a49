"""Limits that bite, on whatever cgroup version this machine has."""

import errno
import os
import secrets
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cgroup_lab import TIMEOUT_S, Member, enter, errno_of, in_child

from runtime.cgroups import Cgroup, host_facts, open_cgroup, remove_subtree
from runtime.cgroups.hierarchy import mounted
from runtime.errors import AlreadyExists, Conflict, InvalidParameter, NotFound, NotSupported, SystemFault
from runtime.oci.defaults import DEFAULT_DEVICE_RULES

MIB = 1 << 20

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


def needs(*flags: str) -> pytest.MarkDecorator:
    missing = [flag for flag in flags if not host_facts()[flag]]  # type: ignore[literal-required]
    return pytest.mark.skipif(bool(missing), reason=f"this host has no {', '.join(missing)}")


@pytest.fixture
def parent() -> Iterator[str]:
    path = f"/wherry-test-{secrets.token_hex(4)}"
    yield path
    remove_subtree(path)
    assert directories(path) == []


@pytest.fixture
def cgroup(parent: str) -> Cgroup:
    return open_cgroup(f"{parent}/c1")


@pytest.fixture
def member(cgroup: Cgroup) -> Iterator[Callable[..., Member]]:
    members: list[Member] = []

    def start(behave: Callable[[], None] = lambda: None) -> Member:
        members.append(Member(cgroup.join_paths(), behave))
        return members[-1]

    yield start
    cgroup.kill()
    for each in members:
        each.close()


def directories(path: str) -> list[str]:
    return [root + path for root in mounted().roots if Path(root + path).exists()]


def spin(cpu_s: float) -> None:
    end = time.process_time() + cpu_s
    while time.process_time() < end:
        pass


@needs("pids_limit")
def test_pids_limit(cgroup: Cgroup) -> None:
    cgroup.create({"pids": {"limit": 3}})

    def fork_until_refused() -> tuple[int, int]:
        enter(cgroup.join_paths())
        hold, release = os.pipe()
        children = 0
        while True:
            try:
                if os.fork() == 0:
                    os.close(release)
                    os.read(hold, 1)
                    os._exit(0)
            except OSError as error:
                os.close(release)
                for _ in range(children):
                    os.wait()
                return children, error.errno or 0
            children += 1

    assert in_child(fork_until_refused) == [2, errno.EAGAIN]
    cgroup.delete()


@needs("memory_limit")
def test_memory_limit_and_its_oom_kill(cgroup: Cgroup, member: Callable[..., Member]) -> None:
    cgroup.create({"memory": {"limit": 32 * MIB} | ({"swap": 32 * MIB} if host_facts()["swap_limit"] else {})})
    greedy = member(lambda: bytearray(128 * MIB).hex())
    assert cgroup.oom_kills() == 0
    greedy.ask()
    assert greedy.wait() == -signal.SIGKILL
    assert cgroup.oom_kills() == 1
    memory = cgroup.stats()["memory"]
    assert memory["limit_bytes"] == 32 * MIB
    assert 16 * MIB < memory["peak_usage_bytes"] <= 32 * MIB


@needs("memory_limit", "swap_limit")
def test_memory_limits_go_up_and_down(cgroup: Cgroup) -> None:
    cgroup.create({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    for limit in (256 * MIB, 16 * MIB, -1):
        cgroup.update({"memory": {"limit": limit, "swap": limit}})
        assert cgroup.stats()["memory"]["limit_bytes"] == (limit if limit > 0 else None)


@needs("cpu_quota")
def test_cpu_quota(cgroup: Cgroup, member: Callable[..., Member]) -> None:
    cgroup.create({"cpu": {"quota": 10_000, "period": 50_000}})
    busy = member(lambda: spin(0.05))
    started = time.monotonic()
    busy.ask()
    assert busy.answers()
    assert time.monotonic() - started > 0.1  # five times 10 ms in periods of 50 ms
    cpu = cgroup.stats()["cpu"]
    assert cpu["throttled_periods"] > 0
    assert cpu["throttled_ns"] > 0
    assert cpu["total_ns"] > 40_000_000
    cgroup.update({"cpu": {"quota": -1}})


@needs("cpu_quota")
def test_cpu_quota_and_period_can_be_changed_together(cgroup: Cgroup) -> None:
    cgroup.create({"cpu": {"quota": 900_000, "period": 1_000_000}})
    cgroup.update({"cpu": {"quota": 2_000, "period": 1_000}})
    cgroup.update({"cpu": {"quota": 900_000, "period": 1_000_000}})


@needs("cpu_set")
def test_cpuset(cgroup: Cgroup) -> None:
    cgroup.create({"cpu": {"cpus": "0", "mems": "0"}})

    def affinity() -> list[int]:
        enter(cgroup.join_paths())
        return sorted(os.sched_getaffinity(0))

    assert in_child(affinity) == [0]


def test_devices(cgroup: Cgroup, tmp_path: Path) -> None:
    cgroup.create({"devices": list(DEFAULT_DEVICE_RULES)})
    kmsg = str(tmp_path / "kmsg")

    def attempts() -> list[int]:
        enter(cgroup.join_paths())
        os.mknod(kmsg, stat.S_IFCHR | 0o600, os.makedev(1, 11))
        return [errno_of(lambda path=path: os.open(path, os.O_RDONLY)) for path in ("/dev/null", "/dev/urandom", kmsg)]

    assert in_child(attempts) == [0, 0, errno.EPERM]


def test_devices_of_a_running_cgroup_are_replaced(
    cgroup: Cgroup, member: Callable[..., Member], tmp_path: Path
) -> None:
    kmsg = str(tmp_path / "kmsg")
    os.mknod(kmsg, stat.S_IFCHR | 0o600, os.makedev(1, 11))
    outcome = tmp_path / "outcome"

    def try_again() -> None:
        outcome.write_text(str(errno_of(lambda: os.open(kmsg, os.O_RDONLY))))

    cgroup.create({"devices": list(DEFAULT_DEVICE_RULES)})
    running = member(try_again)
    kmsg_allowed = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    for rules, expected in (
        ([], errno.EPERM),
        ([*DEFAULT_DEVICE_RULES, kmsg_allowed], 0),
        (list(DEFAULT_DEVICE_RULES), errno.EPERM),
    ):
        cgroup.update({"devices": rules})
        running.ask()
        assert running.answers()
        assert outcome.read_text() == str(expected)


def test_freeze_and_thaw(cgroup: Cgroup, member: Callable[..., Member]) -> None:
    cgroup.create({})
    process = member()
    cgroup.freeze()
    process.ask()
    assert not process.answers(timeout_s=0.1)
    cgroup.thaw()
    assert process.answers()


def test_kill_reaches_frozen_processes(cgroup: Cgroup, member: Callable[..., Member]) -> None:
    cgroup.create({})
    processes = [member(), member()]
    assert cgroup.pids() == sorted(process.pid for process in processes)
    cgroup.freeze()
    cgroup.kill()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    assert cgroup.pids() == []
    cgroup.delete()


@needs("pids_limit")
def test_kill_ends_a_fork_storm(cgroup: Cgroup, member: Callable[..., Member]) -> None:
    cgroup.create({"pids": {"limit": 30}})

    def storm() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            try:
                os.fork()
            except OSError:
                os.sched_yield()

    first = member(storm)
    first.ask()
    cgroup.kill()
    assert first.wait() == -signal.SIGKILL
    # Its children are init's now, which reaps them in its own time.
    end = time.monotonic() + TIMEOUT_S
    while cgroup.pids() and time.monotonic() < end:
        os.sched_yield()
    assert cgroup.pids() == []


def test_delete_with_a_live_process_names_it(cgroup: Cgroup, member: Callable[..., Member]) -> None:
    cgroup.create({})
    process = member()
    with pytest.raises(Conflict, match=rf"processes {process.pid} are still in it"):
        cgroup.delete()
    cgroup.kill()
    process.wait()
    cgroup.delete()
    cgroup.delete()


def test_delete_right_after_the_exit(cgroup: Cgroup) -> None:
    """What the engine does: the pidfd reports the exit a moment before the cgroup is empty."""
    for _ in range(20):
        cgroup.create({})
        in_child(lambda: enter(cgroup.join_paths()))
        cgroup.delete()


def test_nested_cgroups_go_along(cgroup: Cgroup, parent: str) -> None:
    cgroup.create({})
    open_cgroup(f"{parent}/c1/inner/innermost").create({})
    assert cgroup.pids() == []
    cgroup.delete()
    assert directories(f"{parent}/c1") == []


def test_a_cgroup_that_is_gone_is_named(cgroup: Cgroup) -> None:
    for call in (cgroup.freeze, cgroup.thaw, lambda: cgroup.update({"pids": {"limit": 5}})):
        with pytest.raises(NotFound, match=r"there is no cgroup .*/c1"):
            call()
    cgroup.kill()
    assert cgroup.pids() == []
    assert cgroup.oom_kills() == 0


def test_the_same_cgroup_twice(cgroup: Cgroup) -> None:
    cgroup.create({})
    with pytest.raises(AlreadyExists, match="c1 exists already"):
        cgroup.create({})
    assert cgroup.pids() == []


@pytest.mark.parametrize(
    ("resources", "kind", "message"),
    [
        ({"cpu": {"cpus": "4000"}}, InvalidParameter, "invalid CPU list '4000'"),
        ({"cpu": {"quota": 5}}, InvalidParameter, "invalid CPU quota '5.*'"),
        ({"memory": {"limit": -3}}, InvalidParameter, "invalid memory limit -3"),
        ({"rdma": {"wherry0": {"hcaHandles": 1}}}, NotSupported, "cannot set the RDMA limit"),
    ],
)
def test_a_refused_limit_is_named_and_leaves_nothing(
    cgroup: Cgroup, parent: str, resources: object, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        cgroup.create(resources)  # type: ignore[arg-type]
    assert directories(parent) == []


def test_create_fails_at_any_step_and_leaves_nothing(
    cgroup: Cgroup, parent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mkdir and open on the way fails once, until one create gets through."""
    real = {name: getattr(os, name) for name in ("mkdir", "open")}
    resources = {"pids": {"limit": 5}, "devices": list(DEFAULT_DEVICE_RULES)}
    calls_that_work = 0
    while True:
        left = iter(range(calls_that_work))

        def failing(name: str, left: Iterator[int] = left) -> Callable[..., object]:
            def call(path: str, *args: int) -> object:
                if next(left, None) is None:
                    raise OSError(errno.EIO, os.strerror(errno.EIO), path)
                return real[name](path, *args)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, failing(name))
            try:
                cgroup.create(resources)  # type: ignore[arg-type]
                break
            except (OSError, SystemFault) as error:
                assert "Input/output error" in str(error)
        assert directories(parent) == []
        calls_that_work += 1
    assert calls_that_work > 5
