"""Volumes where the docker CLI does not look: events, kills, lost stores, full disks."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.engine.test_containers import create, run
from tests.fakes.images import busybox_image_tar, directory, file
from tests.harness import RunningEngine, UnixConnection


def volumes(engine: RunningEngine) -> dict[str, Any]:
    return {volume["Name"]: volume for volume in engine.get("/volumes")["Volumes"]}


def test_the_events_of_a_volume(engine: RunningEngine) -> None:
    connection = UnixConnection(engine.socket)
    connection.request("GET", '/events?filters={"type":["volume"]}')
    response = connection.getresponse()
    id = create(engine, "true", host={"Binds": ["told:/data:ro"]})
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/wait", expect=200)
    engine.request("DELETE", f"/containers/{id}")
    engine.post("/volumes/create", {"Name": "told"}, 201)  # it is there: nothing happens
    engine.request("DELETE", "/volumes/told")
    engine.post("/volumes/prune", expect=200)
    seen = []
    for line in response:
        event = json.loads(line)
        seen.append((event["Action"], event["Actor"]["ID"], event["Actor"]["Attributes"]))
        if event["Action"] == "prune":
            break
    connection.close()
    mounted = {"container": id, "destination": "/data", "driver": "local", "propagation": "", "read/write": "false"}
    assert seen == [
        ("create", "told", {"driver": "local"}),
        ("mount", "told", mounted),
        ("unmount", "told", {"container": id, "driver": "local"}),
        ("destroy", "told", {"driver": "local"}),
        ("prune", "", {"reclaimed": "0"}),
    ]


def test_prune_of_old_clients_takes_named_volumes(engine: RunningEngine) -> None:
    for path, kept in (("/v1.42/volumes/prune", True), ("/v1.41/volumes/prune", False)):
        engine.post("/volumes/create", {"Name": "named"}, 201)
        pruned = engine.post(path, expect=200)
        assert pruned == {"VolumesDeleted": [] if kept else ["named"], "SpaceReclaimed": 0}
        assert ("named" in volumes(engine)) == kept


@pytest.mark.parametrize(
    "body, status, words",
    [
        ({"Name": 1}, 400, "CreateOptions.Name of type string"),
        ({"DriverOpts": {"type": 1}}, 400, "CreateOptions.DriverOpts.type of type string"),
        ({"Labels": ["a"]}, 400, "CreateOptions.Labels of type map[string]string"),
        ({"Name": "a" * 300}, 400, "too long"),
        ({"Name": ".."}, 400, "invalid characters"),
        ({"ClusterVolumeSpec": {"Group": "x"}}, 503, "swarm"),
    ],
)
def test_bad_volumes(engine: RunningEngine, body: Any, status: int, words: str) -> None:
    answer = engine.message("POST", "/volumes/create", body)
    assert answer[0] == status and words in answer[1], answer
    assert engine.message("GET", '/volumes?filters={"dangling":["maybe"]}')[0] == 400


def test_mounted_volumes_survive_a_killed_engine(new_engine: NewEngine) -> None:
    engine = new_engine()
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    for name in ("kept", "left"):
        engine.post("/volumes/create", {"Name": name, "DriverOpts": options}, 201)
    running = create(engine, "sh", "-c", "echo here > /m/file; sleep 60", host={"Binds": ["kept:/m"]})
    brief = create(engine, "sleep", "60", host={"Binds": ["left:/m"]})
    pids = []
    for id in (running, brief):
        engine.post(f"/containers/{id}/start")
        pids.append(engine.get(f"/containers/{id}/json")["State"]["Pid"])
    engine.kill()
    subprocess.run(["kill", "-9", str(pids[1])], check=True)
    engine.restart()
    engine.post(f"/containers/{brief}/wait", expect=200)
    points = Path("/proc/self/mountinfo").read_text()
    assert f"{engine.data_root}/volumes/kept/_data" in points
    assert f"{engine.data_root}/volumes/left/_data" not in points
    assert run(engine, "cat", "/m/file", host={"Binds": ["kept:/m"]})[1] == "here\n"
    assert engine.message("DELETE", "/volumes/kept")[0] == 409
    engine.request("DELETE", f"/containers/{running}?force=1")
    assert f"{engine.data_root}/volumes" not in Path("/proc/self/mountinfo").read_text()


def test_a_lost_store_loses_no_volume(new_engine: NewEngine) -> None:
    engine = new_engine()
    engine.post("/volumes/create", {"Name": "named", "Labels": {"a": "b"}}, 201)
    options = {"type": "tmpfs", "device": "tmpfs"}
    engine.post("/volumes/create", {"Name": "with-options", "DriverOpts": options}, 201)
    anonymous = engine.post("/volumes/create", {}, 201)["Name"]
    run(engine, "sh", "-c", "echo data > /v/file", host={"Binds": ["named:/v"]})
    before = volumes(engine)
    engine.stop()
    root = engine.data_root / "volumes"
    for path in engine.data_root.glob("engine.db*"):
        path.unlink()
    (root / ".half-made/_data").mkdir(parents=True)  # a create that was killed
    (root / "by-hand/_data").mkdir(parents=True)
    (root / "not a name/_data").mkdir(parents=True)
    engine.restart()
    found = volumes(engine)
    assert found.pop("by-hand")["Labels"] is None
    assert found == before and anonymous in found
    assert not (root / ".half-made").exists()
    assert run(engine, "cat", "/v/file", host={"Binds": ["named:/v"]})[1] == "data\n"
    assert engine.post("/volumes/prune", expect=200)["VolumesDeleted"] == [anonymous]


def test_a_removal_that_was_cut_short_is_finished(new_engine: NewEngine) -> None:
    engine = new_engine()
    for name in ("removed", "used"):
        engine.post("/volumes/create", {"Name": name}, 201)
    id = create(engine, "ls", "/v", host={"Binds": ["used:/v"]})
    engine.kill()
    for name in ("removed", "used"):
        shutil.rmtree(engine.data_root / "volumes" / name)
    engine.restart()
    assert sorted(volumes(engine)) == ["used"]
    engine.post(f"/containers/{id}/start")
    engine.stop()
    store = sqlite3.connect(engine.data_root / "engine.db")
    try:
        assert store.execute("SELECT count(*) FROM objects WHERE kind = 'volume'").fetchone() == (1,)
    finally:
        store.close()
    engine.restart()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_during_the_copying(engine: RunningEngine, small_disk: Path, tmp_path: Path) -> None:
    # The volume's directory is on the small disk; the rest of the engine is not.
    archive = busybox_image_tar(
        tmp_path / "big.tar",
        "big:latest",
        config={"Volumes": {"/data": {}}},
        extra=[directory("data"), file("data/a", b"a" * (10 << 20)), file("data/b", b"b" * (10 << 20))],
    )
    engine.load(archive)
    options = {"type": "none", "o": "bind", "device": str(small_disk)}
    engine.post("/volumes/create", {"Name": "small", "DriverOpts": options}, 201)
    before = set(volumes(engine))
    body = {"Image": "big", "Cmd": ["true"], "HostConfig": {"Binds": ["small:/data", "other:/other"]}}
    status, message = engine.message("POST", "/containers/create", body)
    assert (status, message) == (
        500,
        "copying the image's /data into the volume small failed: no space left on device: free some disk space and "
        "try again",
    )
    assert list(small_disk.iterdir()) == []
    assert set(volumes(engine)) == before
    assert engine.get("/containers/json?all=1") == []
    assert str(engine.data_root / "volumes") not in Path("/proc/self/mountinfo").read_text()
    assert engine.request("DELETE", "/volumes/small")[0] == 204


def test_creates_that_share_a_new_volume(engine: RunningEngine, tmp_path: Path) -> None:
    files = [file(f"many/{number}", b"x") for number in range(300)]
    engine.load(busybox_image_tar(tmp_path / "many.tar", "many:latest", extra=[directory("many"), *files]))
    body = json.dumps({"Image": "many", "Cmd": ["true"], "HostConfig": {"Binds": ["contested:/many"]}}).encode()
    connections = [UnixConnection(engine.socket) for _ in range(4)]
    for connection in connections:
        connection.request("POST", "/containers/create", body, {"Content-Type": "application/json"})
    assert [connection.getresponse().status for connection in connections] == [201] * 4
    for connection in connections:
        connection.close()
    assert len(list((engine.data_root / "volumes/contested/_data").iterdir())) == 300
    assert len([path for path in (engine.data_root / "volumes").iterdir() if path.name.startswith(".")]) == 0
    for container in engine.get("/containers/json?all=1"):
        engine.request("DELETE", f"/containers/{container['Id']}")
    assert engine.request("DELETE", "/volumes/contested")[0] == 204


def test_a_volume_with_something_of_the_hosts_in_it_is_not_removed(engine: RunningEngine) -> None:
    path = Path(engine.post("/volumes/create", {"Name": "host"}, 201)["Mountpoint"]) / "inside"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(path)], check=True)
    try:
        (path / "precious").touch()
        status, message = engine.message("DELETE", "/volumes/host")
        assert status == 409 and str(path) in message
        assert (path / "precious").exists()
    finally:
        subprocess.run(["umount", str(path)], check=True)
    assert engine.request("DELETE", "/volumes/host")[0] == 204
