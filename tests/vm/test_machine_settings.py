"""A machine with nothing as usual: its settings reach the guest, it grows, two starts at once make one."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.certificates import make_certificates
from tests.fakes.images import busybox_rootfs, tar_of
from tests.fakes.proxy import Proxy, proxy_to
from tests.fakes.registries import Push, docker_registry
from tests.vm.conftest import BootedMachine, assert_no_processes
from tests.vm.test_machine_docker_cli import docker
from vmbackend import MachineManager, MachineSettings
from vmbackend.machine.paths import MachinePaths

pytestmark = pytest.mark.timeout(900)

REGISTRY = "registry.example:5000"  # resolves nowhere: only the proxy knows where it is


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.crt, and with a certificate of the registry's by this authority."""
    place = tmp_path_factory.mktemp("certificates")
    make_certificates(place, f"DNS:{REGISTRY.partition(':')[0]}")
    return place


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[Proxy]:
    """On this computer's loopback; leads to a registry with a certificate of `authority` and the image team/app:1."""
    root = tmp_path_factory.mktemp("registry")
    with docker_registry(root) as address:
        Push(address, "team/app").image("1", [tar_of(busybox_rootfs())], {"Cmd": ["echo", "pulled"]})
    tls = f"  tls: {{certificate: {authority}/cert.pem, key: {authority}/key.pem}}\n"
    with docker_registry(root, tls) as address, proxy_to(address) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def unusual(tmp_path_factory: pytest.TempPathFactory, authority: Path, proxy: Proxy) -> Iterator[BootedMachine]:
    """Started by two processes at the same moment, in a folder with a name of many letters and a long path."""
    proxy_url = proxy.address.replace("://", "://user:secret@")
    home = tmp_path_factory.mktemp("machines") / "ä folder, with 中文" / ("long" * 20)
    home.mkdir(parents=True)
    manager = MachineManager(home)
    manager.create(
        "odd",
        MachineSettings(
            cpus=2,
            memory_mib=768,
            swap_mib=32,
            disk_gib=2,
            subnet="192.168.77.0/24",
            dns=("192.0.2.1", "192.0.2.2"),
            http_proxy=proxy_url,
            https_proxy=proxy_url,
            no_proxy="a.example",
            ca_certificates=(str(authority / "ca.crt"),),
            shares=(),
        ),
    )
    start = [sys.executable, "-m", "vmbackend", "start", "--home", str(home), "odd"]
    starts = [subprocess.Popen(start, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outcomes = [(process.communicate()[1], process.returncode) for process in starts]
    yield BootedMachine(manager, "odd", MachinePaths(home / "odd"))
    manager.stop("odd", force=True)
    assert_no_processes(home)
    assert outcomes == [("", 0)] * 2


def inside(machine: BootedMachine, command: str) -> tuple[str, int]:
    """What a command in the guest says, and its exit code."""
    with machine.manager.open_session(machine.name, command) as session:
        session.end_input()
        output = b""
        while chunk := session.read():
            output += chunk
        return output.decode(), session.exit_code()


def test_the_guest_follows_the_settings(unusual: BootedMachine, proxy: Proxy) -> None:
    assert unusual.manager.status("odd").state == "running"
    seen, code = inside(
        unusual,
        "ip -4 -o address show eth0; cat /etc/resolv.conf;"
        "tr '\\0' '\\n' </proc/$(pgrep -o -f 'runtime daemon')/environ | grep -i proxy; exit 7",
    )
    assert code == 7
    for line in ("192.168.77.15/24", "nameserver 192.0.2.1\nnameserver 192.0.2.2\n"):
        assert line in seen
    assert (
        f"HTTP_PROXY=http://user:secret@192.168.77.2:{proxy.address.rpartition(':')[2]}\n" in seen
        and "NO_PROXY=a.example\n" in seen
    )
    swap = "for i in $(seq 100); do grep /.swap /proc/swaps && break; sleep 1; done"
    assert inside(unusual, swap)[0].split()[2] == "32764"


def test_a_pull_goes_through_the_proxy_and_trusts_the_authority(unusual: BootedMachine, proxy: Proxy) -> None:
    done = docker(unusual, "run", "--rm", f"{REGISTRY}/team/app:1")
    assert done.stdout == b"pulled\n", done
    assert set(proxy.seen) == {("CONNECT", REGISTRY)}
    assert proxy.logins == {"Basic " + base64.b64encode(b"user:secret").decode()}


def test_a_proxys_password_is_on_no_command_line(unusual: BootedMachine) -> None:
    command = Path(f"/proc/{unusual.qemu().pid}/cmdline").read_bytes()
    assert b"guest-settings" in command and b"secret" not in command
    assert unusual.paths.guest_settings.stat().st_mode & 0o077 == 0


def test_the_disk_grows_while_the_machine_runs(unusual: BootedMachine) -> None:
    before = int(inside(unusual, "df -k /var/lib/wherry | tail -n 1")[0].split()[1])
    settings = unusual.manager.settings("odd")
    changed = MachineSettings(**{**vars(settings), "disk_gib": 3, "cpus": 1})
    assert unusual.manager.set("odd", changed) == ("cpus",)
    after = int(inside(unusual, "df -k /var/lib/wherry | tail -n 1")[0].split()[1])
    assert after > before + 900_000


def test_a_terminal_has_its_size_and_type(unusual: BootedMachine) -> None:
    with unusual.manager.open_session("odd", "stty size; echo $TERM; test -t 0", (33, 77), "vt220") as session:
        shown = b""
        while chunk := session.read():
            shown += chunk
        assert shown.endswith(b"33 77\r\nvt220\r\n") and session.exit_code() == 0
