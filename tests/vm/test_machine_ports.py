"""Published ports on this computer, and its own services in containers: the real way, through QEMU."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.vm.conftest import BootedMachine
from tests.vm.test_machine_docker_cli import docker
from tests.vm.test_machine_engine import Docker
from vmbackend import host

pytestmark = pytest.mark.timeout(300)

ANSWERS = "nc -lu -p 81 -e cat & exec nc -lk -p 80 -e sh -c 'echo hi; exec cat'"


@pytest.fixture
def cli(machine: BootedMachine) -> Iterator[Docker]:
    def run(*arguments: str) -> str:
        done = docker(machine, *arguments)
        assert done.returncode == 0, done
        return done.stdout.decode().strip()

    yield run
    if left := run("ps", "-aq").split():
        run("rm", "-f", *left)


def free_port() -> int:
    with host.listen_tcp("127.0.0.1", 0) as probe:
        return int(probe.getsockname()[1])


def greeted_by(address: str, port: int) -> socket.socket:
    """A connection that the container has greeted; its listener may not be up yet."""
    deadline = time.monotonic() + 60
    while True:
        stream = socket.create_connection((address, port), 30)
        try:
            if stream.recv(10) == b"hi\n":
                return stream
        except ConnectionError:
            pass
        stream.close()
        assert time.monotonic() < deadline


def test_a_port_is_there_when_run_returns_on_every_address_and_gone_after(machine: BootedMachine, cli: Docker) -> None:
    port, other = free_port(), free_port()
    cli("run", "-d", "--name", "web", "-p", f"{port}:80", "-p", f"{port}:81/udp", "-p", f"127.0.0.2:{other}:80",
        "-p", f"[::1]:{other}:80", "alpine", "sh", "-c", ANSWERS)  # fmt: skip
    offered = {(each["protocol"], each["address"], each["port"]) for each in machine.manager.forwards(machine.name)}
    assert offered == {
        *((protocol, address, port) for protocol in ("tcp", "udp") for address in ("127.0.0.1", "::1")),
        ("tcp", "127.0.0.2", other),
        ("tcp", "::1", other),
    }
    shown = {f"127.0.0.1:{port}", f"127.0.0.2:{other}", f"[::1]:{port}", f"[::1]:{other}"}
    assert set(cli("port", "web", "80").split()) == shown
    streams = [greeted_by(*each) for each in (("127.0.0.1", port), ("::1", port), ("127.0.0.2", other), ("::1", other))]
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(60)
        datagrams.sendto(b"ping" * 300, ("127.0.0.1", port))
        assert datagrams.recv(2000) == b"ping" * 300
    cli("rm", "-f", "web")
    assert machine.manager.forwards(machine.name) == []
    for stream in streams:
        stream.settimeout(60)
        try:
            assert stream.recv(1) == b""  # the flow ends, it does not hang
        except ConnectionError:
            pass
        stream.close()
    for address in ("127.0.0.1", "::1"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), 30)


def test_a_port_somebody_has_fails_the_start_with_the_owners_name(machine: BootedMachine, cli: Docker) -> None:
    with host.listen_tcp("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        refused = docker(machine, "run", "--name", "web", "-p", f"{port}:80", "alpine", "true")
        assert refused.returncode == 125
        said = refused.stderr.decode()
        assert f"Bind for 127.0.0.1:{port} failed: port is already allocated" in said
        assert f"(pid {os.getpid()}) uses it" in said
        assert cli("inspect", "-f", "{{.State.Status}}", "web") == "created"
        cli("run", "-d", "--name", "next", "-p", f"127.0.0.1:{port}-{port + 20}:80", "alpine", "sleep", "900")
        assert f"127.0.0.1:{port}" not in cli("port", "next", "80").split()
    assert machine.manager.status(machine.name).state == "running"
    cli("start", "web")


def test_a_container_reaches_what_listens_on_this_computers_loopback(cli: Docker) -> None:
    with host.listen_tcp("127.0.0.1", 0) as service:

        def serve() -> None:
            for _ in range(2):
                stream, _ = service.accept()
                with stream:
                    stream.sendall(b"from the desktop\n")

        server = threading.Thread(target=serve)
        server.start()
        port = service.getsockname()[1]
        asked = f"for name in host.docker.internal mine; do nc -w 30 $name {port} </dev/null; done"
        said = cli("run", "--rm", "--add-host", "mine:host-gateway", "alpine", "sh", "-c", asked)
        assert said.splitlines() == ["from the desktop"] * 2
        server.join(30)
