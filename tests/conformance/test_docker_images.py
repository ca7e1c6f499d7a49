"""Images through the docker CLI: names, removal, history, archives that other tools read and archives of theirs."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.fakes.images import (
    busybox_rootfs,
    directory,
    docker_archive,
    file,
    host_architecture,
    oci_archive,
    tar_of,
)
from tests.harness import RunningEngine

LAYERS = [tar_of(busybox_rootfs()), tar_of([directory("data"), file("data/a", b"a" * 1000)])]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = RunningEngine(tmp_path_factory.mktemp("images"))
    yield running
    running.close()


@pytest.fixture(autouse=True)
def box(engine: RunningEngine, tmp_path: Path) -> Iterator[str]:
    """The image box:1, and no other before and after."""
    engine.load(docker_archive(tmp_path / "box.tar", LAYERS, ["box:1"], {"Cmd": ["true"], "Labels": {"kind": "box"}}))
    yield "box:1"
    for container in engine.get("/containers/json?all=1"):
        engine.request("DELETE", f"/containers/{container['Id']}?force=1")
    for image in engine.get("/images/json"):
        engine.request("DELETE", f"/images/{image['Id']}?force=1")
    assert engine.get("/images/json") == []


def ok(engine: RunningEngine, *arguments: str, input: bytes | None = None) -> str:
    done = engine.docker(*arguments, input=input)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def refused(engine: RunningEngine, *arguments: str) -> str:
    done = engine.docker(*arguments)
    assert done.returncode != 0, done.stdout
    return done.stderr.decode()


def image_id(engine: RunningEngine, name: str = "box:1") -> str:
    return str(engine.get(f"/images/{name}/json")["Id"])


# --- removal


def test_untag_and_delete(engine: RunningEngine) -> None:
    id = image_id(engine)
    ok(engine, "tag", "box:1", "example.test/other")
    assert ok(engine, "rmi", "box:1").split() == ["Untagged:", "box:1"]
    lines = ok(engine, "rmi", "example.test/other").splitlines()
    assert lines[:2] == ["Untagged: example.test/other:latest", f"Deleted: {id}"]
    assert [line.startswith("Deleted: sha256:") for line in lines[2:]] == [True, True]
    assert "No such image: box:1" in refused(engine, "rmi", "box:1")


def test_several_names_and_an_id(engine: RunningEngine) -> None:
    id = image_id(engine)
    ok(engine, "tag", "box:1", "other:2")
    said = refused(engine, "rmi", id[7:19])
    assert (
        f"conflict: unable to delete {id[7:19]} (must be forced) - image is referenced in multiple repositories" in said
    )
    assert ok(engine, "rmi", "-f", id[7:19]).splitlines()[:3] == [
        "Untagged: box:1",
        "Untagged: other:2",
        f"Deleted: {id}",
    ]


def test_images_in_use(engine: RunningEngine) -> None:
    id = image_id(engine)
    running = ok(engine, "run", "-d", "--network=none", "box:1", "sleep", "600").strip()[:12]
    assert (
        f'conflict: unable to remove repository reference "box:1" (must force) - container {running} is using its '
        f"referenced image {id[7:19]}"
    ) in refused(engine, "rmi", "box:1")
    assert (
        f"conflict: unable to delete {id[7:19]} (cannot be forced) - image is being used by running container {running}"
    ) in refused(engine, "rmi", "-f", id[7:19])
    ok(engine, "kill", running)
    assert (
        f"conflict: unable to delete {id[7:19]} (must be forced) - image is being used by stopped container {running}"
    ) in refused(engine, "rmi", id[7:19])
    ok(engine, "tag", "box:1", "other:2")
    assert ok(engine, "rmi", "other:2").split() == ["Untagged:", "other:2"]
    assert ok(engine, "rmi", "-f", "box:1").splitlines() == ["Untagged: box:1", f"Deleted: {id}"]
    assert engine.get("/images/json?all=1") == [] and "No such image" in refused(engine, "rmi", id[7:19])
    engine.stop()
    engine.restart()
    ok(engine, "start", running)  # it keeps what it was made of
    assert ok(engine, "ps", "--format", "{{.Image}}").strip() == id[7:19]
    assert list((engine.data_root / "layers").iterdir())
    ok(engine, "rm", "-f", running)
    assert list((engine.data_root / "layers").iterdir()) == []


def test_a_removed_image_that_a_container_keeps_comes_back(engine: RunningEngine, tmp_path: Path) -> None:
    id, archive = image_id(engine), tmp_path / "box.tar"
    ok(engine, "save", "-o", str(archive), "box:1")
    container = ok(engine, "create", "box:1").strip()
    ok(engine, "rmi", "-f", id)
    ok(engine, "load", "-i", str(archive))
    ok(engine, "rm", container)
    assert image_id(engine) == id


def test_a_tag_that_a_load_takes_away(engine: RunningEngine, tmp_path: Path) -> None:
    id = image_id(engine)
    said = ok(engine, "load", "-i", str(docker_archive(tmp_path / "new.tar", LAYERS[:1], ["box:1"])))
    assert said.splitlines() == [
        f"The image box:1 already exists, renaming the old one with ID {id} to empty string",
        "Loaded image: box:1",
    ]
    assert ok(engine, "images", "-q", "--no-trunc", "--filter", "dangling=true").split() == [id]


def test_platforms_of_archives_and_of_what_is_looked_at(engine: RunningEngine, tmp_path: Path) -> None:
    own, other = host_architecture(), "s390x"
    path = oci_archive(tmp_path / "two.tar", LAYERS, ["docker.io/library/two:1"], architectures=[own, other])
    ok(engine, "load", "--platform", f"linux/{other}", "-i", str(path))
    assert engine.get("/images/two:1/json")["Architecture"] == other
    for command in (["image", "inspect"], ["history"]):
        ok(engine, *command, "--platform", f"linux/{other}", "two:1")
        assert (
            f"image with reference two:1 was found but its platform (linux/{other}) does not match the specified "
            f"platform (linux/{own})"
        ) in refused(engine, *command, "--platform", f"linux/{own}", "two:1")
    saved = str(tmp_path / "saved.tar")
    ok(engine, "save", "--platform", f"linux/{other}", "-o", saved, "two:1")
    assert f"no suitable export target found for platform linux/{own}" in refused(
        engine, "save", "--platform", f"linux/{own}", "-o", saved, "two:1"
    )
    assert f"contains no image for linux/{own}" in refused(engine, "load", "--platform", f"linux/{own}", "-i", saved)
    ok(engine, "load", "-i", str(path))
    assert engine.get("/images/two:1/json")["Architecture"] == own
    platform = json.dumps({"os": "linux", "architecture": own}).replace(" ", "")
    status, message = engine.message("GET", f"/images/two:1/json?manifests=1&platform={platform}")
    assert (status, message) == (400, "conflicting options: manifests and platform options cannot both be set")


def test_tag_errors(engine: RunningEngine) -> None:
    assert "must be lowercase" in refused(engine, "tag", "box:1", "Box")
    assert "No such image: nosuch:latest" in refused(engine, "tag", "nosuch", "box:2")
    digest = f"x@sha256:{'0' * 64}"
    status, message = engine.message("POST", f"/images/box:1/tag?repo={digest}")
    assert (status, message) == (400, "refusing to create a tag with a digest reference")


# --- looking


def test_history(engine: RunningEngine) -> None:
    entries = engine.get("/images/box:1/history")
    assert [entry["Size"] for entry in entries] == [1000, engine.get("/images/box:1/json")["Size"] - 1000]
    assert entries[0]["Tags"] == ["box:1"] and entries[1]["Tags"] is None
    assert [entry["Id"] for entry in entries] == [image_id(engine), "<missing>"]
    assert "1kB" in ok(engine, "history", "box:1")


def test_inspect(engine: RunningEngine) -> None:
    found = engine.get("/images/box:1/json?manifests=1")
    assert found["Config"]["Cmd"] == ["true"] and found["Descriptor"]["size"] > 0
    assert found["GraphDriver"]["Data"]["LowerDir"].startswith(str(engine.data_root))
    manifest = found["Manifests"][0]
    assert manifest["Available"] and manifest["ImageData"]["Platform"]["os"] == "linux"
    assert manifest["Size"]["Content"] > manifest["ImageData"]["Size"]["Unpacked"] == found["Size"]
    older = engine.get("/v1.43/images/box:1/json")
    assert older["VirtualSize"] == older["Size"] and older["Config"]["Tty"] is False and "Descriptor" not in older
    assert older["ContainerConfig"]["Cmd"] is None and older["Container"] == "" and "Container" not in found


@pytest.mark.parametrize(
    "filters, found",
    [
        ({"reference": ["box"]}, ["box:1", "box:2"]),
        ({"reference": ["box:2"]}, ["box:2"]),
        ({"reference": ["*/box"]}, ["team/box:1"]),
        ({"reference": ["b[a-o]x:?"]}, ["box:1", "box:2"]),
        ({"reference": ["*"]}, ["box:1", "box:2", "newer:1"]),
        ({"label": ["kind=box"]}, ["box:1", "box:2", "team/box:1"]),
        ({"label": ["kind=other"]}, []),
        ({"dangling": ["true"]}, []),
        ({"dangling": ["false"]}, ["box:1", "box:2", "newer:1", "team/box:1"]),
        ({"before": ["box:1"]}, []),
        ({"since": ["newer:1"]}, []),
        ({"before": ["newer:1"]}, ["box:1", "box:2", "team/box:1"]),
        ({"since": ["box:1"]}, ["newer:1"]),
    ],
    ids=str,
)
def test_list_filters(engine: RunningEngine, filters: dict[str, Any], found: list[str]) -> None:
    for name in ("box:2", "team/box:1"):
        ok(engine, "tag", "box:1", name)
    ok(engine, "import", "-", "newer:1", input=LAYERS[1])
    images = engine.get(f"/images/json?filters={json.dumps(filters).replace(' ', '')}")
    assert sorted(name for image in images for name in image["RepoTags"]) == found


def test_bad_filters(engine: RunningEngine) -> None:
    assert engine.message("GET", '/images/json?filters={"reference":["[a"]}')[0] == 400
    assert engine.message("GET", '/images/json?filters={"before":["nosuch"]}') == (404, "No such image: nosuch:latest")


# --- archives


def test_save_and_load_several(engine: RunningEngine, tmp_path: Path) -> None:
    ok(engine, "tag", "box:1", "box:2")
    ok(engine, "import", "-", "example.test/flat:1", input=LAYERS[1])
    ids = {name: image_id(engine, name) for name in ("box:1", "box:2", "example.test/flat:1")}
    path = str(tmp_path / "saved.tar")
    ok(engine, "save", "-o", path, "box", "example.test/flat:1")
    ok(engine, "rmi", *ids)
    said = ok(engine, "load", "-i", path)
    assert sorted(re.findall("Loaded image: (.*)", said)) == sorted(ids)
    assert {name: image_id(engine, name) for name in ids} == ids
    assert "No such image: nosuch" in refused(engine, "save", "-o", path, "box:1", "nosuch")


def test_other_tools_read_what_is_saved(engine: RunningEngine, tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    ok(engine, "save", "-o", str(path), "box:1")
    for transport in ("docker-archive", "oci-archive"):
        inspected = subprocess.run(
            ["skopeo", "inspect", "--config", "--raw", f"{transport}:{path}"], capture_output=True, check=True
        )
        assert (
            json.loads(inspected.stdout)["rootfs"]["diff_ids"] == engine.get("/images/box:1/json")["RootFS"]["Layers"]
        )
    layout = tmp_path / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-xf", path, "-C", layout], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:1", tmp_path / "bundle"], check=True, capture_output=True)
    assert (tmp_path / "bundle/rootfs/data/a").read_bytes() == b"a" * 1000


def test_other_tools_read_the_store(engine: RunningEngine) -> None:
    layout = engine.data_root / "content"
    inspected = subprocess.run(["skopeo", "inspect", f"oci:{layout}:1"], capture_output=True, text=True, check=False)
    assert inspected.returncode == 0, inspected.stderr
    listed = subprocess.run(["umoci", "list", "--layout", layout], capture_output=True, text=True, check=True)
    assert "1" in listed.stdout.split()


def test_what_skopeo_writes_is_loaded(engine: RunningEngine, tmp_path: Path) -> None:
    source = oci_archive(tmp_path / "oci.tar", LAYERS, ["docker.io/library/theirs:1"])
    for kind in ("docker-archive", "oci-archive"):
        target = tmp_path / f"{kind}.tar"
        command = ["skopeo", "copy", "--quiet", f"oci-archive:{source}", f"{kind}:{target}:docker.io/library/{kind}:1"]
        subprocess.run(command, check=True, capture_output=True)
        assert f"Loaded image: {kind}:1" in ok(engine, "load", "-i", str(target))
        assert ok(engine, "run", "--rm", "--network=none", f"{kind}:1", "cat", "/data/a") == "a" * 1000


@pytest.mark.parametrize("program", ["gzip", "zstd", "xz", "bzip2"])
def test_compressed_archives(engine: RunningEngine, program: str) -> None:
    plain = engine.docker("save", "box:1").stdout
    packed = subprocess.run([program, "-c"], input=plain, capture_output=True, check=True).stdout
    assert "Loaded image: box:1" in ok(engine, "load", input=packed)


def test_import_with_changes_and_from_a_url(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(LAYERS[0])
    changes = ["--change", 'CMD ["echo", "hi"]', "--change", "ENV A=b", "-m", "by hand"]
    ok(engine, "import", *changes, "--platform", "linux/s390x", str(tmp_path / "root.tar"), "imported:1")
    found = engine.get("/images/imported:1/json")
    assert found["Config"]["Cmd"] == ["echo", "hi"] and found["Config"]["Env"] == ["A=b"]
    assert found["Comment"] == "by hand" and found["Architecture"] == "s390x"
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            ok(engine, "import", f"{url}/root.tar", "fetched:1")
            assert "404" in refused(engine, "import", f"{url}/nosuch.tar", "fetched:2")
        finally:
            server.shutdown()
            thread.join()
    assert engine.get("/images/fetched:1/json")["Comment"] == f"Imported from {url}/root.tar"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_docker_py(engine: RunningEngine) -> None:
    client = docker.DockerClient(base_url=engine.host)
    try:
        image = client.images.get("box:1")
        assert image.tag("viapy", "2")
        chunks = b"".join(client.images.get("viapy:2").save(named="viapy:2"))
        client.images.remove("viapy:2")
        assert [found.tags for found in client.images.load(chunks)] == [["box:1", "viapy:2"]]
        assert client.images.list(filters={"label": "kind"})[0].id == image.id
    finally:
        client.close()


def test_what_load_tells(engine: RunningEngine, tmp_path: Path) -> None:
    """A line or more for each layer that is not here, when it is asked not to be quiet; a failure is a line as well."""
    archive = docker_archive(tmp_path / "told.tar", [*LAYERS, tar_of([file("told", b"x")])], ["told:1"]).read_bytes()
    status, body = engine.request("POST", "/images/load?quiet=0", archive)
    lines = [json.loads(line) for line in body.splitlines()]
    top = engine.get("/images/told:1/json")["RootFS"]["Layers"][-1][7:19]
    assert status == 200 and lines[-1] == {"stream": "Loaded image: told:1\n"}
    assert {(line["status"], line["id"]) for line in lines[:-1]} == {("Loading layer", top)}  # the others are box's
    assert lines[-2]["progressDetail"] == {"current": 10240, "total": 10240}
    for query in ("", "?quiet=1"):
        assert json.loads(engine.request("POST", f"/images/load{query}", archive)[1]) == lines[-1]
    client = docker.DockerClient(base_url=engine.host)
    with contextlib.closing(client), pytest.raises(docker.errors.ImageLoadError):
        client.images.load(b"abc")


def test_images_made_of_others(engine: RunningEngine, tmp_path: Path) -> None:
    """A commit and a build have a parent, which outlives its name, and goes with the last of them."""
    base = engine.get("/images/box:1/json")["Id"]
    container = ok(engine, "create", "box:1")
    ok(engine, "commit", container, "made:commit")
    ok(engine, "rm", container)
    (tmp_path / "Dockerfile").write_text("FROM box:1\nENV a=b\n")
    ok(engine, "build", "-q", "-t", "made:build", str(tmp_path))
    engine.stop()
    engine.restart()
    for name in ("made:commit", "made:build"):
        assert engine.get(f"/images/{name}/json")["Parent"] == base
    assert {image["ParentId"] for image in engine.get("/images/json")} == {"", base}
    made, before, first = engine.get("/images/made:commit/history")
    assert (before["Id"], before["Tags"], first["Id"]) == (base, ["box:1"], "<missing>") and made["Id"] != base
    assert ok(engine, "images", "-q", "--filter", "since=made:commit").split() == [image_id(engine, "made:build")[7:19]]
    for force in ("", "?force=1"):
        assert engine.message("DELETE", f"/images/{base}{force}") == (
            409,
            f"conflict: unable to delete {base[7:19]} (cannot be forced) - image has dependent child images",
        )
    assert ok(engine, "rmi", "box:1").splitlines() == ["Untagged: box:1"]
    assert base not in {image["Id"] for image in engine.get("/images/json")}
    assert base in {image["Id"] for image in engine.get("/images/json?all=1")}
    assert f"Deleted: {base}" not in ok(engine, "image", "prune", "-f")
    ok(engine, "rmi", "made:commit")
    assert engine.get(f"/images/{base}/json")["RepoTags"] == []
    assert f"Deleted: {base}" in ok(engine, "rmi", "made:build")
