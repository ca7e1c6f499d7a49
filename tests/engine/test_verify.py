"""POST /wherry/images/verify: every damage is found and named, and repaired from what is sound."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_containers import create
from tests.fakes.images import busybox_image_tar, busybox_rootfs, directory, docker_archive, file, tar_of
from tests.fakes.registries import Push, docker_registry
from tests.harness import REPOSITORY, RunningEngine


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = RunningEngine(tmp_path_factory.mktemp("verifying"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def pulled(engine: RunningEngine, registry: str) -> Iterator[str]:
    """The name of an image of two layers that came from a registry."""
    top = tar_of([directory("data", 0o750), file("data/one", b"1" * 5000), file("tmp/implied", b"x")])
    Push(registry, "team/checked").image("1", [tar_of(busybox_rootfs()), top], {"Cmd": ["cat", "/data/one"]})
    name = f"{registry}/team/checked:1"
    status, said = engine.request("POST", f"/images/create?fromImage={name}")
    assert status == 200 and b"Downloaded newer" in said
    yield name
    engine.request("DELETE", f"/images/{name}?force=1")


def verify(engine: RunningEngine, *names: str, repair: bool = False) -> tuple[list[dict[str, Any]], dict[str, int]]:
    query = "&".join([f"repair={int(repair)}", *(f"image={name}" for name in names)])
    status, body = engine.request("POST", f"/wherry/images/verify?{query}")
    assert status == 200, body
    *found, totals = [line["aux"] for line in map(json.loads, body.splitlines()) if "aux" in line]
    return found, totals


def blob(engine: RunningEngine, digest: str) -> Path:
    return engine.data_root / "content/blobs/sha256" / digest.removeprefix("sha256:")


def manifest_of(engine: RunningEngine, name: str) -> tuple[Path, dict[str, Any]]:
    digest = engine.get(f"/images/{name}/json")["RepoDigests"][0].partition("@")[2]
    return blob(engine, digest), json.loads(blob(engine, digest).read_bytes())


def layer(engine: RunningEngine, name: str, place: int = 0) -> Path:
    """Where a layer is unpacked; the top is the first."""
    data = engine.get(f"/images/{name}/json")["GraphDriver"]["Data"]
    return Path([data["UpperDir"], *data.get("LowerDir", "").split(":")][place])


def test_sound_images_are_sound_and_shared_parts_are_looked_at_once(engine: RunningEngine, pulled: str) -> None:
    engine.post(f"/images/{pulled}/tag?repo=another", expect=201)
    found, totals = verify(engine)
    assert found == [] and totals["Images"] == 1 and totals["Parts"] == 6 and totals["Damaged"] == 0
    assert totals["Bytes"] > 5000
    assert verify(engine, "another", pulled)[1] == totals
    assert engine.request("POST", "/wherry/images/verify?image=nothing")[0] == 404
    assert engine.request("DELETE", "/images/another")[0] == 200


@pytest.mark.parametrize("how", ["its digest is sha256:", " bytes instead of ", "it is missing"])
def test_blobs_are_fetched_again(engine: RunningEngine, pulled: str, how: str) -> None:
    path, manifest = manifest_of(engine, pulled)
    paths = [path, blob(engine, manifest["config"]["digest"]), blob(engine, manifest["layers"][1]["digest"])]
    good = [path.read_bytes() for path in paths]
    for path, data in zip(paths, good, strict=True):
        path.unlink()
        if "digest" in how:
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        elif "instead" in how:
            path.write_bytes(data[:-1])
    found, totals = verify(engine, pulled)
    assert [one["Kind"] for one in found] == ["manifest", "configuration", "layer blob"]
    assert [one["Digest"][7:] for one in found] == [path.name for path in paths]
    assert how in found[0]["Problem"] and how in found[2]["Problem"]
    assert (totals["Damaged"], totals["Repaired"]) == (3, 0)
    found, totals = verify(engine, pulled, repair=True)
    assert all(one["Repaired"] and one["Remedy"] == "" for one in found) and totals["Repaired"] == 3
    assert [path.read_bytes() for path in paths] == good
    assert verify(engine, pulled)[0] == []


def damage_content(top: Path) -> str:
    info = (top / "data/one").stat()
    (top / "data/one").write_bytes(b"1" * 4999 + b"2")
    os.utime(top / "data/one", ns=(info.st_mtime_ns, info.st_mtime_ns))
    return '"data/one" is not what the image says'


def damage_mode(top: Path) -> str:
    (top / "data").chmod(0o777)
    return '"data" is not what the image says'


def damage_names(top: Path) -> str:
    (top / "data/one").rename(top / "data/two")
    return '"data/one" is missing, or a file beside it does not belong there'


def damage_by_addition(top: Path) -> str:
    (top / "zzz").write_text("planted")
    return '"zzz" does not belong there'


def damage_all(top: Path) -> str:
    shutil.rmtree(top)
    return "its files are missing"


def damage_record(top: Path) -> str:
    (top.parent / "layer.json").write_text("{")
    return "its record is missing or damaged"


DAMAGES = [damage_content, damage_mode, damage_names, damage_by_addition, damage_all, damage_record]


@pytest.mark.parametrize("damage", DAMAGES)
def test_layers_are_unpacked_again(engine: RunningEngine, pulled: str, damage: Any) -> None:
    problem = damage(layer(engine, pulled))
    [found], _ = verify(engine, pulled)
    assert (found["Kind"], found["Problem"]) == ("unpacked layer", problem)
    [found], totals = verify(engine, pulled, repair=True)
    assert found["Repaired"] and totals["Damaged"] == totals["Repaired"] == 1
    assert verify(engine, pulled)[0] == []
    assert (layer(engine, pulled) / "data/one").read_bytes() == b"1" * 5000
    ran = engine.docker("run", "--rm", "--network=none", pulled)
    assert ran.stdout == b"1" * 5000, ran.stderr


def test_a_layer_below_a_running_container_is_not_exchanged(engine: RunningEngine, pulled: str) -> None:
    create(engine, "sleep", "1000", name="stander", Image=pulled)
    engine.post("/containers/stander/start")
    damage_content(layer(engine, pulled))
    [found], _ = verify(engine, pulled, repair=True)
    assert not found["Repaired"] and found["Remedy"] == "the container stander runs on it: stop it and repair again"
    engine.request("POST", "/containers/stander/kill")
    engine.request("POST", "/containers/stander/wait")
    assert verify(engine, pulled, repair=True)[0][0]["Repaired"]
    assert engine.request("DELETE", "/containers/stander?force=1")[0] == 204


def test_what_no_registry_has(engine: RunningEngine, tmp_path: Path) -> None:
    """Of a layer made here the blob is made anew; what came from elsewhere can only be brought again."""
    engine.load(busybox_image_tar(tmp_path / "base.tar", "base:1"))
    built = engine.docker("build", "-q", "-t", "built", "-", input=b"FROM base:1\nRUN echo made > /made\n")
    assert built.returncode == 0, built.stderr
    engine.load(docker_archive(tmp_path / "loaded.tar", [tar_of([file("x", b"x")])], ["loaded:1"]))
    assert verify(engine, "built", "loaded:1")[0] == []  # also with what RUN leaves behind
    for name in ("built", "loaded:1"):
        blob(engine, engine.get(f"/images/{name}/json")["RootFS"]["Layers"][-1]).write_bytes(b"")
    made, loaded = sorted(verify(engine, "built", "loaded:1", repair=True)[0], key=lambda found: str(found["Name"]))
    assert made["Name"] == "built:latest" and made["Repaired"]
    remedy = "it came from no registry: load, import or build the image again"
    assert not loaded["Repaired"] and loaded["Remedy"] == remedy
    for name in ("built", "base:1", "loaded:1"):
        assert engine.request("DELETE", f"/images/{name}?force=1")[0] == 200


def test_the_command_line(engine: RunningEngine, pulled: str) -> None:
    def wherry(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "app", "--host", engine.host, "images", "verify", *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    code, said = wherry()
    assert code == 0 and said.startswith("1 images, 6 blobs and layers (") and said.endswith("0 damaged, 0 repaired\n")
    damage_content(layer(engine, pulled))
    code, said = wherry(pulled)
    assert code == 1 and f"{pulled}: unpacked layer " in said and '"data/one" is not what the image says' in said
    code, said = wherry("--repair", pulled)
    assert code == 0 and said.splitlines()[0].endswith(": repaired")
    assert wherry(pulled)[0] == 0
