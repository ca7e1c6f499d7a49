"""testcontainers-python, which finds ports, waits for logs and executes commands."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest

from tests.harness import RunningEngine

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def environment(engine: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ryuk, the image that cleans up after a killed test, is on a registry; the engine is looked at instead."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    testcontainers = pytest.importorskip("testcontainers.core.config")
    monkeypatch.setattr(testcontainers.testcontainers_config, "ryuk_disabled", True)
    yield
    assert engine.get("/containers/json?all=1") == []


@pytest.mark.usefixtures("environment")
def test_a_web_server() -> None:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    command = ["sh", "-c", "echo ready; exec httpd -f -h /etc"]
    with DockerContainer("busybox").with_command(command).with_exposed_ports(80).with_env("A", "b") as container:
        wait_for_logs(container, "ready", timeout=10)
        address = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(80)}/hostname"
        with urllib.request.urlopen(address, timeout=5) as answer:
            assert len(answer.read()) == 13
        code, output = container.exec(["sh", "-c", "echo $A"])
        assert (code, output) == (0, b"b\n")
        out, _ = container.get_logs()
        assert b"ready" in out


@pytest.mark.usefixtures("environment")
def test_two_on_a_network(engine: RunningEngine) -> None:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network

    with Network() as network:
        server = DockerContainer("busybox").with_command("httpd -f -h /etc").with_network(network)
        with server.with_network_aliases("server"):
            client = DockerContainer("busybox").with_command("sleep 60").with_network(network)
            with client:
                code, output = client.exec(["wget", "-q", "-O", "-", "http://server/hostname"])
                assert code == 0 and len(output) == 13
    assert {found["Name"] for found in engine.get("/networks")} == {"bridge", "host", "none"}
