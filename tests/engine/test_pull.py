"""POST /images/create?fromImage= from Debian's own registry."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.fakes.images import busybox_rootfs, directory, file, host_architecture, tar_of, zstd
from tests.fakes.registries import INDEX_OCI, MANIFEST_V2, Push, docker_registry, random_bytes
from tests.harness import RunningEngine


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """Of its own: other modules count images."""
    running = RunningEngine(tmp_path_factory.mktemp("pulling"))
    yield running
    running.close()


def layers(name: str) -> list[bytes]:
    return [
        tar_of(busybox_rootfs()),
        tar_of([directory("data"), file(f"data/{name}", random_bytes(300_000, name))]),
        tar_of([file("data/top", name.encode())]),
    ]


def pull(engine: RunningEngine, name: str, tag: str = "", **query: str) -> list[dict[str, Any]]:
    words = "&".join(f"{key}={value}" for key, value in {"fromImage": name, "tag": tag, **query}.items())
    status, body = engine.request("POST", f"/images/create?{words}")
    assert status == 200, body
    return [json.loads(line) for line in body.splitlines()]


def test_an_image_runs_and_is_up_to_date_afterwards(engine: RunningEngine, registry: str) -> None:
    manifest = Push(registry, "team/app").image("one", layers("one"), {"Cmd": ["cat", "/data/top"]})
    name = f"{registry}/team/app"
    lines = pull(engine, name, "one")
    statuses = [line["status"] for line in lines]
    assert statuses[0] == "Pulling from team/app" and lines[0]["id"] == "one"
    assert statuses.count("Pulling fs layer") == 3 and statuses.count("Pull complete") == 3
    assert "Download complete" in statuses and "Downloading" in statuses
    assert statuses[-2:] == [f"Digest: {manifest['digest']}", f"Status: Downloaded newer image for {name}:one"]
    ran = engine.docker("run", "--rm", "--network=none", f"{name}:one")
    assert ran.stdout == b"one", ran.stderr
    image = engine.get(f"/images/{name}:one/json")
    assert image["RepoDigests"] == [f"{name}@{manifest['digest']}"]
    again = [line["status"] for line in pull(engine, name, "one")]
    assert again[-1] == f"Status: Image is up to date for {name}:one"
    by_digest = pull(engine, name, manifest["digest"])
    assert by_digest[-1]["status"] == f"Status: Image is up to date for {name}@{manifest['digest']}"


def test_layers_that_are_there_are_not_fetched(engine: RunningEngine, registry: str) -> None:
    push = Push(registry, "team/shared")
    push.image("a", layers("a"))
    push.image("b", layers("b"))
    name = f"{registry}/team/shared"
    pull(engine, name, "a")
    statuses = [line["status"] for line in pull(engine, name, "b")]
    assert statuses.count("Already exists") == 1 and statuses.count("Pulling fs layer") == 2


def test_every_compression_and_docker_s_own_types(engine: RunningEngine, registry: str) -> None:
    push = Push(registry, "team/kinds")
    push.image("zstd", layers("z"), compress=zstd)
    push.image("plain", layers("p"), compress=bytes)
    push.image("v2s2", layers("v"), media_type=MANIFEST_V2)
    for tag, content in (("zstd", b"z"), ("plain", b"p"), ("v2s2", b"v")):
        ran = engine.docker("run", "--rm", "--network=none", f"{registry}/team/kinds:{tag}", "cat", "/data/top")
        assert ran.stdout == content, ran.stderr


def test_the_platform_is_chosen(engine: RunningEngine, registry: str) -> None:
    push = Push(registry, "team/many")
    manifests = []
    for architecture in ("s390x", host_architecture()):
        descriptor = push.image(f"only-{architecture}", layers(architecture), architecture=architecture)
        manifests.append({**descriptor, "platform": {"os": "linux", "architecture": architecture}})
    index = push.manifest("all", {"schemaVersion": 2, "mediaType": INDEX_OCI, "manifests": manifests})
    name = f"{registry}/team/many"
    pull(engine, name, "all")
    image = engine.get(f"/images/{name}:all/json")
    assert image["Architecture"] == host_architecture() and image["RepoDigests"] == [f"{name}@{index['digest']}"]
    pull(engine, name, "all", platform="linux/s390x")
    assert engine.get(f"/images/{name}:all/json")["Architecture"] == "s390x"
    pull(engine, name, "all")  # what is there is not what would be pulled here
    assert engine.get(f"/images/{name}:all/json")["Architecture"] == host_architecture()
    status, message = engine.message("POST", f"/images/create?fromImage={name}&tag=all&platform=linux/arm/v6")
    assert status == 404 and message.startswith("no matching manifest for linux/arm/v6 in the manifest list entries")
    assert engine.message("POST", f"/images/create?fromImage={name}&tag=all&platform=a/b/c/d")[0] == 400


def test_all_tags(engine: RunningEngine, registry: str) -> None:
    push = Push(registry, "team/tags")
    for tag in ("x", "y"):
        push.image(tag, layers(tag))
    done = engine.docker("pull", "-a", f"{registry}/team/tags")
    assert done.returncode == 0, done.stderr
    images = engine.docker("images", f"{registry}/team/tags", "--format", "{{.Tag}}").stdout.split()
    assert sorted(images) == [b"x", b"y"]
    said = done.stdout.decode().splitlines()
    assert [line for line in said if "Status" in line] == [f"Status: Downloaded newer image for {registry}/team/tags"]
    again = engine.docker("pull", "-a", f"{registry}/team/tags").stdout.decode().splitlines()
    assert f"Status: Image is up to date for {registry}/team/tags" in again


def test_what_is_not_there(engine: RunningEngine, registry: str) -> None:
    name = f"{registry}/team/app"
    status, message = engine.message("POST", f"/images/create?fromImage={name}&tag=nope")
    assert status == 404 and message == f"manifest for {name}:nope not found: manifest unknown: manifest unknown"
    status, message = engine.message("POST", "/images/create?fromImage=127.0.0.1:1/x&tag=y")
    assert status == 500 and "connection refused" in message
    status, message = engine.message("POST", "/images/create?fromImage=Bad&tag=y")
    assert status == 400 and "must be lowercase" in message


def test_the_event(engine: RunningEngine, registry: str) -> None:
    Push(registry, "team/event").image("e", layers("e"), {"Labels": {"a": "b"}})
    began_s = time.time()
    pull(engine, f"{registry}/team/event", "e")
    filters = quote(json.dumps({"event": ["pull"]}))
    _, body = engine.request("GET", f"/events?since={began_s:.9f}&until={time.time():.9f}&filters={filters}")
    event = json.loads(body.splitlines()[-1])
    assert event["Actor"] == {
        "ID": f"{registry}/team/event:e",
        "Attributes": {"a": "b", "name": f"{registry}/team/event"},
    }


def test_nothing_is_left_of_a_pull(engine: RunningEngine, registry: str, tmp_path: Path) -> None:
    assert list((engine.data_root / "content/ingest").iterdir()) == []
    assert [path for path in (engine.data_root / "layers").iterdir() if path.name.startswith("tmp-")] == []
