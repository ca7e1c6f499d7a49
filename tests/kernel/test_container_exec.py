"""Joining a running container."""

import errno
import os
from pathlib import Path

import pytest
from launched import Lab, lab, shared_lab

from runtime.errors import ProcessFault
from tests.fakes.bundles import BOB, make_spec

__all__ = ["lab", "shared_lab"]


def test_sees_what_the_container_sees(lab: Lab) -> None:
    box = lab.start(make_spec("sleep", "100"))
    kinds = ("pid", "net", "mnt", "ipc", "uts", "cgroup")
    result = lab.exec(box, "sh", "-c", "hostname; " + "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds))
    theirs = [os.readlink(f"/proc/{box.started.pid}/ns/{kind}") for kind in kinds]
    assert result.out.split() == ["box", *theirs]
    ours = [os.readlink(f"/proc/{lab.launcher.pid}/ns/{kind}") for kind in kinds]
    # The launcher lent itself for a moment only.
    assert ours == [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert os.readlink(f"/proc/{lab.launcher.pid}/ns/pid_for_children") == ours[0]


def test_is_as_confined_as_the_container(lab: Lab) -> None:
    box = lab.start(make_spec("sleep", "100"))
    own = Path(f"/proc/{box.started.pid}/status").read_text()
    status = lab.exec(box, "cat", "/proc/self/status").out
    for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "Seccomp", "NoNewPrivs"):
        pick = [line for line in own.splitlines() if line.startswith(f"{name}:")]
        assert pick == [line for line in status.splitlines() if line.startswith(f"{name}:")]


def test_user_cwd_and_environment(lab: Lab) -> None:
    box = lab.start(make_spec("sleep", "100"))
    result = lab.exec(
        box,
        "sh",
        "-c",
        "id -u; pwd; echo $A $HOME",
        user={"uid": BOB, "gid": BOB},
        cwd="/tmp",
        env=["PATH=/bin", "A=b"],
    )
    assert result.out.split() == ["1000", "/tmp", "b", "/home/bob"]


def test_nothing_is_left_open(lab: Lab) -> None:
    box = lab.start(make_spec("sleep", "100"))
    assert lab.exec(box, "ls", "/proc/self/fd").out.split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("args", "cwd", "phase", "code", "message"),
    [
        (["nope"], "/", "exec", errno.ENOENT, 'exec: "nope": executable file not found in $PATH'),
        (["/etc/passwd"], "/", "exec", errno.EACCES, 'exec: "/etc/passwd": permission denied'),
        (
            ["true"],
            "/nope",
            "cwd",
            errno.ENOENT,
            'chdir to cwd ("/nope") set in config.json failed: no such file or directory',
        ),
    ],
)
def test_failures(lab: Lab, args: list[str], cwd: str, phase: str, code: int, message: str) -> None:
    box = lab.start(make_spec("sleep", "100"))
    with pytest.raises(ProcessFault) as caught:
        lab.exec(box, *args, cwd=cwd)
    assert (caught.value.phase, caught.value.errno, str(caught.value)) == (phase, code, message)


def test_in_a_container_that_has_ended(lab: Lab) -> None:
    box = lab.start(make_spec("true"))
    lab.exit_of(box.name)
    with pytest.raises(ProcessFault, match="is not running"):
        lab.exec(box, "true")


def test_dies_with_the_container(lab: Lab) -> None:
    box = lab.start(make_spec("sleep", "100"))
    started = lab.start_exec(box, "x", "sleep", "100")
    box.kill()
    assert lab.exit_of(box.name)["code"] == 137
    assert lab.exit_of(box.name, "x")["code"] == 137
    os.close(started.pidfd)
