"""A machine's way from one guest image to the next and back, with a guest that is only a note on its disk."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest

from tests.fakes.guest_images import edit_contract, make_guest_image
from vmbackend import MachineError, MachineManager, MachineSettings, host
from vmbackend.errors import GuestImageDamaged, GuestImageMissing, InvalidSettings, SnapshotRefused, UpdateRefused
from vmbackend.images import guest_image, kept
from vmbackend.images.guest_image import GuestImage, load_guest_image
from vmbackend.machine import image_change as image_change_module
from vmbackend.machine import image_record, store
from vmbackend.machine.image_change import UNDO_WITHIN_S, ImageChange, image_change
from vmbackend.machine.image_facts import image_facts
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.store import MachineStore
from vmbackend.machine.trial import telling_line
from vmbackend.qemu.disks import ensure_data_disk
from vmbackend.qemu.locate import locate_qemu
from vmbackend.qemu.snapshots import RestingDisk

FAR_AWAY = 10**12


class FileDisk:
    """Snapshots as files beside the disk, with the contract of `RestingDisk`."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk

    def snapshots(self) -> list[str]:
        return sorted(path.name.removeprefix("snapshot-") for path in self._disk.parent.glob("snapshot-*"))

    def create(self, name: str) -> None:
        shutil.copy(self._disk, self._disk.with_name("draft"))
        self._disk.with_name("draft").replace(self._disk.with_name(f"snapshot-{name}"))

    def go_back(self, name: str) -> None:
        try:
            shutil.copy(self._disk.with_name(f"snapshot-{name}"), self._disk)
        except FileNotFoundError:
            raise SnapshotRefused(f"there is no {name}") from None

    def remove(self, name: str) -> None:
        self._disk.with_name(f"snapshot-{name}").unlink(missing_ok=True)


