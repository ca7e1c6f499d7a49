"""Published ports with the docker CLI: ranges, protocols, addresses, and what is said when one is taken."""

from __future__ import annotations

import http.client
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.linux.namespaces import CLONE_NEWNET, enter_path
from tests.harness import RunningEngine

HTTPD = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")


def docker(engine: RunningEngine, *arguments: str) -> str:
    done = engine.docker(*arguments)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout.decode().strip()


def web(engine: RunningEngine, *options: str, name: str = "web") -> str:
    return docker(engine, "run", "-d", "--name", name, "--hostname", name, *options, *HTTPD)


def fetch(host: str, port: int) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/hostname")
        return connection.getresponse().read().decode().strip()
    finally:
        connection.close()


def free_ports(count: int) -> int:
    """The first of so many in a row."""
    for start in range(20000, 30000, count):
        try:
            for port in range(start, start + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
            return start
        except OSError:
            continue
    raise AssertionError("no free ports")


def test_both_versions_of_localhost_and_a_range(engine: RunningEngine) -> None:
    start = free_ports(3)
    for number in range(3):
        web(engine, "-p", f"{start}-{start + 2}:80", name=f"web{number}")
        port = start + number
        assert docker(engine, "port", f"web{number}") == f"80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::]:{port}"
        for host in ("127.0.0.1", "::1"):
            assert fetch(host, port) == f"web{number}"
    refused = engine.docker("run", "--name", "late", "-p", f"{start}-{start + 2}:80", "busybox", "true")
    assert refused.returncode == 125
    said = refused.stderr.decode()
    assert "driver failed programming external connectivity on endpoint late (" in said
    assert f"): Bind for 0.0.0.0:{start + 2} failed: port is already allocated" in said


def test_a_range_of_several_ports_an_address_and_all_exposed(engine: RunningEngine) -> None:
    start = free_ports(3)
    web(engine, "-p", f"127.0.0.1:{start}-{start + 2}:79-81", "--expose", "90", "-P", "-p", "90/udp")
    shown = docker(engine, "port", "web").splitlines()
    assert [f"{79 + number}/tcp -> 127.0.0.1:{start + number}" for number in range(3)] == [
        line for line in shown if "127.0.0.1" in line
    ]
    assert fetch("127.0.0.1", start + 1) == "web"
    chosen = [line for line in shown if line.startswith("90/")]
    assert [line.rpartition(":")[0] for line in chosen] == [
        f"90/{protocol} -> {address}" for protocol in ("tcp", "udp") for address in ("0.0.0.0", "[::]")
    ]
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert all(first <= int(line.rpartition(":")[2]) <= last for line in chosen)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_udp_is_answered_from_where_it_was_asked(engine: RunningEngine, host: str) -> None:
    port = free_ports(1)
    docker(engine, "run", "-d", "--name", "echo", "-p", f"{port}:53/udp", "busybox", "sleep", "60")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with udp_socket_within(engine, "echo", 53) as server, socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((host, port))  # takes answers from there only
        for word in (b"ahoy", b"again"):
            client.send(word)
            asked, peer = server.recvfrom(16)
            server.sendto(asked.upper(), peer)
            assert client.recv(16) == word.upper()


def udp_socket_within(engine: RunningEngine, container: str, port: int) -> socket.socket:
    """A container's server: busybox has none."""
    pid = docker(engine, "inspect", "--format", "{{.State.Pid}}", container)

    def make() -> socket.socket:
        enter_path(f"/proc/{pid}/ns/net", CLONE_NEWNET)
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", port))
        made.settimeout(5)
        return made

    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(make).result()


def test_sctp_is_published_and_shown(engine: RunningEngine) -> None:
    port = free_ports(1)
    web(engine, "-p", f"{port}:80/sctp")
    assert docker(engine, "port", "web") == f"80/sctp -> 0.0.0.0:{port}"
    refused = engine.docker("run", "-p", f"{port}:80/sctp", "busybox", "true")
    assert f"Bind for 0.0.0.0:{port} failed: port is already allocated" in refused.stderr.decode()


def test_a_container_reaches_its_own_published_port_by_the_host(engine: RunningEngine) -> None:
    port = free_ports(1)
    web(engine, "-p", f"{port}:80")
    url = f"http://host.docker.internal:{port}/hostname"
    assert docker(engine, "exec", "web", "wget", "-qO-", url) == "web"
    assert docker(engine, "run", "--rm", "busybox", "wget", "-qO-", url) == "web"


def test_a_restarted_container_keeps_its_port(engine: RunningEngine) -> None:
    port = free_ports(1)
    web(engine, "-p", f"{port}:80", "--stop-timeout", "0")
    assert fetch("127.0.0.1", port) == "web"
    docker(engine, "restart", "web")
    for _ in range(50):
        try:
            assert fetch("127.0.0.1", port) == "web"
            return
        except ConnectionRefusedError:  # httpd is not up yet
            continue
    raise AssertionError("no answer")
