"""Running out of memory, as the container's own process and as one of its children."""

from __future__ import annotations

from tests.engine.observing import state, story, wait_for_action
from tests.engine.test_containers import create
from tests.harness import RunningEngine

LIMITED = {"Memory": 16 << 20, "MemorySwap": 16 << 20}


def test_a_child_is_killed_and_the_container_lives(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "tail /dev/zero; sleep 60", host=LIMITED)
    engine.post(f"/containers/{id}/start")
    wait_for_action(engine, id, "oom")
    shown = state(engine, id)
    assert (shown["Status"], shown["OOMKilled"]) == ("running", True)
    engine.post(f"/containers/{id}/kill")
    assert story(engine, id) == ["create", "start", "oom", "kill", "die"]


def test_its_own_process(engine: RunningEngine) -> None:
    id = create(engine, "tail", "/dev/zero", host=LIMITED)
    engine.post(f"/containers/{id}/start")
    assert engine.post(f"/containers/{id}/wait", expect=200)["StatusCode"] == 137
    assert state(engine, id)["OOMKilled"] is True
    assert story(engine, id) == ["create", "start", "oom", "die"]
