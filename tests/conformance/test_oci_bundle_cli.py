"""`python -m runtime oci` where runc is no measure: what it refuses, and what it leaves behind."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.bundles import make_rootfs, make_spec


@pytest.fixture
def oci(tmp_path: Path) -> Any:
    make_rootfs(tmp_path / "rootfs")

    def call(*args: str, spec: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        if spec is not None:
            (tmp_path / "config.json").write_text(json.dumps(spec))
        command = [sys.executable, "-m", "runtime", "oci", "--root", str(tmp_path / "state"), *args]
        # Files, not pipes: a created container would hold a pipe open.
        out, err = tmp_path / "out", tmp_path / "err"
        with out.open("w") as out_file, err.open("w") as err_file:
            code = subprocess.run(command, check=False, stdout=out_file, stderr=err_file, timeout=60).returncode
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())

    return lambda *args, **more: call(*(str(tmp_path) if arg == "BUNDLE" else arg for arg in args), **more)


def leftovers(directory: Path) -> list[str]:
    found = [str(path) for path in Path("/sys/fs/cgroup").glob("*/wherry-oci*")]
    state = directory / "state"
    return found + ([entry.name for entry in state.iterdir()] if state.is_dir() else [])


FAILURES = {
    "program": lambda spec: spec["process"].update(args=["nope"]),
    "cwd": lambda spec: spec["process"].update(cwd="/etc/passwd"),
    "rlimit": lambda spec: spec["process"].update(rlimits=[{"type": "RLIMIT_NO", "soft": 1, "hard": 1}]),
    "mount": lambda spec: spec["mounts"].append({"destination": "/x", "type": "bind", "source": "/no/such"}),
    "filesystem": lambda spec: spec["mounts"].append({"destination": "/x", "type": "nofs"}),
    "root": lambda spec: spec["root"].update(path="elsewhere"),
    "namespace": lambda spec: spec["linux"]["namespaces"][0].update(path="/no/such"),
    "cgroup": lambda spec: spec["linux"].update(resources={"memory": {"limit": -5}}),
    "seccomp": lambda spec: spec["linux"]["seccomp"].update(defaultAction="SCMP_ACT_SING"),
    "sysctl": lambda spec: spec["linux"]["sysctl"].update({"net.no.such": "1"}),
    "prestart hook": lambda spec: spec.update(hooks={"prestart": [{"path": "/no/such"}]}),
    "hook too slow": lambda spec: spec.update(
        hooks={"createContainer": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]}
    ),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_failed_create_leaves_nothing(oci: Any, tmp_path: Path, what: str) -> None:
    spec = make_spec("true")
    spec["linux"]["seccomp"] = dict(spec["linux"]["seccomp"])
    FAILURES[what](spec)
    result = oci("create", "--bundle", "BUNDLE", "wherry-test-failing", spec=spec)
    assert result.returncode == 1, result
    assert result.stderr.startswith("wherry oci: ")
    assert "Traceback" not in result.stderr
    assert leftovers(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_run_leaves_nothing(oci: Any, tmp_path: Path) -> None:
    assert oci("run", "--bundle", "BUNDLE", "wherry-test-run", spec=make_spec("true")).returncode == 0
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("args", "code"), [(["nope"], 127), (["/etc/passwd"], 126), (["/bin"], 126)])
def test_exit_codes_of_what_cannot_be_run(oci: Any, args: list[str], code: int) -> None:
    assert oci("run", "--bundle", "BUNDLE", "wherry-test-code", spec=make_spec(*args)).returncode == code


def test_list_and_features(oci: Any) -> None:
    assert oci("create", "--bundle", "BUNDLE", "wherry-test-list", spec=make_spec("true")).returncode == 0
    try:
        [_, line] = oci("list").stdout.splitlines()
        assert line.split()[0] == "wherry-test-list"
        assert line.split()[2] == "created"
    finally:
        assert oci("delete", "--force", "wherry-test-list").returncode == 0
    features = json.loads(oci("features").stdout)
    assert "mount" in features["linux"]["namespaces"]
    assert "ro" in features["mountOptions"]


def test_delete_wants_a_stopped_container(oci: Any) -> None:
    # The specification says so; runc stops a created one by itself.
    assert oci("create", "--bundle", "BUNDLE", "wherry-test-delete", spec=make_spec("true")).returncode == 0
    try:
        assert "it is created" in oci("delete", "wherry-test-delete").stderr
    finally:
        assert oci("delete", "--force", "wherry-test-delete").returncode == 0


def test_a_bad_id_is_refused(oci: Any) -> None:
    assert "invalid container id" in oci("state", "../../etc").stderr


def test_a_killed_created_container_is_stopped(oci: Any) -> None:
    oci("create", "--bundle", "BUNDLE", "wherry-test-kill", spec=make_spec("true"))
    try:
        pid = json.loads(oci("state", "wherry-test-kill").stdout)["pid"]
        pidfd = os.pidfd_open(pid)
        assert oci("kill", "wherry-test-kill", "9").returncode == 0
        assert select.select([pidfd], [], [], 10)[0]
        os.close(pidfd)
        assert "pid" not in json.loads(oci("state", "wherry-test-kill").stdout)
        assert oci("start", "wherry-test-kill").returncode == 1
    finally:
        assert oci("delete", "wherry-test-kill").returncode == 0
