"""docker-py, the library under many Python tools, on the engine's socket."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound

from tests.harness import RunningEngine


@pytest.fixture
def client(engine: RunningEngine) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine.host)
    yield client
    client.close()


def test_run(client: docker.DockerClient) -> None:
    assert client.containers.run("busybox", "echo hi", remove=True) == b"hi\n"


def test_a_failing_container(client: docker.DockerClient) -> None:
    with pytest.raises(ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo no >&2; exit 2"], remove=True)
    assert caught.value.exit_status == 2
    assert caught.value.stderr == b"no\n"


def test_exec_and_logs(client: docker.DockerClient) -> None:
    container = client.containers.run("busybox", ["sh", "-c", "echo up; sleep 60"], detach=True)
    code, output = container.exec_run(["sh", "-c", "echo there; exit 5"])
    assert (code, output) == (5, b"there\n")
    assert b"up" in container.logs()
    container.stop(timeout=0)
    container.reload()
    assert container.status == "exited"
    container.remove()


def test_errors_have_their_kinds(client: docker.DockerClient) -> None:
    with pytest.raises(ImageNotFound):
        client.images.get("nosuch")
    with pytest.raises(APIError) as caught:
        client.containers.create("busybox", "true", mem_limit="1k")
    assert caught.value.status_code == 400


def test_events(client: docker.DockerClient) -> None:
    events = client.events(decode=True, filters={"type": "container"})
    client.containers.run("busybox", "true", remove=True)
    seen = []
    for event in events:
        seen.append(event["Action"])
        if event["Action"] == "destroy":
            break
    events.close()
    assert seen[0] == "create" and "die" in seen


def test_attaching_to_what_was_said(client: docker.DockerClient) -> None:
    """docker-py loses what arrives together with the answer's head."""
    container = client.containers.run("busybox", "echo hello", detach=True)
    container.wait()
    for _ in range(10):
        assert client.api.attach(container.id, stream=False, logs=True) == b"hello\n"


def test_a_name_server_for_one_who_left_and_came_back(client: docker.DockerClient) -> None:
    network = client.networks.create("tide")
    try:
        container = client.containers.run("busybox", "sleep 60", name="gull", network="tide", detach=True)
        network.disconnect(container)
        network.connect(container, aliases=["heron"])
        code, output = container.exec_run("nslookup heron 127.0.0.11")
        assert code == 0, output
        container.remove(force=True)
    finally:
        network.remove()


def test_an_exec_started_without_its_terminal_is_framed(client: docker.DockerClient) -> None:
    """What Tty says at the start counts for the stream, as in moby: the client reads frames unless it asked not to."""
    container = client.containers.run("busybox", "sleep 60", detach=True)
    exec = client.api.exec_create(container.id, ["echo", "hello"], tty=True)
    assert client.api.exec_start(exec, tty=False) == b"hello\r\n"
    exec = client.api.exec_create(container.id, ["echo", "hello"], tty=True)
    assert client.api.exec_start(exec, tty=True) == b"hello\r\n"
