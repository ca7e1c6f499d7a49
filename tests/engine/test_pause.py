"""A paused container: what it is, and what everything else does with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.conftest import NewEngine
from tests.engine.observing import state, status_text, story
from tests.engine.test_containers import create, first_output
from tests.harness import RunningEngine


@pytest.fixture
def paused(engine: RunningEngine) -> str:
    id = create(engine, "sleep", "60", name="frozen")
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/pause")
    return id


def test_pause_and_unpause(engine: RunningEngine, paused: str) -> None:
    shown = state(engine, paused)
    assert (shown["Status"], shown["Running"], shown["Paused"]) == ("paused", True, True)
    assert status_text(engine, paused).endswith("(Paused)")
    freezer = next(Path("/sys/fs/cgroup").glob(f"freezer/wherry-{engine.instance}/{paused}/freezer.state"))
    assert freezer.read_text() == "FROZEN\n"
    engine.post(f"/containers/{paused}/unpause")
    assert freezer.read_text() == "THAWED\n"
    assert state(engine, paused)["Status"] == "running"
    assert story(engine, paused) == ["create", "start", "pause", "unpause"]


REFUSALS = [
    ("POST", "pause", 409, "is already paused"),
    ("POST", "start", 409, "cannot start a paused container, try unpause instead"),
    ("DELETE", "", 409, "container is paused and must be unpaused first"),
    ("POST", "exec", 409, "Container frozen is paused, unpause the container before exec"),
]


@pytest.mark.parametrize("method, action, status, words", REFUSALS, ids=["pause", "start", "remove", "exec"])
def test_what_is_refused(engine: RunningEngine, paused: str, method: str, action: str, status: int, words: str) -> None:
    path = f"/containers/{paused}" + (f"/{action}" if action else "")
    answer = engine.message(method, path, {"Cmd": ["true"]} if action == "exec" else None)
    assert answer[0] == status
    assert words in answer[1]


def test_what_does_not_run_or_is_not_paused(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60")
    assert engine.message("POST", f"/containers/{id}/pause") == (409, f"container {id} is not running")
    engine.post(f"/containers/{id}/start")
    assert engine.message("POST", f"/containers/{id}/unpause") == (500, f"Container {id} is not paused")


def test_stop_wakes_it_to_end(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    engine.post(f"/containers/{id}/start")
    first_output(engine, id)
    engine.post(f"/containers/{id}/pause")
    engine.post(f"/containers/{id}/stop?t=20")
    assert state(engine, id)["ExitCode"] == 5
    assert story(engine, id) == ["create", "start", "pause", "kill", "unpause", "die", "stop"]


def test_kill_and_forced_removal(engine: RunningEngine, paused: str) -> None:
    engine.post(f"/containers/{paused}/kill")
    assert state(engine, paused)["ExitCode"] == 137
    engine.post(f"/containers/{paused}/start")
    engine.post(f"/containers/{paused}/pause")
    assert engine.request("DELETE", f"/containers/{paused}?force=1")[0] == 204


def test_restart_of_a_paused_one_runs(engine: RunningEngine, paused: str) -> None:
    engine.post(f"/containers/{paused}/restart?t=0")
    assert state(engine, paused)["Status"] == "running"


def test_it_stays_paused_when_the_engine_restarts(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/pause")
    engine.kill()
    engine.restart()
    assert state(engine, id)["Status"] == "paused"
    engine.kill()
    freezer = next(Path("/sys/fs/cgroup").glob(f"freezer/wherry-*/{id}/freezer.state"))
    freezer.write_text("THAWED")  # as if the engine had been killed right after that, before its note
    engine.restart()
    assert state(engine, id)["Status"] == "running"
