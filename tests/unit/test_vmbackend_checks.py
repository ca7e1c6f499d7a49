"""What a machine's own checks find, and what they say to do."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from vmbackend import Finding, MachineManager, MachineSettings
from vmbackend.machine.checks import examine, remedy_for
from vmbackend.machine.status import MachineStatus
from vmbackend.machine.store import MachineStore

Usage = namedtuple("Usage", "total used free")


def findings(home: Path, settings: MachineSettings, status: MachineStatus | None = None) -> dict[str, Finding]:
    store = MachineStore(home)
    store.save("m", settings)
    found = examine(store.paths("m"), status or MachineStatus("m", "stopped", "unix:///s"))
    return {finding.subject: finding for finding in found}


def test_a_machine_with_everything_missing_is_told_all_of_it(tmp_path: Path) -> None:
    settings = MachineSettings(
        qemu_dir="/nowhere", image_dir="/nowhere", ca_certificates=("/nowhere.pem",), shares=("/nowhere:ro",)
    )
    found = findings(tmp_path, settings)
    assert {name for name, finding in found.items() if finding.verdict == "fail"} == {
        "QEMU",
        "Guest image",
        "Certificates",
    }
    assert "`qemu_dir` names /nowhere" in found["QEMU"].sentence
    assert found["Shares"].remedy == "Make them, or change the list: wherry machine set m shares=..."


def test_slow_and_fast(tmp_path: Path) -> None:
    asked = findings(tmp_path, MachineSettings(accelerator="tcg"))["Acceleration"]
    assert asked.remedy == "Run: wherry machine set m accelerator=auto"
    slow = MachineStatus("m", "running", "unix:///s", accelerator="tcg", accelerator_reason="KVM is not there: no")
    found = findings(tmp_path, MachineSettings(), slow)["Acceleration"]
    assert found.verdict == "warn" and "KVM is not there: no" in found.sentence and "firmware" in found.remedy
    fast = MachineStatus("m", "running", "unix:///s", accelerator="kvm")
    assert findings(tmp_path, MachineSettings(), fast)["Acceleration"].verdict == "ok"


def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free_gib, verdict in ((9, "ok"), (1, "warn"), (0, "fail")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free_gib=free_gib: Usage(0, 0, free_gib << 30))
        assert findings(tmp_path, MachineSettings())["Room on this computer"].verdict == verdict


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("host disk full: /x has 0 MiB left", "Free space"),
        ("QEMU (pid 7) runs, but the hostagent that owned it has died; x", "wherry machine start m"),
        ("The requirement `kernel` was not met within 2 s; x", "accelerator=tcg"),
        ("The requirement `engine` was not met within 2 s; x", "logs --serial m"),
        ("QEMU ended with code 1: Cannot allocate memory; x", "memory=1G"),
        ("Port 80/tcp cannot be offered on 127.0.0.1: nginx (pid 3) uses it; x", "publish another"),
        ("QEMU ended with code 1: x", "logs --qemu m"),
    ],
)
def test_a_reason_has_a_remedy(reason: str, remedy: str, tmp_path: Path) -> None:
    assert remedy in remedy_for("m", reason)
    status = MachineStatus("m", "broken", "unix:///s", (reason,))
    found = findings(tmp_path, MachineSettings(), status)["Machine m"]
    assert found.verdict == "fail" and reason in found.sentence and remedy in found.remedy


def test_a_damaged_disk_and_damaged_settings(tmp_path: Path) -> None:
    manager = MachineManager(tmp_path)
    manager.create("m", MachineSettings())
    paths = MachineStore(tmp_path).paths("m")
    paths.data_disk.write_text("x")
    assert "is not a qcow2 file" in findings(tmp_path, MachineSettings())["Data disk"].sentence
    paths.settings.write_text("{")
    last = manager.examine("m")[-1]
    assert (last.subject, last.verdict) == ("Settings", "fail")
