"""The data root's disk is full, or has become read-only: who asks is told, what runs runs on, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.observing import story
from tests.engine.test_build import build, context
from tests.engine.test_containers import create, logs
from tests.engine.test_survival import wait_for
from tests.fakes.images import busybox_image_tar, directory, file
from tests.harness import RunningEngine

DISK_BYTES = 96 << 20
PATIENCE_S = 60
FULL = "no space left on device"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of its own for the data root of an engine on `tmp_path`."""
    image, data = tmp_path / "disk.ext4", tmp_path / "data"
    with image.open("wb") as disk:
        disk.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    data.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(data)], check=True)
    yield data
    subprocess.run(["umount", str(data)], check=True)  # not lazily: nobody may be using it any more


@pytest.fixture
def small_engine(small_disk: Path, busybox_archive: Path) -> Iterator[RunningEngine]:
    running = RunningEngine(small_disk.parent)
    running.load(busybox_archive)
    yield running
    running.close()


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while os.write(fd, b"x" * size):
                    pass
        yield
    finally:
        os.close(fd)
        filler.unlink()


def fails(engine: RunningEngine, method: str, path: str, body: Any = None) -> str:
    status, answer = engine.request(method, path, body)
    assert status == 500, (path, status, answer)
    message = str(json.loads(answer)["message"])
    assert FULL in message.lower(), message
    return message


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pictures(engine: RunningEngine) -> dict[str, list[str]]:
    return {name: sorted(os.listdir(engine.data_root / name)) for name in ("containers", "snapshots", "volumes")}


