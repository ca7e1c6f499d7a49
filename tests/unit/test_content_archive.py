"""Layers nobody vouches for: everything stays inside the target, or is refused in a sentence."""

import io
import os
import stat
import subprocess
from pathlib import Path

import pytest

from runtime.content.archive import Limits, export_tree, unpack_layer, write_diff
from runtime.content.merged import read_in_container, read_in_layers
from runtime.content.tree import remove_tree, walk
from runtime.errors import InvalidParameter
from tests.fakes.images import Entry, device, directory, file, hard_link, symlink, tar_of

OWNER = {"uid": os.getuid(), "gid": os.getgid()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("untouched")
    return path


def unpack(target: Path, *entries: Entry, **limits: int) -> tuple[int, tuple[str, ...]]:
    for info, _ in entries:
        info.uid, info.gid = OWNER["uid"], OWNER["gid"]
    unpacked = unpack_layer(io.BytesIO(tar_of(entries)), target, Limits(**limits))
    return unpacked.size_bytes, unpacked.implied


def outside_is_untouched(target: Path) -> bool:
    outside = target.parent / "outside"
    return os.listdir(outside) == ["secret"] and (outside / "secret").read_text() == "untouched"


def test_files_directories_links_modes_and_times(target: Path) -> None:
    size, implied = unpack(
        target,
        directory("./", 0o711, mtime=1),
        directory("d", 0o1777, mtime=2),
        file("d/f", b"hello", 0o4755, mtime=3),
        symlink("l", "/d/f", mtime=4),
        hard_link("d/h", "d/f"),
        file("no/parent", b"x"),
    )
    assert (size, implied) == (10, ("no",))  # a symlink is as long as its target, as Docker counts
    assert stat.S_IMODE(target.stat().st_mode) == 0o711
    assert (stat.S_IMODE((target / "d").stat().st_mode), (target / "d").stat().st_mtime) == (0o1777, 2)
    assert stat.S_IMODE((target / "d/f").stat().st_mode) == 0o4755
    assert (target / "d/f").stat().st_mtime == 3
    assert os.readlink(target / "l") == "/d/f"
    assert (target / "l").lstat().st_mtime == 4
    assert (target / "d/h").samefile(target / "d/f")
    assert stat.S_IMODE((target / "no").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "entries",
    [
        [file("../outside/x")],
        [file("a/../../outside/x")],
        [file("..")],
        [hard_link("x", "../outside/secret")],
        [symlink("d", "../outside"), hard_link("x", "d/secret")],
        [symlink("d", "/"), hard_link("x", "d/../outside/secret")],
        [directory("d"), file(".wh...")],
        [file("d/.wh...")],
        [file("./")],
        [file("d/.wh.")],
        [file("x" * 300)],
        [symlink("x", "")],
        [symlink("a", "b"), symlink("b", "a"), file("a/x")],
        [file("f"), file("f/below")],
        [hard_link("x", "missing")],
        [directory("d"), hard_link("x", "d")],
        [file("d/" * 400 + "x")],
        [symlink("s", "d/" * 200), *(directory("s/" + "d/" * 100) for _ in range(2)), file("s/s/" + "d/" * 200)],
    ],
)
def test_what_no_layer_may_do_is_refused(target: Path, entries: list[Entry]) -> None:
    with pytest.raises(InvalidParameter):
        unpack(target, *entries)
    assert outside_is_untouched(target)


def test_absolute_names_and_links_stay_in_the_layer(target: Path) -> None:
    outside = str(target.parent / "outside")
    unpack(target, file("/etc/passwd", b"x"), symlink("out", outside), file("out/inside", b"y"))
    unpack(target, symlink("up", "../../../outside"), file("up/inside", b"z"))
    assert (target / "etc/passwd").read_bytes() == b"x"
    assert (target / outside.lstrip("/") / "inside").read_bytes() == b"y"
    assert (target / "outside/inside").read_bytes() == b"z"
    assert outside_is_untouched(target)


def test_files_go_through_symlinked_directories_of_the_same_layer(target: Path) -> None:
    unpack(target, directory("usr/lib"), symlink("lib", "usr/lib"), file("lib/a"), hard_link("lib/b", "lib/a"))
    assert (target / "usr/lib/a").samefile(target / "usr/lib/b")
    assert (target / "lib").is_symlink()


def test_a_symlink_is_replaced_not_followed(target: Path) -> None:
    secret = str(target.parent / "outside" / "secret")
    unpack(
        target, symlink("f", secret), file("f", b"mine"), symlink("d", str(target.parent / "outside")), directory("d")
    )
    assert (target / "f").read_bytes() == b"mine"
    assert (target / "d").is_dir()
    assert not (target / "d").is_symlink()
    assert outside_is_untouched(target)


def test_a_later_entry_replaces_a_directory_and_what_was_cached_of_it(target: Path) -> None:
    unpack(target, file("d/a"), file("d", b"file"), file("e/a"), symlink("e", "f"), directory("f"), file("e/b"))
    assert (target / "d").read_bytes() == b"file"
    assert os.listdir(target / "f") == ["b"]


def test_whiteouts_become_devices_and_only_hide_what_is_below(target: Path) -> None:
    unpack(target, file("d/.wh.gone"), file("d/kept", b"x"), file("d/.wh.kept"), file("d/.wh..wh.plnk"))
    info = (target / "d/gone").lstat()
    assert stat.S_ISCHR(info.st_mode)
    assert info.st_rdev == 0
    assert (target / "d/kept").read_bytes() == b"x"
    assert sorted(os.listdir(target / "d")) == ["gone", "kept"]


def test_a_hard_link_cannot_copy_a_whiteout(target: Path) -> None:
    with pytest.raises(InvalidParameter, match="not a file of this layer"):
        unpack(target, file(".wh.x"), hard_link("y", "x"))


def test_limits(target: Path) -> None:
    with pytest.raises(InvalidParameter, match="more than 2 entries"):
        unpack(target, file("1"), file("2"), file("3"), entries=2)
    with pytest.raises(InvalidParameter, match="more than 10 bytes"):
        unpack(target, file("4", b"12345"), file("5", b"123456"), stored_bytes=10)
    assert not (target / "5").exists()


def test_overlayfs_and_security_attributes_are_not_taken_from_layers(target: Path) -> None:
    names = ("trusted.overlay.redirect", "user.overlay.opaque", "security.selinux", "user.kept")
    unpack(target, file("f", pax_headers={f"SCHILY.xattr.{name}": "y" for name in names}))
    assert [name for name in os.listxattr(target / "f") if name != "security.selinux"] == ["user.kept"]


def test_sparse_files_stay_sparse(target: Path) -> None:
    headers = {"GNU.sparse.size": str(1 << 30), "GNU.sparse.map": f"{1 << 29},4"}
    size, _ = unpack(target, file("f", b"data", pax_headers=headers))
    info = (target / "f").stat()
    assert (size, info.st_size) == (4, 1 << 30)
    assert info.st_blocks * 512 < 1 << 20
    with (target / "f").open("rb") as unpacked:
        unpacked.seek(1 << 29)
        assert unpacked.read(5) == b"data\0"


def test_a_diff_unpacks_to_the_same_tree_and_is_deterministic(target: Path, tmp_path: Path) -> None:
    unpack(
        target,
        directory("b", 0o700, mtime=7),
        file("b/setuid", b"x" * 5000, 0o4711, mtime=8, pax_headers={"SCHILY.xattr.user.a": "\udcff\0"}),
        hard_link("a-hard", "b/setuid"),
        symlink("ä" * 60 + "/" + "long" * 20, "target" * 30),
        file("b/.wh.removed"),
    )
    first, second = io.BytesIO(), io.BytesIO()
    write_diff(target, first)
    copy = tmp_path / "copy"
    copy.mkdir()
    unpack_layer(io.BytesIO(first.getvalue()), copy)
    write_diff(copy, second)
    assert first.getvalue() == second.getvalue()
    listing = subprocess.run(["tar", "-tf", "-"], input=first.getvalue(), capture_output=True, check=True).stdout
    assert b"b/.wh.removed\n" in listing
    assert (copy / "a-hard").samefile(copy / "b/setuid")
    assert os.getxattr(copy / "b/setuid", "user.a") == b"\xff\0"


def test_export_shows_devices_as_they_are_and_leaves_sockets_out(target: Path) -> None:
    import socket

    unpack(target, file("f", b"x"), device("null", 0, 0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(target / "socket"))
        out = io.BytesIO()
        export_tree(target, out)
    listing = subprocess.run(["tar", "-tf", "-"], input=out.getvalue(), capture_output=True, check=True).stdout
    assert listing == b"f\nnull\n"


def test_walking_notices_a_directory_moved_away_under_it(tmp_path: Path) -> None:
    (tmp_path / "top/a/b/c").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    steps = walk(tmp_path / "top")
    assert [next(steps).path for _ in range(3)] == ["a", "a/b", "a/b/c"]
    (tmp_path / "top/a/b").rename(tmp_path / "elsewhere/b")
    with pytest.raises(OSError, match="Stale") as caught:
        list(steps)
    assert caught.value.filename.endswith("top/a/b")


def test_removing_a_tree_leaves_what_its_symlinks_point_to(target: Path) -> None:
    os.symlink(target.parent / "outside", target / "link")
    remove_tree(target)
    assert not target.exists()
    assert (target.parent / "outside" / "secret").exists()


class TestReadInLayers:
    """Reads as overlayfs would show, over layers made by hand."""

    @pytest.fixture
    def layers(self, tmp_path: Path) -> list[Path]:
        """Top first."""
        made = [tmp_path / "upper", tmp_path / "middle", tmp_path / "bottom"]
        for path in made:
            path.mkdir()
        return made

    def read(self, layers: list[Path], path: str) -> bytes | None:
        upper, *lower = [str(layer) for layer in layers]
        return read_in_layers(lower, upper, path)

    def test_the_topmost_file_wins(self, layers: list[Path]) -> None:
        unpack(layers[2], file("etc/passwd", b"bottom"), file("etc/group", b"group"))
        assert self.read(layers, "/etc/passwd") == b"bottom"
        unpack(layers[1], file("etc/passwd", b"middle"))
        assert self.read(layers, "/etc/passwd") == b"middle"
        unpack(layers[0], file("etc/passwd", b"upper"))
        assert self.read(layers, "/etc/passwd") == b"upper"
        assert self.read(layers, "etc//group") == b"group"

    def test_whiteouts_and_files_hide_what_is_below(self, layers: list[Path]) -> None:
        unpack(layers[2], file("etc/passwd", b"x"), file("d/f", b"x"), file("gone/f", b"x"))
        unpack(layers[1], file("etc/.wh.passwd"), file("d", b"now a file"), file(".wh.gone"))
        assert self.read(layers, "/etc/passwd") is None
        assert self.read(layers, "/d/f") is None
        assert self.read(layers, "/d") == b"now a file"
        assert self.read(layers, "/gone/f") is None

    def test_symlinks_resolve_inside_and_across_layers(self, layers: list[Path], tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        unpack(layers[2], file("usr/etc/passwd", b"found"), symlink("etc", "usr/etc"))
        unpack(layers[1], symlink("usr/etc/group", "/etc/../../../etc/passwd"), symlink("loop", "loop"))
        unpack(layers[1], symlink("up", "../secret"), symlink("absolute", str(tmp_path / "secret")))
        assert self.read(layers, "/etc/passwd") == b"found"
        assert self.read(layers, "/etc/group") == b"found"
        for path in ("/loop", "/up", "/absolute", "/../secret", "/usr", "/missing/x", "/etc/passwd/x"):
            assert self.read(layers, path) is None

    def test_a_fifo_does_not_block(self, layers: list[Path]) -> None:
        os.mkfifo(layers[0] / "passwd")
        assert self.read(layers, "/passwd") is None

    def test_a_huge_file_is_refused(self, layers: list[Path]) -> None:
        with (layers[0] / "passwd").open("wb") as huge:
            huge.truncate(1 << 40)
        with pytest.raises(InvalidParameter, match="larger than 16 MiB"):
            self.read(layers, "/passwd")

    @pytest.mark.parametrize(
        "written",
        [
            [],
            [file("etc/hosts", b"mounted over")],
            [file("etc/passwd", b"new")],
            [file("usr/etc/passwd", b"behind the link")],
            [file("etc", b"no directory")],
            [symlink("etc", "usr/etc"), file("usr/etc/passwd", b"behind the link")],
            [symlink("etc/passwd", "/usr/etc/other"), file("usr/etc/other", b"other")],
            [file("etc/.wh.passwd")],
            [file(".wh.etc")],
            [file("etc/.wh..wh..opq"), file("etc/group", b"new")],
        ],
        ids=lambda written: " ".join(info.name for info, _ in written) or "nothing",
    )
    @pytest.mark.parametrize("path", ["/etc/passwd", "/linked/passwd", "/etc/group", "/usr/etc/../etc/passwd"])
    def test_the_quick_way_reads_the_same(self, layers: list[Path], path: str, written: list[Entry]) -> None:
        """Whatever a container writes after its image's files have been read once."""
        unpack(layers[2], file("etc/passwd", b"image"), file("usr/etc/passwd", b"usr"), symlink("linked", "usr/etc"))
        upper, *lower = map(str, layers)
        assert read_in_container(lower, upper, path) == self.read(layers, path)
        unpack(layers[0], *written)
        assert read_in_container(lower, upper, path) == self.read(layers, path)
