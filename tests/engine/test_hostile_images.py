"""Images nobody vouches for, loaded, pulled and imported: refused in a sentence or usable, and nothing is left."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.images import (
    busybox_rootfs,
    device,
    directory,
    docker_archive,
    file,
    gzipped,
    hard_link,
    host_architecture,
    oci_archive,
    sha256,
    symlink,
    tar_of,
    zstd,
)
from tests.harness import RunningEngine

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
Change = Callable[[str, dict[str, Any]], None]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = RunningEngine(tmp_path_factory.mktemp("hostile"))
    try:
        yield running
        assert "Traceback" not in running.log()
    finally:
        running.close()


@pytest.fixture(autouse=True)
def no_images_are_left(engine: RunningEngine) -> Iterator[None]:
    yield
    for image in engine.get("/images/json"):
        assert engine.request("DELETE", f"/images/{image['Id']}?force=1")[0] == 200


def refused(engine: RunningEngine, archive: bytes) -> str:
    """The sentence a load is refused with; nothing is left of it."""
    status, body = engine.request("POST", "/images/load", archive)
    assert status == 200 and b'"error"' in body, (status, body)
    assert engine.get("/images/json?all=1") == []
    places = ("content/blobs/sha256", "content/ingest", "layers")
    assert [path for place in places for path in (engine.data_root / place).iterdir()] == []
    return str(json.loads(body)["error"])


HOSTILE_LAYERS: dict[str, list[Any]] = {
    "leads out": [file("../../etc/passwd", b"x")],
    "leads out in the middle": [file("a/../../../etc/passwd", b"x")],
    "links out": [hard_link("x", "../../../../etc/passwd")],
    "links out by a symlink": [symlink("d", "/etc"), hard_link("x", "d/hostname")],
    "replaces the top": [file(".", b"x")],
    "hides its top": [file(".wh...")],
    "is below a whiteout": [file(".wh.a/b", b"x")],
    "has no name to hide": [directory("d"), file("d/.wh.")],
    "has a name too long": [file("n" * 256)],
    "is nested too deeply": [file("d/" * 300 + "f")],
    "goes in circles": [symlink("a", "b"), symlink("b", "a"), file("a/f")],
    "has an impossible owner": [file("f", uid=2**32 - 1)],
    "is a huge header": [file("f", pax_headers={"comment": "x" * (2 << 20)})],
    "lies about sparseness": [file("f", b"1234", pax_headers={"GNU.sparse.size": "4", "GNU.sparse.map": "0,9"})],
}


@pytest.mark.parametrize("what", HOSTILE_LAYERS)
def test_hostile_layers(engine: RunningEngine, tmp_path: Path, what: str) -> None:
    layer = tar_of(HOSTILE_LAYERS[what])
    assert refused(engine, docker_archive(tmp_path / "a.tar", [layer], ["bad:1"]).read_bytes())
    status, _ = engine.request("POST", "/images/create?fromSrc=-&repo=bad", layer)
    assert status == 400
    assert refused(engine, oci_archive(tmp_path / "b.tar", [layer], ["docker.io/library/bad:1"]).read_bytes())


def test_what_is_odd_but_harmless(engine: RunningEngine, tmp_path: Path) -> None:
    """Duplicates, case, devices, sockets' names, sparse files: as Docker unpacks them."""
    layer = [
        *busybox_rootfs(),
        file("f", b"first"),
        file("f", b"second"),
        file("F", b"upper"),
        directory("was"),
        file("was/in", b"x"),
        file("was", b"now a file"),
        symlink("out", "/etc/../../../../.."),
        file("out/escaped", b"inside"),
        device("null", 1, 3, 0o666),
        file("gone", b"x"),
        file("sparse", b"end", pax_headers={"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": f"{(1 << 40) - 3},3"}),
        file(".wh..wh.aufs"),
        directory(".wh..wh.plnk"),
        file(".wh..wh.plnk/1.2", b"x"),
        file("bad\udcffname".encode("utf-8", "surrogateescape").decode("latin-1"), b"x"),
    ]
    top = [file(".wh.gone"), directory("etc"), file("etc/.wh..wh..opq"), file("etc/only", b"x"), file("f/..//g", b"g")]
    archive = docker_archive(tmp_path / "a.tar", [tar_of(layer), tar_of(top)], ["odd:1"], {"Cmd": ["sh"]}, gzipped)
    engine.load(archive)
    script = "cat /f /F /was /escaped /g; stat -c %s /sparse; ls /etc/only /etc/passwd; ls -a / | grep -c wh; ls /gone"
    ran = engine.docker("run", "--rm", "--network=none", "odd:1", "sh", "-c", script)
    said = b"secondupper" + b"now a file" + b"inside" + b"g" + b"1099511627776\n/etc/only\n0\n"
    assert ran.stdout == said and b"No such file" in ran.stderr
    assert not Path("/escaped").exists()
    assert engine.request("DELETE", "/images/odd:1")[0] == 200