def test_a_full_disk(small_engine: RunningEngine, small_disk: Path, tmp_path: Path) -> None:
    script = "dd if=/dev/zero of=/big bs=1M count=4 2>/dev/null; trap 'exit 7' TERM; while :; do sleep 0.05; done"
    running, other = (create(small_engine, "sh", "-c", script, StopTimeout=10) for _ in range(2))
    for id in (running, other):
        small_engine.post(f"/containers/{id}/start")
        wait_until(lambda id=id: (small_engine.data_root / "snapshots" / id / "upper/big").exists())
    idle, unwanted = create(small_engine, "echo", "started"), create(small_engine, "true", name="unwanted")
    archive = busybox_image_tar(tmp_path / "other.tar", "other:latest", extra=[file("data", os.urandom(8 << 20))])
    big = [directory("v"), file("v/a", b"a" * (4 << 20))]
    small_engine.load(busybox_image_tar(tmp_path / "v.tar", "v:latest", extra=big))
    with full(small_disk):
        before = pictures(small_engine)
        message = fails(small_engine, "POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]})
        assert str(small_disk) in message and "free some disk space" in message
        fails(small_engine, "POST", "/containers/create", {"Image": "v", "HostConfig": {"Binds": ["new:/v"]}})
        fails(small_engine, "POST", "/volumes/create", {"Name": "another"})
        fails(small_engine, "POST", "/networks/create", {"Name": "another"})
        fails(small_engine, "POST", f"/commit?container={running}&repo=snap")
        fails(small_engine, "POST", f"/containers/{idle}/rename?name=renamed")
        fails(small_engine, "POST", f"/containers/{idle}/start")
        fails(small_engine, "POST", "/images/v/tag?repo=w")
        loading = small_engine.request("POST", "/images/load", archive.read_bytes())
        assert FULL in loading[1].decode().lower(), loading
        assert small_engine.docker("exec", running, "echo", "here").stdout == b"here\n"
        assert pictures(small_engine) == before
        # What has happened cannot be refused: the end of a container, a removal.
        small_engine.post(f"/containers/{running}/stop")
        assert small_engine.get(f"/containers/{running}/json")["State"]["ExitCode"] == 7
        assert "die" in story(small_engine, running)
        assert small_engine.request("DELETE", f"/containers/{unwanted}")[0] == 204
        assert "what happens until then is kept in memory" in small_engine.log()
    wait_until(lambda: "is written again" in small_engine.log())
    assert small_engine.request("DELETE", "/images/w")[0] == 404
    small_engine.post(f"/containers/{idle}/start")
    small_engine.post(f"/containers/{idle}/wait", expect=200)
    assert logs(small_engine, idle)[0] == "started\n"
    small_engine.load(archive)
    small_engine.post(f"/containers/{idle}/rename?name=renamed")
    small_engine.stop()
    store = sqlite3.connect(small_engine.data_root / "engine.db")
    assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = store.execute("SELECT id, value FROM objects WHERE kind = 'container'").fetchall()
    store.close()
    assert {id: json.loads(value)["state"]["exit_code"] for id, value in rows} == {running: 7, other: 0, idle: 0}
    small_engine.restart()
    with full(small_disk):  # images go from a full disk, and an engine that is killed on it forgets no exit
        assert small_engine.request("DELETE", "/images/other")[0] == 200
    with full(small_disk):
        small_engine.post(f"/containers/{other}/stop")
        small_engine.kill()
        small_engine.restart()
        state = small_engine.get(f"/containers/{other}/json")["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 7)


def test_builds_on_a_small_disk(small_engine: RunningEngine, small_disk: Path) -> None:
    """Full in the middle of a RUN, and while what it wrote becomes a layer; what was done before is kept."""

    def free_bytes() -> int:
        return os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize

    first = "FROM busybox\nRUN echo kept > /kept\n"
    assert "Successfully built" in str(build(small_engine, first)[-1])
    before, free = pictures(small_engine), free_bytes()
    whole = "RUN dd if=/dev/zero of=/big bs=1M count=200\n"
    lines = build(small_engine, first + whole)
    assert FULL in str(lines).lower() and "returned a non-zero code: 1" in str(lines[-1]), lines
    wait_until(lambda: free_bytes() > free - (1 << 20))  # what is discarded is deleted behind one's back
    half = f"RUN dd if=/dev/zero of=/big bs=1M count={free * 6 // 10 >> 20} 2>/dev/null\n"
    lines = build(small_engine, first + half)
    assert FULL in str(lines[-1]["error"]).lower(), lines
    assert pictures(small_engine) == before
    wait_until(lambda: free_bytes() > free - (1 << 20))
    with full(small_disk):
        status, answer = small_engine.request("POST", "/build", context(first, {"data": os.urandom(1 << 20)}))
        assert status == 500 and FULL in answer.decode().lower(), (status, answer)
    lines = build(small_engine, f"{first}RUN cat /kept\n")
    assert {"stream": " ---> Using cache\n"} in lines and {"stream": "kept\n"} in lines, lines
    assert small_engine.get("/containers/json?all=1") == []


def test_output_of_a_container_on_a_full_disk(small_engine: RunningEngine, small_disk: Path) -> None:
    """The container is not kept waiting; what could not be written is lost, and the engine's log says so."""
    gate = small_disk.parent / "gate"
    os.mkfifo(gate)
    script = "cat /gate; yes | head -c 200000; cat /gate; echo after"
    id = create(small_engine, "sh", "-c", script, host={"Binds": [f"{gate}:/gate"]})
    small_engine.post(f"/containers/{id}/start")
    with full(small_disk):
        pid = small_engine.get(f"/containers/{id}/json")["State"]["Pid"]
        gate.write_text("")
        wait_until(lambda: "output is lost until it can" in small_engine.log())
        told = "its log cannot be written, output is lost until it can: No space left on device"
        assert small_engine.get(f"/containers/{id}/json")["State"]["Error"] == told
        assert small_engine.get("/containers/json")[0]["Status"].endswith(" (log cannot be written)")
    gate.write_text("")
    wait_for(pid)
    small_engine.post(f"/containers/{id}/wait", expect=200)
    assert logs(small_engine, id)[0].endswith("after\n")
    assert small_engine.get(f"/containers/{id}/json")["State"]["Error"] == ""


def test_a_disk_that_becomes_read_only(small_engine: RunningEngine, small_disk: Path) -> None:
    """Seen through a mount: files that are open stay writable, all others are not. Then it is as before."""
    running, idle = create(small_engine, "sleep", "600"), create(small_engine, "true")
    small_engine.post(f"/containers/{running}/start")
    subprocess.run(["mount", "--bind", str(small_disk), str(small_disk)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(small_disk)], check=True)
    try:
        for path, body in (
            ("/containers/create", {"Image": "busybox", "Cmd": ["true"]}),
            ("/volumes/create", {"Name": "another"}),
            (f"/commit?container={running}", None),
            (f"/containers/{idle}/start", None),
        ):
            status, message = small_engine.message("POST", path, body)
            assert status == 500 and "read-only file system" in message.lower(), (path, status, message)
        assert small_engine.docker("exec", running, "echo", "here").stdout == b"here\n"
        small_engine.post(f"/containers/{running}/stop?t=0")
        status, message = small_engine.message("DELETE", f"/containers/{idle}")
        assert status == 500 and "read-only file system" in message.lower()
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
    for id in (running, idle):
        assert small_engine.request("DELETE", f"/containers/{id}")[0] == 204
    small_engine.post("/containers/create", {"Image": "busybox", "Cmd": ["true"]}, expect=201)


def test_a_disk_that_fails(small_engine: RunningEngine, small_disk: Path) -> None:
    """ext4 gives up, as after an I/O error: nothing can be written, not even to open files."""
    running = create(small_engine, "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done", StopTimeout=10)
    small_engine.post(f"/containers/{running}/start")
    subprocess.run(["mount", "-o", "remount,abort", str(small_disk)], check=True)
    assert small_engine.message("POST", "/volumes/create", {"Name": "another"})[0] == 500
    small_engine.post(f"/containers/{running}/stop")
    assert small_engine.get(f"/containers/{running}/json")["State"]["ExitCode"] == 7
    assert "cannot be written" in small_engine.log()
    # Mended: the engine has to be started again, for its files are those of the failed disk.
    launcher = small_engine.launcher_pid()
    small_engine.kill()
    os.kill(launcher, signal.SIGKILL)
    wait_for(launcher)
    subprocess.run(["umount", str(small_disk)], check=True)
    image = small_disk.parent / "disk.ext4"
    wait_until(lambda: not subprocess.run(["losetup", "-j", str(image)], capture_output=True, check=True).stdout)
    subprocess.run(["fsck.ext4", "-p", str(image)], check=False, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(small_disk)], check=True)
    small_engine.restart()
    for container in small_engine.get("/containers/json?all=1"):  # the failed disk may have taken the record of it
        assert small_engine.request("DELETE", f"/containers/{container['Id']}?force=1")[0] == 204
    small_engine.post("/containers/create", {"Image": "busybox", "Cmd": ["true"]}, expect=201)
