"""Manifests, indexes and configurations: what is written is read the same, what is wrong with them is refused."""

from __future__ import annotations

import copy
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.content.documents import encode, parse_index, parse_manifest
from runtime.content.images import ImageStore
from runtime.errors import InvalidParameter, NotFound
from runtime.oci import digest
from runtime.oci.image import INDEX, MANIFEST, Index, Platform, image_for, platform_matches
from tests.fakes.images import Entry, directory, docker_archive, file, gzipped, image_config, sha256, tar_of

_TEXT = st.text(max_size=8)
_PLATFORMS = st.fixed_dictionaries(
    {"os": st.sampled_from(["linux", "windows"]), "architecture": st.sampled_from(["amd64", "arm64", "arm"])},
    optional={"variant": st.sampled_from(["v6", "v7", "v8"])},
)
_DESCRIPTORS = st.fixed_dictionaries(
    {
        "mediaType": st.sampled_from([MANIFEST, INDEX]) | _TEXT,
        "digest": st.binary(max_size=4).map(digest.of_bytes),
        "size": st.integers(0, 2**63 - 1),
    },
    optional={"annotations": st.dictionaries(_TEXT, _TEXT, max_size=3), "platform": _PLATFORMS},
)


@given(st.lists(_DESCRIPTORS, min_size=1, max_size=5), st.dictionaries(_TEXT, _TEXT, max_size=2))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_the_same(descriptors: list[Any], annotations: dict[str, str]) -> None:
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors, "annotations": annotations}
    assert parse_index(encode(index)) == index
    manifest = {"schemaVersion": 2, "config": descriptors[0], "layers": descriptors[1:], "of": "a later version"}
    assert parse_manifest(encode(manifest)) == manifest


@given(st.lists(_PLATFORMS, max_size=6), _PLATFORMS)
@settings(max_examples=60, deadline=None)
def test_an_index_s_entry_is_for_the_platform(offered: list[Platform], wanted: Platform) -> None:
    entries = [
        {"mediaType": MANIFEST, "digest": digest.of_bytes(b"%d" % number), "size": 1, "platform": platform}
        for number, platform in enumerate(offered)
    ]
    found = image_for(Index(schemaVersion=2, manifests=entries), wanted)  # type: ignore[typeddict-item]
    if found is None:
        assert not any(platform_matches(wanted, platform) for platform in offered)
    else:
        platform = found["platform"]
        assert platform_matches(wanted, platform) or "variant" not in wanted
        assert platform == wanted or wanted not in offered  # the exact one comes first


# --- archives -----------------------------------------------------------------------------------------------

LAYER = tar_of([directory("d"), file("d/f", b"content")])


def archive(documents: dict[str, Any]) -> bytes:
    """An OCI layout of three documents: what names another is made to name what has become of it."""
    layer = gzipped(LAYER)
    blobs = {sha256(layer): layer}
    config = json.dumps(documents["config"]).encode()
    blobs[sha256(config)] = config
    text = json.dumps(documents["manifest"]).replace("CONFIG", sha256(config)).replace("LAYER", sha256(layer))
    manifest = text.replace('"CONFIG-SIZE"', str(len(config))).replace('"LAYER-SIZE"', str(len(layer))).encode()
    blobs[sha256(manifest)] = manifest
    index = json.dumps(documents["index"]).replace("MANIFEST", sha256(manifest))
    index = index.replace('"SIZE"', str(len(manifest)))
    entries: list[Entry] = [file(f"blobs/sha256/{name[7:]}", data) for name, data in blobs.items()]
    return tar_of([*entries, file("index.json", index.encode()), file("oci-layout", b"{}")])


GOOD: dict[str, Any] = {
    "config": json.loads(image_config([LAYER], {"Cmd": ["true"], "Labels": {"a": "b"}})),
    "manifest": {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "CONFIG", "size": "CONFIG-SIZE"},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "LAYER", "size": "LAYER-SIZE"}
        ],
    },
    "index": {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": MANIFEST,
                "digest": "MANIFEST",
                "size": "SIZE",
                "platform": {"os": "linux", "architecture": "amd64"},
                "annotations": {"io.containerd.image.name": "docker.io/library/a:1"},
            }
        ],
    },
}
GOOD["config"] |= {"docker_version": "1", "container_config": {"Cmd": None}, "comment": "c"}


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document, as keys on the way there."""
    if way:
        yield way
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*way, key))


PLACES = [way for way in places(GOOD) if len(way) > 1]
ODD = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({}) | st.just([{}])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageStore]:
    with ImageStore(tmp_path_factory.mktemp("documents")) as opened:
        yield opened


@given(st.lists(st.tuples(st.sampled_from(PLACES), st.just("remove") | ODD), max_size=2))
@settings(max_examples=60, deadline=None)
def test_any_change_of_a_document_is_taken_or_refused(store: ImageStore, changes: list[tuple[Any, Any]]) -> None:
    check_changed(store, changes)


def test_whatever_is_missing_is_done_without_or_refused(store: ImageStore) -> None:
    for way in PLACES:
        check_changed(store, [(way, "remove")])


def check_changed(store: ImageStore, changes: list[tuple[Any, Any]]) -> None:
    documents = copy.deepcopy(GOOD)
    for way, value in changes:
        at = documents
        try:
            for key in way[:-1]:
                at = at[key]
            if value == "remove":
                del at[way[-1]]
            else:
                at[way[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # another change has taken the place away
    try:
        for loaded in store.load(io.BytesIO(archive(documents))):
            store.delete(loaded.image.id)
    except (InvalidParameter, NotFound) as refusal:
        assert str(refusal)
    assert store.all() == [] and store.content() == (set(), set())


_FILES = st.dictionaries(st.sampled_from(["a", "b", "d/c"]), st.binary(max_size=20), max_size=3)
_NAMES = st.lists(st.sampled_from(["a:1", "a:2", "example.test/b:x"]), max_size=2, unique=True)


@given(st.lists(st.tuples(st.lists(_FILES, min_size=1, max_size=3), _NAMES), min_size=1, max_size=3))
@settings(max_examples=8, deadline=None)
def test_what_is_saved_is_loaded_the_same(images: list[tuple[list[dict[str, bytes]], list[str]]]) -> None:
    with tempfile.TemporaryDirectory() as name, ImageStore(Path(name) / "one") as one:
        for contents, names in images:
            layers = [tar_of([file(path, data) for path, data in files.items()]) for files in contents]
            with docker_archive(Path(name) / "a.tar", layers, names).open("rb") as stream:
                one.load(stream)
        saved = io.BytesIO()
        one.save(
            [*(image.id for image in one.all()), *(name for image in one.all() for name in image.references)], saved
        )
        with ImageStore(Path(name) / "two") as two:
            two.load(io.BytesIO(saved.getvalue()))
            known = [
                {(image.id, image.manifest_digest, image.references, image.chain_ids) for image in store.all()}
                for store in (one, two)
            ]
            assert known[0] == known[1]
