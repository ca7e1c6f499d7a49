"""Layers as root: what the kernel's overlayfs shows of them, and loads that are killed."""

import io
import os
import signal
import stat
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.content.archive import unpack_layer, write_diff
from runtime.content.images import ImageStore
from runtime.content.merged import read_in_layers, stat_directory
from runtime.content.snapshots import OverlayRootfs, Snapshots
from runtime.content.tree import remove_tree, walk
from tests.fakes.images import (
    busybox_image_tar,
    busybox_rootfs,
    device,
    directory,
    docker_archive,
    file,
    hard_link,
    tar_of,
)

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root: devices, owners, trusted xattrs, mounts")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    with ImageStore(tmp_path / "root") as opened:
        yield opened


def in_rootfs(rootfs: OverlayRootfs, at: Path, script: str) -> str:
    """Mounts the overlay in a mount namespace of its own and runs a shell inside; returns what it prints."""
    at.mkdir(exist_ok=True)
    options = f"lowerdir={':'.join(rootfs.lower)},upperdir={rootfs.upper},workdir={rootfs.work}"
    command = 'mount -t overlay overlay -o "$0" "$1" && exec chroot "$1" /bin/sh -ec "$2"'
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, options, str(at), script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_owners_devices_and_capabilities(tmp_path: Path) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # VFS_CAP_REVISION_2 effective, net_bind
    xattr = {"SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape")}
    entries = [
        directory("d", 0o2755, uid=100, gid=200),
        file("d/setuid", b"x", 0o6755, uid=100, gid=200),
        file("d/capable", b"x", 0o755, uid=5, gid=6, pax_headers=xattr),
        device("null", 1, 3, 0o666, uid=7, gid=8),
    ]
    unpack_layer(io.BytesIO(tar_of(entries)), tmp_path)
    for name, uid, gid, mode in [
        ("d", 100, 200, stat.S_IFDIR | 0o2755),
        ("d/setuid", 100, 200, stat.S_IFREG | 0o6755),
        ("d/capable", 5, 6, stat.S_IFREG | 0o755),
        ("null", 7, 8, stat.S_IFCHR | 0o666),
    ]:
        info = (tmp_path / name).stat()
        assert (info.st_uid, info.st_gid, info.st_mode) == (uid, gid, mode)
    assert os.getxattr(tmp_path / "d/capable", "security.capability") == capability
    assert (tmp_path / "null").stat().st_rdev == os.makedev(1, 3)


def test_overlayfs_shows_layers_as_the_image_means_them(store: ImageStore, tmp_path: Path) -> None:
    base = tar_of(
        busybox_rootfs(
            [directory("opaque"), file("opaque/old"), directory("again"), file("again/old"), file("gone", b"x")]
        )
    )
    top = tar_of(
        [
            directory("opaque"),
            file("opaque/.wh..wh..opq"),
            file("opaque/new"),
            file(".wh.gone"),
            file(".wh.again"),
            file("again/new"),  # removed below and made anew, in that order
            file("etc/.wh.hostname"),
            file("tmp/implied"),
            hard_link("tmp/link", "tmp/implied"),
        ]
    )
    with docker_archive(tmp_path / "a.tar", [base, top], ["app"]).open("rb") as stream:
        store.load(stream)
    rootfs = Snapshots(tmp_path / "root").prepare("c1", store.get("app"))
    shown = in_rootfs(
        rootfs,
        tmp_path / "mnt",
        "ls /opaque /again; ls -d /gone /etc/hostname 2>/dev/null || :; stat -c %a /tmp; stat -c %h /tmp/link",
    )
    assert shown == "/again:\nnew\n\n/opaque:\nnew\n1777\n2\n"
    for path in ("/opaque/old", "/again/old", "/gone", "/etc/hostname"):
        assert read_in_layers(rootfs.lower, rootfs.upper, path) is None
    assert read_in_layers(rootfs.lower, rootfs.upper, "/again/new") == b""
    root_home = stat_directory(rootfs.lower, "/root")
    assert root_home is not None
    assert stat.S_IMODE(root_home.st_mode) == 0o700


