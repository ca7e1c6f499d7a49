"""Health checks, their results and their events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.engine.observing import events, state, status_text, wait_for_action
from tests.engine.test_containers import create
from tests.harness import RunningEngine

FAST_NS = 50_000_000


def check(*test: str, **more: Any) -> dict[str, Any]:
    return {"Healthcheck": {"Test": list(test), "Interval": FAST_NS, "Retries": 2, **more}}


def started(engine: RunningEngine, **config: Any) -> str:
    id = create(engine, "sleep", "60", **config)
    engine.post(f"/containers/{id}/start")
    return id


def test_from_starting_to_healthy_to_unhealthy(engine: RunningEngine) -> None:
    waiting = started(engine, **check("CMD", "true", Interval=3600_000_000_000))
    assert state(engine, waiting)["Health"]["Status"] == "starting"
    assert status_text(engine, waiting).endswith("(health: starting)")
    id = started(engine, **check("CMD-SHELL", "cat /verdict; test ! -e /verdict"))
    wait_for_action(engine, id, "health_status: healthy")
    assert status_text(engine, id).endswith("(healthy)")
    body = {"Cmd": ["sh", "-c", "echo sick > /verdict"]}
    engine.post(f"/exec/{engine.post(f'/containers/{id}/exec', body, 201)['Id']}/start", {"Detach": True}, 200)
    wait_for_action(engine, id, "health_status: unhealthy")
    health = state(engine, id)["Health"]
    assert (health["Status"], health["FailingStreak"] >= 2) == ("unhealthy", True)
    assert len(health["Log"]) <= 5
    last = health["Log"][-1]
    assert (last["ExitCode"], last["Output"]) == (1, "sick\n")
    assert last["Start"] < last["End"]
    actions = [event["Action"] for event in events(engine, id)]
    probe = "/bin/sh -c cat /verdict; test ! -e /verdict"
    assert actions[2:5] == [f"exec_create: {probe}", f"exec_start: {probe}", "exec_die"]


def test_a_probe_that_hangs_is_killed(engine: RunningEngine) -> None:
    id = started(engine, **check("CMD", "sleep", "1234", Timeout=100_000_000, Retries=1))
    wait_for_action(engine, id, "health_status: unhealthy")
    last = state(engine, id)["Health"]["Log"][0]
    assert (last["ExitCode"], last["Output"]) == (-1, "Health check exceeded timeout (100ms)")
    processes = engine.get(f"/containers/{id}/json")["ExecIDs"] or []
    assert len(processes) <= 1  # the killed ones do not pile up


def test_failures_in_the_start_period_do_not_count(engine: RunningEngine) -> None:
    id = started(engine, **check("CMD", "false", StartPeriod=60_000_000_000, StartInterval=FAST_NS))
    wait_for_action(engine, id, "exec_die", 4)
    assert state(engine, id)["Health"] | {"Log": []} == {"Status": "starting", "FailingStreak": 0, "Log": []}


def test_a_check_that_cannot_be_run_and_long_output(engine: RunningEngine) -> None:
    id = started(engine, **check("CMD", "nosuch", Retries=1))
    wait_for_action(engine, id, "health_status: unhealthy")
    last = state(engine, id)["Health"]["Log"][0]
    assert (last["ExitCode"], "executable file not found" in last["Output"]) == (-1, True)
    id = started(engine, **check("CMD-SHELL", "yes | head -c 5000"))
    wait_for_action(engine, id, "health_status: healthy")
    assert state(engine, id)["Health"]["Log"][0]["Output"] == "y\n" * 2048 + "..."


@pytest.mark.parametrize("test", [["NONE"], []])
def test_none(engine: RunningEngine, test: list[str]) -> None:
    id = started(engine, **check(*test))
    assert "Health" not in state(engine, id)
    assert "health" not in status_text(engine, id)


def test_what_is_refused(engine: RunningEngine) -> None:
    for wrong, words in (({"Interval": 5}, "cannot be less than 1ms"), ({"Retries": -1}, "cannot be negative")):
        body = {"Image": "busybox", "Cmd": ["true"], "Healthcheck": {"Test": ["CMD", "true"], **wrong}}
        status, message = engine.message("POST", "/containers/create", body)
        assert (status, words in message) == (400, True), message


def test_it_rests_while_paused_and_begins_anew_after_a_restart(engine: RunningEngine) -> None:
    id = started(engine, **check("CMD", "true"))
    wait_for_action(engine, id, "health_status: healthy")
    engine.post(f"/containers/{id}/pause")
    engine.post(f"/containers/{id}/unpause")
    count = sum(event["Action"] == "exec_die" for event in events(engine, id))
    wait_for_action(engine, id, "exec_die", count + 1)
    engine.post(f"/containers/{id}/restart?t=0")
    wait_for_action(engine, id, "health_status: healthy", 2)


def test_the_filter_of_the_list(engine: RunningEngine) -> None:
    with_check, without = started(engine, **check("CMD", "true")), started(engine)
    wait_for_action(engine, with_check, "health_status: healthy")
    for value, wanted in (("healthy", [with_check]), ("none", [without]), ("unhealthy", [])):
        filters = json.dumps({"health": [value]}).replace(" ", "")
        assert [found["Id"] for found in engine.get(f"/containers/json?filters={filters}")] == wanted


def test_the_engine_comes_back_to_it(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = started(engine, **check("CMD-SHELL", "test ! -e /sick"))
    wait_for_action(engine, id, "health_status: healthy")
    engine.kill()
    engine.restart()
    assert state(engine, id)["Health"]["Status"] == "healthy"
    body = {"Cmd": ["touch", "/sick"]}
    engine.post(f"/exec/{engine.post(f'/containers/{id}/exec', body, 201)['Id']}/start", {"Detach": True}, 200)
    wait_for_action(engine, id, "health_status: unhealthy")
