"""Whatever is killed, cut or stopped below a machine that is in use: clients are told or served, and soon all is well.

`python -m tests.soak` does the same and more, for longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import BootedMachine
from tests.vm.faults import (
    FAKE_CLOCK,
    cut_connections,
    kill_engine,
    kill_hostagent,
    kill_qemu,
    kill_sshd,
    stop_processors,
)
from tests.vm.traffic import Traffic, assert_nothing_missing, wait_same_time

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def offset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By how many seconds the clock of hostagents started from here on is wrong."""
    return tmp_path_factory.mktemp("clock") / "offset"


@pytest.fixture(scope="module")
def traffic(machine_home: BootedMachine, offset: Path) -> Iterator[Traffic]:
    machine_home.ensure_running()
    with pytest.MonkeyPatch.context() as patch, Traffic(machine_home) as traffic:
        patch.setenv("PYTHONPATH", os.pathsep.join([os.fspath(FAKE_CLOCK), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("WHERRY_FAKE_CLOCK_OFFSET", os.fspath(offset))
        yield traffic


def test_stopped_processors(machine: BootedMachine, traffic: Traffic) -> None:
    before = traffic.interruptions()["port"]
    traffic.wait_all_answered(stop_processors(machine, 5))
    wait_same_time(machine)
    assert traffic.interruptions()["port"] == before
    assert_nothing_missing(traffic.log(), 1)


@pytest.mark.parametrize("kill", [kill_hostagent, kill_sshd, kill_engine, cut_connections])
def test_what_containers_do_not_depend_on(
    machine: BootedMachine, traffic: Traffic, kill: Callable[[BootedMachine], float]
) -> None:
    before = traffic.interruptions()["port"]
    traffic.wait_all_answered(kill(machine))
    assert traffic.interruptions()["port"] == before, "the stream through the port goes on"
    assert_nothing_missing(traffic.log(), 1)


@pytest.mark.parametrize("seconds", [3600, 0])
def test_a_clock_that_is_set(machine: BootedMachine, traffic: Traffic, offset: Path, seconds: int) -> None:
    """After `kill_hostagent`: that of the new one can be set."""
    offset.write_text(str(seconds))
    wait_same_time(machine, seconds)


def test_a_killed_qemu(machine: BootedMachine, traffic: Traffic) -> None:
    """Started again by the hostagent; what was written and synced is there, and the container with its port too."""
    before = traffic.log()
    traffic.wait_all_answered(kill_qemu(machine))
    log = traffic.log()
    assert log[: len(before)] == before
    assert_nothing_missing(log, 2)
    assert "QEMU was killed by signal 9" in machine.paths.hostagent_log.read_text()
