"""The image store: what comes in is found again, what is no longer needed is gone, damage leaves nothing."""

import bz2
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.content.compression import decompressed
from runtime.content.images import ImageStore
from runtime.content.snapshots import Snapshots
from runtime.errors import AlreadyExists, Conflict, InvalidParameter, NotFound
from tests.fakes.images import (
    Entry,
    directory,
    docker_archive,
    file,
    gzipped,
    image_config,
    oci_archive,
    sha256,
    symlink,
    tar_of,
    zstd,
)

OWNER = {"uid": os.getuid(), "gid": os.getgid()}


def layer(*entries: Entry) -> bytes:
    for info, _ in entries:
        info.uid, info.gid = OWNER["uid"], OWNER["gid"]
    return tar_of(entries)


BASE = layer(directory("etc"), file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"), directory("tmp", 0o1777))
TOP = layer(file("tmp/new", b"12345"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    with ImageStore(tmp_path / "root") as opened:
        yield opened


def content(store_root: Path) -> dict[str, list[str]]:
    """Everything on disk that belongs to some image or to a removal not finished."""
    root = store_root / "root"
    return {
        place: sorted(os.listdir(root / place))
        for place in ("content/blobs/sha256", "content/ingest", "layers", "trash")
    }


EMPTY = {"content/blobs/sha256": [], "content/ingest": [], "layers": [], "trash": []}


def load(store: ImageStore, path: Path) -> list[str]:
    with path.open("rb") as stream:
        return [name for loaded in store.load(stream) for name in loaded.references]


@pytest.mark.parametrize("compress", [bytes, gzipped, zstd, bz2.compress])
def test_a_docker_archive_is_loaded_and_found_by_every_name(
    store: ImageStore, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    path = docker_archive(tmp_path / "a.tar", [BASE, TOP], ["app:1", "ghcr.io/x/app:2"], {"Cmd": ["sh"]}, compress)
    assert load(store, path) == ["app:1", "ghcr.io/x/app:2"]
    image = store.get("app:1")
    assert image.config["config"] == {"Cmd": ["sh"]}
    assert image.references == ("app:1", "ghcr.io/x/app:2")
    assert image.id == sha256(image_config([BASE, TOP], {"Cmd": ["sh"]}))
    assert image.size_bytes == len("root:x:0:0::/root:/bin/sh\n12345")
    assert image.layers[0]["digest"] == sha256(BASE if compress is bz2.compress else compress(BASE))
    hexadecimal = image.id.removeprefix("sha256:")
    for name in ("docker.io/library/app:1", image.id, hexadecimal, hexadecimal[:5], image.id[:19], "ghcr.io/x/app:2"):
        assert store.get(name) == image
    assert store.get(f"app@{image.manifest_digest}") == image
    assert store.all() == [image]


@pytest.mark.parametrize("name", ["app", "app:2", "abcdef", "sha256:" + "0" * 64, "0" * 64, f"app@{sha256(b'')}"])
def test_what_is_not_there_is_named_as_docker_names_it(store: ImageStore, tmp_path: Path, name: str) -> None:
    load(store, docker_archive(tmp_path / "a.tar", [BASE], ["app:1"]))
    with pytest.raises(NotFound, match=f"No such image: {name}"):
        store.get(name)


def test_an_ambiguous_id_is_refused(store: ImageStore, tmp_path: Path) -> None:
    by_first_digit: dict[str, list[str]] = {}
    for user in map(str, range(17)):  # more images than digits
        first_digit = sha256(image_config([BASE], {"User": user}))[7]
        by_first_digit.setdefault(first_digit, []).append(user)
    twice, users = next((digit, users) for digit, users in by_first_digit.items() if len(users) > 1)
    for user in users[:2]:
        load(store, docker_archive(tmp_path / "a.tar", [BASE], [f"app:{user}"], {"User": user}))
    with pytest.raises(InvalidParameter, match="the beginning of"):
        store.get(twice)


def test_images_survive_reopening(tmp_path: Path) -> None:
    with ImageStore(tmp_path / "root") as store:
        load(store, docker_archive(tmp_path / "a.tar", [BASE, TOP], ["app:1"]))
        store.tag("app:1", "other")
        before = store.all()
    with ImageStore(tmp_path / "root") as store:
        assert store.all() == before
        assert store.get("other").references == ("app:1", "other:latest")


def test_the_layout_is_one_other_tools_read(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive(tmp_path / "a.tar", [BASE], ["app:1"], compress=gzipped))
    layout = tmp_path / "root/content"
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    [descriptor] = json.loads((layout / "index.json").read_text())["manifests"]
    assert descriptor["annotations"].pop("io.wherry.image.tagged") == store.get("app:1").tagged_at != ""
    assert descriptor["annotations"] == {
        "io.containerd.image.name": "docker.io/library/app:1",
        "org.opencontainers.image.ref.name": "1",
    }
    manifest_bytes = (layout / "blobs/sha256" / descriptor["digest"][7:]).read_bytes()
    assert (sha256(manifest_bytes), len(manifest_bytes)) == (descriptor["digest"], descriptor["size"])
    manifest = json.loads(manifest_bytes)
    assert manifest["layers"] == [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": sha256(gzipped(BASE)),
            "size": len(gzipped(BASE)),
        }
    ]


def test_layers_are_shared_and_go_with_their_last_image(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive(tmp_path / "a.tar", [BASE], ["base"]))
    load(store, docker_archive(tmp_path / "b.tar", [BASE, TOP], ["top"]))
    base, top = store.get("base"), store.get("top")
    assert len(content(tmp_path)["layers"]) == 2
    assert store.delete(base.id) == [base.id]
    assert store.delete(top.id) == [top.id, top.chain_ids[1], top.chain_ids[0]]
    assert store.all() == []
    assert Snapshots(tmp_path / "root").reap() == 2
    assert content(tmp_path) == EMPTY


def test_tags_move_and_are_taken_away(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive(tmp_path / "a.tar", [BASE], ["a"]))
    load(store, docker_archive(tmp_path / "b.tar", [BASE, TOP], ["b"]))
    old, new = store.get("a").id, store.get("b").id
    store.tag(new, "a:latest")
    assert store.get("a").id == new
    assert store.get(old).references == ()
    assert store.untag("b").references == ("a:latest",)
    for reference in ("b", "never"):
        with pytest.raises(NotFound):
            store.untag(reference)
    with pytest.raises(InvalidParameter, match="digest reference"):
        store.tag(new, f"a@{sha256(b'')}")
    with pytest.raises(NotFound):
        store.tag("missing", "a")


def test_an_oci_archive_keeps_its_manifest_and_picks_this_platform(store: ImageStore, tmp_path: Path) -> None:
    names = ["docker.io/library/app:1"]
    path = oci_archive(tmp_path / "a.tar", [BASE], names, architectures=["s390x", "", "unknown"])
    assert load(store, path) == ["app:1"]
    image = store.get("app:1")
    assert image.architecture == json.loads(image_config([BASE], {}))["architecture"]
    with tarfile.open(path) as archive:
        assert f"blobs/sha256/{image.manifest_digest[7:]}" in archive.getnames()
    assert len(content(tmp_path)["content/blobs/sha256"]) == 3  # the other platforms' were not kept


def test_another_platforms_only_image_can_be_loaded(store: ImageStore, tmp_path: Path) -> None:
    load(store, oci_archive(tmp_path / "a.tar", [BASE], ["docker.io/library/app:1"], architectures=["s390x"]))
    assert store.get("app:1").architecture == "s390x"
    with pytest.raises(InvalidParameter, match=r"not available for linux/\w+; it has: linux/s390x, linux/riscv64"):
        load(store, oci_archive(tmp_path / "b.tar", [BASE], ["x/y:1"], architectures=["s390x", "riscv64"]))


@pytest.mark.parametrize("make", [docker_archive, oci_archive])
def test_what_is_saved_is_loaded_by_both_kinds_of_readers(
    tmp_path: Path, make: Callable[[Path, list[bytes], list[str]], Path]
) -> None:
    with ImageStore(tmp_path / "root") as store:
        load(store, make(tmp_path / "a.tar", [BASE, TOP], ["docker.io/library/app:1", "docker.io/library/app:2"]))
        original = store.get("app:1")
        first, second = io.BytesIO(), io.BytesIO()
        store.save(["app"], first)
        store.save(["app:1", original.id, "app:2"], second)
        assert first.getvalue() == second.getvalue()
    with tarfile.open(fileobj=io.BytesIO(first.getvalue())) as archive:
        members = {member.name: member for member in archive}
        [item] = json.load(archive.extractfile("manifest.json"))
    assert item["RepoTags"] == ["app:1", "app:2"]
    assert {item["Config"], *item["Layers"]} <= members.keys()
    without_oci = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(first.getvalue())) as archive,
        tarfile.open(fileobj=without_oci, mode="w") as reduced,
    ):
        for member in archive:
            if member.name not in ("oci-layout", "index.json"):
                reduced.addfile(member, archive.extractfile(member))
    for number, archive_bytes in enumerate([first.getvalue(), without_oci.getvalue(), gzipped(first.getvalue())]):
        with ImageStore(tmp_path / f"copy{number}") as copy:
            copy.load(io.BytesIO(archive_bytes))
            image = copy.get("app:1")
            assert (image.id, image.layers, image.references) == (original.id, original.layers, original.references)
            assert number == 1 or image.manifest_digest == original.manifest_digest


def test_old_archives_link_shared_layers(store: ImageStore, tmp_path: Path) -> None:
    configuration = image_config([BASE, BASE], {})
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": ["1/layer.tar", "2/layer.tar"]}]
    entries = [
        file("c.json", configuration),
        file("1/layer.tar", BASE),
        symlink("2/layer.tar", "../1/layer.tar"),
        file("manifest.json", json.dumps(manifest).encode()),
    ]
    [loaded] = store.load(io.BytesIO(tar_of(entries)))
    assert loaded.references == ()
    assert len(loaded.image.chain_ids) == 2
    assert store.all()[0].references == ()


def test_progress_is_told_by_layer_and_bytes(store: ImageStore, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = docker_archive(tmp_path / "a.tar", [BASE], ["app"])
    with path.open("rb") as stream:
        store.load(stream, lambda *progress: seen.append(progress))
    assert seen[-1] == (sha256(BASE), len(BASE), len(BASE))


def good(path: Path) -> bytes:
    return docker_archive(path, [BASE, TOP], ["app"]).read_bytes()


INCOMPLETE = json.dumps([{"Config": "c", "Layers": ["l"]}]).encode()
BROKEN: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda path: b"",
    "no tar": lambda path: b"not a tar at all" * 100,
    "truncated": lambda path: good(path)[:4000],
    "truncated gzip": lambda path: gzipped(good(path))[:-20],
    "damaged gzip": lambda path: gzipped(good(path))[:-8] + bytes(8),
    "truncated zstd": lambda path: zstd(good(path))[:-20],
    "hostile layer": lambda path: docker_archive(path, [BASE, layer(file("../../x"))], ["app"]).read_bytes(),
    "layer of another digest": lambda path: good(path).replace(TOP, layer(file("tmp/new", b"54321"))),
    "blob of another digest": lambda path: (
        oci_archive(path, [BASE], ["x/y:1"]).read_bytes().replace(gzipped(BASE)[20:30], b"0123456789")
    ),
    "no manifest": lambda path: tar_of([file("hello")]),
    "json that is none": lambda path: tar_of([file("manifest.json", b"{")]),
    "deep json": lambda path: tar_of([file("manifest.json", b"[" * 100_000)]),
    "manifest without config": lambda path: tar_of([file("manifest.json", b"[{}]")]),
    "no image": lambda path: tar_of([file("manifest.json", b"[]")]),
    "missing layer": lambda path: tar_of([file("c", image_config([BASE], {})), file("manifest.json", INCOMPLETE)]),
    "bad reference": lambda path: docker_archive(path, [BASE], ["App:1"]).read_bytes(),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_whatever_is_wrong_with_an_archive_nothing_of_it_stays(store: ImageStore, tmp_path: Path, kind: str) -> None:
    with pytest.raises(InvalidParameter):
        store.load(io.BytesIO(BROKEN[kind](tmp_path / "broken.tar")))
    assert store.all() == []
    Snapshots(tmp_path / "root").reap()
    assert content(tmp_path) == EMPTY


@pytest.mark.parametrize(
    "config",
    [{"Env": "A=1"}, {"Cmd": [1]}, {"User": 0}, {"Labels": {"a": 1}}, {"ExposedPorts": ["80"]}, {"Volumes": "x"}],
)
def test_an_image_configuration_of_the_wrong_shape_is_refused(
    store: ImageStore, tmp_path: Path, config: dict[str, object]
) -> None:
    with pytest.raises(InvalidParameter, match=f"the image's (label )?{next(iter(config))}|label a"):
        load(store, docker_archive(tmp_path / "a.tar", [BASE], ["app"], config))
    assert store.all() == []


def test_a_root_file_system_is_imported_with_changes(store: ImageStore, tmp_path: Path) -> None:
    image = store.import_tar(io.BytesIO(gzipped(BASE)), "rootfs", ["CMD sh", "ENV A=1"], "by hand")
    assert image.references == ("rootfs:latest",)
    assert image.config["config"] == {"Cmd": ["/bin/sh", "-c", "sh"], "Env": ["A=1"]}
    assert image.config["history"][0]["comment"] == "by hand"
    assert image.chain_ids == (sha256(BASE),)
    with pytest.raises(InvalidParameter):
        store.import_tar(io.BytesIO(BASE), None, ["FROM x"])
    with pytest.raises(InvalidParameter, match="truncated"):
        store.import_tar(io.BytesIO(TOP[:512]), None)
    assert store.all() == [image]
    assert len(content(tmp_path)["content/blobs/sha256"]) == 3


def test_what_a_container_wrote_is_committed(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive(tmp_path / "a.tar", [BASE], ["app"]))
    parent = store.get("app")
    snapshots = Snapshots(tmp_path / "root")
    rootfs = snapshots.prepare("c1", parent)
    (Path(rootfs.upper) / "written").write_bytes(b"1234567")
    assert snapshots.usage("c1") == 7
    image = store.commit(parent, Path(rootfs.upper), {"Cmd": ["new"]}, "app:2", "comment", "me")
    assert image.chain_ids[0] == parent.chain_ids[0]
    assert image.size_bytes == parent.size_bytes + 7
    assert [entry.get("comment") for entry in image.config["history"]] == [None, "comment"]
    assert (image.config["author"], image.config["config"]) == ("me", {"Cmd": ["new"]})
    top = Path(snapshots.prepare("c2", image).lower[0])
    assert (top / "written").read_bytes() == b"1234567"


def test_a_layer_that_implies_a_directory_leaves_it_as_it_was(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive(tmp_path / "a.tar", [BASE, TOP], ["app"]))
    top = tmp_path / "root/layers" / store.get("app").chain_ids[1][7:] / "diff"
    assert (top / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_a_lost_layer_is_unpacked_again(tmp_path: Path) -> None:
    with ImageStore(tmp_path / "root") as store:
        load(store, docker_archive(tmp_path / "a.tar", [BASE], ["app"], compress=gzipped))
        layer_json = tmp_path / "root/layers" / store.get("app").chain_ids[0][7:] / "layer.json"
    layer_json.write_bytes(b"")  # what a power cut leaves of a file not yet written back
    with ImageStore(tmp_path / "root") as store:
        assert (layer_json.parent / "diff/etc/passwd").exists()
        assert store.get("app").size_bytes > 0


def test_a_damaged_image_is_left_out_and_its_rest_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ImageStore(tmp_path / "root") as store:
        load(store, docker_archive(tmp_path / "a.tar", [BASE], ["lost"]))
        load(store, docker_archive(tmp_path / "b.tar", [BASE, TOP], ["kept"]))
        config = store.get("lost").id
    (tmp_path / "root/content/blobs/sha256" / config[7:]).unlink()
    with ImageStore(tmp_path / "root") as store:
        assert [image.references for image in store.all()] == [("kept:latest",)]
        assert len(content(tmp_path)["content/blobs/sha256"]) == 4
    assert "pull or load it again" in caplog.text


def test_a_second_engine_is_told_who_has_the_store(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match=r"another engine is using the images in .* --data-root"):
        ImageStore(tmp_path / "root")
    assert store.all() == []


def test_content_in_use_by_one_batch_survives_deletion_by_another(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive(tmp_path / "a.tar", [BASE], ["app"]))
    image = store.get("app")
    manifest = (tmp_path / "root/content/blobs/sha256" / image.manifest_digest[7:]).read_bytes()
    with store.ingest() as batch:
        assert all(batch.has_blob(blob) for blob in image.blobs)
        store.delete(image.id)
        assert all(batch.has_blob(blob) for blob in image.blobs)
        batch.add_image(manifest, [])
    assert store.get(image.id).chain_ids == image.chain_ids
    with store.ingest() as batch:
        batch.has_blob(image.id)
        store.delete(image.id)
    Snapshots(tmp_path / "root").reap()
    assert content(tmp_path) == EMPTY


def test_snapshots_come_and_go(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive(tmp_path / "a.tar", [BASE, TOP], ["app"]))
    image = store.get("app")
    snapshots = Snapshots(tmp_path / "root")
    rootfs = snapshots.prepare("c1", image)
    assert rootfs == snapshots.describe("c1", image)
    *layers, base = rootfs.lower
    assert [Path(path).parent.name for path in layers] == [chain[7:] for chain in reversed(image.chain_ids)]
    assert snapshots.layers(image.chain_ids) == layers
    assert sorted(os.listdir(base)) == [".dockerenv", "etc"]
    assert os.listdir(rootfs.upper) == os.listdir(rootfs.work) == []
    assert Path(rootfs.upper).stat().st_mode & 0o7777 == 0o755
    with pytest.raises(AlreadyExists):
        snapshots.prepare("c1", image)
    with pytest.raises(InvalidParameter):
        snapshots.prepare("../c1", image)
    with pytest.raises(NotFound):
        snapshots.usage("c2")
    snapshots.prepare("c2", image)
    assert snapshots.retain(["c1"]) == ["c2"]
    snapshots.remove("c1")
    snapshots.remove("c1")
    assert os.listdir(tmp_path / "root/snapshots") == []
    assert snapshots.reap() == 3  # the one made for the refused second c1, too
    assert snapshots.reap() == 0


def test_snapshots_made_ahead_are_used_up_then_made_on_the_spot(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive(tmp_path / "a.tar", [BASE], ["app"]))
    image = store.get("app")
    snapshots = Snapshots(tmp_path / "root")
    snapshots.reap()
    spares = tmp_path / "root/spares"
    assert len(os.listdir(spares)) == Snapshots.SPARES
    for number in range(Snapshots.SPARES + 1):
        rootfs = snapshots.prepare(f"c{number}", image)
        assert os.listdir(rootfs.upper) == os.listdir(rootfs.work) == []
    assert os.listdir(spares) == []
    snapshots.reap()
    assert Snapshots(tmp_path / "root").reap() == Snapshots.SPARES  # those of an engine that ended are not trusted


@pytest.mark.parametrize("compress", [bytes, gzipped, zstd, bz2.compress])
def test_streams_of_every_compression_read_the_same(compress: Callable[[bytes], bytes]) -> None:
    data = os.urandom(50_000) * 2
    plain, _ = decompressed(io.BytesIO(compress(data)))
    assert plain.read() == data
    two_members, _ = decompressed(io.BytesIO(compress(data) + compress(b"more")))
    assert two_members.read() == data + b"more"
