"""The pure parts of the guest image's builder."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import struct
import sys
import tarfile
from collections.abc import Collection
from pathlib import Path

import pytest

from guest.builder import apkdb, cpio, parts
from guest.builder.alpine import Userland, install_userland
from guest.builder.arch import ARCHITECTURES, Architecture
from guest.builder.build import is_current
from guest.builder.container_image import write_container_image
from guest.builder.debian import IndexedPackage
from guest.builder.elf import needed_libraries
from guest.builder.errors import BuildError
from guest.builder.inputs import hash_inputs
from guest.builder.kernel import ModuleTree, bootable_kernel, install_modules, module_name, read_module
from guest.builder.manifest import contract, write_contract
from guest.builder.packages import PACKAGES
from guest.builder.parts import PartCache, sha256_of
from guest.builder.pins import Part, load_pins, write_pins
from guest.builder.system import load_module_groups

X86 = ARCHITECTURES["x86_64"]

DATABASE = """\
P:base
V:1.0-r0
F:etc
R:passwd
Z:Q1abc=
R:shadow
a:0:42:640
F:tmp
M:0:0:1777

P:extra
V:2.0-r1
F:
R:top
F:etc

"""


class TestApkDatabase:
    def test_entries_carry_owner_and_mode_only_when_stated(self) -> None:
        base, extra = apkdb.parse(DATABASE)
        assert (base.name, base.version) == ("base", "1.0-r0")
        assert base.entries == [
            apkdb.Entry("etc", is_folder=True),
            apkdb.Entry("etc/passwd", is_folder=False),
            apkdb.Entry("etc/shadow", is_folder=False, gid=42, mode=0o640),
            apkdb.Entry("tmp", is_folder=True, mode=0o1777),
        ]
        assert apkdb.Entry("top", is_folder=False) in extra.entries

    def test_a_narrowed_database_is_a_database(self) -> None:
        chosen = apkdb.select(apkdb.parse(DATABASE), ["base"])
        assert apkdb.parse(apkdb.dump(chosen)) == chosen

    def test_a_package_that_is_not_installed_is_named(self) -> None:
        with pytest.raises(BuildError, match=r"does not hold missing;"):
            apkdb.select(apkdb.parse(DATABASE), ["base", "missing"])


@pytest.fixture
def alpine_root(tmp_path: Path) -> Path:
    """A root as it comes off the disk, with what another product left in it."""
    root = tmp_path / "disk"
    files = {
        "bin/busybox": "busybox",
        "etc/alpine-release": "3.23.6\n",
        "etc/busybox-paths.d/busybox": "bin/ls\nusr/bin/awk\n",
        "etc/passwd": "root:x:0:0::/root:/bin/sh\nquicksand:x:1000:1000::/home/quicksand:/bin/sh\n",
        "etc/shadow": "root:*::0:::::\nquicksand:!:20740:0:99999:7:::\n",
        "etc/group": "root:x:0:\nquicksand:x:1000:\n",
        "etc/apk/arch": "x86_64\n",
        "etc/apk/repositories": "",
        "lib/apk/db/scripts.tar.gz": "",
        "lib/apk/db/triggers": "",
        "usr/local/bin/agent": "not Alpine's",
        "lib/apk/db/installed": (
            "P:alpine\nV:1\nF:bin\nR:busybox\na:0:0:755\nF:etc\nR:alpine-release\nR:passwd\nR:shadow\n"
            "a:0:42:640\nR:group\nF:etc/apk\nF:lib\nF:lib/apk\nF:lib/apk/db\nF:tmp\nM:0:0:1777\n\n"
        ),
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "tmp").mkdir()
    os.utime(root / "etc/alpine-release", (1_700_000_000, 1_700_000_000))
    return root


@pytest.fixture
def userland(alpine_root: Path, tmp_path: Path) -> Userland:
    return install_userland(alpine_root, ["alpine"], tmp_path / "userland")


class TestUserland:
    def test_only_what_packages_own_is_taken(self, userland: Userland) -> None:
        assert (userland.root / "bin/busybox").read_text() == "busybox"
        assert not (userland.root / "usr/local").exists()
        assert (userland.root / "usr/bin/awk").readlink() == Path("/bin/busybox")

    def test_foreign_accounts_are_dropped(self, userland: Userland) -> None:
        for name in ("passwd", "shadow", "group"):
            assert [line.split(":")[0] for line in (userland.root / "etc" / name).read_text().splitlines()] == ["root"]

    def test_modes_follow_the_database(self, userland: Userland) -> None:
        assert stat.S_IMODE((userland.root / "tmp").stat().st_mode) == 0o1777
        assert stat.S_IMODE((userland.root / "etc/shadow").stat().st_mode) == 0o640


class TestContainerImage:
    def test_it_is_a_docker_archive(self, userland: Userland, tmp_path: Path) -> None:
        write_container_image(userland, X86, tmp_path / "image.tar")
        with tarfile.open(tmp_path / "image.tar") as archive:
            (entry,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
            config = json.load(archive.extractfile(entry["Config"]))  # type: ignore[arg-type]
            layer = archive.extractfile(entry["Layers"][0])
            assert layer is not None
            with tarfile.open(fileobj=io.BytesIO(layer.read())) as root:
                shadow = root.getmember("etc/shadow")
        assert entry["RepoTags"] == ["alpine:3.23", "alpine:latest"]
        assert entry["Layers"][0].split("/")[0] == config["rootfs"]["diff_ids"][0].removeprefix("sha256:")
        assert (config["architecture"], config["config"]["Cmd"]) == ("amd64", ["/bin/sh"])
        assert (shadow.uid, shadow.gid, shadow.mode) == (0, 42, 0o640)

    def test_equal_input_gives_equal_bytes(self, alpine_root: Path, tmp_path: Path) -> None:
        archives = []
        for name in ("first", "second"):
            copy = install_userland(alpine_root, ["alpine"], tmp_path / name)
            write_container_image(copy, X86, tmp_path / f"{name}.tar")
            archives.append((tmp_path / f"{name}.tar").read_bytes())
            os.utime(alpine_root / "bin/busybox", (1, 1))
        assert archives[0] == archives[1]


def read_cpio(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> (mode, data), by the format's document and not by the writer's code."""
    found, offset = {}, 0
    while True:
        assert archive[offset : offset + 6] == b"070701"
        fields = [int(archive[offset + 6 + 8 * i : offset + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[offset + 110 : offset + 110 + name_size - 1].decode()
        data_offset = (offset + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[data_offset : data_offset + size])
        offset = (data_offset + size + 3) & ~3


class TestCpio:
    def test_entries_come_back_as_written(self) -> None:
        archive = cpio.write(
            [
                cpio.folder("bin"),
                cpio.file("bin/sh", b"12345"),
                cpio.symlink("bin/ls", "sh"),
                cpio.file("x", b"", 0o644),
            ]
        )
        assert read_cpio(archive) == {
            "bin": (stat.S_IFDIR | 0o755, b""),
            "bin/sh": (stat.S_IFREG | 0o755, b"12345"),
            "bin/ls": (stat.S_IFLNK | 0o777, b"sh"),
            "x": (stat.S_IFREG | 0o644, b""),
        }

    def test_a_device_has_its_numbers(self) -> None:
        header = cpio.write([cpio.character_device("c", 5, 1)])[:110]
        assert [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in (9, 10)] == [5, 1]


DEPENDENCIES = {
    "kernel/net/nf_tables.ko.gz": ("kernel/net/nfnetlink.ko.gz",),
    "kernel/net/nft-nat.ko.gz": ("kernel/net/nf_tables.ko.gz", "kernel/net/nfnetlink.ko.gz"),
    "kernel/net/nfnetlink.ko.gz": (),
    "kernel/net/unused.ko.gz": (),
}


class TestModules:
    def test_each_module_follows_what_it_needs(self) -> None:
        tree = ModuleTree(DEPENDENCIES, ["kernel/lib/crc32.ko"])
        assert [module_name(path) for path in tree.resolve(["nft_nat", "nfnetlink", "crc32"])] == [
            "nfnetlink",
            "nf_tables",
            "nft_nat",
        ]

    def test_an_unknown_module_is_named(self) -> None:
        with pytest.raises(BuildError, match="no module nft_typo"):
            ModuleTree(DEPENDENCIES, []).resolve(["nft_typo"])

    def test_installed_modules_are_unpacked_and_indexed(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        for path in DEPENDENCIES:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(gzip.compress(path.encode()))
        lines = (f"{path}: {' '.join(needs)}\n" for path, needs in DEPENDENCIES.items())
        (source / "modules.dep").write_text("".join(lines))
        (source / "modules.alias").write_text("alias nft-expr-nat nft_nat\nalias other unused\n")
        for index in ("modules.symbols", "modules.softdep", "modules.builtin", "modules.order"):
            (source / index).write_text("")
        install_modules(source, ["nft_nat"], tmp_path / "target")
        target = tmp_path / "target"
        assert (target / "kernel/net/nft-nat.ko").read_bytes() == b"kernel/net/nft-nat.ko.gz"
        assert not (target / "kernel/net/unused.ko").exists()
        assert (target / "modules.alias").read_text() == "alias nft-expr-nat nft_nat\n"
        assert (target / "modules.dep").read_text().splitlines() == [
            "kernel/net/nfnetlink.ko:",
            "kernel/net/nf_tables.ko: kernel/net/nfnetlink.ko",
            "kernel/net/nft-nat.ko: kernel/net/nf_tables.ko kernel/net/nfnetlink.ko",
        ]


class TestKernel:
    def test_the_elf_file_is_taken_out_of_a_bzimage(self) -> None:
        payload = gzip.compress(b"\x7fELF and the rest")
        image = bytearray(1024 + 64)
        image[0x1F1] = 1
        image[0x202:0x206] = b"HdrS"
        struct.pack_into("<II", image, 0x248, 64, len(payload))
        assert bootable_kernel(bytes(image) + payload) == b"\x7fELF and the rest"

    def test_the_image_is_taken_out_of_a_zboot_file(self) -> None:
        arm_image = bytes(0x38) + b"ARM\x64" + b"rest"
        payload = gzip.compress(arm_image)
        header = b"MZ\0\0zimg" + struct.pack("<II", 64, len(payload)) + bytes(8) + b"gzip"
        assert bootable_kernel(header.ljust(64, b"\0") + payload) == arm_image

    def test_anything_else_is_refused(self) -> None:
        with pytest.raises(BuildError, match="neither an x86 bzImage nor an arm64 zboot"):
            bootable_kernel(bytes(4096))


def test_needed_libraries_are_read_from_elf_files() -> None:
    needed = needed_libraries(Path(sys.executable).read_bytes())
    assert needed is not None
    assert "libc.so.6" in needed
    assert needed_libraries(b"#!/bin/sh\n") is None


class FakeIndex:
    """Debian's index as it might be tomorrow: libssl3 has moved on."""

    served = {"libssl3": "3.0.2", "tini": "0.19"}

    def __init__(self, _arch: object, _folder: Path) -> None: ...

    def refresh(self) -> None: ...

    def versions(self, names: Collection[str]) -> dict[str, set[str]]:
        return {name: {self.served[name]} for name in names}

    def describe(self, wanted: Collection[str]) -> list[IndexedPackage]:
        names = [specification.split("=")[0] for specification in wanted]
        return [
            IndexedPackage(name, self.served[name], sha256_of_bytes(name.encode()), f"{name}.deb") for name in names
        ]

    def download(self, packages: Collection[IndexedPackage], into: Path) -> None:
        into.mkdir(parents=True, exist_ok=True)
        for package in packages:
            (into / package.file_name).write_bytes(package.name.encode())


def sha256_of_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PartCache:
    monkeypatch.setattr(parts, "PackageIndex", FakeIndex)
    return PartCache(X86, tmp_path / "parts")


class TestPartCache:
    def test_a_pinned_package_is_taken_and_found_again(self, cache: PartCache, monkeypatch: pytest.MonkeyPatch) -> None:
        pin = Part("deb", "tini", "x86_64", "0.19", sha256_of_bytes(b"tini"))
        (first,) = cache.fetch([pin])
        monkeypatch.delattr(parts, "PackageIndex")  # a second fetch asks nobody
        assert cache.fetch([pin]) == [first]
        assert first.part == pin

    def test_other_architectures_are_left_alone(self, cache: PartCache) -> None:
        assert cache.fetch([Part("deb", "tini", "aarch64", "0.19", "0" * 64)]) == []

    def test_a_version_debian_dropped_is_replaced_with_a_warning(
        self, cache: PartCache, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (fetched,) = cache.fetch([Part("deb", "libssl3", "x86_64", "3.0.1", "0" * 64)])
        assert fetched.part.version == "3.0.2"
        assert "no longer serves libssl3 3.0.1" in capsys.readouterr().err

    def test_a_pinned_version_with_other_content_is_refused(self, cache: PartCache, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match=r"tini\.deb has sha256 .* expected"):
            cache.fetch([Part("deb", "tini", "x86_64", "0.19", "0" * 64)])
        assert list((tmp_path / "parts").rglob("*.deb")) == []

    def test_a_wheel_with_other_content_is_refused(self, cache: PartCache, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(name: str, _version: str, _arch: object, into: Path) -> Path:
            into.mkdir(parents=True, exist_ok=True)
            wheel = into / f"{name}.whl"
            wheel.write_bytes(b"other")
            return wheel

        monkeypatch.setattr(parts, "download_wheel", download)
        with pytest.raises(BuildError, match="is pinned; find out why"):
            cache.fetch([Part("wheel", "h11", "x86_64", "0.16.0", "0" * 64)])


class TestPins:
    def test_everything_named_is_pinned_for_every_architecture(self) -> None:
        pinned = {(part.kind, part.name, part.arch) for part in load_pins()}
        wheels = [wheel.name for wheel in (PACKAGES.alpine_wheel, *PACKAGES.python_wheels)]
        assert pinned == {
            (kind, name, arch)
            for arch in ARCHITECTURES
            for kind, names in (("wheel", wheels), ("deb", PACKAGES.debian))
            for name in names
        }

    def test_pins_come_back_as_written(self, tmp_path: Path) -> None:
        written = [Part("deb", "b", "x86_64", "1:2", "0"), Part("deb", "a", "x86_64", "1", "1")]
        write_pins(written, tmp_path / "pins.json")
        assert load_pins(tmp_path / "pins.json") == sorted(written)


class TestInputs:
    def test_content_name_and_executable_bit_count(self, tmp_path: Path) -> None:
        folder = tmp_path / "inputs"
        folder.mkdir()
        path = folder / "script"
        hashes = []
        for change in (
            lambda: path.write_text("a"),
            lambda: path.write_text("b"),
            lambda: path.chmod(0o755),
            lambda: path.rename(folder / "renamed"),
        ):
            change()
            hashes.append(hash_inputs([folder]))
        assert len(set(hashes)) == 4

    def test_bytecode_does_not_count(self, tmp_path: Path) -> None:
        before = hash_inputs([tmp_path])
        (tmp_path / "__pycache__").mkdir()
        (tmp_path / "__pycache__/x.pyc").write_text("")
        assert hash_inputs([tmp_path]) == before


class TestContract:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("kernel", "initramfs.cpio", "system.squashfs"):
            (tmp_path / name).write_text(name)
        write_contract(contract(X86, tmp_path, {"inputs_sha256": "abc"}, 2), tmp_path)
        return tmp_path

    def test_it_describes_the_files_beside_it(self, folder: Path) -> None:
        document = json.loads((folder / "contract.json").read_text())
        assert document["schema"] == 1
        assert document["machines"] == ["microvm", "q35"]
        for file in document["files"].values():
            path = folder / file["name"]
            assert (file["sha256"], file["size_bytes"]) == (sha256_of(path), path.stat().st_size)

    def test_an_image_is_current_only_when_whole_and_from_the_same_inputs(self, folder: Path) -> None:
        assert is_current(folder, "abc")
        assert not is_current(folder, "other")
        (folder / "kernel").write_text("cut")
        assert not is_current(folder, "abc")
        assert not is_current(folder / "nowhere", "abc")


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_module_is_listed_once(arch: Architecture) -> None:
    names = [name for group in load_module_groups(arch).values() for name in group]
    assert len(names) == len(set(names))


def test_a_modules_signature_is_left_out(tmp_path: Path) -> None:
    packed, plain = tmp_path / "signed.ko.gz", tmp_path / "unsigned.ko"
    facts = struct.pack(">8xI", len(b"signature"))
    packed.write_bytes(gzip.compress(b"code" + b"signature" + facts + b"~Module signature appended~\n"))
    plain.write_bytes(b"code")
    assert read_module(packed) == read_module(plain) == b"code"


def test_a_module_of_one_architecture_is_not_asked_of_another() -> None:
    assert "on_demand_x86_64" in load_module_groups(X86)
    assert "on_demand_x86_64" not in load_module_groups(ARCHITECTURES["aarch64"])
