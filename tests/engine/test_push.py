"""POST /images/{name}/push to Debian's own registry, and what a registry says of an image."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from runtime.oci.reference import parse_name
from runtime.registry import client
from runtime.registry.cancellation import Cancellation
from runtime.registry.hosts import RegistrySettings
from runtime.registry.transport import ANONYMOUS
from tests.engine.test_hostile_images import oci
from tests.engine.test_pull import layers, pull
from tests.fakes.images import docker_archive, host_architecture, sha256
from tests.fakes.registries import INDEX_OCI, MANIFEST_V2, Push, docker_registry, random_bytes
from tests.harness import RunningEngine


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = RunningEngine(tmp_path_factory.mktemp("pushing"))
    yield running
    running.close()


def push(engine: RunningEngine, name: str, tag: str = "") -> list[dict[str, Any]]:
    status, body = engine.request("POST", f"/images/{name}/push?tag={tag}", headers={"X-Registry-Auth": "e30="})
    assert status == 200, body
    return [json.loads(line) for line in body.splitlines()]


def statuses(lines: list[dict[str, Any]]) -> list[str]:
    return [line.get("status", "") for line in lines]


def test_what_was_pulled_goes_back_with_its_digest(engine: RunningEngine, registry: str) -> None:
    pushed = Push(registry, "a/app").image("one", layers("one"), media_type=MANIFEST_V2)
    name = f"{registry}/a/app"
    pull(engine, name, "one")
    lines = push(engine, name, "one")
    assert statuses(lines)[0] == f"The push refers to repository [{name}]"
    assert statuses(lines).count("Layer already exists") == 3 and statuses(lines).count("Preparing") == 3
    assert lines[-2]["status"] == f"one: digest: {pushed['digest']} size: {pushed['size']}"
    assert lines[-1]["aux"] == {"Tag": "one", "Digest": pushed["digest"], "Size": pushed["size"]}
    engine.post(f"/images/{name}:one/tag?repo={registry}/b/copy&tag=two", expect=201)
    mounted = push(engine, f"{registry}/b/copy", "two")
    assert statuses(mounted).count("Mounted from a/app") == 3, mounted
    assert mounted[-1]["aux"]["Digest"] == pushed["digest"]
    digests = engine.get(f"/images/{name}:one/json")["RepoDigests"]
    assert sorted(digests) == [f"{name}@{pushed['digest']}", f"{registry}/b/copy@{pushed['digest']}"]


def test_uncompressed_layers_go_compressed(engine: RunningEngine, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/c/loaded"
    engine.load(docker_archive(tmp_path / "image.tar", layers("loaded"), [f"{name}:x", f"{name}:y"], {"Cmd": ["true"]}))
    done = engine.docker("push", "--all-tags", name)
    assert done.returncode == 0, done.stderr
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}:y"], capture_output=True, check=True
    )
    manifest = json.loads(raw.stdout)
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    image = engine.get(f"/images/{name}:x/json")
    engine.docker("rmi", f"{name}:x", f"{name}:y")
    pull(engine, name, "y")
    assert engine.get(f"/images/{name}:y/json")["Id"] == image["Id"]
    ran = engine.docker("run", "--rm", "--network=none", f"{name}:y", "cat", "/data/top")
    assert ran.stdout == b"loaded", ran.stderr


def upload(repository: client.Repository, data: bytes, on_bytes: Callable[[int], None]) -> None:
    repository.upload(repository.begin_upload(), sha256(data), len(data), io.BytesIO(data), on_bytes)


def test_large_layers_go_in_pieces(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the real registry takes them, also when the connection breaks in the middle of one."""
    monkeypatch.setattr(client, "CHUNKED_FROM_BYTES", 1 << 20)
    monkeypatch.setattr(client, "UPLOAD_CHUNK_BYTES", 1 << 20)
    settings, nobody = RegistrySettings(retry_delay_s=0.01), Cancellation()
    reference = parse_name(f"{registry}/p/pieces")
    sent: list[int] = []

    def break_off(done_bytes: int) -> None:
        sent.append(done_bytes)
        if len(sent) == 8:
            raise OSError("the cable was pulled")

    for seed, on_bytes in (("whole", sent.append), ("broken", break_off)):
        sent.clear()
        data = random_bytes((3 << 20) + 17, seed)
        with client.Repository(reference, ANONYMOUS, settings, nobody, pushing=True) as repository:
            assert not repository.has_blob(sha256(data))
            repository.retrying(partial(upload, repository, data, on_bytes))
            assert repository.has_blob(sha256(data)) and sent[-1] == len(data)
            with repository.open_blob(sha256(data), 0) as response:
                assert response.content == data


def test_what_cannot_be_pushed(engine: RunningEngine, registry: str) -> None:
    assert push(engine, "127.0.0.1:1/none")[-1]["error"] == (
        "An image does not exist locally with the tag: 127.0.0.1:1/none"
    )
    Push(registry, "d/app").image("t", layers("d"))
    pull(engine, f"{registry}/d/app", "t")
    assert push(engine, f"{registry}/d/app", "u")[-1]["error"] == f"tag does not exist: {registry}/d/app:u"
    engine.post(f"/images/{registry}/d/app:t/tag?repo=127.0.0.1:1/gone&tag=t", expect=201)
    assert "connection refused" in push(engine, "127.0.0.1:1/gone", "t")[-1]["error"]
    digest = f"sha256:{'0' * 64}"
    status, message = engine.message("POST", f"/images/{registry}/d/app@{digest}/push")
    assert (status, message) == (400, "cannot push a digest reference")
    platform = quote(json.dumps({"os": "linux", "architecture": "s390x"}))
    status, message = engine.message("POST", f"/images/{registry}/d/app/push?tag=t&platform={platform}")
    assert status == 404 and message.endswith("does not provide the specified platform (linux/s390x)")


def test_distribution_inspect(engine: RunningEngine, registry: str) -> None:
    pusher = Push(registry, "e/app")
    one = pusher.image("one", layers("e"))
    found = engine.get(f"/distribution/{registry}/e/app:one/json")
    assert found["Descriptor"] == one
    assert found["Platforms"] == [{"architecture": host_architecture(), "os": "linux"}]
    entry = {**one, "platform": {"architecture": "arm", "os": "linux", "variant": "v7"}}
    pusher.manifest("many", {"schemaVersion": 2, "mediaType": INDEX_OCI, "manifests": [entry]})
    assert engine.get(f"/distribution/{registry}/e/app:many/json")["Platforms"] == [entry["platform"]]
    assert engine.message("GET", f"/distribution/{registry}/e/app:none/json") == (
        404,
        "manifest unknown: manifest unknown",
    )


def test_search_where_there_is_none(engine: RunningEngine, registry: str) -> None:
    status, message = engine.message("GET", f"/images/search?term={registry}/thing")
    assert status == 500 and message == f"{registry} cannot be searched: it has no search API (v1)"
    assert engine.message("GET", "/images/search?term=x&limit=1000") == (
        400,
        "limit 1000 is outside the range of [1, 100]",
    )


def test_foreign_layers_are_not_pushed(engine: RunningEngine, registry: str) -> None:
    def change(level: str, document: dict[str, Any]) -> None:
        if level == "manifest":
            document["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        if level == "index":
            document["manifests"][0]["annotations"] = {"io.containerd.image.name": f"{registry}/f/foreign:1"}

    status, body = engine.request("POST", "/images/load", oci(change))
    assert status == 200 and b'"error"' not in body, body
    assert (
        "foreign layers are of Windows images, and are not pushed"
        in push(engine, f"{registry}/f/foreign", "1")[-1]["error"]
    )
