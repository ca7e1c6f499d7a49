"""Legacy links, and the names containers have for their host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.engine.test_containers import create, run
from tests.harness import RunningEngine


@pytest.fixture
def database(engine: RunningEngine) -> str:
    """A running container named db with three ports in a row and another."""
    exposed = {port: {} for port in ("5432/tcp", "5433/tcp", "5434/tcp", "53/udp")}
    id = create(engine, "sleep", "60", name="db", ExposedPorts=exposed, Env=["SECRET=tide", "HOME=/no"])
    engine.post(f"/containers/{id}/start")
    return id


def address(engine: RunningEngine, id: str) -> str:
    return str(engine.get(f"/containers/{id}/json")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])


def test_a_link_gives_names_and_variables(engine: RunningEngine, database: str) -> None:
    ip = address(engine, database)
    code, out, _ = run(
        engine,
        "sh",
        "-c",
        "cat /etc/hosts; env; ping -c1 -W5 data-base >/dev/null",
        host={"Links": ["db:data-base"]},
        Env=["DATA_BASE_PORT_53_UDP_PROTO=mine"],
    )
    assert code == 0
    lines = out.splitlines()
    assert f"{ip}\tdata-base {database[:12]} db" in lines
    for line in (
        f"DATA_BASE_PORT=udp://{ip}:53",
        f"DATA_BASE_PORT_5432_TCP=tcp://{ip}:5432",
        f"DATA_BASE_PORT_5433_TCP_ADDR={ip}",
        "DATA_BASE_PORT_5434_TCP_PORT=5434",
        "DATA_BASE_PORT_53_UDP_PROTO=mine",
        f"DATA_BASE_PORT_5432_TCP_START=tcp://{ip}:5432",
        f"DATA_BASE_PORT_5432_TCP_END=tcp://{ip}:5434",
        "DATA_BASE_PORT_5432_TCP_PORT_END=5434",
        "DATA_BASE_ENV_SECRET=tide",
    ):
        assert line in lines
    assert not any(line.startswith("DATA_BASE_ENV_HOME") for line in lines)
    assert any(line.startswith("DATA_BASE_NAME=/") and line.endswith("/data-base") for line in lines)


def test_inspect_and_exec_show_links(engine: RunningEngine, database: str) -> None:
    id = create(engine, "sleep", "60", name="web", host={"Links": ["db"]})
    engine.post(f"/containers/{id}/start")
    assert engine.get(f"/containers/{id}/json")["HostConfig"]["Links"] == ["/db:/web/db"]
    assert engine.get(f"/containers/{database}/json")["HostConfig"]["Links"] is None
    done = engine.docker("exec", "web", "sh", "-c", "echo $DB_NAME")
    assert done.stdout == b"/web/db\n"


def test_a_linked_container_that_comes_back_elsewhere_is_found(engine: RunningEngine, database: str) -> None:
    web = create(engine, "sleep", "60", name="web", host={"Links": ["db:db"]})
    engine.post(f"/containers/{web}/start")
    before = address(engine, database)
    engine.post(f"/containers/{database}/kill")
    engine.post(f"/containers/{database}/wait", expect=200)
    squatter = create(engine, "sleep", "60")
    engine.post(f"/containers/{squatter}/start")
    engine.post(f"/containers/{database}/start")
    assert address(engine, database) != before
    assert engine.docker("exec", "web", "ping", "-c1", "-W5", "db").returncode == 0


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"Links": ["nobody:x"]}, "could not get container for nobody: No such container: nobody"),
        ({"Links": ["a:b:c"]}, "bad format for links: a:b:c"),
        ({"Links": [""]}, "empty string specified for links"),
        (
            {"Links": ["db"], "NetworkMode": "host"},
            "conflicting options: host type networking can't be used with links",
        ),
    ],
)
def test_bad_links_are_refused(engine: RunningEngine, host: dict[str, Any], message: str) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": host}
    status, said = engine.message("POST", "/containers/create", body)
    assert status == 400
    assert message in said


def test_a_link_to_what_does_not_run(engine: RunningEngine) -> None:
    create(engine, "sleep", "60", name="db")
    web = create(engine, "true", name="web", host={"Links": ["db:db"]})
    status, message = engine.message("POST", f"/containers/{web}/start")
    assert status == 500
    assert message == "Cannot link to a non running container: /db AS /web/db"
    engine.request("DELETE", "/containers/db")
    engine.post(f"/containers/{web}/start")  # with the container the link is gone


def test_links_outlive_the_engine(new_engine: NewEngine) -> None:
    engine = new_engine()
    db = create(engine, "sleep", "60", name="db")
    web = create(engine, "true", name="web", host={"Links": ["db"]})
    engine.post(f"/containers/{db}/start")
    engine.kill()
    engine.restart()
    assert engine.get(f"/containers/{web}/json")["HostConfig"]["Links"] == ["/db:/web/db"]
    engine.post(f"/containers/{web}/start")


# --- the host


def test_the_host_has_a_name_on_the_default_bridge(engine: RunningEngine) -> None:
    gateway = engine.get("/networks/bridge")["IPAM"]["Config"][0]["Gateway"]
    _, out, _ = run(engine, "cat", "/etc/hosts")
    assert f"{gateway}\thost.docker.internal\n{gateway}\tgateway.docker.internal\n" in out
    _, out, _ = run(engine, "cat", "/etc/hosts", host={"ExtraHosts": ["host.docker.internal:192.0.2.1"]})
    assert out.index("192.0.2.1\thost.docker.internal") < out.index(f"{gateway}\thost.docker.internal")
    for mode in ("host", "none"):
        _, out, _ = run(engine, "cat", "/etc/hosts", host={"NetworkMode": mode, "ExtraHosts": ["me:host-gateway"]})
        assert f"{gateway}\tme\n" in out
        assert "docker.internal" not in out


def test_the_host_may_be_another_computer(new_engine: NewEngine, tmp_path: Path) -> None:
    engine = new_engine("vm", "--host-gateway-ip", "192.0.2.7")
    _, out, _ = run(engine, "cat", "/etc/hosts", host={"ExtraHosts": ["me:host-gateway"]})
    assert "192.0.2.7\thost.docker.internal\n" in out
    assert "192.0.2.7\tme\n" in out
