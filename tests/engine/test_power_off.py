"""What a virtual machine asks of its engine: to wait for its data, and to stop containers when the power goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.engine.conftest import NewEngine
from tests.engine.test_containers import create
from tests.engine.test_restarts import policy, wait_for_action
from tests.harness import REPOSITORY


def test_containers_are_stopped_before_the_power_goes(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = create(engine, "sh", "-c", "trap 'exit 7' TERM; sleep 60 & wait", host=policy("always"))
    engine.post(f"/containers/{id}/start")
    pid = engine.get(f"/containers/{id}/json")["State"]["Pid"]
    engine.process.send_signal(signal.SIGPWR)
    assert engine.process.wait(60) == 0
    assert not Path(f"/proc/{pid}").exists()
    assert engine.process.stdout
    engine.process.stdout.close()
    engine.restart()
    wait_for_action(engine, id, "start")  # its policy is as it was


def test_an_engine_on_hold_touches_nothing_until_it_is_let_go(tmp_path: Path) -> None:
    data, run, gate = tmp_path / "data", tmp_path / "run", tmp_path / "gate"
    command = [sys.executable, "-m", "runtime", "daemon", "--data-root", str(data), "--run-dir", str(run)]
    with subprocess.Popen([*command, "--hold", str(gate)], cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 60
            while not gate.is_fifo():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            assert not data.exists() and not run.exists()
            with gate.open("wb"):
                pass
            assert process.stdout
            assert process.stdout.readline().startswith(b"API listen on")
        finally:
            process.terminate()
    os.unlink(gate)
    gate.touch()  # nothing to wait for
    with subprocess.Popen([*command, "--hold", str(gate)], cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline().startswith(b"API listen on")
        process.terminate()
    subprocess.run([*command[:4], "shutdown", "--run-dir", str(run)], cwd=REPOSITORY, check=True, timeout=60)
