"""A machine that is saved, paused, idle, or goes back to a snapshot. All tests share the guest of the others."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import docker
import pytest

from tests.vm.conftest import BootedMachine
from tests.vm.test_machine_lifecycle import wait_until_changed
from vmbackend.ssh.connection import GuestConnection
from vmbackend.ssh.keys import load_keys

pytestmark = pytest.mark.timeout(900)

COUNT = ["sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.5; done"]


def guest_command(machine: BootedMachine, command: str) -> str:
    """What it prints; with time for a guest that was just read in and translates all of its code anew."""
    port = machine.qemu().details["ssh_port"]
    connection = GuestConnection.connect(port, "root", load_keys(machine.paths), 60, lambda: None)
    try:
        return connection.run(command, 120).stdout.decode()
    finally:
        connection.close()


@contextmanager
def engine_of(machine: BootedMachine) -> Iterator[docker.DockerClient]:
    with closing(docker.DockerClient(base_url=machine.manager.engine_host(machine.name), timeout=120)) as client:
        yield client


@pytest.fixture
def counter(machine: BootedMachine) -> Iterator[Callable[[], int]]:
    """A running container that counts; called, how far it is."""
    with engine_of(machine) as engine:
        engine.containers.run("alpine", COUNT, name="counter", detach=True)

    def count() -> int:
        with engine_of(machine) as engine:
            lines = engine.containers.get("counter").logs(tail=1).split()
        return int(lines[-1]) if lines else 0

    deadline = time.monotonic() + 60
    while not count():
        assert time.monotonic() < deadline
    yield count
    machine.ensure_running()
    with engine_of(machine) as engine:
        engine.containers.get("counter").remove(force=True)


def test_a_saved_machine_goes_on_three_times(machine: BootedMachine, counter: Callable[[], int]) -> None:
    for _ in range(3):
        before, qemu = counter(), machine.qemu()
        assert machine.manager.save(machine.name) is None
        assert not qemu.is_alive()
        assert machine.manager.status(machine.name).state == "saved"
        status = machine.manager.start(machine.name)
        assert (status.state, status.resumed, status.cold_boot_reason) == ("running", True, None)
        assert not machine.paths.saved_record.exists() and not machine.paths.saved_state.exists()
        deadline = time.monotonic() + 60
        while counter() <= before:
            assert time.monotonic() < deadline, "the container stands still"
    deadline = time.monotonic() + 60
    while abs(int(guest_command(machine, "date +%s")) - time.time()) > 2:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("damage", ["a changed disk", "half a state"])
def test_a_state_that_does_not_fit_is_not_used_and_says_why(machine: BootedMachine, damage: str) -> None:
    manager, paths = machine.manager, machine.paths
    assert manager.save(machine.name) is None
    if damage == "a changed disk":
        os.utime(paths.data_disk)
        says = "the machine's disk was changed since it was saved"
    else:
        os.truncate(paths.saved_state, 1_000_000)
        says = "QEMU ended with code 1"
    status = manager.start(machine.name)
    assert status.state == "running" and not status.resumed
    assert f"could not go on and was started anew: {says}" in str(status.cold_boot_reason)
    assert not paths.saved_record.exists() and not paths.saved_state.exists()


def test_qemu_killed_while_it_saves_loses_nothing_that_was_synced(machine: BootedMachine) -> None:
    folder = "/var/lib/wherry"
    writing = f"(while true; do date >>{folder}/written; done) >/dev/null 2>&1 &"
    guest_command(machine, f"echo kept >{folder}/kept; sync; {writing}")
    qemu = machine.qemu()
    notes: list[str | None] = []
    saving = threading.Thread(target=lambda: notes.append(machine.manager.save(machine.name)))
    saving.start()
    draft = machine.paths.saved_state.with_name("saved.state.new")
    deadline = time.monotonic() + 60
    while not draft.exists() and saving.is_alive():
        assert time.monotonic() < deadline
    os.kill(qemu.pid, signal.SIGKILL)
    saving.join()
    assert notes[0] is not None and "was powered off and not saved: QEMU was killed by signal 9" in notes[0]
    assert not draft.exists() and not machine.paths.saved_record.exists()
    assert machine.manager.start(machine.name).state == "running"
    assert guest_command(machine, f"cat {folder}/kept; rm {folder}/kept {folder}/written") == "kept\n"
    assert guest_command(machine, "cat /sys/fs/ext4/vd*/errors_count") == "0\n"


def test_a_paused_machine_says_so_and_goes_on_with_the_right_time(
    machine: BootedMachine, counter: Callable[[], int]
) -> None:
    machine.manager.pause(machine.name)
    status = machine.manager.status(machine.name)
    assert status.state == "paused" and "wherry machine resume" in status.reasons[0]
    with pytest.raises(docker.errors.DockerException, match="It was paused"), engine_of(machine) as engine:
        engine.containers.list()
    before = time.monotonic()
    time.sleep(3)  # the time that the guest misses
    machine.manager.resume(machine.name)
    assert machine.manager.status(machine.name).state == "running"
    deadline = before + 60
    while abs(int(guest_command(machine, "date +%s")) - time.time()) > 1.5:
        assert time.monotonic() < deadline
    machine.manager.resume(machine.name)  # changes nothing


def test_a_machine_nobody_uses_rests_and_wakes_for_a_client(machine: BootedMachine) -> None:
    settings = machine.manager.settings(machine.name)
    machine.manager.set(machine.name, replace(settings, idle_pause_s=1))
    try:
        wait_until_changed(machine, 120, lambda status: status.state == "idle")
        assert machine.manager.status(machine.name).state == "idle", "asking for the status is no use"
        assert machine.manager.usage(machine.name).guest_memory_used_bytes is None
        machine.manager.set(machine.name, settings)
        with engine_of(machine) as engine:
            assert engine.ping()
        assert machine.manager.status(machine.name).state == "running"
    finally:
        machine.manager.set(machine.name, settings)


def test_deleted_data_leaves_the_hosts_disk(machine: BootedMachine) -> None:
    guest_command(machine, "head -c 20000000 /dev/urandom >/tmp/noise")
    guest_command(machine, "for i in $(seq 15); do cat /tmp/noise; done >/var/lib/wherry/big; rm /tmp/noise; sync")
    full = machine.manager.usage(machine.name)
    assert full.host_disk_bytes is not None and full.host_disk_bytes > 300_000_000
    assert full.guest_disk_used_bytes is not None and full.guest_disk_used_bytes > 300_000_000
    guest_command(machine, "rm /var/lib/wherry/big; sync")
    deadline = time.monotonic() + 60
    while (machine.manager.usage(machine.name).host_disk_bytes or 0) > full.host_disk_bytes - 250_000_000:
        assert time.monotonic() < deadline
        guest_command(machine, "sync; sleep 1")


def test_a_snapshot_brings_back_what_was_lost(machine: BootedMachine) -> None:
    manager, name = machine.manager, machine.name
    with engine_of(machine) as engine:
        engine.images.get("alpine").tag("before")
    manager.take_snapshot(name, "s1")
    with engine_of(machine) as engine:
        engine.images.remove("before")
    status = manager.restore_snapshot(name, "s1")
    assert status is not None and status.state == "running"
    with engine_of(machine) as engine:
        assert engine.images.get("before")
        engine.images.remove("before")
    manager.remove_snapshot(name, "s1")
    assert manager.snapshots(name) == []
