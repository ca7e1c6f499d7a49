"""Any process may be killed at any line: containers run on, and the engine finds them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.engine.settings import EngineSettings
from runtime.launcher import protocol
from tests.engine.conftest import NewEngine
from tests.engine.test_containers import create, logs
from tests.harness import REPOSITORY, RunningEngine, leftovers


def is_running(engine: RunningEngine, id: str) -> bool:
    return bool(engine.get(f"/containers/{id}/json")["State"]["Running"])


def wait_for(pid: int) -> None:
    """Until a process that is no child of ours has gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    assert select.select([pidfd], [], [], 30)[0]
    os.close(pidfd)


def test_containers_outlive_the_engine(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = create(engine, "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done")
    ended = create(engine, "sh", "-c", "echo last words; exec sleep 0.2; exit 4")
    for one in (id, ended):
        engine.post(f"/containers/{one}/start")
    for end in (engine.stop, engine.kill):
        pid = engine.get(f"/containers/{id}/json")["State"]["Pid"]
        end()
        os.kill(pid, 0)
        engine.restart()
        state = engine.get(f"/containers/{id}/json")["State"]
        assert (state["Running"], state["Pid"]) == (True, pid)
    engine.post(f"/containers/{id}/stop?t=0")
    numbers = [int(line) for line in logs(engine, id)[0].split()]
    assert numbers == list(range(len(numbers)))  # no line lost, none twice
    assert engine.post(f"/containers/{ended}/wait", expect=200)["StatusCode"] == 0


def test_containers_outlive_engine_and_launcher(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = create(engine, "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done")
    engine.post(f"/containers/{id}/start")
    for _ in range(2):
        launcher = engine.launcher_pid()
        engine.kill()
        os.kill(launcher, signal.SIGKILL)
        wait_for(launcher)
        written = len(logs_on_disk(engine, id))
        engine.restart()
        deadline = time.monotonic() + 60
        while len(logs_on_disk(engine, id)) == written:  # what waited in the pipe, and what it goes on to say
            assert time.monotonic() < deadline and is_running(engine, id)
            time.sleep(0.01)
    engine.post(f"/containers/{id}/kill")
    engine.post(f"/containers/{id}/wait", expect=200)
    numbers = [int(line) for line in logs(engine, id)[0].split()]
    assert numbers == list(range(len(numbers)))


def logs_on_disk(engine: RunningEngine, id: str) -> bytes:
    return (engine.data_root / "containers" / id / f"{id}-json.log").read_bytes()


def test_an_exit_while_no_engine_runs_is_kept(new_engine: NewEngine, tmp_path: Path) -> None:
    engine = new_engine()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = "cat /gate; echo bye; exit 42"
    id = create(engine, "sh", "-c", script, host={"Binds": [f"{gate}:/gate"]})
    engine.post(f"/containers/{id}/start")
    pid = engine.get(f"/containers/{id}/json")["State"]["Pid"]
    engine.kill()
    gate.write_text("")
    wait_for(pid)
    engine.restart()
    assert engine.post(f"/containers/{id}/wait", expect=200)["StatusCode"] == 42
    assert logs(engine, id)[0] == "bye\n"


def test_a_killed_launcher_costs_only_exit_codes(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    os.kill(engine.launcher_pid(), signal.SIGKILL)
    other = create(engine, "sh", "-c", "echo new launcher")
    deadline = time.monotonic() + 10
    while engine.request("POST", f"/containers/{other}/start")[0] == 503:
        assert time.monotonic() < deadline
    assert engine.post(f"/containers/{other}/wait", expect=200)["StatusCode"] == 0
    assert is_running(engine, id)
    engine.post(f"/containers/{id}/kill")
    engine.post(f"/containers/{id}/wait", expect=200)
    state = engine.get(f"/containers/{id}/json")["State"]
    assert state["Status"] == "exited"
    assert "unknown" in state["Error"]


OLDER_LAUNCHER = """
import sys
from runtime.launcher import protocol
protocol.SOCKET_NAME, protocol.LOCK_NAME = "launcher-0.sock", "launcher-0.lock"
from runtime.launcher.main import main
sys.exit(main(sys.argv[2:]))
"""


def test_a_launcher_of_an_earlier_version_keeps_its_containers(new_engine: NewEngine) -> None:
    engine = new_engine()
    older, own = (engine.run_dir / name for name in ("launcher-0.sock", protocol.SOCKET_NAME))
    engine.stop()
    first = engine.launcher_pid()
    os.kill(first, signal.SIGTERM)
    wait_for(first)
    command = [sys.executable, "-c", OLDER_LAUNCHER, "launcher", "--run-dir", str(engine.run_dir), "--daemon"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    older.rename(own)  # its engine knows it by that name
    engine.restart()
    old_pid = engine.launcher_pid()
    id = create(engine, "sh", "-c", "trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done")
    engine.post(f"/containers/{id}/start")
    engine.stop()
    own.rename(older)

    engine.restart()
    assert is_running(engine, id)
    other = create(engine, "sleep", "60")
    engine.post(f"/containers/{other}/start")
    pid = engine.get(f"/containers/{other}/json")["State"]["Pid"]
    assert f"PPid:\t{old_pid}\n" not in Path(f"/proc/{pid}/status").read_text()
    assert engine.docker("exec", id, "echo", "still here").stdout == b"still here\n"
    engine.post(f"/containers/{id}/stop?t=30")
    assert engine.get(f"/containers/{id}/json")["State"]["ExitCode"] == 7
    assert logs(engine, id)[0].endswith("bye\n")
    wait_for(old_pid)  # it had no other
    assert is_running(engine, other)


def test_both_killed(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    launcher = engine.launcher_pid()
    engine.kill()
    os.kill(launcher, signal.SIGKILL)
    wait_for(launcher)
    engine.restart()
    assert is_running(engine, id)
    engine.post(f"/containers/{id}/stop?t=0")
    assert not is_running(engine, id)


def test_a_published_port_outlives_the_engine(new_engine: NewEngine) -> None:
    import urllib.request

    engine = new_engine()
    id = create(engine, "httpd", "-f", "-h", "/etc", host={"PortBindings": {"80/tcp": [{}]}})
    engine.post(f"/containers/{id}/start")

    def fetch() -> bytes:
        port = engine.get(f"/containers/{id}/json")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname", timeout=5) as answer:
            return bytes(answer.read())

    assert fetch() == f"{id[:12]}\n".encode()
    engine.kill()
    engine.restart()
    assert fetch() == f"{id[:12]}\n".encode()


def test_engines_side_by_side(new_engine: NewEngine) -> None:
    first, second = new_engine("one"), new_engine("two")
    for engine in (first, second):
        id = create(engine, "sleep", "60", name="same-name")
        engine.post(f"/containers/{id}/start")
    assert first.instance != second.instance
    subnets = {engine.get("/networks/bridge")["IPAM"]["Config"][0]["Subnet"] for engine in (first, second)}
    assert len(subnets) == 2


def test_a_second_engine_on_the_same_directories_is_refused(new_engine: NewEngine) -> None:
    engine = new_engine()
    command = [sys.executable, "-m", "runtime", "daemon", "--data-root", str(engine.data_root)]
    done = subprocess.run(
        [*command, "--run-dir", str(engine.run_dir)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "another engine" in done.stderr


def test_shutdown_after_kill_leaves_nothing(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = create(engine, "sh", "-c", "trap '' TERM; sleep 60", host={"PortBindings": {"80/tcp": [{}]}}, StopTimeout=0)
    engine.post(f"/containers/{id}/start")
    engine.kill()  # `new_engine` shuts it down and looks for leftovers


def test_a_store_from_the_future_is_refused(new_engine: NewEngine) -> None:
    import sqlite3

    engine = new_engine()
    engine.stop()
    store = sqlite3.connect(engine.data_root / "engine.db")
    (version,) = store.execute("PRAGMA user_version").fetchone()
    store.execute("PRAGMA user_version=99")
    store.close()
    try:
        engine.restart()
    except AssertionError as error:
        assert "newer Wherry" in str(error)
    else:
        raise AssertionError("it started")
    finally:
        store = sqlite3.connect(engine.data_root / "engine.db")
        store.execute(f"PRAGMA user_version={version}")
        store.close()
        engine.restart()


def test_what_a_power_cut_took_does_not_stop_the_engine(new_engine: NewEngine) -> None:
    """The store knows containers whose directories never reached the disk, running ones among them."""
    import shutil

    engine = new_engine()
    stopped, running = create(engine, "true"), create(engine, "sleep", "60")
    engine.post(f"/containers/{running}/start")
    launcher = engine.launcher_pid()
    pid = engine.get(f"/containers/{running}/json")["State"]["Pid"]
    engine.kill()
    for process in (launcher, pid):
        os.kill(process, signal.SIGKILL)
        wait_for(process)
    for id in (stopped, running):
        shutil.rmtree(engine.data_root / "containers" / id)
        shutil.rmtree(engine.data_root / "snapshots" / id)
    engine.restart()
    assert engine.get(f"/containers/{running}/json")["State"]["Status"] == "exited"
    engine.post(f"/containers/{stopped}/start")
    assert engine.post(f"/containers/{stopped}/wait", expect=200)["StatusCode"] == 0


@pytest.mark.parametrize("sign", ["run", "run/engine.lock", "data/engine.db", f"run/{protocol.SOCKET_NAME}"])
def test_shutdown_of_an_engine_killed_while_it_starts(tmp_path: Path, sign: str) -> None:
    """Whatever it had made by then goes, and nobody is told of a failure."""
    run_dir = tmp_path / "run"
    daemon = [sys.executable, "-m", "runtime", "daemon"]
    command = [*daemon, "--data-root", str(tmp_path / "data"), "--run-dir", str(run_dir)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
        try:
            while not (tmp_path / sign).exists():
                assert process.poll() is None
        finally:
            process.kill()
    for _ in range(2):
        down = [*daemon, "shutdown", "--run-dir", str(run_dir)]
        done = subprocess.run(down, cwd=REPOSITORY, capture_output=True, timeout=60, check=False)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done
    assert leftovers(EngineSettings(tmp_path / "data", run_dir).instance, tmp_path / "data") == []
    assert not list(run_dir.glob("*.sock"))
