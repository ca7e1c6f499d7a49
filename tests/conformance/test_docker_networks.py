"""Networks by the docker CLI, and a small project as compose makes one, by docker-py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from docker.types import EndpointConfig, IPAMConfig, IPAMPool

from tests.harness import RunningEngine


@pytest.fixture(autouse=True)
def _no_networks_left(engine: RunningEngine) -> Iterator[None]:
    yield
    for container in engine.get("/containers/json?all=1"):
        engine.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    engine.post("/networks/prune", expect=200)


def ok(engine: RunningEngine, *arguments: str) -> str:
    done = engine.docker(*arguments)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout.decode().strip()


def test_the_network_commands(engine: RunningEngine) -> None:
    id = ok(engine, "network", "create", "--subnet", "10.213.95.0/24", "--label", "a=b", "--ipv6", "front")
    assert ok(engine, "network", "ls", "--filter", "label=a=b", "--format", "{{.ID}} {{.Name}}") == f"{id[:12]} front"
    ok(engine, "network", "create", "--internal", "back")
    run = ("run", "-d", "--name", "web", "--network", "name=front,ip=10.213.95.80,alias=www", "--network", "back")
    ok(engine, *run, "busybox", "sleep", "600")
    networks = json.loads(ok(engine, "inspect", "--format", "{{json .NetworkSettings.Networks}}", "web"))
    assert networks["front"]["IPAddress"] == "10.213.95.80" and networks["back"]["IPAddress"]
    assert "www" in networks["front"]["DNSNames"]
    ok(engine, "run", "-d", "--name", "client", "--network", "front", "busybox", "sleep", "600")
    assert "1 packets received" in ok(engine, "exec", "client", "ping", "-c1", "-W2", "www")
    refused = engine.docker("network", "rm", "front")
    assert refused.returncode == 1 and b"has active endpoints" in refused.stderr
    ok(engine, "network", "disconnect", "front", "client")
    ok(engine, "network", "connect", "--alias", "caller", "back", "client")
    assert "1 packets received" in ok(engine, "exec", "web", "ping", "-c1", "-W2", "caller")
    shown = json.loads(ok(engine, "network", "inspect", "back"))[0]
    assert sorted(one["Name"] for one in shown["Containers"].values()) == ["client", "web"]
    ok(engine, "rm", "-f", "web", "client")
    assert sorted(ok(engine, "network", "prune", "-f").split()[2:]) == ["back", "front"]


def test_a_project_of_two_networks(engine: RunningEngine) -> None:
    """db on one network, proxy on the other, app on both: names by service, as compose sets them."""
    client = docker.DockerClient(base_url=engine.host, version="1.44")
    api = client.api
    try:
        pool = IPAMConfig(pool_configs=[IPAMPool(subnet="10.213.96.0/24", gateway="10.213.96.1")])
        front = client.networks.create("project_front", driver="bridge", labels={"com.docker.compose.project": "p"})
        back = client.networks.create("project_back", ipam=pool, internal=True)

        def service(name: str, *networks: Any, command: list[str]) -> str:
            configs = {network.name: EndpointConfig(api._version, aliases=[name, f"{name}-1"]) for network in networks}
            made = api.create_container(
                "busybox",
                command,
                name=f"project-{name}-1",
                host_config=api.create_host_config(network_mode=networks[0].name),
                networking_config={"EndpointsConfig": configs},
            )
            api.start(made["Id"])
            return str(made["Id"])

        service("db", back, command=["httpd", "-f", "-h", "/etc"])
        app = client.containers.get(service("app", front, back, command=["sleep", "600"]))
        proxy = client.containers.get(service("proxy", front, command=["sleep", "600"]))
        assert app.exec_run(["ping", "-c1", "-W2", "db"]).exit_code == 0
        assert proxy.exec_run(["ping", "-c1", "-W2", "app"]).exit_code == 0
        assert proxy.exec_run(["ping", "-c1", "-W2", "db"]).exit_code != 0
        assert b"default" in app.exec_run(["ip", "route"]).output
        back.connect(proxy, aliases=["entry"], ipv4_address="10.213.96.50")
        assert proxy.exec_run(["ping", "-c1", "-W2", "db"]).exit_code == 0
        proxy.restart(timeout=0)
        proxy.reload()
        assert proxy.attrs["NetworkSettings"]["Networks"]["project_back"]["IPAddress"] == "10.213.96.50"
        back.disconnect(proxy)
        back.reload()
        assert sorted(one.name for one in back.containers) == ["project-app-1", "project-db-1"]
        for container in client.containers.list(all=True):
            container.remove(force=True)
        for network in client.networks.list(names=["project_"]):
            network.remove()
        assert client.networks.list(names=["project_"]) == []
    finally:
        client.close()


def test_an_old_client_gets_one_network_at_create(engine: RunningEngine) -> None:
    body = {
        "Image": "busybox",
        "NetworkingConfig": {"EndpointsConfig": {"bridge": {}, "other": {}}},
    }
    status, message = engine.message("POST", "/v1.43/containers/create", body)
    assert status == 400 and "Container cannot be connected to network endpoints: bridge, other" in message
