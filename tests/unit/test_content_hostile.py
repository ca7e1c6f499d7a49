"""Layers of any entries in any order: what is unpacked lies inside, the rest is refused in a sentence."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.content import layers
from runtime.content.archive import unpack_layer, write_diff
from runtime.content.layers import LayerStore
from runtime.content.trash import Trash
from runtime.content.tree import remove_tree
from runtime.errors import InvalidParameter
from tests.fakes.images import Entry, directory, file, gzipped, hard_link, sha256, symlink, tar_of, zstd

PARTS = [
    "a",
    "b",
    "A",
    "..",
    ".",
    "",
    ".wh.a",
    ".wh..wh..opq",
    ".wh..wh.aufs",
    ".wh..",
    ".wh.",
    ".wh...",
    "ä",
    "\udcff",
]
names = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join)
targets = st.one_of(names, st.sampled_from(["/", "../../outside", "../outside/secret", "/proc/self/root", "a/b/../.."]))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    name = draw(names)
    kind = draw(st.sampled_from("fdlh"))
    if kind == "f":
        attributes = draw(st.sampled_from([{}, {"SCHILY.xattr.trusted.overlay.redirect": "/b"}]))
        return file(name, draw(st.binary(max_size=3)), draw(st.sampled_from([0o644, 0o4755])), pax_headers=attributes)
    if kind == "d":
        return directory(name, draw(st.sampled_from([0o755, 0o700, 0o000])))
    return (symlink if kind == "l" else hard_link)(name, draw(targets))


def raw_tar(members: list[Entry]) -> bytes:
    """Names that are not UTF-8 included, as GNU tar writes them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for info, data in members:
            info.uid, info.gid = os.getuid(), os.getgid()
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@given(st.lists(entries(), max_size=12))
@settings(max_examples=60)
def test_any_entries_in_any_order(members: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        target, copy, outside = root / "target", root / "copy", root / "outside"
        for path in (target, copy, outside):
            path.mkdir()
        (outside / "secret").write_text("untouched")
        try:
            unpack_layer(io.BytesIO(raw_tar(members)), target)
            first, second = io.BytesIO(), io.BytesIO()
            write_diff(target, first)
            unpack_layer(io.BytesIO(first.getvalue()), copy)
            write_diff(copy, second)
            assert first.getvalue() == second.getvalue()  # what was unpacked can be committed and unpacked again
            for path, attributes in ((path, os.listxattr(path, follow_symlinks=False)) for path in target.rglob("*")):
                assert "trusted.overlay.redirect" not in attributes, path
        except InvalidParameter as refusal:
            assert str(refusal)
        assert os.listdir(outside) == ["secret"] and (outside / "secret").read_text() == "untouched"
        assert (outside / "secret").stat().st_nlink == 1
        assert sorted(os.listdir(root)) == ["copy", "outside", "target"]
        remove_tree(target)


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    (tmp_path / "root").mkdir()
    return LayerStore(tmp_path / "root/layers", Trash(tmp_path / "root/trash"))


def is_refused(store: LayerStore, data: bytes, diff_id: str, sentence: str) -> bool:
    with pytest.raises(InvalidParameter, match=sentence):
        store.unpack(diff_id, io.BytesIO(data))
    return store.chain_ids() == [] and not list((store.path(diff_id).parents[1]).iterdir())


LAYER = tar_of([directory("d"), file("d/f", b"content" * 100)])


def test_what_follows_the_end_of_a_layer(store: LayerStore) -> None:
    """Counts in the digest; may be padding, of any kind, but no more than padding is."""
    padded = LAYER + b"rubbish" * 1000
    store.discard(store.unpack(sha256(padded), io.BytesIO(gzipped(padded))))
    in_members = gzipped(LAYER[:700]) + gzipped(LAYER[700:])
    store.discard(store.unpack(sha256(LAYER), io.BytesIO(in_members)))
    store.discard(store.unpack(sha256(LAYER), io.BytesIO(gzipped(LAYER) + bytes(10_000))))
    assert is_refused(store, LAYER + b"x", sha256(LAYER), "has the digest")
    bomb = zstd(LAYER) + zstd(bytes(layers.PADDING_BYTES_MAX + (1 << 20)))
    assert len(bomb) < 100_000
    assert is_refused(store, bomb, sha256(LAYER), "after its end")


@pytest.mark.parametrize("compress", [gzipped, zstd, bytes])
def test_a_layer_cut_anywhere(store: LayerStore, compress: object) -> None:
    data = compress(LAYER)  # type: ignore[operator]
    for length in {0, 1, 5, len(data) // 2, len(data) - 1}:
        try:
            store.discard(store.unpack(sha256(LAYER), io.BytesIO(data[:length])))
        except InvalidParameter:
            continue
        raise AssertionError(f"{length} of {len(data)} bytes were taken for the whole")


def test_damaged_compression(store: LayerStore) -> None:
    for data in (gzipped(LAYER), zstd(LAYER)):
        broken = bytearray(data)
        broken[len(data) // 2] ^= 0xFF
        assert is_refused(store, bytes(broken), sha256(LAYER), "damaged|digest|checksum|truncated|number")


def test_rubbish_after_compressed_data(store: LayerStore) -> None:
    assert is_refused(store, gzipped(LAYER) + b"rubbish", sha256(LAYER), "damaged")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files capabilities")
def test_capabilities_of_files_are_kept(tmp_path: Path) -> None:
    value = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service, effective
    headers = {"SCHILY.xattr.security.capability": value.decode("utf-8", "surrogateescape")}
    unpack_layer(io.BytesIO(tar_of([file("f", b"x", 0o755, pax_headers=headers)])), tmp_path)
    assert os.getxattr(tmp_path / "f", "security.capability") == value
    shutil.rmtree(tmp_path / "f", ignore_errors=True)
