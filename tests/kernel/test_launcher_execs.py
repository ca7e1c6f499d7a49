"""The process that starts execs: that it is used, that its execs are as any others, that nothing depends on it."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_container_exec import (
    test_dies_with_the_container,
    test_failures,
    test_is_as_confined_as_the_container,
    test_nothing_is_left_open,
    test_sees_what_the_container_sees,
    test_user_cwd_and_environment,
)

from runtime.errors import ProcessFault
from tests.fakes.bundles import BOB, make_spec
from tests.kernel.launched import Box, Lab, captured, mounts_below, read_to_end, wait_for

__all__ = [
    "test_dies_with_the_container",
    "test_failures",
    "test_is_as_confined_as_the_container",
    "test_nothing_is_left_open",
    "test_sees_what_the_container_sees",
    "test_user_cwd_and_environment",
]

SERVER = "wherry-execs"


def server_of(lab: Lab) -> int:
    """The pid of the one that waits for its next exec."""
    while True:
        children = Path(f"/proc/{lab.launcher.pid}/task/{lab.launcher.pid}/children").read_text().split()
        for pid in children:
            if Path(f"/proc/{pid}/comm").read_text().strip() == SERVER and _is_waiting(int(pid)):
                return int(pid)
        time.sleep(0.001)  # the kernel tells nobody of a child, and asking the launcher would keep it from idling


def _is_waiting(pid: int) -> bool:
    return len(os.listdir(f"/proc/{pid}/task")) == 1 and "State:\tS" in Path(f"/proc/{pid}/status").read_text()


def times_woken(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@pytest.fixture(scope="module")
def warm_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()
    assert mounts_below(lab.directory) == []


@pytest.fixture
def lab(warm_lab: Lab) -> Iterator[Lab]:
    box = warm_lab.start(make_spec("sleep", "100"))
    assert warm_lab.exec(box, "true").code == 0  # the first says that there will be others
    server_of(warm_lab)
    yield warm_lab
    warm_lab.clean()


@pytest.fixture
def box(lab: Lab) -> Box:
    return lab.start(make_spec("sleep", "100"))


def is_served(lab: Lab, box: Box, *args: str, **process: Any) -> bool:
    server = server_of(lab)
    before = times_woken(server)
    assert lab.exec(box, *args, **process).out == "fine\n"
    return times_woken(server_of(lab)) > before


def test_serves_an_ordinary_exec(lab: Lab, box: Box) -> None:
    assert is_served(lab, box, "echo", "fine")
    assert is_served(lab, box, "sh", "-c", "echo fine", user={"uid": BOB, "gid": BOB, "additionalGids": [5, 6]})


def test_becomes_nobody_itself(lab: Lab, box: Box) -> None:
    server = server_of(lab)
    before = [os.readlink(f"/proc/{server}/{name}") for name in ("root", "cwd", "ns/mnt", "ns/pid", "ns/net")]
    status = Path(f"/proc/{server}/status").read_text()
    result = lab.exec(box, "id", user={"uid": BOB, "gid": BOB, "additionalGids": [5, 6]}, cwd="/tmp")
    assert result.out == "uid=1000(bob) gid=1000 groups=5,6\n"
    assert server_of(lab) == server
    assert [os.readlink(f"/proc/{server}/{name}") for name in ("root", "cwd", "ns/mnt", "ns/pid", "ns/net")] == before
    after = Path(f"/proc/{server}/status").read_text()
    for name in ("Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Umask"):
        assert _line(after, name) == _line(status, name)
    assert Path(f"/proc/{server}/cgroup").read_text() == Path(f"/proc/{lab.launcher.pid}/cgroup").read_text()


def _line(status: str, name: str) -> str:
    return next(line for line in status.splitlines() if line.startswith(f"{name}:"))


def test_keeps_no_descriptor(lab: Lab, box: Box) -> None:
    server = server_of(lab)
    before = sorted(os.listdir(f"/proc/{server}/fd"))
    for _ in range(3):
        lab.exec(box, "true")
    with pytest.raises(ProcessFault):
        lab.exec(box, "nope")
    assert server_of(lab) == server
    assert sorted(os.listdir(f"/proc/{server}/fd")) == before


def test_the_program_leads_its_session_and_is_the_launchers_child(lab: Lab, box: Box) -> None:
    # A signal to its group reaches nobody else.
    assert lab.exec(box, "sh", "-c", "trap 'echo fine; exit 3' TERM; kill -TERM 0").out == "fine\n"
    started = lab.start_exec(box, "y", "sleep", "100")
    fields = Path(f"/proc/{started.pid}/stat").read_text().rpartition(")")[2].split()
    assert (int(fields[1]), int(fields[2]), int(fields[3])) == (lab.launcher.pid, started.pid, started.pid)
    signal.pidfd_send_signal(started.pidfd, signal.SIGUSR1)
    assert lab.exit_of(box.name, "y")["code"] == 128 + signal.SIGUSR1
    os.close(started.pidfd)


@pytest.mark.parametrize(
    "process",
    [{"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]}, {"oomScoreAdj": 500}],
)
def test_what_belongs_to_a_process_is_done_by_one(lab: Lab, box: Box, process: dict[str, Any]) -> None:
    result = lab.exec(box, "sh", "-c", "ulimit -n; cat /proc/self/oom_score_adj", **process)
    assert result.out.split()["oomScoreAdj" in process] == ("500" if "oomScoreAdj" in process else "100")
    other = lab.exec(box, "sh", "-c", "ulimit -n; cat /proc/self/oom_score_adj")
    assert other.out.split()[0] != "100"
    assert other.out.split()[1] == "0"


def test_a_filter_that_might_keep_it_is_for_a_process_of_its_own(lab: Lab) -> None:
    spec = make_spec("sleep", "100")
    for rule in spec["linux"]["seccomp"]["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name != "madvise"]
    box = lab.start(spec)
    assert lab.exec(box, "echo", "fine").out == "fine\n"
    assert is_served(lab, lab.start(make_spec("sleep", "100")), "echo", "fine")


def test_one_that_was_killed_harms_nobody(lab: Lab, box: Box) -> None:
    started = lab.start_exec(box, "y", "sleep", "100")
    server = server_of(lab)
    pidfd = os.pidfd_open(server)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    wait_for(pidfd)
    os.close(pidfd)
    assert lab.exec(box, "echo", "fine").out == "fine\n"
    signal.pidfd_send_signal(started.pidfd, signal.SIGKILL)
    assert lab.exit_of(box.name, "y")["code"] == 137
    os.close(started.pidfd)
    assert server_of(lab) != server


def test_one_that_cannot_go_on_keeps_nobody_waiting(lab: Lab, box: Box) -> None:
    server = server_of(lab)
    os.kill(server, signal.SIGSTOP)
    document = box.bundle / "stuck.json"
    document.write_text(json.dumps(make_spec("true")["process"]))
    with captured() as (fds, output):
        stuck = lab.client.ask_exec(box.name, "stuck", document, fds=fds)
    assert lab.exec(box, "echo", "fine").out == "fine\n"
    box.kill()  # which ends the wait
    with pytest.raises(ProcessFault, match="is not running"):
        lab.client.started(stuck)
    assert [read_to_end(fd) for fd in output] == ["", ""]


def test_goes_with_the_launcher(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.exec(lab.start(make_spec("sleep", "100")), "true")
    pidfd = os.pidfd_open(server_of(lab))
    lab.launcher.kill()
    wait_for(pidfd, 30)
    os.close(pidfd)
    lab.close()
