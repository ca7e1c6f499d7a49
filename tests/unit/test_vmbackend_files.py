"""Disks, guest images, QEMU programs and the accelerator's memory: what is found, and what is said when it is not."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.fakes.guest_images import edit_contract, make_guest_image
from vmbackend import host
from vmbackend.errors import (
    AcceleratorUnusable,
    DiskDamaged,
    GuestImageDamaged,
    InvalidSettings,
    QemuMissing,
)
from vmbackend.host.candidate import Candidate
from vmbackend.images.guest_image import find_guest_image, verify_contents
from vmbackend.qemu import accelerator
from vmbackend.qemu.accelerator import choose_accelerator, probe
from vmbackend.qemu.disks import ensure_data_disk, virtual_size_bytes
from vmbackend.qemu.locate import QemuPrograms, locate_qemu
from vmbackend.qemu.tsc import host_tsc_khz

GIB = 1024**3


@pytest.fixture
def image_dir(tmp_path: Path) -> Path:
    return make_guest_image(tmp_path / "image")


def test_a_good_image_is_hashed_once(image_dir: Path, tmp_path: Path) -> None:
    image = find_guest_image("x86_64", str(image_dir))
    cache = tmp_path / "cache.json"
    verify_contents(image, cache)
    remembered = json.loads(cache.read_text())
    assert len(remembered) == 3
    # A wrong digest in the memory is believed, which shows that the file was not read again.
    cache.write_text(json.dumps(dict.fromkeys(remembered, "0")))
    with pytest.raises(GuestImageDamaged, match="SHA-256"):
        verify_contents(image, cache)


def test_a_changed_file_is_noticed(image_dir: Path, tmp_path: Path) -> None:
    image = find_guest_image("x86_64", str(image_dir))
    verify_contents(image, tmp_path / "cache.json")
    (image_dir / "system").write_bytes(b"xyz")
    with pytest.raises(GuestImageDamaged, match=r"system cannot be used: its SHA-256"):
        verify_contents(image, tmp_path / "cache.json")
    (image_dir / "system").write_bytes(b"longer")
    with pytest.raises(GuestImageDamaged, match="it has 6 bytes"):
        find_guest_image("x86_64", str(image_dir))
    (image_dir / "system").unlink()
    with pytest.raises(GuestImageDamaged, match="it is missing"):
        find_guest_image("x86_64", str(image_dir))


def test_an_image_that_does_not_fit_is_named(image_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="setting `image_dir`"):
        find_guest_image("x86_64", str(tmp_path / "nowhere"))
    with pytest.raises(GuestImageDamaged, match="it is for x86_64"):
        find_guest_image("aarch64", str(image_dir))
    edit_contract(image_dir, machines=None)
    with pytest.raises(GuestImageDamaged, match="it lacks"):
        find_guest_image("x86_64", str(image_dir))
    edit_contract(image_dir, schema=2)
    with pytest.raises(GuestImageDamaged, match="schema 2"):
        find_guest_image("x86_64", str(image_dir))


def test_qemu_that_is_not_there_comes_with_a_command_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QemuMissing, match="apt install"):
        locate_qemu("x86_64")
    with pytest.raises(QemuMissing, match=f"`qemu_dir` names {tmp_path}"):
        locate_qemu("x86_64", str(tmp_path))
    for name in ("qemu-system-x86_64", "qemu-img"):
        (tmp_path / name).touch(mode=0o755)
    assert locate_qemu("x86_64").origin == "PATH"


@pytest.fixture(scope="module")
def qemu_img() -> Path:
    return locate_qemu("x86_64").img


def test_a_disk_is_made_and_grows_but_never_shrinks(qemu_img: Path, tmp_path: Path) -> None:
    disk = tmp_path / "data.qcow2"
    ensure_data_disk(qemu_img, disk, 2)
    assert virtual_size_bytes(disk) == 2 * GIB
    assert disk.stat().st_mode & 0o077 == 0
    ensure_data_disk(qemu_img, disk, 3)
    assert virtual_size_bytes(disk) == 3 * GIB
    with pytest.raises(InvalidSettings, match="has 3 GiB and cannot shrink to 2 GiB; set `disk` to 3G"):
        ensure_data_disk(qemu_img, disk, 2)
    assert virtual_size_bytes(disk) == 3 * GIB


def test_a_damaged_disk_is_named_and_left_alone(qemu_img: Path, tmp_path: Path) -> None:
    disk = tmp_path / "data.qcow2"
    disk.write_bytes(b"garbage" * 100)
    with pytest.raises(DiskDamaged, match=f"{disk} is not a qcow2"):
        ensure_data_disk(qemu_img, disk, 1)
    assert disk.read_bytes() == b"garbage" * 100
    disk.unlink()
    ensure_data_disk(qemu_img, disk, 1)
    with disk.open("r+b") as stream:
        stream.seek(79)
        stream.write(b"\x02")
    with pytest.raises(DiskDamaged, match=f"qemu-img check -r all {disk}"):
        ensure_data_disk(qemu_img, disk, 1)


def test_a_disk_that_cannot_be_made_leaves_nothing(qemu_img: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskDamaged, match="qemu-img create failed"):
        ensure_data_disk(qemu_img, tmp_path / "nowhere" / "data.qcow2", 1)
    assert list(tmp_path.iterdir()) == []


def script(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", text]


def test_a_probe_believes_only_the_kernels_own_words() -> None:
    assert asyncio.run(probe(script("print('VFS: Unable to mount root fs on x')"), 5)) is None
    assert asyncio.run(probe(script("print('hello')"), 5)) == "QEMU ended with code 0 before the kernel was up"
    complaint = "import sys; sys.exit('qemu: failed to set MSR')"
    assert asyncio.run(probe(script(complaint), 5)) == "QEMU ended: qemu: failed to set MSR"


def test_a_probe_that_hangs_is_ended() -> None:
    problem = asyncio.run(probe(script("import signal; signal.pause()"), 0.1))
    assert problem == "the guest's kernel did not start within 0.1 s"


@pytest.fixture
def ladder(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two candidates of which only the second works; the list records which were probed."""
    probed: list[str] = []

    async def fake_probe(argv: list[str]) -> str | None:
        model = argv[argv.index("-cpu") + 1]
        probed.append(model)
        return None if model == "good" else "it broke"

    monkeypatch.setattr(host, "ACCELERATOR_CANDIDATES", (Candidate("kvm", "bad"), Candidate("kvm", "good")))
    monkeypatch.setattr(host, "accelerator_obstacle", lambda name: None)
    monkeypatch.setattr(accelerator, "probe", fake_probe)
    return probed


