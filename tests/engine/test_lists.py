"""GET /containers/json: every filter, and what a container looks like in it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from tests.engine.observing import state, wait_for_action
from tests.engine.test_containers import create
from tests.harness import RunningEngine


@dataclass
class Fleet:
    engine: RunningEngine
    ids: dict[str, str]

    def named(self, all: bool = True, **filters: list[str]) -> list[str]:
        """The names of what is found, in the list's order."""
        text = quote(json.dumps({name.replace("_", "-"): values for name, values in filters.items()}))
        found = self.engine.get(f"/containers/json?all={int(all)}&filters={text}")
        return [entry["Names"][0].removeprefix("/") for entry in found]


@pytest.fixture
def fleet(engine: RunningEngine) -> Iterator[Fleet]:
    """From oldest to newest: one that failed, one that runs with everything, a paused one, one never started."""
    ids = {
        "failed": create(engine, "sh", "-c", "exit 3", name="failed"),
        "web": create(
            engine,
            *("sleep", "60"),
            name="web",
            host={
                "PortBindings": {"80/tcp": [{"HostPort": "18080"}]},
                "Binds": ["fleet-volume:/data", "/etc:/in:ro"],
            },
            Labels={"tier": "front", "plain": ""},
            ExposedPorts={"9000/udp": {}},
        ),
        "frozen": create(engine, "sleep", "60", name="frozen", host={"NetworkMode": "none"}),
        "fresh": create(engine, "echo", "two words", "x", name="fresh"),
    }
    for name in ("failed", "web", "frozen"):
        engine.post(f"/containers/{ids[name]}/start")
    engine.post(f"/containers/{ids['frozen']}/pause")
    wait_for_action(engine, ids["failed"], "die")
    yield Fleet(engine, ids)
    for id in ids.values():
        engine.request("DELETE", f"/containers/{id}?force=1")
    engine.request("DELETE", "/volumes/fleet-volume")


ALL = ["fresh", "frozen", "web", "failed"]
FOUND: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ALL),
    ({"all": False}, ["frozen", "web"]),
    ({"name": ["f"]}, ["fresh", "frozen", "failed"]),
    ({"name": ["^/web$"]}, ["web"]),
    ({"name": ["^fr.*n$", "web"]}, ["frozen", "web"]),
    ({"name": ["("]}, []),
    ({"status": ["paused", "created"], "all": False}, ["fresh", "frozen"]),
    ({"exited": ["3"]}, ["failed"]),
    ({"exited": ["0"]}, []),
    ({"label": ["tier"]}, ["web"]),
    ({"label": ["tier=front", "plain"]}, ["web"]),
    ({"label": ["tier=back"]}, []),
    ({"before": ["web"]}, ["failed"]),
    ({"since": ["web"]}, ["fresh", "frozen"]),
    ({"since": ["failed"], "before": ["fresh"]}, ["frozen", "web"]),
    ({"ancestor": ["busybox"]}, ALL),
    ({"ancestor": ["busybox:latest"]}, ALL),
    ({"ancestor": ["nosuch"]}, []),
    ({"volume": ["fleet-volume"]}, ["web"]),
    ({"volume": ["/data"]}, ["web"]),
    ({"volume": ["/etc"]}, ["web"]),
    ({"network": ["none"]}, ["frozen"]),
    ({"network": ["bridge"], "name": ["web"]}, ["web"]),
    ({"publish": ["18080"]}, ["web"]),
    ({"publish": ["18000-18100/tcp"]}, ["web"]),
    ({"publish": ["80"]}, []),
    ({"expose": ["80/tcp"]}, ["web"]),
    ({"expose": ["9000/udp"]}, ["web"]),
    ({"health": ["none"]}, ALL),
    ({"is_task": ["false"]}, ALL),
    ({"is_task": ["true"]}, []),
    ({"isolation": ["hyperv"]}, ALL),
]


def test_filters(fleet: Fleet) -> None:
    for filters, names in FOUND:
        assert fleet.named(**filters) == names, filters
    web = fleet.ids["web"]
    assert fleet.named(id=[web]) == fleet.named(id=[web[:12]]) == ["web"]
    image = fleet.engine.get(f"/containers/{web}/json")["Image"]
    assert fleet.named(ancestor=[image]) == fleet.named(ancestor=[image[7:19]]) == ALL


