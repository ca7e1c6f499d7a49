"""What goes wrong with a machine, each fault as a function that returns the moment it was done."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.vm.conftest import BootedMachine
from tests.vm.test_machine_lifecycle import wait_until_gone
from tests.vm.traffic import in_guest

FAKE_CLOCK = Path(__file__).parents[1] / "fakes/host_clock"


def kill_hostagent(machine: BootedMachine) -> float:
    """And start the machine again, as whoever uses it next does."""
    hostagent, qemu = machine.hostagent(), machine.qemu()
    os.kill(hostagent.pid, signal.SIGKILL)
    at = time.monotonic()
    wait_until_gone(hostagent)
    assert machine.manager.start(machine.name).state == "running"
    assert machine.qemu().pid == qemu.pid
    return at


def kill_qemu(machine: BootedMachine) -> float:
    """The hostagent starts it again by itself."""
    in_guest(machine, "sync")
    os.kill(machine.qemu().pid, signal.SIGKILL)
    return time.monotonic()


def kill_sshd(machine: BootedMachine) -> float:
    """With all its sessions, also the one that carries this command."""
    in_guest(machine, "(sleep 1; pkill -KILL sshd) >/dev/null 2>&1 &")
    time.sleep(1)
    return time.monotonic()


def kill_engine(machine: BootedMachine) -> float:
    in_guest(machine, "pkill -KILL -f 'runtime [d]aemon'")
    return time.monotonic()


def cut_connections(machine: BootedMachine) -> float:
    """All TCP connections between the hostagent and QEMU, both ends at once, as a firewall or a VPN does."""
    port = machine.qemu().details["ssh_port"]
    subprocess.run(["ss", "-K", "-t", "-n", f"( sport = :{port} or dport = :{port} )"], check=True, capture_output=True)
    return time.monotonic()


def stop_processors(machine: BootedMachine, seconds: float) -> float:
    """As in a computer that sleeps: the hostagent did not ask for it. Not for a machine whose hostagent was killed."""
    with socket.socket(socket.AF_UNIX) as monitor, monitor.makefile("rw") as lines:
        monitor.settimeout(30)
        monitor.connect(os.fspath(machine.paths.rescue_socket))
        lines.readline()  # the greeting

        def execute(command: str) -> None:
            print(json.dumps({"execute": command}), file=lines, flush=True)
            while "return" not in (answer := json.loads(lines.readline())):
                assert "error" not in answer, answer

        execute("qmp_capabilities")
        execute("stop")
        time.sleep(seconds)
        execute("cont")
    return time.monotonic()
