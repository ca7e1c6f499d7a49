"""Namespaces of the host's, of another container's, and cgroups below another parent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.harness import RunningEngine


def docker(engine: RunningEngine, *arguments: str, code: int = 0) -> str:
    done = engine.docker(*arguments)
    assert done.returncode == code, done
    return (done.stdout if code == 0 else done.stderr).decode().strip()


def test_pid_of_another(engine: RunningEngine) -> None:
    docker(engine, "run", "-d", "--name", "one", "busybox", "sleep", "987")
    assert "sleep 987" in docker(engine, "run", "--rm", "--pid", "container:one", "busybox", "ps")
    id = engine.get("/containers/one/json")["Id"]
    docker(engine, "create", "--name", "two", "--pid", "container:one", "busybox", "sh", "-c", "sleep 654 & sleep 321")
    assert engine.get("/containers/two/json")["HostConfig"]["PidMode"] == f"container:{id}"
    docker(engine, "start", "two")
    docker(engine, "kill", "two")
    # What `two` had started besides does not live on in the namespace of `one`.
    engine.docker("wait", "two")
    gone = "for i in $(seq 100); do ps | grep -q 'sleep [6]54' || exit 0; usleep 20000; done; exit 1"
    docker(engine, "exec", "one", "sh", "-c", gone)
    docker(engine, "kill", "one")
    assert "is not running" in docker(engine, "start", "two", code=1)
    assert engine.message("POST", "/containers/two/start")[0] == 409


def test_pid_of_nobody(engine: RunningEngine) -> None:
    assert "No such container: nobody" in docker(engine, "create", "--pid", "container:nobody", "busybox", code=1)


def test_ipc_shared(engine: RunningEngine) -> None:
    docker(engine, "run", "-d", "--name", "donor", "--ipc", "shareable", "--shm-size", "1m", "busybox", "sleep", "100")
    docker(engine, "exec", "donor", "sh", "-c", "echo hello > /dev/shm/note")
    run = ("run", "--rm", "--ipc", "container:donor", "busybox")
    assert docker(engine, *run, "sh", "-c", "cat /dev/shm/note; stat -c %a /dev/shm") == "hello\n1777"
    own = docker(engine, "exec", "donor", "readlink", "/proc/self/ns/ipc")
    assert docker(engine, *run, "readlink", "/proc/self/ns/ipc") == own
    docker(engine, "rm", "-f", "donor")
    assert str(engine.data_root) not in Path("/proc/self/mountinfo").read_text()


def test_ipc_not_shareable(engine: RunningEngine) -> None:
    docker(engine, "run", "-d", "--name", "private", "busybox", "sleep", "100")
    docker(engine, "create", "--name", "guest", "--ipc", "container:private", "busybox", "true")
    assert "non-shareable IPC" in docker(engine, "start", "guest", code=1)


def test_ipc_none_and_host(engine: RunningEngine) -> None:
    docker(engine, "run", "--rm", "--ipc", "none", "busybox", "grep", "/dev/shm", "/proc/mounts", code=1)
    own = os.readlink("/proc/self/ns/ipc")
    assert docker(engine, "run", "--rm", "--ipc", "host", "busybox", "readlink", "/proc/self/ns/ipc") == own


@pytest.mark.parametrize(
    "host, words",
    [
        ({"PidMode": "private"}, "invalid PID mode: private"),
        ({"IpcMode": "container:"}, "invalid IPC mode: container:"),
        ({"UTSMode": "container:x"}, "invalid UTS mode: container:x"),
        ({"UsernsMode": "mine"}, "invalid user namespace mode: mine"),
        ({"CgroupnsMode": "x"}, "invalid cgroup namespace mode: x"),
        ({"Runtime": "runsc"}, "unknown or invalid runtime name: runsc"),
        ({"Isolation": "hyperv"}, "invalid isolation 'hyperv' on linux"),
    ],
)
def test_no_such_mode(engine: RunningEngine, host: dict[str, Any], words: str) -> None:
    assert engine.message("POST", "/containers/create", {"Image": "busybox", "HostConfig": host}) == (400, words)


def test_host_names(engine: RunningEngine) -> None:
    host = os.uname().nodename
    assert docker(engine, "run", "--rm", "--network", "host", "busybox", "hostname") == host
    assert docker(engine, "run", "--rm", "--network", "host", "--hostname", "own", "busybox", "hostname") == "own"
    assert docker(engine, "run", "--rm", "--uts", "host", "busybox", "hostname") == host
    out = docker(
        engine, "run", "--rm", "-h", "a", "--domainname", "b.test", "busybox", "cat", "/proc/sys/kernel/domainname"
    )
    assert out == "b.test"
    assert "hostname and the UTS mode" in docker(engine, "create", "--uts", "host", "-h", "a", "busybox", code=1)


@pytest.mark.parametrize("parent", ["team/web", "/wherry-test-parent/deep"])
def test_cgroup_parent(engine: RunningEngine, parent: str) -> None:
    docker(engine, "run", "-d", "--name", "child", "--cgroup-parent", parent, "busybox", "sleep", "100")
    id = engine.get("/containers/child/json")["Id"]
    top = parent if parent.startswith("/") else f"/wherry-{engine.instance}/{parent}"
    groups = {
        line.split(":", 2)[2] for line in Path(f"/proc/{pid_of(engine, 'child')}/cgroup").read_text().splitlines()
    }
    assert f"{top}/{id}" in groups
    docker(engine, "rm", "-f", "child")
    left = [path for path in Path("/sys/fs/cgroup").rglob(parent.split("/")[-1]) if parent.split("/")[-2] in str(path)]
    assert left == []


def pid_of(engine: RunningEngine, name: str) -> int:
    return int(engine.get(f"/containers/{name}/json")["State"]["Pid"])


def test_a_parent_that_was_there_stays(engine: RunningEngine) -> None:
    roots = [root for root in Path("/sys/fs/cgroup").iterdir() if (root / "cgroup.procs").exists()] or [
        Path("/sys/fs/cgroup")
    ]
    made = [root / "wherry-test-kept" for root in roots]
    for path in made:
        path.mkdir()
    try:
        docker(engine, "run", "--rm", "--cgroup-parent", "/wherry-test-kept", "busybox", "true")
        assert all(path.is_dir() for path in made)
    finally:
        for path in made:
            path.rmdir()


def test_an_engine_that_comes_back(new_engine: NewEngine) -> None:
    """Containers below another parent, and what they share, outlive the engine; afterwards nothing is left."""
    engine = new_engine()
    run = ("run", "-d", "--ipc", "shareable", "--pid", "host")
    docker(engine, *run, "--name", "near", "--cgroup-parent", "team", "busybox", "sleep", "100")
    docker(engine, *run, "--name", "far", "--cgroup-parent", "/wherry-test-far", "busybox", "sleep", "100")
    engine.kill()
    engine.restart()
    for name in ("near", "far"):
        assert engine.get(f"/containers/{name}/json")["State"]["Running"]
        docker(engine, "exec", name, "touch", "/dev/shm/note")
        docker(engine, "run", "--rm", "--ipc", f"container:{name}", "busybox", "ls", "/dev/shm/note")
        docker(engine, "rm", "-f", name)
    assert not list(Path("/sys/fs/cgroup").glob("*/wherry-test-far"))
    assert str(engine.data_root) not in Path("/proc/self/mountinfo").read_text()
