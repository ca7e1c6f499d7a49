"""Boot the built guest image with plain QEMU, and look at it from the outside: console, SSH, power-off."""

from __future__ import annotations

import json
import platform
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

IMAGE = Path(__file__).parents[2] / "build/guest" / platform.machine()
BOOT_TIMEOUT_S = 90
"""Emulated, on a busy computer; usually it takes a tenth of that."""

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="plain QEMU is driven here as on x86_64 only"),
]


def contract() -> dict[str, Any]:
    if not (IMAGE / "contract.json").exists():
        pytest.fail("these tests need the guest image: make guest")
    document: dict[str, Any] = json.loads((IMAGE / "contract.json").read_text())
    return document


class Keys:
    """A host key and a user key, as files that QEMU hands in."""

    def __init__(self, folder: Path) -> None:
        self.user_file, self.host_file = folder / "user", folder / "host"
        self.authorized_file = folder / "user.pub"
        for path in (self.user_file, self.host_file):
            key = Ed25519PrivateKey.generate()
            path.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.OpenSSH,
                    serialization.NoEncryption(),
                )
            )
        self.user = paramiko.Ed25519Key(filename=str(self.user_file))
        self.host = paramiko.Ed25519Key(filename=str(self.host_file))
        self.authorized_file.write_text(f"{self.user.get_name()} {self.user.get_base64()}\n")


@dataclass
class Guest:
    """One running QEMU: its console as lines, its monitor, its SSH server."""

    process: subprocess.Popen[bytes]
    ssh_port: int
    keys: Keys
    monitor_path: Path
    console: list[str] = field(default_factory=list)
    _rest: bytes = b""

    def wait_for(self, wanted: str) -> str:
        """Read the console up to the first new line that contains ``wanted``; fail with what was read."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                self.console.append(line.decode(errors="replace").rstrip())
                if wanted in self.console[-1]:
                    return self.console[-1]
                continue
            ready, _, _ = select.select([self.process.stdout], [], [], deadline - time.monotonic())
            chunk = self.process.stdout.read1() if ready else b""
            if not chunk:
                pytest.fail(f"the console never said {wanted!r}:\n" + "\n".join(self.console))
            self._rest += chunk

    def run(self, command: str) -> str:
        """Run a shell command in the guest over SSH; its standard output, stripped."""
        with paramiko.SSHClient() as client:
            client.get_host_keys().add(f"[127.0.0.1]:{self.ssh_port}", "ssh-ed25519", self.keys.host)
            client.connect(
                "127.0.0.1",
                self.ssh_port,
                "root",
                pkey=self.keys.user,
                allow_agent=False,
                look_for_keys=False,
                timeout=BOOT_TIMEOUT_S,
                banner_timeout=BOOT_TIMEOUT_S,
            )
            _stdin, stdout, stderr = client.exec_command(command, timeout=BOOT_TIMEOUT_S)
            output, errors = stdout.read().decode().strip(), stderr.read().decode()
            assert stdout.channel.recv_exit_status() == 0, (command, output, errors)
        return output

    def press_power_button(self) -> None:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.monitor_path))
            with monitor.makefile("rw") as stream:
                stream.readline()
                for command in ("qmp_capabilities", "system_powerdown"):
                    print(json.dumps({"execute": command}), file=stream, flush=True)
                    stream.readline()

    def wait_until_off(self) -> int:
        """Wait for QEMU to end by itself; its exit code."""
        return self.process.wait(BOOT_TIMEOUT_S)


def new_disk(path: Path, size: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, size], check=True)
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


Start = Callable[[Path], Guest]


@pytest.fixture(scope="module")
def start(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a guest on a data disk; what still runs at the end is killed."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.fail("these tests need QEMU: install qemu-system-x86")
    guests: list[Guest] = []

    def start_guest(data_disk: Path) -> Guest:
        monitor_path = tmp_path_factory.mktemp("qemu") / "qmp"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ssh_port = probe.getsockname()[1]
        command = qemu_command(keys, data_disk, ssh_port, monitor_path)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        guests.append(Guest(process, ssh_port, keys, monitor_path))
        return guests[-1]

    yield start_guest
    for guest in guests:
        guest.process.kill()
        guest.process.wait()
        assert guest.process.stdout is not None
        guest.process.stdout.close()


def qemu_command(keys: Keys, data_disk: Path, ssh_port: int, monitor_path: Path) -> list[str]:
    """q35 has clocks of its own, so that nothing is measured on the host; RDRAND seeds the guest's random numbers."""
    facts = contract()
    path_of = {purpose: IMAGE / entry["name"] for purpose, entry in facts["files"].items()}
    fw_cfg = facts["fw_cfg"]
    return [
        *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "Nehalem,+rdrand,-spec-ctrl"),
        *("-smp", "1", "-m", "1024", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(path_of["kernel"]), "-initrd", str(path_of["initramfs"])),
        *("-append", f"{facts['cmdline']} mitigations=off console=ttyS0"),
        *("-drive", f"if=none,id=system,file={path_of['system']},format=raw,readonly=on"),
        *("-device", f"virtio-blk-pci,drive=system,serial={facts['system_serial']}"),
        *("-drive", f"if=none,id=data,file={data_disk},discard=unmap"),
        *("-device", f"virtio-blk-pci,drive=data,serial={facts['data_serial']}"),
        *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{ssh_port}-:{facts['ssh']['port']}"),
        *("-device", "virtio-net-pci,netdev=net"),
        *("-fw_cfg", f"name={fw_cfg['authorized_keys']},file={keys.authorized_file}"),
        *("-fw_cfg", f"name={fw_cfg['host_key']},file={keys.host_file}"),
        *("-fw_cfg", f"name={fw_cfg['hostname']},string=tested"),
        *("-fw_cfg", f"name={fw_cfg['time']},string={int(time.time())}"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-qmp", f"unix:{monitor_path},server=on,wait=off"),
    ]


