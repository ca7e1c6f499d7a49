"""Rename, update, prune, wait and remove."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.engine.conftest import NewEngine
from tests.engine.observing import events, state, story, wait_for_action
from tests.engine.test_containers import create
from tests.harness import RunningEngine, UnixConnection


def test_rename(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60", name="before")
    create(engine, "true", name="taken")
    engine.post(f"/containers/{id}/start")
    engine.post("/containers/before/rename?name=/after")
    assert engine.get("/containers/after/json")["Name"] == "/after"
    assert engine.request("GET", "/containers/before/json")[0] == 404
    told = events(engine, id)[-1]
    assert (told["Action"], told["Actor"]["Attributes"]["oldName"]) == ("rename", "/before")
    assert told["Actor"]["Attributes"]["name"] == "after"
    for name, status, words in (
        ("taken", 409, 'Error when allocating new name: Conflict. The container name "/taken" is already in use by'),
        ("after", 400, "Renaming a container with the same name as its current name"),
        ("", 400, "Neither old nor new names may be empty"),
        ("a/b", 400, "Error when allocating new name: Invalid container name (/a/b)"),
    ):
        answer = engine.message("POST", f"/containers/after/rename?name={name}")
        assert (answer[0], words in answer[1]) == (status, True), answer
    create(engine, "true", name="before")  # free again


def test_update_of_a_running_one(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60", host={"Memory": 64 << 20})
    engine.post(f"/containers/{id}/start")
    changes = {"Memory": 32 << 20, "MemorySwap": 48 << 20, "PidsLimit": 33, "RestartPolicy": {"Name": "always"}}
    assert engine.post(f"/containers/{id}/update", changes, 200) == {"Warnings": None}
    limit = next(Path("/sys/fs/cgroup").glob(f"memory/wherry-{engine.instance}/{id}/memory.limit_in_bytes"))
    assert limit.read_text() == f"{32 << 20}\n"
    host = engine.get(f"/containers/{id}/json")["HostConfig"]
    assert (host["Memory"], host["PidsLimit"], host["RestartPolicy"]["Name"]) == (32 << 20, 33, "always")
    assert story(engine, id)[-1] == "update"
    engine.post(f"/containers/{id}/update", {"RestartPolicy": {"Name": "no"}}, 200)
    engine.post(f"/containers/{id}/restart?t=0")
    assert limit.read_text() == f"{32 << 20}\n"  # and it stays


def test_a_new_policy_counts_at_the_next_exit(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "sleep 0.2; exit 1")
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/update", {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}}, 200)
    wait_for_action(engine, id, "die", 2)
    assert engine.get(f"/containers/{id}/json")["RestartCount"] == 1


BAD_UPDATES: list[tuple[dict[str, Any], dict[str, Any], int, str]] = [
    ({}, {"Memory": 1024}, 400, "6MB"),
    ({"Memory": 8 << 20}, {"Memory": 64 << 20}, 409, "update the memoryswap at the same time"),
    ({"AutoRemove": True}, {"RestartPolicy": {"Name": "always"}}, 409, "because AutoRemove is enabled"),
    ({}, {"RestartPolicy": {"Name": "perhaps"}}, 400, "unknown policy 'perhaps'"),
    ({}, {"RestartPolicy": []}, 400, "UpdateConfig.RestartPolicy of type struct"),
]


@pytest.mark.parametrize("host, changes, status, words", BAD_UPDATES)
def test_updates_that_cannot_be(
    engine: RunningEngine, host: dict[str, Any], changes: dict[str, Any], status: int, words: str
) -> None:
    id = create(engine, "true", host=host)
    before = engine.get(f"/containers/{id}/json")["HostConfig"]
    code, raw = engine.request("POST", f"/containers/{id}/update", changes)
    assert (code, words in raw.decode()) == (status, True), raw
    assert engine.get(f"/containers/{id}/json")["HostConfig"] == before


def prune(engine: RunningEngine, **filters: list[str]) -> dict[str, Any]:
    text = quote(json.dumps({name.replace("label_not", "label!"): values for name, values in filters.items()}))
    answer: dict[str, Any] = engine.post(f"/containers/prune?filters={text}", expect=200)
    return answer


def test_prune(engine: RunningEngine) -> None:
    kept, dirty = create(engine, "sleep", "60"), create(engine, "sh", "-c", "head -c 100000 /dev/zero > /x")
    labelled = create(engine, "true", Labels={"keep": "me"})
    for id in (kept, dirty):
        engine.post(f"/containers/{id}/start")
    wait_for_action(engine, dirty, "die")
    assert prune(engine, until=["1h"]) == {"ContainersDeleted": None, "SpaceReclaimed": 0}
    assert prune(engine, label=["nosuch"])["ContainersDeleted"] is None
    done = prune(engine, label_not=["keep"])
    assert done == {"ContainersDeleted": [dirty], "SpaceReclaimed": 100_000}
    assert prune(engine, label=["keep=me"], until=[str(time.time() + 5)])["ContainersDeleted"] == [labelled]
    assert state(engine, kept)["Running"]
    status, message = engine.message("POST", f"/containers/prune?filters={quote(json.dumps({'name': ['x']}))}")
    assert (status, message) == (400, "invalid filter 'name'")
    text = quote(json.dumps({"until": ["soon"]}))
    assert engine.message("POST", f"/containers/prune?filters={text}")[0] == 400


def test_wait_conditions(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "exit 7")
    assert engine.post(f"/containers/{id}/wait", expect=200) == {"StatusCode": 0}  # it does not run
    assert engine.message("POST", f"/containers/{id}/wait?condition=never")[0] == 400
    waiting = UnixConnection(engine.socket)
    waiting.request("POST", f"/containers/{id}/wait?condition=next-exit")
    response = waiting.getresponse()
    engine.post(f"/containers/{id}/start")
    assert json.loads(response.read()) == {"StatusCode": 7}
    waiting.close()


def test_kill_and_stop_in_detail(engine: RunningEngine) -> None:
    script = "trap 'echo got it; exit 9' USR2; trap '' TERM; echo ready; while :; do sleep 0.05; done"
    id = create(engine, "sh", "-c", script, StopSignal="SIGUSR2", StopTimeout=-1)
    status, message = engine.message("POST", f"/containers/{id}/kill")
    assert (status, message) == (409, f"cannot kill container: {id}: container {id} is not running")
    engine.post(f"/containers/{id}/start")
    from tests.engine.test_containers import first_output

    first_output(engine, id)
    assert engine.message("POST", f"/containers/{id}/kill?signal=SIGNOPE")[0] == 400
    engine.post(f"/containers/{id}/kill?signal=TERM")  # which it ignores
    engine.post(f"/containers/{id}/stop")
    assert state(engine, id)["ExitCode"] == 9
    told = [event["Actor"]["Attributes"].get("signal") for event in events(engine, id) if event["Action"] == "kill"]
    assert told == ["15", "12"]
    died = next(event for event in events(engine, id) if event["Action"] == "die")["Actor"]["Attributes"]
    assert (died["exitCode"], died["execDuration"].isdigit()) == ("9", True)


def test_remove(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60", name="stubborn", host={"Binds": ["/anonymous"]})
    volume = engine.get(f"/containers/{id}/json")["Mounts"][0]["Name"]
    engine.post(f"/containers/{id}/start")
    status, message = engine.message("DELETE", f"/containers/{id}")
    words = 'cannot remove container "/stubborn": container is running: stop the container before removing'
    assert (status, words in message) == (409, True)
    assert engine.message("DELETE", f"/containers/{id}?link=1")[0] == 409
    assert engine.request("DELETE", f"/containers/{id}?force=1&v=1")[0] == 204
    assert engine.request("GET", f"/volumes/{volume}")[0] == 404
    assert story(engine, id) == ["create", "start", "kill", "die", "destroy"]


def test_a_removal_cut_short_is_finished(new_engine: NewEngine) -> None:
    import sqlite3

    engine = new_engine()
    id = create(engine, "true", host={"Binds": ["/anonymous"]})
    volume = engine.get(f"/containers/{id}/json")["Mounts"][0]["Name"]
    engine.kill()
    store = sqlite3.connect(engine.data_root / "engine.db")
    (text,) = store.execute("SELECT value FROM objects WHERE kind = 'container' AND id = ?", (id,)).fetchone()
    document = json.loads(text)
    document["state"]["status"] = "removing"
    store.execute("UPDATE objects SET value = ? WHERE id = ?", (json.dumps(document), id))
    store.commit()
    store.close()
    (engine.data_root / "containers" / id).rename(engine.data_root / "half-gone")
    engine.restart()
    assert engine.request("GET", f"/containers/{id}/json")[0] == 404
    assert engine.request("GET", f"/volumes/{volume}")[0] == 404
