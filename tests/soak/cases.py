"""What a machine has to survive."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.dns import AAAA, NameServer, answer_to
from tests.fakes.registries import random_bytes
from tests.harness import REPOSITORY, UnixConnection
from tests.vm.conftest import BootedMachine
from tests.vm.faults import cut_connections, kill_engine, kill_hostagent, kill_qemu, kill_sshd, stop_processors
from tests.vm.traffic import Traffic, assert_nothing_missing, docker, free_port, in_guest, ping, wait_same_time
from vmbackend.errors import StartFailed

MIB = 1 << 20
STOPPED_S = 60


@dataclass(frozen=True)
class Soak:
    machine: BootedMachine
    root: Path
    rounds: int
    resolv_conf: Path

    def docker(self, *arguments: str) -> str:
        return docker(self.machine, *arguments, timeout_s=600)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.machine.manager.engine_host(self.machine.name)}


def faults(soak: Soak) -> None:
    """Everything is killed, cut and stopped in turn while clients use the machine."""
    kinds: dict[str, Callable[[BootedMachine], float]] = {
        f"processors stopped for {STOPPED_S} s": lambda machine: stop_processors(machine, STOPPED_S),
        "connections cut": cut_connections,
        "sshd killed": kill_sshd,
        "engine killed": kill_engine,
        "QEMU killed": kill_qemu,
        "hostagent killed": kill_hostagent,
    }
    for number in range(max(1, soak.rounds // 10)):
        if number:
            soak.machine.manager.restart(soak.machine.name)  # a monitor for us, and a fresh count of restarts
        with Traffic(soak.machine) as traffic:
            for what, fault in kinds.items():
                before = traffic.interruptions()
                seconds = traffic.wait_all_answered(fault(soak.machine))
                told = {name: count - before[name] for name, count in traffic.interruptions().items()}
                print(f"  {what:32} answered after {seconds}, interrupted {told}", flush=True)
                if what != "QEMU killed":
                    assert told["port"] == 0
            assert_nothing_missing(traffic.log(), 2)


def boots(soak: Soak) -> None:
    """Cold boots: containers with a restart policy are back, with their ports and data."""
    port = start_server(soak, "always")
    soak.docker("run", "-d", "--name", "stays-off", "alpine", "sleep", "1d")
    times, ends = [], []
    for _ in range(soak.rounds):
        soak.docker("exec", "server", "sh", "-c", "echo again >>/data/boots")
        ends.append(seconds(lambda: soak.machine.manager.stop(soak.machine.name)))
        times.append(seconds(soak.machine.ensure_running))
        wait_served(port)
        assert soak.docker("ps", "-a", "-f", "name=stays-off", "--format", "{{.State}}") == "exited"
        check_disk(soak)
    assert soak.docker("exec", "server", "cat", "/data/boots").split() == ["again"] * soak.rounds
    show("power-off", ends)
    show("start", times)
    soak.docker("rm", "-fv", "server", "stays-off")


def saves(soak: Soak) -> None:
    """Saved and resumed, with running containers: they go on, with their ports, streams and the right time."""
    port = start_server(soak, "no")
    started = soak.docker("inspect", "-f", "{{.State.StartedAt}}", "server")
    times, ends = [], []
    for _ in range(soak.rounds):
        ends.append(seconds(lambda: print_if(soak.machine.manager.save(soak.machine.name))))
        assert soak.machine.manager.status(soak.machine.name).state == "saved"
        times.append(seconds(soak.machine.ensure_running))
        status = soak.machine.manager.status(soak.machine.name)
        assert status.resumed, status.cold_boot_reason
        wait_served(port)
        assert soak.docker("inspect", "-f", "{{.State.StartedAt}}", "server") == started
        wait_same_time(soak.machine)
    show("save", ends)
    show("resume", times)
    soak.docker("rm", "-fv", "server")


def power(soak: Soak) -> None:
    """The power goes in the middle of a load, a build, log writing and starts: the disk and the store are in order."""
    archive = soak.root / "big.tar"
    context = soak.root / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(
        "FROM alpine\nRUN head -c 30000000 /dev/urandom >/a\nRUN head -c 30000000 /dev/urandom >/b\nRUN sync\n"
    )
    soak.docker("build", "-q", "-t", "big", str(context))
    soak.docker("save", "-o", str(archive), "big")
    soak.docker("rmi", "big")
    soak.docker("builder", "prune", "-af")
    soak.docker("run", "-d", "--name", "kept", "--restart", "always", "-v", "kept:/data", "alpine", "sleep", "1d")
    soak.docker("exec", "kept", "sh", "-c", "echo kept >/data/file; sync")
    works: dict[str, list[str]] = {
        "load": ["docker load -q -i " + str(archive)],
        "build": [f"docker build --no-cache -t built {context}"],
        "logs": ["docker run --rm alpine sh -c 'while :; do echo a line of a log; done'"],
        "starts": ["while docker run --rm alpine true; do :; done"] * 2,
    }
    environment = {**soak.environment(), "DOCKER_BUILDKIT": "0"}
    for number in range(max(4, soak.rounds // 2)):
        what, commands = list(works.items())[number % len(works)]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        workers = [subprocess.Popen(["sh", "-c", command], env=environment, **silent) for command in commands]
        time.sleep(2 + number * 0.7)  # wherever it is by then
        os.kill(soak.machine.qemu().pid, signal.SIGKILL)
        killed_at = time.monotonic()
        for worker in workers:
            worker.wait(200)
        with suppress(StartFailed):  # a hostagent whose QEMU dies too often gives up, until it is asked again
            soak.machine.manager.start(soak.machine.name)
        soak.machine.ensure_running()
        took = time.monotonic() - killed_at
        check_disk(soak)
        assert soak.docker("exec", "kept", "cat", "/data/file") == "kept"
        names = soak.docker("ps", "-a", "--format", "{{.Names}}").split()
        verify(soak)
        print(f"  power lost in {what:8} up after {took:5.1f} s, {len(names)} containers", flush=True)
        soak.docker("container", "prune", "-f")
    soak.docker("rm", "-fv", "kept")
    soak.docker("image", "prune", "-f")


def disk(soak: Soak) -> None:
    """The data disk is full: it is said so, nothing breaks, and with room again all goes on."""
    with Traffic(soak.machine) as traffic:
        soak.docker("run", "-d", "--name", "box", "alpine", "sleep", "1d")
        in_guest(soak.machine, "cd /var/lib/wherry && fallocate -l $(df -k . | awk 'END {print $4}')k fill; "
                 "dd if=/dev/zero of=fill2 bs=64k; dd if=/dev/zero of=fill3 bs=1k; df -k .")  # fmt: skip
        environment = soak.environment()
        for arguments in (
            ["run", "--rm", "alpine", "true"],
            ["exec", "box", "sh", "-c", "dd if=/dev/zero of=/x bs=1k count=1000"],
            ["cp", "/etc/services", "box:/copied"],
            ["volume", "create", "more"],
            ["commit", "box", "committed"],
        ):
            done = subprocess.run(
                ["docker", *arguments], env=environment, capture_output=True, timeout=200, check=False
            )
            said = (done.stdout + done.stderr).decode().strip()
            print(f"  {' '.join(arguments)[:40]:40} {done.returncode} {said[:140]}", flush=True)
            assert done.returncode == 0 or "no space left on device" in said.lower(), said
        assert soak.docker("exec", "box", "echo", "alive") == "alive"
        in_guest(soak.machine, "cd /var/lib/wherry && rm fill fill2 fill3; sync")
        freed_at = time.monotonic()
        print(f"  with room again answered after {traffic.wait_all_answered(freed_at)}", flush=True)
        soak.docker("run", "--rm", "alpine", "true")
        soak.docker("rm", "-f", "box")
    verify(soak)
    check_disk(soak)


def bodies(soak: Soak) -> None:
    """200 clients at once, 100 MB through the socket both ways, half-closed and hijacked streams."""
    began = time.monotonic()
    with ThreadPoolExecutor(200) as clients:
        list(clients.map(lambda _: ping(soak.machine), range(200)))
    print(f"  200 clients at once             {time.monotonic() - began:6.1f} s")
    data = random_bytes(100 * MIB)
    began = time.monotonic()
    command = ["docker", "run", "-i", "--rm", "alpine", "sha256sum"]
    done = subprocess.run(command, input=data, env=soak.environment(), capture_output=True, timeout=900, check=True)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    print(f"  100 MiB to a hijacked stream    {time.monotonic() - began:6.1f} s")
    script = f"head -c {100 * MIB} /dev/urandom >/big; sha256sum /big >/sum"
    soak.docker("run", "--name", "box", "alpine", "sh", "-c", script)
    expected = extract(soak, "sum").split()[0].decode()
    began = time.monotonic()
    assert hashlib.sha256(extract(soak, "big")).hexdigest() == expected
    print(f"  100 MiB from the machine        {time.monotonic() - began:6.1f} s")
    soak.docker("rm", "box")


def events(soak: Soak) -> None:
    """A stream of events that is open for minutes goes on, and ends when its connection is cut: it does not hang."""
    connection = UnixConnection(soak.machine.paths.engine_socket, timeout_s=300)
    with closing(connection):
        connection.request("GET", "/events")
        response = connection.getresponse()
        for _ in range(4):
            time.sleep(30)
            soak.docker("volume", "rm", soak.docker("volume", "create"))
            assert b'"volume"' in response.readline()
            response.readline()
        cut_at = cut_connections(soak.machine)
        rest = response.read()
        print(f"  told of its end after {time.monotonic() - cut_at:.1f} s", flush=True)
        assert time.monotonic() - cut_at < 60, rest
        ping(soak.machine)
        print(f"  the next request was answered after {time.monotonic() - cut_at:.1f} s", flush=True)


def names(soak: Soak) -> None:
    """The guest asks this computer's name server, also after it is another one."""
    before = soak.resolv_conf.read_bytes()
    try:
        for number in (1, 2, 1):
            address = f"127.0.0.{10 + number}"
            with name_server(address, f"192.0.2.{number}"):
                soak.resolv_conf.write_text(f"nameserver {address}\n")
                changed_at = time.monotonic()
                look = ("run", "--rm", "alpine", "sh", "-c", "nslookup some.example || :")
                while f"192.0.2.{number}" not in (said := soak.docker(*look)):
                    assert time.monotonic() - changed_at < 60, said
                print(f"  another name server is asked after {time.monotonic() - changed_at:.1f} s", flush=True)
    finally:
        soak.resolv_conf.write_bytes(before)


