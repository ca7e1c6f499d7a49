"""Names on user-defined networks, with the docker CLI and the C library's own way of asking (busybox)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import NewEngine
from tests.fakes.dns import NameServer, answer_to
from tests.harness import RunningEngine


def docker(engine: RunningEngine, *arguments: str) -> str:
    done = engine.docker(*arguments)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout.decode().strip()


def inspect(engine: RunningEngine, kind: str, name: str, template: str) -> str:
    return docker(engine, kind, "inspect", "--format", template, name)


def address(engine: RunningEngine, container: str, network: str = "names") -> str:
    return inspect(engine, "container", container, f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}')


@pytest.fixture
def network(engine: RunningEngine) -> Iterator[str]:
    docker(engine, "network", "create", "names")
    yield "names"
    for id in docker(engine, "ps", "-aq").split():
        docker(engine, "rm", "-f", id)
    docker(engine, "network", "rm", "names")


def start(engine: RunningEngine, name: str, *options: str, network: str = "names") -> str:
    """Its `--dns`, if none is given, is where nobody listens, so that an unknown name is an answer at once."""
    given = options if "--dns" in options else ("--dns", "127.0.0.1", *options)
    given = ("--stop-timeout", "0", *given)
    return docker(engine, "run", "-d", "--name", name, "--network", network, *given, "busybox", "sleep", "600")


def look_up(engine: RunningEngine, asking: str, name: str, *options: str) -> set[str]:
    """The addresses or names answered to one busybox nslookup; empty for none."""
    done = engine.docker("exec", asking, "nslookup", *options, name)
    answers = done.stdout.decode().partition("\n\n")[2]
    words = [line.split() for line in answers.splitlines()]
    return {line[-1] for line in words if line and (line[0].startswith("Address") or "name" in line)}


def reaches(engine: RunningEngine, asking: str, name: str) -> bool:
    return engine.docker("exec", asking, "ping", "-c1", "-W5", name).returncode == 0


def test_containers_call_each_other_by_name_alias_and_id(engine: RunningEngine, network: str) -> None:
    web = start(engine, "web", "--network-alias", "site", "--hostname", "lighter")
    start(engine, "web2", "--network-alias", "site")
    start(engine, "client", "--link", "web:only-here")
    ip, ip2 = address(engine, "web"), address(engine, "web2")
    for name in ("web", "WEB", web[:12], "lighter", "web.names", "only-here"):
        assert look_up(engine, "client", name, "-type=a") == {ip}, name
        assert reaches(engine, "client", name)
    assert look_up(engine, "client", "site", "-type=a") == {ip, ip2}
    assert look_up(engine, "web", "only-here", "-type=a") == set()
    assert look_up(engine, "client", ip) == {"web.names"}
    resolv_conf = docker(engine, "exec", "client", "cat", "/etc/resolv.conf")
    assert "nameserver 127.0.0.11" in resolv_conf
    assert "ndots:0" in resolv_conf
    gateway = inspect(engine, "network", "names", "{{(index .IPAM.Config 0).Gateway}}")
    for name in ("host.docker.internal", "gateway.docker.internal"):
        assert look_up(engine, "client", name, "-type=a") == {gateway}


def test_names_follow_containers_and_networks(engine: RunningEngine, network: str) -> None:
    start(engine, "client")
    start(engine, "web")
    assert reaches(engine, "client", "web")
    docker(engine, "rm", "-f", "web")
    assert not reaches(engine, "client", "web")
    start(engine, "web", network="bridge")  # known to nobody there
    assert not reaches(engine, "client", "web")
    docker(engine, "network", "connect", "--alias", "late", "names", "web")
    assert reaches(engine, "client", "web")
    assert reaches(engine, "client", "late")
    assert reaches(engine, "web", "client"), "a running container gets the name server with its first such network"
    docker(engine, "rename", "web", "web-two")
    assert reaches(engine, "client", "web-two")
    assert not reaches(engine, "client", "web")
    docker(engine, "network", "disconnect", "names", "web-two")
    assert not reaches(engine, "client", "late")


def test_names_stay_within_their_network(engine: RunningEngine, network: str) -> None:
    docker(engine, "network", "create", "--internal", "inner")
    try:
        start(engine, "web")
        start(engine, "hidden", network="inner")
        start(engine, "both")
        docker(engine, "network", "connect", "inner", "both")
        assert not reaches(engine, "web", "hidden")
        assert reaches(engine, "both", "hidden")
        assert reaches(engine, "hidden", "both")
        assert look_up(engine, "both", "hidden.inner", "-type=a") == {address(engine, "hidden", "inner")}
        refused = engine.docker("exec", "hidden", "nslookup", "-type=a", "example.org")
        assert b"SERVFAIL" in refused.stdout + refused.stderr
    finally:
        for name in ("hidden", "both"):
            docker(engine, "rm", "-f", name)
        docker(engine, "network", "rm", "inner")


def test_other_names_are_asked_of_the_containers_servers(engine: RunningEngine, network: str) -> None:
    gateway = inspect(engine, "network", "names", "{{(index .IPAM.Config 0).Gateway}}")
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((gateway, 53))
    server = NameServer(udp, socket.create_server((gateway, 53)), lambda data: answer_to(data, "192.0.2.1"))
    try:
        start(engine, "client", "--dns", gateway)
        assert look_up(engine, "client", "example.org", "-type=a") == {"192.0.2.1"}
        assert look_up(engine, "client", "client", "-type=a") == {address(engine, "client")}
    finally:
        server.close()


def test_a_container_may_be_a_name_server_itself(engine: RunningEngine, network: str) -> None:
    """The name server inside has taken no port that matters: one may bind 0.0.0.0:53."""
    command = ("httpd", "-f", "-p", "53", "-h", "/etc")
    docker(engine, "run", "-d", "--name", "dns", "--network", "names", "--hostname", "own", "busybox", *command)
    start(engine, "client")
    done = engine.docker("exec", "client", "wget", "-qO-", "http://dns:53/hostname")
    assert done.stdout == b"own\n", done.stderr
    assert reaches(engine, "dns", "client")


def test_names_outlive_the_engine(new_engine: NewEngine) -> None:
    engine = new_engine()
    docker(engine, "network", "create", "names")
    for name in ("web", "client"):
        start(engine, name, "--network-alias", f"{name}-too")
    for end in (engine.stop, engine.kill):
        end()
        engine.restart()
        assert reaches(engine, "client", "web")
        assert reaches(engine, "web", "client-too")
    docker(engine, "rm", "-f", "web")
    start(engine, "web3")
    assert reaches(engine, "client", "web3")


def test_a_container_with_names_leaves_no_namespace_behind(engine: RunningEngine, network: str) -> None:
    """The engine holds sockets within; they must go when the container does."""

    start(engine, "first")
    namespace = os.readlink(f"/proc/{inspect(engine, 'container', 'first', '{{.State.Pid}}')}/ns/net")
    assert namespace in held_by(engine)
    docker(engine, "rm", "-f", "first")
    assert namespace not in held_by(engine)


def held_by(engine: RunningEngine) -> set[str]:
    directory = Path(f"/proc/{engine.process.pid}/fd")
    return {os.readlink(fd) for fd in directory.iterdir() if fd.is_symlink()}
