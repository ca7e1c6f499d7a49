"""The tar reader against archives written by others, and against damage at every place."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.content.tar_reader import TarEntry, TarReader
from runtime.errors import InvalidParameter
from tests.fakes.images import directory, file, hard_link, symlink, tar_of


def read_all(data: bytes) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(io.BytesIO(data))
    return [(entry, b"".join(reader.chunks())) for entry in reader]


def expanded(entry: TarEntry, stored: bytes) -> bytes:
    """The content of a sparse file."""
    content = bytearray(entry.size)
    for offset, length in entry.segments or []:
        content[offset : offset + length], stored = stored[:length], stored[length:]
    return bytes(content)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_python_and_gnu_headers(tar_format: int) -> None:
    long_name = "directory/" * 30 + "ä-file"
    entries = [
        directory("d", 0o1777, uid=3, gid=4, mtime=5),
        file(long_name, b"x" * 513, 0o4755, uid=2**31 - 1),
        symlink("l", "t" * 150),
        hard_link("h", long_name),
    ]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    read = read_all(out.getvalue())
    assert [(entry.name.rstrip("/"), entry.kind, entry.link_target) for entry, _ in read] == [
        ("d", b"5", ""),
        (long_name, b"0", ""),
        ("l", b"2", "t" * 150),
        ("h", b"1", long_name),
    ]
    assert (read[0][0].mode, read[0][0].uid, read[0][0].gid, read[0][0].mtime_ns) == (0o1777, 3, 4, 5 * 10**9)
    assert (read[1][0].mode, read[1][0].uid, read[1][1]) == (0o4755, 2**31 - 1, b"x" * 513)


def test_pax_times_and_extended_attributes() -> None:
    headers = {"mtime": "1.5", "SCHILY.xattr.user.a": "b", "SCHILY.xattr.user.c": "\udcff\0"}
    [(entry, _)] = read_all(tar_of([file("f", pax_headers=headers)]))
    assert entry.mtime_ns == 1_500_000_000
    assert entry.xattrs == {"user.a": b"b", "user.c": b"\xff\0"}


@pytest.mark.parametrize("tar_format", ["gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, tar_format: str) -> None:
    content = bytearray(1 << 20)
    for place in range(0, 1 << 20, 1 << 17):  # enough parts for an extension block
        content[place : place + 5] = b"dense"
    with (tmp_path / "sparse").open("wb") as sparse:
        for place in range(0, 1 << 20, 1 << 17):
            sparse.seek(place)
            sparse.write(b"dense")
        sparse.truncate(1 << 20)
    (tmp_path / "after").write_bytes(b"after")
    name, *options = tar_format.split()
    command = ["tar", "-C", str(tmp_path), "-S", f"--format={name}", *options, "-cf", "-", "sparse", "after"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    (sparse_entry, stored), (after, after_data) = read_all(archive)
    assert (sparse_entry.name, sparse_entry.size) == ("sparse", 1 << 20)
    assert expanded(sparse_entry, stored) == content
    assert (after.name, after_data) == ("after", b"after")


def test_unread_data_is_skipped() -> None:
    data = tar_of([file("a", b"1" * 2000), file("b", b"2")])
    reader = TarReader(io.BytesIO(data))
    assert [entry.name for entry in reader] == ["a", "b"]


def test_an_archive_cut_anywhere_but_between_entries_is_called_truncated() -> None:
    data = tar_of([directory("d"), file("f" * 120, b"x" * 700)]).rstrip(b"\0")
    assert read_all(b"") == [] and len(read_all(data[:512])) == 1
    for length in range(1024, len(data) // 512 * 512 + 1, 512):
        with pytest.raises(InvalidParameter, match="truncated"):
            read_all(data[:length])
    with pytest.raises(InvalidParameter, match="truncated"):
        read_all(data[:700])
    last = tar_of([file("a", b"12345")])
    assert len(read_all(last[: 512 + 5])) == len(read_all(last[: 512 + 6])) == 1  # only what fills the block is missing


def test_a_damaged_header_is_not_taken_for_the_end() -> None:
    data = bytearray(tar_of([file("a", b"x"), file("b", b"y")]))
    data[1024 + 3] ^= 1
    with pytest.raises(InvalidParameter, match=r'checksum.*near "a"'):
        read_all(bytes(data))


def pax_tar(body: bytes, declared: int | None = None) -> bytes:
    """A tar whose extended header is exactly `body`."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(body) if declared is None else declared
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512) + tar_of([file("f", b"x" * 512)])


@pytest.mark.parametrize(
    "body",
    [b"x", b"0 a=b\n", b"99 path=x\n", b"9 path=x", b"-9 path=x\n", b"9 pathxx\n", b"13 size=junk\n", b"12 size=-1\n",
     b"11 path=\0\n", b"99999999999999999999 path=x\n", b"12 uid=0x10\n"],
)  # fmt: skip
def test_damaged_pax_headers_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidParameter):
        read_all(pax_tar(body))


def test_an_extended_header_cannot_fill_the_memory() -> None:
    with pytest.raises(InvalidParameter, match="extended header over"):
        read_all(pax_tar(b"", declared=1 << 30))


@pytest.mark.parametrize("sparse_map", ["0,10,5,10", "0,600", "512,10", "0,1", "0,100,200,412,10,0", "0,-5,0,517"])
def test_impossible_sparse_maps_are_refused(sparse_map: str) -> None:
    headers = {"GNU.sparse.size": "512", "GNU.sparse.map": sparse_map}
    with pytest.raises(InvalidParameter):
        read_all(tar_of([file("f", b"x" * 512, pax_headers=headers)]))


VALID = tar_of([directory("d"), file("d/f", b"data", pax_headers={"SCHILY.xattr.user.a": "b"}), symlink("l", "d/f")])


@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(VALID)))
@settings(max_examples=100)
def test_any_damage_is_read_or_refused_and_nothing_else(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(VALID)
    for position, value in changes:
        data[position] = value
    try:
        read_all(bytes(data[:length]))
    except InvalidParameter:
        pass