def test_a_commit_shows_what_the_container_saw(store: ImageStore, tmp_path: Path) -> None:
    with busybox_image_tar(tmp_path / "a.tar").open("rb") as stream:
        store.load(stream)
    parent = store.get("busybox")
    snapshots = Snapshots(tmp_path / "root")
    container = snapshots.prepare("c1", parent)
    look = "find / -xdev ! -path '/proc*' -exec stat -c '%n %F %a %u:%g %s' {} + | grep -v ' directory ' | sort"
    work = (
        "rm /etc/hostname; rmdir /var; rm -r /home; mkdir /home; echo hi >/home/x; ln /home/x /home/y; "
        "chown 5:6 /etc/group; chmod 4755 /etc/passwd; mkfifo /tmp/fifo"
    )
    seen = in_rootfs(container, tmp_path / "mnt", f"{work}; {look}")
    assert "/home/x" in seen
    image = store.commit(parent, Path(container.upper), {}, "committed")
    copy = snapshots.prepare("c2", image)
    assert in_rootfs(copy, tmp_path / "mnt", look) == seen
    assert in_rootfs(copy, tmp_path / "mnt", "ls -d /var /etc/hostname 2>/dev/null || echo gone") == "gone\n"


def test_opaque_directories_survive_the_way_through_a_tar(tmp_path: Path) -> None:
    for name in ("upper", "copy"):
        (tmp_path / name).mkdir()
    (tmp_path / "upper/d").mkdir()
    os.setxattr(tmp_path / "upper/d", "trusted.overlay.opaque", b"y")
    os.mknod(tmp_path / "upper/gone", stat.S_IFCHR, 0)
    out = io.BytesIO()
    write_diff(tmp_path / "upper", out)
    unpack_layer(io.BytesIO(out.getvalue()), tmp_path / "copy")
    assert os.getxattr(tmp_path / "copy/d", "trusted.overlay.opaque") == b"y"
    assert (tmp_path / "copy/gone").stat().st_rdev == 0
    assert os.listdir(tmp_path / "copy/d") == []


def test_an_upper_directory_takes_after_the_images_root(store: ImageStore, tmp_path: Path) -> None:
    layers = [tar_of([directory("./", 0o710, uid=3, gid=4)]), tar_of([file("x")])]
    with docker_archive(tmp_path / "a.tar", layers, ["app"]).open("rb") as stream:
        store.load(stream)
    info = os.stat(Snapshots(tmp_path / "root").prepare("c1", store.get("app")).upper)
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o710, 3, 4)


def test_trees_deeper_than_paths_and_recursion_are_walked_and_removed(tmp_path: Path) -> None:
    depth, name = 1100, "deep"
    top = tmp_path / "deep"
    top.mkdir()
    current = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=current)
        following = os.open(name, os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = following
    os.close(current)
    assert sum(1 for _ in walk(top)) == depth
    remove_tree(top)
    assert not top.exists()


LOADER = """
    import sys
    from pathlib import Path
    from runtime.content.images import ImageStore

    class Told:
        left = int(sys.argv[2])

        def read(self, size=-1):
            data = sys.stdin.buffer.read(size)
            self.left -= len(data)
            if self.left <= 0:
                print("half of it has been read", flush=True)
            return data

    ImageStore(Path(sys.argv[1])).load(Told())
"""

UNPACKER = """
    import sys
    from pathlib import Path
    from runtime.content import layers
    from runtime.content.images import ImageStore
    def stop_before_the_rename(*arguments):
        print("unpacked", flush=True)
        sys.stdin.read()
    layers.LayerStore._describe_implied = stop_before_the_rename
    with open(sys.argv[2], "rb") as archive:
        ImageStore(Path(sys.argv[1])).load(archive)
"""


def killed(script: str, *arguments: Path | str, given: bytes = b"") -> None:
    """Runs `script`, feeds it `given` and kills it once it has said something."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(given)
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_load_killed_while_receiving_leaves_a_clean_store(tmp_path: Path) -> None:
    archive = busybox_image_tar(tmp_path / "a.tar").read_bytes()
    killed(LOADER, tmp_path / "root", str(len(archive) // 2), given=archive[: len(archive) - 4096])
    check_clean_and_usable(tmp_path)


def test_a_load_killed_while_unpacking_leaves_a_clean_store(tmp_path: Path) -> None:
    killed(UNPACKER, tmp_path / "root", busybox_image_tar(tmp_path / "a.tar"))
    assert [name[:4] for name in os.listdir(tmp_path / "root/layers")] == ["tmp-"]
    check_clean_and_usable(tmp_path)


def check_clean_and_usable(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with ImageStore(root) as store:
        assert store.all() == []
        for place in ("content/blobs/sha256", "content/ingest", "layers"):
            assert os.listdir(root / place) == []
        Snapshots(root).reap()
        assert os.listdir(root / "trash") == []
        with busybox_image_tar(tmp_path / "again.tar").open("rb") as stream:
            assert [loaded.references for loaded in store.load(stream)] == [("busybox:latest",)]
