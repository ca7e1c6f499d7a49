"""A machine that is given an image which cannot start goes back by itself, with its data."""

import hashlib
import json
import shutil
from pathlib import Path

import docker
import pytest

from tests.vm.conftest import BootedMachine
from tests.vm.test_machine_resume import engine_of
from vmbackend.errors import UpdateFailed
from vmbackend.images.guest_image import image_files
from vmbackend.machine.image_change import offered_image

pytestmark = pytest.mark.timeout(900)


def broken_image(machine: BootedMachine, directory: Path) -> Path:
    """The machine's own, with an initramfs that is none: its kernel panics."""
    good = offered_image(machine.paths)
    directory.mkdir()
    for path in image_files(good):
        shutil.copyfile(path, directory / path.name)
    (directory / good.initramfs.name).write_bytes(b"no archive")
    contract = json.loads((good.directory / "contract.json").read_text())
    digest = hashlib.sha256(b"no archive").hexdigest()
    contract["files"]["initramfs"].update(sha256=digest, size_bytes=len(b"no archive"))
    (directory / "contract.json").write_text(json.dumps({**contract, "version": "99.0"}))
    return directory


def test_a_machine_goes_back_from_an_image_that_panics(machine: BootedMachine, tmp_path: Path) -> None:
    manager, name = machine.manager, machine.name
    bad = broken_image(machine, tmp_path / "bad")
    with engine_of(machine) as engine:
        engine.volumes.create("kept")
        engine.images.get("alpine").tag("kept")
        engine.containers.create("alpine", "true", name="kept")
    before = manager.status(name)
    phases: list[str] = []
    with pytest.raises(UpdateFailed, match=r"runs its old guest image again.*99\.0 .*Kernel panic"):
        manager.update(name, bad, on_phase=phases.append)
    assert "new guest image" in phases and "old guest image" in phases
    status = manager.status(name)
    assert (status.state, status.image_digest) == ("running", before.image_digest)
    assert "99.0" in str(status.update_note) and "Kernel panic" in str(status.update_note)
    assert manager.snapshots(name) == []
    assert "Kernel panic" in machine.paths.hostagent_log.read_text()
    finding = next(found for found in manager.examine(name) if found.subject == "Guest image")
    assert finding.verdict == "warn" and "Kernel panic" in finding.sentence
    with engine_of(machine) as engine:
        engine.containers.get("kept").remove()
        engine.volumes.get("kept").remove()
        engine.images.remove("kept")
        with pytest.raises(docker.errors.ImageNotFound):
            engine.images.get("kept")
