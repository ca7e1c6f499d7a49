"""What the engine says of itself, what it has on disk, and what it leaves to others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.engine.conftest import EMBEDDED_IMAGES
from tests.engine.test_containers import create
from tests.fakes.images import docker_archive, file, tar_of
from tests.harness import RunningEngine

SWARM = [("GET", "/swarm"), ("GET", "/nodes"), ("GET", "/services"), ("POST", "/services/create"), ("GET", "/tasks")]
SWARM += [("GET", "/secrets"), ("POST", "/configs/create"), ("GET", "/nodes/self"), ("DELETE", "/services/x")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, busybox_archive: Path) -> Iterator[RunningEngine]:
    """An engine of its own: what is counted here is all there is."""
    running = RunningEngine(tmp_path_factory.mktemp("system"), "--embedded-images", str(EMBEDDED_IMAGES))
    running.load(busybox_archive)
    yield running
    running.close()


def prune(engine: RunningEngine, what: str, **filters: list[str]) -> dict[str, object]:
    query = urlencode({"filters": json.dumps({name.replace("__", "!"): value for name, value in filters.items()})})
    document: dict[str, object] = engine.post(f"/{what}/prune?{query}", expect=200)
    return document


def load_small(engine: RunningEngine, path: Path, name: str, size: int, **labels: str) -> str:
    """An image of one file; its id."""
    layer = tar_of([file(name, b"x" * size)])
    engine.load(docker_archive(path, [layer], [f"{name}:1"], {"Labels": labels}))
    return str(engine.get(f"/images/{name}:1/json")["Id"])


def test_info(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    create(engine, "true")
    info = engine.get("/info")
    assert (info["Containers"], info["ContainersRunning"], info["ContainersStopped"]) == (2, 1, 1)
    assert info["Images"] == len(engine.get("/images/json"))
    assert info["NCPU"] > 0 and info["MemTotal"] > 1 << 20 and info["NFd"] > 5
    assert info["DriverStatus"][0][0] == "Backing Filesystem"
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert info["FirewallBackend"] == {"Driver": "nftables"}
    assert "FirewallBackend" not in engine.get("/v1.48/info")
    assert abs(time.time() - time.mktime(time.strptime(info["SystemTime"][:19], "%Y-%m-%dT%H:%M:%S"))) < 24 * 3600
    assert engine.get("/info")["ID"] == info["ID"]


def test_paused_containers_are_counted(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/pause")
    info = engine.get("/info")
    assert (info["ContainersRunning"], info["ContainersPaused"], info["ContainersStopped"]) == (0, 1, 0)
    engine.post(f"/containers/{id}/unpause")


def test_version(engine: RunningEngine) -> None:
    version = engine.get("/version")
    details = version["Components"][0]["Details"]
    assert version["Components"][0]["Name"] == "Engine"
    for name in ("ApiVersion", "Arch", "BuildTime", "GitCommit", "GoVersion", "KernelVersion", "MinAPIVersion", "Os"):
        assert version[name] == details[name] != ""


def test_disk_usage(engine: RunningEngine, tmp_path: Path) -> None:
    id = create(engine, "sh", "-c", "head -c 5000 /dev/zero > /written", host={"Binds": ["measured:/v"]})
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/wait", expect=200)
    usage = engine.get("/system/df")
    container = next(container for container in usage["Containers"] if container["Id"] == id)
    assert 5000 <= container["SizeRw"] < 10_000
    busybox = next(image for image in usage["Images"] if "busybox:latest" in image["RepoTags"])
    assert container["SizeRootFs"] == container["SizeRw"] + busybox["Size"]
    assert (busybox["Containers"], busybox["SharedSize"]) == (1, 0)
    assert usage["LayersSize"] >= busybox["Size"] > 0
    volume = next(volume for volume in usage["Volumes"] if volume["Name"] == "measured")
    assert volume["UsageData"] == {"Size": 0, "RefCount": 1}
    assert usage["BuildCache"] == []
    only = engine.get("/system/df?type=volume&type=build-cache")
    assert (only["Images"], only["Containers"], only["BuildCache"]) == (None, None, [])
    assert only["Volumes"]
    assert engine.message("GET", "/system/df?type=sofa") == (400, "unknown object type: sofa")
    engine.request("DELETE", f"/containers/{id}")
    engine.request("DELETE", "/volumes/measured")


def test_shared_layers_count_once(engine: RunningEngine, tmp_path: Path) -> None:
    shared, own = tar_of([file("shared", b"x" * 3000)]), tar_of([file("own", b"x" * 200)])
    engine.load(docker_archive(tmp_path / "a", [shared], ["shares-a:1"]))
    engine.load(docker_archive(tmp_path / "b", [shared, own], ["shares-b:1"]))
    usage = engine.get("/system/df?type=image")
    by_name = {image["RepoTags"][0]: image for image in usage["Images"] if image["RepoTags"]}
    assert (by_name["shares-a:1"]["Size"], by_name["shares-a:1"]["SharedSize"]) == (3000, 3000)
    assert (by_name["shares-b:1"]["Size"], by_name["shares-b:1"]["SharedSize"]) == (3200, 3000)
    assert usage["LayersSize"] == sum(image["Size"] for image in usage["Images"]) - 3000
    listed = {image["RepoTags"][0]: image["SharedSize"] for image in engine.get("/images/json?shared-size=1")}
    assert listed["shares-b:1"] == 3000
    for name in ("shares-a:1", "shares-b:1"):
        assert engine.request("DELETE", f"/images/{name}")[0] == 200


def test_image_prune(engine: RunningEngine, tmp_path: Path) -> None:
    since = time.time()
    dangling = load_small(engine, tmp_path / "a", "first", 1000)
    load_small(engine, tmp_path / "b", "second", 2000, keep="yes")
    engine.post("/images/second:1/tag?repo=first&tag=1", expect=201)  # what had the name has none now
    done = prune(engine, "images")
    assert {"Deleted": dangling} in done["ImagesDeleted"]  # type: ignore[operator]
    assert done["SpaceReclaimed"] == 1000
    assert prune(engine, "images") == {"ImagesDeleted": None, "SpaceReclaimed": 0}
    id = create(engine, "true")  # so that busybox is in use
    alpine = create(engine, "true", Image="alpine:3.23")
    for kept in ({"label": ["keep=no"]}, {"label__": ["keep"]}, {"until": ["1970-01-02"]}):
        assert prune(engine, "images", dangling=["false"], **kept)["ImagesDeleted"] is None
    done = prune(engine, "images", dangling=["false"], label=["keep=yes"], until=["1m"])
    assert {"Untagged": "first:1"} in done["ImagesDeleted"]  # type: ignore[operator]
    assert done["SpaceReclaimed"] == 2000
    for container in (id, alpine):
        engine.request("DELETE", f"/containers/{container}")
    status, body = engine.request(
        "GET", f"/events?since={since}&until={time.time()}&filters={{%22event%22:[%22prune%22]}}"
    )
    reclaimed = [json.loads(line)["Actor"]["Attributes"]["reclaimed"] for line in body.splitlines()]
    assert (status, reclaimed) == (200, ["1000", "0", "0", "0", "0", "2000"])
    for wrong in ({"colour": ["red"]}, {"dangling": ["maybe"]}, {"until": ["noon"]}):
        query = urlencode({"filters": json.dumps(wrong)})
        assert engine.message("POST", f"/images/prune?{query}")[0] == 400
    assert engine.post("/build/prune", expect=200) == {"CachesDeleted": None, "SpaceReclaimed": 0}


@pytest.mark.parametrize("method, path", SWARM)
def test_swarm_is_off(engine: RunningEngine, method: str, path: str) -> None:
    status, message = engine.message(method, path)
    assert (status, message[:34]) == (503, "This node is not a swarm manager. ")


def test_what_wherry_leaves_to_others(engine: RunningEngine) -> None:
    assert engine.message("POST", "/swarm/leave") == (503, "This node is not part of a swarm")
    for method, path, status, words in [
        ("POST", "/swarm/init", 501, "swarm mode is not supported by Wherry"),
        ("POST", "/plugins/pull?remote=x", 501, "plugins are not supported by Wherry"),
        ("GET", "/plugins/some/one/json", 404, 'plugin "some/one" not found'),
        ("DELETE", "/plugins/one", 404, 'plugin "one" not found'),
        ("POST", "/plugins/one/enable", 404, 'plugin "one" not found'),
        ("POST", "/session", 501, "BuildKit is not part of Wherry"),
        ("POST", "/grpc", 501, "BuildKit is not part of Wherry"),
    ]:
        answer = engine.message(method, path)
        assert answer[0] == status and words in answer[1], (path, answer)
    assert engine.get("/plugins") == []


def test_login_refused(engine: RunningEngine) -> None:
    status, message = engine.message(
        "POST", "/auth", {"username": "x", "password": "y", "serveraddress": "127.0.0.1:1"}
    )
    assert status == 500 and "127.0.0.1:1" in message
    assert engine.message("POST", "/auth", {"username": 3})[0] == 400
