"""Content of an image's directory copied with everything a file system knows of it."""

import os
import stat
from pathlib import Path

import pytest

from runtime.content.copy_up import copy_ownership, copy_up, examine


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        info = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        attributes = {name: os.getxattr(path, name) for name in os.listxattr(path, follow_symlinks=False)}
        target = os.readlink(path) if path.is_symlink() else ""
        found[str(path.relative_to(top))] = (
            oct(info.st_mode),
            info.st_uid,
            info.st_gid,
            info.st_rdev,
            info.st_mtime_ns,
            info.st_nlink if not path.is_dir() else 0,
            attributes,
            content,
            target,
        )
    return found


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    data = tmp_path / "layer/data"
    (data / "sub/deeper").mkdir(parents=True)
    (data / "file").write_bytes(os.urandom(3_000_000))
    os.link(data / "file", data / "sub/deeper/same-file")
    (data / "tool").write_bytes(b"\x7fELF")
    os.chown(data / "tool", 5, 6)
    os.chmod(data / "tool", 0o6755)
    os.setxattr(data / "tool", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.setxattr(data / "sub", "user.note", b"kept")
    (data / "link").symlink_to("/nowhere")
    os.chown(data / "link", 7, 8, follow_symlinks=False)
    os.mkfifo(data / "pipe")
    os.mknod(data / "device", stat.S_IFCHR | 0o640, os.makedev(1, 5))
    for number, path in enumerate([*sorted(data.rglob("*")), data]):
        os.utime(path, ns=(10**18, 10**18 + number), follow_symlinks=False)
    os.chmod(data / "sub", 0o1770)
    os.chown(data, 11, 12)
    os.utime(data / "sub", ns=(10**18, 10**18))
    return tmp_path / "layer"


def into(tmp_path: Path) -> tuple[Path, int]:
    destination = tmp_path / "destination"
    destination.mkdir()
    return destination, os.open(destination, os.O_RDONLY | os.O_DIRECTORY)


def test_nothing_is_lost(layer: Path, tmp_path: Path) -> None:
    destination, descriptor = into(tmp_path)
    before = os.listdir("/proc/self/fd")
    copy_up([str(layer)], "/data", descriptor)
    assert os.listdir("/proc/self/fd") == before
    os.close(descriptor)
    assert tree(destination) == tree(layer / "data")


def test_layers_hide_what_is_below(layer: Path, tmp_path: Path) -> None:
    top = tmp_path / "top/data"
    (top / "sub").mkdir(parents=True)
    os.setxattr(top / "sub", "trusted.overlay.opaque", b"y")
    (top / "sub/new").touch()
    os.mknod(top / "tool", stat.S_IFCHR, 0)
    (top / "file").mkdir()
    destination, descriptor = into(tmp_path)
    copy_up([str(tmp_path / "top"), str(layer)], "/data", descriptor)
    os.close(descriptor)
    assert sorted(tree(destination)) == [".", "device", "file", "link", "pipe", "sub", "sub/new"]
    assert os.listxattr(destination / "sub") == []


def test_an_empty_directory_and_none(layer: Path, tmp_path: Path) -> None:
    os.mknod(layer / "hidden", stat.S_IFCHR, 0)
    (layer / "empty").mkdir(0o700)
    os.chown(layer / "empty", 3, 4)
    assert examine([str(layer)], "/nosuch") is None
    assert examine([str(layer)], "/hidden") is None
    with pytest.raises(NotADirectoryError):
        examine([str(layer)], "/data/file")
    full, empty = examine([str(layer)], "/data"), examine([str(layer)], "/empty")
    assert full and not full.empty
    assert empty and empty.empty
    destination, descriptor = into(tmp_path)
    copy_ownership([str(layer)], "/empty", descriptor)
    os.close(descriptor)
    assert tree(destination) == tree(layer / "empty")
