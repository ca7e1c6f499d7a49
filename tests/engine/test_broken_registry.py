"""Pulls from a registry that truncates, lies, throttles, redirects and hangs."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.broken_registry import BrokenRegistry, Handler, broken_registry
from tests.fakes.images import directory, file, gzipped, image_config, sha256, tar_of
from tests.fakes.registries import random_bytes
from tests.harness import RunningEngine, UnixConnection


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = RunningEngine(tmp_path_factory.mktemp("broken"))
    yield running
    running.close()


@pytest.fixture
def registry() -> Iterator[BrokenRegistry]:
    with broken_registry() as running:
        yield running


def layer(seed: str, size: int = 400_000) -> bytes:
    return tar_of([directory("data"), file(f"data/{seed}", random_bytes(size, seed))])


def pull(engine: RunningEngine, registry: BrokenRegistry, name: str = "x") -> tuple[int, list[dict[str, Any]]]:
    status, body = engine.request("POST", f"/images/create?fromImage={registry.address}/{name}&tag=latest")
    return status, [json.loads(line) for line in body.splitlines()]


def failure(engine: RunningEngine, registry: BrokenRegistry, name: str = "x") -> str:
    """The sentence a pull fails with; nothing is left of it."""
    _, lines = pull(engine, registry, name)
    said = lines[-1].get("error") or lines[-1].get("message")
    assert said, lines
    assert nothing_is_left(engine)
    return str(said)


def nothing_is_left(engine: RunningEngine) -> bool:
    unfinished = [path for path in (engine.data_root / "layers").iterdir() if path.name.startswith("tmp-")]
    return not [*(engine.data_root / "content/ingest").iterdir(), *unfinished]


def pulled(engine: RunningEngine, registry: BrokenRegistry, name: str = "x") -> list[dict[str, Any]]:
    status, lines = pull(engine, registry, name)
    assert status == 200 and "Downloaded newer image" in lines[-1].get("status", ""), lines[-1]
    return lines


@pytest.mark.parametrize("knows_range", [True, False])
def test_a_connection_that_breaks_is_resumed(
    engine: RunningEngine, registry: BrokenRegistry, knows_range: bool
) -> None:
    (blob,) = registry.add([layer(f"resumed-{knows_range}")])
    data = registry.blobs[blob]
    breaks = iter([100_000, 1])

    def mischief(handler: Handler, path: str) -> bool:
        if not path.endswith(blob):
            return False
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1]) if knows_range else 0
        part = data[start : start + next(breaks, len(data))] if knows_range else data[: next(breaks, len(data))]
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        handler.say(206 if start else 200, part, headers, length=len(data) - start)
        return True

    registry.mischief = mischief
    lines = pulled(engine, registry, f"resumed{int(knows_range)}")
    assert "Retrying in 1 second" in [line["status"] for line in lines]
    asked = registry.asked(blob)
    assert asked[0] == "" and len(asked) == 3
    assert not knows_range or asked[1:] == ["bytes=100000-", "bytes=100001-"]


def test_what_always_breaks_is_given_up(engine: RunningEngine, registry: BrokenRegistry) -> None:
    (blob,) = registry.add([layer("hopeless", 1000)])
    registry.mischief = lambda handler, path: path.endswith(blob) and not handler.say(500, b"oops")
    assert "unexpected status from the registry: 500" in failure(engine, registry)
    assert len(registry.asked(blob)) == 5


def test_a_layer_that_is_not_what_its_digest_says(engine: RunningEngine, registry: BrokenRegistry) -> None:
    good, other = layer("good"), gzipped(layer("evil"))
    (blob,) = registry.add([good])
    data = bytearray(registry.blobs[blob])
    data[-200_000] ^= 1
    registry.blobs[blob] = bytes(data)
    said = failure(engine, registry)
    assert "digest" in said or "damaged" in said
    registry.blobs[blob] = other.ljust(len(data), b"\0")[: len(data)]
    failure(engine, registry)
    assert len(registry.asked(blob)) == 2  # asking again would not help
    assert engine.get("/images/json") == [] or all(registry.address not in str(i) for i in engine.get("/images/json"))


@pytest.mark.parametrize("change, word", [(1, "fewer"), (-1, "more")])
def test_a_size_that_is_a_lie(engine: RunningEngine, registry: BrokenRegistry, change: int, word: str) -> None:
    data = gzipped(layer("sized", 1000))
    registry.blobs[sha256(data)] = data
    lie = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": sha256(data)}
    registry.add([layer("sized", 1000)], layers=[{**lie, "size": len(data) + change}])
    assert f"the registry sent {word} than the" in failure(engine, registry)


def test_a_diff_id_that_is_a_lie(engine: RunningEngine, registry: BrokenRegistry) -> None:
    registry.add([layer("honest", 1000)])
    config = image_config([layer("another", 1000)], {})
    registry.blobs[sha256(config)] = config
    descriptor = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(config)}
    registry.add([layer("honest", 1000)], config={**descriptor, "size": len(config)})
    assert "the image says" in failure(engine, registry)


def test_a_configuration_and_a_manifest_that_are_lies(engine: RunningEngine, registry: BrokenRegistry) -> None:
    registry.add([layer("config", 1000)])
    manifest = json.loads(registry.manifests["latest"][1])
    registry.blobs[manifest["config"]["digest"]] += b" "
    assert "image config verification failed for digest" in failure(engine, registry)
    named = sha256(registry.manifests["latest"][1])
    registry.manifests[named] = (registry.manifests["latest"][0], registry.manifests["latest"][1] + b" ")
    status, message = engine.message("POST", f"/images/create?fromImage={registry.address}/x&tag={named}")
    assert status == 400 and message.startswith(f"manifest verification failed for digest {named}")


def test_what_is_not_pulled(engine: RunningEngine, registry: BrokenRegistry) -> None:
    foreign = {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 1}
    registry.add([layer("f", 10)], layers=[{**foreign, "digest": f"sha256:{'a' * 64}", "urls": ["http://x/"]}])
    assert "foreign layers" in failure(engine, registry)
    registry.add([layer("f", 10)], schemaVersion=1, mediaType="application/vnd.docker.distribution.manifest.v1+json")
    assert "schema 1 support has been removed" in failure(engine, registry)
    chart = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": f"sha256:{'a' * 64}", "size": 1}
    registry.add([layer("f", 10)], config=chart)
    assert "is not an image" in failure(engine, registry)
    registry.manifests["latest"] = ("application/vnd.oci.image.manifest.v1+json", b"[" * 100_000)
    assert "not valid JSON" in failure(engine, registry)
    registry.manifests["latest"] = ("application/vnd.oci.image.manifest.v1+json", b" " * (9 << 20))
    assert "larger than 8 MiB" in failure(engine, registry)


def test_what_registries_say_is_passed_on(engine: RunningEngine, registry: BrokenRegistry) -> None:
    said = "You have reached your pull rate limit. https://www.docker.com/increase-rate-limit"
    registry.mischief = lambda handler, path: not handler.refuse(429, "TOOMANYREQUESTS", said)
    assert failure(engine, registry) == f"toomanyrequests: {said}"
    later = {"Retry-After": "7200"}
    registry.mischief = lambda handler, path: not handler.refuse(429, "TOOMANYREQUESTS", said, later)
    assert failure(engine, registry) == f"toomanyrequests: {said}"  # nobody waits for hours
    registry.mischief = lambda handler, path: not handler.refuse(403, "DENIED", "requested access is denied")
    status, lines = pull(engine, registry)
    assert status == 404 and lines[0]["message"] == (
        f"pull access denied for {registry.address}/x, repository does not exist or may require 'docker login': "
        "denied: requested access is denied"
    )
    registry.mischief = lambda handler, path: not handler.refuse(404, "NAME_UNKNOWN", "repository name not known")
    assert pull(engine, registry)[0] == 404
    registry.mischief = lambda handler, path: not handler.say(401, b"<html>", {"WWW-Authenticate": "Negotiate"})
    assert failure(engine, registry) == "unauthorized: authentication required"


@pytest.mark.parametrize("pause", ["0", "1", "Thu, 01 Jan 2026 00:00:00 GMT"])
def test_a_pause_that_a_registry_asks_for(engine: RunningEngine, registry: BrokenRegistry, pause: str) -> None:
    registry.add([layer(f"pause{pause}", 1000)])
    left = {"manifests": 2, "blobs": 2}

    def busy(handler: Handler, path: str) -> bool:
        for what, count in left.items():
            if f"/{what}/" in path and count:
                left[what] -= 1
                handler.refuse(429, "TOOMANYREQUESTS", "slower, please", {"Retry-After": pause})
                return True
        return False

    registry.mischief = busy
    status, lines = pull(engine, registry)
    assert status == 200 and "error" not in lines[-1], lines
    assert left == {"manifests": 0, "blobs": 0}


def test_redirects(engine: RunningEngine, registry: BrokenRegistry) -> None:
    with broken_registry() as store:
        (blob,) = registry.add([layer("redirected")])
        store.blobs = registry.blobs
        seen = []

        def note(handler: Handler, path: str) -> bool:
            seen.append(handler.headers.get("Authorization"))
            return False

        store.mischief = note
        where = f"http://localhost:{store.address.rpartition(':')[2]}/blobs/{blob}"
        registry.mischief = lambda handler, path: path.endswith(blob) and not handler.say(307, b"", {"Location": where})
        pulled(engine, registry, "redirected")
        assert seen == [None]
        registry.mischief = lambda handler, path: not handler.say(307, b"", {"Location": path})
        assert "redirects" in failure(engine, registry, "circle")


def begin(
    engine: RunningEngine, registry: BrokenRegistry, name: str
) -> tuple[UnixConnection, http.client.HTTPResponse]:
    connection = UnixConnection(engine.socket)
    connection.request("POST", f"/images/create?fromImage={registry.address}/{name}&tag=latest")
    return connection, connection.getresponse()


def until(condition: Any) -> None:
    """A thread of another process ends; nothing tells of it."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_client_that_goes_away_ends_the_pull(engine: RunningEngine, registry: BrokenRegistry) -> None:
    (blob,) = registry.add([layer("gone", 2_000_000)])

    def mischief(handler: Handler, path: str) -> bool:
        if not path.endswith(blob):
            return False
        handler.say(200, registry.blobs[blob][:1_000_000], length=len(registry.blobs[blob]))
        handler.hang()
        return True

    registry.mischief = mischief
    connection, response = begin(engine, registry, "gone")
    assert b"Pulling from" in response.readline()
    until(lambda: not nothing_is_left(engine))
    connection.close()
    response.close()
    until(lambda: nothing_is_left(engine))