def choose(image_dir: Path, cache: Path, wanted: str = "auto") -> accelerator.AcceleratorChoice:
    program = image_dir / "kernel"
    qemu = QemuPrograms(program, program, "test")
    return asyncio.run(choose_accelerator(qemu, find_guest_image("x86_64", str(image_dir)), "microvm", wanted, cache))


def test_the_first_usable_candidate_wins_and_is_remembered(image_dir: Path, tmp_path: Path, ladder: list[str]) -> None:
    cache = tmp_path / "cache.json"
    first = choose(image_dir, cache)
    assert first.candidate.cpu_model == "good" and not first.emulated
    assert choose(image_dir, cache) == first
    assert ladder == ["bad", "good"]


def test_another_qemu_is_probed_anew(image_dir: Path, tmp_path: Path, ladder: list[str]) -> None:
    cache = tmp_path / "cache.json"
    choose(image_dir, cache)
    (image_dir / "kernel").touch()
    choose(image_dir, cache)
    assert len(ladder) == 4


def test_emulation_is_the_end_of_the_ladder_and_says_why(
    image_dir: Path, tmp_path: Path, ladder: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "ACCELERATOR_CANDIDATES", (Candidate("kvm", "bad"),))
    choice = choose(image_dir, tmp_path / "cache.json")
    assert choice.emulated and choice.reason == "KVM opens, but with cpu bad it broke"
    with pytest.raises(AcceleratorUnusable, match="asks for kvm, which does not work here: KVM opens, but"):
        choose(image_dir, tmp_path / "other.json", "kvm")


def test_an_obstacle_spares_the_probe(
    image_dir: Path, tmp_path: Path, ladder: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "accelerator_obstacle", lambda name: "there is no /dev/kvm")
    assert choose(image_dir, tmp_path / "cache.json").reason == "KVM is not there: there is no /dev/kvm"
    assert ladder == []


def test_the_time_stamp_counter_is_measured_alike_twice() -> None:
    rates = [host_tsc_khz() for _ in range(2)]
    assert rates[0] is not None and rates[1] is not None
    assert abs(rates[0] - rates[1]) < rates[0] / 1000
