"""The parts of a build that need no kernel: contexts, the order of output, keys of the cache, arguments."""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.build.arguments import BuildArguments
from runtime.engine.build.cache import key_of
from runtime.engine.build.context import Context
from runtime.engine.build.files import ContextFiles, digest_of, select
from runtime.engine.build.output import BuildOutput, Text
from runtime.errors import InvalidParameter, NotFound


def tar(entries: dict[str, bytes | str], mtime: int = 0) -> io.BytesIO:
    """Files; text is what a symlink points to."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.mtime = mtime
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    out.seek(0)
    return out


def received(directory: Path, entries: dict[str, bytes | str], mtime: int = 0) -> Context:
    context = Context(directory)
    context.receive(tar(entries, mtime))
    return context


NAMES = st.text("abc", min_size=1, max_size=2)


@given(st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=300), max_size=8))
def test_what_was_sent_can_be_read(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    kept = {path: data for path, data in files.items() if not any(other.startswith(f"{path}/") for other in files)}
    with received(tmp_path_factory.getbasetemp(), dict(kept)) as context:
        found = {path: context.read(file) for path, file in context.files.items() if file.kind == "file"}
        assert found == kept
        walked = [path for path, file in context.walk("") if file.kind == "file"]
        assert sorted(walked) == sorted(kept)


def test_symlinks_stay_inside(tmp_path: Path) -> None:
    entries: dict[str, bytes | str] = {
        "a/file": b"x",
        "up": "../../../a",
        "root": "/a/file",
        "loop": "loop",
        "out": "/etc",
    }
    with received(tmp_path, entries) as context:
        assert context.resolve("up/file") == "a/file"
        assert context.resolve("root") == "a/file"
        for missing in ("loop", "out/passwd", "nothing"):
            with pytest.raises(NotFound):
                context.resolve(missing)
        with pytest.raises(InvalidParameter):
            context.receive(tar({"../outside": b""}))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("[^a].txt", ["b.txt"]),
        ("d/*", ["d/c.txt"]),
        ("./a.txt", ["a.txt"]),
        ("/d", ["d"]),
        ("*/c.txt", ["d/c.txt"]),
    ],
)
def test_wildcards_stop_at_slashes(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    with received(tmp_path, {"a.txt": b"", "b.txt": b"", "d/c.txt": b""}) as context:
        assert context.matches(pattern) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/b/2.txt", [("a/b/2.txt", "a/b")]),
        ("./a/./b/**/*.txt", [("a/b/2.txt", "b"), ("a/b/c/1.txt", "b/c")]),
        ("**/*.txt", [("a/b/2.txt", "a/b"), ("a/b/c/1.txt", "a/b/c")]),
        ("a/*", [("a/b", "a/b")]),
        ("**/c", [("a/b/c", "a/b/c")]),
        ("**", [("a", "a"), ("x", "x")]),  # what is below comes with them
        ("[ax]/./*/*.txt", [("a/b/2.txt", "b")]),
        ("x/y/*.txt", []),
        ("x/./y/3.md", [("x/y/3.md", "y")]),
    ],
)
def test_what_is_copied_with_its_parents(tmp_path: Path, source: str, expected: list[tuple[str, str]]) -> None:
    with received(tmp_path, {"a/b/c/1.txt": b"", "a/b/2.txt": b"", "x/y/3.md": b""}) as context:
        items = select(ContextFiles(context), [source], parents=True)
        assert [(item.path, item.kept_parents) for item in items] == expected


def test_digests_are_of_content_not_of_time(tmp_path: Path) -> None:
    def digest(entries: dict[str, bytes | str], mtime: int = 0) -> str:
        with received(tmp_path, entries, mtime) as context:
            files = ContextFiles(context)
            return digest_of(files, select(files, ["."], False), lambda path, is_directory: True)

    first = digest({"a": b"1", "b": "a"})
    assert first == digest({"b": "a", "a": b"1"}, 1_000_000)
    assert (
        len({first, digest({"a": b"2", "b": "a"}), digest({"a": b"1", "b": "c"}), digest({"c": b"1", "b": "a"})}) == 4
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=30))
def test_parts_are_heard_in_order(said: list[tuple[int, int]]) -> None:
    async def run() -> list[str]:
        output = BuildOutput()
        parts = [output.part() for _ in range(4)]
        for part, number in said:
            await parts[part].say(f"{part}:{number}")
        for part in (2, 0, 3, 1):
            await parts[part].end()
        output.end()
        return [message.text async for message in output.messages() if isinstance(message, Text)]

    expected = [f"{part}:{number}" for part, number in sorted(said, key=lambda item: item[0])]
    assert asyncio.run(run()) == expected


def test_arguments() -> None:
    arguments = BuildArguments({"given": "1", "none": None, "HTTP_PROXY": "p", "left": "x"}, {"TARGETOS": "linux"})
    arguments.set_globals({"top": "t"})
    assert arguments.value("given", "default") == "1"
    assert arguments.value("none", "default") == "default"
    assert arguments.value("top", None) == "t"
    assert arguments.value("TARGETOS", None) == "linux"
    assert arguments.value("unknown", None) is None
    assert arguments.proxies == {"HTTP_PROXY": "p"}
    assert arguments.untaken() == ["left"]


def test_keys_tell_parts_apart() -> None:
    assert key_of("a", "b") != key_of("ab", "")
    assert key_of({"x": 1, "y": 2}) == key_of({"y": 2, "x": 1})
