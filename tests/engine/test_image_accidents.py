"""kill -9 and a full disk while images come, go and are named: what was complete stays, of the rest nothing does."""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.images import busybox_rootfs, directory, docker_archive, file, tar_of
from tests.fakes.registries import Push, docker_registry, random_bytes
from tests.harness import RunningEngine

KILLS_EACH = 1
LONGEST_S = 0.4
PATIENCE_S = 60


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def layers(seed: str, size: int = 2 << 20) -> list[bytes]:
    parts = [tar_of([directory("data"), file(f"data/{n}", random_bytes(size, f"{seed}{n}"))]) for n in range(3)]
    return [tar_of(busybox_rootfs()), *parts]


def nothing_unfinished(engine: RunningEngine) -> bool:
    unpacking = [path for path in (engine.data_root / "layers").iterdir() if path.name.startswith("tmp-")]
    return not [*(engine.data_root / "content/ingest").iterdir(), *unpacking]


def is_sound(engine: RunningEngine) -> bool:
    """Every image there is, is whole."""
    status, body = engine.request("POST", "/wherry/images/verify", timeout_s=PATIENCE_S)
    totals = json.loads(body.splitlines()[-1])["aux"]
    return status == 200 and totals["Damaged"] == 0


@pytest.mark.timeout(600)
def test_kills_while_images_come_and_go(tmp_path: Path, registry: str) -> None:
    engine = RunningEngine(tmp_path)
    chance = random.Random(20261)
    Push(registry, "team/remote").image("1", layers("remote"), {"Cmd": ["true"]})
    kept = docker_archive(tmp_path / "kept.tar", layers("kept"), ["kept:1"], {"Cmd": ["true"]})
    other = docker_archive(tmp_path / "other.tar", layers("other"), ["other:1"]).read_bytes()
    engine.load(kept)
    remote = f"{registry}/team/remote:1"

    def ask(method: str, path: str, body: bytes | None = None) -> Callable[[], None]:
        def work() -> None:
            try:
                engine.request(method, path, body, timeout_s=PATIENCE_S)
            except (OSError, http.client.HTTPException):
                pass  # it was killed

        return work

    copy = f"{registry.replace('127.0.0.1', 'localhost')}/team/copy"
    engine.post(f"/images/kept:1/tag?repo={copy}&tag=1", expect=201)
    operations = {
        "load": ask("POST", "/images/load", other),
        "pull": ask("POST", f"/images/create?fromImage={remote}"),
        "push": ask("POST", f"/images/{copy}/push?tag=1"),
        "save": ask("GET", "/images/get?names=kept:1"),
        "tag": ask("POST", "/images/kept:1/tag?repo=named&tag=2"),
        "remove": ask("DELETE", "/images/other:1"),
        "prune": ask("POST", '/images/prune?filters={"dangling":["false"],"label!":["none"]}'),
    }
    try:
        for name, operation in operations.items():
            for _ in range(KILLS_EACH):
                if name in ("remove", "prune"):
                    engine.load(tmp_path / "other.tar")
                if name == "prune":  # the others go
                    assert engine.request("POST", "/containers/create?name=user", b'{"Image": "kept:1"}')[0] == 201
                client = threading.Thread(target=operation)
                client.start()
                time.sleep(chance.uniform(0, LONGEST_S))  # the moment is what is being varied
                engine.kill()
                client.join(PATIENCE_S)
                assert not client.is_alive()
                engine.restart()
                assert nothing_unfinished(engine), name
                assert is_sound(engine), name
                assert engine.request("GET", "/images/kept:1/json")[0] == 200, name
                if name == "prune":
                    assert engine.request("DELETE", "/containers/user")[0] == 204
        operations["pull"]()
        operations["push"]()
        assert engine.request("GET", f"/images/{remote}/json")[0] == 200
        for image in engine.get("/images/json"):
            assert engine.request("DELETE", f"/images/{image['Id']}?force=1")[0] == 200
        assert list((engine.data_root / "content/blobs/sha256").iterdir()) == []
        assert list((engine.data_root / "layers").iterdir()) == []
    finally:
        engine.close()


def test_a_disk_that_fills_up_on_the_way(tmp_path: Path, registry: str) -> None:
    """Pull, load and import: the reason is said, nothing is left, and with room it works."""
    image = layers("big", 5 << 20)
    Push(registry, "team/big").image("1", image)
    archive = docker_archive(tmp_path / "big.tar", image, ["big:1"]).read_bytes()
    (tmp_path / "data").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(tmp_path / "data")], check=True)
    try:
        engine = RunningEngine(tmp_path)
        try:
            attempts: dict[str, tuple[str, bytes | None]] = {
                "pull": (f"/images/create?fromImage={registry}/team/big:1", None),
                "load": ("/images/load", archive),
                "import": ("/images/create?fromSrc=-&repo=imported", tar_of([file("big", random_bytes(20 << 20))])),
            }
            for name, (path, body) in attempts.items():
                status, said = engine.request("POST", path, body, timeout_s=PATIENCE_S)
                assert status in (200, 500) and b"no space left on device" in said.lower(), (name, status, said)
                assert engine.get("/images/json") == [] and nothing_unfinished(engine), name
                assert list((engine.data_root / "content/blobs/sha256").iterdir()) == [], name
            subprocess.run(["mount", "-o", "remount,size=256m", str(tmp_path / "data")], check=True)
            for name, (path, body) in attempts.items():
                status, said = engine.request("POST", path, body, timeout_s=PATIENCE_S)
                assert status == 200 and b'"error"' not in said, (name, said)
            assert is_sound(engine) and len(engine.get("/images/json")) == 2  # pulled and loaded are the same image
        finally:
            engine.close()
    finally:
        subprocess.run(["umount", str(tmp_path / "data")], check=True)
