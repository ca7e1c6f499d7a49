"""A machine as its users see it: start, serve, break, recover, stop. All tests share one guest."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import docker
import pytest

from tests.vm.conftest import BootedMachine, assert_no_processes
from tests.vm.traffic import ping
from vmbackend import MachineError, MachineManager, MachineSettings
from vmbackend.errors import StartFailed
from vmbackend.hostagent.client import HostagentClient
from vmbackend.machine.store import MachineStore, ProcessRecord
from vmbackend.ssh.connection import GuestConnection
from vmbackend.ssh.keys import load_keys

# A boot takes seconds on a quiet computer, and minutes on a very busy one.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def engine(machine: BootedMachine) -> Iterator[docker.DockerClient]:
    with closing(docker.DockerClient(base_url=machine.manager.engine_host(machine.name), timeout=60)) as client:
        yield client


def wait_until_changed(machine: BootedMachine, seconds: float, wanted: object) -> None:
    """Ask for the status, which looks each time, until `wanted(status)`."""
    deadline = time.monotonic() + seconds
    while not wanted(status := machine.manager.status(machine.name)):  # type: ignore[operator]
        assert time.monotonic() < deadline, status
        time.sleep(0.2)  # asking without a pause would take the processor that the guest needs


def wait_until_gone(process: ProcessRecord) -> None:
    """A killed process with many threads takes a moment to be gone."""
    deadline = time.monotonic() + 10
    while process.is_alive():
        assert time.monotonic() < deadline


def guest_command(machine: BootedMachine, command: str) -> str:
    """Run a command in the guest, as nobody but the hostagent and these tests can."""
    port = machine.qemu().details["ssh_port"]
    connection = GuestConnection.connect(port, "root", load_keys(machine.paths), 15, lambda: None)
    try:
        return connection.run(command, 15).stdout.decode()
    finally:
        connection.close()


def test_what_a_running_machine_tells(machine: BootedMachine) -> None:
    status = machine.manager.status(machine.name)
    assert status.state == "running" and status.reasons == ()
    assert status.pid == machine.qemu().pid
    assert status.accelerator in ("kvm", "tcg") and status.accelerator_reason
    assert (status.cpus, status.memory_mib) == (2, 1024)
    assert machine.manager.list() == [status]


def test_the_engine_answers_on_the_private_socket(machine: BootedMachine, engine: docker.DockerClient) -> None:
    assert engine.ping()
    assert machine.paths.engine_socket.stat().st_mode & 0o777 == 0o600
    assert machine.paths.control_socket.stat().st_mode & 0o777 == 0o600


def test_starting_what_runs_changes_nothing(machine: BootedMachine) -> None:
    before = machine.qemu()
    assert machine.manager.start(machine.name).state == "running"
    assert machine.qemu() == before


def test_a_second_hostagent_refuses(machine: BootedMachine) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "vmbackend.hostagent", "--machine", str(machine.paths.directory)],
        capture_output=True,
        timeout=30,
    )
    assert outcome.returncode == 1
    assert "has a hostagent already" in json.loads(outcome.stdout)["error"]
    assert machine.manager.status(machine.name).state == "running"


def test_the_control_socket_wants_its_token(machine: BootedMachine) -> None:
    client = HostagentClient.find(machine.paths)
    assert client is not None
    client.record.details["token"] = "guess"  # type: ignore[index]
    with pytest.raises(MachineError, match="wrong token"):
        client.request("status", 5)


def test_200_clients_at_once(machine: BootedMachine) -> None:
    with ThreadPoolExecutor(200) as clients:
        list(clients.map(lambda _: ping(machine), range(200)))


def test_a_paused_guest_is_seen_and_comes_back_with_the_right_time(machine: BootedMachine) -> None:
    """SIGSTOP stands for a computer that sleeps: all of QEMU stands still. A date of 2001 stands for what it misses."""
    set_date = guest_command(machine, "date -u -s @1000000000; date +%s")
    assert abs(int(set_date.split()[-1]) - 1_000_000_000) < 10
    os.kill(machine.qemu().pid, signal.SIGSTOP)
    try:
        status = machine.manager.status(machine.name)
        assert status.state == "degraded" and status.reasons
    finally:
        os.kill(machine.qemu().pid, signal.SIGCONT)
    wait_until_changed(machine, 30, lambda status: status.state == "running")
    deadline = time.monotonic() + 20
    while abs(int(guest_command(machine, "date +%s")) - time.time()) > 2:
        assert time.monotonic() < deadline


def kill_hostagent(machine: BootedMachine) -> ProcessRecord:
    """Returns the QEMU that is left."""
    hostagent, qemu = machine.hostagent(), machine.qemu()
    os.kill(hostagent.pid, signal.SIGKILL)
    wait_until_gone(hostagent)
    wait_until_changed(machine, 30, lambda status: status.state == "broken")
    (reason,) = machine.manager.status(machine.name).reasons
    assert f"QEMU (pid {qemu.pid}) runs, but the hostagent that owned it has died" in reason
    return qemu


def test_a_killed_hostagents_machine_without_a_monitor_is_replaced(machine: BootedMachine) -> None:
    qemu = kill_hostagent(machine)
    machine.paths.rescue_socket.unlink()
    assert machine.manager.start(machine.name).state == "running"
    assert not qemu.is_alive()
    assert "powered off cleanly" in machine.paths.hostagent_log.read_text()


def test_a_killed_hostagents_machine_can_be_stopped(machine: BootedMachine) -> None:
    qemu = kill_hostagent(machine)
    machine.manager.stop(machine.name)
    assert not qemu.is_alive()
    assert machine.manager.status(machine.name).state == "stopped"


def test_stop_leaves_nothing_but_the_machines_files(machine: BootedMachine) -> None:
    machine.manager.stop(machine.name)
    assert machine.manager.status(machine.name).state == "stopped"
    assert "Power down" in machine.paths.console_log.read_text()
    earlier_boots = {f"console.{age}.log" for age in (1, 2, 3)}
    held = {"held.state", "held.json"}  # of an emulated guest
    assert {path.name for path in machine.paths.directory.iterdir()} - earlier_boots - held == {
        *("settings.json", "data.qcow2", "client_key", "authorized_keys", "guest_host_key", "hostagent.lock"),
        *("hostagent.log", "qemu.log", "console.log", "host-shares.json", "image.json", "images"),
    }
    assert_no_processes(machine.paths.directory)


def test_a_start_goes_on_from_where_the_guest_was_held(machine: BootedMachine, engine: docker.DockerClient) -> None:
    """After the stop above: without booting, with its data, and with a clock and randomness of its own."""
    if not machine.paths.held_state.exists():
        pytest.skip("nothing is held: an accelerator boots faster, or the guest image is an older one")
    before = engine.containers.create("alpine", "true")
    machine.manager.stop(machine.name)
    machine.ensure_running()
    console = machine.paths.console_log.read_text()
    assert "data disk mounted" in console and "wherry: held" not in console and "] boot" not in console
    with closing(docker.DockerClient(base_url=machine.manager.engine_host(machine.name), timeout=60)) as client:
        after = client.containers.create("alpine", "true")
        assert after.id != before.id
        assert {before.id, after.id} <= {container.id for container in client.containers.list(all=True)}
        for id in (before.id, after.id):
            client.api.remove_container(id)
    with machine.manager.open_session(machine.name, "date +%s") as session:
        assert abs(int(session.read()) - time.time()) < 10


def test_data_survives_a_restart(machine: BootedMachine) -> None:
    host_address = machine.manager.engine_host(machine.name)
    with closing(docker.DockerClient(base_url=host_address, timeout=60)) as client:
        client.images.get("alpine").tag("kept", "yes")
    machine.manager.stop(machine.name)
    machine.ensure_running()
    with closing(docker.DockerClient(base_url=host_address, timeout=60)) as client:
        assert client.images.get("kept:yes")


def test_settings_that_cannot_work_are_explained(machine_home: BootedMachine) -> None:
    manager: MachineManager = machine_home.manager
    store = MachineStore(machine_home.paths.directory.parent)
    for settings, says in (
        (MachineSettings(disk_gib=8, qemu_dir="/nowhere"), "`qemu_dir` names /nowhere"),
        (MachineSettings(disk_gib=8, image_dir="/nowhere"), "`image_dir` names /nowhere"),
        (MachineSettings(disk_gib=8, memory_mib=10**9), "QEMU ended with code 1"),
    ):
        with pytest.raises(StartFailed, match=says):
            manager.start("other", settings)
        status = manager.status("other")
        assert status.state == "broken" and says in status.reasons[0]
        manager.stop("other")
        assert manager.status("other").state == "stopped"
    disk = store.paths("other").data_disk
    disk.write_bytes(b"not a disk")
    with pytest.raises(StartFailed, match="is not a qcow2 file any more"):
        manager.start("other", MachineSettings(disk_gib=8))
    manager.stop("other")
    assert disk.read_bytes() == b"not a disk"