def test_two_pulls_share_what_they_fetch(engine: RunningEngine, registry: BrokenRegistry) -> None:
    blobs = registry.add([layer("shared"), layer("also")])

    def mischief(handler: Handler, path: str) -> bool:
        if not path.endswith(blobs[0]):
            return False
        data = registry.blobs[blobs[0]]
        handler.say(200, data[:300_000], {"Content-Length": str(len(data))})
        registry.released.wait(10)
        handler.wfile.write(data[300_000:])
        return True

    registry.mischief = mischief
    first, first_response = begin(engine, registry, "shared")
    second, second_response = begin(engine, registry, "shared")
    for response in (first_response, second_response):
        while blobs[0][7:19].encode() not in (line := response.readline()) or b"Downloading" not in line:
            pass
    first.close()  # whoever began it may leave
    first_response.close()
    registry.released.set()
    lines = [json.loads(line) for line in second_response.read().splitlines()]
    second.close()
    assert "Downloaded newer image" in lines[-1]["status"], lines
    assert len(registry.asked(blobs[0])) == 1


def test_kill_9_while_pulling(tmp_path: Path, registry: BrokenRegistry) -> None:
    blobs = registry.add([layer("whole"), layer("half", 2_000_000)])

    def mischief(handler: Handler, path: str) -> bool:
        if not path.endswith(blobs[1]) or registry.released.is_set():
            return False
        handler.say(200, registry.blobs[blobs[1]][:1_000_000], length=len(registry.blobs[blobs[1]]))
        handler.hang()
        return True

    registry.mischief = mischief
    engine = RunningEngine(tmp_path)
    try:
        connection, response = begin(engine, registry, "killed")
        while b"Download complete" not in response.readline():
            pass
        engine.kill()
        connection.close()
        response.close()
        engine.restart()
        assert nothing_is_left(engine) and engine.get("/images/json") == []
        assert list((engine.data_root / "content/blobs/sha256").iterdir()) == []
        registry.released.set()
        pulled(engine, registry, "killed")
    finally:
        engine.close()
