"""Devices: single ones, directories of them, rules, CDI, and everything for a privileged container."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.harness import RunningEngine


def run(engine: RunningEngine, *arguments: str) -> str:
    done = engine.docker("run", "--rm", *arguments)
    assert done.returncode == 0, done
    return done.stdout.decode().strip()


def refused(engine: RunningEngine, *arguments: str) -> str:
    done = engine.docker("run", "--rm", *arguments, "busybox", "true")
    assert done.returncode in (125, 127), done  # the CLI makes 127 of every "no such file"
    return done.stderr.decode()


READ = "head -c1 /dev/x >/dev/null && echo read || echo no; (: > /dev/x) 2>/dev/null && echo write || echo no"


@pytest.mark.parametrize("access, expected", [("r", "read no"), ("w", "no write"), ("rw", "read write")])
def test_access(engine: RunningEngine, access: str, expected: str) -> None:
    # kmsg: no container has it, and root may both read and write it.
    out = run(engine, "--device", f"/dev/loop0:/dev/x:{access}", "busybox", "sh", "-c", f"({READ}) 2>/dev/null")
    # An empty loop device reads as end of file, which is a success.
    assert out.split() == expected.split()


def test_a_directory_of_devices(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    os.mknod(tmp_path / "one", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(tmp_path / "below/two", stat.S_IFCHR | 0o640, os.makedev(1, 5))
    (tmp_path / "file").write_text("no device")
    out = run(engine, "--device", f"{tmp_path}:/dev/many", "busybox", "find", "/dev/many", "-type", "c")
    assert sorted(out.split()) == ["/dev/many/below/two", "/dev/many/one"]


def test_what_is_no_device(engine: RunningEngine, tmp_path: Path) -> None:
    text = 'error gathering device information while adding custom device "/dev/nosuch": no such file or directory'
    assert text in refused(engine, "--device", "/dev/nosuch")
    assert "not a device node" in refused(engine, "--device", "/etc/passwd:/dev/x")
    bad = {"Image": "busybox", "HostConfig": {"Devices": [{"PathOnHost": "/dev/null", "CgroupPermissions": "rx"}]}}
    assert engine.message("POST", "/containers/create", bad) == (400, "invalid device mode: rx")


def test_device_cgroup_rule(engine: RunningEngine) -> None:
    use = "mknod /dev/x b 7 0 && head -c1 /dev/x"
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", use).returncode != 0
    run(engine, "--device-cgroup-rule", "b 7:* r", "busybox", "sh", "-c", use)
    body = {"Image": "busybox", "HostConfig": {"DeviceCgroupRules": ["b 7 rwm"]}}
    assert engine.message("POST", "/containers/create", body) == (400, "invalid device cgroup rule format: 'b 7 rwm'")


def test_privileged(engine: RunningEngine) -> None:
    script = "ls /dev | grep -c loop; touch /sys/fs/cgroup/*/x 2>&1 | grep -c 'Read-only'; "
    script += "grep -E '^(Seccomp:|CapEff)' /proc/self/status; grep ' /sys ' /proc/mounts; cat /proc/interrupts | wc -l"
    lines = run(engine, "--privileged", "busybox", "sh", "-c", script).splitlines()
    assert int(lines[0]) == len(list(Path("/dev").glob("loop*")))
    assert lines[1] == "0"
    bounding = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapBnd" in line)
    assert lines[2].split()[1] == bounding.split()[1]
    assert lines[3].split()[1] == "0"
    assert " rw," in lines[4]
    assert int(lines[5]) > 1
    assert run(engine, "--privileged", "busybox", "sh", "-c", "head -c1 /dev/loop0 >/dev/null; echo yes") == "yes"


# --- CDI


SPEC: dict[str, Any] = {
    "cdiVersion": "0.6.0",
    "kind": "example.test/toy",
    "containerEdits": {"env": ["ALL_TOYS=1"]},
    "devices": [
        {
            "name": "a",
            "containerEdits": {
                "env": ["TOY=a"],
                "deviceNodes": [{"path": "/dev/toy", "hostPath": "/dev/loop0", "permissions": "r"}],
                "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/toy/name", "options": ["ro", "bind"]}],
                "hooks": [{"hookName": "startContainer", "path": "/bin/touch", "args": ["touch", "/tmp/toy-hook"]}],
                "additionalGids": [4242],
            },
        },
        {"name": "b", "containerEdits": {"env": ["TOY=b"], "intelRdt": {"closID": "x"}}},
        {"name": "c", "containerEdits": {"deviceNodes": [{"path": "/dev/nosuch"}]}},
    ],
}


@pytest.fixture
def cdi_engine(new_engine: NewEngine, tmp_path: Path) -> RunningEngine:
    specs = tmp_path / "cdi"
    specs.mkdir()
    (specs / "toy.json").write_text(json.dumps(SPEC))
    (specs / "broken.json").write_text("{")
    (specs / "other.yaml").write_text("cdiVersion: 0.6.0")
    gpus = {**SPEC, "kind": "nvidia.com/gpu", "devices": [{"name": "all", "containerEdits": {"env": ["GPU=all"]}}]}
    (specs / "gpu.json").write_text(json.dumps(gpus))
    return new_engine("cdi", "--cdi-spec-dir", str(specs))


def test_cdi(cdi_engine: RunningEngine) -> None:
    script = "echo $ALL_TOYS $TOY; ls -l /dev/toy | cut -c1; cat /toy/name; id -G; ls /tmp; "
    script += "head -c1 /dev/toy > /dev/null; : > /dev/toy"
    done = cdi_engine.docker("run", "--rm", "--device", "example.test/toy=a", "busybox", "sh", "-c", script)
    host = Path("/etc/hostname").read_text().strip()
    assert done.stdout.decode().split() == ["1", "a", "b", host, "0", "4", "10", "4242", "toy-hook"]
    assert b"Operation not permitted" in done.stderr
    assert done.returncode == 1
    text = refused(cdi_engine, "--device", "example.test/toy=z")
    assert "CDI device injection failed: unresolvable CDI devices example.test/toy=z" in text
    assert "other.yaml cannot be used: " in text  # it says no kind, or there is nobody to read it
    assert "Intel RDT" in refused(cdi_engine, "--device", "example.test/toy=b")
    assert 'failed to stat CDI host device "/dev/nosuch"' in refused(cdi_engine, "--device", "example.test/toy=c")
    assert run(cdi_engine, "--gpus", "all", "busybox", "sh", "-c", "echo $GPU") == "all"
    found = cdi_engine.get("/info")["DiscoveredDevices"]
    assert {"Source": "cdi", "ID": "example.test/toy=a"} in found


def test_gpus_without_a_driver(engine: RunningEngine) -> None:
    assert 'could not select device driver "" with capabilities: [[gpu]]' in refused(engine, "--gpus", "all")