CASES: dict[str, Callable[[Soak], None]] = {
    case.__name__: case for case in (faults, boots, saves, power, disk, bodies, events, names)
}


# --- parts


@contextmanager
def name_server(address: str, answer: str) -> Iterator[None]:
    """All names have one address."""
    udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.create_server((address, 53))
    udp.bind((address, 53))
    server = NameServer(
        udp, tcp, lambda data: answer_to(data) if data[-4:-2] == AAAA.to_bytes(2, "big") else answer_to(data, answer)
    )
    try:
        yield
    finally:
        server.close()


def start_server(soak: Soak, restart: str) -> int:
    """A container `server` that says hello on a port of this computer; the port."""
    serve = ["sh", "-c", "while true; do echo hello | nc -l -p 80; done"]
    soak.docker("run", "-d", "--init", "--name", "server", "--restart", restart, "-v", "data:/data", "-p",
                f"127.0.0.1:{free_port()}:80", "alpine", *serve)  # fmt: skip
    port = int(soak.docker("port", "server", "80").rpartition(":")[2])
    wait_served(port)
    return port


def wait_served(port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 30) as stream:
                if stream.recv(100) == b"hello\n":
                    return
        except OSError:
            pass  # not yet
        assert time.monotonic() < deadline, f"port {port} does not answer"
        time.sleep(0.2)


def check_disk(soak: Soak) -> None:
    """The kernel counts the errors it ever met on a file system."""
    assert in_guest(soak.machine, "cat /sys/fs/ext4/vd*/errors_count").strip() == "0"
    assert not re.search("EXT4-fs error|I/O error|corrupt", in_guest(soak.machine, "dmesg"))


def verify(soak: Soak) -> None:
    host = soak.machine.manager.engine_host(soak.machine.name)
    command = [sys.executable, "-m", "app", "--host", host, "images", "verify"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done


def extract(soak: Soak, name: str) -> bytes:
    command = ["docker", "cp", f"box:/{name}", "-"]
    tar = subprocess.run(command, env=soak.environment(), capture_output=True, timeout=900, check=True).stdout
    return subprocess.run(["tar", "-xO"], input=tar, capture_output=True, check=True).stdout


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def print_if(note: str | None) -> None:
    assert note is None, note


def show(what: str, times: list[float]) -> None:
    print(f"  {what:10} median {statistics.median(times):.1f} s, worst {max(times):.1f} s of {len(times)}", flush=True)
