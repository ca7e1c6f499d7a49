"""What the machine tests share: an SSH server on this computer, and one booted machine."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vmbackend import MachineManager, MachineSettings
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.store import ProcessRecord
from vmbackend.ssh.keys import MachineKeys, load_keys, make_missing_keys


def processes_using(directory: Path) -> list[str]:
    """The command lines that name a folder: nothing may be left of a machine."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(directory) in command and process.name != str(os.getpid()):
                found.append(command)
    return found


def assert_no_processes(directory: Path) -> None:
    """A hostagent answers that its machine is off and then ends, a moment later."""
    deadline = time.monotonic() + 10
    while left := processes_using(directory):
        assert time.monotonic() < deadline, left


@dataclass(frozen=True)
class SshServer:
    port: int
    keys: MachineKeys
    process: subprocess.Popen[str]


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[SshServer]:
    """Debian's sshd on a loopback port, with keys of its own; it stands in for the guest's."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.fail("these tests need sshd: install openssh-server")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    paths = MachinePaths(tmp_path / "m")
    paths.directory.mkdir()
    make_missing_keys(paths)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": paths.guest_host_key,
        "AuthorizedKeysFile": paths.authorized_keys,
        "PermitRootLogin": "prohibit-password",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "MaxStartups": "100",
        "LogLevel": "ERROR",
    }
    arguments = [f"-o{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [program, "-D", "-e", "-f", os.devnull, "-oLogLevel=VERBOSE", *arguments[:-1]],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "Server listening" in line:
            break
    yield SshServer(port, load_keys(paths), process)
    process.terminate()
    process.wait()
    process.stderr.close()


SETTINGS = MachineSettings(cpus=2, memory_mib=1024, disk_gib=8)


@dataclass(frozen=True)
class BootedMachine:
    manager: MachineManager
    name: str
    paths: MachinePaths

    def qemu(self) -> ProcessRecord:
        record = ProcessRecord.read(self.paths.qemu_record)
        assert record is not None
        return record

    def hostagent(self) -> ProcessRecord:
        record = ProcessRecord.read(self.paths.hostagent_record)
        assert record is not None
        return record

    def ensure_running(self) -> None:
        if not self.paths.settings.exists():
            self.manager.create(self.name, SETTINGS)
        if self.manager.status(self.name).state != "running":
            status = self.manager.start(self.name)
            deadline = time.monotonic() + 600
            while status.state != "running":  # a QEMU that was just killed is about to be replaced
                assert time.monotonic() < deadline, status
                time.sleep(0.2)
                status = self.manager.status(self.name)


@pytest.fixture(scope="session")
def machine_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedMachine]:
    home = tmp_path_factory.mktemp("machines")
    manager = MachineManager(home)
    yield BootedMachine(manager, "test", MachinePaths(home / "test"))
    for status in manager.list():
        manager.stop(status.name, force=True)
    assert_no_processes(home)


@pytest.fixture
def machine(machine_home: BootedMachine) -> BootedMachine:
    """A running machine, the same for all tests; one that a test took down is started again."""
    machine_home.ensure_running()
    return machine_home
