"""Restart policies, through every way a container and an engine can end."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.engine.observing import events, state, status_text, story, wait_for_action
from tests.engine.test_containers import create
from tests.engine.test_survival import wait_for
from tests.harness import RunningEngine


def policy(name: str, retries: int = 0) -> dict[str, Any]:
    return {"RestartPolicy": {"Name": name, "MaximumRetryCount": retries}}


def inspect(engine: RunningEngine, id: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.get(f"/containers/{id}/json")
    return found


REFUSED = [
    (policy("sometimes"), "unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"),
    (policy("always", 3), "maximum retry count can only be used with 'on-failure'"),
    (policy("on-failure", -1), "maximum retry count cannot be negative"),
    (policy("always") | {"AutoRemove": True}, "can't create 'AutoRemove' container with restart policy"),
]


@pytest.mark.parametrize("host, words", REFUSED, ids=["unknown", "retries", "negative", "rm"])
def test_create_refuses(engine: RunningEngine, host: dict[str, Any], words: str) -> None:
    status, message = engine.message(
        "POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host}
    )
    assert status == 400
    assert words in message


def test_on_failure_counts_to_its_end(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "exit 3", host=policy("on-failure", 2))
    engine.post(f"/containers/{id}/start")
    wait_for_action(engine, id, "die", 3)
    shown = inspect(engine, id)
    assert (shown["RestartCount"], shown["State"]["Status"], shown["State"]["ExitCode"]) == (2, "exited", 3)
    assert story(engine, id) == ["create", *["start", "die"] * 3]
    times = [event["timeNano"] / 1e9 for event in events(engine, id) if event["Action"] in ("start", "die")]
    assert times[2] - times[1] >= 0.1  # the first delay
    assert times[4] - times[3] >= 0.2  # twice as long


def test_on_failure_leaves_success_alone(engine: RunningEngine) -> None:
    id = create(engine, "true", host=policy("on-failure"))
    engine.post(f"/containers/{id}/start")
    wait_for_action(engine, id, "die")
    assert (state(engine, id)["Status"], inspect(engine, id)["RestartCount"]) == ("exited", 0)


def backing_off(engine: RunningEngine) -> str:
    """A container that has failed often enough to wait for 1.6 seconds."""
    id = create(engine, "false", host=policy("always"))
    engine.post(f"/containers/{id}/start")
    wait_for_action(engine, id, "die", 5)
    return id


def test_what_waiting_for_a_restart_looks_like(engine: RunningEngine) -> None:
    id = backing_off(engine)
    shown = state(engine, id)
    assert (shown["Status"], shown["Running"], shown["Restarting"], shown["Pid"]) == ("restarting", True, True, 0)
    assert status_text(engine, id).startswith("Restarting (1) ")
    assert engine.message("POST", f"/containers/{id}/exec", {"Cmd": ["true"]})[0] == 409
    assert engine.request("POST", f"/containers/{id}/start")[0] == 304
    status, message = engine.message("DELETE", f"/containers/{id}")
    assert (status, "container is restarting: stop the container before" in message) == (409, True)
    engine.post(f"/containers/{id}/stop")
    assert state(engine, id)["Status"] == "exited"
    assert story(engine, id)[-2:] == ["die", "stop"]
    assert engine.request("DELETE", f"/containers/{id}")[0] == 204


@pytest.mark.parametrize("method, path", [("POST", "/kill"), ("DELETE", "?force=1")], ids=["kill", "rm"])
def test_ending_the_wait(engine: RunningEngine, method: str, path: str) -> None:
    id = backing_off(engine)
    assert engine.request(method, f"/containers/{id}{path}")[0] == 204
    if method == "POST":
        assert state(engine, id)["Status"] == "exited"


def test_wait_returns_at_each_exit(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "sleep 0.1; exit 4", host=policy("always"))
    engine.post(f"/containers/{id}/start")
    for _ in range(2):
        assert engine.post(f"/containers/{id}/wait", expect=200) == {"StatusCode": 4}


@pytest.mark.parametrize("action", ["stop?t=0", "kill"])
def test_a_person_s_word_stands(engine: RunningEngine, action: str) -> None:
    id = create(engine, "sleep", "60", host=policy("always"))
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/{action}")
    assert state(engine, id)["Status"] == "exited"
    engine.post(f"/containers/{id}/restart?t=0")
    pid = state(engine, id)["Pid"]
    os.kill(pid, 9)  # a crash is nobody's word
    wait_for_action(engine, id, "start", 3)
    assert inspect(engine, id)["RestartCount"] == 1


def test_a_restart_of_an_auto_remove_container_keeps_it(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60", host={"AutoRemove": True})
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/restart?t=0")
    assert state(engine, id)["Running"]
    assert story(engine, id) == ["create", "start", "kill", "kill", "die", "stop", "start", "restart"]


def test_the_engine_s_own_start(new_engine: NewEngine, tmp_path: Path) -> None:
    """kill -9 of the engine, then everything that ran ends as well: a host that crashes."""
    engine = new_engine()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    hosts = {
        "always": policy("always"),
        "always, stopped": policy("always"),
        "unless-stopped": policy("unless-stopped"),
        "unless-stopped, stopped": policy("unless-stopped"),
        "on-failure": policy("on-failure", 5),
        "no": {},
        "rm": {"AutoRemove": True},
    }
    ids = {name: create(engine, "sleep", "60", host=host) for name, host in hosts.items()}
    never = create(engine, "sleep", "60", host=policy("always"))
    for name, id in ids.items():
        engine.post(f"/containers/{id}/start")
        if name.endswith("stopped, stopped") or name == "always, stopped":
            engine.post(f"/containers/{id}/kill")
    pids = [state(engine, id)["Pid"] for id in ids.values()]
    engine.kill()
    for pid in filter(None, pids):
        os.kill(pid, 9)
        wait_for(pid)
    engine.restart()
    expected = {
        "always": "running",
        "always, stopped": "running",
        "unless-stopped": "running",
        "unless-stopped, stopped": "exited",
        "on-failure": "running",
        "no": "exited",
    }
    for name, status in expected.items():
        if status == "running":
            wait_for_action(engine, ids[name], "start")
    assert {name: state(engine, ids[name])["Status"] for name in expected} == expected
    assert state(engine, never)["Status"] == "created"
    removed = engine.request("POST", f"/containers/{ids['rm']}/wait?condition=removed")
    assert removed[0] in (200, 404)
    assert engine.request("GET", f"/containers/{ids['rm']}/json")[0] == 404
    assert inspect(engine, ids["on-failure"])["RestartCount"] == 1


def test_an_engine_killed_while_one_waits(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = backing_off(engine)
    engine.kill()
    engine.restart()
    wait_for_action(engine, id, "start")
    engine.post(f"/containers/{id}/stop?t=0")


def test_shutdown_is_nobody_s_word(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = create(engine, "sleep", "60", host=policy("unless-stopped"))
    engine.post(f"/containers/{id}/start")
    engine.shutdown()
    engine.restart()
    wait_for_action(engine, id, "start")


def test_a_start_just_as_the_last_run_ends(engine: RunningEngine) -> None:
    id = create(engine, "true")

    def start_again_and_again(_: int) -> set[int]:
        return {engine.request("POST", f"/containers/{id}/start")[0] for _ in range(60)}

    with ThreadPoolExecutor(4) as clients:
        assert set().union(*clients.map(start_again_and_again, range(4))) <= {204, 304}