REFUSED = [
    ({"colour": ["red"]}, 400, "invalid filter 'colour'"),
    ({"status": ["rubbish"]}, 400, "invalid filter 'status=rubbish'"),
    ({"health": ["rude"]}, 400, "invalid filter 'health=rude'"),
    ({"exited": ["x"]}, 400, "invalid filter 'exited=x'"),
    ({"is-task": ["maybe"]}, 400, "invalid filter 'is-task=[maybe]'"),
    ({"publish": ["1:2"]}, 400, "should not contain ':'"),
    ({"expose": ["99999"]}, 400, "error while looking up for expose 99999"),
    ({"before": ["nosuch"]}, 404, "No such container: nosuch"),
]


@pytest.mark.parametrize("filters, status, words", REFUSED, ids=[next(iter(case[0])) for case in REFUSED])
def test_what_is_refused(engine: RunningEngine, filters: dict[str, Any], status: int, words: str) -> None:
    answer = engine.message("GET", f"/containers/json?filters={quote(json.dumps(filters))}")
    assert answer[0] == status
    assert words in answer[1]


def test_limit_size_and_fields(fleet: Fleet) -> None:
    found = fleet.engine.get("/containers/json?limit=2")
    assert [entry["Names"] for entry in found] == [["/fresh"], ["/frozen"]]
    assert (found[0]["Command"], found[0]["State"], found[0]["Status"]) == ("echo 'two words' x", "created", "Created")
    assert found[1]["Status"].endswith(" (Paused)")
    assert "SizeRw" not in found[0]
    sized = fleet.engine.get("/containers/json?limit=1&size=1")[0]
    assert sized["SizeRootFs"] >= 1 << 20 > sized["SizeRw"] >= 0
    failed = fleet.engine.get("/containers/json?all=1")[-1]
    assert failed["Status"].startswith("Exited (3) ")


def test_an_image_whose_name_moved_on(engine: RunningEngine) -> None:
    """A list shows the image's id when its name means another one now; children are found by their ancestor."""
    id = create(engine, "true")
    image = engine.get(f"/containers/{id}/json")["Image"]
    engine.post("/images/busybox/tag?repo=moved&tag=1", expect=201)
    other = create(engine, "true", Image="moved:1")
    assert engine.get("/containers/json?limit=1")[0]["Image"] == "moved:1"
    engine.request("DELETE", "/images/moved:1")
    assert engine.get("/containers/json?limit=1")[0]["Image"] == image
    assert engine.get(f"/containers/{other}/json")["Config"]["Image"] == "moved:1"


def test_inspect_shows_everything(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60", name="whole", StopSignal="SIGQUIT", Healthcheck={"Test": ["NONE"]})
    engine.post(f"/containers/{id}/start")
    shown = engine.get(f"/containers/{id}/json?size=1")
    wanted = {
        *("Id", "Created", "Path", "Args", "State", "Image", "ResolvConfPath", "HostnamePath", "HostsPath", "LogPath"),
        *("Name", "RestartCount", "Driver", "Platform", "MountLabel", "ProcessLabel", "AppArmorProfile", "ExecIDs"),
        *("HostConfig", "GraphDriver", "SizeRw", "SizeRootFs", "Mounts", "Config", "NetworkSettings"),
    }
    assert wanted <= shown.keys()
    layers = shown["GraphDriver"]["Data"]
    assert all(layers[name].startswith("/") for name in ("LowerDir", "UpperDir", "WorkDir", "MergedDir"))
    assert (shown["Path"], shown["Args"], shown["Name"]) == ("sleep", ["60"], "/whole")
    assert (shown["Config"]["StopSignal"], shown["Config"]["Healthcheck"]) == ("SIGQUIT", {"Test": ["NONE"]})
    assert shown["State"]["StartedAt"] > shown["Created"]
    assert shown["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert state(engine, id)["Dead"] is False


def test_a_long_list_is_quick(engine: RunningEngine) -> None:
    for _ in range(100):
        create(engine, "sleep", "60", host={"PortBindings": {"80/tcp": [{}]}, "Binds": ["/etc:/in:ro"]})
    times = []
    for _ in range(5):
        before = time.perf_counter()
        assert len(engine.get("/containers/json?all=1")) >= 100
        times.append(time.perf_counter() - before)
    assert min(times) < 0.06  # a tenth of what a thousand are to take, times ten for a slow machine
