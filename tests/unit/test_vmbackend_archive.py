"""A machine is exported to a file and imported again."""

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from vmbackend import MachineError, MachineManager, MachineSettings
from vmbackend.errors import ArchiveDamaged, MachineBusy, MachineExists
from vmbackend.machine.store import MachineStore, machine_lock
from vmbackend.qemu.disks import ensure_data_disk, virtual_size_bytes
from vmbackend.qemu.locate import locate_qemu

SETTINGS = MachineSettings(cpus=3, disk_gib=2, dns=("9.9.9.9",), image_dir="/here/only", start_at_login=False)


@pytest.fixture
def manager(tmp_path: Path) -> MachineManager:
    return MachineManager(tmp_path / "machines")


@pytest.fixture
def disk(manager: MachineManager, tmp_path: Path) -> Path:
    """The disk of the machine `one`, with something on it."""
    manager.create("one", SETTINGS)
    path = MachineStore(tmp_path / "machines").paths("one").data_disk
    ensure_data_disk(locate_qemu("x86_64").img, path, SETTINGS.disk_gib)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 0x77 1M 64k", path], check=True, stdout=subprocess.DEVNULL
    )
    return path


def content(disk: Path, tmp_path: Path) -> bytes:
    raw = tmp_path / "content"
    subprocess.run(
        ["qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=1M", "count=2", f"if={disk}", f"of={raw}"], check=True
    )
    return raw.read_bytes()


def test_what_was_exported_comes_back(manager: MachineManager, disk: Path, tmp_path: Path) -> None:
    archive = tmp_path / "with space ü.wherry"
    phases: list[str] = []
    manager.export("one", archive, phases.append)
    assert phases == ["Compressing the disk", "Writing the archive"]
    assert archive.stat().st_size < 1 << 20
    assert archive.stat().st_mode & 0o077 == 0
    manager.import_("two", archive)
    settings = manager.settings("two")
    assert (settings.cpus, settings.dns, settings.image_dir) == (3, ("9.9.9.9",), None)
    copy = disk.parents[1] / "two" / "data.qcow2"
    assert virtual_size_bytes(copy) == 2 << 30
    assert b"\x77" * 65536 in content(copy, tmp_path)
    assert content(copy, tmp_path) == content(disk, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    with pytest.raises(MachineExists):
        manager.import_("two", archive)
    with pytest.raises(MachineError, match="exists already"):
        manager.export("one", archive)


def test_a_machine_that_never_ran_has_settings_only(manager: MachineManager, tmp_path: Path) -> None:
    manager.create("fresh", MachineSettings(cpus=1))
    manager.export("fresh", tmp_path / "a")
    manager.import_("copy", tmp_path / "a")
    assert manager.settings("copy").cpus == 1


def test_a_machine_in_use_is_not_exported(manager: MachineManager, disk: Path, tmp_path: Path) -> None:
    paths = MachineStore(tmp_path / "machines").paths("one")
    with machine_lock(paths), pytest.raises(MachineBusy, match="has a hostagent already, or is being changed"):
        manager.export("one", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def rewritten(source: Path, target: Path, **changes: object) -> Path:
    """The archive with another manifest, and a byte of its disk turned over if `flip` says so."""
    flip = changes.pop("flip", False)
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old.getmembers():
            stream = old.extractfile(member)
            assert stream is not None
            data = bytearray(stream.read())
            if member.name == "manifest.json":
                data = bytearray(json.dumps({**json.loads(data), **changes}).encode())
            elif flip:
                data[len(data) // 2] ^= 1
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return target


def test_a_file_that_is_not_what_was_exported_is_refused(manager: MachineManager, disk: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a"
    manager.export("one", archive)
    short = tmp_path / "short"
    short.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    text = tmp_path / "text"
    text.write_text("no archive")
    for source, says in (
        (rewritten(archive, tmp_path / "flipped", flip=True), "its disk is not the one that was exported"),
        (rewritten(archive, tmp_path / "newer", format=2), "it has format 2"),
        (rewritten(archive, tmp_path / "other", arch="mips"), "it is a machine for mips"),
        (short, "cannot be imported"),
        (text, "it is no exported machine"),
    ):
        with pytest.raises(ArchiveDamaged, match=says):
            manager.import_("two", source)
        assert manager.names() == ["one"] and not (disk.parents[1] / "two").exists()
    with pytest.raises(MachineError, match=r"cannot be imported: .*No such file"):
        manager.import_("two", tmp_path / "nowhere")