class Bench:
    """A machine whose guest, started, writes its image's version to the disk."""

    def __init__(self, home: Path) -> None:
        MachineStore(home / "machines").save("m", MachineSettings(image_dir=str(home / "offered"), disk_gib=1))
        self.home = home
        self.paths = MachinePaths(home / "machines" / "m")
        self.disk = FileDisk(self.paths.data_disk)

    def offer(self, version: str, **changes: object) -> str:
        """Have Wherry carry an image; its digest."""
        offered = self.home / "offered"
        if offered.exists():
            shutil.rmtree(offered)
        make_guest_image(offered, version, arch=host.machine_arch(), **changes)
        return self.offered().digest

    def offered(self) -> GuestImage:
        if not (self.home / "offered").exists():
            raise GuestImageMissing("Wherry is not installed any more.")
        return guest_image.find_guest_image(host.machine_arch(), str(self.home / "offered"))

    def change(self) -> ImageChange:
        return ImageChange(self.paths, self.offered, lambda: self.disk)

    def start(self, serves: bool = True, keep_current: bool = False) -> str:
        """The version that serves in the end; a version that does not serve spoils the disk."""
        change = self.change()
        choice = change.choose(keep_current)
        before = self.paths.data_disk.read_text() if self.paths.data_disk.exists() else ""
        if not choice.trying:
            self.paths.data_disk.write_text(f"{before}{choice.image.version} ")
            return choice.image.version
        if serves:
            self.paths.data_disk.write_text(f"{before}{choice.image.version} ")
            change.served()
            return choice.image.version
        self.paths.data_disk.write_text(f"{before}spoilt ")
        change.go_back("its kernel panics.")
        return self.start()

    @property
    def data(self) -> list[str]:
        """Which versions have run on the disk as it is."""
        return self.paths.data_disk.read_text().split()

    def kept(self) -> set[str]:
        return {json.loads((place / "contract.json").read_text())["version"] for place in self.paths.images.iterdir()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_new_machine_keeps_what_it_is_given(bench: Bench) -> None:
    bench.offer("1")
    assert bench.start() == "1"
    shutil.rmtree(bench.home / "offered")
    assert bench.start() == "1", "the image of an uninstalled Wherry is still there"
    assert bench.kept() == {"1"} and bench.disk.snapshots() == []
    for path in bench.paths.images.glob("*/system"):
        assert path.read_bytes() == b"sss"


def test_a_setting_that_names_no_image_is_told(bench: Bench) -> None:
    bench.offer("1")
    bench.start()
    shutil.rmtree(bench.home / "offered")
    with pytest.raises(InvalidSettings, match="`image_dir` names"):
        image_change(bench.paths).choose(keep_current=False)
    assert "`image_dir` names" in str(image_facts(bench.paths).update_note)


def test_an_update_keeps_the_data_and_for_a_day_the_way_back(bench: Bench) -> None:
    bench.offer("1")
    bench.start()
    bench.offer("2")
    assert bench.start() == "2" and bench.data == ["1", "2"]
    [snapshot] = bench.disk.snapshots()
    assert snapshot.startswith("before-update-") and bench.kept() == {"1", "2"}
    assert "can be undone with `wherry machine update --undo m`" in str(image_facts(bench.paths).update_note)
    assert bench.start() == "2", "a start changes nothing more"
    record = bench.change().record()
    assert record.previous is not None and record.previous.until > time.time() + UNDO_WITHIN_S - 600
    replace(record, previous=replace(record.previous, until=1)).write(bench.paths.image_record)
    assert bench.start() == "2"
    assert bench.disk.snapshots() == [] and bench.kept() == {"2"} and bench.data == ["1", "2", "2", "2"]
    assert image_facts(bench.paths).update_note is None


def test_an_image_that_does_not_serve_is_undone_and_not_tried_again(bench: Bench) -> None:
    bench.offer("1")
    bench.start()
    bad = bench.offer("2")
    assert bench.start(serves=False) == "1" and bench.data == ["1", "1"]
    assert bench.disk.snapshots() == [] and bench.kept() == {"1"}
    facts = image_facts(bench.paths)
    assert (facts.image_version, facts.available_version, facts.available_digest) == ("1", "2", bad[:12])
    assert facts.problem and "2 (" in str(facts.update_note) and "its kernel panics." in str(facts.update_note)
    assert "wherry machine update m" in str(facts.update_note) and "doctor --bundle" in str(facts.update_note)
    assert bench.start(serves=False) == "1" and bench.data == ["1", "1", "1"], "not tried again"
    bench.offer("3")
    assert bench.start() == "3", "the next one is"


def test_trying_again_by_name(bench: Bench) -> None:
    bench.offer("1")
    bench.start()
    bench.offer("2")
    bench.start(serves=False)
    bench.change().check(bench.offered())
    bench.change().ask_for(bench.offered())
    assert bench.start() == "2" and bench.data == ["1", "1", "2"]
    with pytest.raises(UpdateRefused, match=r"has the guest image 2 \(\w{8}\) already"):
        bench.change().check(bench.offered())


def test_another_image_by_name_is_not_replaced_by_wherrys_own(bench: Bench) -> None:
    bench.offer("1")
    bench.start()
    other = load_guest_image(make_guest_image(bench.home / "other", "9", arch=host.machine_arch()), host.machine_arch())
    bench.change().ask_for(other)
    bench.offer("1", cmdline="another")
    assert bench.start() == "9"
    bench.offer("10")
    assert bench.start() == "10", "one that came later is"


def test_undoing_an_update(bench: Bench) -> None:
    bench.offer("1")
    bench.start()
    with pytest.raises(UpdateRefused, match="no update that can be undone"):
        bench.change().ask_back()
    bench.offer("2")
    bench.start()
    bench.start()
    bench.change().ask_back()
    assert bench.start() == "1" and bench.data == ["1", "1"] and bench.kept() == {"1"}
    assert "it was undone by hand" in str(image_facts(bench.paths).update_note)
    assert bench.start() == "1"


def test_a_saved_guest_goes_on_with_its_image(bench: Bench) -> None:
    bench.offer("1")
    bench.start()
    bench.offer("2")
    assert bench.start(keep_current=True) == "1"
    assert "is available: the machine changes to it when" in str(image_facts(bench.paths).update_note)
    assert bench.start() == "2"


def test_an_older_wherry_does_not_take_the_machine_back(bench: Bench) -> None:
    bench.offer("1.10", store_schema=3)
    bench.start()
    bench.offer("1.9", store_schema=2)
    assert bench.start() == "1.10" and "has an older one, 1.9" in str(image_facts(bench.paths).update_note)
    for refused in (bench.change().check, bench.change().ask_for):
        with pytest.raises(UpdateRefused, match="reads stores up to schema 2, and the machine's is of schema 3"):
            refused(bench.offered())
    bench.offer("1.11", store_schema=2)
    assert bench.start() == "1.10" and "of schema 3; use a newer image" in str(image_facts(bench.paths).update_note)


def test_a_bad_offer_changes_nothing(bench: Bench) -> None:
    bench.offer("1")
    bench.start()
    bench.offer("2")
    (bench.home / "offered" / "system").write_bytes(b"xyz")
    assert bench.start() == "1" and bench.disk.snapshots() == [] and bench.kept() == {"1"}
    assert "system cannot be used: its SHA-256 is not" in str(image_facts(bench.paths).update_note)
    edit_contract(bench.home / "offered", schema=7)
    assert bench.start() == "1" and "it has schema 7" in str(image_facts(bench.paths).update_note)
    bench.offer("2")
    assert bench.start() == "2"


def test_no_room_for_an_update(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer("1")
    bench.start()
    bench.offer("2")
    monkeypatch.setattr(kept, "_SPARE_ROOM_BYTES", FAR_AWAY << 10)
    assert bench.start() == "1"
    assert "MiB more have to be free" in str(image_facts(bench.paths).update_note)
    with pytest.raises(OSError, match="MiB more have to be free"):
        bench.change().check(bench.offered())
    monkeypatch.undo()
    assert bench.start() == "2"


def test_a_disk_that_takes_no_snapshot(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer("1")
    bench.start()
    bench.offer("2")

    def full(self: FileDisk, name: str) -> None:
        raise SnapshotRefused("qemu-img snapshot failed (No space left on device).")

    monkeypatch.setattr(FileDisk, "create", full)
    assert bench.start() == "1" and bench.data == ["1", "1"]
    assert "No space left" in str(image_facts(bench.paths).update_note)
    monkeypatch.undo()
    assert bench.start() == "2"


def test_a_success_that_cannot_be_noted_is_none(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer("1")
    bench.start()
    bench.offer("2")
    change = bench.change()
    assert change.choose(False).trying

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_record, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        change.served()
    with pytest.raises(OSError, match="No space left"):
        change.go_back("it cannot be noted")
    monkeypatch.undo()
    assert bench.start() == "1" and bench.data == ["1", "1"]


def test_a_lost_image_is_taken_anew_or_replaced_with_a_way_back(bench: Bench) -> None:
    bench.offer("1")
    bench.start()
    shutil.rmtree(bench.paths.images)
    assert bench.start() == "1"
    shutil.rmtree(bench.paths.images)
    bench.offer("2")
    choice = bench.change().choose(False)
    assert choice.trying and choice.old is None
    bench.paths.data_disk.write_text("spoilt")
    bench.change().go_back("its kernel panics")
    assert bench.data == ["1", "1"]
    with pytest.raises(GuestImageMissing, match=r"lost its own guest image, and 2 .* did not serve: its kernel panics"):
        bench.change().choose(False)


def test_a_damaged_image_is_taken_anew(bench: Bench) -> None:
    bench.offer("1")
    choice = bench.change().choose(False)
    choice.image.system.unlink()
    choice.image.system.write_bytes(b"xyz")
    with pytest.raises(GuestImageDamaged, match="SHA-256"):
        guest_image.verify_contents(choice.image, bench.paths.verified_images)
    bench.change().forget_damaged(choice.image)
    assert bench.change().choose(False).image.system.read_bytes() == b"sss"


def test_a_record_that_cannot_be_read_stops_everything(bench: Bench) -> None:
    bench.offer("1")
    bench.start()
    for text in ("{", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "change": {}}'):
        bench.paths.image_record.write_text(text)
        with pytest.raises(MachineError, match=r"image\.json cannot be used"):
            bench.start()
        assert image_facts(bench.paths).problem
    assert bench.data == ["1"]


@pytest.mark.parametrize("serves", [True, False])
def test_killed_at_any_line_it_has_an_image_and_the_data_that_belongs_to_it(
    bench: Bench, serves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child is killed after the first change to the disk, the next after the second, and so on."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # it makes no difference to who is killed
    bench.offer("1")
    bench.start()
    bench.offer("2")
    pristine = bench.home / "pristine"
    shutil.copytree(bench.paths.directory, pristine)

    def start_from_there(line: int) -> list[int]:
        shutil.rmtree(bench.paths.directory)
        shutil.copytree(pristine, bench.paths.directory)
        return _in_child(lambda: bench.start(serves), bench.paths.directory, line)

    lines = start_from_there(0)
    assert len(lines) > 10
    seen = set()
    for line in lines:
        start_from_there(line)
        version = bench.start()
        assert bench.data[-1] == version and "spoilt" not in bench.data, (line, bench.data)
        assert (version == "2") == ("2" in bench.data), (line, bench.data)
        seen.add(version)
        record = bench.change().record()
        assert set(bench.disk.snapshots()) == record.snapshots and record.change is None
        assert bench.kept() == ({"1", "2"} if record.previous else {version})
    assert seen == {"1", "2"}


def _in_child(work: Callable[[], object], directory: Path, last_line: int) -> list[int]:
    """Do it in a child that ends, without a word, at the line of that number (0: none).

    The numbers of lines, as they are run, before which the folder was changed; only for the child that is not ended.
    """
    files = {module.__file__ for module in (image_change_module, image_record, store, kept)} | {__file__}
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        line, before = 0, _state(directory)

        def trace(frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
            nonlocal line, before
            if frame.f_code.co_filename not in files or frame.f_code is _state.__code__:
                return None
            line += 1
            if line == last_line:
                os._exit(9)
            if not last_line and (now := _state(directory)) != before:
                before = now
                os.write(writing, f"{line} ".encode())
            return trace

        code = 1
        try:
            sys.settrace(trace)
            work()
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as lines:
        numbers = [int(number) for number in lines.read().split()]
    _, status = os.waitpid(child, 0)
    # Sets have no order, so the last lines are not the same in every child.
    assert os.waitstatus_to_exitcode(status) in ((0, 9) if last_line else (0,))
    return numbers


def _state(directory: Path) -> list[tuple[str, int, int]]:
    found = []
    for folder, _, names in os.walk(directory):
        for name in names:
            facts = os.stat(os.path.join(folder, name))
            found.append((os.path.join(folder, name), facts.st_size, facts.st_mtime_ns))
    return sorted(found)


@pytest.mark.parametrize("make", [lambda path: FileDisk(path), lambda path: RestingDisk(_qemu_img(), path)])
def test_the_contract_of_a_disk(make: Callable[[Path], FileDisk | RestingDisk], tmp_path: Path) -> None:
    path = tmp_path / "data.qcow2"
    ensure_data_disk(_qemu_img(), path, 1)
    disk = make(path)
    assert disk.snapshots() == []
    disk.remove("one")
    disk.create("one")
    assert disk.snapshots() == ["one"]
    disk.go_back("one")
    disk.go_back("one")
    disk.remove("one")
    assert disk.snapshots() == []
    with pytest.raises(SnapshotRefused):
        disk.go_back("one")


def _qemu_img() -> Path:
    return locate_qemu(host.machine_arch()).img


def test_a_whole_update_on_a_real_disk(bench: Bench) -> None:
    bench.offer("1")
    ensure_data_disk(_qemu_img(), bench.paths.data_disk, 1)
    change = image_change(bench.paths)
    assert not change.choose(False).trying
    bench.offer("2")
    assert change.choose(False).trying
    manager = MachineManager(bench.home / "machines")
    [snapshot] = [one.name for one in manager.snapshots("m")]
    with pytest.raises(SnapshotRefused, match=f"may have to go back to `{snapshot}`"):
        manager.remove_snapshot("m", snapshot)
    assert manager.status("m").image_version == "2"
    assert image_change(bench.paths).settle().current == change.record().current, "interrupted"
    status = manager.status("m")
    assert (status.image_version, status.available_version) == ("1", "2")
    assert "it was interrupted before the new image served" in str(status.update_note)
    assert manager.snapshots("m") == []
    found = {finding.subject: finding for finding in manager.examine("m")}["Guest image"]
    assert found.verdict == "warn" and found.remedy == "Run: wherry machine update m"
    manager.reset("m")
    assert manager.status("m").image_version is None
    with pytest.raises(UpdateRefused, match="no guest image in /nowhere"):
        manager.update("m", Path("/nowhere"))
    with pytest.raises(UpdateRefused, match="no update that can be undone"):
        manager.undo_update("m")


@pytest.mark.parametrize(
    ("console", "says"),
    [
        ("", ""),
        ("a\n\nb\n", "b"),
        (
            "x\n[    1.6] Kernel panic - not syncing: VFS\n[    1.7]  panic+0x66/0x66\n",
            "Kernel panic - not syncing: VFS",
        ),
        ("wherry: 1\nstore.db was written by a newer Wherry (schema 3)\nwherry: 2\n", "newer Wherry (schema 3)"),
    ],
)
def test_what_a_console_says_of_a_guest_that_came_to_nothing(console: str, says: str) -> None:
    assert telling_line(console).endswith(says)