def test_a_bomb_ends_at_the_disk_and_is_gone(engine: RunningEngine, tmp_path: Path) -> None:
    """An entry of more than a layer may have is refused before anything of it is written."""
    info, _ = file("bomb")
    info.size = 1 << 41
    header = info.tobuf()
    data = gzip.compress(header + bytes(1 << 20))
    archive = docker_archive(tmp_path / "a.tar", [b"x"], ["bomb:1"], compress=lambda layer: data)
    assert "unpacks to more than" in refused(engine, archive.read_bytes())
    documents = {"manifest.json": b"[" * (1 << 20), "index.json": b" " * (9 << 20)}
    for name, content in documents.items():
        assert refused(engine, tar_of([file(name, content), file("oci-layout", b"{}")]))
    assert "after its end" in refused(engine, zstd(tar_of([]) + bytes(80 << 20)))


def oci(
    change: Callable[[str, dict[str, Any]], None], content: Callable[[str, bytes], bytes] = lambda _, d: d
) -> bytes:
    """An OCI layout of one image; `change(level, document)` may lie in it, `content(level, data)` in its bytes."""
    blobs: dict[str, bytes] = {}

    def put(level: str, data: bytes, kind: str) -> dict[str, Any]:
        blobs[sha256(data)] = content(level, data)
        return {"mediaType": kind, "digest": sha256(data), "size": len(data)}

    def document(level: str, value: dict[str, Any], kind: str) -> dict[str, Any]:
        change(level, value)
        return put(level, json.dumps(value).encode(), kind)

    layer = tar_of([file("f", b"content")])
    config = {"architecture": host_architecture(), "os": "linux", "config": {}, "history": []}
    config |= {"rootfs": {"type": "layers", "diff_ids": [sha256(layer)]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": document("config", config, "application/vnd.oci.image.config.v1+json"),
        "layers": [put("layer", gzipped(layer), "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    entry = document("manifest", manifest, MANIFEST)
    entry["platform"] = {"architecture": host_architecture(), "os": "linux"}
    inner = document("inner", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}, INDEX)
    index = {"schemaVersion": 2, "manifests": [inner]}
    change("index", index)
    entries = [file(f"blobs/sha256/{digest[7:]}", data) for digest, data in blobs.items()]
    return tar_of([*entries, file("index.json", json.dumps(index).encode()), file("oci-layout", b"{}")])


def set_size(level: str, key: str, add: int) -> Change:
    def change(at: str, document: dict[str, Any]) -> None:
        if at == level:
            descriptor = document[key][0] if isinstance(document[key], list) else document[key]
            descriptor["size"] += add

    return change


@pytest.mark.parametrize("add", [1, -1])
@pytest.mark.parametrize(
    "level, key", [("index", "manifests"), ("inner", "manifests"), ("manifest", "config"), ("manifest", "layers")]
)
def test_sizes_that_are_lies(engine: RunningEngine, level: str, key: str, add: int) -> None:
    assert "its descriptor says" in refused(engine, oci(set_size(level, key, add)))


@pytest.mark.parametrize("level", ["config", "manifest", "inner", "layer"])
def test_digests_that_are_lies(engine: RunningEngine, level: str) -> None:
    archive = oci(lambda *_: None, lambda at, data: data + b" " if at == level else data)
    assert "it is damaged" in refused(engine, archive)


def test_what_the_layers_are_is_a_lie(engine: RunningEngine) -> None:
    def swap(at: str, document: dict[str, Any]) -> None:
        if at == "config":
            document["rootfs"]["diff_ids"] = [sha256(b"another")]

    assert "the image says" in refused(engine, oci(swap))

    def add(at: str, document: dict[str, Any]) -> None:
        if at == "config":
            document["rootfs"]["diff_ids"] *= 2

    assert "layers" in refused(engine, oci(add))


def test_archives_cut_anywhere(engine: RunningEngine) -> None:
    archive = oci(lambda *_: None)
    for data in (archive, gzipped(archive)):
        for length in (0, 100, len(data) // 4, len(data) // 2):
            assert refused(engine, data[:length])


ODD_CONFIGS: list[dict[str, Any]] = [
    {"created": "yesterday"},
    {"created": "9999-99-99T99:99:99Z"},
    {"history": ["x", None, 3]},
    {"history": [{"created": 5, "created_by": [], "empty_layer": "no"}]},
    {"history": [{"created": "never"}] * 3},
    {"config": {"ExposedPorts": {"what": {}, "99999/tcp": {}, "80/icmp": 1}}},
    {"config": {"Volumes": {"": {}, "relative": {}, "/a/../../b": {}}}},
    {"config": {"Env": ["", "=x", "A", "A=1\x00"]}},
    {"config": {"Healthcheck": {"Test": "x", "Interval": "soon", "Retries": -1}}},
    {"config": {"StopSignal": "SIGNOTHING", "User": "nobody:\x00", "WorkingDir": "../../x"}},
    {"config": {"Labels": {"": "", "a": "\ud800"}, "Cmd": [], "Entrypoint": [""]}},
    {"config": {"OnBuild": ["FROM x"], "ArgsEscaped": "x", "MacAddress": 5, "StopTimeout": "x"}},
    {"variant": 5, "os.version": [], "author": {}, "container_config": "x"},
    {"os": "windows"},
    {"architecture": ""},
]


@pytest.mark.parametrize("number", range(len(ODD_CONFIGS)))
def test_configurations_of_strange_content(engine: RunningEngine, number: int) -> None:
    """They are refused, or what is asked about them is answered; never is a request met with an accident."""

    def change(at: str, document: dict[str, Any]) -> None:
        if at == "config":
            document.update(ODD_CONFIGS[number])
        if at == "index":
            document["manifests"][0]["annotations"] = {"io.containerd.image.name": "docker.io/library/odd:1"}

    status, body = engine.request("POST", "/images/load", oci(change))
    assert status == 200, body
    if b'"error"' not in body:
        for path in ("/images/json", "/images/odd:1/json", "/images/odd:1/history", "/system/df", "/images/odd:1/get"):
            assert engine.request("GET", path)[0] == 200, path
        status, body = engine.request("POST", "/containers/create?name=odd", b'{"Image": "odd:1", "Cmd": ["x"]}')
        assert status in (201, 400), body
        if status == 201:
            assert engine.request("GET", "/containers/odd/json")[0] == 200
            assert engine.request("POST", "/containers/odd/start")[0] in (204, 400, 404)
            assert engine.request("DELETE", "/containers/odd?force=1")[0] == 204
        assert engine.request("DELETE", "/images/odd:1?force=1")[0] == 200
    log = engine.log()
    os.truncate(engine.data_root.parent / "wherryd.log", 0)
    assert "Traceback" not in log
