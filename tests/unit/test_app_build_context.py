"""The context that `wherry build` sends."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services import build_context

_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=130)


@given(
    name=st.lists(_NAMES, min_size=1, max_size=2).map("/".join),
    mode=st.integers(0, 0o7777),
    size=st.integers(0, 2**40),
    mtime=st.integers(-(2**33), 2**40),
    is_directory=st.booleans(),
)
def test_heads_are_as_tarfile_writes_them(name: str, mode: int, size: int, mtime: int, is_directory: bool) -> None:
    kind = stat.S_IFDIR if is_directory else stat.S_IFREG
    info = os.stat_result((kind | mode, 1, 1, 1, 1000, 1000, size, mtime, mtime, mtime))
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE if is_directory else tarfile.REGTYPE
    entry.mode, entry.mtime, entry.size = mode, mtime, 0 if is_directory else size
    expected = entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    assert build_context._head(name, info, entry.type) == expected


def test_what_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_context, "_PIECE_BYTES", 1000)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "large").write_bytes(bytes(range(250)) * 10)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "below").mkdir()
    (tmp_path / "below/empty").touch(mode=0o600)
    os.mkfifo(tmp_path / "pipe")
    name, pieces = build_context.local_context(str(tmp_path), "", None, {}, lambda size: None)
    assert name == "Dockerfile"
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as packed:
        assert [(member.name, member.type) for member in packed] == [
            ("Dockerfile", tarfile.REGTYPE),
            ("below", tarfile.DIRTYPE),
            ("large", tarfile.REGTYPE),
            ("link", tarfile.SYMTYPE),
            ("below/empty", tarfile.REGTYPE),
        ]
        large = packed.extractfile("large")
        assert large and large.read() == bytes(range(250)) * 10
        assert (packed.getmember("link").linkname, packed.getmember("below/empty").mode) == ("nowhere", 0o600)