@pytest.fixture(scope="module")
def guest(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """One guest, ready, on a disk that was blank."""
    machine = start(new_disk(tmp_path_factory.mktemp("disk") / "data.qcow2", "4G"))
    assert machine.wait_for(contract()["ready"]) == contract()["ready"]
    return machine


def test_the_engine_answers_on_its_socket(guest: Guest) -> None:
    socket_path = contract()["engine_socket"]
    request = r"printf 'GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'"
    assert guest.run(f"{request} | nc local:{socket_path}").endswith("OK")


def test_the_user_finds_an_alpine_with_the_right_clock_and_name(guest: Guest) -> None:
    name, release, clock = guest.run("hostname; . /etc/os-release; echo $ID; date +%s").splitlines()
    assert (name, release) == ("tested", "alpine")
    assert abs(int(clock) - time.time()) < 5


def test_every_cgroup_controller_a_limit_needs_is_on(guest: Guest) -> None:
    controllers = set(guest.run("cat /sys/fs/cgroup/cgroup.subtree_control").split())
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= controllers


def test_container_file_systems_and_networks_work(guest: Guest) -> None:
    guest.run(
        "set -e; mkdir -p /var/lib/wherry/t; cd /var/lib/wherry/t; mkdir l u w m;"
        "mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay m; touch m/file; umount m; test -e u/file;"
        "ip link add wherryt0 type bridge; ip link add wherryt1 type veth peer name wherryt2;"
        "ip link set wherryt1 master wherryt0; ip link del wherryt1; ip link del wherryt0;"
        "nft add table ip t; nft add chain ip t post '{ type nat hook postrouting priority 100; }';"
        "nft add rule ip t post ip saddr 10.9.0.0/16 masquerade; nft delete table ip t; rm -r /var/lib/wherry/t"
    )


def test_a_root_can_be_pivoted_away(guest: Guest) -> None:
    """What the launcher does for each container; in a chroot it would fail or could be left again."""
    guest.run(
        "unshare -m sh -ec 'mkdir -p /tmp/new; mount -t tmpfs new /tmp/new; cd /tmp/new; mkdir old; pivot_root . old'"
    )


def test_the_engines_libraries_load(guest: Guest) -> None:
    guest.run(
        "cd /usr/lib/wherry/python; python3 -W error -c 'import ctypes, sqlite3, ssl, h11, zstandard, requests;"
        'ctypes.CDLL("libseccomp.so.2"); ctypes.CDLL("libnftables.so.1"); ssl.create_default_context()'
        "'; tini --version; sshfs --version"
    )


def test_a_dead_engine_comes_back(guest: Guest) -> None:
    guest.run("pkill -KILL -f 'runtime [d]aemon'")
    assert guest.wait_for(contract()["ready"]) == contract()["ready"]


def test_data_outlives_a_power_off_and_nothing_else_does(start: Start, tmp_path: Path) -> None:
    disk = new_disk(tmp_path / "data.qcow2", "4G")
    first = start(disk)
    first.wait_for(contract()["ready"])
    first.run("echo kept >/var/lib/wherry/kept; echo lost >/root/lost")
    first.run(contract()["poweroff"])
    assert first.wait_until_off() == 0

    subprocess.run(["qemu-img", "resize", "-q", disk, "6G"], check=True)
    second = start(disk)
    second.wait_for(contract()["ready"])
    assert not any("recover" in line or "repair" in line for line in second.console)
    assert second.run("cat /var/lib/wherry/kept; ls /root") == "kept"
    if not any("data disk enlarged" in line for line in second.console):
        second.wait_for("data disk enlarged")
    second.press_power_button()
    assert second.wait_until_off() == 0


def test_a_disk_with_something_else_on_it_is_left_untouched(start: Start, tmp_path: Path) -> None:
    disk = tmp_path / "data.raw"
    content = b"somebody's data ".ljust(1 << 20, b"\1")
    disk.write_bytes(content)
    guest = start(disk)
    guest.wait_for("kept in memory and lost at power-off")
    assert any("left as it is" in line for line in guest.console)
    guest.process.kill()
    guest.process.wait()
    assert disk.read_bytes() == content
