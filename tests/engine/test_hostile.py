"""Containers and clients that take all they can get: everybody else is served meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.engine.test_containers import create
from tests.engine.test_cycles import rss_bytes
from tests.engine.test_survival import wait_for
from tests.harness import RunningEngine

# Generous, for a machine that does other things as well: what is being looked for is waiting without end.
PING_S = 2.0
LIFE_S = 20.0
PATIENCE_S = 30.0
MEMORY_BYTES = 64 << 20
FORKS = ["sh", "-c", "(while :; do sleep 600 & done) 2>/dev/null & exec sleep 600"]
SHOUTS = ["sh", "-c", "yes 'as loud as can be'"]
SMALL_LOG = {"LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}}


def check_served(engine: RunningEngine) -> None:
    pings_s, lives_s = [], []
    for _ in range(3):
        pings_s.append(seconds(lambda: engine.request("GET", "/_ping")))
        lives_s.append(seconds(lambda: live(engine)))
    assert statistics.median(pings_s) < PING_S and statistics.median(lives_s) < LIFE_S, (pings_s, lives_s)


def seconds(work: Any) -> float:
    before = time.monotonic()
    work()
    return time.monotonic() - before


def live(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "exit 3")
    engine.post(f"/containers/{id}/start")
    assert engine.post(f"/containers/{id}/wait", expect=200)["StatusCode"] == 3
    assert engine.request("DELETE", f"/containers/{id}")[0] == 204


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def running(engine: RunningEngine, command: list[str], **host: Any) -> Iterator[str]:
    id = create(engine, *command, host=host)
    engine.post(f"/containers/{id}/start")
    yield id
    assert engine.request("DELETE", f"/containers/{id}?force=1")[0] == 204


def test_a_container_that_forks_without_end(engine: RunningEngine) -> None:
    with running(engine, FORKS, PidsLimit=50) as id:
        wait_until(lambda: len(engine.get(f"/containers/{id}/top")["Processes"]) >= 45)
        check_served(engine)
        assert engine.get(f"/containers/{id}/stats?stream=0&one-shot=1")["pids_stats"]["current"] <= 50


def test_a_container_that_eats_memory(engine: RunningEngine) -> None:
    with running(engine, ["tail", "/dev/zero"], Memory=32 << 20, MemorySwap=32 << 20) as id:
        check_served(engine)
        assert engine.post(f"/containers/{id}/wait", expect=200)["StatusCode"] == 137
        assert engine.get(f"/containers/{id}/json")["State"]["OOMKilled"] is True


def test_containers_that_write_as_fast_as_they_can(engine: RunningEngine) -> None:
    with running(engine, SHOUTS, **SMALL_LOG) as one, running(engine, SHOUTS, **SMALL_LOG):
        check_served(engine)
        logs = engine.data_root / "containers" / one
        assert sum(path.stat().st_size for path in logs.iterdir() if path.is_file()) < 3 << 20
        before = rss_bytes(engine.process.pid)
        check_served(engine)
        assert rss_bytes(engine.process.pid) - before < MEMORY_BYTES


@pytest.fixture
def gulped(engine: RunningEngine) -> Iterator[list[socket.socket]]:
    """Sockets to be closed at the end; then the engine has given back what it had for them."""
    wait_until(lambda: engine.get("/info")["ContainersRunning"] == 0)
    before = len(os.listdir(f"/proc/{engine.process.pid}/fd"))
    sockets: list[socket.socket] = []
    yield sockets
    for one in sockets:
        one.close()
    wait_until(lambda: len(os.listdir(f"/proc/{engine.process.pid}/fd")) <= before)


def stalled(engine: RunningEngine, method: str, path: str) -> socket.socket:
    """A client that has asked and read the head of the answer, and reads no more."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE_S)
    client.connect(str(engine.socket))
    client.sendall(f"{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode())
    assert b" 200 " in client.recv(64)
    return client


def test_clients_that_stop_reading(engine: RunningEngine, gulped: list[socket.socket]) -> None:
    script = "dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; echo ready; exec yes 'as loud as can be'"
    with running(engine, ["sh", "-c", script], **SMALL_LOG) as id:
        wait_until(lambda: engine.request("GET", f"/containers/{id}/logs?stdout=1&tail=1")[1])
        before = rss_bytes(engine.process.pid)
        gulped.append(stalled(engine, "GET", f"/containers/{id}/archive?path=/big"))
        gulped.append(stalled(engine, "GET", f"/containers/{id}/logs?stdout=1&follow=1"))
        gulped.append(stalled(engine, "POST", f"/containers/{id}/attach?stream=1&stdout=1"))
        gulped.append(stalled(engine, "GET", "/events"))
        gulped.append(stalled(engine, "GET", f"/containers/{id}/export"))
        for _ in range(3):
            check_served(engine)
        assert rss_bytes(engine.process.pid) - before < MEMORY_BYTES


# --- the launcher


def test_the_launcher_is_killed_while_containers_and_execs_start(new_engine: NewEngine) -> None:
    engine = new_engine()
    lasting = create(engine, "sleep", "600")
    engine.post(f"/containers/{lasting}/start")
    starting = [create(engine, "sleep", "600") for _ in range(12)]
    execs = [engine.post(f"/containers/{lasting}/exec", {"Cmd": ["sleep", "600"]}, expect=201)["Id"] for _ in range(6)]
    answers: list[tuple[int, bytes]] = []
    paths = [f"/containers/{id}/start" for id in starting] + [f"/exec/{id}/start" for id in execs]
    body = {"Detach": True}
    clients = [
        threading.Thread(target=lambda path=path: answers.append(engine.request("POST", path, body))) for path in paths
    ]
    for number, client in enumerate(clients):
        if number == len(starting) // 2:
            launcher = engine.launcher_pid()
            os.kill(launcher, signal.SIGKILL)
            wait_for(launcher)
        client.start()
    for client in clients:
        client.join(PATIENCE_S)
    assert {status for status, _ in answers} <= {200, 204, 500, 503}, answers
    assert len(answers) == len(paths)
    for id in starting:  # what was answered with a success runs, all else can be started again
        wait_until(lambda id=id: engine.request("POST", f"/containers/{id}/start")[0] in (204, 304))
        assert engine.get(f"/containers/{id}/json")["State"]["Running"]
    assert len(engine.get("/containers/json")) == len(starting) + 1
    assert engine.docker("exec", lasting, "echo", "here").stdout == b"here\n"


def test_no_descriptors_left(tmp_path: Path, busybox_archive: Path) -> None:
    engine = RunningEngine(tmp_path, prefix=["prlimit", "--nofile=120:120"])
    try:
        engine.load(busybox_archive)
        up: list[str] = []
        message = ""
        while not message and len(up) < 120:
            id = create(engine, "sleep", "600", host={"NetworkMode": "none"})
            status, answer = engine.request("POST", f"/containers/{id}/start")
            assert status in (204, 500), answer
            if status == 204:
                up.append(id)
            else:
                message = answer.decode()
        assert "too many open files" in message.lower() and "LimitNOFILE=" in message, message
        assert len(up) > 10
        assert engine.request("GET", "/_ping")[0] == 200
        for id in up[:5]:
            assert engine.request("DELETE", f"/containers/{id}?force=1")[0] == 204
        live(engine)
    finally:
        engine.close()


@pytest.mark.skipif(not Path("/sys/fs/cgroup/pids").exists(), reason="limits the launcher by a cgroup of version 1")
def test_no_processes_left(new_engine: NewEngine) -> None:
    engine = new_engine()
    group = Path(f"/sys/fs/cgroup/pids/wherry-test-{os.getpid()}")
    group.mkdir()
    ids: list[str] = []
    try:
        (group / "pids.max").write_text("1")
        (group / "cgroup.procs").write_text(str(engine.launcher_pid()))
        message = ""
        while not message and len(ids) < 10:  # some inits stand ready
            ids.append(create(engine, "sleep", "600", host={"NetworkMode": "none"}))
            status, answer = engine.request("POST", f"/containers/{ids[-1]}/start")
            message = answer.decode() if status == 500 else ""
        assert "no process can be made" in message and "kernel.pid_max" in message, message
        (group / "pids.max").write_text("max")
        engine.post(f"/containers/{ids[-1]}/start")
    finally:
        for id in ids:
            engine.request("DELETE", f"/containers/{id}?force=1")
        wait_until(lambda: is_emptied(group))


def is_emptied(group: Path) -> bool:
    """The launcher makes inits, and those that have ended stay a moment longer."""
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (group.parent / "cgroup.procs").write_text(pid)
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def test_many_containers_at_once(new_engine: NewEngine) -> None:
    engine = new_engine()
    count = int(os.environ.get("WHERRY_MANY", "150"))
    for _ in range(count):
        engine.post(f"/containers/{create(engine, 'sleep', '600', host={'NetworkMode': 'none'})}/start")
    assert seconds(lambda: engine.get("/containers/json")) < PING_S + count / 100
    assert len(engine.get("/containers/json")) == count
    check_served(engine)
    engine.kill()
    engine.restart()
    assert len(engine.get("/containers/json")) == count
    # `new_engine` ends them all together.
