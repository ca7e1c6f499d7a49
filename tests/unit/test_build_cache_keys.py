"""What a step's key in the build cache depends on: every change that matters, and nothing else."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.build.cache import key_of
from runtime.engine.build.context import Context
from runtime.engine.build.files import ContextFiles, digest_of, select

PATHS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map("/".join)


@dataclass(frozen=True)
class File:
    """`link`: it is a symlink to that. The last four are nobody's business."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""
    mtime: int = 0
    uid: int = 0
    user: str = ""
    pax: bool = False


FILES = st.builds(
    File,
    st.binary(max_size=20),
    st.sampled_from([0o644, 0o600, 0o755]),
    st.sampled_from(["", "", "a", "/b"]),
)
TREES = st.dictionaries(PATHS, FILES, min_size=1, max_size=6).map(
    lambda files: {
        path: file for path, file in files.items() if not any(other.startswith(f"{path}/") for other in files)
    }
)


def digest(directory: Path, files: dict[str, File], source: str = ".") -> str:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, file in files.items():
            entry = tarfile.TarInfo(f"top/{name}")
            entry.mode, entry.mtime, entry.uid, entry.uname = file.mode, file.mtime, file.uid, file.user
            if file.pax:
                entry.pax_headers = {"comment": "x", "atime": "1.5"}
            if file.link:
                entry.type, entry.linkname = tarfile.SYMTYPE, file.link
                archive.addfile(entry)
            else:
                entry.size = len(file.data)
                archive.addfile(entry, io.BytesIO(file.data))
    body.seek(0)
    with Context(directory) as context:
        context.receive(body)
        found = ContextFiles(context)
        return digest_of(found, select(found, [f"top/{source}"], False), lambda path, is_directory: True)


@settings(max_examples=40)
@given(TREES, st.data())
def test_the_digest_of_a_copy(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, File], data: st.DataObject
) -> None:
    directory = tmp_path_factory.getbasetemp()
    before = digest(directory, files)
    path = data.draw(st.sampled_from(sorted(files)))
    file = files[path]

    same = dict(reversed(files.items()))
    same[path] = replace(file, mtime=1_000_000, uid=7, user="somebody", pax=True)
    assert digest(directory, same) == before

    changes = [
        {**files, path: replace(file, link="elsewhere")},
        {**files, path: replace(file, mode=0o711)},
        {**files, f"{path}x": file},
        {f"{name}x" if name == path else name: one for name, one in files.items()},
    ]
    if not file.link:
        changes += [{**files, path: replace(file, data=file.data + b"x")}, {**files, path: replace(file, link="a")}]
    for number, changed in enumerate(changes):
        assert digest(directory, changed) != before, number


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab,[]\"'", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(st.lists(JSON, max_size=4), st.lists(JSON, max_size=4))
def test_keys_are_equal_when_everything_is(left: list[object], right: list[object]) -> None:
    def typed(value: object) -> object:
        """In Python True is 1."""
        if isinstance(value, dict):
            return {key: typed(member) for key, member in value.items()}
        return [typed(member) for member in value] if isinstance(value, list) else (type(value).__name__, value)

    assert (key_of(*left) == key_of(*right)) == (typed(left) == typed(right))
    assert key_of(*left) == key_of(*left)
